"""Whether a database can be read, and is one: SQLite takes a disk that fails for damage of the database at times."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from proxy.disk import FAILURES, is_corrupt

_PIECE = 2**20


def read_through(directory: Path) -> None:
    """Read the database in ``directory``, and its log. Raises OSError where the disk cannot."""
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError), open(directory / f"cache.db{suffix}", "rb") as file:
            while file.read(_PIECE):
                pass


def is_whole(sql: Callable[[str], Any]) -> bool:
    """Whether the database holds together, all of it. Raises what is in FAILURES when the disk fails."""
    try:
        return bool(sql("PRAGMA integrity_check(1)").fetchone() == ("ok",))
    except FAILURES as error:
        if not is_corrupt(error):
            raise
        return False
