"""Where it is no use to wait for another page than the stored one: what looks at upstreams came to lately."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable

from proxy.breaker import Silence
from proxy.core import decide
from proxy.core.messages import Entry, Request, Rules
from proxy.errors import UpstreamFailed

_REMEMBERED = 10_000


class Futile:
    """Looks tell it how they go, by the key of their page; ``probe_every`` seconds a silent index is asked for a page
    behind the stored one."""

    def __init__(self, *, rules: Rules, probe_every: float, clock: Callable[[], float]) -> None:
        self._rules = rules
        self._clock = clock
        self._silence = Silence(probe_every)
        # The looks under way that took longer than ``stale_after``.
        self._overdue: set[str] = set()
        # When a look ended that found only a page which may not replace the stored one, and why not.
        self._useless: OrderedDict[str, tuple[float, UpstreamFailed]] = OrderedDict()

    # -- what becomes of a look ------------------------------------------------------------------------------

    def begun(self, key: str, index: str) -> asyncio.TimerHandle:
        """A look begins: it is late after ``stale_after``, unless it ends before. Hand the timer to ``ended``."""
        return asyncio.get_running_loop().call_later(self._rules.stale_after, self._is_late, key, index)

    def ended(self, key: str, timer: asyncio.TimerHandle) -> None:
        """It ended, in whatever way."""
        timer.cancel()
        self._overdue.discard(key)

    def answered(self, index: str) -> None:
        """The index gave an answer, in time or not."""
        self._silence.answered(index)

    def useless(self, key: str, because: str) -> None:
        """All it found was a page that may not replace the stored one."""
        self._useless[key] = (_now(), UpstreamFailed(because))
        while len(self._useless) > _REMEMBERED:
            self._useless.popitem(last=False)

    def forget(self, key: str) -> None:
        """What an earlier look found counts no more."""
        self._useless.pop(key, None)

    def _is_late(self, key: str, index: str) -> None:
        self._overdue.add(key)
        self._silence.late(index, _now())

    # -- what follows from it --------------------------------------------------------------------------------

    def instead(self, request: Request, index: str, entry: Entry) -> decide.Fallback | None:
        """Why the stored page is served without waiting: the look under way is late, the index has been silent lately,
        or a look a moment ago found no page that may replace it. None: look."""
        outcome = self._outcome(entry.key, index)
        if outcome is None:
            return None
        after = decide.after_upstream(request, entry, outcome, self._clock(), self._rules)
        return after if isinstance(after, decide.Fallback) else None

    def may_probe(self, key: str, index: str) -> bool:
        """Whether a look goes on behind such an answer: one at a time, and only at an index that is silent."""
        silent = self._outcome(key, index) is decide.SLOW and key not in self._overdue
        return silent and self._silence.may_probe(index, _now())

    def _outcome(self, key: str, index: str) -> UpstreamFailed | decide.Slow | None:
        since, useless = self._useless.get(key, (-math.inf, None))
        if useless is not None and _now() - since < self._rules.min_reload_interval:
            return useless
        return decide.SLOW if key in self._overdue or self._silence.holds(index, _now()) else None


def _now() -> float:
    return asyncio.get_running_loop().time()
