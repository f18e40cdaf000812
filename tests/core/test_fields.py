"""HTTP-dates, delta-seconds, directives and entity-tags, each strictly after its grammar."""

from __future__ import annotations

import calendar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.fields import (
    FOREVER,
    directives,
    entity_tag,
    entity_tags,
    format_date,
    opaque_tag,
    parse_date,
    parse_retry_after,
    parse_seconds,
)

IN_2026 = float(calendar.timegm((2026, 6, 1, 0, 0, 0)))
EXAMPLE = float(calendar.timegm((1994, 11, 6, 8, 49, 37)))  # the date of RFC 9110's own examples


def at(*moment: int) -> float:
    """Seconds since the epoch of year, month, day, hour, minute, second."""
    return float(calendar.timegm(moment))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("Sun, 06 Nov 1994 08:49:37 GMT", EXAMPLE, id="IMF-fixdate"),
        pytest.param("Sunday, 06-Nov-94 08:49:37 GMT", EXAMPLE, id="RFC 850"),
        pytest.param("Sun Nov  6 08:49:37 1994", EXAMPLE, id="asctime"),
        pytest.param("Wed Nov 16 08:49:37 1994", EXAMPLE + 864_000, id="asctime, two digits"),
        pytest.param("Friday, 01-May-76 00:00:00 GMT", at(2076, 5, 1, 0, 0, 0), id="50 years on: future"),
        pytest.param("Sunday, 01-May-77 00:00:00 GMT", at(1977, 5, 1, 0, 0, 0), id="51 years on: past"),
        pytest.param("Thu, 29 Feb 2024 00:00:00 GMT", at(2024, 2, 29, 0, 0, 0), id="leap day"),
        pytest.param("Sat, 31 Dec 2016 23:59:60 GMT", at(2017, 1, 1, 0, 0, 0), id="leap second"),
        pytest.param("Fri, 31 Dec 9999 23:59:59 GMT", at(9999, 12, 31, 23, 59, 59), id="last year"),
    ],
)
def test_reads_the_three_forms(value: str, expected: float) -> None:
    """RFC 9110 §5.6.7: a recipient MUST accept all three HTTP-date formats."""
    assert parse_date(value, IN_2026) == expected


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "0",
        "-1",
        "1700000000",
        "sun, 06 nov 1994 08:49:37 gmt",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun,  06 Nov 1994 08:49:37 GMT",
        "Sun 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 94 08:49:37 GMT",
        "Sunday, 06-Nov-1994 08:49:37 GMT",
        "Sun Nov 6 08:49:37 1994",
        "Sun Nov  6 08:49:37 1994 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:00 GMT",
        "Wed, 30 Feb 1994 00:00:00 GMT",
        "Sat, 00 Jan 1994 00:00:00 GMT",
        "Sat, 01 Jan 0000 00:00:00 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT\n",
        "Sun, ٠٦ Nov 1994 08:49:37 GMT",
    ],
)
def test_refuses_every_other_date(value: str | None) -> None:
    """A lenient date would give life to what its author said is stale."""
    assert parse_date(value, IN_2026) is None


