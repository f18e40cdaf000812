"""A database without its write-ahead log, for a disk with no space left at all.

To delete a row SQLite appends the pages it changes to the log; and a log with pages that the database has no place for
yet cannot be cut, for the database would have to grow. With the journal in memory it changes the pages where they are,
and needs no space.

The price: a process that is killed in the middle of a commit leaves a torn database, which is begun anew as any
corrupt one is. So this is for an emergency, until there is room for a log.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from proxy.disk import LOCK_WAIT, is_full

# A larger database is not copied through memory: it fails as it did.
COPIED = 64 * 2**20
# Free bytes that a log needs: what it has at its usual length, and its index.
ROOM_FOR_LOG = 2 * 2**20

# Bytes 18 and 19: 2 for a database with a log, 1 for one without (https://www.sqlite.org/fileformat.html).
_VERSIONS, _PLAIN = slice(18, 20), b"\1\1"


def leave_log(directory: Path) -> None:
    """Take the log's pages into the database below ``directory``, which nobody has open, and remove the log.

    Raises sqlite3.Error or OSError; MemoryError is one of a database that is too large to copy.
    """
    database = directory / "cache.db"
    image = _left(database)
    if image is not None:
        # It fits into what database and log take together. Written over the old one: what is freed on a full disk
        # may be somebody else's a moment later.
        for suffix in ("-wal", "-shm"):
            Path(f"{database}{suffix}").unlink(missing_ok=True)
        with open(database, "r+b") as file:
            file.write(image[: _VERSIONS.start] + _PLAIN)
            file.write(memoryview(image)[_VERSIONS.stop :])
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        _left(database)


def _left(database: Path) -> bytes | None:
    """The whole database where its log cannot be taken in, else None: then it has none any more."""
    connection = sqlite3.connect(database, timeout=LOCK_WAIT, isolation_level=None)
    try:
        # Whoever is alone keeps the log's index in memory; it would be a file.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        try:
            connection.execute("PRAGMA journal_mode = MEMORY").fetchone()
        except sqlite3.Error as error:
            ((size,),) = connection.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
            if not is_full(error) or size > COPIED:
                raise
            return connection.serialize()
        # diskcache sets what it finds here whenever it connects.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("UPDATE Settings SET value = 'memory' WHERE key = 'sqlite_journal_mode'")
        return None
    finally:
        connection.close()
