"""Freshness after RFC 9111: tables of heads and requests, and laws over generated ones."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.core.fields import FOREVER, format_date
from proxy.core.freshness import (
    Freshness,
    Grace,
    assess,
    contradicts,
    grace,
    refreshed,
    storable,
    validators,
)
from proxy.core.lifetime import response_headers, serial_of
from proxy.core.messages import Head, Headers, Rules, kept_head

NOW = 1_790_000_000.0  # when the responses of this file are received, in 2026
DAY = 86_400.0
RULES = Rules()
DATE = format_date(NOW)


def head(*lines: tuple[str, str], status: int = 200, date: str | None = DATE, took: float = 0.0) -> Head:
    """A response received at NOW that was asked for ``took`` seconds before; with a Date unless that is None."""
    dated: Headers = () if date is None else (("Date", date),)
    return Head(status, dated + lines, NOW - took, NOW)


def control(value: str, *lines: tuple[str, str], **options: Any) -> Head:
    """A response with this Cache-Control."""
    return head(("Cache-Control", value), *lines, **options)


def after(seconds: float) -> str:
    """The HTTP-date so many seconds after NOW."""
    return format_date(NOW + seconds)


LIFETIMES = [
    pytest.param(control("max-age=60"), 60, "max-age", id="max-age"),
    pytest.param(control("s-maxage=30, max-age=60"), 30, "s-maxage", id="s-maxage before max-age"),
    pytest.param(control("max-age=60", ("Expires", after(90))), 60, "max-age", id="max-age before Expires"),
    pytest.param(head(("Expires", after(90))), 90, "Expires", id="Expires"),
    pytest.param(head(("Expires", after(90)), date=None), 90, "Expires", id="Expires without Date"),
    pytest.param(head(("Expires", after(90)), date="today"), 90, "Expires", id="Expires, malformed Date"),
    pytest.param(head(("Expires", after(90)), date=after(-10)), 100, "Expires", id="Expires from Date on"),
    pytest.param(head(("Expires", after(-9))), 0, "Expires", id="Expires in the past"),
    pytest.param(head(("Expires", "0")), 0, "Expires", id="Expires: 0"),
    pytest.param(head(("Expires", "")), 0, "Expires", id="Expires empty"),
    pytest.param(head(("Expires", after(9)), ("Expires", after(9))), 0, "Expires", id="Expires twice"),
    pytest.param(head(("Expires", "0"), ("Last-Modified", after(-9000))), 0, "Expires", id="no heuristic over Expires"),
    pytest.param(head(("Last-Modified", after(-1000))), 100, "Last-Modified", id="10 % since Last-Modified"),
    pytest.param(head(("Last-Modified", after(-DAY))), 600, "Last-Modified", id="at most ten minutes"),
    pytest.param(head(("Last-Modified", after(50))), 0, "Last-Modified", id="Last-Modified in the future"),
    pytest.param(head(("Last-Modified", "x")), 300, "default_ttl", id="Last-Modified malformed"),
    pytest.param(head(), 300, "default_ttl", id="nothing at all"),
    pytest.param(control("public"), 300, "default_ttl", id="public, no life said"),
    pytest.param(head(("ETag", '"a"')), 300, "default_ttl", id="ETag only"),
    pytest.param(control("max-age=9999999"), 86_400, "max-age", id="max_ttl caps max-age"),
    pytest.param(control("s-maxage=9999999"), 86_400, "s-maxage", id="max_ttl caps s-maxage"),
    pytest.param(head(("Expires", after(9_999_999))), 86_400, "Expires", id="max_ttl caps Expires"),
    pytest.param(control("no-cache, max-age=60"), 0, "no-cache", id="no-cache"),
    pytest.param(control('no-cache="set-cookie", max-age=60'), 0, "no-cache", id="no-cache, qualified"),
    pytest.param(control("no-store, max-age=60"), 0, "no-store", id="no-store"),
    pytest.param(control("private, max-age=60"), 0, "private", id="private"),
    pytest.param(control("max-age=60", ("Vary", "Accept, *")), 0, "Vary: *", id="Vary: *"),
    pytest.param(control("max-age=60", ("Vary", "Accept")), 60, "max-age", id="Vary: Accept"),
    pytest.param(control("MAX-AGE=60"), 60, "max-age", id="upper case"),
    pytest.param(control('max-age="60"'), 60, "max-age", id="quoted"),
    pytest.param(control("max-age=60, max-age=90"), 0, "max-age", id="two that disagree"),
    pytest.param(control("max-age=60", ("cache-control", "max-age=60")), 60, "max-age", id="twice the same"),
    pytest.param(control("a=b", ("cache-control", "max-age=60")), 60, "max-age", id="on the second line"),
    pytest.param(control("max-age=1.5"), 0, "max-age", id="no integer"),
    pytest.param(control("max-age=-1"), 0, "max-age", id="negative"),
    pytest.param(control("max-age"), 0, "max-age", id="no argument"),
    pytest.param(control("s-maxage=x, max-age=60"), 0, "s-maxage", id="s-maxage invalid"),
    pytest.param(control("max-age=60", status=404), 60, "the memory of a missing page", id="404"),
    pytest.param(control("no-store", status=410), 60, "the memory of a missing page", id="410"),
]


@pytest.mark.parametrize(("response", "lifetime", "reason"), LIFETIMES)
def test_lifetime(response: Head, lifetime: int, reason: str) -> None:
    """RFC 9111 §4.2.1: fresh one second before its lifetime ends, stale when it does."""
    stale_at = NOW + lifetime
    assert assess({}, response, stale_at, RULES) == Freshness(
        assess({}, response, stale_at, RULES).age, lifetime, False, f"stale by {reason}"
    )
    # A response older than a second on arrival is the age table's business.
    if lifetime and assess({}, response, NOW, RULES).age == 0:
        assert assess({}, response, stale_at - 1, RULES) == Freshness(
            lifetime - 1, lifetime, True, f"fresh by {reason}"
        )


@pytest.mark.parametrize(
    ("response", "now", "age"),
    [
        pytest.param(head(), NOW, 0, id="just received"),
        pytest.param(head(), NOW + 7.9, 7, id="resident, whole seconds"),
        pytest.param(head(("Age", "30")), NOW, 30, id="Age"),
        pytest.param(head(("Age", "30")), NOW + 10, 40, id="Age and resident"),
        pytest.param(head(("Age", "30"), took=2), NOW, 32, id="Age and response delay"),
        pytest.param(head(took=2), NOW, 2, id="response delay alone"),
        pytest.param(head(date=after(-50)), NOW, 50, id="apparent age"),
        pytest.param(head(("Age", "30"), date=after(-50)), NOW, 50, id="the greater: apparent"),
        pytest.param(head(("Age", "70"), date=after(-50)), NOW, 70, id="the greater: Age"),
        pytest.param(head(date=after(50)), NOW, 0, id="Date in the future"),
        pytest.param(head(date=None), NOW + 5, 5, id="no Date"),
        pytest.param(head(date="Mon, 1 Jan 1990"), NOW + 5, 5, id="malformed Date"),
        pytest.param(head(("Age", "30, 90")), NOW, 30, id="Age as a list: the first"),
        pytest.param(head(("Age", "30"), ("Age", "90")), NOW, 30, id="two Ages: the first"),
        pytest.param(head(("Age", "-5")), NOW, 0, id="Age negative: ignored"),
        pytest.param(head(("Age", "3.5")), NOW, 0, id="Age no integer: ignored"),
        pytest.param(head(("Age", "")), NOW, 0, id="Age empty: ignored"),
        pytest.param(head(("Age", "9" * 30)), NOW, FOREVER, id="Age overflows"),
        pytest.param(head(took=-99), NOW, 0, id="received before asked for"),
        pytest.param(head(), NOW - 3600, 0, id="clock back an hour"),
        pytest.param(head(("Age", "30")), NOW - 3600, 30, id="clock back an hour, Age"),
        pytest.param(head(), NOW - 2 * DAY, 0, id="clock back two days"),
        pytest.param(head(date=after(-3 * DAY)), NOW - 2 * DAY, DAY, id="clock back: the upstream's Date"),
        pytest.param(head(date=None), NOW - 2 * DAY, 0, id="clock back: no witness"),
    ],
)
def test_age(response: Head, now: float, age: float) -> None:
    """RFC 9111 §4.2.3, and never negative."""
    assert assess({}, response, now, RULES).age == age


@pytest.mark.parametrize(
    ("now", "fresh"),
    [
        pytest.param(NOW - 1, True, id="a second ago"),
        pytest.param(NOW - DAY, True, id="a day ago"),
        pytest.param(NOW - DAY - 1, False, id="more than a day ago"),
        pytest.param(NOW - 40 * 365 * DAY, False, id="decades ago"),
        pytest.param(NOW + 40 * 365 * DAY, False, id="decades on"),
    ],
)
def test_a_clock_that_jumps(now: float, fresh: bool) -> None:
    """Nothing from the future is fresh until the clock catches up."""
    for response in (control("max-age=60"), head(status=404)):
        verdict = assess({}, response, now, RULES)
        assert verdict.fresh is fresh
        assert verdict.age >= 0


def test_a_missing_page_is_remembered_from_its_arrival() -> None:
    """A 404 out of another cache is old already, however old; the house's own minute still counts in full."""
    for response in (
        head(("Age", "500"), status=404),
        head(("Age", "9" * 20), status=404),
        head(status=404, date="Mon, 01 Jan 0001 00:00:00 GMT"),
    ):
        assert assess({}, response, NOW + 59, RULES).fresh
        assert not assess({}, response, NOW + 60, RULES).fresh


