"""Space held back for a disk with none left: SQLite must write before it can delete.

A file that really takes its space, dropped when a removal or a start would fail, and put back once there is room. It
is no part of the cache, and nothing ever fails because of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
from pathlib import Path

from proxy.directory import free_space
from proxy.failpoints import reach

log = logging.getLogger("proxy.store")

# A filesystem of 256 MiB and more has the usual 16 MiB; one of 8 MiB has half of one, and a cache beside it.
PART = 16
_PIECE = 2**20


class Ballast:
    """``<directory>/ballast``: ``size`` bytes, or a sixteenth of the filesystem where that is less; 0 for none. With
    None a server's may be released, and it is the server's to put back.

    Its methods block, may be called on any thread, and raise nothing. ``owed`` says how many bytes were released and
    not put back yet.
    """

    def __init__(self, directory: Path, size: int | None, *, min_free: int) -> None:
        self._directory = directory
        self._path = directory / "ballast"
        self._size = size
        self._min_free = min_free
        self._lock = threading.Lock()
        self.owed = 0

    def keep(self) -> None:
        """Make the file where that leaves the disk its free space, or put right what a crash or another setting left
        of it; with a size of 0 remove it."""
        with self._lock:
            try:
                if self._size:
                    self._keep(self._size)
                elif self._size is not None:
                    self._path.unlink(missing_ok=True)
            except OSError as error:
                # Half of one, on a disk that filled up meanwhile, would only be in the way.
                self._unlink()
                log.warning("no ballast is held: %s", error.strerror)

    def release(self) -> bool:
        """Give its space back to the disk; False when there was none to give."""
        with self._lock:
            try:
                taken = os.lstat(self._path).st_blocks * 512
            except OSError:
                return False
            if not taken or not self._unlink():
                return False
            self.owed = taken
        log.warning("the disk is full: the ballast was released")
        return True

    def _keep(self, size: int) -> None:
        disk = os.statvfs(self._directory)
        wanted = min(size, disk.f_blocks * disk.f_frsize // PART)
        # O_NONBLOCK: a pipe planted in its place must not block.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.open(self._path, flags, 0o600)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                return
            os.fchmod(file, 0o600)
            os.ftruncate(file, min(found.st_size, wanted))
            reach("ballast")
            missing = wanted - _taken(file)
            free, floor = free_space(self._directory, self._min_free)
            if missing > 0 and free - missing < floor:
                return
            if missing > 0:
                _fill(file, wanted)
            self.owed = 0
        finally:
            os.close(file)

    def _unlink(self) -> bool:
        try:
            self._path.unlink()
        except OSError:
            return False
        return True


def _taken(file: int) -> int:
    found = os.fstat(file)
    return min(found.st_size, found.st_blocks * 512)


def _fill(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        with contextlib.suppress(OSError):  # not every filesystem can
            os.posix_fallocate(file, 0, size)
    # Where that reserved nothing. No zeros: a filesystem that compresses would keep none of them.
    for start in range(0, 0 if _taken(file) >= size else size, _PIECE):
        os.pwrite(file, os.urandom(min(_PIECE, size - start)), start)
