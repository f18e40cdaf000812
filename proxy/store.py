"""What is kept: small values and heads in databases, bodies as files; one owner, an async surface.

    <directory>/responses/   heads, pages, listings, metadata      each room has its own limit: wheels never push
    <directory>/wheels/      wheels and sdists, each a real file   pages out, nor what mounts answered wheels
    <directory>/mounts/      what mounts answered, each body a real file
    <directory>/incoming/    spool files

Order: the body is durable under its final name before its row is committed, and unlinked only after
its row is gone. A crash leaves an orphan, never a lie.

Threads: every SQL statement of all rooms runs on one thread (SQLite before 3.51.3 can corrupt a WAL under
several connections); fsync, link and unlink on a few others; a sweep walks on its own. Warm hits are answered
from memory on the event loop and meet none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from proxy.adoption import Adoption
from proxy.ahead import WriteBehind
from proxy.athand import AtHand
from proxy.ballast import Ballast
from proxy.bodies import Spool, discard_spool, open_spool
from proxy.core.messages import Entry
from proxy.core.mounted import raw_key, variants_key
from proxy.directory import RoomName, claim, release
from proxy.entries import dump_entry, load_entry
from proxy.errors import StoreFailed
from proxy.eviction import Evictor
from proxy.fence import Fence, name_of
from proxy.inventory import Inventory
from proxy.kept import RoomStats, StoreStats
from proxy.memory import FileRow, Table
from proxy.room import STEP, Room, Row
from proxy.rounds import Rounds
from proxy.rows import Rows, dumped
from proxy.sweep import Linking, Sweeper
from proxy.verification import Verification
from proxy.workers import Workers

__all__ = ["RoomStats", "Row", "Spool", "Store", "StoreStats", "StoredFile", "dump_entry", "load_entry"]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An entry and its body, open for reading from the start. The body can be read to its end whatever
    happens to the entry meanwhile; whoever got it closes it."""

    entry: Entry
    handle: BinaryIO
    doubt: Callable[[], None]
    """To be called when the handle cannot be read: who asks next does not get this body unless it can."""

    def close(self) -> None:
        """Close the handle."""
        self.handle.close()


