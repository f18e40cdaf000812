"""The two tables of decide.py, row by row under the same numbers, and what must hold of every row."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.decide import (
    SLOW,
    After,
    Before,
    Fail,
    Fallback,
    Fetch,
    Keep,
    Outcome,
    Pass,
    Refresh,
    Refuse,
    Relay,
    Revalidate,
    Serve,
    after_upstream,
    before_upstream,
    doubtful,
    failure,
    refusal,
    seconds_left,
)
from proxy.core.fields import format_date
from proxy.core.freshness import refreshed
from proxy.core.messages import Entry, Head, Headers, PageTarget, Request, Rules
from proxy.errors import MalformedPage, ProxyError, Refused, UpstreamFailed

NOW = 1_790_000_000.0
DAY = 86_400.0
LIFE = 600
ETAG = (("ETag", '"a"'),)
OLD_PIP = 'pip/23.2 {"ci":null}'


def asking(cache_control: str | None = None, **headers: str) -> Request:
    """A client's request for a page; keyword names are field names."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if cache_control is not None:
        fields["cache-control"] = cache_control
    return Request("GET", PageTarget("test", "six", "../../"), fields)


def head(status: int = 200, *lines: tuple[str, str], received: float = NOW) -> Head:
    """A response received without delay."""
    return Head(status, lines, received, received)


def entry(age: float, control: str = f"max-age={LIFE}", lines: Headers = ETAG, *, status: int = 200) -> Entry:
    """A page received ``age`` seconds ago."""
    stored = head(status, ("Cache-Control", control), *lines, received=NOW - age)
    return Entry("key", "test/six", "https://example.org/simple/six/", stored, "body", 4, "sha256")


FRESH = entry(60)
JUST_NOW = entry(5)
STALE = entry(LIFE + 20)
NO_VALIDATOR = entry(LIFE + 20, lines=())
GONE = entry(10, status=404)
GONE_LONG = entry(100, status=404)
CONDITION = {"If-None-Match": '"a"'}

DEFAULT = Rules()
OFFLINE = Rules(offline=True)
IGNORE = Rules(reload="ignore")
HONOUR = Rules(reload="honour")
BEHIND = Rules(stale_while_revalidate=30)

