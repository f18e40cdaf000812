"""CacheControl as a judge: one controller per question, over a cache with one slot. Its only importer.

CacheControl is a private cache for requests; here its ``CacheController`` only judges. In the slot lies no stored
response but a view of one (see ``freshness``), which is thrown away with it. Nothing of the library is patched.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cachecontrol.cache import BaseCache
from cachecontrol.controller import CacheController
from cachecontrol.heuristics import BaseHeuristic
from cachecontrol.serialize import Serializer

from proxy.core.fields import format_date

NO_CLOCK_REACHES = 95_617_584_000  # 5000-01-01T00:00:00Z; with any life added still a four-digit year


@dataclass(slots=True)
class View:
    """A response as the controller looks at it."""

    status: int
    headers: Any
    version: int = 11
    reason: str = ""
    decode_content: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A request as the controller looks at it; with one slot every URL will do."""

    headers: Mapping[str, str]
    url: str = "http://slot/"


class Slot(BaseCache):
    """A cache of one. ``delete`` is only noted: the controller deletes stale responses without an ETag while
    it is asked about them, and that would be the last good copy."""

    def __init__(self, kept: Any = None) -> None:
        self.kept: Any = kept
        self.deleted = False

    def get(self, key: str) -> Any:
        return self.kept

    def set(self, key: str, value: Any, expires: Any = None) -> None:
        self.kept = value

    def delete(self, key: str) -> None:
        self.deleted = True


class PassThrough(Serializer):
    """Views go in and out as they are."""

    def dumps(self, request: Any, response: Any, body: bytes | None = None) -> Any:
        return response

    def loads(self, request: Any, data: Any, body_file: Any = None) -> Any:
        return data


class StatedLife(BaseHeuristic):
    """CacheControl's own extension point: says a lifetime in the three fields the controller reads."""

    def __init__(self, seconds: int, *, keep: bool) -> None:
        self.seconds = seconds
        self.keep = keep

    def update_headers(self, response: Any) -> dict[str, str]:
        return {
            "date": format_date(NO_CLOCK_REACHES),
            "expires": format_date(NO_CLOCK_REACHES + self.seconds),
            "cache-control": "public" if self.keep else "no-store",
        }

    def warning(self, response: Any) -> None:
        """RFC 9111 §5.5: Warning is obsolete."""
        return


def controller(slot: Slot, statuses: Collection[int] = ()) -> CacheController:
    """A controller for one question; ``statuses`` are those it may store."""
    return CacheController(slot, serializer=PassThrough(), status_codes=tuple(statuses))
