"""Looks at the origin of a mount: one for all who want the same at that time, whose body many follow.

A response is shared with whoever it may answer: those who asked before the look began, whatever it says of its life
(it was made after they asked), and later ones as long as it is fresh for them. RFC 9111 §4: "A cache can use a response
that is stored or storable to satisfy multiple requests, provided that it is allowed to reuse that response for the
requests in question. This enables a cache to 'collapse requests'".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from typing import assert_never

from proxy.answer import Answer, StoredStream
from proxy.bodies import Spool
from proxy.core import decide
from proxy.core.freshness import contradicts
from proxy.core.messages import CacheStatus, Entry, Head
from proxy.core.passing import aged, kept, told_to_client
from proxy.core.variants import Variant, chosen_by, selecting
from proxy.errors import UpstreamFailed
from proxy.fills import Fills
from proxy.follower import Follower
from proxy.looking import Look, Looking, Shared
from proxy.mountanswers import asked_status, from_body, mapped, passed_on, relayed
from proxy.mountrequests import Asked, MountLimits
from proxy.outcomes import fallen_back
from proxy.plan import Completed, Plan
from proxy.replies import Reply
from proxy.shelf import Found, Shelf
from proxy.upstream import Upstream


class Looks:
    """All looks under way. Each method that answers raises UpstreamFailed where there is nothing to answer with."""

    def __init__(
        self,
        fills: Fills,
        shelf: Shelf,
        upstream: Upstream,
        *,
        via: str,
        limits: MountLimits,
        clock: Callable[[], float],
    ) -> None:
        self._fills = fills
        self._shelf = shelf
        self._upstream = upstream
        self._via = via
        self._limits = limits
        self._clock = clock
        self.under_way = Looking()
        self._numbers = count()

    def aside(self, shelf: Shelf, upstream: Upstream) -> Looks:
        """Others, at another origin, into another shelf."""
        return Looks(self._fills, shelf, upstream, via=self._via, limits=self._limits, clock=self._clock)

    async def stored(self, asked: Asked, entry: Entry, told: CacheStatus) -> Answer | None:
        """The answer from a stored response; None when its body is gone. ``entry`` may have a newer head than the
        stored one, which a store that fails cannot refresh."""
        stored = await self._shelf.stored(entry)
        if stored is None:
            return None
        head = entry.head if stored.entry.body == entry.body else stored.entry.head
        lines = mapped(head.status, aged(head, self._clock()), asked.mount.url, asked.target)
        stream = StoredStream(stored.handle, stored.entry.size, stored.doubt)
        return from_body(asked.request, head.status, lines, stream, stored.entry.size, told)

    async def instead(self, asked: Asked, entry: Entry | None, failure: UpstreamFailed) -> Answer:
        """What is served when the origin does not answer: the stored response, where that may be."""
        now, rules = self._clock(), asked.mount.rules
        after = decide.after_upstream(asked.request, entry, failure, now, rules)
        if isinstance(after, decide.Fallback) and entry is not None:
            told = fallen_back(after, entry, now, rules)
            if (answer := await self.stored(asked, entry, told)) is not None:
                return answer
        raise failure

    # -- those who wait for somebody else's look -------------------------------------------------------------

    async def joined(self, asked: Asked, found: Found, look: Look) -> Answer | None:
        """The answer that another's look brings; None when it brings none for this request."""
        # Who looks is one of them.
        if look.waiters + 1 >= self._limits.waiters:
            raise UpstreamFailed("too many clients wait for the same answer", status=503, retry_after=2)
        look.waiters += 1
        try:
            told = await asyncio.shield(look.told)
        finally:
            look.waiters -= 1
        if isinstance(told, UpstreamFailed):
            return await self.instead(asked, found.entry, told)
        if told is None or not self._answers(asked, look, told):
            return None
        status = replace(asked_status("another client asked for it", asked.request, found.entry), collapsed=True)
        if told.fill is None:
            return await self.stored(asked, told.entry, status)
        follower = self._fills.follow(told.fill, 0)
        if follower is None:
            return None
        head = told.entry.head
        if look.began < asked.arrived:
            head = replace(head, headers=aged(head, self._clock()))
        return await self._followed(asked, found.entry, head, follower, status)

    def _answers(self, asked: Asked, look: Look, told: Shared) -> bool:
        """May this request be answered with what the look found?"""
        request, entry = asked.request, told.entry
        if chosen_by(told.variant.names, request.headers) != told.variant or not decide.may_answer(request, entry):
            return False
        if self._shelf.hides(look.since, asked.target):
            return False
        if look.began >= asked.arrived:
            return True
        before = decide.before_upstream(request, entry, self._clock(), asked.mount.rules)
        return isinstance(before, decide.Serve)

    # -- one look --------------------------------------------------------------------------------------------

    async def look(
        self, asked: Asked, found: Found, before: decide.Fetch | decide.Revalidate, *, shared: bool
    ) -> Answer:
        """Ask the origin, and answer with what comes of it; ``shared``: for others, too."""
        look = Look(asked.target, self._clock(), self._shelf.mark())
        key = (asked.target, found.variant)
        if shared:
            self.under_way.begun(key, look)
        try:
            answer = await self._looked(asked, found.entry, before, look)
            return replace(answer, upstream_seconds=self._clock() - look.began)
        except UpstreamFailed as failure:
            look.tell(failure)
            raise
        finally:
            look.tell(None)
            if look.fill is None or look.fill.task is None:
                self.under_way.over(look)
            else:
                # Until its row is committed, others are answered from the body as it came.
                look.fill.task.add_done_callback(lambda _: self.under_way.over(look))

    async def _looked(
        self, asked: Asked, entry: Entry | None, before: decide.Fetch | decide.Revalidate, look: Look
    ) -> Answer:
        conditions: Mapping[str, str] = before.headers if isinstance(before, decide.Revalidate) else {}
        holding = AsyncExitStack()
        try:
            reply = await holding.enter_async_context(self._forward(asked, conditions))
        except UpstreamFailed as failure:
            look.tell(failure)
            return await self.instead(asked, entry, failure)
        try:
            head = told_to_client(reply.head, cookies=asked.mount.pass_credentials)
            after = decide.after_upstream(asked.request, entry, head, self._clock(), asked.mount.rules)
            told = asked_status(before.because, asked.request, entry, head.status)
            match after:
                case decide.Refresh() if entry is not None and contradicts(entry.head, head):
                    await holding.aclose()
                    again = decide.Fetch("not modified, says another version")
                    return await self._looked(asked.unconditional(), None, again, look)
                case decide.Refresh():
                    assert entry is not None
                    answer = await self._refreshed(asked, entry, after, replace(told, outcome="revalidated"), look)
                    await holding.aclose()
                    if answer is None:
                        again = decide.Fetch("not modified, and no longer here")
                        return await self._looked(asked.unconditional(), None, again, look)
                    return answer
                case decide.Fallback():
                    assert entry is not None
                    # Who waits falls back as well, and leaves an origin in trouble alone.
                    look.tell(UpstreamFailed(after.because, status=503, retry_after=2, upstream_status=head.status))
                    told = replace(told, outcome="stale", because=after.because)
                    if (answer := await self.stored(asked, entry, told)) is not None:
                        await holding.aclose()
                        return answer
                    return await self._relayed(asked, head, reply, holding, told)
                case decide.Keep() if _ends(reply) and self._shelf.has_room(reply.length or 0):
                    return await self._kept(asked, entry, head, reply, holding, told, look)
                case decide.Keep() | decide.Relay():
                    look.tell(None)
                    return await self._relayed(asked, head, reply, holding, told)
                case decide.Fail():
                    raise decide.failure(after, head.status)
                case _:
                    assert_never(after)
        except BaseException:
            await holding.aclose()
            raise

    async def _refreshed(
        self, asked: Asked, entry: Entry, after: decide.Refresh, told: CacheStatus, look: Look
    ) -> Answer | None:
        """The answer from an entry that still holds, under its newer head; None when its body is gone."""
        if after.keep:
            entry = await self._shelf.refresh(entry, after.head)
            variant = chosen_by(selecting(entry.head), asked.request.headers)
            self.under_way.found(look, Shared(entry, variant, None))
            return await self.stored(asked, entry, told)
        answer = await self.stored(asked, replace(entry, head=after.head), told)
        await self._shelf.drop(entry)
        return answer

    async def _relayed(
        self, asked: Asked, head: Head, reply: Reply, holding: AsyncExitStack, told: CacheStatus
    ) -> Answer:
        lines = passed_on(head, asked.mount.url, asked.target)
        return await relayed(asked.request.method, head.status, lines, reply, holding, told)

    async def _kept(
        self,
        asked: Asked,
        old: Entry | None,
        head: Head,
        reply: Reply,
        holding: AsyncExitStack,
        told: CacheStatus,
        look: Look,
    ) -> Answer:
        """The body goes to its followers and, once it is whole, into the store. The fill owns the reply now."""
        variant = chosen_by(selecting(head), asked.request.headers)
        entry = self._shelf.entry_of(asked.target, variant, asked.url, kept(head))
        plan = Plan(
            # Of its own: what is on its way for an earlier look is an earlier answer.
            key=f"{entry.key}|{next(self._numbers)}",
            index=asked.mount.name,
            url=asked.url,
            judge=lambda resumed: (0, resumed.length),
            keep=partial(self._keep, asked, variant, entry, look.since),
            limit=self._limits.body_max if reply.length is None else reply.length,
            source=self._source(asked, reply, holding.pop_all()),
            room="mounts",
            named=self._shelf.named(asked.target),
            since=look.since,
        )
        follower, _ = self._fills.join(plan)
        look.fill = follower.fill
        self.under_way.found(look, Shared(entry, variant, plan.key))
        return await self._followed(asked, old, head, follower, told)

    async def _followed(
        self, asked: Asked, old: Entry | None, head: Head, follower: Follower, told: CacheStatus
    ) -> Answer:
        fill = follower.fill
        try:
            await fill.ready()
        except UpstreamFailed as failure:
            follower.close()
            return await self.instead(asked, old, failure)
        except BaseException:
            follower.close()
            raise
        size = fill.size if fill.completed is None else fill.completed.size
        lines = passed_on(head, asked.mount.url, asked.target)
        return from_body(asked.request, head.status, lines, follower, size, replace(told, stored=fill.keeps))

    async def _keep(
        self, asked: Asked, variant: Variant, entry: Entry, since: int, spool: Spool, completed: Completed
    ) -> None:
        whole = replace(entry, size=completed.size, sha256=completed.sha256)
        await self._shelf.keep(asked.target, variant, whole, spool, since, self._clock())

    def _source(
        self, asked: Asked, reply: Reply, holding: AsyncExitStack
    ) -> Callable[[Mapping[str, str]], AbstractAsyncContextManager[Reply]]:
        """The reply that is here already; then, where that breaks, the rest of it."""
        first = [reply]

        @asynccontextmanager
        async def source(headers: Mapping[str, str]) -> AsyncIterator[Reply]:
            if first:
                async with holding:
                    yield first.pop()
            else:
                async with self._forward(asked.unconditional(), {}, headers) as rest:
                    yield rest

        return source

    def _forward(
        self, asked: Asked, conditions: Mapping[str, str], more: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Reply]:
        lines = (*asked.lines(self._via, conditions), *(more or {}).items())
        return self._upstream.forward(asked.mount.name, asked.url, method=asked.request.method, headers=lines)


def _ends(reply: Reply) -> bool:
    """Whether the body has an end that proves it whole. Events are sent one by one, to who waits for the next of them,
    as long as he does."""
    media_type = (reply.head.header("content-type") or "").partition(";")[0].strip().lower()
    return reply.framed and media_type != "text/event-stream"