BEFORE = [
    # 1. an entry pinned by its hash -> Serve, whatever is asked
    pytest.param("1", asking("no-cache, no-store"), entry(10**9, "no-store"), Rules(immutable=True),
                 Serve("pinned by its hash", True), id="1-immutable"),
    pytest.param("1", asking(), FRESH, Rules(immutable=True, offline=True), Serve("pinned by its hash", True),
                 id="1-immutable-offline"),
    # 2. offline -> Serve whatever there is (no 404 past its time), else Refuse 503
    pytest.param("2", asking(), FRESH, OFFLINE, Serve("offline, fresh by max-age", True, ttl=540), id="2-fresh"),
    pytest.param("2", asking(), STALE, OFFLINE, Serve("offline, stale by max-age", False, ttl=-20), id="2-stale"),
    pytest.param("2", asking("no-cache, no-store, only-if-cached"), STALE, OFFLINE,
                 Serve("offline, stale by max-age", False, ttl=-20), id="2-whatever-is-asked"),
    pytest.param("2", asking(), entry(999, "no-cache"), OFFLINE,
                 Serve("offline, stale by no-cache", False, ttl=-999), id="2-no-cache"),
    pytest.param("2", asking(), GONE, OFFLINE,
                 Serve("offline, fresh by the memory of a missing page", True, ttl=50), id="2-404"),
    pytest.param("2", asking(), GONE_LONG, OFFLINE, Refuse("offline, and nothing is stored", 503),
                 id="2-404-past-its-time"),
    pytest.param("2", asking(), None, OFFLINE, Refuse("offline, and nothing is stored", 503), id="2-nothing"),
    # 3. only-if-cached -> Serve if fresh, else Refuse 504
    pytest.param("3", asking("only-if-cached"), FRESH, DEFAULT, Serve("fresh by max-age", True, ttl=540),
                 id="3-fresh"),
    pytest.param("3", asking("only-if-cached"), STALE, BEHIND,
                 Refuse("only-if-cached, and nothing fresh is here", 504), id="3-stale"),
    pytest.param("3", asking("only-if-cached, max-stale=60"), STALE, DEFAULT,
                 Serve("stale, and the client accepts that", False, ttl=-20), id="3-max-stale"),
    pytest.param("3", asking("only-if-cached, max-age=9"), FRESH, DEFAULT,
                 Refuse("only-if-cached, and nothing fresh is here", 504), id="3-too-old"),
    pytest.param("3", asking("only-if-cached"), None, DEFAULT,
                 Refuse("only-if-cached, and nothing fresh is here", 504), id="3-nothing"),
    # 4. request no-store, or a method that nothing stored can answer -> Pass
    pytest.param("4", asking("no-store"), FRESH, DEFAULT, Pass("the client's own answer, not for a cache"),
                 id="4-no-store"),
    pytest.param("4", replace(asking(), method="POST"), FRESH, DEFAULT, Pass("a method that no cache answers"),
                 id="4-method"),
    # 5. no entry, or one that the client's Authorization must not be answered with -> Fetch
    pytest.param("5", asking(authorization="Basic eA=="), FRESH, DEFAULT, Fetch("nothing stored"),
                 id="5-authorization"),
    pytest.param("6", asking(authorization="Basic eA=="), entry(60, f"public, max-age={LIFE}"), DEFAULT,
                 Serve("fresh by max-age", True, ttl=540), id="6-authorization-of-what-is-for-all"),
    pytest.param("5", asking(), None, DEFAULT, Fetch("nothing stored"), id="5-nothing"),
    pytest.param("5", asking(), None, Rules(immutable=True), Fetch("nothing stored"), id="5-immutable"),
    # 6. fresh for this request, or fresh and the reload rule overrules the client -> Serve
    pytest.param("6", asking(), FRESH, DEFAULT, Serve("fresh by max-age", True, ttl=540), id="6-fresh"),
    pytest.param("6", asking(), GONE, DEFAULT, Serve("fresh by the memory of a missing page", True, ttl=50),
                 id="6-404"),
    pytest.param("6", asking("max-stale=60"), STALE, DEFAULT,
                 Serve("stale, and the client accepts that", False, ttl=-20), id="6-max-stale"),
    pytest.param("6", asking("no-cache"), JUST_NOW, DEFAULT,
                 Serve("fresh, validated a moment ago", True, ttl=595), id="6-limited-no-cache"),
    pytest.param("6", asking("max-age=0"), JUST_NOW, DEFAULT,
                 Serve("fresh, validated a moment ago", True, ttl=595), id="6-limited-max-age"),
    pytest.param("6", asking(pragma="no-cache"), JUST_NOW, DEFAULT,
                 Serve("fresh, validated a moment ago", True, ttl=595), id="6-limited-pragma"),
    pytest.param("6", asking("max-age=0", user_agent=OLD_PIP), FRESH, DEFAULT,
                 Serve("fresh, and this pip always asks for newer", True, ttl=540), id="6-old-pip"),
    pytest.param("6", asking("max-age=0", user_agent="pip/26.1.2 {}"), FRESH, DEFAULT,
                 Serve("fresh, and this pip always asks for newer", True, ttl=540), id="6-last-old-pip"),
    pytest.param("6", asking("no-cache"), FRESH, IGNORE, Serve("fresh, reloads are ignored", True, ttl=540),
                 id="6-ignore"),
    pytest.param("6", asking(), entry(60, lines=()), HONOUR, Serve("fresh by max-age", True, ttl=540),
                 id="6-no-validator-needed"),
    # 7. inside stale-while-revalidate, no newer one asked for -> Serve, and refresh behind
    pytest.param("7", asking(), STALE, BEHIND,
                 Serve("stale, refreshing behind", False, refresh_behind=True, ttl=-20), id="7-setting"),
    pytest.param("7", asking(), entry(LIFE + 20, f"max-age={LIFE}, stale-while-revalidate=30"), DEFAULT,
                 Serve("stale, refreshing behind", False, refresh_behind=True, ttl=-20), id="7-directive"),
    pytest.param("7", asking("max-age=0", user_agent=OLD_PIP), STALE, BEHIND,
                 Serve("stale, refreshing behind", False, refresh_behind=True, ttl=-20), id="7-old-pip"),
    pytest.param("7", asking("no-cache"), STALE, Rules(stale_while_revalidate=30, reload="ignore"),
                 Serve("stale, refreshing behind", False, refresh_behind=True, ttl=-20), id="7-ignore"),
    # 8. it has a validator -> Revalidate
    pytest.param("8", asking(), STALE, DEFAULT, Revalidate("stale by max-age", CONDITION), id="8-stale"),
    pytest.param("8", asking(), entry(LIFE + 30), BEHIND, Revalidate("stale by max-age", CONDITION),
                 id="8-outside-the-window"),
    pytest.param("8", asking("no-cache"), STALE, BEHIND, Revalidate("stale by max-age", CONDITION),
                 id="8-newer-asked-for"),
    pytest.param("8", asking("max-age=9999"), STALE, BEHIND, Revalidate("stale by max-age", CONDITION),
                 id="8-max-age-takes-nothing-stale"),
    pytest.param("8", asking(pragma="no-cache"), STALE, BEHIND, Revalidate("stale by max-age", CONDITION),
                 id="8-pragma"),
    pytest.param("8", asking(), entry(LIFE + 20, f"max-age={LIFE}, must-revalidate"), BEHIND,
                 Revalidate("stale by max-age", CONDITION), id="8-must-revalidate"),
    pytest.param("8", asking(), entry(1, "no-cache"), BEHIND, Revalidate("stale by no-cache", CONDITION),
                 id="8-no-cache"),
    pytest.param("8", asking("no-cache"), entry(1, "no-cache"), DEFAULT,
                 Revalidate("stale by no-cache", CONDITION), id="8-no-cache-just-now"),
    pytest.param("8", asking(), GONE_LONG, BEHIND,
                 Revalidate("stale by the memory of a missing page", CONDITION), id="8-404"),
    pytest.param("8", asking("no-cache"), FRESH, DEFAULT,
                 Revalidate("reload asked for by the client", CONDITION), id="8-reload"),
    pytest.param("8", asking(pragma="no-cache"), FRESH, DEFAULT,
                 Revalidate("reload asked for by the client", CONDITION), id="8-reload-pragma"),
    pytest.param("8", asking("no-cache"), entry(10), DEFAULT,
                 Revalidate("reload asked for by the client", CONDITION), id="8-reload-after-the-interval"),
    pytest.param("8", asking("no-cache"), entry(-5), DEFAULT,
                 Revalidate("reload asked for by the client", CONDITION), id="8-reload-clock-back"),
    pytest.param("8", asking("no-cache"), JUST_NOW, HONOUR,
                 Revalidate("reload asked for by the client", CONDITION), id="8-honour"),
    pytest.param("8", asking("max-age=0", user_agent=OLD_PIP), FRESH, HONOUR,
                 Revalidate("reload asked for by the client", CONDITION), id="8-honour-old-pip"),
    pytest.param("8", asking("no-cache", user_agent=OLD_PIP), FRESH, DEFAULT,
                 Revalidate("reload asked for by the client", CONDITION), id="8-old-pip-no-cache"),
    pytest.param("8", asking("max-age=0, no-cache", user_agent=OLD_PIP), FRESH, DEFAULT,
                 Revalidate("reload asked for by the client", CONDITION), id="8-old-pip-not-bare"),
    pytest.param("8", asking("max-age=0", user_agent="pip/26.2 {}"), FRESH, DEFAULT,
                 Revalidate("reload asked for by the client", CONDITION), id="8-pip-26.2"),
    pytest.param("8", asking("max-age=0", user_agent="pip/100.0 {}"), FRESH, DEFAULT,
                 Revalidate("reload asked for by the client", CONDITION), id="8-pip-100"),
    pytest.param("8", asking("max-age=0", user_agent="uv/0.13"), FRESH, DEFAULT,
                 Revalidate("reload asked for by the client", CONDITION), id="8-not-pip"),
    pytest.param("8", asking("max-age=0", user_agent="x pip/23.2"), FRESH, DEFAULT,
                 Revalidate("reload asked for by the client", CONDITION), id="8-pip-not-first"),
    # 9. otherwise -> Fetch
    pytest.param("9", asking(), NO_VALIDATOR, DEFAULT, Fetch("stale by max-age, no validator"), id="9-stale"),
    pytest.param("9", asking("no-cache"), entry(60, lines=()), DEFAULT,
                 Fetch("reload asked for by the client, no validator"), id="9-reload"),
]  # fmt: skip


