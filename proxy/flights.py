"""One task per key, however many ask: for what is small enough to be waited for whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from proxy.errors import UpstreamFailed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Waiting:
    """Who waits: for so many fetches ``under_way`` so many ``waiters``, for one of them as many as ``most``."""

    under_way: int = 0
    waiters: int = 0
    most: int = 0

    def __add__(self, other: Waiting) -> Waiting:
        """Both together."""
        return Waiting(self.under_way + other.under_way, self.waiters + other.waiters, max(self.most, other.most))


class Flights(Generic[T]):
    """One task per key: the first caller starts it, the others share its result. It outlives all of them."""

    def __init__(self, *, waiters: int) -> None:
        self._waiters = waiters
        self._tasks: dict[str, asyncio.Task[T]] = {}
        self._joined: dict[str, int] = {}
        self._parted: set[asyncio.Task[T]] = set()

    def join(self, key: str, start: Callable[[], Coroutine[Any, Any, T]]) -> tuple[asyncio.Task[T], bool]:
        """The task of that key and whether it was under way already. Await it through ``asyncio.shield``.

        Raises UpstreamFailed (503) when as many as may have joined it."""
        task = self._tasks.get(key)
        if task is not None:
            if self._joined[key] >= self._waiters:
                raise UpstreamFailed("too many clients wait for the same answer", status=503, retry_after=2)
            self._joined[key] += 1
            return task, True
        self._joined[key] = 1
        task = self._tasks[key] = asyncio.create_task(start(), name=f"flight {key}")
        task.add_done_callback(lambda done: self._landed(key, done))
        return task, False

    @property
    def waiting(self) -> Waiting:
        """How many are under way, and who joined them."""
        return Waiting(len(self._tasks), sum(self._joined.values()), max(self._joined.values(), default=0))

    def under_way(self, key: str) -> asyncio.Task[T] | None:
        """The task of that key, None when there is none."""
        return self._tasks.get(key)

    def part_with(self, covered: Callable[[str], bool]) -> None:
        """Let the tasks of those keys go on for who has joined them; who comes from here on shares none of them."""
        for key in [key for key in self._tasks if covered(key)]:
            self._parted.add(self._tasks.pop(key))
            del self._joined[key]

    def _landed(self, key: str, task: asyncio.Task[T]) -> None:
        self._parted.discard(task)
        if self._tasks.get(key) is task:
            del self._tasks[key], self._joined[key]
        if not task.cancelled():
            task.exception()  # mark it as seen: whoever started it may be gone

    async def close(self) -> None:
        """Cancel what is under way."""
        tasks = [*self._tasks.values(), *self._parted]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
