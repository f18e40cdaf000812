"""What goes when there is too much: by bytes, least recently used first, down to a low-water mark."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from proxy.ballast import Ballast
from proxy.directory import RoomName, free_space
from proxy.errors import StoreFailed
from proxy.room import Room
from proxy.workers import Workers

# A room over its limit is brought down to this part of it, so that not every adoption evicts.
LOW_WATER = 0.9
# One object takes at most this part of its room's limit: a larger one would push out everything for itself.
LARGEST = 0.25
# What a row takes beside its body. A mount's may be empty, and there is no end to its URLs.
BESIDE: Mapping[RoomName, int] = {"mounts": 4096}
# The rooms of bodies.
BODIES: tuple[RoomName, ...] = ("mounts", "wheels")


class Evictor:
    """Keeps each room under its own limit (bytes), and the disk's free space above its floor.

    The floor is ``min_free`` or 5 % of the filesystem, what is less; for it, and for a ballast that was released, so
    that there is room to put it back, bodies are evicted, of the larger of their rooms first: never responses, which
    are small and without which nothing else is found.
    ``flush`` writes the access times that are still in memory, without which the order would be wrong.
    """

    def __init__(
        self,
        directory: Path,
        workers: Workers,
        ballast: Ballast,
        limits: Mapping[RoomName, int],
        *,
        min_free: int,
        flush: Callable[[], Awaitable[None]],
    ) -> None:
        self._directory = directory
        self._workers = workers
        self._ballast = ballast
        self._limits = limits
        self._min_free = min_free
        self._flush = flush
        self._one_at_a_time = asyncio.Lock()

    def fits(self, name: RoomName, size: int) -> bool:
        """Whether one object of so many bytes may be in the room at all."""
        return size <= self._limits[name] * LARGEST

    def shortage(self, size: int = 0) -> int:
        """Bytes that must be freed before ``size`` more may be written; 0 when none. Raises OSError."""
        free, floor = free_space(self._directory, self._min_free)
        return max(0, floor + self._ballast.owed + size - free)

    @property
    def evictable(self) -> int:
        """Bytes that may go for the sake of free space."""
        return sum(self._workers.rooms[name].bytes for name in BODIES)

    async def bring_down(self, name: RoomName, keep: str | None = None) -> None:
        """Evict down to the low-water mark when the room is over its limit, but never the row ``keep``."""
        limit = self._limits[name]
        if self._taken(name) <= limit:
            return
        async with self._one_at_a_time:
            await self._flushed()
            goal = int(limit * LOW_WATER)
            while (over := self._taken(name) - goal) > 0 and await self._step(name, over, keep):
                pass

    def _taken(self, name: RoomName) -> int:
        room = self._workers.rooms[name]
        return room.bytes + room.count * BESIDE.get(name, 0)

    async def after_writing(self, name: RoomName, keep: str | None) -> None:
        """The same for a caller whose row is committed: an eviction that fails is not its failure. It is
        logged and shown by `degraded`, and the next writing tries again."""
        with contextlib.suppress(StoreFailed):
            await self.bring_down(name, keep)

    async def free(self, size: int = 0) -> bool:
        """Evict bodies until ``size`` more bytes leave the floor untouched; False when they cannot."""
        if self._short(size):
            async with self._one_at_a_time:
                await self._flushed()
                while need := self._short(size):
                    if not await self._evicted(need):
                        return False
        if self._ballast.owed:
            await self._workers.hold_ballast()
        return True

    async def _flushed(self) -> None:
        # A disk without space for the times needs the eviction all the more.
        with contextlib.suppress(StoreFailed):
            await self._flush()

    def _short(self, size: int) -> int:
        try:
            return self.shortage(size)
        except OSError as error:
            raise self._workers.failed(error, "write bodies") from error

    async def _evicted(self, need: int) -> bool:
        # What a room says of its bytes may be damaged: one that is empty all the same gives way to the other.
        for name in sorted(BODIES, key=lambda each: self._workers.rooms[each].bytes, reverse=True):
            if await self._step(name, need, None):
                return True
        return False

    async def _step(self, name: RoomName, need: int, keep: str | None) -> int:
        evict = partial(Room.evict, need=need, keep=keep, beside=BESIDE.get(name, 0))
        return await self._workers.ask(name, evict, frees=True)