@pytest.mark.parametrize(
    ("request_headers", "age", "fresh"),
    [
        pytest.param({}, 59, True, id="nothing asked"),
        pytest.param({"cache-control": "max-age=10"}, 9, True, id="max-age: younger"),
        pytest.param({"cache-control": "max-age=10"}, 10, False, id="max-age: as old"),
        pytest.param({"cache-control": "max-age=999"}, 60, False, id="max-age never lengthens"),
        pytest.param({"cache-control": "max-age=0"}, 0, False, id="max-age=0"),
        pytest.param({"cache-control": "max-age=x"}, 0, False, id="max-age invalid"),
        pytest.param({"cache-control": "max-age=10, max-age=20"}, 0, False, id="max-age disagreeing"),
        pytest.param({"cache-control": "min-fresh=10"}, 49, True, id="min-fresh: enough left"),
        pytest.param({"cache-control": "min-fresh=10"}, 50, False, id="min-fresh: too little"),
        pytest.param({"cache-control": "min-fresh"}, 0, False, id="min-fresh invalid"),
        pytest.param({"cache-control": "max-stale=10"}, 69, True, id="max-stale: inside"),
        pytest.param({"cache-control": "max-stale=10"}, 70, False, id="max-stale: outside"),
        pytest.param({"cache-control": "max-stale"}, 1_000_000, True, id="max-stale: any"),
        pytest.param({"cache-control": "max-stale=x"}, 60, False, id="max-stale invalid"),
        pytest.param({"cache-control": "max-stale=9, max-stale=99"}, 60, False, id="max-stale disagreeing"),
        pytest.param({"cache-control": "max-stale=10, max-age=65"}, 64, True, id="both: inside"),
        pytest.param({"cache-control": "max-stale=10, max-age=65"}, 65, False, id="both: too old"),
        pytest.param({"cache-control": "max-stale=10, min-fresh=5"}, 65, False, id="max-stale, min-fresh"),
        pytest.param({"cache-control": "no-cache"}, 0, False, id="no-cache"),
        pytest.param({"cache-control": "NO-CACHE"}, 0, False, id="upper case"),
        pytest.param({"cache-control": 'no-cache="x"'}, 0, False, id="with an argument"),
        pytest.param({"pragma": "no-cache"}, 0, False, id="pragma"),
        pytest.param({"pragma": "x"}, 0, True, id="another pragma"),
        pytest.param({"pragma": "no-cache", "cache-control": "x"}, 0, True, id="pragma beside Cache-Control"),
        pytest.param({"cache-control": "no-store"}, 0, True, id="no-store is no matter of freshness"),
        pytest.param({"cache-control": "only-if-cached"}, 0, True, id="nor is only-if-cached"),
        pytest.param({"range": "bytes=0-", "vary": "*"}, 0, True, id="nor other fields"),
    ],
)
def test_request_directives(request_headers: dict[str, str], age: float, fresh: bool) -> None:
    """RFC 9111 §5.2.1, over a response that lives 60 s."""
    assert assess(request_headers, control("max-age=60"), NOW + age, RULES).fresh is fresh


