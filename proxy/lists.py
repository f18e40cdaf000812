"""The project list of an index: one stored representation, passed through as the upstream sent it, streamed.

It is large (tens of megabytes for PyPI) and rarely asked for, so nothing in it is parsed or rewritten: it is a
file with a head, judged by the same freshness rules as a page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import assert_never

from proxy.answer import Answer, StoredStream
from proxy.bodies import Spool
from proxy.core import decide
from proxy.core.conditions import not_modified
from proxy.core.freshness import refreshed, storable, validators
from proxy.core.lifetime import response_headers
from proxy.core.messages import CacheStatus, Entry, Head, Headers, ListTarget, Request, Rules
from proxy.core.negotiation import HTML, UPSTREAM_ACCEPT, accepts
from proxy.core.urls import list_key, tag_of
from proxy.errors import Refused, StoreFailed, UpstreamFailed
from proxy.filebodies import etag_of
from proxy.fill import Fill, Follower
from proxy.fills import Fills
from proxy.flights import Flights
from proxy.lookups import PageLimits
from proxy.plan import Completed, Plan
from proxy.replies import Reply
from proxy.store import Store


class _NotModified(UpstreamFailed):
    """The upstream answered 304: there is no body to follow."""

    def __init__(self, head: Head) -> None:
        super().__init__("the upstream answered 304", upstream_status=304)
        self.head = head


class Lists:
    """The project lists of all indexes; ``sites`` gives each index's URL with its final slash."""

    def __init__(
        self,
        sites: Mapping[str, str],
        fills: Fills,
        store: Store,
        *,
        rules: Rules,
        limits: PageLimits,
        clock: Callable[[], float],
    ) -> None:
        self._sites = sites
        self._fills = fills
        self._store = store
        self._rules = rules
        self._limits = limits
        self._clock = clock
        self._behind: Flights[None] = Flights(waiters=limits.waiters)

    async def close(self) -> None:
        """Cancel the refreshes under way."""
        await self._behind.close()

    async def answer(self, request: Request, target: ListTarget) -> Answer:
        """The list, from the store or as it arrives; Refused (406) when it is in no format the client takes."""
        entry = await self._entry(target.index)
        before = decide.before_upstream(request, entry, self._clock(), self._rules)
        match before:
            case decide.Serve():
                assert entry is not None
                if before.refresh_behind:
                    # Too many may have joined that flight; nobody waits for it here.
                    with suppress(UpstreamFailed):
                        self._behind.join(entry.key, lambda: self._refresh(request, target, entry))
                status = CacheStatus("hit" if before.fresh else "stale", before.because, hit=True, ttl=before.ttl)
                return await self._stored(request, entry, status)
            case decide.Refuse():
                raise decide.refusal(before)
            case decide.Fetch() | decide.Revalidate() | decide.Pass():
                return await self._forward(request, target, entry, before.because)
            case _:
                assert_never(before)

    async def _entry(self, index: str) -> Entry | None:
        """The head of the stored list, None when there is none whose body is still there."""
        try:
            stored = await self._store.stored("responses", list_key(index))
        except StoreFailed:
            return None
        if stored is None:
            return None
        stored.close()
        return stored.entry

    async def _forward(self, request: Request, target: ListTarget, entry: Entry | None, because: str) -> Answer:
        since = self._clock()
        forward = "uri-miss" if entry is None else "stale"
        status = CacheStatus("miss", because, forward=forward)
        try:
            follower, joined = self._fills.join(self._plan(target, entry))
        except UpstreamFailed as failure:
            return await self._instead(request, entry, failure)
        status = replace(status, collapsed=joined)
        try:
            answer = await self._followed(request, follower, entry, status)
        except BaseException:
            follower.close()
            raise
        if answer.body is not follower:
            follower.close()
        return replace(answer, upstream_seconds=self._clock() - since)

    async def _followed(self, request: Request, follower: Follower, entry: Entry | None, status: CacheStatus) -> Answer:
        """The list as it arrives; or, when it does not, what the outcome means for the one that is stored."""
        outcome = await self._outcome(follower.fill, entry)
        if outcome is None:
            assert follower.fill.head is not None
            status = replace(status, forward_status=200, stored=follower.fill.keeps)
            return self._following(request, follower, follower.fill.head, status)
        if isinstance(outcome, _NotModified) and entry is not None:
            entry = replace(entry, head=refreshed(entry.head, outcome.head))
            with suppress(StoreFailed):
                await self._store.update("responses", entry.key, entry)
            return await self._stored(request, entry, replace(status, outcome="revalidated", forward_status=304))
        return await self._instead(request, entry, outcome)

    async def _instead(self, request: Request, entry: Entry | None, outcome: UpstreamFailed | decide.Slow) -> Answer:
        """What is served when the upstream does not give the list: the stored one, or nothing."""
        after = decide.after_upstream(request, entry, outcome, self._clock(), self._rules)
        if isinstance(after, decide.Fallback) and entry is not None:
            left = decide.seconds_left(entry, self._clock(), self._rules)
            return await self._stored(request, entry, CacheStatus("stale", after.because, hit=True, ttl=left))
        if isinstance(after, decide.Fail):
            raise decide.failure(after)
        raise UpstreamFailed("the upstream gives no project list", status=503, retry_after=2)

    async def _outcome(self, fill: Fill, entry: Entry | None) -> UpstreamFailed | decide.Slow | None:
        """None once the fill has a byte to show; Slow after ``stale_after`` if what is stored may be served then."""
        request = Request("GET", ListTarget("", ""), {})
        slow = decide.after_upstream(request, entry, decide.SLOW, self._clock(), self._rules)
        patience = self._rules.stale_after if isinstance(slow, decide.Fallback) else self._limits.first_byte
        try:
            async with asyncio.timeout(patience):
                await fill.ready()
        except TimeoutError:
            return decide.SLOW
        except UpstreamFailed as failure:
            return failure
        return None

    async def _refresh(self, request: Request, target: ListTarget, entry: Entry) -> None:
        """Stale-while-revalidate: the same as for a client, whose answer nobody waits for."""
        with suppress(UpstreamFailed, Refused):
            (await self._forward(request, target, entry, "refreshed behind")).close()

    def _following(self, request: Request, follower: Follower, head: Head, status: CacheStatus) -> Answer:
        media_type = head.header("Content-Type") or HTML
        if not accepts(request.headers.get("accept"), media_type.partition(";")[0].strip()):
            raise Refused("the project list is not to be had in the formats asked for", status=406)
        return Answer(200, self._headers(head, None), follower, status, stop=follower.fill.size)

    async def _stored(self, request: Request, entry: Entry, status: CacheStatus) -> Answer:
        media_type = entry.head.header("Content-Type") or HTML
        if not accepts(request.headers.get("accept"), media_type.partition(";")[0].strip()):
            raise Refused("the project list is not to be had in the formats asked for", status=406)
        try:
            stored = await self._store.stored("responses", entry.key)
        except StoreFailed:
            stored = None
        if stored is None:
            raise UpstreamFailed("the list was evicted a moment ago; ask again", status=503, retry_after=1)
        etag = etag_of(stored.entry.sha256)
        headers = self._headers(entry.head, etag)
        if not_modified(request.headers, etag=etag, last_modified=None):
            stored.close()
            return Answer(304, headers, b"", status, stop=0)
        return Answer(200, headers, StoredStream(stored.handle, stored.entry.size), status, stop=stored.entry.size)

    def _headers(self, head: Head, etag: str | None) -> Headers:
        headers: Headers = (
            ("Content-Type", head.header("Content-Type") or HTML),
            ("Vary", "Accept, Accept-Encoding"),
            *response_headers(head, self._clock(), self._rules),
        )
        return (*headers, ("ETag", etag)) if etag is not None else headers

    # -- how it is fetched and kept --------------------------------------------------------------------------

    def _plan(self, target: ListTarget, entry: Entry | None) -> Plan:
        index = target.index
        headers = {"Accept": UPSTREAM_ACCEPT, "Accept-Encoding": "identity"}
        if entry is not None:
            headers |= validators(entry.head)

        def judge(reply: Reply) -> tuple[int, int | None]:
            if reply.head.status == 304 and entry is not None:
                raise _NotModified(reply.head)
            coding = (reply.head.header("Content-Encoding") or "identity").lower()
            if reply.head.status == 200 and coding != "identity":
                raise UpstreamFailed("the upstream sent a coding that was not asked for")
            if reply.head.status != 200:
                raise _failure(reply.head, self._clock(), self._rules)
            return 0, reply.length

        async def keep(spool: Spool, completed: Completed) -> None:
            if storable(completed.head, self._rules):
                url = self._sites[index]
                made = Entry(
                    list_key(index),
                    tag_of(index, ""),
                    url,
                    completed.head,
                    "",
                    completed.size,
                    completed.sha256,
                )
                await self._store.adopt("responses", spool, made, "projects")

        return Plan(
            key=list_key(index),
            index=index,
            url=self._sites[index],
            judge=judge,
            keep=keep,
            pool="page",
            headers=headers,
            limit=self._limits.list_max,
        )


def _failure(head: Head, now: float, rules: Rules) -> UpstreamFailed:
    match decide.after_upstream(Request("GET", ListTarget("", ""), {}), None, head, now, rules):
        case decide.Fail() as fail:
            return decide.failure(fail, head.status)
        case _:
            return UpstreamFailed("the upstream answered with something that is no project list")
