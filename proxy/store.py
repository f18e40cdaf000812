"""What is kept: small values and heads in two databases, bodies as files; one owner, an async surface.

    <directory>/responses/   heads, pages, listings, metadata      its own limit: wheels never push pages out
    <directory>/wheels/      wheels and sdists, each a real file
    <directory>/incoming/    spool files

Order (rule 7): the body is durable under its final name before its row is committed, and unlinked only after
its row is gone. A crash leaves an orphan, never a lie.

Threads: every SQL statement of both rooms runs on one thread (SQLite before 3.51.3 can corrupt a WAL under
several connections); fsync, link and unlink on a few others; a sweep walks on its own. Warm hits are answered
from memory on the event loop and meet none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from proxy.bodies import (
    Spool,
    discard_spool,
    new_filename,
    open_body,
    open_spool,
    place,
    remove_files,
)
from proxy.core.messages import Entry
from proxy.directory import ROOMS, RoomName, claim, release
from proxy.entries import MARK, dump_entry, load_entry
from proxy.errors import StoreFailed
from proxy.eviction import Evictor
from proxy.memory import FileRow, Table, Value
from proxy.room import STEP, Room, Row
from proxy.sweep import Linking, sweep
from proxy.workers import Workers

__all__ = ["RoomStats", "Row", "Spool", "Store", "StoreStats", "StoredFile", "dump_entry", "load_entry"]

log = logging.getLogger("proxy.store")

# Seconds between two writings of access times; a crash forgets that much of who was used last.
FLUSH_EVERY = 30.0


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An entry and its body, open for reading from the start. The body can be read to its end whatever
    happens to the entry meanwhile; whoever got it closes it."""

    entry: Entry
    handle: BinaryIO

    def close(self) -> None:
        """Close the handle."""
        self.handle.close()


