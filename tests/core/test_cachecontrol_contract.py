"""The contract with CacheControl 0.14: every verdict of its controller that freshness.py relies on, and every flaw
that the view, the question and the slot are made to keep out.

Each row is asked of the controller as freshness.py asks it: the same slot, the same serializer that passes views
through, the same statuses. A release that changes one of these verdicts fails here before any answer of the proxy does.
A row in FLAWS says what RFC 9111 does not: when one of them fails, the library has mended it, and what works around it
can go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.core import judge
from proxy.core.fields import format_date
from proxy.core.freshness import STORABLE, Lines
from proxy.core.judge import NO_CLOCK_REACHES, Question, Slot, StatedLife, View

DATE = format_date(NO_CLOCK_REACHES)
TAG = {"etag": '"a"'}
MODIFIED = {"last-modified": "Sun, 06 Nov 1994 08:49:37 GMT"}


def lives(seconds: int, **others: str) -> dict[str, str]:
    """The fields of a view with this lifetime, as StatedLife says it; keyword names are further fields."""
    stated = {"date": DATE, "expires": format_date(NO_CLOCK_REACHES + seconds), "cache-control": "public"}
    return stated | {name.replace("_", "-"): value for name, value in others.items()}


@dataclass(frozen=True)
class Row:
    """What is asked and what the controller says. ``view`` holds the response's fields, ``question`` the request's."""

    method: str
    view: Mapping[str, str]
    question: Mapping[str, str]
    verdict: Any
    because: str
    status: int = 200
    statuses: frozenset[int] = field(default=STORABLE)


def wishes(control: str) -> dict[str, str]:
    """A question as freshness.py puts it: Cache-Control and nothing else."""
    return {"cache-control": control}


def ask(row: Row) -> Any:
    """Put the row's question to a controller. Stored or served: is the view itself what lies in the slot, or comes
    back? A pair: that, and whether the slot was told to delete."""
    view: Any = View(row.status, dict(row.view))
    question: Any = Question(row.question)
    slot = Slot(None if row.method == "cache_response" else view)
    controller = judge.controller(slot, row.statuses)
    match row.method:
        case "cached_request":
            served = controller.cached_request(question)
            assert served is view or served is False
            return served is view
        case "cached_request, deleted":
            return controller.cached_request(question) is view, slot.deleted, slot.kept is view
        case "conditional_headers":
            return controller.conditional_headers(question)
        case "cache_response":
            controller.cache_response(question, view)
            return slot.kept is view
    raise AssertionError(row.method)


SERVE, STORE, CONDITIONS, DELETE = "cached_request", "cache_response", "conditional_headers", "cached_request, deleted"

RELIED_ON = [
    # Is it served: Expires - Date against an age of zero, to which min-fresh is added.
    Row(SERVE, lives(1), {}, True, "a Date ahead of the clock is an age of zero"),
    Row(SERVE, lives(0), {}, False, "a lifetime of zero is stale at an age of zero"),
    Row(SERVE, lives(10), wishes("min-fresh=9"), True, "min-fresh is added to the age: below the lifetime"),
    Row(SERVE, lives(10), wishes("min-fresh=10"), False, "min-fresh is added to the age: equal is stale"),
    Row(SERVE, lives(10), wishes("min-fresh=11"), False, "min-fresh is added to the age: above"),
    Row(SERVE, lives(2**31), wishes("min-fresh=2147483648"), False, "2^31, the longest life, is a number: equal"),
    Row(SERVE, lives(2**31), wishes("min-fresh=2147483647"), True, "2^31, the longest life, is a number: below"),
    Row(SERVE, lives(10), wishes("min-fresh=4294967296"), False, "an age and a min-fresh of 2^31 each can be added"),
    Row(SERVE, lives(2**32), wishes("min-fresh=4294967295"), True, "a life and a max-stale of 2^31 each can be added"),
    # The client's wishes.
    Row(SERVE, lives(10), wishes("min-fresh=5, max-age=6"), True, "max-age takes the lifetime's place: above the age"),
    Row(SERVE, lives(10), wishes("min-fresh=5, max-age=5"), False, "max-age takes the lifetime's place: the age"),
    Row(SERVE, lives(10), wishes("max-age=5, min-fresh=5"), False, "their order does not matter"),
    Row(SERVE, lives(10), wishes("min-fresh=0, max-age=0"), False, "max-age=0 is never served, at no age"),
    Row(SERVE, lives(0), wishes("min-fresh=0, max-age=0"), False, "max-age is bounded by the life: both zero"),
    Row(SERVE, lives(10), wishes("min-fresh=0, no-cache"), False, "no-cache is never served"),
    Row(SERVE, lives(10), wishes("no-cache, min-fresh=0"), False, "no-cache is never served, wherever it stands"),
    Row(SERVE, lives(10), wishes("min-fresh=0, max-age=5, no-cache"), False, "no-cache outweighs max-age"),
    # What the view shows beside its life changes nothing.
    Row(SERVE, lives(10, **MODIFIED), {}, True, "a Last-Modified starts no heuristic over Expires"),
    Row(SERVE, lives(0, **MODIFIED), {}, False, "nor lengthens it"),
    Row(SERVE, lives(0, **TAG), {}, False, "an ETag does not make it fresh"),
    Row(SERVE, lives(10), {}, True, "a status it would not store is served: 404", status=404),
    Row(SERVE, lives(10), {}, True, "a status it would not store is served: 503", status=503),
    Row(SERVE, lives(0), {}, False, "302 is judged like any other", status=302),
    # Is it kept: Expires always is in a view, so the verdict is that of no-store, Vary and the status.
    Row(STORE, lives(0), {}, True, "Expires is enough, even at once"),
    Row(STORE, lives(0, etag='"a"'), {}, True, "with an ETag too"),
    Row(STORE, lives(0, **MODIFIED), {}, True, "with a Last-Modified too"),
    Row(STORE, lives(10, cache_control="no-store"), {}, False, "no-store"),
    Row(STORE, lives(10, cache_control="no-store", etag='"a"'), {}, False, "no-store beside an ETag"),
    Row(STORE, lives(10, vary="*"), {}, False, "Vary: *, which nothing matches"),
    Row(STORE, lives(10, vary="accept"), {}, True, "another Vary"),
    *(Row(STORE, lives(0), {}, True, f"a status of the list: {status}", status=status) for status in sorted(STORABLE)),
    *(Row(STORE, lives(10), {}, False, f"a status that is not: {status}", status=status)
      for status in (100, 204, 206, 302, 303, 304, 307, 400, 403, 405, 500, 501, 503)),
    *(Row(STORE, lives(10, cache_control="no-store"), {}, False, f"no-store of a permanent redirect: {status}",
          status=status) for status in (301, 308)),
    Row(STORE, lives(0), {}, True, "the list is ours to say", status=503, statuses=frozenset({503})),
    Row(STORE, lives(0), {}, False, "and takes the place of its own", status=200, statuses=frozenset({503})),
    # What a revalidation asks: whatever the view has, as it stands.
    Row(CONDITIONS, {}, {}, {}, "no validator, no condition"),
    Row(CONDITIONS, TAG, {}, {"If-None-Match": '"a"'}, "an ETag"),
    Row(CONDITIONS, {"etag": 'W/"a"'}, {}, {"If-None-Match": 'W/"a"'}, "a weak one is asked about, too"),
    Row(CONDITIONS, MODIFIED, {}, {"If-Modified-Since": MODIFIED["last-modified"]}, "a Last-Modified"),
    Row(CONDITIONS, TAG | MODIFIED, {},
        {"If-None-Match": '"a"', "If-Modified-Since": MODIFIED["last-modified"]}, "both"),
    Row(CONDITIONS, TAG | {"vary": "*"}, {}, {"If-None-Match": '"a"'}, "Vary does not matter"),
    Row(CONDITIONS, TAG, {}, {"If-None-Match": '"a"'}, "any status is asked about: 404", status=404),
    # What is told to delete is only noted.
    Row(DELETE, lives(10), {}, (True, False, True), "a fresh one is not deleted"),
    Row(DELETE, lives(0, **TAG), {}, (False, False, True), "nor a stale one with an ETag"),
    Row(DELETE, lives(10), wishes("no-cache"), (False, False, True), "nor one that the client does not want"),
    Row(DELETE, lives(10), wishes("max-age=0"), (False, False, True), "at no age"),
]  # fmt: skip

FLAWS = [
    # The age is ours, the lifetime is ours: what else it knows of them is wrong.
    Row(SERVE, lives(10), wishes("min-fresh=20, max-age=99"), True, "§5.2.1.1: max-age lengthens; it is bounded"),
    Row(SERVE, lives(10), wishes("min-fresh"), True, "§5.2.1.3: no number is no wish; ours is always one"),
    Row(SERVE, lives(10), wishes("max-age=x"), True, "§5.2.1.1: nor is a malformed one; ours is zero"),
    Row(SERVE, lives(0), wishes("max-stale=9"), False, "§5.2.1.2: max-stale is ignored; it is added to the life"),
    Row(SERVE, lives(0), wishes("max-stale"), False, "§5.2.1.2: without a number as well"),
    Row(SERVE, lives(10), wishes("max-age=6, min-fresh=7, max-age=9"), True,
        "§4.2.1: of two that disagree the last counts; ours are one each"),
    Row(SERVE, lives(10), wishes('max-age="0"'), True, "§5.2: quoted numbers are none; ours are plain"),
    Row(SERVE, lives(10), wishes("NO-CACHE"), True, "§5.2: names have a case; ours is lower"),
    Row(SERVE, lives(10), {"pragma": "no-cache"}, True, "§5.4: Pragma is ignored; it becomes no-cache"),
    Row(SERVE, lives(10), wishes("no-store"), True, "§5.2.1.5: no-store is no matter of freshness; decide.py obeys it"),
    Row(SERVE, lives(0), wishes("only-if-cached"), False, "§5.2.1.7: nor is only-if-cached"),
    Row(SERVE, lives(10), {"authorization": "x"}, True, "§3.5: credentials are no matter of it; decide.py looks"),
    Row(SERVE, lives(10), {"Range": "bytes=0-1"}, False, "a Range is never answered; it is kept from the question"),
    Row(SERVE, lives(10, age="99"), {}, True, "§4.2.3: Age is ignored; the age is ours"),
    Row(SERVE, lives(10, cache_control="s-maxage=0"), {}, True, "§5.2.2.10: s-maxage is ignored"),
    Row(SERVE, lives(10, cache_control="no-cache"), {}, True, "§5.2.2.4: no-cache is served; the life is zero"),
    Row(SERVE, lives(10, cache_control="no-store"), {}, True, "no-store brought by a 304 is served; the life is zero"),
    Row(SERVE, lives(10, cache_control="private"), {}, True, "§5.2.2.7: private is served; the life is zero"),
    Row(SERVE, lives(10, vary="*"), {}, True, "§4.1: Vary: * matches; the life is zero"),
    Row(SERVE, lives(10, cache_control="MAX-AGE=0"), {}, True, "§5.2: upper case is ignored in a response"),
    Row(SERVE, lives(10, cache_control='max-age="0"'), {}, True, "§5.2: so is a quoted number"),
    Row(SERVE, lives(0, cache_control="max-age=0, max-age=9"), {}, True, "§4.2.1: of two that disagree the last"),
    Row(SERVE, lives(10, cache_control="max-age=x"), {}, True, "§4.2.1: malformed is not stale"),
    Row(SERVE, lives(0, cache_control="max-age=10"), {}, True, "max-age goes before Expires; the view has none"),
    Row(SERVE, {"cache-control": "max-age=9"}, {}, False, "§6.6.1 of RFC 9110: without Date never; the view has one"),
    *(Row(SERVE, lives(0), wishes("min-fresh=99"), True, f"{status} is fresh for ever; it is shown as 200",
          status=status) for status in (301, 308)),
    Row(DELETE, lives(0), {}, (False, True, True), "a stale one without an ETag is deleted; the slot only notes it"),
    Row(DELETE, lives(0, **MODIFIED), {}, (False, True, True), "also when its Last-Modified could be asked about"),
    Row(DELETE, {"cache-control": "max-age=9"}, {}, (False, True, True), "so is one without Date and ETag"),
    # Storing.
    Row(STORE, lives(10, cache_control="private"), {}, True, "§5.2.2.7: private is stored; it becomes no-store"),
    Row(STORE, lives(10, cache_control="NO-STORE"), {}, True, "§5.2: upper case is stored; it is read by us"),
    Row(STORE, lives(10, cache_control="no-store=1"), {}, False, "no-store with an argument counts"),
    Row(STORE, lives(10), {"authorization": "x"}, True, "§3.5: credentials do not matter to it"),
    Row(STORE, lives(10), wishes("no-store"), False, "§5.2.1.5: the client's no-store; kept from the question, for it"
        " would also delete what is stored"),
    Row(STORE, {"date": DATE}, {}, False, "§3: neither Expires nor ETag; the view always has Expires"),
    Row(STORE, {"date": DATE} | MODIFIED, {}, False, "§4.2.2: a Last-Modified alone is not kept"),
    Row(STORE, {"date": DATE, "cache-control": "public"}, {}, False, "§3: nor is public"),
    Row(STORE, {"date": DATE, "cache-control": "max-age=0"}, {}, False, "§3: nor max-age=0"),
    Row(STORE, {"date": DATE, "cache-control": "s-maxage=9"}, {}, False, "§3: nor s-maxage"),
    Row(STORE, {"expires": DATE}, {}, False, "RFC 9110 §6.6.1: without Date nothing is kept but by its ETag"),
    Row(STORE, {"etag": "a"}, {}, True, "RFC 9110 §8.8.3: by a malformed ETag, too"),
    Row(STORE, lives(10, vary="x*x"), {}, False, "a star anywhere in Vary is taken for the member"),
    Row(STORE, {}, {}, True, "a permanent redirect is kept without any lifetime", status=301),
    # Conditions.
    Row(CONDITIONS, {"etag": "a"}, {}, {"If-None-Match": "a"}, "a malformed ETag is sent; it is kept from the view"),
    Row(CONDITIONS, {"last-modified": "x"}, {}, {"If-Modified-Since": "x"}, "and so is a malformed Last-Modified"),
    Row(CONDITIONS, TAG, {"Range": "bytes=0-1"}, {}, "for a Range there is no condition; it is kept from the question"),
]  # fmt: skip


def name(row: Row) -> str:
    """The id of a row among the tests."""
    return f"{row.method}-{row.because}"


@pytest.mark.parametrize("row", RELIED_ON, ids=name)
def test_verdicts_relied_on(row: Row) -> None:
    """What freshness.py takes for granted."""
    assert ask(row) == row.verdict, row.because


@pytest.mark.parametrize("row", FLAWS, ids=name)
def test_flaws_worked_around(row: Row) -> None:
    """Not what RFC 9111 says: the view and the question are made so that it cannot happen."""
    assert ask(row) == row.verdict, row.because


def test_every_row_has_a_name_of_its_own() -> None:
    """Two rows of one name would be one row that nobody reads."""
    names = [name(row) for row in (*RELIED_ON, *FLAWS)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("method", [SERVE, STORE])
def test_malformed_date_raises(method: str) -> None:
    """A flaw: so no upstream's Date ever gets into a view."""
    with pytest.raises(AssertionError):
        ask(Row(method, {"date": "yesterday"}, {}, None, ""))


