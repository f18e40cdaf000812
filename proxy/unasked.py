"""The rooms once more, with the same memory and the same decisions, for one who only wants to know: nobody upstream
is asked, nothing is kept, made or forgotten.

What would be asked is written down, and fails: so the rooms themselves say what stands in where that fails.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from proxy.answer import Answer, Piece
from proxy.core.messages import CacheStatus, Entry, Headers, JsonTarget, PageTarget, Request, Rules
from proxy.core.urls import list_key, without_query
from proxy.documents import Documents
from proxy.errors import UpstreamFailed
from proxy.extraction import TAKEN, Extraction
from proxy.filebodies import etag_of, whole_or_part
from proxy.files import Files
from proxy.fills import Fills
from proxy.follower import Follower
from proxy.jsonapi import JsonApi
from proxy.listbodies import ListBodies
from proxy.lists import Lists
from proxy.lookups import Fetched, Lookups
from proxy.manifests import Manifest, Manifests
from proxy.metadata import Metadata
from proxy.mounts import Mounts
from proxy.onlooker import Onlooker
from proxy.pages import Pages
from proxy.plan import Plan
from proxy.replies import Reply
from proxy.store import Store
from proxy.upstream import Pool, Upstream
from proxy.wanted import Listings, Wanted

What = Literal["page", "json", "list", "file", "range", "head", "raw"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What an upstream would be asked for; ``url`` has no query. ``under_way``: somebody asks for it already."""

    what: What
    url: str
    under_way: bool


@dataclass(slots=True)
class Wishes:
    """What upstreams would be asked for, in that order."""

    upstream: Upstream
    made: list[Wish] = field(default_factory=list)

    @property
    def first(self) -> Wish | None:
        """What the others would follow from."""
        return self.made[0] if self.made else None

    def ask(self, what: What, index: str, url: str, *, under_way: bool = False) -> NoReturn:
        """Write it down, and fail; or fail as it would without anybody being asked."""
        if not under_way and (refused := self.upstream.refuses(index, url)) is not None:
            raise refused
        self.made.append(Wish(what, without_query(url), under_way))
        raise UpstreamFailed("it is not asked now", status=503)


@dataclass(frozen=True, slots=True)
class Rooms:
    """Those that answer requests, and what they answer from."""

    store: Store
    upstream: Upstream
    manifests: Manifests
    lookups: Lookups
    pages: Pages
    json_api: JsonApi
    bodies: ListBodies
    lists: Lists
    fills: Fills
    files: Files
    mounts: Mounts


class Unasked:
    """These rooms for one request. ``fetch_max`` is as for ``Extraction``. To be closed."""

    def __init__(self, rooms: Rooms, *, rules: Rules, fetch_max: int, clock: Callable[[], float]) -> None:
        wishes = self.wishes = Wishes(rooms.upstream)
        store = self.store = Onlooker(rooms.store)
        manifests = _Manifests(rooms.manifests, store)
        fills = _Fills(rooms.fills, wishes)
        self.lookups = _Lookups(rooms.lookups, wishes, store, manifests)
        self.pages = rooms.pages.aside(self.lookups, manifests, store)
        self.documents = _Documents(rooms.json_api.documents, wishes, store)
        self.json_api = rooms.json_api.aside(self.documents)
        self.bodies = _ListBodies(rooms.bodies, wishes, store)
        self.lists = rooms.lists.aside(self.bodies, store)
        self.listings = Listings(self.pages, store, rules=rules, clock=clock)
        upstream = _Upstream(rooms.upstream, wishes)
        self.files = rooms.files.aside(self.listings, fills, store, upstream)
        self.mounts = rooms.mounts.aside(store, upstream)
        extraction = _Extraction(self.files, self.listings, fills, fetch_max=fetch_max, clock=clock)
        self.metadata = Metadata(extraction, self.listings, store, waiters=1)

    async def close(self) -> None:
        """End what was begun in them."""
        for room in (self.pages, self.json_api, self.lists, self.files, self.metadata, self.mounts):
            await room.close()