@pytest.mark.parametrize(("guard", "request_", "stored", "rules", "expected"), BEFORE)
def test_before_upstream(guard: str, request_: Request, stored: Entry | None, rules: Rules, expected: Before) -> None:
    """The first table: what a client's request leads to, given what is kept."""
    assert before_upstream(request_, stored, NOW, rules) == expected, f"guard {guard}"


REFUSED = UpstreamFailed("no connection", status=503)
PROTOCOL = UpstreamFailed("two lengths")
OLD = entry(LIFE + 7 * DAY)
MUST = entry(LIFE + 20, f"max-age={LIFE}, must-revalidate")
NOT_MODIFIED = head(304, ("Cache-Control", "max-age=9"))


def fail(because: str, status: int, retry_after: int = 2) -> Fail:
    """A Fail with the default Retry-After."""
    return Fail(because, status, retry_after)


BROKEN = "upstream is overloaded or broken"
ODD = "upstream answered out of turn"

SERIAL = (("X-PyPI-Last-Serial", "100"),)
COUNTED = entry(LIFE + 20, lines=SERIAL)


def serial(number: int | str, status: int = 200) -> Head:
    """A page of that serial."""
    return head(status, ("X-PyPI-Last-Serial", str(number)))


AFTER = [
    # 1. slow, entry usable -> Fallback
    pytest.param("1", STALE, SLOW, Fallback("upstream is slow"), id="1-stale"),
    pytest.param("1", FRESH, SLOW, Fallback("upstream is slow"), id="1-fresh"),
    pytest.param("1", entry(60, f"max-age={LIFE}, must-revalidate"), SLOW, Fallback("upstream is slow"),
                 id="1-fresh-must-revalidate"),
    # 2. slow -> Fail 503
    pytest.param("2", None, SLOW, fail("upstream is slow, nothing to fall back on", 503), id="2-nothing"),
    pytest.param("2", OLD, SLOW, fail("upstream is slow, nothing to fall back on", 503), id="2-beyond-the-cap"),
    pytest.param("2", MUST, SLOW, fail("upstream is slow, nothing to fall back on", 503), id="2-forbidden"),
    pytest.param("2", GONE, SLOW, fail("upstream is slow, nothing to fall back on", 503), id="2-404"),
    # 3. an error that is no refusal of access, entry usable -> Fallback
    pytest.param("3", STALE, REFUSED, Fallback("no connection"), id="3-unreachable"),
    pytest.param("3", STALE, PROTOCOL, Fallback("two lengths"), id="3-protocol"),
    pytest.param("3", STALE, MalformedPage("no page"), Fallback("no page"), id="3-malformed"),
    pytest.param("3", entry(LIFE + 7 * DAY - 1), REFUSED, Fallback("no connection"), id="3-last-second"),
    pytest.param("3", entry(LIFE + 20, f"max-age={LIFE}, stale-if-error=0"), REFUSED, Fallback("no connection"),
                 id="3-stale-if-error-cannot-shorten"),
    # 4. an error -> Fail with its own 502 or 503
    pytest.param("4", None, REFUSED, fail("no connection", 503), id="4-unreachable"),
    pytest.param("4", None, PROTOCOL, fail("two lengths", 502), id="4-protocol"),
    pytest.param("4", OLD, REFUSED, fail("no connection", 503), id="4-beyond-the-cap"),
    pytest.param("4", MUST, REFUSED, fail("no connection", 503), id="4-forbidden"),
    pytest.param("4", entry(LIFE + 20, f"s-maxage={LIFE}"), REFUSED, fail("no connection", 503), id="4-s-maxage"),
    pytest.param("4", entry(1, "no-cache"), REFUSED, fail("no connection", 503), id="4-no-cache"),
    pytest.param("4", GONE, REFUSED, fail("no connection", 503), id="4-fresh-404"),
    pytest.param("4", STALE, UpstreamFailed("access", upstream_status=403), fail("access", 502), id="4-access"),
    pytest.param("4", None, UpstreamFailed("x", status=504), fail("x", 502), id="4-never-504"),
    pytest.param("4", None, UpstreamFailed("x", status=404), fail("x", 502), id="4-never-404"),
    pytest.param("4", None, UpstreamFailed("x", status=503, retry_after=3600), fail("x", 503, 10), id="4-hours"),
    pytest.param("4", None, UpstreamFailed("x", status=503, retry_after=7), fail("x", 503, 7), id="4-seconds"),
    pytest.param("4", None, UpstreamFailed("x", status=503, retry_after=0), fail("x", 503, 1), id="4-at-once"),
    # 5. 304 to a condition of ours -> Refresh
    pytest.param("5", STALE, NOT_MODIFIED, Refresh("not modified", refreshed(STALE.head, NOT_MODIFIED, Rules())),
                 id="5-304"),
    pytest.param("5", OLD, NOT_MODIFIED, Refresh("not modified", refreshed(OLD.head, NOT_MODIFIED, Rules())),
                 id="5-old"),
    # 6. 404, 410 -> Keep for a short time
    pytest.param("6", None, head(404), Keep("missing upstream", negative=True), id="6-404"),
    pytest.param("6", STALE, head(410), Keep("missing upstream", negative=True), id="6-410"),
    pytest.param("6", FRESH, head(404, ("Cache-Control", "no-store")), Keep("missing upstream", negative=True),
                 id="6-no-store"),
    # 7. 200 whose serial is lower than the entry's, entry usable -> Fallback
    pytest.param("7", COUNTED, serial(99), Fallback("an older page than the one here"), id="7-lower"),
    pytest.param("7", COUNTED, serial("099"), Fallback("an older page than the one here"), id="7-zeros"),
    pytest.param("7", entry(60, lines=SERIAL), serial(0), Fallback("an older page than the one here"), id="7-fresh"),
    pytest.param("7", COUNTED, head(200, ("Cache-Control", "no-store"), ("x-pypi-last-serial", "99")),
                 Fallback("an older page than the one here"), id="7-not-storable"),
    # 8. 200 and storable -> Keep
    pytest.param("8", COUNTED, serial(100), Keep("storable"), id="8-same-serial"),
    pytest.param("8", COUNTED, serial(101), Keep("storable"), id="8-higher-serial"),
    pytest.param("8", COUNTED, head(), Keep("storable"), id="8-no-serial"),
    pytest.param("8", COUNTED, serial(""), Keep("storable"), id="8-empty-serial"),
    pytest.param("8", COUNTED, serial("-1"), Keep("storable"), id="8-negative-serial"),
    pytest.param("8", COUNTED, serial("\u0661"), Keep("storable"), id="8-foreign-digits"),
    pytest.param("8", COUNTED, serial("9" * 19), Keep("storable"), id="8-endless-serial"),
    pytest.param("8", COUNTED, head(200, ("X-PyPI-Last-Serial", "9"), ("X-PyPI-Last-Serial", "9")), Keep("storable"),
                 id="8-two-serials"),
    pytest.param("8", STALE, serial(1), Keep("storable"), id="8-first-serial"),
    pytest.param("8", None, serial(1), Keep("storable"), id="8-nothing-stored"),
    pytest.param("8", entry(LIFE + 7 * DAY, lines=SERIAL), serial(1), Keep("storable"), id="8-lower-past-the-cap"),
    pytest.param("8", entry(LIFE + 20, f"max-age={LIFE}, must-revalidate", SERIAL), serial(1), Keep("storable"),
                 id="8-lower-and-no-stale-ones"),
    pytest.param("8", entry(10, lines=SERIAL, status=404), serial(1), Keep("storable"), id="8-lower-than-a-404"),
    pytest.param("8", None, head(), Keep("storable"), id="8-bare"),
    pytest.param("8", STALE, head(200, ("Cache-Control", "no-cache")), Keep("storable"), id="8-no-cache"),
    # 9. 200 -> Relay
    pytest.param("9", None, head(200, ("Cache-Control", "no-store")), Relay("not storable"), id="9-no-store"),
    pytest.param("9", STALE, head(200, ("Cache-Control", "private")), Relay("not storable"), id="9-private"),
    # 10. 401, 403, 407 -> Fail 502, also with an entry
    pytest.param("10", STALE, head(401), fail("upstream refuses access", 502), id="10-401"),
    pytest.param("10", FRESH, head(403), fail("upstream refuses access", 502), id="10-403"),
    pytest.param("10", None, head(407), fail("upstream refuses access", 502), id="10-407"),
    # 11. entry usable -> Fallback
    pytest.param("11", STALE, head(500), Fallback(BROKEN), id="11-500"),
    pytest.param("11", STALE, head(503), Fallback(BROKEN), id="11-503"),
    pytest.param("11", STALE, head(429), Fallback(BROKEN), id="11-429"),
    pytest.param("11", STALE, head(302), Fallback(ODD), id="11-302"),
    pytest.param("11", STALE, head(206), Fallback(ODD), id="11-206"),
    pytest.param("11", NO_VALIDATOR, head(304), Fallback(ODD), id="11-304-never-asked-for"),
    # 12. 5xx, 429 -> Fail 503
    pytest.param("12", None, head(500), fail(BROKEN, 503), id="12-500"),
    pytest.param("12", None, head(504), fail(BROKEN, 503), id="12-504"),
    pytest.param("12", None, head(599), fail(BROKEN, 503), id="12-599"),
    pytest.param("12", MUST, head(503), fail(BROKEN, 503), id="12-forbidden"),
    pytest.param("12", GONE, head(503), fail(BROKEN, 503), id="12-fresh-404"),
    pytest.param("12", None, head(429, ("Retry-After", "5")), fail(BROKEN, 503, 5), id="12-429-seconds"),
    pytest.param("12", None, head(429, ("Retry-After", "3600")), fail(BROKEN, 503, 10), id="12-429-hour"),
    pytest.param("12", None, head(429, ("Retry-After", "0")), fail(BROKEN, 503, 1), id="12-429-at-once"),
    pytest.param("12", None, head(503, ("Retry-After", format_date(NOW + 4))), fail(BROKEN, 503, 4), id="12-date"),
    pytest.param("12", None, head(503, ("Retry-After", format_date(NOW - 4))), fail(BROKEN, 503, 1), id="12-past"),
    pytest.param("12", None, head(503, ("Retry-After", "soon")), fail(BROKEN, 503), id="12-malformed"),
    pytest.param("12", None, head(503, ("Retry-After", "1.5")), fail(BROKEN, 503), id="12-no-integer"),
    # 13. anything else -> Fail 502
    pytest.param("13", None, head(304), fail(ODD, 502), id="13-304"),
    pytest.param("13", None, head(206), fail(ODD, 502), id="13-206"),
    pytest.param("13", None, head(204), fail(ODD, 502), id="13-204"),
    pytest.param("13", None, head(301), fail(ODD, 502), id="13-301"),
    pytest.param("13", None, head(400), fail(ODD, 502), id="13-400"),
    pytest.param("13", OLD, head(451), fail(ODD, 502), id="13-451"),
    pytest.param("13", None, head(600), fail(ODD, 502), id="13-600"),
]  # fmt: skip


