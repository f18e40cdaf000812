"""How old is it, how long may it live, may it be kept: RFC 9111, with CacheControl as the judge.

CacheControl is a private cache for requests; here its ``CacheController`` only judges. Each question gets its
own controller over a cache with one slot, and in that slot no stored response but a *view* of one: what RFC
9111 §4.2 says of the real head, put into the three fields the controller reads. The view is thrown away, only
the real head is ever stored.

The controller reads a clock of its own (``max(0, time.time() - Date)``); nothing in ``core`` may. So every
view bears one Date that no clock reaches, which makes the controller's own idea of the age zero, always; the
age, computed here from the ``now`` that is passed in, travels in the one field the controller adds to that
zero: ``min-fresh``. It then compares Expires - Date with exactly that. Nothing is patched, and the same
question has the same answer in every year before 5000.

Times are seconds since the epoch, durations seconds; names in ``request_headers`` are lower-case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cachecontrol.cache import BaseCache
from cachecontrol.controller import CacheController
from cachecontrol.heuristics import BaseHeuristic
from cachecontrol.serialize import Serializer

from proxy.core.fields import (
    entity_tag,
    format_date,
    opaque_tag,
    parse_date,
    parse_seconds,
)
from proxy.core.lifetime import SERIAL, UNSTORABLE, Said, current_age, lifetime, read, serial_of
from proxy.core.messages import Head, Headers, Rules, kept_head
from proxy.core.wishes import max_stale, shortening, wishes_of

NO_CLOCK_REACHES = 95_617_584_000  # 5000-01-01T00:00:00Z; with any life added still a four-digit year

# RFC 9111 §3: "the response status code is final" and understood here; 206 never (§3.3 is not implemented).
STORABLE = (200, 203, 300, 301, 308, 404, 410)
# RFC 9111 §3.1 and RFC 9110 §7.6.1. Set-Cookie is here because its lines cannot be combined into one.
NOT_UPDATED = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@dataclass(frozen=True, slots=True)
class Freshness:
    """The verdict for one request. ``age`` is the current age (RFC 9111 §4.2.3) and ``lifetime`` the freshness
    lifetime (§4.2.1), whole seconds, infinite for what is immutable. ``fresh``: may be served to this request
    without asking upstream; with ``age >= lifetime`` that is a stale response which the client's max-stale
    accepts."""

    age: float
    lifetime: float
    fresh: bool
    because: str


@dataclass(frozen=True, slots=True)
class Grace:
    """For how many seconds beyond its lifetime a response may be served: while it is being revalidated, and
    when the upstream fails (RFC 5861). Both are 0 when its own head forbids stale answers."""

    while_revalidate: float
    if_error: float


@dataclass(slots=True)
class View:
    """A response as the controller looks at it."""

    status: int
    headers: Any
    version: int = 11
    reason: str = ""
    decode_content: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A request as the controller looks at it; with one slot every URL will do."""

    headers: Mapping[str, str]
    url: str = "http://slot/"


class Slot(BaseCache):
    """A cache of one. ``delete`` is only noted: the controller deletes stale responses without an ETag while
    it is asked about them, and that would be the last good copy."""

    def __init__(self, kept: Any = None) -> None:
        self.kept: Any = kept
        self.deleted = False

    def get(self, key: str) -> Any:
        return self.kept

    def set(self, key: str, value: Any, expires: Any = None) -> None:
        self.kept = value

    def delete(self, key: str) -> None:
        self.deleted = True


class PassThrough(Serializer):
    """Views go in and out as they are."""

    def dumps(self, request: Any, response: Any, body: bytes | None = None) -> Any:
        return response

    def loads(self, request: Any, data: Any, body_file: Any = None) -> Any:
        return data


class StatedLife(BaseHeuristic):
    """CacheControl's own extension point: says a lifetime in the three fields the controller reads."""

    def __init__(self, seconds: int, *, keep: bool) -> None:
        self.seconds = seconds
        self.keep = keep

    def update_headers(self, response: Any) -> dict[str, str]:
        return {
            "date": format_date(NO_CLOCK_REACHES),
            "expires": format_date(NO_CLOCK_REACHES + self.seconds),
            "cache-control": "public" if self.keep else "no-store",
        }

    def warning(self, response: Any) -> None:
        """RFC 9111 §5.5: Warning is obsolete."""
        return


class Lines:
    """A header list that the controller can update without losing its order and spelling."""

    def __init__(self, lines: Headers) -> None:
        self.lines = lines

    def update(self, changes: Mapping[str, str]) -> None:
        changed = {name.lower() for name in changes}
        kept = tuple(line for line in self.lines if line[0].lower() not in changed)
        self.lines = (*kept, *changes.items())


