"""What passes through a mount: fields both ways, hops, dates and ages, and where a Location leads."""

from __future__ import annotations

from urllib.parse import urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.messages import Head, Headers, RawTarget, Request
from proxy.core.passing import (
    CREDENTIALS,
    absolute,
    aged,
    asked_of_upstream,
    below,
    dated,
    for_one_connection,
    hops_left,
    kept,
    locally,
    looped,
    one_hop_less,
    told_to_client,
    without_body,
)

NOW = 1_790_000_000.0
TODAY = "Mon, 21 Sep 2026 14:13:20 GMT"
VIA = "1.1 us"
MOUNT = "http://example.com/base/"
TOKENS = st.from_regex(r"[A-Za-z][A-Za-z-]{0,8}", fullmatch=True)


def head(*lines: tuple[str, str], status: int = 200) -> Head:
    """A response received now, without delay."""
    return Head(status, lines, NOW, NOW)


def asking(*lines: tuple[str, str], method: str = "OPTIONS") -> Request:
    """A client's request to a mount."""
    return Request(method, RawTarget("tree", "x"), {}, fields=lines)


# --- fields


def test_a_request_goes_on() -> None:
    """In its order and spelling, without what is for this connection, and with a word of ours."""
    lines = (
        ("Host", "here"),
        ("X-B", "1"),
        ("connection", "X-Named , close"),
        ("x-named", "2"),
        ("X-a", ""),
        ("TE", "trailers"),
        ("Content-Length", "3"),
        ("Transfer-Encoding", "chunked"),
        ("Expect", "100-continue"),
        ("Keep-Alive", "1"),
        ("Proxy-Connection", "1"),
        ("Upgrade", "x"),
        ("Trailer", "x"),
        ("X-B", "3"),
        ("Via", "1.0 other"),
    )
    assert asked_of_upstream(lines, without=(), via=VIA) == (
        ("X-B", "1"),
        ("X-a", ""),
        ("X-B", "3"),
        ("Via", "1.0 other"),
        ("Via", VIA),
    )


def test_what_else_stays_here() -> None:
    """Names that a mount does not pass on."""
    lines = (("AUTHORIZATION", "x"), ("Cookie", "x"), ("Proxy-Authorization", "x"), ("X", "x"))
    assert asked_of_upstream(lines, without=CREDENTIALS, via=VIA) == (("X", "x"), ("Via", VIA))


@given(st.lists(st.tuples(TOKENS, TOKENS), max_size=6), st.lists(TOKENS, max_size=3))
def test_what_a_connection_names_goes_no_further(lines: list[tuple[str, str]], named: list[str]) -> None:
    """Whatever it names, in whatever case; all else passes in its order."""
    fields: Headers = (*lines, ("Connection", ", ".join(named)))
    sent = asked_of_upstream(fields, without=(), via=VIA)[:-1]
    gone = for_one_connection(fields) | {"host", "expect"}
    assert gone >= {each.lower() for each in named}
    assert list(sent) == [line for line in lines if line[0].lower() not in gone]


@pytest.mark.parametrize("cookies", [False, True])
def test_an_answer_comes_back(cookies: bool) -> None:
    """Likewise; cookies only where they are ever sent back; of its times nothing is lost."""
    lines = (
        ("X-A", "1"),
        ("Connection", "x-named"),
        ("X-Named", "1"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", "3"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie2", "b=2"),
        ("x-a", "2"),
    )
    told = told_to_client(Head(299, lines, 1.0, 2.0), cookies=cookies)
    kept_cookies = (("Set-Cookie", "a=1"), ("Set-Cookie2", "b=2")) if cookies else ()
    assert told == Head(299, (("X-A", "1"), *kept_cookies, ("x-a", "2")), 1.0, 2.0)


def test_what_is_stored() -> None:
    """RFC 9111 §3.1: not what is between us and a proxy."""
    lines = (("Proxy-Authenticate", "x"), ("X", "y"), ("Proxy-Authorization", "x"), ("Proxy-Authentication-Info", "x"))
    assert kept(head(*lines)) == head(("X", "y"))


def test_dates() -> None:
    """RFC 9110 §6.6.1: kept, or that of when it was received; a malformed one is the origin's word, too."""
    assert dated(head(("X", "y"))) == (("X", "y"), ("Date", TODAY))
    assert dated(head(("date", "long ago"))) == (("date", "long ago"),)


def test_ages() -> None:
    """RFC 9111 §5.1: one, in the place of any other, counted from what it was when it came."""
    lines = aged(head(("AGE", "70"), ("X", "y"), ("age", "1")), NOW + 5.9)
    assert lines == (("X", "y"), ("Date", TODAY), ("Age", "75"))


def test_a_304_of_ours() -> None:
    """RFC 9110 §15.4.5: without what describes a body that is not there."""
    lines = (
        ("Content-Type", "x"),
        ("ETag", '"a"'),
        ("content-encoding", "x"),
        ("Content-Location", "/x"),
        ("Vary", "x"),
    )
    assert without_body(lines) == (("ETag", '"a"'), ("Content-Location", "/x"), ("Vary", "x"))


# --- hops


@pytest.mark.parametrize(
    ("value", "again"),
    [
        (VIA, True),
        ("1.0 a, 1.1 us (comment), 1.1 b", True),
        ("1.1 a,1.1 us", True),
        ("1.1 us-too, 1.1 usual", False),
        ("1.1 a", False),
        ("", False),
    ],
)
def test_loops(value: str, again: bool) -> None:
    """Who finds his own entry in Via has seen the request before."""
    assert looped((("via", value),), VIA) is again
    assert looped((("Via", "1.1 a"), ("via", value)), VIA) is again


