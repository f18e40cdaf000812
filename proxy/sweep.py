"""The sweep after a start: rows without their body and files without their row go, while the store is in use.

A crash leaves files that no row names (a body linked, its row not committed; a row deleted, its file not yet
unlinked), a lost commit or a hand leaves rows whose body is gone. Neither is ever served; both are counted
wrongly or take space.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from proxy.bodies import body_size, files_of, is_filename, remove_strays, shards
from proxy.directory import ROOMS, RoomName
from proxy.disk import MODE_BINARY, MODE_RAW, SEAL
from proxy.errors import StoreFailed
from proxy.failpoints import reach
from proxy.room import STEP, Room

T = TypeVar("T")
log = logging.getLogger("proxy.store")

_SOUND = (
    "raw = 1 AND typeof(key) = 'text' AND typeof(tag) = 'text' AND typeof(value) = 'blob' AND expire_time IS NULL AND"
    f" ((mode = {MODE_RAW} AND filename IS NULL AND size = length(value) - {SEAL})"
    f" OR (mode = {MODE_BINARY} AND typeof(filename) = 'text' AND size >= 0))"
)


@dataclass(frozen=True, slots=True)
class RowSeen:
    """What the sweep looks at: ``sound`` is false for a row that we cannot have written."""

    rowid: int
    filename: str | None
    size: int
    sound: bool


def rows_after(room: Room, rowid: int) -> list[RowSeen]:
    """The next STEP rows in the order of their ids."""
    columns = f"rowid, filename, size, {_SOUND}"
    select = f"SELECT {columns} FROM Cache WHERE rowid > ? ORDER BY rowid LIMIT ?"  # nosec B608 # constants
    return [
        RowSeen(number, filename, size, bool(sound))
        for number, filename, size, sound in room.sql(select, (rowid, STEP)).fetchall()
    ]


def named(room: Room, filenames: Sequence[str]) -> set[str]:
    """Those of at most STEP filenames that a row names."""
    select = f"SELECT filename FROM Cache WHERE filename IN ({','.join('?' * len(filenames))})"  # nosec B608 # placeholders
    return {filename for (filename,) in room.sql(select, tuple(filenames)).fetchall()}


def drop_rows(room: Room, rows: Sequence[RowSeen]) -> None:
    """Delete rows if they still are what was seen."""
    with room.transact():
        for row in rows:
            where = "WHERE rowid = ? AND filename IS ? AND size IS ?"
            seen = (row.rowid, row.filename, row.size)
            for (key,) in room.sql(f"SELECT key FROM Cache {where}", seen).fetchall():  # nosec B608 # of constants
                room.sql(f"DELETE FROM Cache {where}", seen)  # nosec B608 # of constants
                room.let_go(key, row.filename)


class Linking:
    """Bodies that this process is adopting, or adopted while a sweep was running: not the sweep's business.

    A file is linked before its row is committed, so a sweep could see the file, find no row, and unlink it
    after the row was committed:

        adopt:  link aa/1/x                      commit row
        sweep:               sees aa/1/x, no row             unlinks it: a head without its body

    Asking "is it being adopted?" at the end would not help, it no longer is. So whatever was in flight at any
    moment of the sweep is left alone. Names are never reused, so no stray is spared by mistake.
    """

    def __init__(self) -> None:
        self._now: set[str] = set()
        self._since: set[str] | None = None

    @contextmanager
    def adopting(self, filename: str) -> Iterator[None]:
        """Around an adoption, from before the link to after the commit or the clean-up."""
        place = filename.rpartition("/")[0]
        self._now.add(place)
        if self._since is not None:
            self._since.add(place)
        try:
            yield
        finally:
            self._now.discard(place)

    @contextmanager
    def sweeping(self) -> Iterator[None]:
        """Around a sweep."""
        self._since = set(self._now)
        try:
            yield
        finally:
            self._since = None

    def spares(self, path: str) -> bool:
        """Whether a path below a room is, or is the directory of, such a body."""
        return self._since is not None and "/".join(path.split("/")[:2]) in self._since


class Hands(Protocol):
    """What a sweep works with: ``ask`` runs a short job on the store's thread, ``walk`` a blocking function
    on a thread of the sweep's own."""

    async def ask(self, name: RoomName, job: Callable[[Room], T], *, frees: bool = False) -> T: ...

    async def walk(self, function: Callable[..., T], *arguments: object) -> T: ...


async def sweep(directory: Path, linking: Linking, hands: Hands) -> None:
    """Sweep both rooms. Raises StoreFailed when the disk or the database fails on the way."""
    with linking.sweeping():
        for name in ROOMS:
            await _sweep_rows(name, directory / name, hands)
            await _sweep_files(name, directory / name, linking, hands)
            await hands.ask(name, partial(Room.settle, now=time.time()))


async def _sweep_rows(name: RoomName, room: Path, hands: Hands) -> None:
    last = -(2**63)
    while rows := await hands.ask(name, partial(rows_after, rowid=last)):
        last = rows[-1].rowid
        bad = await hands.walk(_bodiless, room, rows)
        if bad:
            # A row that was replaced since then names another file and is not dropped.
            await hands.ask(name, partial(drop_rows, rows=bad), frees=True)


def _bodiless(room: Path, rows: list[RowSeen]) -> list[RowSeen]:
    return [row for row in rows if not row.sound or not _has_body(room, row)]


def _has_body(room: Path, row: RowSeen) -> bool:
    if row.filename is None:
        return True
    return is_filename(row.filename) and body_size(room, row.filename) == row.size


async def _sweep_files(name: RoomName, room: Path, linking: Linking, hands: Hands) -> None:
    for shard in await hands.walk(shards, room):
        files = await hands.walk(files_of, room, shard)
        for start in range(0, len(files), STEP):
            seen = files[start : start + STEP]
            known = await hands.ask(name, partial(named, filenames=seen))
            strays = [path for path in seen if path not in known and not linking.spares(path)]
            if strays:
                await hands.walk(remove_strays, room, strays)
                reach("sweep")


class Sweeper:
    """Runs sweeps one after the other, behind."""

    def __init__(self, directory: Path, linking: Linking, hands: Hands) -> None:
        self._directory = directory
        self._linking = linking
        self._hands = hands
        self._again = False
        self._stopped = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Sweep now; when a sweep is under way, once more after it."""
        self._again = True
        if not self._stopped and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run())

    async def done(self) -> None:
        """Return when nothing is being swept any more, whether that went well or not."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def stop(self) -> None:
        """Give up what is under way and begin nothing more."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._again:
            self._again = False
            try:
                await sweep(self._directory, self._linking, self._hands)
            except StoreFailed as error:
                log.error("the sweep stopped: %s", error.because)