def assess(request_headers: Mapping[str, str], head: Head, now: float, rules: Rules) -> Freshness:
    """May a stored response be served to this request at ``now`` without asking upstream?

    Request directives ask for more: max-age and min-fresh shorten, no-cache refuses (RFC 9111 §5.2.1);
    max-stale alone lengthens, and not beyond what §4.2.4 lets us serve. no-store and only-if-cached are
    no matter of freshness and ignored here.
    """
    said = read(head)
    age = int(current_age(said, now))
    if rules.immutable:
        return Freshness(float(age), math.inf, True, "pinned by its hash")
    life, reason = lifetime(said, now, rules)
    wishes = wishes_of(request_headers)
    allowance = life if said.never_stale() else life + max_stale(wishes)
    fresh = _judged(head, allowance, shortening(wishes, age, allowance))
    if age < life:
        because = f"fresh by {reason}" if fresh else "fresh, but the client wants it newer"
    else:
        because = "stale, and the client accepts that" if fresh else f"stale by {reason}"
    return Freshness(float(age), float(life), fresh, because)


# The same head is judged again and again while it is warm, with an age that changes once a second.
@lru_cache(maxsize=1024)
def _judged(head: Head, allowance: int, wanted: str) -> bool:
    question: Any = Question({"cache-control": wanted})
    view = StatedLife(allowance, keep=True).apply(_view(read(head)))
    return _controller(Slot(view)).cached_request(question) is not False


def grace(head: Head, rules: Rules) -> Grace:
    """How long beyond its lifetime may it be served? The operator's window holds for failures, an upstream's
    shorter stale-if-error included: the house keeps the last good page. RFC 5861's stale-while-revalidate of
    the response goes before the setting. What forbids stale answers (RFC 9111 §4.2.4) forbids both."""
    said = read(head)
    if said.never_stale():
        return Grace(0.0, 0.0)
    name = "stale-while-revalidate"
    behind = parse_seconds(said.control[name]) or 0 if name in said.control else rules.stale_while_revalidate
    return Grace(float(behind), rules.stale_if_error)


def storable(head: Head, rules: Rules) -> bool:
    """May it be stored (RFC 9111 §3)? For a shared cache, and requests without credentials.

    Immutable bodies prove themselves by their hash: only the status counts. Explicit freshness or a validator
    is not asked for, every status here is heuristically cacheable (RFC 9110 §15.1).
    """
    if rules.immutable:
        return head.status == 200
    said = read(head)
    view = StatedLife(0, keep=not any(name in said.control for name in UNSTORABLE)).apply(_view(said))
    slot = Slot()
    question: Any = Question({})
    _controller(slot).cache_response(question, view)
    return slot.kept is not None


def validators(head: Head) -> dict[str, str]:
    """The conditions of a revalidation (RFC 9111 §4.3.1); empty when there is no well-formed validator."""
    question: Any = Question({})
    return _controller(Slot(_view(read(head)))).conditional_headers(question)


def refreshed(head: Head, not_modified: Head) -> Head:
    """The stored head with a 304 folded in (RFC 9111 §3.2, §4.3.4), and the 304's times.

    The fields that say what the stored body is stay its own: Content-*, and the validators unless the 304
    names the same ETag; a serial is not lowered. (Taking a foreign ETag would be for ever: the next question
    would ask for that version, the next 304 confirm it, over the old body.) Date and Age say when *this* answer
    was made, so the old ones go.
    """
    stored, said = read(head), read(not_modified)
    named = said.fields.get("connection", "").lower().split(",")
    excluded = NOT_UPDATED | {name.strip(" \t") for name in named}
    if not _same_tag(stored.fields.get("etag"), said.fields.get("etag")):
        excluded |= {"etag", "last-modified"}
    # A lower one, or one that is no number, would let an older page replace this one.
    if (serial := serial_of(head)) is not None and (serial_of(not_modified) or 0) < serial:
        excluded |= {SERIAL}
    changes = {
        name: value for name, value in said.fields.items() if name not in excluded and not name.startswith("content-")
    }
    lines = Lines(tuple(line for line in head.headers if line[0].lower() not in ("date", "age")))
    question: Any = Question({})
    update: Any = View(not_modified.status, changes)
    _controller(Slot(View(head.status, lines))).update_cached_response(question, update)
    return kept_head(Head(head.status, lines.lines, not_modified.asked_at, not_modified.received_at))


def _controller(slot: Slot) -> CacheController:
    return CacheController(slot, serializer=PassThrough(), status_codes=STORABLE)


def _view(said: Said) -> Any:
    """The fields the controller acts on, apart from those ``StatedLife`` says. A validator only when it is
    well-formed: two of them combined are none. 301 and 308 are shown as 200, because the controller takes
    every permanent redirect for fresh, for ever."""
    headers = {}
    if (tag := entity_tag(said.fields.get("etag"))) is not None:
        headers["etag"] = tag
    if parse_date(said.fields.get("last-modified"), said.received_at) is not None:
        headers["last-modified"] = said.fields["last-modified"]
    if said.never_matches():
        headers["vary"] = "*"
    return View(200 if said.status in (301, 308) else said.status, headers)


def _same_tag(stored: str | None, received: str | None) -> bool:
    return stored is not None and received is not None and opaque_tag(stored) == opaque_tag(received)