@settings(deadline=None)
@given(st.integers(min_value=-62_135_596_800, max_value=253_402_300_799))
def test_dates_survive_a_round_trip(seconds: int) -> None:
    """What is generated is an IMF-fixdate, over all years with four digits."""
    assert parse_date(format_date(seconds), IN_2026) == seconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("0", 0),
        ("600", 600),
        ("0000000000000000600", 600),
        ("2147483648", FOREVER),
        ("9999999999", FOREVER),
        ("9" * 5000, FOREVER),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1e3", None),
        ("0x10", None),
        (" 1", None),
        ("abc", None),
        ("٣", None),
        ("²", None),
    ],
)
def test_reads_delta_seconds(value: str | None, expected: int | None) -> None:
    """RFC 9111 §1.2.2: digits and nothing else, too many of them are 2^31."""
    assert parse_seconds(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None), ("soon", None), ("1.5", None), ("-1", None), ("0", 0), ("120", 120),
        (format_date(IN_2026 + 7), 7), (format_date(IN_2026 - 7), -7), ("Sun, 06 Nov 1994 08:49:37 UTC", None),
    ],
)  # fmt: skip
def test_reads_when_to_come_again(value: str | None, expected: int | None) -> None:
    """RFC 9110 §10.2.3: a delay or a date, both in seconds from now."""
    assert parse_retry_after(value, IN_2026) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(None, {}, id="absent"),
        pytest.param("", {}, id="empty"),
        pytest.param(" , ,, ", {}, id="empty members"),
        pytest.param("no-store", {"no-store": None}, id="bare"),
        pytest.param("Max-Age=60, PUBLIC", {"max-age": "60", "public": None}, id="upper case"),
        pytest.param('max-age="60"', {"max-age": "60"}, id="quoted"),
        pytest.param('a="\\"x\\\\"', {"a": '"x\\'}, id="quoted pairs"),
        pytest.param(
            'no-cache="a, max-age=9", max-age=1', {"no-cache": "a, max-age=9", "max-age": "1"}, id="in quotes"
        ),
        pytest.param("max-age=", {"max-age": ""}, id="argument missing"),
        pytest.param("max-age =60", {"max-age": ""}, id="space before ="),
        pytest.param("max-age= 60", {"max-age": ""}, id="space after ="),
        pytest.param("max-age=6 0, b", {"max-age": "", "b": None}, id="two words"),
        pytest.param("max-age=1, max-age=1", {"max-age": "1"}, id="same twice"),
        pytest.param("max-age=9, max-age=1", {"max-age": ""}, id="disagreeing"),
        pytest.param("max-age=9, max-age=1, max-age=9", {"max-age": ""}, id="disagreeing thrice"),
        pytest.param('no-cache, no-cache="f"', {"no-cache": ""}, id="bare and qualified"),
        pytest.param('=5, "x", ;, b', {"b": None}, id="no name"),
        pytest.param('a="x, max-age=5, no-store', {"a": "", "max-age": "", "no-store": ""}, id="open quote"),
        pytest.param("ä=1, b", {"b": None}, id="not ASCII"),
    ],
)
def test_reads_directives(value: str | None, expected: dict[str, str | None]) -> None:
    """Names are kept whatever happened to their argument; an argument in doubt is no number."""
    assert dict(directives(value)) == expected


@settings(deadline=None)
@given(st.text(alphabet='ab=", \\-1\t;ä', max_size=60))
def test_directives_never_raise(value: str) -> None:
    """A field value is anything an upstream cares to send."""
    assert all(name == name.lower() and name for name in directives(value))


@pytest.mark.parametrize(
    ("value", "one", "many"),
    [
        ('"a"', '"a"', ('"a"',)),
        ('W/"a"', 'W/"a"', ('W/"a"',)),
        ('""', '""', ('""',)),
        ('"a", W/"b"', None, ('"a"', 'W/"b"')),
        (' ,"a",, "b" ,', None, ('"a"', '"b"')),
        ('"a,b"', '"a,b"', ('"a,b"',)),
        ('"a" "b"', None, ()),
        ("a", None, ()),
        ('"a', None, ()),
        ('w/"a"', None, ()),
        ("*", None, ()),
        ("", None, ()),
    ],
)
def test_reads_entity_tags(value: str, one: str | None, many: tuple[str, ...]) -> None:
    """RFC 9110 §8.8.3: quoted, the weakness marker case-sensitive."""
    assert entity_tag(value) == one
    assert entity_tags(value) == many


def test_no_tag_and_weak_tags() -> None:
    """The weak comparison sees the opaque part only."""
    assert entity_tag(None) is None
    assert opaque_tag('W/"a"') == opaque_tag('"a"')
