"""A spooled body becomes a kept one: linked, synced, and only then named by a row."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from proxy.bodies import Spool, new_filename, place, remove_files
from proxy.core.messages import Entry
from proxy.directory import RoomName
from proxy.errors import StoreFailed
from proxy.eviction import Evictor
from proxy.failpoints import reach
from proxy.fence import Fence, name_of
from proxy.memory import FileRow
from proxy.room import Room
from proxy.rows import dumped
from proxy.sweep import Linking
from proxy.verification import Verification
from proxy.workers import Workers

T = TypeVar("T")
Job = Callable[[Room], None]


class Adoption:
    """Adopts bodies into the rooms below a directory, in tasks that outlive a caller who is cancelled."""

    def __init__(
        self,
        directory: Path,
        workers: Workers,
        evictor: Evictor,
        linking: Linking,
        fence: Fence,
        verification: Verification,
    ) -> None:
        self._directory = directory
        self._workers = workers
        self._evictor = evictor
        self._linking = linking
        self._fence = fence
        self._verification = verification
        self._tasks: set[asyncio.Task[Any]] = set()

    async def adopt(self, room: RoomName, spool: Spool, entry: Entry, name: str, since: int | None) -> Entry:
        """See `Store.adopt`."""
        named = name_of(room, entry.key, entry.tag, name)
        self._fence.check(since, named)  # here only to spare the disk: what counts is the one beside the commit
        filename = new_filename(name)
        if not self._evictor.fits(room, entry.size):
            raise StoreFailed("the body is too large to be kept")
        try:
            # The caller may discard the spool at any time, and the number could then be another file's.
            fd = os.dup(spool.fd)
        except OSError as error:
            raise self._workers.failed(error, "write bodies") from error
        kept = replace(entry, body=f"{room}/{filename}")
        fenced = partial(self._fence.checked, since=since, names=[named])
        return await asyncio.shield(self.spawn(self._adopt(room, spool, fd, kept, filename, fenced)))

    async def _adopt(
        self, room: RoomName, spool: Spool, fd: int, entry: Entry, filename: str, fenced: Callable[[Job], Job]
    ) -> Entry:
        there, source = self._directory / room, spool.path
        # Of a response that a power loss takes the row finds nothing, and it is asked for again: not worth three syncs.
        lasts = room != "responses"
        try:
            if not await self._evictor.free():
                raise StoreFailed("the disk has too little space left")
            head = dumped(entry)
            with self._linking.adopting(filename):
                try:
                    await self._workers.file(place, there, filename, source, fd, entry.size, lasts=lasts)
                    self._workers.worked("write bodies")
                    row = FileRow(filename, entry.size, head)
                    job = fenced(partial(Room.adopt, key=entry.key, body=row, tag=entry.tag))
                    await (self._workers.ask if lasts else self._workers.together)(room, job)
                    reach("row written")
                except BaseException:
                    await self._workers.file(remove_files, there, [filename])
                    raise
            with contextlib.suppress(StoreFailed, OSError):
                # It proved itself on its way in. Its other name goes first: that is a change of the file.
                found = await self._workers.file(_with_one_name, source, fd) if lasts else os.fstat(fd)
                spool.there = False
                self._verification.trust(filename, entry.sha256, found)
        finally:
            os.close(fd)
        await self._evictor.after_writing(room, entry.key)
        return entry

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Let work go on behind; `settled` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, or asyncio would report the one whose caller has left

    async def settled(self) -> None:
        """Return when nothing is under way any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)


def _with_one_name(source: Path, fd: int) -> os.stat_result:
    """The spooled file as it is once its name in incoming/ is gone."""
    source.unlink(missing_ok=True)
    return os.fstat(fd)
