"""One task per key, however many ask: for what is small enough to be waited for whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from proxy.errors import UpstreamFailed

T = TypeVar("T")


class Flights(Generic[T]):
    """One task per key: the first caller starts it, the others share its result. It outlives all of them."""

    def __init__(self, *, waiters: int) -> None:
        self._waiters = waiters
        self._tasks: dict[str, asyncio.Task[T]] = {}
        self._joined: dict[str, int] = {}

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

    def _landed(self, key: str, task: asyncio.Task[T]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key], self._joined[key]
        if not task.cancelled():
            task.exception()  # mark it as seen: whoever started it may be gone

    async def close(self) -> None:
        """Cancel what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
