"""Preconditions and ranges: tables of fields and what they select."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.conditions import (
    Prefix,
    RangeAsked,
    Span,
    Suffix,
    Unsatisfiable,
    not_modified,
    requested_range,
)

ETAG = '"sha256-abc"'
EARLIER = "Sun, 06 Nov 1994 08:49:36 GMT"
MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT"
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({}, False, id="no condition"),
        pytest.param({"if-none-match": ETAG}, True, id="same"),
        pytest.param({"if-none-match": f"W/{ETAG}"}, True, id="weak comparison"),
        pytest.param({"if-none-match": f'"x", {ETAG}'}, True, id="in a list"),
        pytest.param({"if-none-match": " * "}, True, id="any"),
        pytest.param({"if-none-match": '"x"'}, False, id="other"),
        pytest.param({"if-none-match": f"{ETAG} {ETAG}"}, False, id="malformed list"),
        pytest.param({"if-none-match": "sha256-abc"}, False, id="not quoted"),
        pytest.param({"if-none-match": ""}, False, id="empty"),
        pytest.param({"if-none-match": '"x"', "if-modified-since": LATER}, False, id="etag goes before date"),
        pytest.param({"if-modified-since": MODIFIED}, True, id="same date"),
        pytest.param({"if-modified-since": LATER}, True, id="later date"),
        pytest.param({"if-modified-since": EARLIER}, False, id="earlier date"),
        pytest.param({"if-modified-since": "Sunday, 06-Nov-94 08:49:37 GMT"}, True, id="RFC 850 date"),
        pytest.param({"if-modified-since": "Sun Nov  6 08:49:37 1994"}, True, id="asctime date"),
        pytest.param({"if-modified-since": "yesterday"}, False, id="malformed date"),
    ],
)
def test_not_modified(headers: dict[str, str], expected: bool) -> None:
    """RFC 9110 §13.1.2 and §13.1.3, in the order of §13.2.2."""
    assert not_modified(headers, etag=ETAG, last_modified=MODIFIED) is expected


@pytest.mark.parametrize(
    ("headers", "etag", "last_modified"),
    [
        pytest.param({"if-none-match": ETAG}, None, MODIFIED, id="no etag"),
        pytest.param({"if-modified-since": MODIFIED}, ETAG, None, id="no date"),
        pytest.param({"if-modified-since": MODIFIED}, ETAG, "now", id="malformed date of our own"),
    ],
)
def test_modified_when_the_answer_has_no_validator(
    headers: dict[str, str], etag: str | None, last_modified: str | None
) -> None:
    """What cannot be compared is sent."""
    assert not not_modified(headers, etag=etag, last_modified=last_modified)


def test_weak_etag_of_our_own_matches_weakly() -> None:
    """§13.1.2 uses the weak comparison from both sides."""
    assert not_modified({"if-none-match": '"a"'}, etag='W/"a"', last_modified=None)


@pytest.mark.parametrize(
    ("value", "sized", "unsized"),
    [
        pytest.param("bytes=0-0", Span(0, 1), Prefix(0, 1), id="first byte"),
        pytest.param("bytes=0-", Span(0, 1000), Prefix(0, None), id="from the start"),
        pytest.param("bytes=500-", Span(500, 1000), Prefix(500, None), id="from the middle"),
        pytest.param("bytes=999-", Span(999, 1000), Prefix(999, None), id="last byte"),
        pytest.param("bytes=1000-", Unsatisfiable(), Prefix(1000, None), id="at the end"),
        pytest.param("bytes=1000-1001", Unsatisfiable(), Prefix(1000, 1002), id="beyond"),
        pytest.param("bytes=10-19", Span(10, 20), Prefix(10, 20), id="inside"),
        pytest.param("bytes=10-5000", Span(10, 1000), Prefix(10, 5001), id="stop clamped"),
        pytest.param("bytes=-1", Span(999, 1000), Suffix(1), id="suffix of one"),
        pytest.param("bytes=-10000", Span(0, 1000), Suffix(10000), id="suffix too long"),
        pytest.param("bytes=-0", Unsatisfiable(), Unsatisfiable(), id="suffix of nothing"),
        pytest.param("Bytes= 0-0 ", Span(0, 1), Prefix(0, 1), id="unit in any case, white space"),
        pytest.param("bytes=,0-0 ,", Span(0, 1), Prefix(0, 1), id="empty members"),
        pytest.param("bytes=0000-0000000000000000000000", Span(0, 1), Prefix(0, 1), id="zeros"),
        pytest.param(f"bytes=1-{'9' * 5000}", Span(1, 1000), Prefix(1, 10**18 + 1), id="stop overflows"),
        pytest.param(f"bytes={'9' * 5000}-", Unsatisfiable(), Prefix(10**18, None), id="start overflows"),
        pytest.param(f"bytes=-{'9' * 5000}", Span(0, 1000), Suffix(10**18), id="suffix overflows"),
        pytest.param("bytes=5-4", None, None, id="backwards"),
        pytest.param("bytes=0-1,5-6", None, None, id="several"),
        pytest.param("bytes=", None, None, id="none"),
        pytest.param("bytes=-", None, None, id="no numbers"),
        pytest.param("bytes=a-b", None, None, id="no digits"),
        pytest.param("bytes=٣-", None, None, id="foreign digits"),
        pytest.param("bytes=0 - 1", None, None, id="white space inside"),
        pytest.param("bytes 0-1", None, None, id="no equals sign"),
        pytest.param("bytes=0-1\n", None, None, id="line feed"),
        pytest.param("items=0-1", None, None, id="other unit"),
        pytest.param("0-1", None, None, id="no unit"),
        pytest.param("", None, None, id="empty"),
    ],
)
def test_requested_range(value: str, sized: RangeAsked, unsized: RangeAsked) -> None:
    """RFC 9110 §14.1.2, for a body of 1000 bytes and for one whose size is not known yet."""
    assert requested_range({"range": value}, size=1000, etag=ETAG) == sized
    assert requested_range({"range": value}, size=None, etag=ETAG) == unsized


def test_no_range_is_the_whole() -> None:
    """Without Range the answer is 200."""
    assert requested_range({}, size=1000, etag=ETAG) is None


@pytest.mark.parametrize(
    ("value", "expected"), [("bytes=0-", Unsatisfiable()), ("bytes=-5", None), ("bytes=-0", Unsatisfiable())]
)
def test_ranges_of_an_empty_body(value: str, expected: RangeAsked) -> None:
    """Content-Range cannot describe no bytes: nothing of nothing is 416 or the whole, never an empty 206."""
    assert requested_range({"range": value}, size=0, etag=ETAG) == expected


@pytest.mark.parametrize(
    ("if_range", "etag", "holds"),
    [
        pytest.param(ETAG, ETAG, True, id="same"),
        pytest.param(f" {ETAG} ", ETAG, True, id="white space"),
        pytest.param('"x"', ETAG, False, id="other"),
        pytest.param(f"W/{ETAG}", ETAG, False, id="weak asked"),
        pytest.param('W/"a"', 'W/"a"', False, id="both weak"),
        pytest.param(ETAG, None, False, id="no etag"),
        pytest.param(MODIFIED, ETAG, False, id="date"),
        pytest.param(f"{ETAG}, {ETAG}", ETAG, False, id="list"),
        pytest.param("", ETAG, False, id="empty"),
    ],
)
def test_if_range(if_range: str, etag: str | None, holds: bool) -> None:
    """RFC 9110 §13.1.5: a part only of exactly the body the client has begun, else the whole."""
    headers = {"range": "bytes=5-", "if-range": if_range}
    assert requested_range(headers, size=10, etag=etag) == (Span(5, 10) if holds else None)


SPECS = st.one_of(
    st.text(alphabet="bytes=0123456789-, \tBW/\"'", max_size=40),
    st.builds("bytes={}-{}".format, st.integers(0, 50), st.one_of(st.just(""), st.integers(0, 50))),
    st.builds("bytes=-{}".format, st.integers(0, 50)),
)


@settings(deadline=None)
@given(SPECS, st.one_of(st.none(), st.integers(0, 40)))
def test_spans_lie_inside(value: str, size: int | None) -> None:
    """Whatever is asked: no exception, no empty span, none that reaches beyond the body."""
    match requested_range({"range": value}, size=size, etag=ETAG):
        case Span(start, stop):
            assert size is not None
            assert 0 <= start < stop <= size
        case Prefix(start, stop):
            assert size is None
            assert stop is None or start < stop
        case Suffix(length):
            assert size is None
            assert length > 0
        case Unsatisfiable() | None:
            pass


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 40))
def test_known_and_unknown_sizes_agree(start: int, length: int, size: int) -> None:
    """A Prefix cut to the size that is learned later is the Span that would have been given at once."""
    headers = {"range": f"bytes={start}-{start + length}"}
    late = requested_range(headers, size=None, etag=None)
    assert isinstance(late, Prefix)
    assert late.stop is not None
    expected = Span(late.start, min(late.stop, size)) if late.start < size else Unsatisfiable()
    assert requested_range(headers, size=size, etag=None) == expected
