"""A shared cache after RFC 9111, small and slow: what a request is answered with, what is asked for, what is kept.

Written from the text of RFC 9111 (and RFC 9110, RFC 5861 where it points there), to be compared with the proxy. It
knows nothing of it, parses for itself, and keeps everything in a list. Where the text leaves a choice, ``Choices`` or a
comment that begins with "Choice" says which one is taken, and why. Clauses of no named document are RFC 9111's.

Times are seconds; field names are lower-case; a field's lines are combined.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from urllib.parse import urljoin

Fields = Mapping[str, str]

SAFE = {"GET", "HEAD", "OPTIONS", "TRACE"}
# RFC 9110 §15.1: "heuristically cacheable".
HEURISTIC = {200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501}
# Choice, for must-understand (§5.2.2.3): these are understood, for their definitions ask nothing of a cache.
UNDERSTOOD = HEURISTIC - {206} | {302, 303, 307, 400, 401, 403, 500, 502, 503, 504}
# RFC 5861 §4.
ERRORS = {500, 502, 503, 504}
# §3.1: "MUST NOT be stored", and RFC 9110 §7.6.1 for what is for one connection.
HOPS = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
        "proxy-authenticate", "proxy-authentication-info", "proxy-authorization"}  # fmt: skip
LONGEST = 2**31  # §1.2.2
SIZE = 10  # bytes of every body


@dataclass(frozen=True)
class Choices:
    """What an operator sets, and what RFC 9111 leaves open."""

    default_ttl: int = 0  # §4.2.2: a heuristic for what has no Last-Modified
    heuristic_cap: int = 86_400  # §4.2.2: of 10 % of the interval since it was modified
    stale_if_error: int = 0  # RFC 5861 §4, where the response does not say
    stale_while_revalidate: int = 0  # RFC 5861 §3, where the response does not say
    # §5.2.1: a client's directives "are advisory; a cache MAY implement them, but is not required to". "ignore": they
    # make no fresh response stale; "limited": not in the first ``min_reload_interval`` seconds after its validation.
    reload: str = "honour"
    min_reload_interval: int = 10
    most_variants: int = 20  # §4.1 sets no limit


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    url: str
    fields: Fields


@dataclass(frozen=True)
class Told:
    """An answer of the origin, and the number of its body."""

    status: int
    fields: Fields
    body: int
    asked_at: float
    received_at: float


@dataclass(frozen=True)
class Stored:
    """A stored response; ``chosen`` is what its request had in the fields that its Vary names (§4.1)."""

    told: Told
    chosen: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Plan:
    """``do``: "serve" ``stored``, "refuse" with 504, or "ask" with these conditions; ``behind``: serve, then ask.
    ``alone``: asked as it came, and nothing of the answer kept."""

    do: str
    stored: Stored | None = None
    conditions: tuple[tuple[str, str], ...] = ()
    behind: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Answer:
    """What the client gets: from the "store", the "origin", or "nobody"; with ``age`` what is in the store."""

    source: str
    status: int | None = None
    body: int | None = None
    age: int | None = None


def members(value: str) -> Iterator[str]:
    """The members of a list (RFC 9110 §5.6.1); a comma in a quoted string is none between two of them."""
    member, quoted = "", False
    for character in value:
        if character == '"':
            quoted = not quoted
        if character == "," and not quoted:
            yield member.strip(" \t")
            member = ""
        else:
            member += character
    yield member.strip(" \t")


def directives(value: str | None) -> dict[str, list[str | None]]:
    """All arguments of each directive, its name in lower case (§5.2)."""
    found: dict[str, list[str | None]] = {}
    for member in members(value or ""):
        name, equals, argument = member.partition("=")
        if len(argument) > 1 and argument[0] == argument[-1] == '"':
            argument = argument[1:-1]
        if name:
            found.setdefault(name.lower(), []).append(argument if equals else None)
    return found


def number(arguments: list[str | None]) -> int | None:
    """delta-seconds (§1.2.2). Choice (§4.2.1): of several that differ none is believed."""
    argument = arguments[0]
    if any(other != argument for other in arguments) or argument is None or not argument.isdigit():
        return None
    return min(int(argument), LONGEST)


def moment(value: str | None) -> float | None:
    """An IMF-fixdate (RFC 9110 §5.6.7): the one form that scripts use."""
    try:
        return float(calendar.timegm(time.strptime(value or "", "%a, %d %b %Y %H:%M:%S GMT")))
    except ValueError:
        return None


def validators(fields: Fields) -> dict[str, str]:
    """§4.3.1, the well-formed ones."""
    found = {}
    tag = fields.get("etag", "")
    if tag.removeprefix("W/").startswith('"') and tag.endswith('"') and tag.count('"') == 2:
        found["if-none-match"] = tag
    if moment(fields.get("last-modified")) is not None:
        found["if-modified-since"] = fields["last-modified"]
    return found


def named(fields: Fields) -> list[str]:
    """The fields that a Vary names, each once."""
    return sorted({name.lower() for name in members(fields.get("vary", "")) if name})


@dataclass
class Cache:
    """What is stored, what was stored last being last, for all URLs; and the rules."""

    choices: Choices
    stored: dict[str, list[Stored]] = field(default_factory=dict)

    # §4.2: is it fresh?

    def age(self, told: Told, now: float) -> int:
        """§4.2.3, in whole seconds. Choice: a clock that goes back stands still."""
        date = moment(told.fields.get("date"))
        apparent_age = max(0.0, told.received_at - (told.received_at if date is None else date))
        first = told.fields.get("age", "").split(",")[0].strip()  # §5.1: "use the first member"; invalid: ignored
        response_delay = max(0.0, told.received_at - told.asked_at)
        corrected_age_value = (int(first) if first.isdigit() else 0) + response_delay
        return int(max(apparent_age, corrected_age_value) + max(0.0, now - told.received_at))

    def life(self, told: Told) -> int:
        """§4.2.1. What must not be used without validation has none (§5.2.2.4), nor what a 304 has made private or
        no-store. Choice: the qualified forms mean the whole response, which §5.2.2.4 and §5.2.2.7 let a cache do."""
        control = directives(told.fields.get("cache-control"))
        if "no-cache" in control or self.forbidden(told) or "*" in named(told.fields):
            return 0
        for name in ("s-maxage", "max-age"):
            if name in control:
                return number(control[name]) or 0  # §4.2.1: "encouraged to consider ... invalid ... to be stale"
        date = moment(told.fields.get("date"))
        date = told.received_at if date is None else date
        if "expires" in told.fields:
            expires = moment(told.fields["expires"])  # §5.3: invalid ones are in the past
            return 0 if expires is None else max(0, int(expires - date))
        if told.status not in HEURISTIC and "public" not in control:
            return 0  # §4.2.2
        modified = moment(told.fields.get("last-modified"))
        if modified is None:
            # Choice: none for what refuses the request, not the resource.
            return 0 if told.status in (405, 414, 501) else self.choices.default_ttl
        return max(0, min(int((date - modified) / 10), self.choices.heuristic_cap))

    def forbidden(self, told: Told) -> bool:
        """§3: no-store, private, must-understand."""
        control = directives(told.fields.get("cache-control"))
        if "must-understand" in control:
            return told.status not in UNDERSTOOD or "private" in control  # §5.2.2.3: "SHOULD ignore the no-store"
        return "no-store" in control or "private" in control

    def may_be_stale(self, told: Told) -> bool:
        """§4.2.4: "MUST NOT generate a stale response if it is prohibited by an explicit in-protocol directive"."""
        control = directives(told.fields.get("cache-control"))
        prohibiting = {"must-revalidate", "proxy-revalidate", "s-maxage", "no-cache"}
        return not prohibiting & control.keys() and not self.forbidden(told) and "*" not in named(told.fields)

    def satisfies(self, asked: Asked, told: Told, now: float) -> bool:
        """Fresh, or as stale as this client accepts; and as new as it wants it (§5.2.1).

        Choice: at the very second the answer is no, where §5.2.1 would still allow it: ages are rounded down, and doubt
        means to ask. Choice: a wish that cannot be read is the strictest one. Choice: who asks for min-fresh does not
        want a stale one, whatever it says beside."""
        wishes = self.wishes(asked)
        age, life = self.age(told, now), self.life(told)
        if "no-cache" in wishes:
            return False
        if "max-age" in wishes and age >= (number(wishes["max-age"]) or 0):
            return False
        if "min-fresh" in wishes:
            more = number(wishes["min-fresh"])
            return more is not None and age + more < life
        if "max-stale" in wishes and self.may_be_stale(told):
            unlimited = all(argument is None for argument in wishes["max-stale"])
            life += LONGEST if unlimited else number(wishes["max-stale"]) or 0
        return age < life

    @staticmethod
    def wishes(asked: Asked) -> dict[str, list[str | None]]:
        """§5.4: Pragma counts where there is no Cache-Control."""
        if "cache-control" in asked.fields:
            return directives(asked.fields["cache-control"])
        return {"no-cache": [None]} if "no-cache" in directives(asked.fields.get("pragma")) else {}

    def window(self, told: Told, name: str, setting: int) -> int:
        """RFC 5861: for so many seconds beyond its life; the response goes before the setting."""
        if not self.may_be_stale(told):
            return 0
        control = directives(told.fields.get("cache-control"))
        return number(control[name]) or 0 if name in control else setting

    # §4: what to do with a request.

    def plan(self, asked: Asked, now: float) -> Plan:
        """§4, from the first condition to the last."""
        wishes = self.wishes(asked)
        stored = self.select(asked) if asked.method in ("GET", "HEAD") else None
        served = Plan("serve", stored) if stored is not None and self.may_serve(asked, stored.told, now) else None
        if "only-if-cached" in wishes:
            return served or Plan("refuse")  # §5.2.1.7
        if asked.method not in ("GET", "HEAD") or "no-store" in wishes:
            # Choice: who wants nothing stored is not answered from the store either. §5.2.1.5 forbids the first only.
            return Plan("ask", stored, alone=True)
        if served is not None:
            return served
        if stored is None:
            return Plan("ask", alone=asked.method == "HEAD" or "range" in asked.fields)
        conditions = tuple(validators(stored.told.fields).items())
        if self.may_serve_behind(asked, stored.told, now):
            return Plan("serve", stored, conditions, behind=True)
        # Choice: HEAD, and a part of what cannot be validated, are asked for as they come, and no body of it is kept.
        if asked.method == "HEAD" or ("range" in asked.fields and not conditions):
            return Plan("ask", stored, alone=True)
        return Plan("ask", stored, conditions)

    def may_serve(self, asked: Asked, told: Told, now: float) -> bool:
        """Without asking the origin (§4)."""
        fresh = self.age(told, now) < self.life(told)
        return self.satisfies(asked, told, now) or (fresh and not self.heeds(told, now))

    def may_serve_behind(self, asked: Asked, told: Told, now: float) -> bool:
        """RFC 5861 §3; §5.2.1.1: who sends max-age "does not wish to receive a stale response", so with min-fresh and
        no-cache."""
        late = self.age(told, now) - self.life(told)
        wants_newer = {"max-age", "min-fresh", "no-cache"} & self.wishes(asked).keys()
        window = self.window(told, "stale-while-revalidate", self.choices.stale_while_revalidate)
        return 0 <= late < window and not (wants_newer and self.heeds(told, now))

    def heeds(self, told: Told, now: float) -> bool:
        """Does a client's wish for something newer count?"""
        moment_ago = 0 <= now - told.received_at < self.choices.min_reload_interval
        return self.choices.reload == "honour" or (self.choices.reload == "limited" and not moment_ago)

    def candidates(self, asked: Asked) -> list[Stored]:
        """§4.1: those whose nominated fields match."""
        return [each for each in self.stored.get(asked.url, ()) if each.chosen == choosing(asked, each.told)]

    def select(self, asked: Asked) -> Stored | None:
        """§4: "a cache MUST use the most recent one (as determined by the Date header field)"; §4.1: if one omits Vary,
        it "SHOULD choose the most recent ... with a valid Vary field value". Choice: who sends credentials gets only
        what says that it is for all; §3.5 asks that of the answers to those who do."""
        found = self.candidates(asked)
        found = [each for each in found if each.chosen] or found
        newest = max(reversed(found), key=lambda each: made(each.told), default=None)  # of one second the last stored
        if newest is not None and "authorization" in asked.fields and not shareable(newest.told):
            return None
        return newest

    # What the origin's answer does.

    def learn(self, asked: Asked, plan: Plan, told: Told | None, now: float) -> Answer | None:
        """What the client gets of the origin's answer, or of its failure (None); and what is stored then. None: to be
        asked once more, without conditions."""
        if told is None:
            return self.instead(asked, plan.stored, now) or Answer("nobody")
        if asked.method not in SAFE and 200 <= told.status <= 399:
            self.invalidate(asked.url, told.fields)
        if plan.alone:
            if told.status in ERRORS and (stale := self.instead(asked, plan.stored, now)) is not None:
                return stale
            if asked.method == "HEAD" and told.status == 200 and plan.stored is not None:
                self.learn_from_head(asked, plan.stored, told)
            return relayed(asked, told)
        if told.status == 304 and plan.stored is not None and plan.conditions:
            if not self.identified(plan.stored.told, told):
                return None
            newer = self.freshen(asked, plan.stored, told)
            return shown(asked, newer, "store", self.age(newer, now))
        if told.status in ERRORS and (stale := self.instead(asked, plan.stored, now)) is not None:
            return stale
        if asked.method != "GET" or not self.may_store(asked, told):
            return relayed(asked, told)
        told = replace(told, fields=kept(told.fields))
        self.put(asked.url, Stored(told, choosing(asked, told)))
        return shown(asked, told, "origin", None)

    def instead(self, asked: Asked, stored: Stored | None, now: float) -> Answer | None:
        """RFC 5861 §4, §4.2.4. Choice: when the origin fails, what the client wished for does not count."""
        if stored is None:
            return None
        age = self.age(stored.told, now)
        window = self.window(stored.told, "stale-if-error", self.choices.stale_if_error)
        if age < self.life(stored.told) or age - self.life(stored.told) < window:
            return shown(asked, stored.told, "store", age)
        return None

    def may_store(self, asked: Asked, told: Told) -> bool:
        """§3. Choice: answers to GET only, no parts (§3.3), and nothing that never matches (§4.1);
        no refusal of a precondition or a range, which are in no key; no cookies without a stated life (§7.3)."""
        control = directives(told.fields.get("cache-control"))
        explicit = "expires" in told.fields or bool({"public", "max-age", "s-maxage"} & control.keys())
        return (
            told.status >= 200
            and told.status not in (206, 304, 412, 416)
            and told.status not in (428, 429, 431, 511)  # RFC 6585: "MUST NOT be stored by a cache"
            and not self.forbidden(told)
            and "*" not in named(told.fields)
            and ("authorization" not in asked.fields or shareable(told))
            and (explicit or (told.status in HEURISTIC and "set-cookie" not in told.fields))
        )

    def put(self, url: str, stored: Stored) -> None:
        """Choice: it takes the place of the one that the same request would have chosen."""
        others = [each for each in self.stored.get(url, []) if each.chosen != stored.chosen]
        self.stored[url] = [*others, stored][-self.choices.most_variants :]

    def identified(self, stored: Told, told: Told) -> bool:
        """§4.3.4: does the 304 mean the one that was asked about? Choice: no validator at all means the one whose
        validator was sent, though §15.4.5 of RFC 9110 asks for its ETag; others with the same one stay as they are."""
        tag, modified = (validators(told.fields).get(name) for name in ("if-none-match", "if-modified-since"))
        if tag is not None and not tag.startswith("W/"):
            return stored.fields.get("etag") == tag
        if tag is not None:
            return stored.fields.get("etag", "").removeprefix("W/") == tag.removeprefix("W/")
        return modified is None or stored.fields.get("last-modified") == modified

    def freshen(self, asked: Asked, stored: Stored, told: Told) -> Told:
        """§3.2, but for Content-Length, and Content-Range which a 304 cannot mean. Choice: its Date and Age are those
        of the 304. What may no longer be stored goes, and what has another Vary now (§4.1 asks what its first request
        had in those fields)."""
        old = {name: value for name, value in stored.told.fields.items() if name not in ("date", "age")}
        new = {name: value for name, value in kept(told.fields).items() if name != "content-range"}
        newer = replace(told, status=stored.told.status, fields=old | new, body=stored.told.body)
        self.stored[asked.url].remove(stored)
        if self.may_store(asked, newer) and named(newer.fields) == named(stored.told.fields):
            self.put(asked.url, Stored(newer, choosing(asked, newer)))
        return newer

    def learn_from_head(self, asked: Asked, stored: Stored, told: Told) -> None:
        """§4.3.5: a 200 to HEAD updates what it describes, and invalidates what it does not. Choice: one that describes
        nothing does neither; nor does one of which nothing may be stored."""
        described = {name: told.fields[name] for name in ("last-modified", "content-length") if name in told.fields}
        if (tag := validators(told.fields).get("if-none-match")) is not None:
            described["etag"] = tag
        if not described or "no-store" in self.wishes(asked):
            return
        known = {**stored.told.fields, "content-length": str(SIZE)}
        if stored.told.status == 200 and all(known.get(name) == value for name, value in described.items()):
            self.freshen(asked, stored, told)
        else:
            self.stored[asked.url].remove(stored)

    def invalidate(self, url: str, fields: Fields) -> None:
        """§4.4: the target, and Location and Content-Location of the same origin."""
        self.stored.pop(url, None)
        for name in ("location", "content-location"):
            if name in fields:
                self.stored.pop(urljoin(url, fields[name]), None)


