"""What became of each request, told to the breaker; and to the log when a host begins to rest, or is back."""

from __future__ import annotations

import logging
from collections import Counter

from proxy.breaker import Breaker, Patience
from proxy.core.urls import without_query
from proxy.errors import UpstreamFailed

_log = logging.getLogger("proxy.upstream")

Place = tuple[str, tuple[str, str, int]]
"""An index and an origin: scheme, host, port."""


class Rests:
    """Who is left alone for now. Every ``now`` is of the event loop's clock."""

    def __init__(self, patience: Patience | None = None) -> None:
        self._breaker = Breaker(patience)

    def admit(self, place: Place, now: float) -> bool:
        """Whether this request is a probe. Raises UpstreamFailed (503) while the place rests."""
        return self._breaker.admit(place, now)

    def resting(self) -> Counter[str]:
        """How many origins of each index rest; an index of which none does is absent."""
        return Counter(str(index) for index, *_ in self._breaker.resting())

    def refuses(self, place: Place, now: float) -> UpstreamFailed | None:
        """What ``admit`` would raise."""
        return self._breaker.refuses(place, now)

    def dropped(self, place: Place) -> None:
        """A request that was refused by us, or cancelled: it says nothing about the place."""
        self._breaker.dropped(place)

    def failed(self, place: Place, url: str | None, now: float) -> None:
        """No answer, or none that is one. ``url``: a connection stood, so it may fail for this URL alone."""
        # Links are signed in their query, and anew each time: it is one file all the same.
        if self._breaker.failed(place, now, url and without_query(url)):
            _tell(logging.WARNING, "resting", place, "after failures")

    def answered(self, place: Place, url: str, now: float, *, status: int, rest: float | None, method: str) -> None:
        """An answer with that status; ``rest`` is how many seconds it asks to be left alone."""
        if rest is not None:
            if self._breaker.asked_to_rest(place, rest, now):
                _tell(logging.WARNING, "resting", place, "as it asked")
        elif status < 500:
            if self._breaker.succeeded(place, now):
                _tell(logging.INFO, "back", place, "it answers")
        elif method == "GET":  # what knows no HEAD answers it with a 501, or a 500
            self.failed(place, url, now)


def _tell(level: int, event: str, place: Place, because: str) -> None:
    """One line that names the host, and nothing of what was asked of it."""
    index, (_, name, port) = place
    host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    fields = {"index": index, "host": host, "because": because}
    _log.log(level, "%s of index %s: %s (%s)", host, index, event, because, extra={"event": event, "fields": fields})
