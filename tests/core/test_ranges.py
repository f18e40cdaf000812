"""Ranges as text: what is asked of an upstream and what it says it sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.conditions import Prefix, Span, Suffix, requested_range
from proxy.core.ranges import content_range, received_range, spelled, within

NUMBERS = st.integers(0, 10**15)
SPANS = st.tuples(NUMBERS, st.integers(1, 10**15)).map(lambda pair: Span(pair[0], pair[0] + pair[1]))
PREFIXES = SPANS.map(lambda span: Prefix(span.start, span.stop)) | NUMBERS.map(lambda start: Prefix(start, None))
SUFFIXES = st.integers(1, 10**15).map(Suffix)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (Span(0, 1), "bytes=0-0"),
        (Span(5, 10), "bytes=5-9"),
        (Prefix(5, None), "bytes=5-"),
        (Prefix(5, 10), "bytes=5-9"),
        (Suffix(3), "bytes=-3"),
    ],
)
def test_spelled(asked: Span | Prefix | Suffix, text: str) -> None:
    """RFC 9110 §14.1.2: the last position is inclusive."""
    assert spelled(asked) == text


@given(PREFIXES | SUFFIXES)
def test_spelled_is_read_back(asked: Prefix | Suffix) -> None:
    """What we ask of an upstream is what we would understand ourselves."""
    assert requested_range({"range": spelled(asked)}, size=None, etag=None) == asked


@pytest.mark.parametrize(
    ("asked", "size", "span"),
    [
        (Span(5, 10), 20, Span(5, 10)),
        (Span(5, 10), 7, Span(5, 7)),
        (Span(5, 10), 5, None),
        (Prefix(5, None), 20, Span(5, 20)),
        (Prefix(5, 10), 20, Span(5, 10)),
        (Prefix(5, 10), 7, Span(5, 7)),
        (Prefix(5, None), 5, None),
        (Prefix(6, 7), 5, None),
        (Suffix(3), 20, Span(17, 20)),
        (Suffix(30), 20, Span(0, 20)),
        (Suffix(0), 20, None),
        (Suffix(3), 0, None),
    ],
)
def test_within(asked: Span | Prefix | Suffix, size: int, span: Span | None) -> None:
    """The part that exists; None where nothing of it does."""
    assert within(asked, size) == span


@given(SPANS | PREFIXES | SUFFIXES, NUMBERS)
def test_within_stays_inside(asked: Span | Prefix | Suffix, size: int) -> None:
    """Never empty, never outside, and asking for the result again changes nothing."""
    span = within(asked, size)
    if span is not None:
        assert 0 <= span.start < span.stop <= size
        assert within(span, size) == span


@given(SPANS, NUMBERS)
def test_content_range_is_read_back(span: Span, more: int) -> None:
    """What a 206 of ours says is what we read from one."""
    size = span.stop + more
    assert received_range(content_range(span, size)) == (span, size)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "bytes 0-9/*",
        "bytes */10",
        "bytes 0-10/10",
        "bytes 5-4/10",
        "bytes 0-0/0",
        "bytes=0-9/10",
        "bytes 0-9/10, 0-9/10",
        "octets 0-9/10",
        "bytes 0-9/10\n",
        "bytes -1-9/10",
        "bytes \u0660-9/10",
        f"bytes 0-9/{'9' * 5000}",
    ],
)
def test_unusual_content_ranges(value: str | None) -> None:
    """An unknown size, a part outside it, another unit, several parts: nothing to rely on."""
    assert received_range(value) is None
