"""What an operator asks of a room's rows: to see them in their order, and that they go. For the store's thread.

All rows come in the order of their ids, as they lie on the disk; those of some tags in the order of tags, then of ids,
both from one index. A tag is handled as its bytes: what a flipped bit made of one is still in the same place then, and
a walk comes to its end. A row whose tag is no text was not written by us; it is in no walk, and goes with everything
(`begin_anew`) or with the sweep.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from proxy.disk import MODE_BINARY
from proxy.room import Room
from proxy.sums import SIZE

FIRST = -(2**63)
"""Before the first row id."""
SECONDS = 0.01
"""What one job may take of the one thread before its commit, which shrinks the database and takes as long again: a
reader waits for both."""

# Heads are shorter: a page's body is not read only to find out that it is none.
_HEAD_MOST = 2**13
_TEXT = "CASE typeof({0}) WHEN 'text' THEN CAST({0} AS BLOB) ELSE x'' END"
_HEAD = f"CASE WHEN typeof(value) = 'blob' AND (mode = {MODE_BINARY} OR length(value) <= {_HEAD_MOST})"
_ROW = (
    f"SELECT rowid, CAST(tag AS BLOB), {_TEXT.format('key')}, {_TEXT.format('filename')}, max(0, {SIZE}),"
    f" store_time, access_time, {_HEAD} THEN value ELSE x'' END FROM Cache"  # nosec B608 # of constants
)
_AT = f"{_ROW} WHERE tag = CAST(? AS TEXT) AND rowid > ? ORDER BY rowid LIMIT ?"
_AFTER = f"{_ROW} WHERE rowid > ? AND typeof(tag) = 'text' ORDER BY rowid LIMIT ?"
# Writing a row is using it, so what came lately is found by an index.
_LATE = f"{_ROW} WHERE access_time >= ? AND store_time >= ? AND typeof(tag) = 'text'"
# Every text comes before every blob, so the last bound is no bound when it is the empty blob.
_BEHIND = f"{_ROW} WHERE tag > CAST(? AS TEXT) AND tag < coalesce(CAST(? AS TEXT), x'') ORDER BY tag, rowid LIMIT ?"

Place = tuple[bytes, int]
"""A tag, and the id of a row under it."""
Seen = tuple[int, bytes, bytes, bytes, int, object, object, bytes]
"""A row: id, tag, key, file name, bytes, when it was stored, when used, and what may be the dumped entry, sealed. What
is not there, or damaged, is empty; times may be anything. (No names: of these there are many.)"""


def text_of(octets: bytes) -> str:
    """A key or a file name, as all others read it; a flipped bit stops nobody."""
    return octets.decode("utf-8", "replace")


def place_of(row: Seen) -> Place:
    """Where it is in the order."""
    return row[1], row[0]


def tags_at(room: Room, low: bytes) -> bytes | None:
    """The first tag from ``low`` on, None when there is none."""
    select = "SELECT CAST(tag AS BLOB) FROM Cache WHERE tag >= CAST(? AS TEXT) AND tag < x'' ORDER BY tag LIMIT 1"
    row: tuple[bytes] | None = room.sql(select, (low,)).fetchone()
    return None if row is None else row[0]


def indexes(room: Room) -> list[bytes]:
    """What stands before the slash of any tag, in order: as many look-ups as there are."""
    names: list[bytes] = []
    tag = tags_at(room, b"")
    while tag is not None:
        names.append(tag.partition(b"/")[0])
        tag = tags_at(room, names[-1] + b"0") if b"/" in tag else tags_at(room, tag + b"\0")
    return names


def rows_after(room: Room, rowid: int, most: int) -> list[Seen]:
    """At most so many of all rows, behind that id."""
    rows: list[Seen] = room.sql(_AFTER, (rowid, most)).fetchall()
    return rows


def rows_behind(room: Room, place: Place, high: bytes | None, most: int) -> list[Seen]:
    """At most so many rows behind that place, below the tag ``high``."""
    tag, rowid = place
    rows: list[Seen] = room.sql(_AT, (tag, rowid, most)).fetchall()
    if len(rows) < most:
        rows += room.sql(_BEHIND, (tag, high, most - len(rows))).fetchall()
    return rows


def take(room: Room, rows: Sequence[Seen]) -> list[bool]:
    """Delete rows that still are what was seen, for SECONDS at most: whether each of them went, as far as it came."""
    until = time.monotonic() + SECONDS
    went: list[bool] = []
    with room.transact():
        for rowid, _, key, filename, _, stored, _, _ in rows:
            where = "WHERE rowid = ? AND store_time IS ?"
            went.append(room.sql(f"DELETE FROM Cache {where}", (rowid, stored)).rowcount == 1)  # nosec B608 # of constants
            if went[-1]:
                room.let_go(text_of(key) or None, text_of(filename) or None)
            if time.monotonic() > until:
                break
    return went


def begin_anew(room: Room, since: float) -> list[Seen]:
    """An empty database in the place of this one; those of its rows that came since. Row by row, 100,000 of them would
    keep the thread, and the disk, for a minute."""
    late: list[Seen] = room.sql(_LATE, (since, since)).fetchall()
    room.begin_anew()
    return late
