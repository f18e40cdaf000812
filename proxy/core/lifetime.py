"""The arithmetic of RFC 9111 §4.2: what a head says, how old it is, how long it may live.

Numbers only; the verdict over them is ``freshness``'s. Times are seconds since the epoch, durations seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from proxy.core.fields import FOREVER, directives, format_date, parse_date, parse_seconds
from proxy.core.messages import Head, Headers, Rules

DAY = 86_400.0

NEGATIVE = frozenset({404, 410})
# RFC 9110 §15.1, without 206, of which nothing is stored.
HEURISTICALLY_CACHEABLE = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
# RFC 9111 §3, must-understand: those whose definition asks nothing more of a cache than we do.
UNDERSTOOD = HEURISTICALLY_CACHEABLE | {302, 303, 307, 400, 401, 403, 500, 502, 503, 504}
# Of these, what refuses the request rather than the resource: a field that is in no key may be why (a method override).
_REFUSALS = frozenset({405, 414, 501})
_NAMES = 100
SERIAL = "x-pypi-last-serial"
_SERIAL_DIGITS = 18
# RFC 9111 §3 for a shared cache: "the no-store cache directive is not present", "the private response
# directive is either not present or allows a shared cache to store a modified response; see §5.2.2.7". We
# modify nothing, so a qualified private counts like a bare one.
UNSTORABLE = ("no-store", "private")
# RFC 9111 §4.2.4: "A cache MUST NOT generate a stale response if it is prohibited by an explicit in-protocol
# directive (e.g., by a no-cache response directive, a must-revalidate response directive, or an applicable
# s-maxage or proxy-revalidate response directive)".
NEVER_STALE = frozenset({"must-revalidate", "proxy-revalidate", "s-maxage", "no-cache"})


@dataclass(frozen=True, slots=True)
class Said:
    """A head, read once: its fields by lower-case name with repeated lines combined, its Cache-Control, and
    its Date (None when absent or malformed)."""

    status: int
    fields: Mapping[str, str]
    control: Mapping[str, str | None]
    date: float | None
    asked_at: float
    received_at: float

    def originated(self) -> float:
        """RFC 9110 §6.6.1: "A recipient with a clock that receives a response message without a Date header
        field MUST record the time it was received". A malformed Date is no Date."""
        return self.received_at if self.date is None else self.date

    def never_matches(self) -> bool:
        """RFC 9111 §4.1: "A stored response with a Vary header field value containing a member "*" always
        fails to match". So does one of more names than anybody would compare."""
        vary = self.fields.get("vary", "")
        return "*" in vary or vary.count(",") >= _NAMES

    def unstorable(self) -> str | None:
        """Which directive forbids a shared cache to store it, if one does. §5.2.2.3: with must-understand, for a status
        code that is understood, "the cache SHOULD ignore the no-store"; for another it stores nothing."""
        forbidden = [name for name in UNSTORABLE if name in self.control]
        if "must-understand" in self.control:
            if self.status not in UNDERSTOOD:
                return "must-understand"
            forbidden = [name for name in forbidden if name != "no-store"]
        return forbidden[0] if forbidden else None

    def never_stale(self, rules: Rules) -> bool:
        """May it not be served once stale? A remembered 404 of an index neither: no failure may look like one."""
        if self.never_matches() or self.unstorable() is not None:
            return True
        if self.status in NEGATIVE and not rules.transparent:
            return True
        return not NEVER_STALE.isdisjoint(self.control)


# A warm head is read for the verdict and for the fields of every answer.
@lru_cache(maxsize=1024)
def read(head: Head) -> Said:
    """Parse what the arithmetic needs of a head."""
    fields: dict[str, str] = {}
    for name, value in head.headers:
        lower = name.lower()
        fields[lower] = f"{fields[lower]}, {value}" if lower in fields else value
    return Said(
        status=head.status,
        fields=fields,
        control=directives(fields.get("cache-control")),
        date=parse_date(fields.get("date"), head.received_at),
        asked_at=head.asked_at,
        received_at=head.received_at,
    )


def clock_went_back(said: Said, now: float) -> bool:
    """Was it received so far in the future that the clock must have been wrong, then or now? An hour's slip
    is borne; an entry that stays fresh until the clock catches up after years is not."""
    return said.received_at > now + DAY


def current_age(said: Said, now: float) -> float:
    """RFC 9111 §4.2.3, step by step, never negative."""
    if clock_went_back(said, now):
        # Both times of our own are void; the upstream's Date is the one witness left.
        return max(0.0, now - said.date) if said.date is not None else 0.0
    resident_time = max(0.0, now - said.received_at)
    return _corrected_initial_age(said) + resident_time


