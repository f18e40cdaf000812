"""The spine: a request becomes an answer. Which room knows the answer is all that is decided here."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TypeVar, assert_never

from proxy.answer import Answer, Upload, moved
from proxy.core.messages import FileTarget, JsonTarget, ListTarget, Moved, NotHere, PageTarget, RawTarget, Request
from proxy.core.patterns import Selection
from proxy.errors import Refused, UpstreamFailed
from proxy.explanations import Explanations
from proxy.files import Files
from proxy.fills import Fills
from proxy.flights import Waiting
from proxy.foretold import Explanation
from proxy.jsonapi import JsonApi
from proxy.kept import Removed
from proxy.listed import Listed
from proxy.lists import Lists
from proxy.lookups import Lookups
from proxy.metadata import Metadata
from proxy.mounts import Mounts
from proxy.pages import Pages
from proxy.refreshes import Refreshed, Refreshes
from proxy.store import Store

T = TypeVar("T")


class Gateway:
    """Answers requests; raises ProxyError for what cannot be answered."""

    def __init__(
        self,
        lookups: Lookups,
        pages: Pages,
        json_api: JsonApi,
        lists: Lists,
        files: Files,
        metadata: Metadata,
        mounts: Mounts,
        fills: Fills,
        refreshes: Refreshes,
        explanations: Explanations,
        store: Store,
    ) -> None:
        self._lookups = lookups
        self._pages = pages
        self._json_api = json_api
        self._lists = lists
        self._files = files
        self._metadata = metadata
        self._mounts = mounts
        self._fills = fills
        self._refreshes = refreshes
        self._explanations = explanations
        self._store = store

    async def answer(self, request: Request, upload: Upload | None = None) -> Answer:
        """The answer to one request; the caller sends it and closes it. Only mounts look at an upload."""
        began = time.monotonic()
        try:
            return await self._answer(request, upload)
        except UpstreamFailed as failed:
            # All but a moment of it: nothing else takes long.
            failed.upstream_seconds = time.monotonic() - began
            raise

    async def _answer(self, request: Request, upload: Upload | None) -> Answer:
        match request.target:
            case PageTarget() as target:
                return await self._pages.answer(request, target)
            case FileTarget(metadata=True) as target:
                return await self._metadata.answer(request, target)
            case FileTarget() as target:
                return await self._files.answer(request, target)
            case JsonTarget() as target:
                return await self._json_api.answer(request, target)
            case ListTarget() as target:
                return await self._lists.answer(request, target)
            case RawTarget() as target:
                return await self._mounts.answer(request, target, upload)
            case Moved(location):
                return moved(location)
            case NotHere(because):
                raise Refused(because, status=404)
            case _:
                assert_never(request.target)

    def waiting(self) -> Mapping[str, Waiting]:
        """Who waits for what is on its way: bodies of files ("fill"), pages, documents, metadata."""
        return {
            "fill": self._fills.waiting,
            "page": self._lookups.waiting,
            "json": self._json_api.waiting,
            "metadata": self._metadata.waiting,
            "raw": self._mounts.waiting,
        }

    async def explain(self, request: Request) -> Explanation:
        """What would become of a request; nobody upstream is asked, nothing changes."""
        return await self._explanations.explain(request)

    async def refresh(self, index: str | None, project: str) -> Refreshed:
        """Look at a project's page now (see ``Refreshes``); without an index at that of the default one."""
        return await self._refreshes.refresh(index, project)

    def kept(self, selection: Selection, write: Callable[[Listed], T]) -> AsyncGenerator[T, None]:
        """What is kept of a selection, batch by batch, as it is written on another thread. Raises StoreFailed."""
        return self._store.inventory.written(selection, None, write)

    async def remove(self, selection: Selection) -> Removed:
        """Remove what is kept of a selection, and what is remembered. Whoever is being served is served to the end;
        of what is on its way nothing is kept, and who asks after this has ended gets nothing that was asked for before.
        Raises StoreFailed."""
        try:
            return await self._store.inventory.remove(selection)
        finally:
            # After the rows, in the same breath as the fence comes down: what was read from a row that is gone now
            # would be remembered again.
            self._forget(selection)

    def _forget(self, selection: Selection) -> None:
        for room in (self._lookups, self._pages, self._json_api, self._mounts, self._fills, self._refreshes):
            room.forget(selection)

    async def close(self) -> None:
        """Cancel every fetch under way; what waits for one is told so."""
        await self._refreshes.close()
        await self._lookups.close()
        await self._pages.close()
        await self._json_api.close()
        await self._lists.close()
        await self._metadata.close()
        await self._mounts.close()
        await self._files.close()
        await self._fills.close()