def kept(fields: Fields) -> dict[str, str]:
    """§3.1, and Content-Length (§3.2)."""
    gone = HOPS | {"content-length"} | {name.lower() for name in members(fields.get("connection", ""))}
    return {name: value for name, value in fields.items() if name not in gone}


def choosing(asked: Asked, told: Told) -> tuple[tuple[str, str | None], ...]:
    """What the request has in the fields that this Vary names (§4.1); absent is not empty, whitespace is nothing."""
    values = ((name, asked.fields.get(name)) for name in named(told.fields))
    return tuple((name, None if value is None else ",".join(members(value))) for name, value in values)


def shareable(told: Told) -> bool:
    """§3.5."""
    return bool({"must-revalidate", "public", "s-maxage"} & directives(told.fields.get("cache-control")).keys())


def made(told: Told) -> float:
    """Its Date, or when it was received (RFC 9110 §6.6.1)."""
    date = moment(told.fields.get("date"))
    return told.received_at if date is None else date


def relayed(asked: Asked, told: Told) -> Answer:
    """As it came."""
    return Answer("origin", told.status, None if asked.method == "HEAD" else told.body)


def shown(asked: Asked, told: Told, source: str, age: int | None) -> Answer:
    """A whole response as the client wants it: its own preconditions (§4.3.2) and range."""
    whole = Answer(source, told.status, None if asked.method == "HEAD" else told.body, age)
    if told.status != 200:
        return whole
    if unchanged(asked.fields, told):
        return replace(whole, status=304, body=None)
    if asked.method != "GET" or not in_range(asked.fields, told):
        return whole
    first = asked.fields["range"].removeprefix("bytes=").partition("-")[0]
    if first and int(first) >= SIZE:
        return replace(whole, status=416, body=None)
    return replace(whole, status=206)


def unchanged(fields: Fields, told: Told) -> bool:
    """§4.3.2: does the client have it already? "If ... the Last-Modified header field is not present in a stored
    response, a cache SHOULD use the stored response's Date"."""
    if "if-none-match" in fields:
        tags = [tag.removeprefix("W/") for tag in members(fields["if-none-match"])]
        tag = validators(told.fields).get("if-none-match")
        return tags == ["*"] or (tag is not None and tag.removeprefix("W/") in tags)
    since = moment(fields.get("if-modified-since"))
    if since is None:
        return False
    received = formatdate(int(told.received_at), usegmt=True)
    # Choice: a date that cannot be read is no condition.
    modified = moment(told.fields.get("last-modified", told.fields.get("date", received)))
    return modified is not None and modified <= since


def in_range(fields: Fields, told: Told) -> bool:
    """RFC 9110 §14.2, §13.1.5. Choice: a date in If-Range never matches."""
    if not fields.get("range", "").startswith("bytes="):
        return False
    tag = fields.get("if-range")
    return tag is None or (tag == validators(told.fields).get("if-none-match") and not tag.startswith("W/"))