def _corrected_initial_age(said: Said) -> float:
    apparent_age = max(0.0, said.received_at - said.originated())
    # §5.1: a list-based Age: "use the first member of the field value"; an invalid one: "ignore the field".
    age_value = parse_seconds(said.fields.get("age", "").split(",")[0].strip(" \t")) or 0
    response_delay = max(0.0, said.received_at - said.asked_at)
    return max(apparent_age, age_value + response_delay)


def lifetime(said: Said, now: float, rules: Rules) -> tuple[int, str]:
    """The freshness lifetime for this shared cache in whole seconds, and because of what.

    1. received in the far future: 0, nothing is immortal
    2. 404 and 410 of an index: the house's own memory of them, counted from when they were received
    3. no-cache, qualified or not (§5.2.2.4); no-store and private, which got here by a 304; ``Vary: *``: 0
    4. s-maxage, max-age, Expires - Date, the heuristic (§4.2.1, first match)
    """
    if clock_went_back(said, now):
        return 0, "a clock that went back"
    if said.status in NEGATIVE and not rules.transparent:
        return int(_corrected_initial_age(said) + rules.negative_ttl), "the memory of a missing page"
    if (name := "no-cache" if "no-cache" in said.control else said.unstorable()) is not None:
        return 0, name
    if said.never_matches():
        return 0, "Vary: *"
    return stated_life(said, ("s-maxage", "max-age"), rules)


def stated_life(said: Said, names: Iterable[str], rules: Rules) -> tuple[int, str]:
    """What the head says of its life: the first of these directives, else Expires, else the heuristic.

    Explicit life is capped by ``rules.max_ttl``. §4.2.1: "Caches are encouraged to consider responses that
    have invalid freshness information (e.g., a max-age directive with a non-integer value) to be stale."
    """
    cap = min(int(rules.max_ttl), FOREVER)
    for name in names:
        if name in said.control:
            return min(parse_seconds(said.control[name]) or 0, cap), name
    if "expires" in said.fields:
        # §5.3: "A cache recipient MUST interpret invalid date formats, especially the value "0", as
        # representing a time in the past". Two lines combine to an invalid one.
        expires = parse_date(said.fields["expires"], said.received_at)
        life = 0 if expires is None else int(expires - said.originated())
        return max(0, min(life, cap)), "Expires"
    # §4.2.2: "a cache MAY assign a heuristic expiration time when an explicit time is not specified"; but only to
    # "responses ... whose status codes are defined as heuristically cacheable", or "explicitly marked as cacheable
    # (e.g., with a public response directive)".
    if said.status not in HEURISTICALLY_CACHEABLE and "public" not in said.control:
        return 0, "no lifetime"
    modified = parse_date(said.fields.get("last-modified"), said.received_at)
    if modified is not None:
        life = int((said.originated() - modified) * rules.heuristic_fraction)
        return max(0, min(life, int(rules.heuristic_cap))), "Last-Modified"
    if said.status in _REFUSALS:
        return 0, "no lifetime"
    return int(rules.default_ttl), "default_ttl"


def serial_of(head: Head) -> int | None:
    """How far the project had been counted up when this was said; None when it does not tell. PyPI counts every
    change of a project in ``X-PyPI-Last-Serial``, and mirrors repeat it."""
    value = read(head).fields.get(SERIAL, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) <= _SERIAL_DIGITS else None


def older(head: Head, other: Head) -> bool:
    """Does it say, by its serial, that it is older than the other?"""
    one, two = serial_of(head), serial_of(other)
    return one is not None and two is not None and one < two


def response_headers(head: Head, now: float, rules: Rules) -> Headers:
    """Age, Date and Cache-Control for a client, never more life than upstream gave.

    Clients count from Date (pip reads nothing else, uv also Age), so max-age is the undiminished one; where
    life is our own heuristic it is the whole of it, counted from that same Date. s-maxage is for us
    (§5.2.2.10) and becomes the client's only where no max-age is said.
    """
    said = read(head)
    # Where the date is our own, it must not lie ahead of the client that counts from it.
    date = min(said.received_at, now) if said.date is None else said.date
    return (
        ("Age", str(int(current_age(said, now)))),
        ("Date", format_date(int(date))),
        ("Cache-Control", _control_for_clients(said, now, rules)),
    )


def _control_for_clients(said: Said, now: float, rules: Rules) -> str:
    if "no-store" in said.control:
        return "no-store"
    parts = ["private"] if "private" in said.control else []
    if "no-cache" in said.control or said.never_matches():
        parts.append("no-cache")
    else:
        seconds, _ = stated_life(said, ("max-age", "s-maxage"), rules)
        if said.status in NEGATIVE:
            seconds = min(seconds, lifetime(said, now, rules)[0])
        parts.append(f"max-age={seconds}")
    parts += [name for name in ("must-revalidate", "proxy-revalidate") if name in said.control]
    return ", ".join(parts)
