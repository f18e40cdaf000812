"""One upstream fetch per key, however many ask.

A fill belongs to nobody. It goes on when the client that started it leaves, and it ends by being adopted into
the store or by being thrown away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from proxy.core.patterns import Selection
from proxy.errors import UpstreamFailed, WrongBody
from proxy.fence import Named
from proxy.fill import Fill
from proxy.flights import Waiting
from proxy.follower import Follower
from proxy.plan import Plan
from proxy.store import Store
from proxy.upstream import Upstream

REST_AFTER_MISMATCH = 60.0
"""Seconds a URL is left alone after its second wrong body in a row."""
_REMEMBERED = 4096
_ADOPTION = 5.0
"""Seconds that whole bodies get to be adopted when the proxy stops."""
_RELAYS = 6
"""Ranges of one index relayed at a time."""


class Fills:
    """All fills under way, by key; and which keys were wrong lately."""

    def __init__(self, store: Store, upstream: Upstream, *, waiters: int) -> None:
        self._store = store
        self._upstream = upstream
        self._waiters = waiters
        self._fills: dict[str, Fill] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._relays: dict[str, asyncio.Semaphore] = {}
        self._mismatches: dict[str, tuple[int, float, Named | None]] = {}

    def join(self, plan: Plan) -> tuple[Follower, bool]:
        """A follower of the fill of that key, which is started if there is none; and whether it was under way.

        The caller must close it in the end. Raises UpstreamFailed while the key rests after two wrong
        bodies, or when too many wait for it.
        """
        fill = self._fills.get(plan.key)
        if fill is not None and (fill.abandoned or fill.late or fill.failure is not None or self._forgotten(fill)):
            # It is on its way out: what it came to is noted now, so that its successor knows of it. One whose file
            # was removed since it began goes on for who follows it, and nothing of it is kept.
            self._take_leave(fill)
            fill = None
        joined = fill is not None
        if fill is None:
            fill = self._start(plan)
        elif fill.followers >= self._waiters:
            raise UpstreamFailed("too many clients wait for this file", status=503, retry_after=2)
        return Follower(fill), joined

    def refuses(self, key: str) -> UpstreamFailed | None:
        """Why no fill of that key begins now; None: one would."""
        count, since, _ = self._mismatches.get(key, (0, 0.0, None))
        if count < 2 or time.monotonic() - since >= REST_AFTER_MISMATCH:
            return None
        return UpstreamFailed("the upstream sent a wrong body twice; it rests", status=503, retry_after=10)

    def under_way(self, key: str) -> bool:
        """Whether a fill of that key can be joined."""
        fill = self._fills.get(key)
        gone = fill is None or fill.failure is not None or fill.abandoned or fill.late
        return fill is not None and not gone and not self._forgotten(fill)

    def follow(self, key: str, upto: int) -> Follower | None:
        """A follower of the fill of that key that may be shown the bytes before offset ``upto`` already; None when
        there is no such fill, or too many follow it."""
        fill = self._fills.get(key)
        if fill is None or fill.failure is not None or fill.followers >= self._waiters or not fill.shows(upto):
            return None
        return Follower(fill) if not self._forgotten(fill) else None

    def _forgotten(self, fill: Fill) -> bool:
        named, since = fill.plan.named, fill.plan.since
        return named is not None and since is not None and self._store.fence.hides(since, *named)

    def forget(self, selection: Selection) -> None:
        """Drop what is remembered of wrong bodies of what was removed."""
        for key, (*_, named) in list(self._mismatches.items()):
            if named is None or selection.covers(*named):
                del self._mismatches[key]

    def _start(self, plan: Plan) -> Fill:
        if (refused := self.refuses(plan.key)) is not None:
            raise refused
        fill = self._fills[plan.key] = Fill(plan, self._store, self._upstream)
        # After a wrong body the next request asks past the caches between us and the origin.
        extra = {"Cache-Control": "no-cache"} if self.doubted(plan.key) else {}
        task = fill.task = asyncio.create_task(self._run(fill, extra), name=f"fill {plan.key}")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(fill, done))
        return fill

    def _ended(self, fill: Fill, task: asyncio.Task[None]) -> None:
        # A task cancelled before its first step, or while it waits for other relays, has not run the fill at all.
        self._tasks.discard(task)
        fill.give_up()
        self._take_leave(fill)

    async def _run(self, fill: Fill, extra: Mapping[str, str]) -> None:
        try:
            if fill.plan.keep is None:
                # Relays wait for each other, or they would take every connection from the files fetched for all.
                async with self._relays.setdefault(fill.plan.index, asyncio.Semaphore(_RELAYS)):
                    await fill.run(extra)
            else:
                await fill.run(extra)
        finally:
            self._take_leave(fill)

    def _take_leave(self, fill: Fill) -> None:
        key = fill.plan.key
        if self._fills.get(key) is not fill:
            return
        del self._fills[key]
        if isinstance(fill.failure, WrongBody):
            count, *_ = self._mismatches.pop(key, (0, 0.0, None))
            self._mismatches[key] = (count + 1, time.monotonic(), fill.plan.named)
            while len(self._mismatches) > _REMEMBERED:
                self._mismatches.pop(next(iter(self._mismatches)))
        elif fill.completed is not None:
            self._mismatches.pop(key, None)

    @property
    def waiting(self) -> Waiting:
        """Who follows a body that is on its way."""
        followers = [fill.followers for fill in self._fills.values()]
        return Waiting(len(self._fills), sum(followers), max(followers, default=0))

    def doubted(self, key: str) -> bool:
        """Whether the last body of that key was wrong: the page may tell of another one by now."""
        fill = self._fills.get(key)
        # Its clients know of its failure before its task has ended.
        return key in self._mismatches or (fill is not None and isinstance(fill.failure, WrongBody))

    async def close(self) -> None:
        """Cancel what is under way; followers are cut, spools are dropped. A body that is whole may still be kept:
        its last follower was served before the disk had it."""
        whole = {fill.task for fill in self._fills.values() if fill.completed is not None and fill.task is not None}
        for task in self._tasks - whole:
            task.cancel()
        if whole:
            await asyncio.wait(whole, timeout=_ADOPTION)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
