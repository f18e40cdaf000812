"""How old is it, how long may it live, may it be kept: RFC 9111, with CacheControl as the judge.

Each question gets its own controller (see ``judge``), which looks at no stored response but at a *view* of one: what
RFC 9111 §4.2 says of the real head, put into the three fields the controller reads. Only the real head is ever stored.

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
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from proxy.core.fields import (
    entity_tag,
    format_date,
    opaque_tag,
    parse_date,
    parse_seconds,
)
from proxy.core.lifetime import (
    HEURISTICALLY_CACHEABLE,
    SERIAL,
    Said,
    current_age,
    lifetime,
    read,
    serial_of,
)
from proxy.core.messages import Entry, Head, Headers, Rules, kept_head
from proxy.core.passing import NOT_STORED, for_one_connection
from proxy.core.variants import selecting
from proxy.core.wishes import max_stale, shortening, wishes_of

# Of an index: what a page can be. 206 never (RFC 9111 §3.3 is not implemented).
STORABLE = frozenset({200, 203, 300, 301, 308, 404, 410})
# RFC 9111 §3: one of these, "an Expires header field", "or a status code that is defined as heuristically cacheable".
EXPLICIT = frozenset({"public", "max-age", "s-maxage"})
# Of a mount never: a part, no response of its own, and what answers nothing but the fields of one request (a
# precondition, a range, too many of them), which are in no key. RFC 6585: 428, 429, 431 and 511 "MUST NOT be stored".
UNKEPT = frozenset({206, 304, 412, 416, 428, 429, 431, 511})
# §3.5: the directives that allow a shared cache to "use a cached response to a request with an Authorization header
# field" for others.
SHAREABLE = frozenset({"must-revalidate", "public", "s-maxage"})


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


class Lines:
    """A header list that the controller can update from another without losing order, spelling, or lines of one field
    that cannot be combined (Set-Cookie)."""

    def __init__(self, lines: Headers, newer: Headers) -> None:
        self.lines = lines
        self.newer = newer

    def update(self, changes: Mapping[str, str]) -> None:
        kept = tuple(line for line in self.lines if line[0].lower() not in changes)
        self.lines = (*kept, *(line for line in self.newer if line[0].lower() in changes))


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
    # §5.2.1.3: who wants it fresh for longer wants none that is stale, whatever it accepts beside.
    steady = "min-fresh" in wishes or said.never_stale(rules)
    allowance = life if steady else life + max_stale(wishes)
    fresh = _judged(head, allowance, shortening(wishes, age, allowance))
    if age < life:
        because = f"fresh by {reason}" if fresh else "fresh, but the client wants it newer"
    else:
        because = "stale, and the client accepts that" if fresh else f"stale by {reason}"
    return Freshness(float(age), float(life), fresh, because)


# The same head is judged again and again while it is warm, with an age that changes once a second.
@lru_cache(maxsize=1024)
def _judged(head: Head, allowance: int, wanted: str) -> bool:
    # Here and below, not at the top: the judge brings an HTTP client with it that is not needed to start with, and
    # takes a fifth of the time of all imports (``app`` loads it once there are answers).
    from proxy.core.judge import Question, Slot, StatedLife, controller

    question: Any = Question({"cache-control": wanted})
    view = StatedLife(allowance, keep=True).apply(_view(read(head)))
    return controller(Slot(view)).cached_request(question) is not False


def grace(head: Head, rules: Rules) -> Grace:
    """How long beyond its lifetime may it be served? What RFC 5861's directives of the response say goes before the
    settings; but for failures of an index the operator's window holds, whatever that says: the house keeps the last
    good page. What forbids stale answers (RFC 9111 §4.2.4) forbids both."""
    said = read(head)
    if said.never_stale(rules):
        return Grace(0.0, 0.0)
    behind, if_error = rules.stale_while_revalidate, rules.stale_if_error
    if (name := "stale-while-revalidate") in said.control:
        behind = parse_seconds(said.control[name]) or 0
    if (name := "stale-if-error") in said.control and rules.transparent:
        if_error = parse_seconds(said.control[name]) or 0
    return Grace(float(behind), float(if_error))


def storable(head: Head, rules: Rules, request_headers: Mapping[str, str] | None = None) -> bool:
    """May the answer to a GET be stored (RFC 9111 §3), by a shared cache?

    Immutable bodies prove themselves by their hash: only the status counts. Of an index explicit freshness or a
    validator is not asked for, and no request bears credentials.
    """
    if rules.immutable:
        return head.status == 200
    said = read(head)
    keep = said.unstorable() is None
    if rules.transparent:
        # The status is judged here: the controller has a list of them, and any final one may be stored.
        keep = keep and _may_be_stored(said, request_headers or {})
        view = replace(_view(said), status=200)
    else:
        view = _view(said)
    return _taken(view.status, frozenset(view.headers), keep)


# It matters which of these few fields there are, not what a well-formed validator says.
@lru_cache(maxsize=1024)
def _taken(status: int, names: frozenset[str], keep: bool) -> bool:
    from proxy.core.judge import Question, Slot, StatedLife, View, controller

    said = {"etag": '"any"', "last-modified": format_date(0), "vary": "*"}
    view: Any = View(status, {name: said[name] for name in sorted(names)})
    slot = Slot()
    question: Any = Question({})
    controller(slot, STORABLE).cache_response(question, StatedLife(0, keep=keep).apply(view))
    return slot.kept is not None


def _may_be_stored(said: Said, request_headers: Mapping[str, str]) -> bool:
    if said.status < 200 or said.status in UNKEPT:
        return False
    if "authorization" in request_headers and not shareable(said):
        return False
    explicit = "expires" in said.fields or not EXPLICIT.isdisjoint(said.control)
    # §7.3: Set-Cookie does not forbid it; but to give one client's cookies to others is for the origin to allow.
    return explicit or (said.status in HEURISTICALLY_CACHEABLE and "set-cookie" not in said.fields)


def shareable(said: Said) -> bool:
    """May an answer to a request with Authorization be used for others (RFC 9111 §3.5)? The reverse is not forbidden;
    we ask the same of it, for an origin may know clients and forget Vary."""
    return not SHAREABLE.isdisjoint(said.control)


def validators(head: Head) -> dict[str, str]:
    """The conditions of a revalidation (RFC 9111 §4.3.1); empty when there is no well-formed validator."""
    from proxy.core.judge import Question, Slot, controller

    question: Any = Question({})
    return controller(Slot(_view(read(head)))).conditional_headers(question)


def refreshed(head: Head, not_modified: Head, rules: Rules) -> Head:
    """The stored head with a 304 folded in (RFC 9111 §3.2, §4.3.4), and the 304's times.

    A mount's takes every field but those of §3.1 and Content-Length. An index's has only those that are read again
    (``kept_head``), and keeps those that say what its body is, for that is stored as it was understood (§3.2: "caches
    in this situation MAY omit these header fields"): Content-Type, and the validators unless the 304 names the same
    ETag; a serial is not lowered. (Taking a foreign ETag would be for ever: the next question would ask for that
    version, the next 304 confirm it, over the old body.) Date and Age say when *this* answer was made, so the old go.
    """
    from proxy.core.judge import Question, Slot, View, controller

    stored, said = read(head), read(not_modified)
    excluded = for_one_connection(not_modified.headers) | NOT_STORED
    # RFC 9110 §14.4: in a 304 it says nothing.
    excluded |= {"content-range"}
    if not rules.transparent:
        excluded |= {name for name in said.fields if name.startswith("content-")}
        if not _same_tag(stored.fields.get("etag"), said.fields.get("etag")):
            excluded |= {"etag", "last-modified"}
        # A lower one, or one that is no number, would let an older page replace this one.
        if (serial := serial_of(head)) is not None and (serial_of(not_modified) or 0) < serial:
            excluded |= {SERIAL}
    changes = {name: value for name, value in said.fields.items() if name not in excluded}
    older = tuple(line for line in head.headers if line[0].lower() not in ("date", "age"))
    lines = Lines(older, not_modified.headers)
    question: Any = Question({})
    update: Any = View(not_modified.status, changes)
    controller(Slot(View(head.status, lines))).update_cached_response(question, update)
    folded = Head(head.status, lines.lines, not_modified.asked_at, not_modified.received_at)
    return folded if rules.transparent else kept_head(folded)


def remains(refreshed_head: Head, stored: Head, rules: Rules, request_headers: Mapping[str, str]) -> bool:
    """May it be kept with its new head? Of a mount not what may no longer be stored (RFC 9111 §3), nor what is now
    chosen by other fields than those that it was chosen by (§4.1). A page is kept for the day that its index fails."""
    if not rules.transparent:
        return True
    return storable(refreshed_head, rules, request_headers) and selecting(refreshed_head) == selecting(stored)


def contradicts(head: Head, not_modified: Head) -> bool:
    """Does a 304 mean another version than the one it was asked about? RFC 9111 §4.3.4: a strong validator in it is
    that very one, or "the cache MUST NOT use the new response to update any stored responses"; weak ones "correspond"
    to it. One without any means what it was asked about, though RFC 9110 §15.4.5 wants it to say so."""
    stored, told = read(head).fields, read(not_modified).fields
    if (tag := entity_tag(told.get("etag"))) is not None:
        if tag.startswith("W/"):
            return not _same_tag(stored.get("etag"), tag)
        return stored.get("etag") != tag
    modified = parse_date(told.get("last-modified"), not_modified.received_at)
    return modified is not None and modified != parse_date(stored.get("last-modified"), head.received_at)


def agrees(entry: Entry, head: Head, length: int | None) -> bool | None:
    """Is the stored response still the one that a 200 to HEAD describes, with ``length`` as its Content-Length? §4.3.5:
    it is, if they "have matching values for any received validator fields (ETag and Last-Modified)", and the length
    matches as well. None where the head says nothing of all that, and for any other status."""
    if head.status != 200:
        return None
    said = [(entity_tag(head.header("etag")), entity_tag(entry.head.header("etag")))]
    said.append((head.header("last-modified"), entry.head.header("last-modified")))
    found = [told == known for told, known in said if told is not None]
    if length is not None:
        found.append(length == entry.size)
    return entry.head.status == 200 and all(found) if found else None


def _view(said: Said) -> Any:
    """The fields the controller acts on, apart from those ``StatedLife`` says. A validator only when it is
    well-formed: two of them combined are none. 301 and 308 are shown as 200, because the controller takes
    every permanent redirect for fresh, for ever."""
    from proxy.core.judge import View

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
