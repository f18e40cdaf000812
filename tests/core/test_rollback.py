"""G9: whatever a mirror of many minds says in which order, never an older page after a newer one, and never stuck."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.decide import SLOW, Fallback, Keep, Outcome, Refresh, after_upstream
from proxy.core.lifetime import serial_of
from proxy.core.messages import Entry, Head, PageTarget, Request, Rules
from proxy.errors import UpstreamFailed

NOW = 1_790_000_000.0
DAY = 86_400.0
LIFE = 600
ASKING = Request("GET", PageTarget("test", "six", "../../"), {})
RULES = Rules()

# Seconds that pass, what is answered, its serial (None: it says none), which of three ETags.
SAID = st.tuples(
    st.one_of(st.floats(0, 2 * LIFE), st.floats(0, 3 * DAY)),
    st.sampled_from([200, 200, 200, 304, 304, 404, 500, 503, "slow", "broken"]),
    st.one_of(st.none(), st.integers(90, 110)),
    st.sampled_from(["a", "b", "c"]),
)


def outcome_of(said: int | str, serial: int | None, etag: str, now: float) -> Outcome:
    """What the upstream does."""
    if said == "slow":
        return SLOW
    if isinstance(said, str):
        return UpstreamFailed("no connection", status=503)
    lines = (("Cache-Control", f"max-age={LIFE}"), ("ETag", f'"{etag}"'))
    return Head(said, lines + ((("X-PyPI-Last-Serial", str(serial)),) if serial is not None else ()), now, now)


def page(head: Head) -> Entry:
    """What is kept of it."""
    return Entry("key", "test/six", "https://example.org/simple/six/", head, "body", 4, "sha256")


def usable(entry: Entry, now: float) -> bool:
    """Whether it would be served if the upstream failed now."""
    return isinstance(after_upstream(ASKING, entry, SLOW, now, RULES), Fallback)


@settings(deadline=None, max_examples=200)
@given(st.lists(SAID, min_size=1, max_size=60))
def test_serials_and_etags_that_flap(sequence: list[tuple[float, int | str, int | None, str]]) -> None:
    """As long as a page can be served, nothing that says to be older takes its place, nor lowers what it says; and
    when it no longer can, the next page is taken, whatever it says."""
    entry, now = page(Head(200, (("X-PyPI-Last-Serial", "100"), ("ETag", '"a"')), NOW, NOW)), NOW
    for passed, said, serial, etag in sequence:
        now += passed
        outcome = outcome_of(said, serial, etag, now)
        known = serial_of(entry.head)
        match after_upstream(ASKING, entry, outcome, now, RULES):
            case Keep(negative=False):
                assert isinstance(outcome, Head)
                assert not usable(entry, now) or known is None or serial is None or serial >= known
                entry = page(outcome)
            case Refresh() as refresh:
                entry = replace(entry, head=refresh.head)
                assert known is None or (serial_of(entry.head) or 0) >= known
            case _:
                pass
    now += LIFE + RULES.stale_if_error + RULES.heuristic_cap + RULES.default_ttl
    assert after_upstream(ASKING, entry, outcome_of(200, 0, "z", now), now, RULES) == Keep("storable")
