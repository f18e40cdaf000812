"""What is counted while the server works: plain numbers on the event loop. ``exposition`` shows them to Prometheus.

Counting costs a look-up and a few additions per request, for everybody; what is shown is put together when
somebody asks. No label ever holds what a client or an upstream chose: see ``_MOST_REASONS`` and ``_status_of``.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from proxy.answer import Answer
from proxy.events import Again, Event, UpstreamEvent
from proxy.web.routes import Route

if TYPE_CHECKING:
    from proxy.web.exposition import Exposition
    from proxy.web.vitals import Vitals

BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0,
)  # fmt: skip
"""Upper ends of buckets, in seconds: from a page in memory to a wheel of gigabytes."""

DATA = frozenset({"page", "list", "file", "metadata", "json", "raw"})
"""Kinds that are the data plane."""
HITS = frozenset({"hit", "stale", "negative"})
"""Outcomes of answers that come from what is kept, whatever an upstream said or did not say meanwhile."""
MISSES = frozenset({"miss", "revalidated", "relay", "missing"})
"""Outcomes of answers that say what an upstream said for them."""
_SAVING = frozenset({"hit", "stale", "revalidated"})
"""Outcomes whose bodies come from what is kept. So do those of requests that joined another's fetch."""

OTHER = "other"
_MOST_REASONS = 500
"""Reasons are constant text of ours; of more than so many with their kinds and outcomes the rest count as others."""


@dataclass(slots=True)
class Durations:
    """A histogram: how many were within each of BOUNDS (and, last, beyond them all), and the sum in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


@dataclass(slots=True)
class Tally:
    """All answers of one kind and outcome. ``sent`` and ``saved`` are bytes of bodies; ``collapsed`` joined a fetch
    that was under way, ``cut`` ended before their bodies did."""

    saves: bool
    durations: Durations = field(default_factory=Durations)
    sent: int = 0
    saved: int = 0
    collapsed: int = 0
    cut: int = 0


@dataclass(slots=True)
class _Reason:
    """Answers of one kind, outcome, reason and class of status."""

    tally: Tally
    count: int = 0


@dataclass(slots=True)
class Asked:
    """All requests to one index: how many got which status ("none": no answer), and what kept answers away."""

    statuses: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    durations: Durations = field(default_factory=Durations)
    received: int = 0


Key = tuple[str, str, str, str]
"""Kind, outcome, reason, class of status ("2xx")."""


class Metrics:
    """An observer of both planes (itself of answers to clients). Made and used on the event loop alone."""

    def __init__(self, indexes: Iterable[str] = ()) -> None:
        self.tallies: dict[tuple[str, str], Tally] = {}
        # At 0 from the start: a rate does not see the step of a series that begins with a number.
        self.upstreams = {index: Asked() for index in indexes}
        self._reasons: dict[tuple[str, str, str, int], _Reason] = {}

    def __call__(self, event: Event) -> None:
        """Count one answer."""
        reason = self._reasons.get((event.kind, event.outcome, event.because, event.status // 100))
        if reason is None:
            reason = self._reason(event)
        reason.count += 1
        tally = reason.tally
        tally.durations.add(event.seconds)
        tally.sent += event.sent
        if tally.saves or event.collapsed:
            tally.saved += event.sent
        if event.collapsed:
            tally.collapsed += 1
        if event.aborted:
            tally.cut += 1

    def like(self, event: Event) -> Again:
        """Count answers that are like this one, and whole."""
        reason = self._reasons.get((event.kind, event.outcome, event.because, event.status // 100))
        counted = self._reason(event) if reason is None else reason
        tally, sent = counted.tally, event.sent
        saved = sent if tally.saves else 0
        add = tally.durations.add

        def count(now: float, seconds: float, client: str) -> None:
            counted.count += 1
            add(seconds)
            tally.sent += sent
            tally.saved += saved

        return count

    def observe_upstream(self, event: UpstreamEvent) -> None:
        """Count one request to an upstream."""
        asked = self.upstreams.setdefault(event.index, Asked())
        asked.statuses[_status_of(event.status)] += 1
        asked.durations.add(event.seconds)
        asked.received += event.received
        if event.status is None or event.because:
            because = event.because or "nobody waits for the answer any more"
            known = because in asked.failures or len(asked.failures) < _MOST_REASONS
            asked.failures[because if known else OTHER] += 1

    @property
    def hits(self) -> int:
        """Requests of the data plane answered from what is kept; see HITS. Errors are neither hits nor misses."""
        return self._count_of(HITS)

    @property
    def misses(self) -> int:
        """Requests of the data plane answered with what an upstream said for them; see MISSES."""
        return self._count_of(MISSES)

    def requests(self) -> Iterator[tuple[Key, int]]:
        """How many requests there were of each sort."""
        for (kind, outcome, because, status), reason in self._reasons.items():
            yield (kind, outcome, because, f"{status}xx"), reason.count

    def _count_of(self, outcomes: frozenset[str]) -> int:
        counted = (each for (kind, outcome), each in self.tallies.items() if kind in DATA and outcome in outcomes)
        return sum(each.durations.count for each in counted)

    def _reason(self, event: Event) -> _Reason:
        kind, outcome = event.kind, event.outcome
        tally = self.tallies.get((kind, outcome))
        if tally is None:
            tally = self.tallies[kind, outcome] = Tally(saves=kind in DATA and outcome in _SAVING)
        because = event.because if len(self._reasons) < _MOST_REASONS else OTHER
        return self._reasons.setdefault((kind, outcome, because, event.status // 100), _Reason(tally))


def _status_of(status: int | None) -> str:
    """A status as a label: an upstream may send any number, and only those that are registered are told apart."""
    if status is None:
        return "none"
    return str(status) if status in _REGISTERED else f"{status // 100}xx"


_REGISTERED = frozenset(int(each) for each in HTTPStatus)


def scraped(metrics: Metrics, vitals: Vitals) -> Mapping[str, Route]:
    """``/metrics``. What it needs of prometheus_client is imported when somebody asks for the first time, in a thread:
    50 ms, which the start does without."""
    loaded: list[Exposition] = []

    def load() -> Exposition:
        from proxy.web.exposition import Exposition

        return Exposition(metrics, vitals)

    async def expose(incoming: web.BaseRequest) -> Answer:
        if not loaded:
            loaded.append(await asyncio.to_thread(load))
        return await loaded[0].answer(incoming.headers)

    return {"/metrics": expose}