def test_no_loop_without_via() -> None:
    """The first hop."""
    assert not looped((("X", VIA),), VIA)


HOPS = [
    ("0", 0, "0"),
    ("000", 0, "000"),
    ("1", 1, "0"),
    ("12", 12, "11"),
    ("99999999999", 2**31, str(2**31 - 1)),
    ("", None, ""),
    ("-1", None, "-1"),
    ("1.5", None, "1.5"),
    ("²", None, "²"),
]


@pytest.mark.parametrize(("value", "left", "then"), HOPS)
def test_hops_of_options(value: str, left: int | None, then: str) -> None:
    """RFC 9110 §7.6.2: one less, or what is the most here; what is no number says nothing."""
    request = asking(("max-forwards", value), ("X", "7"))
    assert hops_left(request) == left
    assert [value for _, value in one_hop_less(request)] == [then, "7"]


@pytest.mark.parametrize("request_", [asking(("Max-Forwards", "0"), method="GET"), asking(("X", "0"))])
def test_hops_of_others(request_: Request) -> None:
    """Of other methods, and where nothing is said, none are counted."""
    assert hops_left(request_) is None
    assert one_hop_less(request_) == request_.fields


def test_hops_said_twice() -> None:
    """Two of them are no number."""
    request = asking(("Max-Forwards", "0"), ("Max-Forwards", "5"))
    assert (hops_left(request), one_hop_less(request)) == (None, request.fields)


# --- addresses

BELOW = [
    ("http://example.com/base/", ""),
    ("http://example.com/base/a/b?c#d", "a/b?c#d"),
    ("http://example.com/base/?q", "?q"),
    ("HTTP://EXAMPLE.com:80/base/x", "x"),
    ("http://example.com/base/a:b", "a:b"),
    ("http://example.com/base/a?x=//../%2f", "a?x=//../%2f"),
    ("http://example.com/base", None),
    ("http://example.com/based/x", None),
    ("http://example.com/Base/x", None),
    ("https://example.com/base/x", None),
    ("http://example.com:8080/base/x", None),
    ("http://example.org/base/x", None),
    ("http://me@example.com/base/x", None),
    ("http://example.com/base//x", None),
    ("http://example.com/base/x/../y", None),
    ("http://example.com/base/./y", None),
    ("http://example.com/base/%2E%2e/y", None),
    ("http://example.com/base/a%2Fb", None),
    ("http://example.com/base/a%5cb", None),
    ("http://example.com/base/a%00", None),
    ("http://example.com/base/a%0D", None),
    ("http://example.com/base/a\\b", None),
    ("http://example.com:port/base/x", None),
    ("http://[x/base/", None),
    ("mailto:x", None),
    ("", None),
]


@pytest.mark.parametrize(("url", "rest"), BELOW)
def test_what_is_below_a_mount(url: str, rest: str | None) -> None:
    """The same origin, the same path in front, and nothing that our gate would refuse."""
    assert below(url, MOUNT) == rest


def test_ports_of_https() -> None:
    """The default one may be said."""
    assert below("https://example.com:443/x", "https://example.com/") == "x"
    assert below("https://example.com/x", "https://example.com:443/") == "x"
    assert below("gopher://example.com/x", "gopher://example.com/") == "x"


LOCATIONS = [
    ("", "a", "./a"),
    ("x", "a", "./a"),
    ("x?a/b", "a", "./a"),
    ("x/y/z?a/b", "a", "../../x/y/a"),
    ("x", "/base/", "./"),
    ("x/y", "/base/?q", "../?q"),
    ("x", "/base/a:b", "./a:b"),
    ("x", "#f", "./x#f"),
    ("x", "/out", "http://example.com/out"),
    ("x", "//example.org/y", "http://example.org/y"),
    ("x", "https://example.org/y?z#f", "https://example.org/y?z#f"),
    ("x", "http://[x", "http://[x"),
]


@pytest.mark.parametrize(("rest", "location", "seen"), LOCATIONS)
def test_locations(rest: str, location: str, seen: str) -> None:
    """Relative inside, absolute outside, untouched where it is no URL."""
    assert locally(location, MOUNT, RawTarget("tree", rest)) == seen


# No empty parameters: urljoin drops them.
SEGMENTS = st.lists(st.from_regex(r"[a-z:@%7e-]{1,4}(;[a-z])?", fullmatch=True), max_size=4)


@given(SEGMENTS, SEGMENTS, st.sampled_from(["", "?", "?q=/../", "#f"]))
def test_a_location_leads_where_the_origin_meant(here: list[str], there: list[str], end: str) -> None:
    """Followed by a client of ours it is the same place below the mount."""
    target = RawTarget("tree", "/".join(here))
    there_rest = "/".join(there) + end
    seen = locally(f"http://example.com/base/{there_rest}", MOUNT, target)
    if below(f"http://example.com/base/{there_rest}", MOUNT) is not None:
        at = f"http://proxy.example/prefix/raw/tree/{target.rest}"
        assert urljoin(at, seen).rstrip("?") == f"http://proxy.example/prefix/raw/tree/{there_rest}".rstrip("?")


def test_what_is_no_reference() -> None:
    """It refers to nothing, and raises nothing."""
    assert absolute("http://[x", "http://example.com/") is None
    assert absolute("x", "http://example.com/a/b") == "http://example.com/a/x"
