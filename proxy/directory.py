"""The cache directory itself: made, checked, owned by one process.

<directory>/    0700     lock  VERSION  incoming/  mounts/  responses/  wheels/
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from pathlib import Path
from typing import Literal

from proxy.errors import OwnedElsewhere, StoreFailed
from proxy.failpoints import reach

VERSION = 1
RoomName = Literal["mounts", "responses", "wheels"]
ROOMS: tuple[RoomName, ...] = ("mounts", "responses", "wheels")
"""In the order of lists: a cursor compares their names."""

# What may lie in a directory that has no VERSION yet: what a start that was cut short leaves behind, and what
# a fresh filesystem holds. Anything else is somebody's own folder, and the sweep would empty parts of it.
_HARMLESS = {"lock", "VERSION.new", "lost+found"}


def claim(directory: Path) -> int:
    """Make the directory ours and return the lock's descriptor, for `release`.

    Raises OwnedElsewhere when a process holds it, StoreFailed when it is not ours to use; a directory of a
    newer version is not touched at all. Raises OSError when the disk fails.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check(directory)
    os.chmod(directory, 0o700)
    lock = _lock(directory)
    try:
        # Whoever held the lock until now may have written another version since it was looked at.
        _check(directory)
        _prepare(directory)
    except BaseException:
        release(lock)
        raise
    return lock


def release(lock: int) -> None:
    """Let go of the directory. The file stays: unlinking it would let two processes lock two files."""
    with contextlib.suppress(OSError):
        os.ftruncate(lock, 0)
    os.close(lock)


def holder(directory: Path) -> str | None:
    """The process that holds the directory, by its id or as "unknown"; None when nobody does. The lock is asked for,
    not kept."""
    try:
        with open(directory / "lock", "rb") as lock:
            # A released lock is empty. Trying for it only where a number stands keeps out of the way of a
            # server that starts in this very moment; after a kill the number stays and the lock is free.
            owner = lock.read(32).decode("ascii", "replace").strip()
            if owner:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return owner if owner.isdigit() else "unknown"
    except OSError:
        return None
    return None


def free_space(directory: Path, min_free: int) -> tuple[int, int]:
    """(bytes an ordinary user may still write, bytes to be left free): `min_free` or 5 %, what is less."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize, min(min_free, disk.f_blocks * disk.f_frsize // 20)


def sync_directory(path: Path) -> None:
    """Make names in a directory durable: fsync of a file does not do that for the name it has."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make one directory with 0700 whatever the umask says; one that exists is left as it is."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        path.chmod(0o700)


def _check(directory: Path) -> None:
    found = directory.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise StoreFailed("the cache directory is not a directory")
    if found.st_uid != os.geteuid():
        raise StoreFailed("the cache directory belongs to another user")
    if os.path.expandvars(directory) != str(directory):  # diskcache would expand it, and open another
        raise StoreFailed("the cache directory's name holds a variable")
    try:
        with open(directory / "VERSION", "rb") as file:
            text = file.read(32).strip()
    except FileNotFoundError:
        if any(name not in _HARMLESS for name in os.listdir(directory)):
            raise StoreFailed("the cache directory holds files that are not a cache's") from None
        return
    if not text.isdigit() or int(text) == 0:
        raise StoreFailed("the cache directory's VERSION cannot be read")
    if int(text) > VERSION:
        raise StoreFailed("the cache directory was written by a newer version")


def _lock(directory: Path) -> int:
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(lock, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        with contextlib.suppress(OSError):  # the number is a courtesy; a full disk must not refuse the start
            os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    except OSError as error:
        owner = os.pread(lock, 32, 0).strip()
        os.close(lock)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise OwnedElsewhere(
            "another process holds the cache directory", int(owner) if owner.isdigit() else None
        ) from None
    return lock


def _prepare(directory: Path) -> None:
    """Write VERSION, durably, before any room exists: without it a directory with rooms would be taken for foreign."""
    if not (directory / "VERSION").exists():
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fresh = os.open(directory / "VERSION.new", flags, 0o600)
        try:
            os.fchmod(fresh, 0o600)
            os.write(fresh, b"%d\n" % VERSION)
            os.fsync(fresh)
        finally:
            os.close(fresh)
        reach("version written")
        os.rename(directory / "VERSION.new", directory / "VERSION")
        sync_directory(directory)
        reach("version renamed")
    for name in (*ROOMS, "incoming"):
        make_directory(directory / name)
        os.chmod(directory / name, 0o700)
    sync_directory(directory)
    for item in os.scandir(directory / "incoming"):
        if item.is_dir(follow_symlinks=False):
            shutil.rmtree(item.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(item.path)