@pytest.mark.parametrize(
    ("request_headers", "age", "because"),
    [
        ({}, 0, "fresh by max-age"),
        ({"cache-control": "max-age=0"}, 0, "fresh, but the client wants it newer"),
        ({}, 60, "stale by max-age"),
        ({"cache-control": "max-stale"}, 60, "stale, and the client accepts that"),
    ],
)
def test_verdicts_say_why(request_headers: dict[str, str], age: float, because: str) -> None:
    """One phrase for the log and Cache-Status."""
    assert assess(request_headers, control("max-age=60"), NOW + age, RULES).because == because


FORBIDDING = [
    control("max-age=60, must-revalidate"),
    control("max-age=60, proxy-revalidate"),
    control("s-maxage=60"),
    control("no-cache"),
    control("no-store"),
    control("private"),
    control("max-age=60", ("Vary", "*")),
    control("max-age=60", status=404),
    control("max-age=60", status=410),
]


@pytest.mark.parametrize("response", FORBIDDING)
def test_stale_answers_forbidden(response: Head) -> None:
    """RFC 9111 §4.2.4: neither the client's max-stale nor the operator's windows overrule the response."""
    assert not assess({"cache-control": "max-stale"}, response, NOW + 60, RULES).fresh
    rules = Rules(stale_while_revalidate=99, stale_if_error=99)
    assert grace(response, rules) == Grace(0.0, 0.0)


