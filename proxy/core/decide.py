"""The two questions of the house: what to do before upstream is asked, and what to make of its answer.

Two ordered tables, first match wins. The answers are closed unions: match them to the end with
``assert_never``. ``because`` is one phrase of our own; it reaches the log, ``Cache-Status`` and the explain
endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from proxy.core.fields import directives, parse_retry_after
from proxy.core.freshness import Freshness, assess, grace, refreshed, remains, shareable, storable, validators
from proxy.core.lifetime import NEGATIVE, older, read
from proxy.core.messages import Entry, Head, Request, Rules
from proxy.core.wishes import reload_ignored, wishes_of
from proxy.errors import ProxyError, Refused, UpstreamFailed

# pip obeys a Retry-After of hours by sleeping for hours: whole seconds, small ones.
RETRY_AFTER_DEFAULT = 2
RETRY_AFTER_MOST = 10
ACCESS_REFUSED = (401, 403, 407)
ANSWERED = ("GET", "HEAD")
"""Methods that a stored answer to a GET can answer."""
# RFC 5861 §4: "an error is any situation that would result in a 500, 502, 503, or 504".
ERRORS = (500, 502, 503, 504)
_LATELY = 3600.0  # longer than a page of PyPI is fresh: what is looked at again is that old


@dataclass(frozen=True, slots=True)
class Serve:
    """Answer from the entry. ``ttl`` is the life left in whole seconds, negative once stale, None when
    endless; with ``refresh_behind`` a revalidation is started that nobody waits for."""

    because: str
    fresh: bool
    refresh_behind: bool = False
    ttl: int | None = None


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask upstream for the whole."""

    because: str


@dataclass(frozen=True, slots=True)
class Revalidate:
    """Ask upstream with these conditions."""

    because: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pass:
    """Ask upstream as if there were no cache, and keep nothing."""

    because: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with this status, upstream is not asked."""

    because: str
    status: int


Before = Serve | Fetch | Revalidate | Pass | Refuse


@dataclass(frozen=True, slots=True)
class Keep:
    """Store the response and answer with it; ``negative``: a missing page, remembered for a short time."""

    because: str
    negative: bool = False


@dataclass(frozen=True, slots=True)
class Refresh:
    """The stored body is still the one: put ``head`` over it and answer from it; without ``keep`` that is the last
    answer it gives."""

    because: str
    head: Head
    keep: bool = True


@dataclass(frozen=True, slots=True)
class Fallback:
    """Answer from the entry, whatever upstream did."""

    because: str


@dataclass(frozen=True, slots=True)
class Relay:
    """Answer with the response, keep nothing of it."""

    because: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Nothing to answer with: ``status`` is 502 or 503, ``retry_after`` whole seconds, here always 1 to 10."""

    because: str
    status: int
    retry_after: int | None


After = Keep | Refresh | Fallback | Relay | Fail


@dataclass(frozen=True, slots=True)
class Slow:
    """No answer yet, after ``rules.stale_after`` or any longer wait."""


def refusal(refuse: Refuse) -> ProxyError:
    """What a client is told when no upstream is asked: its own wish (only-if-cached), or ours (offline)."""
    if refuse.status == 504:
        return Refused(refuse.because, status=504)
    return ProxyError(refuse.because, status=refuse.status, retry_after=RETRY_AFTER_DEFAULT)


def failure(fail: Fail, upstream_status: int | None = None) -> UpstreamFailed:
    """What a client is told when the upstream gave nothing to answer with."""
    return UpstreamFailed(
        fail.because, status=fail.status, retry_after=fail.retry_after, upstream_status=upstream_status
    )


SLOW: Final = Slow()
Outcome = Head | UpstreamFailed | Slow


