"""diskcache, made safe for us: bytes instead of pickles, bodies adopted instead of copied.

The only module that imports diskcache. One row holds head and body together, so its commit is the commit
point. Inline values and bodies in files both count their bytes in the column ``size``, whose sum diskcache's
triggers keep.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diskcache  # type: ignore[import-untyped, unused-ignore]  # it has no types
from diskcache.core import MODE_BINARY as MODE_BINARY  # type: ignore[import-untyped, unused-ignore]  # nor this
from diskcache.core import MODE_RAW as MODE_RAW
from diskcache.core import UNKNOWN

from proxy.bodies import is_filename
from proxy.errors import StoreFailed
from proxy.memory import FileRow, Value
from proxy.sums import prepare

# Seconds to wait for somebody else's lock (a person with the sqlite3 tool), during which every request waits.
LOCK_WAIT = 1.0
# Bytes of the checksum before every value.
SEAL = 4
# What the disk and the database raise; RuntimeError comes from an executor that was shut down.
FAILURES = (OSError, sqlite3.Error, diskcache.Timeout, ValueError, OverflowError, RuntimeError)

_SETTINGS = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "none",  # no write per read, no index: eviction is not diskcache's here
    "cull_limit": 0,
    "size_limit": 2**62,
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 2**10,
    "sqlite_journal_mode": "wal",
    # A mapped database that is cut short kills the process with SIGBUS; read() reports an error instead.
    "sqlite_mmap_size": 0,
    # WAL with NORMAL loses the last commits with the power but never tears: a lost row is a miss, and a row
    # whose body was unlinked since is dropped when it is asked for.
    "sqlite_synchronous": 1,
    # Pages of 4 KiB, so 1 MiB: the log is never cut while open, and small disks have little to spare.
    "sqlite_wal_autocheckpoint": 256,
    "disk_min_file_size": 0,
    "disk_pickle_protocol": 0,
}
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS Room_used ON Cache(access_time, size)",
    "CREATE INDEX IF NOT EXISTS Room_tag ON Cache(tag) WHERE tag IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS Room_file ON Cache(filename) WHERE filename IS NOT NULL",
)


class Foreign(StoreFailed):
    """A row that we did not write: pickled, of a type we do not keep, or damaged since. It is dropped."""


def seal(value: bytes, key: str) -> bytes:
    """The value behind its checksum: SQLite has none, and would hand out a page with a flipped bit. The key is part of
    it: what a flipped bit of an index leads to is another row, and sound."""
    return _sum(value, key.encode()) + value


def unseal(data: bytes, key: bytes) -> bytes:
    """The value behind its checksum. Raises Foreign when they do not agree."""
    value, found = data[SEAL:], data[:SEAL]
    # Version 0.1.0 left the key out; what it wrote is still good.
    if found != _sum(value, key) and found != _sum(value, b""):
        raise Foreign("a value that does not match its checksum")
    return value


def _sum(value: bytes, key: bytes) -> bytes:
    return zlib.crc32(value, zlib.crc32(key)).to_bytes(SEAL, "big")


def value_of(key: str, mode: object, filename: object, value: object) -> Value:
    """What a row of that key holds. Raises Foreign for what we did not write, or not so."""
    if type(value) is bytes and mode == MODE_RAW and filename is None:
        return unseal(value, key.encode())
    if type(value) is bytes and mode == MODE_BINARY and type(filename) is str and is_filename(filename):
        return FileRow(filename, -1, unseal(value, key.encode()))
    raise Foreign("a value that is no bytes")


class BytesDisk(diskcache.Disk):  # type: ignore[misc]  # of no known type
    """Text keys and bytes, or a body that is in its place already. No pickle either way (CVE-2025-69872)."""

    def __init__(self, directory: str, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self.removed: list[str] = []

    def put(self, key: object) -> tuple[str, bool]:
        if type(key) is not str:
            raise StoreFailed("only text can be a key")
        return key, True

    def get(self, key: object, raw: object) -> str:
        if not raw or type(key) is not str:
            raise Foreign("a key that is no text")
        return key

    def store(self, value: object, read: bool, key: object = UNKNOWN) -> tuple[int, int, str | None, bytes]:
        if type(key) is str and not read and type(value) is bytes:
            return len(value), MODE_RAW, None, seal(value, key)
        if type(key) is str and not read and type(value) is FileRow:
            return value.size, MODE_BINARY, value.filename, seal(value.head, key)
        raise StoreFailed("only bytes can be kept")

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> Value:
        raise StoreFailed("only rooms read rows")  # by `value_of`, which is told the key

    def filename(self, key: object = UNKNOWN, value: object = UNKNOWN) -> tuple[str, str]:
        raise StoreFailed("only adoption makes files")

    def remove(self, file_path: str) -> None:
        """Called after a commit for the file of a replaced or deleted row: noted, to be unlinked elsewhere.

        Inside an outer transaction diskcache calls it before the outer commit; being only noted, and
        forgotten on a rollback, the file outlives a commit that never comes.
        """
        self.removed.append(file_path)


def open_cache(directory: Path, *, logged: bool = True) -> Any:
    """A diskcache over ``directory``, which has this very name (diskcache would expand variables in it), with our
    indexes and sums; not ``logged`` for a database that has left its log (`unlogged.leave_log`).

    Raises what is in FAILURES; AttributeError, LookupError or TypeError for a database that is none of ours any more.
    """
    database = directory / "cache.db"
    os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    os.chmod(database, 0o600)  # SQLite gives its journal and its shared memory the same mode
    # diskcache retries for a minute while the database is locked; this asks once.
    probe = sqlite3.connect(database, timeout=LOCK_WAIT, isolation_level=None)
    try:
        probe.execute("BEGIN IMMEDIATE")
        probe.execute("SELECT count(*) FROM sqlite_master").fetchone()
        probe.execute("ROLLBACK")
    finally:
        probe.close()
    settings = _SETTINGS if logged else {**_SETTINGS, "sqlite_journal_mode": "memory"}
    cache = diskcache.Cache.__new__(diskcache.Cache)
    try:
        cache.__init__(str(directory), timeout=LOCK_WAIT, disk=BytesDisk, **settings)
        for statement in _INDEXES:
            cache._sql(statement)
        prepare(cache._sql)
        # A flipped bit in a text must not stop a scan.
        cache._con.text_factory = lambda data: data.decode(errors="replace")
    except BaseException:
        # Made in two steps for this: a connection that is left open keeps everybody else from the database.
        cache.close()
        raise
    return cache


# Primary result codes (https://www.sqlite.org/rescode.html). BROKEN says that the file itself is of no use;
# when opening, an unknown column (ERROR) and a broken uniqueness (CONSTRAINT) say so as well.
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BROKEN = _CORRUPT | {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT}
_TRANSIENT = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_TRANSIENT |= {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    # diskcache hides the error of BEGIN behind Timeout, and a failing ROLLBACK hides the one that led to it.
    while error is not None:
        yield error
        error = error.__context__


def _codes(error: BaseException) -> set[int]:
    return {part.sqlite_errorcode & 0xFF for part in _chain(error) if hasattr(part, "sqlite_errorcode")}


def is_unusable(error: BaseException) -> bool:
    """Whether an error in opening says that the database is not one of ours, or damaged."""
    if not isinstance(error, (sqlite3.Error, diskcache.Timeout)):
        return True  # diskcache stumbled over what its tables hold
    codes = _codes(error)
    return bool(codes & _BROKEN) and not codes & _TRANSIENT


def is_corrupt(error: BaseException) -> bool:
    """Whether the database file itself is of no use any more."""
    return bool(_codes(error) & _CORRUPT)


def is_full(error: BaseException) -> bool:
    """Whether there was no space: for bytes, or for the index of a log, which has a code of its own."""
    parts = list(_chain(error))
    if any(getattr(part, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_SHMSIZE for part in parts):
        return True
    numbers = {part.errno for part in parts if isinstance(part, OSError)}
    return sqlite3.SQLITE_FULL in _codes(error) or bool(numbers & {errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def because_of(error: BaseException) -> str:
    """What went wrong with the disk, in constant words of our own."""
    codes = _codes(error)
    numbers = {part.errno for part in _chain(error) if isinstance(part, OSError)}
    if is_full(error):
        return "the disk is full"
    if sqlite3.SQLITE_READONLY in codes or errno.EROFS in numbers:
        return "the disk is read-only"
    if codes & {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return "the database is locked"
    if codes & _CORRUPT:
        return "the database was corrupt"
    return "the disk failed"