class _Manifests(Manifests):
    def __init__(self, manifests: Manifests, store: Store) -> None:
        vars(self).update(vars(manifests))
        self._store = store

    def _remember(self, key: str, manifest: Manifest, since: int | None) -> Manifest:
        return manifest


class _Upstream(Upstream):
    def __init__(self, upstream: Upstream, wishes: Wishes) -> None:
        vars(self).update(vars(upstream))
        self._wishes = wishes

    def open(
        self, index: str, url: str, *, pool: Pool, headers: Mapping[str, str], method: str = "GET"
    ) -> AbstractAsyncContextManager[Reply]:
        self._wishes.ask("head", index, url)

    def forward(
        self,
        site: str,
        url: str,
        *,
        method: str,
        headers: Headers,
        chunks: AsyncIterator[bytes] | None = None,
        length: int | None = None,
    ) -> AbstractAsyncContextManager[Reply]:
        self._wishes.ask("raw", site, url)


class _Lookups(Lookups):
    def __init__(self, lookups: Lookups, wishes: Wishes, store: Store, manifests: Manifests) -> None:
        vars(self).update(vars(lookups))
        self._wishes = wishes
        self._store, self._manifests = store, manifests

    def at_once(self, request: Request, target: PageTarget, entry: Entry | None) -> Fetched | None:
        return self.foreseen(request, target, entry)

    def fetch(
        self, target: PageTarget, request: Request, entry: Entry | None, *, whole: bool = False, anew: bool = False
    ) -> tuple[asyncio.Task[Fetched], bool]:
        self._wishes.ask("page", target.index, self.url_of(target), under_way=bool(self.under_way(target)))


class _Documents(Documents):
    def __init__(self, documents: Documents, wishes: Wishes, store: Store) -> None:
        vars(self).update(vars(documents))
        self._wishes, self._store = wishes, store

    def fetch(self, target: JsonTarget, request: Request, entry: Entry | None) -> tuple[asyncio.Task[Fetched], bool]:
        self._wishes.ask("json", target.index, self.url_of(target), under_way=self.under_way(target))

    async def close(self) -> None:
        """The flights are others'."""


class _ListBodies(ListBodies):
    def __init__(self, bodies: ListBodies, wishes: Wishes, store: Store) -> None:
        vars(self).update(vars(bodies))
        self._wishes, self._store = wishes, store

    def fetch(self, index: str, entry: Entry | None) -> tuple[Follower, bool]:
        under_way = self._fills.under_way(list_key(index))
        if not under_way and (refused := self._fills.refuses(list_key(index))) is not None:
            raise refused
        self._wishes.ask("list", index, self._sites[index], under_way=under_way)

    def close(self) -> None:
        """The thread is another's."""


class _Fills(Fills):
    def __init__(self, fills: Fills, wishes: Wishes) -> None:
        vars(self).update(vars(fills))
        self._wishes = wishes

    def join(self, plan: Plan) -> tuple[Follower, bool]:
        under_way = self.under_way(plan.key)
        if not under_way and (refused := self.refuses(plan.key)) is not None:
            raise refused
        self._wishes.ask("file" if plan.keep is not None else "range", plan.index, plan.url, under_way=under_way)


class _Nothing:
    """A body that nobody will read."""

    async def beyond(self, offset: int) -> Piece | None:
        return None

    def close(self) -> None:
        """There is nothing to close."""


class _Extraction(Extraction):
    async def _extracted(self, request: Request, listed: Wanted, wheel: Wanted, *, fetch: bool) -> Answer:
        """What comes out of the wheel, for the moment."""
        digest, size = hashlib.sha256(), 0
        async with self._source(listed, wheel, fetch)({}) as reply:
            async for chunk in reply.chunks:
                digest.update(chunk)
                size += len(chunk)
        status = CacheStatus("miss", TAKEN, forward="uri-miss")
        return whole_or_part(request, _Nothing(), size, etag_of(digest.hexdigest()), status)
