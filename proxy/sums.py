"""Sums that a database keeps by itself while rows come and go: all rows by diskcache's triggers, wheels by ours.

Wheels and sdists are bodies in one room, told apart by name as `core.patterns.kind_of` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.kept import Sum

Sql = Callable[..., Any]

SIZE = "coalesce(CAST(size AS INTEGER), 0)"
"""A row's bytes; one that we did not write may hold anything."""

_IS = "coalesce({0}.filename LIKE '%.whl', 0)"  # LIKE folds the case of ASCII
_NEW, _OLD = _IS.format("NEW"), _IS.format("OLD")
_NEW_SIZE, _OLD_SIZE = (SIZE.replace("size", f"{row}.size") for row in ("NEW", "OLD"))
_CHANGE = "BEGIN UPDATE Room_wheels SET count = count + {}, bytes = bytes + {}; END"
_PREPARED = (
    "CREATE TABLE IF NOT EXISTS Room_wheels (id INTEGER PRIMARY KEY, count INTEGER NOT NULL, bytes INTEGER NOT NULL)",
    f"CREATE TRIGGER IF NOT EXISTS Room_wheels_insert AFTER INSERT ON Cache WHEN {_NEW} "
    + _CHANGE.format(1, _NEW_SIZE),
    f"CREATE TRIGGER IF NOT EXISTS Room_wheels_delete AFTER DELETE ON Cache WHEN {_OLD} "
    + _CHANGE.format(-1, f"-{_OLD_SIZE}"),
    f"CREATE TRIGGER IF NOT EXISTS Room_wheels_update AFTER UPDATE OF filename, size ON Cache WHEN {_NEW} OR {_OLD} "
    + _CHANGE.format(f"{_NEW} - {_OLD}", f"{_NEW} * {_NEW_SIZE} - {_OLD} * {_OLD_SIZE}"),
)


def prepare(sql: Sql) -> None:
    """Make table and triggers; a database that was written without them is counted once."""
    for statement in _PREPARED:
        sql(statement)
    if sql("SELECT 1 FROM Room_wheels").fetchone() is None:
        _count(sql)


def measure(sql: Sql) -> tuple[Sum, Sum]:
    """All rows, and the wheels among them."""
    select = "SELECT coalesce(CAST(value AS INTEGER), 0) FROM Settings WHERE key = "
    wheels = "FROM Room_wheels"
    found = sql(
        f"SELECT ({select}'count'), ({select}'size'), (SELECT count {wheels}), (SELECT bytes {wheels})"
    ).fetchone()
    count, size, wheels_count, wheels_bytes = (max(0, value or 0) for value in found)  # damaged until it is settled
    return Sum(count, size), Sum(wheels_count, wheels_bytes)


def settle(sql: Sql) -> None:
    """Count again: a sum that was damaged would stay so for ever."""
    sql("UPDATE Settings SET value = (SELECT count(*) FROM Cache) WHERE key = 'count'")
    whole = f"SELECT coalesce(sum({SIZE}), 0) FROM Cache"  # nosec B608 # constants
    sql(f"UPDATE Settings SET value = ({whole}) WHERE key = 'size'")  # nosec B608 # constants
    _count(sql)


def _count(sql: Sql) -> None:
    whole = f"SELECT 0, count(*), coalesce(sum({SIZE}), 0) FROM Cache WHERE filename LIKE '%.whl'"  # nosec B608 # constants
    sql(f"INSERT OR REPLACE INTO Room_wheels {whole}")
