"""Bodies as files: spooled in incoming/, then linked to ``xx/<16 random hex>/<real name>`` in their room.

All functions block and run on the store's file threads; they raise OSError when the disk fails and
StoreFailed when they refuse.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from proxy.directory import make_directory, sync_directory
from proxy.errors import StoreFailed
from proxy.failpoints import reach

_FILENAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{16}/[^/\0]+")
_DATABASE = re.compile(r"cache\.db(-wal|-shm|-journal)?")
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


class Spool:
    """A file in incoming/ that a body is written to, ``there`` until it is known to be gone. ``fd`` is open for reading
    and writing until `close`."""

    __slots__ = ("_open", "fd", "path", "there")

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.there = True
        self._open = True

    def close(self) -> None:
        """Close the descriptor; once is enough, more is no error (a closed number may be another file's)."""
        if self._open:
            self._open = False
            os.close(self.fd)


def open_spool(incoming: Path) -> Spool:
    """A new, empty file of mode 0600."""
    path = incoming / secrets.token_hex(16)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.fchmod(fd, 0o600)
    reach("spool created")
    return Spool(path, fd)


def discard_spool(spool: Spool) -> None:
    """Unlink and close; what is done already is skipped."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(spool.path)
    spool.close()


def new_filename(name: str) -> str:
    """A path below a room that was never used before and never will be again, ending in ``name``.

    Names are never reused because diskcache unlinks a replaced row's file *after* its commit: a reused name
    would take the new body with it. Raises StoreFailed for a name that is no plain file name.
    """
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        length = 0
    if not 0 < length <= 255 or name.startswith(".") or "/" in name or "\\" in name:
        raise StoreFailed("the file's name cannot be kept")
    if any(unicodedata.category(letter).startswith("C") for letter in name):
        raise StoreFailed("the file's name holds control characters")
    return f"{secrets.token_hex(1)}/{secrets.token_hex(8)}/{name}"


def is_filename(filename: str) -> bool:
    """Whether a row's filename has the only shape we write, and so stays inside its room."""
    return _FILENAME.fullmatch(filename) is not None and not filename.rpartition("/")[2].startswith(".")


def place(room: Path, filename: str, source: Path, fd: int, size: int, *, lasts: bool = True) -> None:
    """Give the spooled file its name in the room; ``fd`` is a descriptor of ``source``. A name that ``lasts`` is there
    after a power loss, too; the bytes are in every case.

    One that lasts is a hard link where the filesystem has them, so that the name in incoming/ remains until the row is
    committed. On any exception nothing of the new name is left.
    """
    if os.fstat(fd).st_size != size:
        raise StoreFailed("the spooled file has another size than its entry")
    os.fsync(fd)
    reach("fsynced")
    target = room / filename
    try:
        _make_parents(target)
        try:
            (os.link if lasts else os.rename)(source, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.rename(source, target)
        reach("linked")
        if lasts:
            sync_directory(target.parent)
            sync_directory(target.parent.parent)
            sync_directory(room)
        reach("directory synced")
    except BaseException:
        remove_files(room, [filename])
        raise


def _make_parents(target: Path) -> None:
    # Another thread may remove the outer directory, which is shared and was empty, between any two of our steps:
    #   here: mkdir aa   there: unlink aa/1/x, rmdir aa/1, rmdir aa   here: mkdir aa/2 -> ENOENT, so again.
    for left in reversed(range(100)):
        try:
            make_directory(target.parent)
            return
        except FileNotFoundError:
            if not left:
                raise
            with contextlib.suppress(FileNotFoundError):
                make_directory(target.parent.parent)  # most are there already


def remove_files(room: Path, filenames: Iterable[str]) -> int:
    """Unlink bodies and the directories that only they were in, and say how many of these went. What is gone
    already, or cannot be removed, is left to the next sweep: whoever holds a body open finishes reading it."""
    directories, shards = 0, dict[str, None]()
    for filename in filenames:
        if is_filename(filename):
            shard, own, _ = filename.split("/")
            with contextlib.suppress(OSError):
                os.unlink(f"{room}/{filename}")
            reach("body unlinked")
            with contextlib.suppress(OSError):
                os.rmdir(f"{room}/{shard}/{own}")
                directories += 1
            shards[shard] = None
    for shard in shards:
        # Of most shards others have a part: asked once for each of them, not for each body.
        with contextlib.suppress(OSError):
            os.rmdir(f"{room}/{shard}")
            directories += 1
    return directories


def open_body(room: Path, filename: str) -> BinaryIO | None:
    """The body open for reading; None when it is gone, or is no plain file.

    O_NONBLOCK: a pipe planted in its place must not block the caller.
    """
    try:
        fd = os.open(f"{room}/{filename}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            return None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    return os.fdopen(fd, "rb")


def body_size(room: Path, filename: str) -> int | None:
    """Bytes of a plain file; None when there is none."""
    try:
        found = os.lstat(room / filename)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def shards(room: Path) -> list[str]:
    """Everything in a room but its database: the directories ``xx``, and what does not belong there."""
    return [name for name in os.listdir(room) if not _DATABASE.fullmatch(name)]


def files_of(room: Path, shard: str) -> list[str]:
    """Paths below the room of all that lies in one shard: files, links, and directories that hold nothing."""
    found: list[str] = []
    top = room / shard
    if top.is_symlink() or not top.is_dir():
        return [shard]
    for path, directories, names in os.walk(top):
        below = os.path.relpath(path, room)
        links = [name for name in directories if os.path.islink(os.path.join(path, name))]
        found.extend(os.path.join(below, name) for name in (*names, *links))
        if not names and not directories:
            found.append(below)
    return found


def remove_strays(room: Path, paths: Iterable[str]) -> None:
    """Remove what `files_of` found and no row names, then the directories above that are empty now."""
    for path in paths:
        target = room / path
        with contextlib.suppress(OSError):
            if target.is_dir() and not target.is_symlink():
                target.rmdir()
            else:
                target.unlink()
        for parent in target.parents:
            if parent == room:
                break
            try:
                parent.rmdir()
            except OSError:
                break