@pytest.mark.parametrize(
    ("value", "behind"),
    [
        pytest.param("max-age=60", 30, id="the setting"),
        pytest.param("max-age=60, stale-while-revalidate=5", 5, id="the response goes first"),
        pytest.param("max-age=60, stale-while-revalidate=500", 500, id="also when longer"),
        pytest.param("max-age=60, stale-while-revalidate=0", 0, id="also when none"),
        pytest.param("max-age=60, stale-while-revalidate=x", 0, id="invalid"),
        pytest.param("max-age=60, stale-if-error=5", 30, id="stale-if-error changes nothing"),
    ],
)
def test_grace(value: str, behind: float) -> None:
    """RFC 5861: while revalidating the response decides, on errors the operator."""
    rules = Rules(stale_while_revalidate=30, stale_if_error=1000)
    assert grace(control(value), rules) == Grace(behind, 1000)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        pytest.param(head(date=None), True, id="a bare mirror"),
        pytest.param(control("max-age=600", ("ETag", '"a"')), True, id="the usual page"),
        pytest.param(head(("Last-Modified", DATE)), True, id="Last-Modified only"),
        pytest.param(head(date="today"), True, id="malformed Date"),
        pytest.param(control("no-cache"), True, id="no-cache"),
        pytest.param(control("max-age=0, must-revalidate"), True, id="must-revalidate"),
        pytest.param(head(("Expires", "0")), True, id="expired"),
        pytest.param(control("max-age=9", ("Vary", "Accept, Accept-Encoding")), True, id="Vary"),
        pytest.param(control("no-store"), False, id="no-store"),
        pytest.param(control("max-age=9, NO-STORE"), False, id="no-store, upper case"),
        pytest.param(control("no-store, no-store=1"), False, id="no-store, mangled"),
        pytest.param(control("public", ("cache-control", "no-store")), False, id="no-store, second line"),
        pytest.param(control("private"), False, id="private"),
        pytest.param(control('private="set-cookie", max-age=9'), False, id="private, qualified"),
        pytest.param(control("max-age=9", ("Vary", "*")), False, id="Vary: *"),
        pytest.param(control("no-store", ("ETag", '"a"')), False, id="no-store beside an ETag"),
        *(
            pytest.param(control("max-age=9", status=status), expected, id=str(status))
            for status, expected in {
                203: True, 300: True, 301: True, 308: True, 404: True, 410: True,
                204: False, 206: False, 302: False, 304: False, 307: False, 400: False, 401: False,
                403: False, 429: False, 500: False, 502: False, 503: False,
            }.items()
        ),
        pytest.param(control("no-store", status=301), False, id="301 with no-store"),
    ],
)  # fmt: skip
def test_storable(response: Head, expected: bool) -> None:
    """RFC 9111 §3, for a shared cache that asks without credentials."""
    assert storable(response, RULES) is expected


