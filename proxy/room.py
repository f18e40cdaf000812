"""One database of rows: all that is asked of SQLite, for one thread.

diskcache's version is pinned, so what none of its public names reach is used directly: `_transact`, `_sql`,
`_con` and the columns of its Cache table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.core.messages import Entry
from proxy.directory import free_space
from proxy.disk import FAILURES, MODE_BINARY, SEAL, Foreign, is_unusable, open_cache, seal, value_of
from proxy.failpoints import reach
from proxy.kept import Sum
from proxy.memory import ABSENT, Change, FileRow, Value
from proxy.soundness import is_whole, read_through
from proxy.sums import SIZE, measure, settle
from proxy.unlogged import ROOM_FOR_LOG, leave_log

log = logging.getLogger("proxy.store")

# Rows per job: about 20 ms of the one thread at most, which is what a reader behind an eviction waits.
STEP = 200
# How often a database may be said to be corrupt that is whole when it is looked at.
_DOUBTS = 3


@dataclass(frozen=True, slots=True)
class Row:
    """A small value to be kept: ``tag`` groups rows, as "index/project". ``entry`` is what it decodes to, if known."""

    key: str
    value: bytes
    tag: str
    entry: Entry | None = None


class Room:
    """One diskcache. Made, used and closed on one thread; ``count``, ``bytes`` and ``sums`` (of all rows, and of the
    wheels among them) may be read from any, and what was ``evicted``, or found ``damaged``, since it was opened.

    Methods raise what is in FAILURES, after which `recover` must be called. ``changes`` collects what they
    did or saw, for the table in memory; ``lost`` says that an empty database took the place of one that was of no
    use, until that is noticed. Not ``logged``: without a log, which needs no space (`unlogged`).
    """

    def __init__(self, directory: Path, *, logged: bool = True) -> None:
        self.directory = directory
        self.logged = logged
        self.count = 0
        self.bytes = 0
        self.sums = (Sum(0, 0), Sum(0, 0))
        self.evicted = Sum(0, 0)
        self.damaged = 0
        self.changes: list[Change] = []
        self.lost = False
        self._connected = False
        self._doubts = 0
        self._open()

    def _open(self) -> None:
        try:
            self._connect()
        except (*FAILURES, AttributeError, LookupError, TypeError) as error:
            if isinstance(error, OSError) or not is_unusable(error):
                raise
            read_through(self.directory)
            log.warning("the database of %s cannot be read: starting empty", self.directory.name)
            self.lost = True
            self.erase()
            self._connect()

    def _connect(self) -> None:
        self._connected = False
        if not self.logged:
            leave_log(self.directory)
        self._cache = open_cache(self.directory, logged=self.logged)
        self.measure()
        self._connected = True

    def erase(self) -> None:
        """Forget the database; the bodies it named are strays for the sweep."""
        if hasattr(self, "_cache"):
            self._cache.close()
        self._connected = False
        # A log that outlives its database would be taken for that of the next one.
        for suffix in ("-wal", "-shm", "-journal", ""):
            (self.directory / f"cache.db{suffix}").unlink(missing_ok=True)

    def doubt(self) -> None:
        """Something said that the database is corrupt. It may have been the disk, which works again by now, or will:
        what can be read and is whole stays, what cannot be read is tried again with the next job."""
        self._cache.close()
        self._connected = False
        self._open()
        self._doubts += 1
        if self._doubts > _DOUBTS or not is_whole(self.sql):
            self.rebuild()

    def rebuild(self) -> None:
        """Start empty in the place of a database that turned out to be corrupt."""
        log.error("the database of %s is corrupt: starting empty", self.directory.name)
        self.lost, self._doubts = True, 0
        self.begin_anew()

    def begin_anew(self) -> None:
        """Start empty; the bodies that were named are strays for the sweep."""
        self.erase()
        reach("purge")
        self._connect()

    def leave_log(self) -> None:
        """Go on without the log, on a disk that has no space for it."""
        log.warning("the database of %s goes on without its log: the disk is full", self.directory.name)
        self._cache.close()
        self.logged = False
        self._connect()

    def again(self) -> None:
        """Open what could not be opened the last time, and take the log up again, once there is room for it."""
        if not self._connected:
            self._open()
        if not self.logged and free_space(self.directory, 0)[0] >= ROOM_FOR_LOG:
            self.logged = True
            self._cache._sql("PRAGMA journal_mode = WAL")

    def cut_log(self) -> None:
        """Move the log into the database and give its space back."""
        self._cache._sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def recover(self) -> None:
        """Leave a transaction that failed (a failed COMMIT leaves it open) and keep the files it let go."""
        if not self._connected:
            return
        self._cache.disk.removed.clear()
        if self._cache._con.in_transaction:
            self._cache._con.rollback()

    def released(self) -> list[str]:
        """Files that no row names any more since the last call."""
        files: list[str] = self._cache.disk.removed
        self._cache.disk.removed = []
        return files

    def written(self) -> int:
        """Rows changed since the database was opened."""
        changes: int = self._cache._con.total_changes
        return changes

    def measure(self) -> None:
        """Read the sums that the triggers keep."""
        self.sums = measure(self._cache._sql)
        self.count, self.bytes = self.sums[0].count, self.sums[0].bytes

    def close(self) -> None:
        self._cache.close()

    def sql(self, statement: str, values: Sequence[object] = ()) -> Any:
        """One statement; a cursor."""
        return self._cache._sql(statement, values)

    def transact(self) -> AbstractContextManager[object]:
        """All that is done inside, or nothing."""
        transaction: AbstractContextManager[object] = self._cache.transact()
        return transaction

    def let_go(self, key: object, filename: object) -> None:
        """Inside a transaction that deletes the row: after it nobody names its body any more."""
        self._let_go(filename)
        if isinstance(key, str):
            self.changes.append((key, None))

    def get(self, key: str) -> Value | None:
        """A row's value; None when there is none. A foreign row is dropped on the way."""
        try:
            value = self._value(key)
        except Foreign:
            log.warning("a row of %s was not written by us or is damaged: dropped", self.directory.name)
            self.delete([key])
            self.damaged += 1
            return None
        self.changes.append((key, ABSENT if value is None else value))
        return value

    def _value(self, key: str) -> Value | None:
        select = "SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1"
        row = self._cache._sql(select, (key,)).fetchone()
        return None if row is None else value_of(key, *row)

    def write(self, rows: Sequence[Row], drop: Sequence[str]) -> None:
        """All or nothing. A key that is both dropped and written is written."""
        self.changes += [(key, None) for key in drop]
        self.changes += [(row.key, row.value) for row in rows]
        with self._cache.transact():
            self._delete(drop)
            for row in rows:
                self._cache.set(row.key, row.value, tag=row.tag)
                reach("value written")

    def adopt(self, key: str, body: FileRow, tag: str) -> None:
        """Commit the row of a body that is in its place."""
        self.changes.append((key, body))
        self._cache.set(key, body, tag=tag)

    def update(self, key: str, body: FileRow, tag: str) -> bool:
        """New head and tag, only over that very body."""
        self.changes.append((key, None))
        with self._cache._transact() as (sql, _):
            found = sql(
                "UPDATE Cache SET value = ?, tag = ? WHERE key = ? AND raw = 1 AND filename = ? AND size = ?",
                (seal(body.head, key), tag, key, body.filename, body.size),
            ).rowcount
            reach("head updated")
        if found:
            self.changes[-1] = (key, body)
        return bool(found)

    def delete(self, keys: Sequence[str]) -> int:
        """Bytes freed."""
        self.changes += [(key, None) for key in keys]
        with self._cache.transact():
            return self._delete(keys)

    def delete_below(self, prefix: str) -> int:
        """Delete every row whose key begins so. Bytes freed."""
        select = "SELECT key FROM Cache WHERE key >= ? AND key < ? AND raw = 1"  # no text begins with U+10FFFF
        return self.delete([key for (key,) in self._cache._sql(select, (prefix, f"{prefix}\U0010ffff")).fetchall()])

    def _delete(self, keys: Sequence[str]) -> int:
        freed = 0
        for key in keys:
            select = f"SELECT rowid, filename, {SIZE} FROM Cache WHERE key = ? AND raw = 1"  # nosec B608 # of constants
            for rowid, filename, size in self._cache._sql(select, (key,)).fetchall():
                self._cache._sql("DELETE FROM Cache WHERE rowid = ?", (rowid,))
                self._let_go(filename)
                freed += size
        return freed

    def _let_go(self, filename: object) -> None:
        if isinstance(filename, str):
            self._cache.disk.remove(filename)

    def delete_seen(self, key: str, seen: Value, *, damaged: bool) -> bool:
        """Delete the row if it still holds what was seen, and say so: it may have been replaced by a good one since.
        A ``damaged`` one is counted."""
        self.changes.append((key, None))
        with self._cache.transact():
            if gone := self._value(key) == seen:
                self._delete([key])
                self.damaged += damaged
        return gone

    def tagged(self, tag: str, mark: bytes) -> Iterator[tuple[str, Value]]:
        """Rows of one tag: bodies in files, and inline values that begin with ``mark``."""
        select = "SELECT key, mode, filename, value FROM Cache WHERE tag = ? AND raw = 1"
        select += f" AND (mode = {MODE_BINARY} OR substr(value, {SEAL + 1}, ?) = ?)"
        for key, mode, filename, value in self._cache._sql(select, (tag, len(mark), mark)).fetchall():
            try:
                yield self._cache.disk.get(key, 1), value_of(key, mode, filename, value)
            except Foreign:
                continue

    def touch(self, times: Sequence[tuple[str, float]]) -> None:
        """Set when rows were last used. A row that was written since then was used then: left alone."""
        update = "UPDATE Cache SET access_time = ? WHERE key = ? AND raw = 1 AND store_time <= ?"
        with self._cache._transact() as (sql, _):
            for key, time in times:
                sql(update, (time, key, time))

    def evict(self, need: int, keep: str | None, *, beside: int = 0) -> int:
        """Delete the least recently used rows but ``keep`` until ``need`` bytes are free, STEP at most; each counts for
        ``beside`` more than its body. Returns how many went."""
        freed = gone = 0
        with self._cache._transact() as (sql, _):
            select = f"SELECT rowid, key, filename, {SIZE} FROM Cache ORDER BY access_time LIMIT ?"  # nosec B608 # constants
            for rowid, key, filename, size in sql(select, (STEP + 1,)).fetchall():
                if freed + gone * beside >= need or gone == STEP:
                    break
                if key == keep:
                    continue
                sql("DELETE FROM Cache WHERE rowid = ?", (rowid,))
                self.let_go(key, filename)
                freed, gone = freed + size, gone + 1
                reach("evict")
        self.evicted = Sum(self.evicted.count + gone, self.evicted.bytes + freed)
        return gone

    def settle(self, now: float) -> None:
        """Put right what a clock that was ahead, or a damaged sum, would make eternal."""
        with self._cache._transact() as (sql, _):
            clamp = "UPDATE Cache SET store_time = min(store_time, ?), access_time = ? WHERE access_time > ?"
            sql(clamp, (now, now, now))
            settle(sql)