@pytest.mark.parametrize(("guard", "stored", "outcome", "expected"), AFTER)
def test_after_upstream(guard: str, stored: Entry | None, outcome: Outcome, expected: After) -> None:
    """The second table: what an upstream's answer, failure or silence leads to."""
    assert after_upstream(asking(), stored, outcome, NOW, DEFAULT) == expected, f"guard {guard}"


def test_immutable_files_are_kept_whatever_their_headers() -> None:
    """Some upstreams say no-store on wheels of 2 GB."""
    no_store = head(200, ("Cache-Control", "no-store"))
    assert after_upstream(asking(), None, no_store, NOW, Rules(immutable=True)) == Keep("storable")


def test_no_window_no_fallback() -> None:
    """``stale_if_error = 0`` means what it says, and only a fresh page is left."""
    rules = Rules(stale_if_error=0)
    assert after_upstream(asking(), entry(LIFE), REFUSED, NOW, rules) == fail("no connection", 503)
    assert after_upstream(asking(), FRESH, REFUSED, NOW, rules) == Fallback("no connection")


@pytest.mark.parametrize(
    ("stored", "outcome", "expected"),
    [
        (entry(5), head(404), True), (entry(599), head(410), True), (entry(0), head(404), True),
        (entry(600), head(404), True), (entry(3600), head(404), False), (entry(-1), head(404), False),
        (None, head(404), False), (GONE, head(404), False), (STALE, head(200), False), (STALE, head(304), False),
        (STALE, head(503), False),
        (STALE, REFUSED, False), (STALE, SLOW, False),
        (COUNTED, serial(101, 304), True), (COUNTED, serial(100, 304), False), (COUNTED, serial(99, 304), False),
        (COUNTED, head(304), False),
    ],
)  # fmt: skip
def test_doubtful(stored: Entry | None, outcome: Outcome, expected: bool) -> None:
    """A 404 for a page that was good lately is asked about once more, and a 304 that names a higher serial; nothing
    else is."""
    assert doubtful(stored, outcome, NOW) is expected


