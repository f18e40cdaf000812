"""Rows on their way into the database: found before they are there, so that nobody waits for the disk.

    loop:     put v2, answer with it   who asks now gets v2        the table has v2   gone from here
    thread:                                          commit v2

A row that was removed since it was asked for is not found, as it will not be committed (see `fence`). One that cannot
be committed is found no more when that is known. A crash loses what was here: it is asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from proxy.errors import StoreFailed
from proxy.fence import Fence, name_of
from proxy.room import Row

MOST = 32 * 2**20
"""Bytes; who brings more waits until they are written."""
PATIENCE = 1.0


class Ahead:
    """The rows of ``responses`` that are being written. Belongs to the event loop. ``told`` is called with the key of
    each that is put: it is another from then on, and not once more when it is written."""

    def __init__(self, fence: Fence, told: Callable[[str], None] = lambda key: None) -> None:
        self.bytes = 0
        self._fence = fence
        self._told = told
        self._rows: dict[str, tuple[Row, int | None]] = {}

    @property
    def full(self) -> bool:
        """Whether more lies here than may."""
        return self.bytes > MOST

    def put(self, rows: Sequence[Row], since: int | None) -> None:
        """Find these from now on, until they are ``written``; ``since`` is their mark."""
        for row in rows:
            self._rows[row.key] = row, since
            self.bytes += len(row.value)
            self._told(row.key)

    def written(self, rows: Sequence[Row]) -> None:
        """They are in the database, or never will be. What came after them under the same key stays."""
        for row in rows:
            self.bytes -= len(row.value)
            if self._rows.get(row.key, (None, None))[0] is row:
                del self._rows[row.key]

    def get(self, key: str) -> Row | None:
        """The row that will be there in a moment."""
        row, since = self._rows.get(key, (None, None))
        if row is None or (since is not None and self._fence.hides(since, *name_of("responses", key, row.tag, ""))):
            return None
        return row


class WriteBehind:
    """Writes rows after they can be found. ``write`` is the store's; ``spawn`` lets it go on, also when we stop."""

    def __init__(
        self,
        ahead: Ahead,
        write: Callable[..., Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._ahead = ahead
        self._write = write
        self._spawn = spawn
        self._tasks: set[asyncio.Task[None]] = set()

    async def write(
        self, rows: Sequence[Row], drop: Sequence[str], since: int | None, more: Awaitable[Row] | None = None
    ) -> asyncio.Task[None]:
        """As ``Store.write`` does, but a failure costs only the keeping; ``more``: a row that is still being made, and
        is written with the others. Returns when no more lies ahead than may, with what ends when these rows are
        written, or never will be."""
        self._ahead.put(rows, since)
        task = self._spawn(self._written(rows, drop, since, more))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._ahead.full:
            await asyncio.wait([task])
        return task

    async def settled(self) -> None:
        """Return when all is written that lay ahead by now, or after PATIENCE: a disk may hang."""
        if tasks := set(self._tasks):
            await asyncio.wait(tasks, timeout=PATIENCE)

    async def _written(
        self, rows: Sequence[Row], drop: Sequence[str], since: int | None, more: Awaitable[Row] | None
    ) -> None:
        found = list(rows)
        try:
            if more is not None:
                found.append(await more)
                self._ahead.put(found[-1:], since)
            with suppress(StoreFailed):
                await self._write(found, drop=drop, since=since, together=True)
        finally:
            self._ahead.written(found)
