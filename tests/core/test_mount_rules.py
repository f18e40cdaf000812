"""What holds of mounts alone: RFC 9111 as it stands, where a page of an index has rules of the house beside it."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.core.decide import (
    Fail,
    Fallback,
    Fetch,
    Keep,
    Refresh,
    Relay,
    Serve,
    after_upstream,
    before_upstream,
)
from proxy.core.fields import FOREVER, format_date
from proxy.core.freshness import (
    Grace,
    assess,
    contradicts,
    grace,
    refreshed,
    remains,
    storable,
)
from proxy.core.messages import Entry, Head, Headers, RawTarget, Request, Rules
from proxy.errors import UpstreamFailed

NOW = 1_790_000_000.0
DAY = 86_400.0
MOUNT = Rules(
    default_ttl=0, max_ttl=float(FOREVER), heuristic_cap=DAY, stale_if_error=60, reload="honour", transparent=True
)
PAGE = Rules(stale_if_error=60)
MODIFIED = ("Last-Modified", format_date(NOW - 1000))
TAG = ("ETag", '"a"')
CREDENTIALS = {"authorization": "Basic x"}


def head(control: str = "", *lines: tuple[str, str], status: int = 200, at: float = NOW) -> Head:
    """A response received at once, with a Date."""
    said: Headers = (("Cache-Control", control),) if control else ()
    return Head(status, (("Date", format_date(at)), *said, *lines), at, at)


def entry(stored: Head) -> Entry:
    """It, kept."""
    return Entry("key", "m/", "http://example.com/", stored, "body", 4, "sha256")


def asking(method: str = "GET", **headers: str) -> Request:
    """A client's request; keyword names are field names."""
    return Request(method, RawTarget("m", "x"), {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("response", "life"),
    [
        pytest.param(head("", MODIFIED), 100, id="10 % since Last-Modified"),
        pytest.param(head("", ("Last-Modified", format_date(NOW - 100 * DAY))), int(DAY), id="at most a day"),
        pytest.param(head(), 0, id="nothing at all: default_ttl"),
        pytest.param(head("max-age=99999999"), 99_999_999, id="explicit life has no cap"),
        pytest.param(head("", MODIFIED, status=404), 100, id="a 404 is like any other"),
        pytest.param(head("max-age=9", status=410), 9, id="also a 410"),
        pytest.param(head("", MODIFIED, status=302), 0, id="302: no heuristic"),
        pytest.param(head("", MODIFIED, status=503), 0, id="503: no heuristic"),
        pytest.param(head("public", MODIFIED, status=302), 100, id="unless it is public"),
        pytest.param(head("max-age=9", status=302), 9, id="302, explicit"),
        pytest.param(head("max-age=9", status=599), 9, id="any status, explicit"),
        pytest.param(head("no-store, must-understand, max-age=9"), 9, id="must-understand, understood"),
        pytest.param(head("private, must-understand, max-age=9"), 0, id="private, though understood"),
        pytest.param(head("must-understand, max-age=9", status=599), 0, id="must-understand, not understood"),
    ],
)
def test_lifetime(response: Head, life: int) -> None:
    """RFC 9111 §4.2.1, §4.2.2, §5.2.2.3."""
    assert assess({}, response, NOW, MOUNT).lifetime == life


STORED = [
    pytest.param(head(), {}, True, id="200, nothing said"),
    pytest.param(head("no-store"), {}, False, id="no-store"),
    pytest.param(head("private, max-age=9"), {}, False, id="private"),
    pytest.param(head("no-store, must-understand"), {}, True, id="must-understand, understood"),
    pytest.param(head("no-store, must-understand, max-age=9", status=599), {}, False, id="not understood"),
    pytest.param(head("max-age=9", ("Vary", "*")), {}, False, id="Vary: *"),
    *(pytest.param(head(status=status), {}, expected, id=f"{status}, nothing said")
      for status, expected in {
          203: True, 204: True, 300: True, 301: True, 308: True, 404: True, 405: True, 410: True, 414: True, 501: True,
          201: False, 302: False, 307: False, 400: False, 403: False, 429: False, 500: False, 503: False, 599: False,
      }.items()),
    *(pytest.param(head(control, status=503), {}, True, id=f"503, {control}")
      for control in ("public", "max-age=0", "s-maxage=9")),
    pytest.param(head("", ("Expires", "0"), status=302), {}, True, id="302, Expires"),
    pytest.param(head("must-revalidate", status=302), {}, False, id="302, must-revalidate is no lifetime"),
    pytest.param(head("max-age=9", status=206), {}, False, id="206"),
    pytest.param(head("max-age=9", status=304), {}, False, id="304"),
    pytest.param(head("max-age=9", status=103), {}, False, id="not final"),
    pytest.param(head("max-age=9"), CREDENTIALS, False, id="credentials"),
    *(pytest.param(head(control), CREDENTIALS, True, id=f"credentials, {control}")
      for control in ("public", "must-revalidate", "s-maxage=9")),
    pytest.param(head("proxy-revalidate"), CREDENTIALS, False, id="credentials, proxy-revalidate"),
]  # fmt: skip


@pytest.mark.parametrize(("response", "request_headers", "expected"), STORED)
def test_storable(response: Head, request_headers: dict[str, str], expected: bool) -> None:
    """RFC 9111 §3, §3.5."""
    assert storable(response, MOUNT, request_headers) is expected


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        ("max-age=9", Grace(0, 60)), ("stale-if-error=5", Grace(0, 5)), ("stale-if-error=500", Grace(0, 500)),
        ("stale-if-error=x", Grace(0, 0)), ("stale-while-revalidate=5", Grace(5, 60)),
        ("must-revalidate, stale-if-error=5", Grace(0, 0)), ("no-cache", Grace(0, 0)),
    ],
)  # fmt: skip
def test_grace(control: str, expected: Grace) -> None:
    """RFC 5861: what the response says goes before the settings, both ways; a 404 may be stale as well."""
    assert grace(head(control), MOUNT) == expected
    assert grace(head(control, status=404), MOUNT) == expected


