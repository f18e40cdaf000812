"""The store's threads: one for all SQLite work, a few for files, one for the sweep's walk.

Foreign exceptions end here: whatever a disk or a database raises becomes StoreFailed, and `degraded` says so
until the next success.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from proxy.ballast import Ballast
from proxy.bodies import remove_files
from proxy.directory import ROOMS, RoomName
from proxy.disk import FAILURES, because_of, is_corrupt, is_full
from proxy.errors import Forgotten, StoreFailed
from proxy.failpoints import reach
from proxy.memory import Table
from proxy.room import Room

T = TypeVar("T")
P = ParamSpec("P")
log = logging.getLogger("proxy.store")
Deed = Literal["read rows", "write rows", "read bodies", "write bodies"]
"""What may fail while the others work: each is good again with its own next success."""

# Enough that one slow fsync does not hold up the next adoption; more would only queue at the disk.
FILE_THREADS = 4
_GATHER = 0.005
"""Seconds in which jobs come together that nobody waits for: a commit costs more than most of what it commits."""


class Workers:
    """Made by `open` on a running loop, ended by `close`. Every coroutine raises StoreFailed, nothing else.

    ``sweep``, which begins a sweep, is called on the loop after an empty database took the place of a corrupt one.
    """

    def __init__(self, table: Table, ballast: Ballast, sweep: Callable[[], None]) -> None:
        self.rooms: dict[RoomName, Room] = {}
        self._failing: dict[Deed, str] = {}
        self._table = table
        self._ballast = ballast
        self.sweep = sweep
        self._loop = asyncio.get_running_loop()
        self._database = ThreadPoolExecutor(1, "store")
        self._files = ThreadPoolExecutor(FILE_THREADS, "store-files")
        self._walker = ThreadPoolExecutor(1, "store-walk")
        self._together: dict[RoomName, list[tuple[Callable[[Room], object], asyncio.Future[None]]]] = {}
        self._gathering: set[asyncio.Task[None]] = set()

    @property
    def degraded(self) -> str | None:
        """In a few words what fails at present, None when nothing does."""
        return next(iter(self._failing.values()), None)

    async def open(self, directory: Path) -> None:
        """Open both rooms on their thread."""

        def connect() -> None:
            for name in ROOMS:
                self.rooms[name] = self._opened(directory / name)

        await self._run(self._database, connect)
        await self.hold_ballast()

    def _opened(self, directory: Path) -> Room:
        while True:
            try:
                return Room(directory)
            except FAILURES as error:
                if not is_full(error):
                    raise
            if not self._ballast.release():
                return Room(directory, logged=False)

    async def close(self) -> None:
        """Close the rooms on their thread and end all threads. A room that fails to close is let go."""

        def disconnect() -> None:
            for room in self.rooms.values():
                with contextlib.suppress(*FAILURES):
                    room.close()

        closing = self._database.submit(disconnect)
        # In the same breath: a job that came in after it would open the database again.
        self._database.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(closing))
        for executor in (self._files, self._walker, self._database):
            await asyncio.to_thread(executor.shutdown)

    async def ask(self, name: RoomName, job: Callable[[Room], T], *, writes: bool = True, frees: bool = False) -> T:
        """Run one short job on a room. Returns when the files it let go are unlinked. One that ``frees`` space
        finds some, or needs none, on a disk that has none left."""
        result, _ = await self.clear(name, job, writes=writes, frees=frees)
        return result

    async def together(self, name: RoomName, job: Callable[[Room], object]) -> None:
        """The same for one that may wait a moment: in one transaction with others. One that is Forgotten is so alone,
        what else fails is all of them."""
        done = self._loop.create_future()
        done.add_done_callback(lambda future: future.cancelled() or future.exception())  # its caller may be gone
        if name not in self._together:
            self._together[name] = []
            gathering = asyncio.create_task(self._gather(name))
            self._gathering.add(gathering)
            gathering.add_done_callback(self._gathering.discard)
        self._together[name].append((job, done))
        await asyncio.shield(done)

    async def _gather(self, name: RoomName) -> None:
        await asyncio.sleep(_GATHER)
        jobs = self._together.pop(name)
        try:
            failures = await self.ask(name, partial(_all_of, jobs=[job for job, _ in jobs]))
        except StoreFailed as failure:
            failures = [failure] * len(jobs)
        for (_, done), failed in zip(jobs, failures, strict=True):
            if failed is None:
                done.set_result(None)
            else:
                done.set_exception(failed)

    async def clear(
        self, name: RoomName, job: Callable[[Room], T], *, writes: bool = True, frees: bool = False
    ) -> tuple[T, int]:
        """The same; also how many directories went with the files."""
        try:
            future = self._database.submit(self._on_thread, name, job, frees)
            result, wrote, unlinking = await asyncio.shield(asyncio.wrap_future(future))
            directories = 0 if unlinking is None else await asyncio.shield(asyncio.wrap_future(unlinking))
        except FAILURES as error:
            raise self.failed(error, "write rows" if writes else "read rows") from error
        # A full disk can still be read and unlinked from: only a commit of changed rows says that writing works again.
        for deed in ("read rows", "write rows") if wrote else ("read rows",):
            self.worked(deed)
        return result, directories

    async def begin_anew(self, name: RoomName, job: Callable[[Room], T]) -> T:
        """Run a job after which the room is empty, and memory forgets it. What it named is to be unlinked, then
        ``sweep`` to be called."""

        def run(room: Room) -> T:
            result = job(room)
            self._post(self._table.clear, name)
            return result

        result = await self.ask(name, run, frees=True)
        self.worked("read rows", "write rows")
        return result

    async def tidy(self) -> None:
        """After a removal: the logs are cut, and the ballast is put back where there is room."""
        for name in ROOMS:
            with contextlib.suppress(StoreFailed):
                await self.ask(name, Room.cut_log, writes=False)
        await self.hold_ballast()

    async def hold_ballast(self) -> None:
        """Put it back where there is room."""
        with contextlib.suppress(StoreFailed):
            await self.file(self._ballast.keep)

    async def file(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Run a blocking function on files. It runs to its end even when the caller is cancelled."""
        return await self._run(self._files, function, *arguments, **named)

    async def unlink(self, name: RoomName, filenames: Sequence[str]) -> int:
        """Bodies of a room that no row names; how many directories went with them."""
        return await self.file(remove_files, self.rooms[name].directory, filenames)

    async def walk(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """The same on the sweep's own thread, where it may take long."""
        return await self._run(self._walker, function, *arguments, **named)

    def failed(self, error: BaseException, deed: Deed) -> StoreFailed:
        """What to raise for a foreign exception; takes note of it when it is the disk's or the database's."""
        if isinstance(error, RuntimeError):
            return StoreFailed("the store is closed")
        if isinstance(error, (ValueError, OverflowError)):
            return StoreFailed("the value cannot be kept")
        because = because_of(error)
        if not self._failing:
            log.error("the store is degraded: %s (%s)", because, type(error).__name__)
        self._failing[deed] = because
        return StoreFailed(because)

    def worked(self, *deeds: Deed) -> None:
        """What failed before does not any more."""
        if self._failing:
            self._failing = {deed: because for deed, because in self._failing.items() if deed not in deeds}
            if not self._failing:
                log.warning("the store works again")

    async def _run(self, executor: Executor, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        try:
            future = executor.submit(function, *arguments, **named)
            return await asyncio.shield(asyncio.wrap_future(future))
        except FAILURES as error:
            raise self.failed(error, "write bodies") from error

    def _on_thread(
        self, name: RoomName, job: Callable[[Room], T], frees: bool
    ) -> tuple[T, bool, Future[int] | None]:
        room = self.rooms[name]
        try:
            room.again()
            before = room.written()
            result = job(room)
            if room.written() != before:
                room.measure()
        except BaseException as error:
            # Whether the commit happened is not known: what it was about is forgotten and read again.
            changes, room.changes = [(key, None) for key, _ in room.changes], []
            self._post(self._table.apply, name, changes)
            self._recover(room, error)
            self._noticed(room, name)
            if frees and is_full(error) and self._relieved(room):
                return self._on_thread(name, job, frees)
            raise
        self._noticed(room, name)
        changes_made, room.changes = room.changes, []
        if changes_made:
            self._post(self._table.apply, name, changes_made)
        files = room.released()
        if files:
            reach("rows deleted")
        # Submitted here, not by the caller: a caller that was cancelled would leave orphans.
        unlinking = self._files.submit(remove_files, room.directory, files) if files else None
        return result, room.written() > before, unlinking

    def _recover(self, room: Room, error: BaseException) -> None:
        try:
            room.recover()
            if is_corrupt(error):
                room.doubt()
        except FAILURES as again:
            log.error("a failed job could not be undone: %s", because_of(again))

    def _noticed(self, room: Room, name: RoomName) -> None:
        if room.lost:
            room.lost = False
            self._post(self._table.clear, name)
            self._post(self.sweep)

    def _relieved(self, room: Room) -> bool:
        """Whether a job that frees space is worth another try on a full disk."""
        if self._ballast.release():
            return True
        if not room.logged:
            return False
        room.leave_log()
        return True

    def _post(self, function: Callable[P, None], *arguments: P.args, **named: P.kwargs) -> None:
        # Before the job's future resolves, so that whoever awaits it finds the table changed.
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads the table any more
            self._loop.call_soon_threadsafe(lambda: function(*arguments, **named))


def _all_of(room: Room, jobs: Sequence[Callable[[Room], object]]) -> list[StoreFailed | None]:
    """All jobs, and which of them were for something that is forgotten."""
    failures: list[StoreFailed | None] = []
    with room.transact():
        for job in jobs:
            try:
                job(room)
                failures.append(None)
            except Forgotten as forgotten:
                failures.append(forgotten)
    return failures