@pytest.mark.parametrize(
    ("refuse", "kind", "outcome", "retry_after"),
    [
        (Refuse("offline, and nothing is stored", 503), ProxyError, "error", 2),
        (Refuse("only-if-cached, and nothing fresh is here", 504), Refused, "refused", None),
    ],
)
def test_refusal(refuse: Refuse, kind: type[ProxyError], outcome: str, retry_after: int | None) -> None:
    """Nobody asked an upstream, so it is none's fault: offline is our own wish, only-if-cached the client's."""
    error = refusal(refuse)
    assert type(error) is kind
    assert (error.because, error.status, error.outcome) == (refuse.because, refuse.status, outcome)
    assert error.retry_after == retry_after


@pytest.mark.parametrize("upstream_status", [None, 429])
def test_failure(upstream_status: int | None) -> None:
    """The upstream's fault, with the words, the status and the Retry-After that were decided."""
    error = failure(fail(BROKEN, 503, 7), upstream_status)
    assert type(error) is UpstreamFailed
    assert (error.because, error.status, error.retry_after) == (BROKEN, 503, 7)
    assert error.upstream_status == upstream_status


@pytest.mark.parametrize(
    ("stored", "left"),
    [
        (FRESH, LIFE - 60), (entry(LIFE), 0), (STALE, -20), (OLD, -7 * DAY), (GONE, 50), (GONE_LONG, -40),
        (entry(9, "no-cache"), -9),
    ],
)  # fmt: skip
def test_seconds_left(stored: Entry, left: int) -> None:
    """RFC 9211 §2.5: a ttl may be negative, which tells for how long a response has been stale."""
    assert seconds_left(stored, NOW, DEFAULT) == left


