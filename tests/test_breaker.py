"""Who is left alone, and for how long: tables of what happened when, and what was let through."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.breaker import Breaker, Patience, Silence
from proxy.errors import UpstreamFailed

KEY = ("test", ("http", "one.example.org", 80))
OTHER = ("test", ("http", "two.example.org", 80))
FAILURES = "the upstream rests after failures"
ASKED = "the upstream asked to be left alone"


def heard(breaker: Breaker, now: float, key: tuple[object, ...] = KEY) -> bool | tuple[str, int | None]:
    """What the breaker says to a request: False to an ordinary one, True to a probe, or why not and when again."""
    try:
        return breaker.admit(key, now)
    except UpstreamFailed as refused:
        return refused.because, refused.retry_after


def after(*events: tuple[str, float], patience: Patience | None = None) -> Breaker:
    """A breaker to which these have happened: failed, succeeded, dropped, asked for (a Retry-After), admitted."""
    breaker = Breaker(patience)
    for what, now in events:
        match what.split():
            case ["failed"]:
                breaker.failed(KEY, now)
            case ["succeeded"]:
                breaker.succeeded(KEY, now)
            case ["dropped"]:
                breaker.dropped(KEY)
            case ["asked", seconds]:
                breaker.asked_to_rest(KEY, float(seconds), now)
            case ["probe"]:
                assert breaker.admit(KEY, now) is True
            case _:
                raise AssertionError(what)
    return breaker


FIVE = tuple(("failed", float(second)) for second in range(5))


@pytest.mark.parametrize(
    ("events", "now", "expected"),
    [
        pytest.param((), 0, False, id="nothing happened"),
        pytest.param(FIVE[:4], 4, False, id="four failures"),
        pytest.param(FIVE, 4, (FAILURES, 5), id="five"),
        pytest.param(FIVE, 8.9, (FAILURES, 1), id="until the interval ends"),
        pytest.param(FIVE, 9, True, id="then a probe"),
        pytest.param((*FIVE[:4], ("failed", 30)), 30, (FAILURES, 5), id="five in 30 s"),
        pytest.param((*FIVE[:4], ("failed", 30.1)), 31, False, id="five in more"),
        pytest.param((("failed", -9), *FIVE[1:4], ("failed", 30), ("failed", 31)), 31, (FAILURES, 5), id="a window"),
        pytest.param((*FIVE[:4], ("succeeded", 4), ("failed", 4)), 4, False, id="a success between"),
        pytest.param((*FIVE, ("succeeded", 5)), 5, False, id="a late success"),
        pytest.param((*FIVE, ("failed", 8)), 9, True, id="a late failure lengthens nothing"),
        pytest.param((*FIVE, ("dropped", 8)), 8, (FAILURES, 1), id="a late cancellation shortens nothing"),
        pytest.param((*FIVE, ("probe", 9)), 9, (FAILURES, 10), id="one probe at a time"),
        pytest.param((*FIVE, ("probe", 9), ("failed", 9.5)), 10, (FAILURES, 4), id="a probe that failed"),
        pytest.param((*FIVE, ("probe", 9), ("failed", 9.5)), 14, True, id="and the next one"),
        pytest.param((*FIVE, ("probe", 9), ("failed", 16)), 16, True, id="a probe that failed late"),
        pytest.param((*FIVE, ("probe", 9)), 19, True, id="a probe without an end"),
        pytest.param((*FIVE, ("probe", 9), ("dropped", 10)), 13, (FAILURES, 1), id="a probe cancelled"),
        pytest.param((*FIVE, ("probe", 9), ("dropped", 10)), 14, True, id="and another instead"),
        pytest.param((*FIVE, ("probe", 9), ("succeeded", 10)), 10, False, id="back again"),
        pytest.param((*FIVE, ("probe", 9), ("succeeded", 10), ("failed", 10)), 10, False, id="counted anew"),
        pytest.param((("asked 60", 0),), 1, (ASKED, 10), id="asked for a minute"),
        pytest.param((("asked 60", 0),), 59.5, (ASKED, 1), id="to its end"),
        pytest.param((("asked 60", 0),), 60, True, id="then a probe, not a crowd"),
        pytest.param((("asked 60", 0), ("probe", 60)), 61, (FAILURES, 9), id="that goes alone"),
        pytest.param((("asked 60", 0), ("probe", 60), ("succeeded", 61)), 61, False, id="back after the minute"),
        pytest.param((("asked 60", 0), ("probe", 60), ("failed", 61)), 65, True, id="still broken: in its turn"),
        pytest.param((("asked 60", 0), ("probe", 60), ("asked 60", 61)), 120, (ASKED, 1), id="asked again"),
        pytest.param((("asked 86400", 0),), 299, (ASKED, 1), id="asked for a day"),
        pytest.param((("asked 86400", 0),), 300, True, id="five minutes are enough"),
        pytest.param((("asked 0", 0),), 0.5, (ASKED, 1), id="a second at least"),
        pytest.param((("asked -99", 0),), 1, True, id="a date in the past"),
        pytest.param((("asked 60", 0), ("asked 5", 1)), 30, (ASKED, 10), id="the longer of two"),
        pytest.param((("asked 5", 0), ("asked 60", 1)), 30, (ASKED, 10), id="in any order"),
        pytest.param((("asked 60", 0), ("succeeded", 1)), 2, (ASKED, 10), id="an answer that was under way"),
        pytest.param((("asked 60", 0), ("failed", 1)), 2, (ASKED, 10), id="a failure that was under way"),
        pytest.param((("asked 60", 0), ("dropped", 1)), 2, (ASKED, 10), id="a cancellation while it rests"),
        pytest.param((*FIVE, ("asked 60", 5)), 20, (ASKED, 10), id="asked while it rests"),
    ],
)
def test_what_is_let_through(
    events: tuple[tuple[str, float], ...], now: float, expected: bool | tuple[str, int]
) -> None:
    """Five failures in 30 s, a probe every 5 s, a Retry-After obeyed for up to five minutes."""
    assert heard(after(*events), now) == expected


def test_each_origin_of_each_index_for_itself() -> None:
    """A dead file host keeps no page waiting, and what one index may not, another may."""
    breaker = after(*FIVE)
    assert heard(breaker, 5, OTHER) is False
    assert heard(breaker, 5, ("other", KEY[1])) is False


def test_it_is_bounded() -> None:
    """A page may name any number of hosts: the ones longest without a word are forgotten."""
    breaker = after(*FIVE)
    for number in range(999):
        breaker.failed(("test", number), 5)
    assert heard(breaker, 5) == (FAILURES, 4)
    breaker.failed(("test", 999), 5)
    assert heard(breaker, 5) is False


def test_one_url_that_fails_counts_once() -> None:
    """However often it is tried again, the others are asked for; as many that fail make the origin rest."""
    breaker = Breaker(Patience(failures=3))
    for now in range(20):
        breaker.failed(KEY, now, f"/{now % 2}")
    assert heard(breaker, 20) is False
    breaker.failed(KEY, 20, "/2")
    assert heard(breaker, 20) == (FAILURES, 5)


def test_a_url_that_failed_long_ago_counts_for_nothing() -> None:
    """What counts is how many different ones failed within the window, each when it failed last."""
    breaker = Breaker(Patience(failures=2))
    breaker.failed(KEY, 0, "/a")
    assert not breaker.failed(KEY, 31, "/b")
    assert not breaker.failed(KEY, 40, "/b")
    assert breaker.failed(KEY, 70, "/a")


def test_failures_to_connect_count_each() -> None:
    """They are the host's, whatever was to be asked for; between them a URL's own ones."""
    breaker = Breaker(Patience(failures=3))
    assert [breaker.failed(KEY, 0), breaker.failed(KEY, 1, "/a"), breaker.failed(KEY, 2, "/a")] == [False] * 3
    assert breaker.failed(KEY, 3)


def test_who_asks_learns_of_each_change_once() -> None:
    """When a rest begins and when it ends, not while it goes on."""
    breaker = Breaker(Patience(failures=1))
    assert [breaker.failed(KEY, 0), breaker.failed(KEY, 0), breaker.asked_to_rest(KEY, 1, 0)] == [True, False, False]
    assert [breaker.succeeded(KEY, 2), breaker.succeeded(KEY, 2)] == [True, False]
    assert [breaker.asked_to_rest(KEY, 5, 3), breaker.asked_to_rest(KEY, 9, 3)] == [True, False]
    assert [breaker.succeeded(KEY, 4), breaker.succeeded(KEY, 12)] == [False, True]


def test_patience_is_a_setting() -> None:
    """Other counts, other intervals; and no rest at all where none is granted."""
    patience = Patience(failures=1, within=1, probe_every=60, rest_max=0)
    assert heard(after(("failed", 0), patience=patience), 50) == (FAILURES, 10)
    assert heard(after(("asked 60", 0), patience=patience), 0) is False


MOVES = st.lists(st.tuples(st.floats(0.01, 8), st.sampled_from(["ok", "fail", "hang", "cancel"])), max_size=80)


@settings(deadline=None)
@given(MOVES)
def test_never_more_than_a_probe_in_five_seconds_and_never_stuck(moves: list[tuple[float, str]]) -> None:
    """Whatever becomes of the requests: while it rests, one leaves in 5 s; within 10 s of its return one succeeds."""
    breaker, now, probes = after(*FIVE), 4.0, [4.0]
    for passed, became in moves:
        now += passed
        said = heard(breaker, now)
        if said is True:
            assert now - probes[-1] >= 5 - 1e-9
            probes.append(now)
            if became == "ok":
                breaker.succeeded(KEY, now)
                assert heard(breaker, now) is False
                return
            if became == "fail":
                breaker.failed(KEY, now)
            elif became == "cancel":
                breaker.dropped(KEY)
    assert heard(breaker, now + 10) is True
    breaker.succeeded(KEY, now + 10)
    assert heard(breaker, now + 10) is False


@pytest.mark.parametrize(
    ("late", "answered", "now", "expected"),
    [
        ((0, 1), None, 1, False),
        ((0, 1, 2), None, 2, True),
        ((0, 1, 2), None, 30, True),
        ((0, 1, 2), None, 30.1, False),
        ((0, 1, 2, 29), None, 31, True),
        ((0, 20, 40), None, 40, False),
        ((0, 1, 2), 2, 2, False),
        ((0, 1), 2, 3, False),
    ],
)
def test_silence(late: tuple[float, ...], answered: float | None, now: float, expected: bool) -> None:
    """Three late ones in 30 s and no answer after them; another index is another matter."""
    silence = Silence()
    for moment in late:
        silence.late("test", moment)
    if answered is not None:
        silence.answered("test")
    assert silence.holds("test", now) is expected
    assert not silence.holds("other", now)


def test_silence_is_probed_in_turn() -> None:
    """One request in five seconds may go behind, for each index."""
    silence = Silence()
    assert [silence.may_probe("test", now) for now in (0, 1, 4.9, 5, 9, 10)] == [True, False, False, True, False, True]
    assert silence.may_probe("other", 1)