def test_a_stored_redirect_ages() -> None:
    """CacheControl alone would take it for fresh, for ever."""
    assert not assess({}, control("max-age=9", status=301), NOW + 9, RULES).fresh


def test_immutable() -> None:
    """A file pinned by its hash: headers and requests change no verdict, the status does."""
    rules = Rules(immutable=True)
    response = control("no-store", ("Vary", "*"), ("Expires", "0"))
    verdict = assess({"cache-control": "no-cache"}, response, NOW + 1e9, rules)
    assert verdict == Freshness(1e9, math.inf, True, "pinned by its hash")
    assert storable(response, rules)
    assert not storable(head(status=206), rules)
    assert not storable(head(status=404), rules)
    # What clients are told of such a file is said where files are served: here headers are always obeyed.
    assert dict(response_headers(response, NOW, rules))["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param((), {}, id="none"),
        pytest.param((("etag", '"a"'),), {"If-None-Match": '"a"'}, id="ETag"),
        pytest.param((("ETag", 'W/"a"'),), {"If-None-Match": 'W/"a"'}, id="weak ETag"),
        pytest.param((("ETag", "a"),), {}, id="ETag without quotes"),
        pytest.param((("ETag", '"a"'), ("ETag", '"b"')), {}, id="two ETags"),
        pytest.param((("Last-Modified", DATE),), {"If-Modified-Since": DATE}, id="Last-Modified"),
        pytest.param((("Last-Modified", "x"),), {}, id="Last-Modified malformed"),
        pytest.param(
            (("ETag", '"a"'), ("Last-Modified", DATE)),
            {"If-None-Match": '"a"', "If-Modified-Since": DATE},
            id="both",
        ),
    ],
)
def test_validators(lines: Headers, expected: dict[str, str]) -> None:
    """RFC 9111 §4.3.1, with nothing that an upstream could misread."""
    assert validators(head(*lines)) == expected


STORED = control(
    "max-age=60",
    ("ETag", '"a"'),
    ("Last-Modified", after(-99)),
    ("Content-Type", "text/html"),
    ("X-Old", "1"),
    ("Age", "50"),
    ("vary", "Accept"),
    ("Vary", "Accept-Encoding"),
)


def fold(*lines: tuple[str, str]) -> dict[str, str]:
    """The stored head's fields after a 304 with these lines, which was received 100 s later."""
    folded = refreshed(STORED, Head(304, lines, NOW + 99, NOW + 100), RULES)
    assert (folded.status, folded.asked_at, folded.received_at) == (200, NOW + 99, NOW + 100)
    return {name.lower(): folded.header(name) or "" for name, _ in folded.headers}


UNCHANGED = {
    "cache-control": "max-age=60",
    "etag": '"a"',
    "last-modified": after(-99),
    "content-type": "text/html",
    "vary": "Accept, Accept-Encoding",
}


