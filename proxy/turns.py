"""One after the other: of two looks at a page one compares with what is stored only when the other's page is, or the
older one, written last, would stay. A look has its answer before that; its turn ends with the writing."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

_REMEMBERED = 10_000


class Turns:
    """By key. A lock is gone with the last that holds it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._writing: dict[str, asyncio.Task[None]] = {}
        self._count = 0
        # What was written lately, or may have been, in order; and the number of what was forgotten last.
        self._touched: OrderedDict[str, int] = OrderedDict()
        self._forgotten = 0

    def mark(self) -> int:
        """Now, counted in what was touched."""
        return self._count

    def untouched(self, key: str, since: int) -> bool:
        """Whether nothing can have been written under that key that was not there before: neither since that mark, nor
        since we know of it at all."""
        return key not in self._touched and self._forgotten <= since

    def touched(self, key: str) -> None:
        """Something is written under that key, or what is there could not be read."""
        self._count += 1
        self._touched.pop(key, None)
        self._touched[key] = self._count
        while len(self._touched) > _REMEMBERED:
            self._forgotten = self._touched.popitem(last=False)[1]

    @asynccontextmanager
    async def taken(self, key: str) -> AsyncIterator[None]:
        """Around the comparison; the turn goes on until what is ``writing`` by then is written."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        await lock.acquire()
        try:
            yield
        finally:
            writing = self._writing.get(key)
            if writing is None:
                lock.release()
            else:
                writing.add_done_callback(lambda _: lock.release())

    def writing(self, key: str, task: asyncio.Task[None]) -> None:
        """What whoever has the turn writes: it ends with the task."""
        self.touched(key)
        if not task.done():
            self._writing[key] = task
            task.add_done_callback(lambda _: self._writing.pop(key))

    async def written(self, key: str) -> None:
        """Return when nothing of that key is being written."""
        if (writing := self._writing.get(key)) is not None:
            await asyncio.wait([writing])
