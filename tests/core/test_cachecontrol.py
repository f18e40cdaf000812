"""The contract with CacheControl: every verdict that freshness.py relies on, and every flaw it works around.

When a release changes one of these, this table fails before any answer of the proxy does.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from cachecontrol.controller import CacheController

from proxy.core.fields import format_date
from proxy.core.freshness import (
    NO_CLOCK_REACHES,
    STORABLE,
    Lines,
    PassThrough,
    Question,
    Slot,
    StatedLife,
    View,
)

DATE = format_date(NO_CLOCK_REACHES)


def controller(slot: Slot) -> CacheController:
    """As freshness.py makes it."""
    return CacheController(slot, serializer=PassThrough(), status_codes=STORABLE)


def served(control: str, headers: dict[str, str], status: int = 200) -> bool:
    """Does the controller answer a request with this Cache-Control from a response with these fields?"""
    question: Any = Question({"cache-control": control})
    return controller(Slot(View(status, headers))).cached_request(question) is not False


def lives(seconds: int) -> dict[str, str]:
    """The fields of a view with this lifetime."""
    return {"date": DATE, "expires": format_date(NO_CLOCK_REACHES + seconds), "cache-control": "public"}


@pytest.mark.parametrize(
    ("control", "headers", "expected"),
    [
        pytest.param("", lives(1), True, id="a Date ahead of the clock is age zero"),
        pytest.param("", lives(0), False, id="a lifetime of zero is stale at age zero"),
        pytest.param("min-fresh=9", lives(10), True, id="min-fresh is added to the age: below"),
        pytest.param("min-fresh=10", lives(10), False, id="min-fresh is added to the age: equal"),
        pytest.param("min-fresh=2147483648", lives(2**31), False, id="no overflow: equal"),
        pytest.param("min-fresh=2147483647", lives(2**31), True, id="no overflow: below"),
        pytest.param("min-fresh=5, max-age=6", lives(10), True, id="max-age replaces the lifetime: above"),
        pytest.param("min-fresh=5, max-age=5", lives(10), False, id="max-age replaces the lifetime: equal"),
        pytest.param("min-fresh=0, max-age=0", lives(10), False, id="max-age=0 is never served"),
        pytest.param("min-fresh=0, no-cache", lives(10), False, id="no-cache is never served"),
        pytest.param("min-fresh=0, max-stale=9", lives(0), False, id="max-stale is ignored"),
    ],
)
def test_verdicts_relied_on(control: str, headers: dict[str, str], expected: bool) -> None:
    """The comparison that all of freshness rests on."""
    assert served(control, headers) is expected


@pytest.mark.parametrize(
    ("control", "status", "headers", "expected"),
    [
        pytest.param("min-fresh=20, max-age=99", 200, lives(10), True, id="max-age lengthens: it is bounded"),
        pytest.param("min-fresh=99", 301, lives(10), True, id="301 for ever: it is shown as 200"),
        pytest.param("min-fresh=99", 308, lives(10), True, id="308 for ever: it is shown as 200"),
        pytest.param("", 200, {"cache-control": "max-age=9"}, False, id="no Date: the view has its own"),
        pytest.param("", 200, {**lives(10), "cache-control": "no-cache"}, True, id="no-cache is served: life is zero"),
        pytest.param("", 200, {**lives(10), "age": "99"}, True, id="Age is ignored: the age is ours"),
    ],
)
def test_flaws_worked_around(control: str, status: int, headers: dict[str, str], expected: bool) -> None:
    """Not what RFC 9111 says; the view and the question are made so that it cannot happen."""
    assert served(control, headers, status) is expected


def test_malformed_date_raises() -> None:
    """Another flaw: so no upstream's Date ever gets into a view."""
    with pytest.raises(AssertionError):
        served("", {"date": "yesterday"})


def test_the_last_good_copy_is_not_deleted() -> None:
    """The controller deletes a stale response without an ETag while it is asked; the slot only notes it."""
    slot = Slot(View(200, lives(0)))
    question: Any = Question({})
    assert controller(slot).cached_request(question) is False
    assert slot.deleted
    assert slot.kept is not None


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        pytest.param(200, lives(0), True, id="Expires is enough, even at once"),
        pytest.param(404, lives(0), True, id="the widened statuses"),
        pytest.param(206, lives(10), False, id="206"),
        pytest.param(302, lives(10), False, id="a status not named"),
        pytest.param(200, {**lives(10), "cache-control": "no-store"}, False, id="no-store"),
        pytest.param(200, {**lives(10), "vary": "*"}, False, id="Vary: *"),
        pytest.param(200, {**lives(10), "vary": "accept"}, True, id="another Vary"),
        pytest.param(200, {"date": DATE}, False, id="neither Expires nor ETag: the view always has Expires"),
        pytest.param(200, {**lives(10), "cache-control": "private"}, True, id="private: becomes no-store"),
    ],
)
def test_what_it_stores(status: int, headers: dict[str, str], expected: bool) -> None:
    """``cache_response`` fills the slot, or does not."""
    slot = Slot()
    question: Any = Question({})
    view: Any = View(status, headers)
    controller(slot).cache_response(question, view)
    assert (slot.kept is view) is expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, {}),
        ({"etag": '"a"'}, {"If-None-Match": '"a"'}),
        ({"last-modified": DATE}, {"If-Modified-Since": DATE}),
        ({"etag": 'W/"a"', "last-modified": DATE}, {"If-None-Match": 'W/"a"', "If-Modified-Since": DATE}),
    ],
)
def test_conditions_it_makes(headers: dict[str, str], expected: dict[str, str]) -> None:
    """Whatever the view has, as it stands."""
    question: Any = Question({})
    assert controller(Slot(View(200, headers))).conditional_headers(question) == expected


def test_how_it_folds_a_304_in() -> None:
    """Fields are replaced or added, Content-Length is left out, and the status is 200 whatever it was."""
    slot = Slot(View(203, Lines((("X-Old", "1"), ("eXpIrEs", "old")))))
    question: Any = Question({})
    update: Any = View(304, {"expires": "new", "content-length": "0", "x-new": "2"})
    controller(slot).update_cached_response(question, update)
    assert slot.kept.headers.lines == (("X-Old", "1"), ("expires", "new"), ("x-new", "2"))
    assert slot.kept.status == 200


def test_the_heuristic_is_applied_without_a_warning() -> None:
    """BaseHeuristic.apply writes the three fields into the view, and no obsolete Warning."""
    view: Any = View(200, {"etag": '"a"'})
    assert StatedLife(60, keep=False).apply(view) is view
    assert view.headers == {**lives(60), "etag": '"a"', "cache-control": "no-store"}


@pytest.mark.parametrize("year", [1970, 2026, 2999, 4999])
def test_its_own_clock_has_no_say(monkeypatch: pytest.MonkeyPatch, year: int) -> None:
    """The only thing the controller reads from its clock is an age of zero."""
    now = (year - 1970) * 31_556_952.0
    monkeypatch.setattr("cachecontrol.controller.time", SimpleNamespace(time=lambda: now))
    assert served("min-fresh=9", lives(10))
    assert not served("min-fresh=10", lives(10))