def before_upstream(request: Request, entry: Entry | None, now: float, rules: Rules) -> Before:
    """What to do with a request, given what is kept.

    1. an entry pinned by its hash -> Serve, whatever is asked
    2. offline -> Serve whatever there is (no 404 past its time), else Refuse 503
    3. only-if-cached -> Serve if fresh, else Refuse 504 (RFC 9111 §5.2.1.7)
    4. request no-store, or a method that nothing stored can answer -> Pass (both come from mounts alone)
    5. no entry, or one that a client with Authorization is not answered with (``may_answer``) -> Fetch
    6. fresh for this request, or fresh and the reload rule overrules the client -> Serve
    7. inside stale-while-revalidate (RFC 5861 §3), no newer one asked for -> Serve, and refresh behind
    8. it has a validator -> Revalidate
    9. otherwise -> Fetch
    """
    if rules.immutable and entry is not None:
        return Serve("pinned by its hash", True)
    if request.method not in ANSWERED or not may_answer(request, entry):
        entry = None
    wishes = directives(request.headers.get("cache-control"))
    if rules.offline:
        return _serve_offline(entry, now, rules)
    served = None if entry is None else _serve_fresh(request, entry, now, rules)
    if "only-if-cached" in wishes:
        return served or Refuse("only-if-cached, and nothing fresh is here", 504)
    if "no-store" in wishes:
        return Pass("the client's own answer, not for a cache")
    if request.method not in ANSWERED:
        return Pass("a method that no cache answers")
    if entry is None:
        return Fetch("nothing stored")
    if served is not None:
        return served
    own = assess({}, entry.head, now, rules)
    if _behind(request, entry, own, now, rules):
        return Serve("stale, refreshing behind", False, refresh_behind=True, ttl=_left(own))
    because = "reload asked for by the client" if own.fresh else own.because
    conditions = validators(entry.head)
    return Revalidate(because, conditions) if conditions else Fetch(f"{because}, no validator")


def after_upstream(request: Request, entry: Entry | None, outcome: Outcome, now: float, rules: Rules) -> After:
    """What to make of the outcome. An entry is *usable* when it is fresh, or stale inside stale-if-error and
    not forbidden to be served so; a remembered 404 never is: failure is never 404.

    1. slow, entry usable -> Fallback
    2. slow -> Fail 503 (at ``stale_after`` this means: wait on)
    3. an error that is no refusal of access, entry usable -> Fallback
    4. an error -> Fail with its own 502 or 503
    5. 304 to a condition of ours -> Refresh
    of a mount: an error of RFC 5861, entry usable -> Fallback; storable -> Keep; any other -> Relay. Of an index:
    6. 404, 410 -> Keep for a short time
    7. 200 whose serial is lower than the entry's, entry usable -> Fallback: a mirror that lags, a page come back
    8. 200 and storable -> Keep
    9. 200 -> Relay
    10. 401, 403, 407 -> Fail 502, also with an entry: a refusal of access is an answer
    11. entry usable -> Fallback
    12. 5xx, 429 -> Fail 503
    13. anything else (304 without a condition, 206, 3xx, other 4xx) -> Fail 502
    """
    usable = entry is not None and _usable(entry, now, rules)
    if isinstance(outcome, Slow):
        if usable:
            return Fallback("upstream is slow")
        return Fail("upstream is slow, nothing to fall back on", 503, RETRY_AFTER_DEFAULT)
    if isinstance(outcome, UpstreamFailed):
        if usable and outcome.upstream_status not in ACCESS_REFUSED:
            return Fallback(outcome.because)
        status = outcome.status if outcome.status in (502, 503) else 502
        return Fail(outcome.because, status, _polite(outcome.retry_after))
    if outcome.status == 304 and entry is not None and validators(entry.head):
        head = refreshed(entry.head, outcome, rules)
        return Refresh("not modified", head, keep=remains(head, entry.head, rules, request.headers))
    if rules.transparent:
        return _as_it_is(request, outcome, rules, usable=usable)
    if outcome.status in NEGATIVE:
        return Keep("missing upstream", negative=True)
    if outcome.status == 200 and entry is not None and usable and older(outcome, entry.head):
        return Fallback("an older page than the one here")
    if outcome.status == 200:
        return Keep("storable") if storable(outcome, rules) else Relay("not storable")
    if outcome.status in ACCESS_REFUSED:
        return Fail("upstream refuses access", 502, RETRY_AFTER_DEFAULT)
    busy = outcome.status == 429 or 500 <= outcome.status <= 599
    because = "upstream is overloaded or broken" if busy else "upstream answered out of turn"
    if usable:
        return Fallback(because)
    return Fail(because, 503 if busy else 502, _polite(parse_retry_after(outcome.header("retry-after"), now)))