class Store:
    """One cache directory, owned from `open` to `close`.

    Every coroutine raises StoreFailed when the disk or the database fails, and no other error. ``degraded``
    says in a few words what fails at present. Keys are text; the rooms are `ROOMS`.
    """

    def __init__(
        self, directory: Path, lock: int, limits: dict[RoomName, int], *, min_free: int, ballast: Ballast, memory: int
    ) -> None:
        """Use `open`."""
        self.directory = directory
        self._lock: int | None = lock
        self._limits = limits
        self.fence = Fence()
        self._table = Table(memory)
        linking = Linking()
        self._workers = Workers(self._table, ballast, lambda: self._sweeper.begin())
        self._sweeper = Sweeper(directory, linking, self._workers)
        self._rows = Rows(self._table, self._workers, self.fence)
        self._table.foretold = self._rows.coming
        self._evictor = Evictor(directory, self._workers, ballast, limits, min_free=min_free, flush=self._rows.flush)
        self.verification = Verification(directory, self._rows, self._workers)
        self._adoption = Adoption(directory, self._workers, self._evictor, linking, self.fence, self.verification)
        self.inventory = Inventory(self._workers, self._rows, self.fence)
        self.at_hand = AtHand(directory, self._table, self._rows, self.fence, self.verification)
        self.rounds = Rounds(directory, self._rows, self._workers, self.verification)
        self.behind = WriteBehind(self._rows.ahead, self.write, self._adoption.spawn)
        self._behind: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        max_size: int,
        responses_max_size: int,
        mounts_max_size: int,
        min_free: int,
        ballast: int | None = None,
        memory: int = 32 * 2**20,
        verify_every: float = 0.0,
        sweep: bool = True,
    ) -> Store:
        """Take the directory, made when missing, and open it; the sweep goes on behind. All sizes in bytes;
        for the ballast see `Ballast`, for ``verify_every`` (seconds) `Rounds`.

        Raises OwnedElsewhere when another process holds it, StoreFailed when it cannot be used: a newer
        version, another user's, not a cache, not writable, locked.
        """
        directory = Path(os.path.abspath(directory))  # noqa: ASYNC240 - reads the working directory, no more
        try:
            lock = await asyncio.to_thread(claim, directory)
        except OSError as error:
            raise StoreFailed("the cache directory cannot be used") from error
        limits: dict[RoomName, int] = {"wheels": max_size, "responses": responses_max_size, "mounts": mounts_max_size}
        held = Ballast(directory, ballast, min_free=min_free)
        store = cls(directory, lock, limits, min_free=min_free, ballast=held, memory=memory)
        try:
            await store._workers.open(directory)
        except BaseException:
            await store.close()
            raise
        if sweep:
            store._sweeper.begin()
        for work in (store._rows.flush_now_and_then(), store.rounds.now_and_then(verify_every)):
            store._behind.add(asyncio.create_task(work))
        return store

    async def close(self) -> None:
        """Finish what is under way, write the access times, close the databases, let go of the directory.

        A second call does nothing. After it every coroutine raises StoreFailed.
        """
        lock, self._lock = self._lock, None
        if lock is None:
            return
        for task in self._behind:
            task.cancel()
        if self._behind:
            await asyncio.wait(self._behind)
        await self._sweeper.stop()
        await self._adoption.settled()
        await self.verification.close()
        if self._workers.rooms:
            with contextlib.suppress(StoreFailed):
                await self.flush()
        await self._workers.close()
        release(lock)

    @property
    def degraded(self) -> str | None:
        """What fails at present, in constant words; None when the last writing worked."""
        return self._workers.degraded

    def stats(self) -> StoreStats:
        """Counts and bytes of all rooms; costs nothing."""
        stats, limits = self._workers.rooms.items(), self._limits
        rooms = {name: RoomStats(it.count, it.bytes, limits[name], it.evicted, it.damaged) for name, it in stats}
        return StoreStats(rooms["wheels"], rooms["responses"], rooms["mounts"], len(self._table), self._table.bytes)

    def mark(self) -> int:
        """Now, for the ``since`` of what is asked for from here on; costs nothing. Take it before an upstream is
        asked, and before what is kept is read that another is made of."""
        return self.fence.mark()

    # --- small values, in responses/

    def peek(self, key: str) -> bytes | None:
        """The value if it is in memory: no thread, no disk. None says nothing about the disk."""
        value = self._rows.peek("responses", key)
        return value if isinstance(value, bytes) else None

    async def read(self, key: str) -> bytes | None:
        """The value, None when there is none."""
        value = await self._rows.value("responses", key)
        return value if isinstance(value, bytes) else None

    async def write(
        self, rows: Sequence[Row], *, drop: Sequence[str] = (), since: int | None = None, together: bool = False
    ) -> None:
        """Write and drop rows in one transaction, all or nothing; ``together`` with others, a moment later. A key in
        both is written. A value over a quarter of the room's limit is refused. Raises Forgotten when what a row belongs
        to was removed after the mark ``since``."""
        if not all(self._evictor.fits("responses", len(row.value)) for row in rows):
            raise StoreFailed("the value is too large to be kept")
        names = [name_of("responses", row.key, row.tag, "") for row in rows]
        job = self.fence.checked(partial(Room.write, rows=rows, drop=drop), since, names)
        await (self._workers.together if together else self._workers.ask)("responses", job)
        await self._evictor.after_writing("responses", rows[-1].key if rows else None)

    async def drop(self, keys: Sequence[str]) -> None:
        """Drop rows; what is not there is no error."""
        await self.remove("responses", keys)

    # --- bodies, in all rooms

    async def entry(self, room: RoomName, key: str) -> Entry | None:
        """The decoded head of a body, or of any row that holds a dumped entry; None when there is none.

        A row that does not decode is dropped.
        """
        value = await self._rows.value(room, key)
        return None if value is None else await self._rows.entry_in(room, key, value)

    async def stored(self, room: RoomName, key: str) -> StoredFile | None:
        """A body open for reading, from memory's head without another thread; None when there is none.

        A row whose body is gone or not what was kept is dropped: see `Verification`.
        """
        while (value := await self._rows.value(room, key)) is not None:
            # Of this very value: asked for by its key, it could be another's by now.
            entry = await self._rows.entry_in(room, key, value)
            if entry is None or not isinstance(value, FileRow):
                return None
            handle = await self.verification.opened(room, key, value, entry)
            if handle is not None:
                return StoredFile(entry, handle, partial(self.verification.doubt, value.filename))
            # Evicted, replaced, vanished or damaged. The row went only if it still named that body, and then the loop
            # finds none; if it was replaced, the loop finds the new one.
        return None

    async def find(self, room: RoomName, tag: str) -> list[Entry]:
        """All entries of one tag, bodies and dumped entries alike. Rows that do not decode are left out."""
        return await self._rows.tagged(room, tag)

    async def spool(self) -> Spool:
        """A new file in incoming/. It ends with `discard`, also after it was adopted."""
        try:
            return open_spool(self.directory / "incoming")
        except OSError as error:
            raise self._workers.failed(error, "write bodies") from error

    async def discard(self, spool: Spool) -> None:
        """Unlink and close a spool file; once is enough, more is no error."""
        await self._workers.file(discard_spool, spool)

    async def adopt(self, room: RoomName, spool: Spool, entry: Entry, name: str, *, since: int | None = None) -> Entry:
        """Keep a spooled body under ``entry.key``, its last part of path being ``name``.

        Returns the entry with ``body`` set. The spool's descriptor stays open for those who still read from
        it; `discard` closes it. A cancelled caller does not undo the adoption: it goes on to its end. Raises
        Forgotten when it was removed after the mark ``since``.
        """
        kept = await self._adoption.adopt(room, spool, entry, name, since)
        self._rows.learn(room, kept)
        return kept

    async def update(self, room: RoomName, key: str, entry: Entry) -> bool:
        """Put a new head over the same body; False when that body is not the key's any more. It brings nothing back
        that was removed: no two bodies have the same file name."""
        filename = entry.body.removeprefix(f"{room}/")
        body = FileRow(filename, entry.size, dumped(entry))
        return await self._workers.ask(room, partial(Room.update, key=key, body=body, tag=entry.tag))

    async def remove(self, room: RoomName, keys: Sequence[str]) -> int:
        """Remove rows and their bodies; returns the bytes freed. Open bodies can be read to their end."""
        freed = 0
        for start in range(0, len(keys), STEP):
            freed += await self._workers.ask(room, partial(Room.delete, keys=keys[start : start + STEP]), frees=True)
        return freed

    async def invalidate(self, mount: str, rest: str) -> None:
        """Drop what is kept of one URL of a mount, all variants of it: an unsafe method changed it (RFC 9111 §4.4).
        What was asked for before is not kept either, if its marks are given as ``since``."""
        with self.fence.invalidating(mount, rest):
            await self._workers.ask("mounts", partial(Room.delete_below, prefix=raw_key(mount, rest, "")), frees=True)
            await self.drop([variants_key(mount, rest)])

    def has_room(self, size: int, room: RoomName = "wheels") -> bool:
        """Whether a body of so many bytes may be kept: not over a quarter of the limit, and the disk keeps
        its free space. When evicting bodies makes that space, it begins at once and the answer is yes."""
        if self._lock is None or not self._evictor.fits(room, size):
            return False
        try:
            short = self._evictor.shortage(size)
        except OSError as error:
            self._workers.failed(error, "write bodies")
            return False
        if short > self._evictor.evictable:
            return False
        if short:
            self._adoption.spawn(self._evictor.free(size))
        return True

    # --- what goes on behind

    async def swept(self) -> None:
        """Return when the sweep that began with `open` has ended, well or not."""
        await self._sweeper.done()

    async def flush(self) -> None:
        """Write the access times collected since the last time."""
        await self._rows.flush()