def test_an_empty_list_of_statuses_is_its_own() -> None:
    """A flaw: a controller that is only asked about what is stored has the library's list, which matters to nothing."""
    assert judge.controller(Slot()).cacheable_status_codes == (200, 203, 300, 301, 308)


def test_the_client_s_no_store_evicts() -> None:
    """A flaw: §5.2.1.5 forbids to store, not to have stored. The question about storing bears no fields, the slot of it
    is empty."""
    slot = Slot(View(200, lives(10)))
    question: Any = Question(wishes("no-store"))
    update: Any = View(200, lives(10))
    judge.controller(slot, STORABLE).cache_response(question, update)
    assert slot.deleted


def update(stored: View, not_modified: Mapping[str, str], status: int = 304) -> Any:
    """What lies in the slot after a 304 with these fields."""
    slot = Slot(stored)
    question: Any = Question({})
    answer: Any = View(status, not_modified)
    merged: Any = judge.controller(slot).update_cached_response(question, answer)
    assert merged is slot.kept
    assert merged is stored
    return merged


UPDATES = [
    # Relied on: each field is put over the stored one or beside it, Content-Length is not.
    ({"x-new": "1"}, (("X-Old", "1"), ("eXpIrEs", "old"), ("x-new", "1")), "a new field"),
    ({"expires": "new"}, (("X-Old", "1"), ("expires", "new")), "a field that was there, in any spelling"),
    ({}, (("X-Old", "1"), ("eXpIrEs", "old")), "no field at all"),
    ({"content-length": "0"}, (("X-Old", "1"), ("eXpIrEs", "old")), "Content-Length (§3.2)"),
    ({"Content-Length": "0"}, (("X-Old", "1"), ("eXpIrEs", "old")), "Content-Length, in any spelling"),
    ({"content-type": "b"}, (("X-Old", "1"), ("eXpIrEs", "old"), ("content-type", "b")), "Content-Type"),
    # Flaws, kept out by what is handed in.
    ({"connection": "x-hop", "x-hop": "1"},
     (("X-Old", "1"), ("eXpIrEs", "old"), ("connection", "x-hop"), ("x-hop", "1")),
     "§3.1: Connection and what it names are taken; they are left out of the update"),
    ({"etag": '"b"'}, (("X-Old", "1"), ("eXpIrEs", "old"), ("etag", '"b"')),
     "§4.3.4: another ETag is taken; contradicts() asks first"),
]  # fmt: skip