@pytest.mark.parametrize(
    ("lines", "changes"),
    [
        pytest.param((), {}, id="empty: Date and Age go"),
        pytest.param((("Date", after(100)),), {"date": after(100)}, id="Date"),
        pytest.param((("Age", "7"),), {"age": "7"}, id="Age"),
        pytest.param((("Cache-Control", "max-age=9"),), {"cache-control": "max-age=9"}, id="Cache-Control"),
        pytest.param(
            (("Vary", "A"), ("Expires", DATE)), {"vary": "A", "expires": DATE}, id="replaced and added"
        ),
        pytest.param((("X-Old", "2"), ("X-New", "3")), {}, id="never read again: not kept, and no more"),
        pytest.param((("VARY", "A"), ("vary", "B")), {"vary": "A, B"}, id="several lines"),
        pytest.param(
            (("Content-Length", "0"), ("Content-Type", "x"), ("Content-Encoding", "gzip")), {}, id="Content-*"
        ),
        pytest.param(
            (("Connection", "close, X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "1"), ("Set-Cookie", "a=b")),
            {},
            id="hop by hop",
        ),
        pytest.param(
            (("WWW-Authenticate", "x"), ("Link", "</?signed>"), ("Location", "/?signed")), {}, id="for us alone"
        ),
        pytest.param((("ETag", '"a"'), ("Last-Modified", DATE)), {"last-modified": DATE}, id="same ETag"),
        pytest.param((("ETag", 'W/"a"'), ("Age", "3")), {"etag": 'W/"a"', "age": "3"}, id="same ETag, weakly"),
        pytest.param((("ETag", '"b"'), ("Last-Modified", DATE)), {}, id="another ETag"),
        pytest.param((("Last-Modified", DATE),), {}, id="another Last-Modified, no ETag"),
    ],
)
def test_refreshed(lines: Headers, changes: dict[str, str]) -> None:
    """RFC 9111 §3.2: the 304's fields replace the stored ones, but for what describes the stored body."""
    assert fold(*lines) == UNCHANGED | changes


def test_a_304_never_brings_a_validator() -> None:
    """A body stored without an ETag keeps having none: which version the 304's belongs to is not known."""
    stored = head(("Last-Modified", DATE))
    folded = refreshed(stored, Head(304, (("ETag", '"a"'),), NOW, NOW), RULES)
    assert validators(folded) == {"If-Modified-Since": DATE}


@pytest.mark.parametrize(
    ("kept", "said", "expected"),
    [("100", "99", "100"), ("100", "x", "100"), ("100", "", "100"), ("100", "100", "100"), ("100", "101", "101"),
     (None, "99", "99"), ("x", "99", "99")],
)  # fmt: skip
def test_a_304_never_lowers_the_serial(kept: str | None, said: str, expected: str) -> None:
    """The serial tells older pages from newer ones: one that a 304 lowered would let an older page in."""
    stored = head(*((("X-PyPI-Last-Serial", kept),) if kept is not None else ()))
    folded = refreshed(stored, Head(304, (("x-pypi-last-serial", said),), NOW, NOW), RULES)
    assert folded.header("X-PyPI-Last-Serial") == expected


def test_a_304_keeps_order_and_spelling() -> None:
    """Lines that are not replaced stay as they arrived, the status of the stored response too."""
    stored = Head(203, (("Vary", "1"), ("eTAG", '"2"'), ("Vary", "3")), NOW, NOW)
    folded = refreshed(stored, Head(304, (("Expires", "4"),), NOW, NOW), RULES)
    assert folded.headers == (*stored.headers, ("Expires", "4"))
    assert folded.status == 203


def test_a_304_renews_life() -> None:
    """Age counts from the 304, and a 304 that forbids reuse is obeyed at once."""
    assert assess({}, refreshed(STORED, Head(304, (), NOW + 100, NOW + 100), RULES), NOW + 159, RULES).fresh
    forbidden = refreshed(STORED, Head(304, (("Cache-Control", "no-store"),), NOW + 100, NOW + 100), RULES)
    assert not storable(forbidden, RULES)
    assert not assess({}, forbidden, NOW + 100, RULES).fresh


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        pytest.param(control("max-age=600", ("Age", "30")), "max-age=600", id="undiminished"),
        pytest.param(control("max-age=9999999"), "max-age=86400", id="capped by max_ttl"),
        pytest.param(control("s-maxage=9, max-age=600"), "max-age=600", id="s-maxage is ours"),
        pytest.param(control("s-maxage=600, max-age=0"), "max-age=0", id="s-maxage gives clients nothing"),
        pytest.param(control("s-maxage=600"), "max-age=600", id="s-maxage alone"),
        pytest.param(head(("Expires", after(90))), "max-age=90", id="Expires"),
        pytest.param(head(("Expires", "0")), "max-age=0", id="expired"),
        pytest.param(head(("Last-Modified", after(-1000))), "max-age=100", id="heuristic"),
        pytest.param(head(), "max-age=300", id="default"),
        pytest.param(control("max-age=x"), "max-age=0", id="invalid"),
        pytest.param(control("no-cache, max-age=60"), "no-cache", id="no-cache"),
        pytest.param(control('no-cache="a", must-revalidate'), "no-cache, must-revalidate", id="no-cache, kept"),
        pytest.param(
            control("proxy-revalidate, must-revalidate, max-age=5"),
            "max-age=5, must-revalidate, proxy-revalidate",
            id="revalidate kept",
        ),
        pytest.param(control("no-store, max-age=60"), "no-store", id="no-store"),
        pytest.param(control("private, max-age=60"), "private, max-age=60", id="private"),
        pytest.param(control("max-age=60", ("Vary", "*")), "no-cache", id="Vary: *"),
        pytest.param(head(status=404), "max-age=60", id="404"),
        pytest.param(control("max-age=5", status=404), "max-age=5", id="404 that says less"),
        pytest.param(control("max-age=500", status=404), "max-age=60", id="404 that says more"),
        pytest.param(
            control("max-age=60, stale-while-revalidate=9, public"), "max-age=60", id="nothing else is passed on"
        ),
    ],
)
def test_cache_control_for_clients(response: Head, expected: str) -> None:
    """Never more life than upstream gave."""
    assert dict(response_headers(response, NOW, RULES))["Cache-Control"] == expected