@dataclass(frozen=True, slots=True)
class RoomStats:
    """Rows, bytes of values and bodies, and the limit in bytes."""

    count: int
    bytes: int
    limit: int


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Both rooms, and what the table in memory holds."""

    wheels: RoomStats
    responses: RoomStats
    memory_count: int
    memory_bytes: int


class Store:
    """One cache directory, owned from `open` to `close`.

    Every coroutine raises StoreFailed when the disk or the database fails, and no other error. ``degraded``
    says in a few words what fails at present. Keys are text; a room is "wheels" or "responses".
    """

    def __init__(self, directory: Path, lock: int, limits: dict[RoomName, int], *, min_free: int, memory: int) -> None:
        """Use `open`."""
        self.directory = directory
        self._lock: int | None = lock
        self._limits = limits
        self._places = {name: directory / name for name in ROOMS}
        self._table = Table(memory)
        self._workers = Workers(self._table, self._begin_sweep)
        self._evictor = Evictor(directory, self._workers, limits, min_free=min_free, flush=self.flush)
        self._used: dict[RoomName, dict[str, float]] = {name: {} for name in ROOMS}
        self._linking = Linking()
        self._sweeping: asyncio.Task[None] | None = None
        self._sweep_again = False
        self._flushing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        max_size: int,
        responses_max_size: int,
        min_free: int,
        memory: int = 32 * 2**20,
    ) -> Store:
        """Take the directory, made when missing, and open it; the sweep goes on behind. All sizes in bytes.

        Raises OwnedElsewhere when another process holds it, StoreFailed when it cannot be used: a newer
        version, another user's, not a cache, not writable, locked.
        """
        directory = Path(os.path.abspath(directory))  # noqa: ASYNC240 - reads the working directory, no more
        try:
            lock = await asyncio.to_thread(claim, directory)
        except OSError as error:
            raise StoreFailed("the cache directory cannot be used") from error
        limits: dict[RoomName, int] = {"wheels": max_size, "responses": responses_max_size}
        store = cls(directory, lock, limits, min_free=min_free, memory=memory)
        try:
            await store._workers.open(directory)
        except BaseException:
            await store.close()
            raise
        store._begin_sweep()
        store._flushing = asyncio.create_task(store._flush_now_and_then())
        return store

    async def close(self) -> None:
        """Finish what is under way, write the access times, close the databases, let go of the directory.

        A second call does nothing. After it every coroutine raises StoreFailed.
        """
        lock, self._lock = self._lock, None
        if lock is None:
            return
        for task in (self._flushing, self._sweeping):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        while self._tasks:
            await asyncio.wait(self._tasks)
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
        """Counts and bytes of both rooms; costs nothing."""
        rooms = {
            name: RoomStats(self._workers.rooms[name].count, self._workers.rooms[name].bytes, limit)
            for name, limit in self._limits.items()
        }
        return StoreStats(rooms["wheels"], rooms["responses"], len(self._table), self._table.bytes)

    # --- small values, in responses/

    def peek(self, key: str) -> bytes | None:
        """The value if it is in memory: no thread, no disk. None says nothing about the disk."""
        item = self._table.get("responses", key)
        if item is None or not isinstance(item.value, bytes):
            return None
        self._used["responses"][key] = time.time()
        return item.value

    async def read(self, key: str) -> bytes | None:
        """The value, None when there is none."""
        found = self.peek(key)
        if found is not None:
            return found
        value = await self._value("responses", key)
        return value if isinstance(value, bytes) else None

    async def write(self, rows: Sequence[Row], *, drop: Sequence[str] = ()) -> None:
        """Write and drop rows in one transaction: all of it or nothing. A key in both is written.

        A value over a quarter of the room's limit is refused.
        """
        if not all(self._evictor.fits("responses", len(row.value)) for row in rows):
            raise StoreFailed("the value is too large to be kept")
        await self._workers.ask("responses", partial(Room.write, rows=rows, drop=drop))
        await self._bring_down("responses", rows[-1].key if rows else None)

    async def drop(self, keys: Sequence[str]) -> None:
        """Drop rows; what is not there is no error."""
        await self.remove("responses", keys)

    # --- bodies, in both rooms

    async def entry(self, room: RoomName, key: str) -> Entry | None:
        """The decoded head of a body, or of any row that holds a dumped entry; None when there is none.

        A row that does not decode is dropped.
        """
        value = await self._value(room, key)
        return None if value is None else await self._entry_in(room, key, value)

    async def _entry_in(self, room: RoomName, key: str, value: Value) -> Entry | None:
        item = self._table.get(room, key)
        if item is not None and item.value is value and item.entry is not None:
            return item.entry
        entry = _decoded(room, key, value)
        if entry is None:
            log.warning("a row of %s does not decode: dropped", room)
            await self._workers.ask(room, partial(Room.delete_seen, key=key, seen=value))
        elif item is not None and item.value is value:
            item.entry = entry
        return entry

    async def stored(self, room: RoomName, key: str) -> StoredFile | None:
        """A body open for reading, from memory's head without another thread; None when there is none.

        A row whose body is gone or of another size is dropped.
        """
        while (value := await self._value(room, key)) is not None:
            # Of this very value: asked for by its key, it could be another's by now.
            entry = await self._entry_in(room, key, value)
            if entry is None or not isinstance(value, FileRow):
                return None
            try:
                handle = open_body(self._places[room], value.filename, entry.size)
            except OSError as error:
                raise self._workers.failed(error, writes=False) from error
            if handle is not None:
                return StoredFile(entry, handle)
            # Evicted, replaced or vanished. The row goes only if it still names that body, and then the loop
            # finds none; if it was replaced, the loop finds the new one.
            await self._workers.ask(room, partial(Room.delete_seen, key=key, seen=value))
        return None

    async def find(self, room: RoomName, tag: str) -> list[Entry]:
        """All entries of one tag, bodies and dumped entries alike. Rows that do not decode are left out."""
        rows = await self._workers.ask(room, lambda there: list(there.tagged(tag, MARK)), writes=False)
        entries = (_decoded(room, key, value) for key, value in rows)
        return [entry for entry in entries if entry is not None]

    async def spool(self) -> Spool:
        """A new file in incoming/. It ends with `discard`, also after it was adopted."""
        try:
            return open_spool(self.directory / "incoming")
        except OSError as error:
            raise self._workers.failed(error, writes=True) from error

    async def discard(self, spool: Spool) -> None:
        """Unlink and close a spool file; once is enough, more is no error."""
        await self._workers.file(discard_spool, spool)

    async def adopt(self, room: RoomName, spool: Spool, entry: Entry, name: str) -> Entry:
        """Keep a spooled body under ``entry.key``, its last part of path being ``name``.

        Returns the entry with ``body`` set. The spool's descriptor stays open for those who still read from
        it; `discard` closes it. A cancelled caller does not undo the adoption: it goes on to its end.
        """
        filename = new_filename(name)
        if not self._evictor.fits(room, entry.size):
            raise StoreFailed("the body is too large to be kept")
        try:
            # The caller may discard the spool at any time, and the number could then be another file's.
            fd = os.dup(spool.fd)
        except OSError as error:
            raise self._workers.failed(error, writes=True) from error
        kept = replace(entry, body=f"{room}/{filename}")
        return await asyncio.shield(self._spawn(self._adopt(room, spool.path, fd, kept, filename)))

    async def _adopt(self, room: RoomName, source: Path, fd: int, entry: Entry, filename: str) -> Entry:
        there = self._places[room]
        try:
            if not await self._evictor.free():
                raise StoreFailed("the disk has too little space left")
            head = _dumped(entry)
            with self._linking.adopting(filename):
                try:
                    await self._workers.file(place, there, filename, source, fd, entry.size)
                    row = FileRow(filename, entry.size, head)
                    await self._workers.ask(room, partial(Room.adopt, key=entry.key, body=row, tag=entry.tag))
                except BaseException:
                    await self._workers.file(remove_files, there, [filename])
                    raise
        finally:
            os.close(fd)
        with contextlib.suppress(StoreFailed):
            await self._workers.file(source.unlink, missing_ok=True)
        await self._bring_down(room, entry.key)
        return entry

    async def update(self, room: RoomName, key: str, entry: Entry) -> bool:
        """Put a new head over the same body; False when that body is not the key's any more."""
        filename = entry.body.removeprefix(f"{room}/")
        body = FileRow(filename, entry.size, _dumped(entry))
        return await self._workers.ask(room, partial(Room.update, key=key, body=body, tag=entry.tag))

    async def remove(self, room: RoomName, keys: Sequence[str]) -> int:
        """Remove rows and their bodies; returns the bytes freed. Open bodies can be read to their end."""
        freed = 0
        for start in range(0, len(keys), STEP):
            freed += await self._workers.ask(room, partial(Room.delete, keys=keys[start : start + STEP]))
        return freed

    def has_room(self, size: int, room: RoomName = "wheels") -> bool:
        """Whether a body of so many bytes may be kept: not over a quarter of the limit, and the disk keeps
        its free space. When evicting wheels makes that space, it begins at once and the answer is yes."""
        if self._lock is None or not self._evictor.fits(room, size):
            return False
        try:
            short = self._evictor.shortage(size)
        except OSError as error:
            self._workers.failed(error, writes=True)
            return False
        if short > self._workers.rooms["wheels"].bytes:
            return False
        if short:
            self._spawn(self._evictor.free(size))
        return True

    # --- what goes on behind

    async def swept(self) -> None:
        """Return when the sweep that began with `open` has ended, well or not."""
        if self._sweeping is not None:
            await asyncio.wait([self._sweeping])

    async def flush(self) -> None:
        """Write the access times collected since the last time."""
        for name in ROOMS:
            used, self._used[name] = list(self._used[name].items()), {}
            for start in range(0, len(used), STEP):
                await self._workers.ask(name, partial(Room.touch, times=used[start : start + STEP]))

    async def _flush_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY)
            with contextlib.suppress(StoreFailed):
                await self.flush()

    def _begin_sweep(self) -> None:
        self._sweep_again = True
        if self._lock is not None and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        while self._sweep_again:
            self._sweep_again = False
            try:
                await sweep(self.directory, self._linking, self._workers)
            except StoreFailed as error:
                log.error("the sweep stopped: %s", error.because)

    async def _bring_down(self, room: RoomName, keep: str | None) -> None:
        # What was asked for is committed: an eviction that fails is not the caller's failure. It is logged
        # and shown by `degraded`, and the next writing tries again.
        with contextlib.suppress(StoreFailed):
            await self._evictor.bring_down(room, keep)

    async def _value(self, room: RoomName, key: str) -> Value | None:
        item = self._table.get(room, key)
        value = item.value if item is not None else None
        if value is None:
            value = await self._workers.ask(room, partial(Room.get, key=key), writes=False)
        if value is not None:
            self._used[room][key] = time.time()
        return value

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, or asyncio would report the one whose caller has left


def _dumped(entry: Entry) -> bytes:
    try:
        return dump_entry(entry)
    except ValueError as error:
        raise StoreFailed("the entry cannot be kept") from error


def _decoded(room: RoomName, key: str, value: Value) -> Entry | None:
    try:
        entry = load_entry(value if isinstance(value, bytes) else value.head)
    except ValueError:
        return None
    # A row that holds another key's entry, or names another file than its head, was damaged or swapped.
    if entry.key != key:
        return None
    if isinstance(value, FileRow) and entry.body != f"{room}/{value.filename}":
        return None
    return entry