def _as_it_is(request: Request, outcome: Head, rules: Rules, *, usable: bool) -> Fallback | Keep | Relay:
    if usable and outcome.status in ERRORS:
        return Fallback("upstream is overloaded or broken")
    if request.method == "GET" and storable(outcome, rules, request.headers):
        return Keep("storable")
    return Relay("not storable")


def doubtful(entry: Entry | None, outcome: Outcome, now: float) -> bool:
    """Is it to be asked once more, without a condition? A 404 is, for a page that was good lately (one node of
    many that lags), and a 304 with a higher serial than that page: two share an ETag. The second answer is believed."""
    if entry is None or entry.head.status in NEGATIVE or not isinstance(outcome, Head):
        return False
    if outcome.status == 304:
        return older(entry.head, outcome)
    return outcome.status in NEGATIVE and 0 <= now - entry.head.received_at < _LATELY


def may_answer(request: Request, entry: Entry | None) -> bool:
    """What was said to everybody is not what somebody is told who says who he is, unless it says so: stricter than RFC
    9111 §3.5, which forbids the reverse only."""
    return entry is None or "authorization" not in request.headers or shareable(read(entry.head))


def _serve_offline(entry: Entry | None, now: float, rules: Rules) -> Serve | Refuse:
    if entry is not None:
        own = assess({}, entry.head, now, rules)
        if own.fresh or rules.transparent or entry.head.status not in NEGATIVE:
            return Serve(f"offline, {own.because}", own.fresh, ttl=_left(own))
    return Refuse("offline, and nothing is stored", 503)


def _serve_fresh(request: Request, entry: Entry, now: float, rules: Rules) -> Serve | None:
    """Guard 6: fresh for this request; or fresh, and the client's reload is not heeded."""
    asked = assess(request.headers, entry.head, now, rules)
    if asked.fresh:
        return Serve(asked.because, asked.age < asked.lifetime, ttl=_left(asked))
    if asked.age < asked.lifetime and (ignored := reload_ignored(request, entry.head, now, rules)) is not None:
        return Serve(ignored, True, ttl=_left(asked))
    return None


def _behind(request: Request, entry: Entry, own: Freshness, now: float, rules: Rules) -> bool:
    """Guard 7. RFC 9111 §5.2.1.1: who sends max-age "does not wish to receive a stale response"; so for
    no-cache and min-fresh, and all of them only as far as the reload rule heeds them."""
    if own.fresh or own.age - own.lifetime >= grace(entry.head, rules).while_revalidate:
        return False
    if reload_ignored(request, entry.head, now, rules) is not None:
        return True
    return wishes_of(request.headers).keys().isdisjoint({"no-cache", "max-age", "min-fresh"})


def _usable(entry: Entry, now: float, rules: Rules) -> bool:
    if entry.head.status in NEGATIVE and not rules.transparent:
        return False
    own = assess({}, entry.head, now, rules)
    return own.fresh or own.age - own.lifetime < grace(entry.head, rules).if_error


def seconds_left(entry: Entry, now: float, rules: Rules) -> int | None:
    """How long an entry is still fresh; negative: how long it has not been."""
    return _left(assess({}, entry.head, now, rules))


def _left(freshness: Freshness) -> int:
    return int(freshness.lifetime - freshness.age)


def _polite(retry_after: int | None) -> int:
    return RETRY_AFTER_DEFAULT if retry_after is None else min(max(1, retry_after), RETRY_AFTER_MOST)