@pytest.mark.parametrize(
    ("response", "now", "age", "date"),
    [
        pytest.param(head(("Age", "30"), date=after(-50)), NOW + 5.5, "55", after(-50), id="upstream's Date"),
        pytest.param(head(("Age", "30")), NOW + 5, "35", DATE, id="Age"),
        pytest.param(head(date=None), NOW + 5, "5", DATE, id="the time received"),
        pytest.param(head(date="today"), NOW + 5, "5", DATE, id="malformed Date"),
        pytest.param(head(date=None), NOW - 9, "0", after(-9), id="clock back: no Date in the future"),
        pytest.param(head(date="Sunday, 06-Nov-94 08:49:37 GMT"), NOW, None, "Sun, 06 Nov 1994 08:49:37 GMT",
                     id="as an IMF-fixdate"),
    ],
)  # fmt: skip
def test_age_and_date_for_clients(response: Head, now: float, age: str | None, date: str) -> None:
    """pip counts from Date, uv from Date and Age."""
    fields = dict(response_headers(response, now, RULES))
    assert fields["Date"] == date
    assert age is None or fields["Age"] == age


VALUES = st.sampled_from(
    ["max-age=60", "max-age=0", "s-maxage=30", "no-cache", "no-store", "private", "must-revalidate", "public",
     "stale-while-revalidate=5", "max-age=x", 'no-cache="a', "max-stale", "max-stale=40", "min-fresh=7", "MAX-AGE=5"]
)  # fmt: skip
CONTROLS = st.lists(VALUES, max_size=4).map(", ".join)
DATES = st.one_of(
    st.integers(-100_000, 100_000).map(lambda offset: after(offset)),
    st.sampled_from(["", "0", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "Fri, 31 Dec 9999"]),
)
LINES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["Cache-Control", "cache-control"]), CONTROLS),
        st.tuples(st.sampled_from(["Date", "Expires", "Last-Modified"]), DATES),
        st.tuples(st.just("Age"), st.sampled_from(["0", "30", "99999999999", "-1", "x"])),
        st.tuples(st.just("Vary"), st.sampled_from(["Accept", "*"])),
        st.tuples(st.just("ETag"), st.sampled_from(['"a"', "b", 'W/"c"'])),
    ),
    max_size=6,
).map(tuple)
HEADS = st.builds(
    lambda status, lines, took: Head(status, lines, NOW - took, NOW),
    st.sampled_from([200, 203, 301, 404]),
    LINES,
    st.floats(0, 100),
)
REQUESTS = st.one_of(
    st.just({}), st.builds(lambda value: {"cache-control": value}, CONTROLS), st.just({"pragma": "no-cache"})
)
MOMENTS = st.floats(NOW - 1000, NOW + 1_000_000)


