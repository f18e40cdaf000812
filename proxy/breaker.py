"""Who is left alone for now: an origin that fails or asked for it, an index that does not answer.

No clock, no sockets: every question brings its ``now``, seconds of any one clock that never goes back.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from proxy.errors import UpstreamFailed

FAILURES, WITHIN, PROBE_EVERY, REST_MAX = 5, 30.0, 5.0, 300.0
_PROBE_HOLDS = 2
"""Intervals after which a probe without an outcome no longer keeps the next one back."""
_ORIGINS = 1_000
_SILENT_AFTER = 3
_SILENT_FOR = 30.0
_RETRY_AFTER_MOST = 10

Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Patience:
    """An origin rests after ``failures`` within so many seconds and no success between them; then one request
    in ``probe_every`` seconds finds out whether it is back. ``rest_max``: the most it may ask for itself."""

    failures: int = FAILURES
    within: float = WITHIN
    probe_every: float = PROBE_EVERY
    rest_max: float = REST_MAX


@dataclass(slots=True)
class _Origin:
    """``until``: nobody is let through before. ``probed_at``: when the probe left whose outcome is awaited."""

    failures: deque[tuple[float, str | None]] = field(default_factory=deque)
    rests: bool = False
    asked: bool = False
    until: float = 0.0
    probed_at: float | None = None


class Breaker:
    """What became of requests, per key: index and origin. Origins that answer well take no room in it."""

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._origins: OrderedDict[Key, _Origin] = OrderedDict()

    def admit(self, key: Key, now: float) -> bool:
        """Ask before a request, and tell what became of it. UpstreamFailed (503) when the origin rests. True: this
        one is the probe, so it is not to be repeated; the others go on waiting for its outcome."""
        if (refused := self.refuses(key, now)) is not None:
            raise refused
        origin = self._origins.get(key)
        if origin is None or not origin.rests:
            return False
        origin.asked = False
        origin.probed_at = now
        origin.until = now + _PROBE_HOLDS * self._patience.probe_every
        return True

    def refuses(self, key: Key, now: float) -> UpstreamFailed | None:
        """Why that key is not to be asked now; changes nothing."""
        origin = self._origins.get(key)
        if origin is None or not origin.rests or now >= origin.until:
            return None
        because = "the upstream asked to be left alone" if origin.asked else "the upstream rests after failures"
        left = min(max(1, math.ceil(origin.until - now)), _RETRY_AFTER_MOST)
        return UpstreamFailed(because, status=503, retry_after=left)

    def succeeded(self, key: Key, now: float) -> bool:
        """An answer that shows the origin at work; whether that ends a rest. One that was under way when it asked for
        a rest changes nothing about that."""
        origin = self._origins.get(key)
        if origin is None or (origin.asked and now < origin.until):
            return False
        del self._origins[key]
        return origin.rests

    def failed(self, key: Key, now: float, what: str | None = None) -> bool:
        """No connection (``what`` is None); or over one no answer, none that can be understood, or a 5xx to ``what``:
        such a URL counts once, however often somebody tries it again, for it may be the only one that fails. Returns
        whether a rest begins."""
        origin = self._origin(key)
        if origin.rests:
            self.dropped(key)
            return False
        if what is not None:
            origin.failures = deque(each for each in origin.failures if each[1] != what)
        origin.failures.append((now, what))
        while len(origin.failures) > self._patience.failures:
            origin.failures.popleft()
        if len(origin.failures) == self._patience.failures and now - origin.failures[0][0] <= self._patience.within:
            origin.rests = True
            origin.until = now + self._patience.probe_every
        return origin.rests

    def dropped(self, key: Key) -> None:
        """An attempt that ended without an outcome: if it was the probe, the next one may leave in its turn."""
        origin = self._origins.get(key)
        if origin is not None and origin.probed_at is not None:
            origin.until = origin.probed_at + self._patience.probe_every
            origin.probed_at = None

    def asked_to_rest(self, key: Key, seconds: float, now: float) -> bool:
        """A 429, or a 503 with Retry-After: left alone as long as it asked, a second at the least. Returns whether
        that rest begins now."""
        rest = min(max(1.0, seconds), self._patience.rest_max)
        if rest <= 0:
            return False
        origin, until = self._origin(key), now + rest
        # Of several answers that were under way, the one that asked for most counts.
        origin.until = max(origin.until, until) if origin.asked else until
        begins = not origin.rests
        origin.rests = origin.asked = True
        origin.probed_at = None
        return begins

    def resting(self) -> list[Key]:
        """Who rests, those included that only a probe may ask."""
        return [key for key, origin in self._origins.items() if origin.rests]

    def _origin(self, key: Key) -> _Origin:
        origin = self._origins.setdefault(key, _Origin())
        self._origins.move_to_end(key)
        while len(self._origins) > _ORIGINS:
            self._origins.popitem(last=False)
        return origin


class Silence:
    """Indexes that took requests and did not answer: there is no use in waiting for them with a page at hand."""

    def __init__(self, probe_every: float = PROBE_EVERY) -> None:
        self._probe_every = probe_every
        self._late: dict[str, deque[float]] = {}
        self._probed: dict[str, float] = {}

    def late(self, index: str, now: float) -> None:
        """A request was not answered in good time."""
        self._late.setdefault(index, deque(maxlen=_SILENT_AFTER)).append(now)

    def answered(self, index: str) -> None:
        """An answer came, in time or not: everybody waits again."""
        self._late.pop(index, None)

    def holds(self, index: str, now: float) -> bool:
        """Whether the last three requests were late, all in the last 30 s."""
        late = self._late.get(index)
        return late is not None and len(late) == _SILENT_AFTER and now - late[0] <= _SILENT_FOR

    def may_probe(self, index: str, now: float) -> bool:
        """Whether one request may go behind the answer from the store; true once in an interval."""
        if now - self._probed.get(index, -math.inf) < self._probe_every:
            return False
        self._probed[index] = now
        return True