@pytest.mark.parametrize(("not_modified", "expected", "because"), UPDATES, ids=[because for *_, because in UPDATES])
def test_how_it_folds_a_304_in(
    not_modified: dict[str, str], expected: tuple[tuple[str, str], ...], because: str
) -> None:
    """Over the header list that freshness.py hands it (``Lines``)."""
    lines = tuple((name, value) for name, value in not_modified.items())
    stored = View(200, Lines((("X-Old", "1"), ("eXpIrEs", "old")), lines))
    assert update(stored, not_modified).headers.lines == expected, because


def test_the_status_of_a_folded_one_is_200() -> None:
    """A flaw: whatever it was; freshness.py puts the stored status back."""
    assert update(View(203, Lines((), ())), {}).status == 200


def test_it_does_not_look_whether_it_is_a_304() -> None:
    """A flaw: any answer is folded in; decide.py asks for the status first."""
    assert update(View(200, Lines((), (("x", "1"),))), {"x": "1"}, status=200).headers.lines == (("x", "1"),)


def test_a_304_over_an_empty_slot_is_handed_back() -> None:
    """Nothing to fold it into, nothing stored."""
    slot = Slot()
    question: Any = Question({})
    answer: Any = View(304, {})
    assert judge.controller(slot).update_cached_response(question, answer) is answer
    assert slot.kept is None


