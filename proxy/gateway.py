"""The spine: a request becomes an answer. Which room knows the answer is all that is decided here."""

from __future__ import annotations

import time
from typing import assert_never

from proxy.answer import Answer
from proxy.core.messages import CacheStatus, FileTarget, JsonTarget, ListTarget, Moved, NotHere, PageTarget, Request
from proxy.errors import Refused, UpstreamFailed
from proxy.files import Files
from proxy.fills import Fills
from proxy.jsonapi import JsonApi
from proxy.lists import Lists
from proxy.lookups import Lookups
from proxy.metadata import Metadata
from proxy.pages import Pages


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
        fills: Fills,
    ) -> None:
        self._lookups = lookups
        self._pages = pages
        self._json_api = json_api
        self._lists = lists
        self._files = files
        self._metadata = metadata
        self._fills = fills

    async def answer(self, request: Request) -> Answer:
        """The answer to one request; the caller sends it and closes it."""
        began = time.monotonic()
        try:
            return await self._answer(request)
        except UpstreamFailed as failed:
            # All but a moment of it: nothing else takes long.
            failed.upstream_seconds = time.monotonic() - began
            raise

    async def _answer(self, request: Request) -> Answer:
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
            case Moved(location):
                status = CacheStatus("moved", "there is one spelling for every name")
                return Answer(301, (("Location", location),), b"", status, stop=0)
            case NotHere(because):
                raise Refused(because, status=404)
            case _:
                assert_never(request.target)

    async def close(self) -> None:
        """Cancel every fetch under way; what waits for one is told so."""
        await self._lookups.close()
        await self._pages.close()
        await self._json_api.close()
        await self._lists.close()
        await self._metadata.close()
        await self._files.close()
        await self._fills.close()
