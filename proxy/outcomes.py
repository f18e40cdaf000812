"""What a look at an upstream means for the client that waits: what to show and how it came about, or an error."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from proxy.core import decide
from proxy.core.messages import CacheStatus, Entry, Rules
from proxy.errors import Refused
from proxy.lookups import Fetched


def concluded(
    fetched: Fetched, status: CacheStatus, *, missing: str, now: float, rules: Rules
) -> tuple[Entry, CacheStatus]:
    """The entry to show, and ``status`` as the look has changed it. Raises Refused (404, because of ``missing``) and
    UpstreamFailed (502, 503)."""
    after, entry = fetched.after, fetched.entry
    match after:
        case decide.Keep():
            if after.negative:
                raise Refused(missing, status=404, outcome="missing")
            status = replace(status, stored=True)
        case decide.Relay():
            status = replace(status, outcome="relay", because=after.because)
        case decide.Refresh():
            status = replace(status, outcome="revalidated")
        case decide.Fallback():
            status = fallen_back(after, entry, now, rules)
        case decide.Fail():
            raise decide.failure(after, fetched.status)
        case _:
            assert_never(after)
    assert entry is not None
    return entry, status


def served(serve: decide.Serve) -> CacheStatus:
    """How an answer came about that is served from the store."""
    return CacheStatus("hit" if serve.fresh else "stale", serve.because, hit=True, ttl=serve.ttl)


def fallen_back(fallback: decide.Fallback, entry: Entry | None, now: float, rules: Rules) -> CacheStatus:
    """The same of one that is served instead. RFC 9211 §2.1: "hit" says that nothing was forwarded for this answer, so
    it stands without "fwd"."""
    left = None if entry is None else decide.seconds_left(entry, now, rules)
    return CacheStatus("stale", fallback.because, hit=True, ttl=left)