@pytest.mark.parametrize(("keep", "control"), [(True, "public"), (False, "no-store")])
def test_the_heuristic_is_applied_without_a_warning(keep: bool, control: str) -> None:
    """BaseHeuristic.apply writes the three fields into the view, and no obsolete Warning (§5.5)."""
    view: Any = View(200, dict(TAG))
    assert StatedLife(60, keep=keep).apply(view) is view
    assert view.headers == lives(60, **TAG, cache_control=control)


@pytest.mark.parametrize("year", [1970, 2026, 2999, 4999])
def test_its_own_clock_has_no_say(monkeypatch: pytest.MonkeyPatch, year: int) -> None:
    """The only thing the controller reads from its clock is an age of zero."""
    now = (year - 1970) * 31_556_952.0
    monkeypatch.setattr("cachecontrol.controller.time", SimpleNamespace(time=lambda: now))
    assert ask(Row(SERVE, lives(10), wishes("min-fresh=9"), True, ""))
    assert not ask(Row(SERVE, lives(10), wishes("min-fresh=10"), False, ""))


def test_past_the_year_5000_it_would_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the view's Date is what keeps the clock out: beyond it, it counts."""
    monkeypatch.setattr("cachecontrol.controller.time", SimpleNamespace(time=lambda: NO_CLOCK_REACHES + 9.0))
    assert ask(Row(SERVE, lives(10), wishes("min-fresh=0"), True, ""))
    assert not ask(Row(SERVE, lives(10), wishes("min-fresh=1"), False, ""))