def test_min_fresh_wants_nothing_stale() -> None:
    """RFC 9111 §5.2.1.3, also where max-stale (§5.2.1.2) would take it: the two contradict each other."""
    response = head("max-age=10")
    wishes = {"cache-control": "max-stale=99, min-fresh=3"}
    assert assess(wishes, response, NOW + 6, MOUNT).fresh
    assert not assess(wishes, response, NOW + 7, MOUNT).fresh
    assert not assess(wishes, response, NOW + 12, MOUNT).fresh


def fold(stored: Head, *lines: tuple[str, str], rules: Rules = MOUNT) -> dict[str, str]:
    """The fields after a 304 with these lines, without Date."""
    folded = refreshed(stored, Head(304, lines, NOW, NOW), rules)
    return {name.lower(): folded.header(name) or "" for name, _ in folded.headers if name != "Date"}


@pytest.mark.parametrize(
    ("lines", "mount", "page"),
    [
        ((("Content-Type", "x"),), {"content-type": "x"}, {}),
        ((("Content-Encoding", "x"), ("Set-Cookie", "a=b")), {"content-encoding": "x", "set-cookie": "a=b"}, {}),
        ((("Content-Length", "9"), ("Content-Range", "bytes 0-1/9")), {}, {}),
        ((("ETag", '"b"'), ("Last-Modified", "x")), {"etag": '"b"', "last-modified": "x"}, {}),
        ((("ETag", 'W/"a"'),), {"etag": 'W/"a"'}, {"etag": 'W/"a"'}),
        ((("X-PyPI-Last-Serial", "5"),), {"x-pypi-last-serial": "5"}, {}),
        ((("X-PyPI-Last-Serial", "9"),), {"x-pypi-last-serial": "9"}, {"x-pypi-last-serial": "9"}),
        ((("Connection", "X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "1")), {}, {}),
    ],
)
def test_refreshed(lines: Headers, mount: dict[str, str], page: dict[str, str]) -> None:
    """RFC 9111 §3.2: of a mount each field, of a page not what says what its body is."""
    stored = Head(200, (TAG, ("X-PyPI-Last-Serial", "7")), NOW, NOW)
    unchanged = {"etag": '"a"', "x-pypi-last-serial": "7"}
    assert fold(stored, *lines) == unchanged | mount
    assert fold(stored, *lines, rules=PAGE) == unchanged | page


@pytest.mark.parametrize(
    ("stored", "not_modified", "expected"),
    [
        pytest.param((TAG,), (), False, id="no validator: what was asked about"),
        pytest.param((TAG,), (TAG,), False, id="the same"),
        pytest.param((TAG,), (("ETag", '"b"'),), True, id="another"),
        pytest.param((TAG,), (("ETag", 'W/"a"'),), False, id="weak, corresponds"),
        pytest.param((TAG,), (("ETag", 'W/"b"'),), True, id="weak, another"),
        pytest.param((("ETag", 'W/"a"'),), (TAG,), True, id="strong, where a weak one is kept"),
        pytest.param((("ETag", 'W/"a"'),), (("ETag", 'W/"a"'),), False, id="both weak"),
        pytest.param((MODIFIED,), (TAG,), True, id="a tag, where none is kept"),
        pytest.param((MODIFIED,), (("ETag", "b"),), False, id="malformed: none"),
        pytest.param((MODIFIED,), (MODIFIED,), False, id="the same date"),
        pytest.param((MODIFIED,), (("Last-Modified", format_date(NOW)),), True, id="another date"),
        pytest.param((MODIFIED,), (("Last-Modified", "x"),), False, id="malformed date: none"),
        pytest.param((TAG,), (MODIFIED,), True, id="a date, where none is kept"),
        pytest.param((TAG, MODIFIED), (TAG, ("Last-Modified", format_date(NOW))), False, id="the tag decides"),
    ],
)
def test_contradicts(stored: Headers, not_modified: Headers, expected: bool) -> None:
    """RFC 9111 §4.3.4: which stored response a 304 means."""
    assert contradicts(Head(200, stored, NOW, NOW), Head(304, not_modified, NOW, NOW)) is expected


@pytest.mark.parametrize(
    ("newer", "request_headers", "expected"),
    [
        pytest.param(head("max-age=9", ("Vary", "a, B")), {}, True, id="as it was"),
        pytest.param(head("max-age=9", ("vary", "b"), ("Vary", "A")), {}, True, id="the same Vary, otherwise spelled"),
        pytest.param(head("max-age=9", ("Vary", "a")), {}, False, id="another Vary"),
        pytest.param(head("max-age=9", ("Vary", "a, b, *")), {}, False, id="Vary: *"),
        pytest.param(head("no-store", ("Vary", "a, b")), {}, False, id="no-store"),
        pytest.param(head("max-age=9", ("Vary", "a, b")), CREDENTIALS, False, id="credentials"),
        pytest.param(head("public", ("Vary", "a, b")), CREDENTIALS, True, id="credentials, for all"),
    ],
)
def test_remains(newer: Head, request_headers: dict[str, str], expected: bool) -> None:
    """After a 304 it is kept only where it might be stored as it is now, under the key it has. A page is, always."""
    stored = head("max-age=9", ("Vary", "A,B"))
    assert remains(newer, stored, MOUNT, request_headers) is expected
    assert remains(newer, stored, PAGE, request_headers)


REFUSED = UpstreamFailed("no connection", status=503)
STALE = entry(head("max-age=10", TAG, at=NOW - 20))
LONG_STALE = entry(head("max-age=10", TAG, at=NOW - 70))
GONE = entry(head("max-age=10", TAG, status=404, at=NOW - 20))
BROKEN = "upstream is overloaded or broken"


def renewed(stored: Entry, control: str, *, keep: bool = True) -> tuple[Entry, Head, Any]:
    """A row: a 304 with this Cache-Control."""
    not_modified = head(control, status=304)
    return stored, not_modified, Refresh("not modified", refreshed(stored.head, not_modified, MOUNT), keep)


@pytest.mark.parametrize(
    ("stored", "outcome", "expected"),
    [
        pytest.param(*renewed(STALE, "max-age=9"), id="304"),
        pytest.param(*renewed(GONE, "max-age=9"), id="304 of a 404"),
        pytest.param(*renewed(STALE, "no-store", keep=False), id="304 that forbids to store"),
        pytest.param(entry(head("max-age=10", at=NOW - 20)), head(status=304), Relay("not storable"),
                     id="304 that nobody asked for"),
        *(pytest.param(STALE, head("max-age=9", status=status), Fallback(BROKEN), id=f"{status} while stale")
          for status in (500, 502, 503, 504)),
        pytest.param(LONG_STALE, head("max-age=9", status=503), Keep("storable"), id="503 that may be stored"),
        pytest.param(LONG_STALE, head(status=503), Relay("not storable"), id="503"),
        pytest.param(STALE, head(status=501), Keep("storable"), id="501 is no such error"),
        pytest.param(STALE, head(status=429), Relay("not storable"), id="429 is none either"),
        pytest.param(GONE, head(status=503), Fallback(BROKEN), id="a stale 404 in place of an error"),
        pytest.param(GONE, REFUSED, Fallback("no connection"), id="or of none"),
        pytest.param(STALE, head(status=404), Keep("storable"), id="404"),
        pytest.param(STALE, head(status=403), Relay("not storable"), id="403 is an answer"),
        pytest.param(STALE, head("max-age=9", status=206), Relay("not storable"), id="206"),
        pytest.param(None, head("no-store"), Relay("not storable"), id="no-store"),
        pytest.param(None, REFUSED, Fail("no connection", 503, 2), id="nothing to fall back on"),
    ],
)  # fmt: skip
def test_after_upstream(stored: Entry | None, outcome: Head | UpstreamFailed, expected: Any) -> None:
    """Every status is an answer; an error of RFC 5861 is one where nothing may stand in for it."""
    assert after_upstream(asking(), stored, outcome, NOW, MOUNT) == expected


def test_only_answers_to_get_are_stored() -> None:
    """HEAD has no body."""
    assert after_upstream(asking("HEAD"), None, head("max-age=9"), NOW, MOUNT) == Relay("not storable")


def test_a_stale_404_is_served_offline() -> None:
    """A mount's 404 is an answer like any other; an index's ends with its time."""
    offline = Rules(offline=True, transparent=True)
    assert before_upstream(asking(), GONE, NOW, offline) == Serve("offline, stale by max-age", False, ttl=-10)


def test_credentials_get_what_is_for_all() -> None:
    """RFC 9111 §3.5."""
    request = asking(authorization="Basic x")
    assert before_upstream(request, entry(head("max-age=10", TAG)), NOW, MOUNT) == Fetch("nothing stored")
    shared = entry(head("max-age=10, must-revalidate", TAG))
    assert before_upstream(request, shared, NOW, MOUNT) == Serve("fresh by max-age", True, ttl=10)
