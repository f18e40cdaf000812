"""The project list of an index as clients see it: in the format and the coding they want, fresh, stale or on its way.

It is large (tens of megabytes for PyPI) and rarely asked for: always streamed, never held in memory, and judged by
the same freshness rules as a page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import assert_never

from proxy.answer import Answer, StoredStream
from proxy.core import decide
from proxy.core.conditions import not_modified
from proxy.core.freshness import refreshed
from proxy.core.lifetime import SERIAL, response_headers
from proxy.core.messages import CacheStatus, Entry, Head, Headers, ListTarget, Request, Rules
from proxy.core.negotiation import coding_of, negotiate
from proxy.errors import Refused, StoreFailed, UpstreamFailed
from proxy.fill import Fill
from proxy.flights import Flights
from proxy.follower import Follower
from proxy.listbodies import FIRST, ListBodies, ListView, NotModified
from proxy.lookups import PageLimits
from proxy.outcomes import fallen_back, served
from proxy.store import Store


class Lists:
    """The project lists of all indexes."""

    def __init__(
        self, bodies: ListBodies, store: Store, *, rules: Rules, limits: PageLimits, clock: Callable[[], float]
    ) -> None:
        self._bodies = bodies
        self._store = store
        self._rules = rules
        self._limits = limits
        self._clock = clock
        self._behind: Flights[None] = Flights(waiters=limits.waiters)

    def aside(self, bodies: ListBodies, store: Store) -> Lists:
        """The same lists over other rooms."""
        return Lists(bodies, store, rules=self._rules, limits=self._limits, clock=self._clock)

    async def close(self) -> None:
        """Cancel the refreshes under way."""
        await self._behind.close()
        self._bodies.close()

    async def answer(self, request: Request, target: ListTarget) -> Answer:
        """The list, from the store or as it arrives; Refused (406) when the client takes none of its formats."""
        view, entry, before = await self.before(request, target)
        match before:
            case decide.Serve():
                assert entry is not None
                if before.refresh_behind:
                    # Too many may have joined that flight; nobody waits for it here.
                    with suppress(UpstreamFailed):
                        self._behind.join(entry.key, lambda: self._refresh(request, target, entry))
                status = served(before)
                return await self._stored(request, target, view, entry.head, status)
            case decide.Refuse():
                raise decide.refusal(before)
            case decide.Fetch() | decide.Revalidate() | decide.Pass():
                return await self._forward(request, target, view, entry, before.because)
            case _:
                assert_never(before)

    async def before(self, request: Request, target: ListTarget) -> tuple[ListView, Entry | None, decide.Before]:
        """What the client wants to see, what is here of it, and what to do with that. Raises Refused (406)."""
        media_type = negotiate(request.headers.get("accept"), request.wanted_format)
        if media_type is None:
            raise Refused("the formats offered are Simple API JSON v1, HTML v1 and text/html", status=406)
        view = ListView(media_type, coding_of(request.headers.get("accept-encoding")))
        entry = await self._entry(target.index)
        return view, entry, decide.before_upstream(request, entry, self._clock(), self._rules)

    async def _entry(self, index: str) -> Entry | None:
        """The head of the stored list, None when there is none whose body is still there."""
        stored = await self._bodies.stored(index)
        if stored is None:
            return None
        stored.close()
        return stored.entry

    # -- asking the upstream ---------------------------------------------------------------------------------

    async def _forward(
        self, request: Request, target: ListTarget, view: ListView, entry: Entry | None, because: str
    ) -> Answer:
        since = self._clock()
        status = CacheStatus("miss", because, forward="uri-miss" if entry is None else "stale")
        try:
            follower, joined = self._bodies.fetch(target.index, entry)
        except UpstreamFailed as failure:
            return await self._instead(request, target, view, entry, failure)
        status = replace(status, collapsed=joined)
        try:
            answer = await self._followed(request, target, view, follower, entry, status)
        except BaseException:
            follower.close()
            raise
        if answer.body is not follower:
            follower.close()
        return replace(answer, upstream_seconds=self._clock() - since)

    async def _followed(
        self,
        request: Request,
        target: ListTarget,
        view: ListView,
        follower: Follower,
        entry: Entry | None,
        status: CacheStatus,
    ) -> Answer:
        """The list as it arrives; or, when it does not, what the outcome means for the one that is stored."""
        outcome = await self._outcome(request, follower.fill, entry)
        if outcome is None:
            status = replace(status, forward_status=200, stored=follower.fill.keeps)
            return await self._following(request, target, view, follower, status)
        if isinstance(outcome, NotModified):
            if entry is None or await self._entry(target.index) is None:
                # What did not change was removed meanwhile: it is asked for whole.
                return await self._forward(request, target, view, None, status.because)
            entry = replace(entry, head=refreshed(entry.head, outcome.head, self._rules))
            with suppress(StoreFailed):
                await self._store.update("responses", entry.key, entry)
            status = replace(status, outcome="revalidated", forward_status=304)
            return await self._stored(request, target, view, entry.head, status)
        return await self._instead(request, target, view, entry, outcome)

    async def _outcome(self, request: Request, fill: Fill, entry: Entry | None) -> UpstreamFailed | decide.Slow | None:
        """None once the fill has a byte to show. If what is stored may be served instead, that is once it is whole:
        nobody shall be cut who could have had another; and Slow after ``stale_after``."""
        slow = decide.after_upstream(request, entry, decide.SLOW, self._clock(), self._rules)
        replaceable = isinstance(slow, decide.Fallback)
        try:
            async with asyncio.timeout(self._rules.stale_after if replaceable else self._limits.first_byte):
                await (fill.complete() if replaceable else fill.ready())
        except TimeoutError:
            return decide.SLOW
        except UpstreamFailed as failure:
            return failure
        return None

    async def _instead(
        self,
        request: Request,
        target: ListTarget,
        view: ListView,
        entry: Entry | None,
        outcome: UpstreamFailed | decide.Slow,
    ) -> Answer:
        """What is served when the upstream does not give the list: the stored one, or nothing."""
        after = decide.after_upstream(request, entry, outcome, self._clock(), self._rules)
        if isinstance(after, decide.Fallback) and entry is not None:
            status = fallen_back(after, entry, self._clock(), self._rules)
            return await self._stored(request, target, view, entry.head, status)
        if isinstance(after, decide.Fail):
            raise decide.failure(after, outcome.upstream_status if isinstance(outcome, UpstreamFailed) else None)
        raise UpstreamFailed("the upstream gives no project list", status=503, retry_after=2)

    async def _refresh(self, request: Request, target: ListTarget, entry: Entry) -> None:
        """Stale-while-revalidate: the same as for a client, whose answer nobody waits for."""
        with suppress(UpstreamFailed, Refused):
            (await self._forward(request, target, FIRST, entry, "refreshed behind")).close()

    # -- the list as bytes -----------------------------------------------------------------------------------

    async def _following(
        self, request: Request, target: ListTarget, view: ListView, follower: Follower, status: CacheStatus
    ) -> Answer:
        fill = follower.fill
        assert fill.head is not None
        done = fill.completed
        etag = None if done is None else view.etag(done.sha256)
        headers = self._headers(fill.head, etag)
        if etag is not None and not_modified(request.headers, etag=etag, last_modified=None):
            return Answer(304, headers, b"", status, stop=0)
        headers += view.headers()
        if view.form == FIRST.form:
            return Answer(200, headers, follower, status, stop=None if done is None else done.size)
        if request.method == "HEAD":
            return Answer(200, headers, b"", status)
        return await self._made(target.index, view, fill, headers, status)

    async def _stored(
        self, request: Request, target: ListTarget, view: ListView, head: Head, status: CacheStatus
    ) -> Answer:
        """From the store; ``head`` may be newer than the stored one, which a store that fails cannot refresh."""
        stored = await self._bodies.stored(target.index)
        if stored is None:
            raise UpstreamFailed("the list was evicted a moment ago; ask again", status=503, retry_after=1)
        first = stored.entry
        etag = view.etag(first.sha256)
        headers = self._headers(head, etag)
        if not_modified(request.headers, etag=etag, last_modified=None):
            stored.close()
            return Answer(304, headers, b"", status, stop=0)
        headers += view.headers()
        if view.form != FIRST.form:
            stored.close()
            stored = await self._bodies.stored(target.index, view, first)
        if stored is not None:
            size = stored.entry.size
            return Answer(200, headers, StoredStream(stored.handle, size, stored.doubt), status, stop=size)
        if request.method == "HEAD":
            return Answer(200, headers, b"", status)
        return await self._made(target.index, view, first, headers, status)

    async def _made(
        self, index: str, view: ListView, of: Fill | Entry, headers: Headers, status: CacheStatus
    ) -> Answer:
        """In a form that is being made."""
        follower = self._bodies.make(index, view, of)
        try:
            async with asyncio.timeout(self._limits.first_byte):
                await follower.fill.ready()
        except TimeoutError:
            follower.close()
            raise UpstreamFailed("the list is still being made", status=503, retry_after=2) from None
        except BaseException:
            follower.close()
            raise
        done = follower.fill.completed
        return Answer(200, headers, follower, status, stop=None if done is None else done.size)

    def _headers(self, head: Head, etag: str | None) -> Headers:
        """What every answer says, a 304 too (RFC 9110 §15.4.5)."""
        headers: Headers = (
            ("Vary", "Accept, Accept-Encoding"),
            *response_headers(head, self._clock(), self._rules),
        )
        serial = head.header(SERIAL)
        if serial is not None:
            headers += (("X-PyPI-Last-Serial", serial),)
        return (*headers, ("ETag", etag)) if etag is not None else headers