def test_an_entry_from_the_future_is_asked_about_but_not_lost() -> None:
    """After a clock that went back by years the page is revalidated, and still there when upstream is gone."""
    future = entry(-1000 * DAY)
    assert before_upstream(asking(), future, NOW, DEFAULT) == Revalidate("stale by a clock that went back", CONDITION)
    assert after_upstream(asking(), future, REFUSED, NOW, DEFAULT) == Fallback("no connection")


ENTRIES = st.one_of(
    st.none(),
    st.builds(
        entry,
        st.floats(-2 * DAY, 10 * DAY),
        st.sampled_from(["", "max-age=600", "no-cache", "s-maxage=60", "must-revalidate", "stale-while-revalidate=9"]),
        st.sampled_from([(), ETAG]),
        status=st.sampled_from([200, 404, 410]),
    ),
)
OUTCOMES = st.one_of(
    st.just(SLOW),
    st.builds(UpstreamFailed, st.just("x"), status=st.integers(400, 599), retry_after=st.integers(-9, 99999)),
    st.builds(head, st.integers(100, 999), st.tuples(st.just("Retry-After"), st.text(max_size=9))),
)
REQUESTS = st.builds(
    asking,
    st.one_of(st.none(), st.sampled_from(["no-cache", "max-age=0", "max-stale", "only-if-cached", "min-fresh=5"])),
    user_agent=st.sampled_from([OLD_PIP, "uv/0.13", "pip/"]),
)
RULES = st.builds(
    Rules,
    reload=st.sampled_from(["limited", "ignore", "honour"]),
    offline=st.booleans(),
    immutable=st.booleans(),
    stale_while_revalidate=st.sampled_from([0.0, 60.0]),
)


