"""What is at rest must still be what was kept: every hit's size is looked at, and its sha256 verified.

Once for each process and each state of its file (inode, size, times of change), before the first byte of the first hit
leaves; what was just fetched proved itself on its way in. A damaged body goes with its row: the request is a miss.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from proxy.bodies import open_body
from proxy.core.messages import Entry
from proxy.directory import ROOMS, RoomName
from proxy.disk import FAILURES
from proxy.kept import Sum
from proxy.memory import FileRow
from proxy.rows import Rows
from proxy.workers import Workers

log = logging.getLogger("proxy.store")

# A hash takes a core; more than these would keep the other threads from theirs.
THREADS = 2
# Bytes hashed by one job: small bodies wait behind at most two of them, however large others are.
SLICE = 8 * 2**20
# Files that are remembered as proven, some 120 bytes each; the oldest is forgotten, and proven again when it is hit.
REMEMBERED = 2**17
_BLOCK = 2**18
_TURNS = 3


class Verification:
    """Proofs of the bodies in all rooms. Made on a running loop, ended by `close`.

    ``proven`` is what was read and hashed since the start, and found sound.
    """

    def __init__(self, directory: Path, rows: Rows, workers: Workers) -> None:
        self.proven = Sum(0, 0)
        self._directory = directory
        self._places = {name: directory / name for name in ROOMS}
        self._rows = rows
        self._workers = workers
        self._known: dict[str, int] = {}
        self._under_way: dict[str, asyncio.Task[int | None]] = {}
        self._threads = ThreadPoolExecutor(THREADS, "store-hash")

    def trust(self, filename: str, sha256: str, found: os.stat_result) -> None:
        """Take the file, as it was found, for what its entry says."""
        self._known.pop(filename, None)
        self._known[filename] = _state(found, sha256)
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    def doubt(self, filename: str) -> None:
        """Take the file for what its entry says only when it has been read again."""
        self._known.pop(filename, None)

    def stands(self, entry: Entry) -> Callable[[], bool]:
        """What tells, each time that it is called, whether the entry's file is in the state in which it was proven."""
        place, filename = str(self._directory / entry.body), entry.body.partition("/")[2]
        known, sha256, stat = self._known, entry.sha256, os.stat

        def stands() -> bool:
            try:
                return known.get(filename) == _state(stat(place), sha256)
            except OSError:
                return False

        return stands

    async def opened(self, room: RoomName, key: str, row: FileRow, entry: Entry) -> BinaryIO | None:
        """The body of that row, open for reading from the start, if it is what was kept. If not, the row is gone,
        unless it was replaced. Raises StoreFailed when the disk fails."""
        handle = self.open(room, row)
        if handle is None:
            await self._rows.drop_seen(room, key, row)
            return None
        sound = False
        try:
            sound = await self._holds(room, key, row, entry, handle)
        finally:
            if not sound:
                handle.close()
        if not sound:
            return None
        self._workers.worked("read bodies")
        return handle

    def open(self, room: RoomName, row: FileRow) -> BinaryIO | None:
        """The body as it is; None when it is gone. Raises StoreFailed when the disk fails."""
        try:
            return open_body(self._places[room], row.filename)
        except OSError as error:
            raise self._workers.failed(error, "read bodies") from error

    async def _holds(self, room: RoomName, key: str, row: FileRow, entry: Entry, handle: BinaryIO) -> bool:
        if self._known.get(row.filename) == self._seen(handle, entry):
            return True
        for _ in range(_TURNS):
            proof = self._under_way.get(row.filename) or self._begun(room, key, row, entry, handle)
            # It goes on when who asked leaves: whoever gave up waiting for a large one finds it proven next time.
            proven = await asyncio.shield(proof)
            # Not what is known of it now: others may doubt it again by then, and it is as sound as it was.
            if proven is None or proven == self._seen(handle, entry):
                return proven is not None
        await self._removed(room, key, row)  # it is written to all the time
        return False

    def _seen(self, handle: BinaryIO, entry: Entry) -> int:
        try:
            return _state(os.fstat(handle.fileno()), entry.sha256)
        except OSError as error:
            raise self._workers.failed(error, "read bodies") from error

    def _begun(
        self, room: RoomName, key: str, row: FileRow, entry: Entry, handle: BinaryIO
    ) -> asyncio.Task[int | None]:
        try:
            own = os.fdopen(os.dup(handle.fileno()), "rb")
        except OSError as error:
            raise self._workers.failed(error, "read bodies") from error

        def ended(proof: asyncio.Task[int | None]) -> None:
            del self._under_way[row.filename]
            own.close()
            if not proof.cancelled():
                proof.exception()  # looked at, or asyncio would report the one whose askers have left

        proof = self._under_way[row.filename] = asyncio.create_task(self.proves(room, key, row, entry, own.fileno()))
        proof.add_done_callback(ended)
        return proof

    async def proves(
        self, room: RoomName, key: str, row: FileRow, entry: Entry, descriptor: int, *, rate: float | None = None
    ) -> int | None:
        """Read and hash the body, at ``rate`` bytes per second at most: the state of the file in which it was found
        sound. A damaged one goes, and is None."""
        try:
            # Taken before it is read: what is written from here on makes another state of it.
            found = os.fstat(descriptor)
            sound = found.st_size == entry.size and await self._hashed(descriptor, entry.size, rate) == entry.sha256
        except FAILURES as error:
            raise self._workers.failed(error, "read bodies") from error
        if not sound:
            await self._removed(room, key, row)
            return None
        self.trust(row.filename, entry.sha256, found)
        self.proven = Sum(self.proven.count + 1, self.proven.bytes + entry.size)
        return _state(found, entry.sha256)

    async def _removed(self, room: RoomName, key: str, row: FileRow) -> None:
        self._known.pop(row.filename, None)
        if await self._rows.drop_seen(room, key, row, damaged=True):
            log.error(
                "damaged: the body %s/%s is not what was kept, and was removed",
                room,
                row.filename,
                extra={"event": "damaged", "fields": {"room": room, "file": row.filename}},
            )

    async def _hashed(self, descriptor: int, size: int, rate: float | None) -> str:
        digest, step = hashlib.sha256(), SLICE if rate is None else _BLOCK * 4
        for start in range(0, size, step):
            count = min(step, size - start)
            job = asyncio.get_running_loop().run_in_executor(
                self._threads, _update, digest, descriptor, start, start + count
            )
            try:
                await asyncio.shield(job)
            except asyncio.CancelledError:
                # The descriptor is closed after this, and its number may be another file's.
                await asyncio.wait([job])
                raise
            if rate is not None:
                await asyncio.sleep(count / rate)
        return digest.hexdigest()

    async def close(self) -> None:
        """Give up what is under way, and end the threads."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.to_thread(self._threads.shutdown)


def _state(found: os.stat_result, sha256: str) -> int:
    # Whatever writes to a file, or puts another in its place, changes one of these: utimes(2) sets the time of the
    # change of the inode, and nobody can set that back.
    return hash((found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, sha256))


def _update(digest: hashlib._Hash, descriptor: int, start: int, stop: int) -> None:
    """Runs in a thread: both the read and the hash release the GIL."""
    while start < stop and (block := os.pread(descriptor, min(_BLOCK, stop - start), start)):
        digest.update(block)
        start += len(block)
