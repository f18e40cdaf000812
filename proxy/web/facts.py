"""What the store tells, as the admin API says it. Whoever has no server to ask makes the same JSON with it."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from proxy.directory import ROOMS
from proxy.kept import Cursor, Kept, Removed, Sum, Sums
from proxy.web.answers import Amount, Explanation, File, Info, Limits, Locations, Refreshed, Removal

if TYPE_CHECKING:  # they bring in aiohttp, which the command has no use for
    from proxy import foretold, refreshes

_LAST = 253_402_300_799.0
"""The last second of the year 9999."""
_MINUTES_AND_SECONDS = tuple(f"{rest // 60:02}:{rest % 60:02}Z" for rest in range(3600))


def cursor_text(cursor: Cursor) -> str:
    """The cursor as one word for a URL; opaque to whoever gets it."""
    packed = orjson.dumps([cursor.room, cursor.tag, cursor.rowid])
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")


def cursor_of(text: str) -> Cursor:
    """The cursor that text is of. Raises ValueError when it is of none."""
    packed = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    found = orjson.loads(packed)
    if not isinstance(found, list) or [type(each) for each in found] != [str, str, int]:
        raise ValueError("not a cursor")
    cursor = Cursor(*found)
    if cursor.room not in ROOMS or not -(2**63) <= cursor.rowid < 2**63 or cursor_text(cursor) != text:
        raise ValueError("not a cursor")
    return cursor


def time_text(seconds: float) -> str:
    """Seconds since the epoch in RFC 3339, UTC; a time that it cannot say is the nearest that it can."""
    if not 0.0 <= seconds <= _LAST:
        seconds = 0.0 if seconds < 0.0 else _LAST
    hour, rest = divmod(int(seconds), 3600)
    return _hour(hour) + _MINUTES_AND_SECONDS[rest]


@lru_cache(maxsize=1024)
def _hour(number: int) -> str:
    return datetime.fromtimestamp(number * 3600, UTC).isoformat()[:14]


def path_text(path: Path) -> str:
    """A path as JSON can say it: bytes that are no UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def files_json(kept: Sequence[Kept]) -> bytes:
    """The rows as JSON, with commas between them and no brackets around."""
    # No models here: making 100,000 of them takes longer than finding the rows does.
    return orjson.dumps([_fields(each) for each in kept])[1:-1]


def file_of(kept: Kept) -> File:
    """One row."""
    return File.model_validate_json(files_json([kept]))


def _fields(kept: Kept) -> dict[str, object]:
    kind, what, index, project, version, filename, size, sha256, url, path, stored, last_used = kept
    return {
        "project": project,
        "version": version,
        "filename": filename,
        "kind": kind,
        "what": what,
        "size": size,
        "sha256": sha256,
        "index": index,
        "url": url,
        "path": path,
        "stored": time_text(stored),
        "last_used": time_text(last_used),
    }


def info_of(
    directory: Path,
    sums: Sums,
    limits: Limits,
    *,
    free: int | None = None,
    served: tuple[int, int] | None = None,
    since: float | None = None,
    degraded: str | None = None,
) -> Info:
    """What the cache holds; ``served`` are hits and misses."""
    hits, misses = (None, None) if served is None else served
    looked = sum(served or ())
    return Info(
        dir=path_text(directory),
        locations=Locations.model_validate({name: path_text(directory / name) for name in ROOMS}),
        wheels=_amount(sums.wheels),
        sdists=_amount(sums.sdists),
        responses=_amount(sums.responses),
        mounts=_amount(sums.mounts),
        limits=limits,
        free=free,
        hits=hits,
        misses=misses,
        hit_ratio=round(served[0] / looked, 4) if served is not None and looked else None,
        since=None if since is None else time_text(since),
        degraded=degraded,
    )


def removal_of(removed: Removed, *, dry_run: bool) -> Removal:
    """All of it at once."""
    files = [file_of(each) for each in removed.files]
    return Removal(
        removed=files, count=len(files), bytes=removed.bytes, directories=removed.directories, dry_run=dry_run
    )


def refreshed_of(refreshed: refreshes.Refreshed) -> Refreshed:
    """What became of a page."""
    return Refreshed.model_validate(asdict(refreshed))


def explanation_of(explanation: foretold.Explanation) -> Explanation:
    """What would happen."""
    values = asdict(explanation)
    if explanation.stored is not None:
        values["stored"]["received_at"] = time_text(explanation.stored.received_at)
    return Explanation.model_validate_json(orjson.dumps(values))


def _amount(total: Sum) -> Amount:
    return Amount(count=total.count, bytes=total.bytes)