@settings(deadline=None)
@given(REQUESTS, ENTRIES, RULES)
def test_every_request_has_an_answer(request_: Request, stored: Entry | None, rules: Rules) -> None:
    """The union is closed; only what is kept is served, and nothing asks upstream while offline."""
    before = before_upstream(request_, stored, NOW, rules)
    assert before.because
    match before:
        case Serve():
            assert stored is not None
        case Fetch() | Revalidate() | Pass():
            assert not rules.offline
        case Refuse():
            assert before.status in (503, 504)
        case _:
            assert_never(before)


@settings(deadline=None)
@given(ENTRIES, OUTCOMES, RULES)
def test_every_outcome_has_an_answer(stored: Entry | None, outcome: Outcome, rules: Rules) -> None:
    """The union is closed; no failure looks like "no such project", and Retry-After never lets pip sleep."""
    after = after_upstream(asking(), stored, outcome, NOW, rules)
    assert after.because
    match after:
        case Keep(negative=True):
            assert isinstance(outcome, Head)
            assert outcome.status in (404, 410)
        case Keep() | Relay():
            assert isinstance(outcome, Head)
            assert outcome.status == 200
        case Refresh():
            assert stored is not None
        case Fallback():
            assert stored is not None
            assert stored.head.status == 200
        case Fail():
            assert after.status in (502, 503)
            assert after.retry_after is not None
            assert 1 <= after.retry_after <= 10
        case _:
            assert_never(after)
