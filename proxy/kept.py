"""What the store tells of what it keeps: values, no handles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from proxy.core.patterns import Kind


@dataclass(frozen=True, slots=True)
class Sum:
    """So many rows, and the bytes they keep: those of a body as its file has them, of a value as it is written."""

    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RoomStats:
    """Rows, bytes of values and bodies, the limit in bytes; what was evicted since the start, and how many bodies and
    rows were found damaged, and removed."""

    count: int
    bytes: int
    limit: int
    evicted: Sum
    damaged: int


@dataclass(frozen=True, slots=True)
class StoreStats:
    """All rooms, and what the table in memory holds."""

    wheels: RoomStats
    responses: RoomStats
    mounts: RoomStats
    memory_count: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Sums:
    """All that is kept, as counted while it came and went: asking costs nothing."""

    wheels: Sum
    sdists: Sum
    responses: Sum
    mounts: Sum


class Kept(NamedTuple):
    """One row (a tuple: of these there are many). ``project`` is normalised, "" for an index's list; ``what`` is "file"
    for a wheel or an sdist, "raw" for what a mount (its ``index``) answered, else the first word of a response's key
    (page, listing, json, projects, metadata, variants).
    ``filename``, ``version``, ``sha256`` and ``url`` (without its query) are None where it has none; ``path`` is below
    the cache directory, None for a row that lies in a database. ``stored`` and ``last_used`` are seconds since the
    epoch."""

    kind: Kind
    what: str
    index: str  # type: ignore[assignment]  # in the place of tuple.index, which nobody calls
    project: str
    version: str | None
    filename: str | None
    size: int
    sha256: str | None
    url: str | None
    path: str | None
    stored: float
    last_used: float


class Cursor(NamedTuple):
    """Where a list goes on: behind that row. (A tuple: there is one for each row of a list.)"""

    room: str
    tag: str
    rowid: int


@dataclass(frozen=True, slots=True)
class Removed:
    """What went, or would go. ``bytes`` is the sum of the sizes; ``directories`` counts those that only the files
    were in, 0 for a dry run."""

    files: tuple[Kept, ...]
    bytes: int
    directories: int
