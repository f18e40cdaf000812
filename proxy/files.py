"""Files and their core metadata: fetched only if a page lists them, at most once, and kept for ever.

The listed hash is part of a file's key, so a hash that changes is a miss; a file that is cached is served without
asking anybody. What is not cached yet is followed while it arrives (see ``fills``); the ranges that may not wait
for a whole file are relayed, the one exception to "verified before it is whole".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace

from proxy.again import of_coming, of_file
from proxy.answer import Answer, StoredStream
from proxy.bodies import Spool
from proxy.core import decide
from proxy.core.conditions import Prefix, Span, Suffix, Unsatisfiable, not_modified, requested_range
from proxy.core.messages import CacheStatus, Entry, FileTarget, Request, Rules, kept_head
from proxy.core.ranges import spelled, within
from proxy.core.urls import without_query
from proxy.directory import RoomName
from proxy.errors import StoreFailed, UpstreamFailed
from proxy.filebodies import etag_of, file_headers, part, proven, unsatisfiable, whole_or_part
from proxy.filereplies import FileReplies
from proxy.fills import Fills
from proxy.flights import Flights
from proxy.follower import Follower
from proxy.plan import Completed, Plan, strongest
from proxy.replies import Reply
from proxy.store import Store
from proxy.upstream import Upstream
from proxy.wanted import Listings, Wanted, room_of

RANGE_PATIENCE = 5.0
"""Seconds a range of a small file waits for the whole to be verified before it is relayed."""
_METADATA_MAX = 64 * 2**20
_IDENTITY = {"Accept": "*/*", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class FileLimits:
    """``range_fill_max``: up to this size a range makes the whole file be fetched; ``unknown_max``: the most
    bytes taken of a file that no page gives a size; ``first_byte`` seconds for an answer to HEAD, which at most
    ``waiters`` clients may wait for."""

    range_fill_max: int
    unknown_max: int
    first_byte: float
    waiters: int


class Files:
    """Files of every index."""

    def __init__(
        self,
        listings: Listings,
        fills: Fills,
        store: Store,
        upstream: Upstream,
        *,
        rules: Rules,
        limits: FileLimits,
        clock: Callable[[], float],
    ) -> None:
        self._listings = listings
        self._fills = fills
        self._store = store
        self._upstream = upstream
        self._rules = replace(rules, immutable=True)
        self._limits = limits
        self._clock = clock
        self._replies = FileReplies(rules=self._rules, clock=clock)
        self._heads: Flights[int | None] = Flights(waiters=limits.waiters)

    def aside(self, listings: Listings, fills: Fills, store: Store, upstream: Upstream) -> Files:
        """The same files, with the same memory, over other rooms."""
        twin = copy(self)
        twin._listings, twin._fills, twin._store, twin._upstream = listings, fills, store, upstream
        twin._heads = Flights(waiters=self._limits.waiters)
        return twin

    async def close(self) -> None:
        """Cancel the HEAD requests under way."""
        await self._heads.close()

    async def answer(self, request: Request, target: FileTarget) -> Answer:
        """The file, from the store or as it arrives. Raises Refused (404) for a file no page lists."""
        listed = await self._listings.find(request, target)
        if isinstance(listed, Entry):
            stored = await self._stored(room_of(target), listed.key)
            if stored is not None:
                return self._from_store(request, *stored)
            # It went between the two, so its page has the word; failure is never 404.
            listed = await self._listings.find(request, target)
            if isinstance(listed, Entry):
                raise UpstreamFailed("the file was evicted a moment ago; ask again", status=503, retry_after=1)
        return await self.serve(request, listed)

    async def serve(self, request: Request, listed: Wanted) -> Answer:
        """The same for what a page was found to list, and has not dropped since."""
        stored = await self._stored(listed.room, listed.key)
        before = decide.before_upstream(request, stored[0] if stored else None, self._clock(), self._rules)
        if stored is not None:
            answer = self._from_store(request, *stored)
            return of_file(self._store, self._listings, listed, stored[0], answer, request.method)
        if isinstance(before, decide.Refuse):
            raise decide.refusal(before)
        self._replies.expect(listed.key)
        if self._fills.doubted(listed.key):
            listed = await self._listings.find_again(request, listed)
        try:
            return await self._fetch(request, listed)
        except UpstreamFailed as failure:
            again = await self._listings.signed_again(request, listed, failure)
            if again is None:
                if failure.upstream_status in (404, 410):
                    self._replies.lacks(listed.key)
                    await self._listings.still_listed(request, listed)
                raise
        return await self._fetch(request, again)

    # -- from the store --------------------------------------------------------------------------------------

    async def _stored(self, room: RoomName, key: str) -> tuple[Entry, StoredStream] | None:
        try:
            stored = await self._store.stored(room, key)
        except StoreFailed:
            return None
        if stored is None:
            return None
        return stored.entry, StoredStream(stored.handle, stored.entry.size, stored.doubt)

    def _from_store(self, request: Request, entry: Entry, stream: StoredStream) -> Answer:
        status = proven(entry)
        return whole_or_part(request, stream, entry.size, etag_of(entry.sha256), status)

    # -- not cached yet --------------------------------------------------------------------------------------

    async def _fetch(self, request: Request, wanted: Wanted) -> Answer:
        if not_modified(request.headers, etag=wanted.etag, last_modified=None):
            status = CacheStatus("hit", "the hash its page lists is the client's ETag", hit=True)
            return Answer(304, file_headers(wanted.etag), b"", status, stop=0)
        if request.method == "HEAD":
            return await self._head(request, wanted)
        match requested_range(request.headers, size=wanted.size, etag=wanted.etag):
            case None:
                return await self._follow(wanted)
            case Unsatisfiable():
                assert wanted.size is not None
                raise unsatisfiable(wanted.size)
            case Span(start, stop) if stop == wanted.size and "if-range" in request.headers:
                return await self._follow(wanted, start)
            case asked if wanted.size is not None and wanted.size > self._limits.range_fill_max:
                return self._from_fill(wanted, asked, wanted.size) or await self._relay(wanted, asked)
            case asked:
                return await self._range_of_fill(request, wanted, asked)

    async def _follow(self, wanted: Wanted, start: int = 0) -> Answer:
        since = self._clock()
        follower, joined = await self._join(self.plan(wanted))
        fill = follower.fill
        status = CacheStatus("miss", "not cached", forward="uri-miss", collapsed=joined, stored=fill.keeps)
        if start and fill.size is not None:
            answer = part(follower, Span(start, fill.size), fill.size, wanted.etag, status)
        else:
            answer = Answer(200, file_headers(wanted.etag), follower, status, stop=fill.size)
            if wanted.target.metadata:
                # Of wheels most are asked for once in a long time; of this, by everybody who resolves.
                answer = of_coming(self._store, self._listings, wanted, fill.task, answer)
        return replace(answer, upstream_seconds=self._clock() - since)

    async def _join(self, plan: Plan) -> tuple[Follower, bool]:
        """A follower of that plan's fill, once it has a byte to show."""
        follower, joined = self._fills.join(plan)
        try:
            await follower.fill.ready()
        except BaseException:
            follower.close()
            raise
        return follower, joined

    async def _range_of_fill(self, request: Request, wanted: Wanted, asked: Span | Prefix | Suffix) -> Answer:
        since = self._clock()
        follower, joined = self._fills.join(self.plan(wanted))
        try:
            async with asyncio.timeout(RANGE_PATIENCE):
                completed = await follower.fill.complete()
        except TimeoutError:
            follower.close()
            return await self._relay(wanted, asked)
        except BaseException:
            follower.close()
            raise
        because = "the whole file was fetched and verified first"
        status = CacheStatus("miss", because, forward="uri-miss", collapsed=joined, stored=follower.fill.keeps)
        answer = whole_or_part(request, follower, completed.size, etag_of(completed.sha256), status)
        return replace(answer, upstream_seconds=self._clock() - since)

    def _from_fill(self, wanted: Wanted, asked: Span | Prefix | Suffix, size: int) -> Answer | None:
        """A range whose bytes the fill that is under way has already: like a relay's, not verified yet."""
        span = within(asked, size)
        follower = self._fills.follow(wanted.key, span.stop) if span is not None else None
        if span is None or follower is None:
            return None
        if follower.fill.size != size:
            # The page has told of another size since that fill began.
            follower.close()
            return None
        status = CacheStatus("miss", "a range of what has come so far", forward="uri-miss", collapsed=True)
        return part(follower, span, size, wanted.etag, status)

    async def _relay(self, wanted: Wanted, asked: Span | Prefix | Suffix) -> Answer:
        """A range passed on as it comes, not verified and not kept; the same range is asked for once."""
        since = self._clock()
        headers = {**_IDENTITY, "Range": spelled(asked)}

        def judge(reply: Reply) -> tuple[int, int | None]:
            return self._replies.part(reply, asked)

        plan = Plan(
            key=f"{wanted.key}|{spelled(asked)}",
            index=wanted.target.index,
            url=wanted.url,
            judge=judge,
            keep=None,
            headers=headers,
            size=wanted.size,
            limit=self._limits.unknown_max,
            named=wanted.named,
            since=wanted.since,
        )
        follower, joined = await self._join(plan)
        size = follower.fill.size
        span = within(asked, size) if size is not None else None
        if span is None or size is None:
            follower.close()
            raise UpstreamFailed("the upstream does not tell the size of the file", status=502)
        status = CacheStatus("relay", "a range of a file that is not cached", forward="partial", collapsed=joined)
        return replace(part(follower, span, size, wanted.etag, status), upstream_seconds=self._clock() - since)

    async def _head(self, request: Request, wanted: Wanted) -> Answer:
        """HEAD of a file not cached: from the page when it tells all, else one collapsed HEAD upstream."""
        if wanted.size is not None and wanted.etag is not None:
            status = CacheStatus("hit", "size and hash are on the page", hit=True)
            return Answer(200, file_headers(wanted.etag), b"", status, stop=wanted.size)
        since = self._clock()
        flight, joined = self._heads.join(f"{wanted.key}|{wanted.since}", lambda: self._ask_head(wanted))
        try:
            async with asyncio.timeout(self._limits.first_byte):
                size = await asyncio.shield(flight)
        except TimeoutError:
            raise UpstreamFailed("the upstream does not answer", status=503, retry_after=2) from None
        status = CacheStatus("relay", "asked upstream", forward="uri-miss", forward_status=200, collapsed=joined)
        return Answer(200, file_headers(wanted.etag), b"", status, stop=size, upstream_seconds=self._clock() - since)

    async def _ask_head(self, wanted: Wanted) -> int | None:
        index, url = wanted.target.index, wanted.url
        async with self._upstream.open(index, url, pool="file", headers=_IDENTITY, method="HEAD") as reply:
            return self._replies.whole(reply, pinned=False)[1]

    # -- how it is fetched and kept --------------------------------------------------------------------------

    def plan(self, wanted: Wanted) -> Plan:
        """How that file is fetched, and under which key it is kept."""

        async def keep(spool: Spool, completed: Completed) -> None:
            entry = Entry(
                wanted.key,
                wanted.tag,
                without_query(wanted.url),
                kept_head(completed.head),
                "",
                completed.size,
                completed.sha256,
                completed.verified,
            )
            await self._store.adopt(wanted.room, spool, entry, wanted.name, since=wanted.since)

        def judge(reply: Reply) -> tuple[int, int | None]:
            return self._replies.whole(reply, pinned=strongest(wanted.hashes) is not None)

        return Plan(
            key=wanted.key,
            index=wanted.target.index,
            url=wanted.url,
            judge=judge,
            keep=keep,
            headers=_IDENTITY,
            size=wanted.size,
            hashes=wanted.hashes,
            limit=_METADATA_MAX if wanted.target.metadata else self._limits.unknown_max,
            named=wanted.named,
            since=wanted.since,
            labelled=True,
        )
