"""How the server is at this moment, read when somebody asks: no thread, no walk, and of the disk one statvfs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from proxy.directory import free_space
from proxy.flights import Waiting
from proxy.store import Store


@dataclass(frozen=True, slots=True)
class Crowded:
    """Client connections: ``now`` open, ``refused`` so far by the setting whose limit they met."""

    now: int
    refused: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What bounds the server, as configured: ``min_free`` bytes, ``connections`` of clients in all, ``waiters`` for
    one thing."""

    min_free: int
    connections: int
    waiters: int


@dataclass(frozen=True, slots=True)
class Heat:
    """What is ready for the wire: ``answers``, their ``bytes`` and what goes with them; ``given`` so far."""

    answers: int = 0
    bytes: int = 0
    given: int = 0


@dataclass(frozen=True, slots=True)
class Vitals:
    """Where to look. ``resting``: how many origins of each index are left alone for now; ``waiting``: who waits for
    what is on its way; ``heat``: what is ready to be sent again; ``started``: seconds since the epoch."""

    store: Store
    waiting: Callable[[], Mapping[str, Waiting]]
    resting: Callable[[], Mapping[str, int]]
    crowded: Callable[[], Crowded]
    heat: Callable[[], Heat]
    limits: Bounds
    started: float

    def disk(self) -> tuple[int, int] | None:
        """Bytes that may still be written on the cache's disk, and bytes to be left free; None when it fails."""
        with suppress(OSError):
            return free_space(self.store.directory, self.limits.min_free)
        return None