@settings(deadline=None)
@given(REQUESTS, HEADS, MOMENTS, st.floats(0, 1_000_000))
def test_once_stale_always_stale(request_headers: dict[str, str], response: Head, now: float, later: float) -> None:
    """Age grows with the clock, and time never makes a response fresh again."""
    first, second = (assess(request_headers, response, moment, RULES) for moment in (now, now + later))
    assert first.age <= second.age
    assert first.lifetime == second.lifetime
    assert first.fresh or not second.fresh


@settings(deadline=None)
@given(HEADS, MOMENTS)
def test_the_judge_agrees_with_the_rfc(response: Head, now: float) -> None:
    """RFC 9111 §4.2: "response_is_fresh = (freshness_lifetime > current_age)", when nothing is asked."""
    verdict = assess({}, response, now, RULES)
    assert verdict.fresh is (verdict.lifetime > verdict.age)


@settings(deadline=None)
@given(REQUESTS, HEADS, MOMENTS)
def test_requests_never_lengthen(request_headers: dict[str, str], response: Head, now: float) -> None:
    """Without max-stale no request finds fresh what is stale for a request that asks nothing."""
    if "max-stale" not in request_headers.get("cache-control", "") and not assess({}, response, now, RULES).fresh:
        assert not assess(request_headers, response, now, RULES).fresh


@settings(deadline=None)
@given(HEADS, MOMENTS)
def test_clients_get_no_more_life(response: Head, now: float) -> None:
    """The age sent is our own, and the life sent never exceeds the operator's cap."""
    fields = dict(response_headers(response, now, RULES))
    assert int(fields["Age"]) == assess({}, response, now, RULES).age
    _, _, seconds = fields["Cache-Control"].partition("max-age=")
    assert int(seconds.partition(",")[0] or 0) <= RULES.max_ttl


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REQUESTS, HEADS, MOMENTS, st.floats(0, 9e10))
def test_no_other_clock(
    monkeypatch: pytest.MonkeyPatch, request_headers: dict[str, str], response: Head, now: float, clock: float
) -> None:
    """The verdict depends on the ``now`` that is passed in, whatever the machine's clock says."""
    expected = assess(request_headers, response, now, RULES), storable(response, RULES)
    with monkeypatch.context() as patched:
        patched.setattr("cachecontrol.controller.time", SimpleNamespace(time=lambda: clock))
        assert (assess(request_headers, response, now, RULES), storable(response, RULES)) == expected


@settings(deadline=None)
@given(REQUESTS, HEADS, LINES, MOMENTS)
def test_what_is_kept_of_a_head_is_all_that_is_read_of_it(
    request_headers: dict[str, str], response: Head, lines: Headers, now: float
) -> None:
    """What is judged and said by the kept head of a page is what would be by the whole one."""
    unread = (("X-Debug", "1"), ("Link", "</x>"), ("Set-Cookie", "a=b"), ("Pragma", "no-cache"), ("Warning", "110 - x"))
    whole = replace(response, headers=(*unread[:3], *response.headers, *unread[3:]))
    kept, update = kept_head(whole), Head(304, lines, NOW + 1, NOW + 2)
    assert kept == response

    def said(of: Head) -> tuple[object, ...]:
        judged = (assess(request_headers, of, now, RULES), grace(of, RULES), validators(of), contradicts(of, update))
        return (*judged, response_headers(of, now, RULES), serial_of(of), refreshed(of, update, RULES))

    assert said(kept) == said(whole)


@settings(deadline=None)
@given(HEADS, LINES)
def test_a_304_that_says_nothing_new_changes_no_life(response: Head, lines: Headers) -> None:
    """Folding the same 304 in twice is folding it in once."""
    update = Head(304, lines, NOW + 1, NOW + 2)
    once = refreshed(response, update, RULES)
    assert math.isclose(once.received_at, NOW + 2)
    assert sorted(refreshed(once, update, RULES).headers) == sorted(once.headers)
