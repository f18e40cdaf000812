"""A round through all that is kept, now and then: each row is read, each body read from the disk and hashed.

Bits rot without a time of change, so a body counts as unproven here whatever is known of it. A round is slow on
purpose, so that clients do not notice. ``<directory>/verified`` says when the last one ended; without that file one
is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from proxy.core.messages import Entry
from proxy.directory import ROOMS, RoomName
from proxy.disk import FAILURES, Foreign, value_of
from proxy.entries import MARK
from proxy.errors import StoreFailed
from proxy.memory import FileRow, Value
from proxy.room import STEP, Room
from proxy.rows import Rows, decoded
from proxy.soundness import is_whole
from proxy.verification import Verification
from proxy.workers import Workers

log = logging.getLogger("proxy.store")

RATE = 16 * 2**20
"""Bytes per second of a round: a terabyte takes 18 hours, and a thirtieth of one core."""
MARK_NAME = "verified"
LOOK_EVERY = 60.0
"""Seconds between two looks at whether a round is due."""
# What one job may take of the store's one thread: a reader waits as long behind it.
_SECONDS = 0.01
_FIRST = -(2**63)


@dataclass(slots=True)
class Round:
    """What a round has seen: how many bodies and rows, their bytes, and what was ``damaged``, in words for people.
    ``left`` are rooms it did not come through, because their disk or database failed."""

    bodies: int = 0
    rows: int = 0
    bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Seen:
    """Some rows after another: the last one's id, None behind the end; how many; bytes of their values; the bodies
    that they name; and the keys of those that were damaged, and have been removed."""

    last: int | None
    rows: int
    bytes: int
    bodies: list[tuple[str, FileRow, Entry]]
    damaged: list[str]


class Rounds:
    """Rounds through one directory."""

    def __init__(self, directory: Path, rows: Rows, workers: Workers, verification: Verification) -> None:
        self._mark = directory / MARK_NAME
        self._rows = rows
        self._workers = workers
        self._verification = verification
        self._unwritten = 0.0

    async def now_and_then(self, every: float) -> None:
        """Go whenever the last one is so many seconds ago, until cancelled; 0 is never."""
        while every > 0:
            await asyncio.sleep(min(LOOK_EVERY, every))
            # A clock that went back would keep it from ever being time.
            if not 0 <= time.time() - self.last() < every:
                went = await self.go(RATE)
                damaged = len(went.damaged)
                fields = {"bodies": went.bodies, "rows": went.rows, "bytes": went.bytes, "damaged": damaged}
                log.log(
                    logging.ERROR if damaged or went.left else logging.INFO,
                    "verified %d bodies and %d rows: %d damaged, and removed",
                    *(went.bodies, went.rows, damaged),
                    extra={"event": "verified", "fields": fields},
                )

    def last(self) -> float:
        """When the last round ended, in seconds since the epoch; 0 for never."""
        with contextlib.suppress(OSError):
            return os.stat(self._mark).st_mtime
        return self._unwritten

    async def go(self, rate: float | None = None) -> Round:
        """One round through all rooms, at ``rate`` bytes per second at most. What fails is left for the next one."""
        went = Round()
        for name in ROOMS:
            try:
                await self._through(name, went, rate)
            except StoreFailed as error:
                log.error("the verification of %s stopped: %s", name, error.because)
                went.left.append(f"{name}: {error.because}")
        now = time.time()
        try:
            os.close(os.open(self._mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            os.utime(self._mark, (now, now))
        except OSError:
            self._unwritten = now  # on a disk that takes nothing any more one round is enough, too
        return went

    async def thorough(self) -> Round:
        """One round as fast as can be, the databases' own structure included, then a sweep begins. It keeps others from
        the store for long: for a directory that nobody else uses."""
        unsound = [name for name in ROOMS if await self._workers.ask(name, mended, frees=True)]
        went = await self.go()
        went.damaged[:0] = [f"{name}: the database" for name in unsound]
        self._workers.sweep()
        return went

    async def _through(self, name: RoomName, went: Round, rate: float | None) -> None:
        last: int | None = _FIRST
        while last is not None:
            seen = await self._workers.ask(name, partial(examine, name=name, rowid=last), frees=True)
            last = seen.last
            went.rows, went.bytes = went.rows + seen.rows, went.bytes + seen.bytes
            went.damaged += [f"{name}: a row" + f" ({key})" * bool(key) for key in seen.damaged]
            if rate is not None:
                await asyncio.sleep(seen.bytes / rate)
            for key, row, entry in seen.bodies:
                await self._look(name, key, row, entry, went, rate)

    async def _look(
        self, name: RoomName, key: str, row: FileRow, entry: Entry, went: Round, rate: float | None
    ) -> None:
        handle = self._verification.open(name, row)
        if handle is None:
            # Evicted or replaced since, and then the row is, too.
            if await self._rows.drop_seen(name, key, row, damaged=True):
                went.damaged.append(f"{name}/{row.filename} (gone)")
            return
        with handle:
            _read_from_disk(handle.fileno())
            if await self._verification.proves(name, key, row, entry, handle.fileno(), rate=rate) is not None:
                went.bodies, went.bytes = went.bodies + 1, went.bytes + entry.size
            else:
                went.damaged.append(f"{name}/{row.filename}")
            # What is read here once is no reason to forget what clients ask for.
            _read_from_disk(handle.fileno())


def examine(room: Room, name: RoomName, rowid: int) -> Seen:
    """Read the next rows behind that one, for a short time, and remove the damaged ones. On the store's thread."""
    until = time.monotonic() + _SECONDS
    bodies: list[tuple[str, FileRow, Entry]] = []
    bad: list[tuple[int, object, object]] = []
    last, count, size = None, 0, 0
    select = "SELECT rowid, key, raw, mode, filename, value FROM Cache WHERE rowid > ? ORDER BY rowid"
    cursor = room.sql(select, (rowid,))
    for number, key, raw, mode, filename, data in cursor:
        last, count, size = number, count + 1, size + (len(data) if type(data) is bytes else 0)
        value = _sound(name, key, mode, filename, data) if raw == 1 else None
        if value is None:
            bad.append((number, key, filename))
        elif isinstance(value, tuple):
            bodies.append((key, *value))
        if count == STEP or time.monotonic() > until:
            break
    cursor.close()
    with room.transact():
        for number, key, filename in bad:
            room.sql("DELETE FROM Cache WHERE rowid = ?", (number,))
            room.let_go(key, filename)
    room.damaged += len(bad)
    return Seen(last, count, size, bodies, [key if type(key) is str else "" for _, key, _ in bad])


def _sound(
    name: RoomName, key: object, mode: object, filename: object, data: object
) -> bytes | tuple[FileRow, Entry] | None:
    """The value of a row, or its body and the entry of that; None for a row that we cannot have written."""
    if type(key) is not str:
        return None
    try:
        value: Value = value_of(key, mode, filename, data)
    except (Foreign, ValueError):
        return None
    if isinstance(value, bytes) and not value.startswith(MARK):
        return value
    entry = decoded(name, key, value)
    return None if entry is None else value if isinstance(value, bytes) else (value, entry)


def mended(room: Room) -> bool:
    """Whether the database was not sound in itself, its trees, or its indexes against its rows: then those indexes are
    made anew, or, where that does not help, it starts empty. Takes seconds per gigabyte of the store's thread. Raises
    what is in FAILURES when the disk fails: that says nothing of the database."""
    if is_whole(room.sql):
        return False
    with contextlib.suppress(*FAILURES):
        room.sql("REINDEX")
    if not is_whole(room.sql):
        room.rebuild()
    return True


def _read_from_disk(descriptor: int) -> None:
    """Let the kernel forget what it remembers of the file, where it can: the disk is to be read, not the memory."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
