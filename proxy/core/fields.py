"""Field values as RFC 9110 and RFC 9111 spell them: HTTP-dates, delta-seconds, directives, entity-tags.

All strict. What does not follow the grammar is None or the empty string, never a guess: the callers take both
for "stale" or "no condition", so a malformed field costs a question to the upstream and nothing else.
"""

from __future__ import annotations

import calendar
import math
import re
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache

# RFC 9111 §1.2.2: "if a cache receives a delta-seconds value greater than the greatest integer it can
# represent ... the cache MUST consider the value to be 2147483648 (2^31)".
FOREVER = 2**31

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # nosec B105 # RFC 9110's token, a syntax
_NAME = re.compile(rf"[ \t]*({_TOKEN})")
_DIRECTIVE = re.compile(rf'[ \t]*({_TOKEN})(?:=(?:({_TOKEN})|"((?:[^"\\]|\\.)*)"))?[ \t]*(?:,|\Z)')
_QUOTED_PAIR = re.compile(r"\\(.)")

_ENTITY_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_ONE_TAG = re.compile(_ENTITY_TAG)
_TAG_LIST = re.compile(rf"[ \t,]*{_ENTITY_TAG}(?:[ \t]*,[ \t,]*{_ENTITY_TAG})*[ \t,]*")

_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_MONTH = "(?P<month>" + "|".join(_MONTHS) + ")"
_CLOCK = r"(?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9]):(?P<second>[0-5][0-9]|60)"
_SHORT_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY = "(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)"
_DATE_FORMS = (
    re.compile(rf"{_SHORT_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_CLOCK} GMT"),
    re.compile(rf"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_CLOCK} GMT"),
    re.compile(rf"{_SHORT_DAY} {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_CLOCK} (?P<year>[0-9]{{4}})"),
)
_MEAN_YEAR = 31_556_952  # seconds; a Gregorian year's mean


def parse_date(value: str | None, now: float) -> float | None:
    """An HTTP-date (RFC 9110 §5.6.7) as seconds since the epoch; None when absent or malformed.

    All three forms are read, case-sensitively and only in GMT, as the clause demands. ``now`` resolves the
    two-digit year of the RFC 850 form.
    """
    if value is None:
        return None
    form = next(filter(None, (pattern.fullmatch(value) for pattern in _DATE_FORMS)), None)
    if form is None:
        return None
    month = _MONTHS.index(form["month"]) + 1
    day, year = int(form["day"]), int(form["year"])
    if len(form["year"]) == 2:
        # §5.6.7: "MUST interpret a timestamp that appears to be more than 50 years in the future as
        # representing the most recent year in the past that had the same last two digits."
        latest = int(1970 + now / _MEAN_YEAR) + 50
        year += (latest - year) // 100 * 100
    if not 1 <= year <= 9999 or not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    moment = (year, month, day, int(form["hour"]), int(form["minute"]), int(form["second"]))
    return float(calendar.timegm(moment))


# Many answers of one second say the same.
@lru_cache(maxsize=256)
def format_date(seconds: float) -> str:
    """Seconds since the epoch as an IMF-fixdate (RFC 9110 §5.6.7), the one form a sender may generate."""
    return formatdate(seconds, usegmt=True)


def parse_seconds(value: str | None) -> int | None:
    """delta-seconds (RFC 9111 §1.2.2), at most ``FOREVER``; None when absent or malformed."""
    if not value or not value.isascii() or not value.isdigit():
        return None
    digits = value.lstrip("0")
    return FOREVER if len(digits) > 10 else min(int(digits or "0"), FOREVER)


def parse_retry_after(value: str | None, now: float) -> int | None:
    """Retry-After (RFC 9110 §10.2.3), delay or date, in whole seconds from ``now``, negative for a past date; None
    when absent or malformed."""
    date = parse_date(value, now)
    return parse_seconds(value) if date is None else math.ceil(date - now)


def directives(value: str | None) -> Mapping[str, str | None]:
    """Cache-Control (RFC 9111 §5.2) as lower-case name -> argument.

    None is a directive without an argument; quoted strings are unquoted (§5.2: "recipients ought to accept
    both forms"). The empty string, which nothing accepts as a number, stands for what cannot be trusted: an
    argument outside the grammar, and two that disagree (§4.2.1: "either the first occurrence should be used
    or the response should be considered stale"). The name is kept, so a mangled ``no-store`` still counts.
    """
    found: dict[str, str | None] = {}
    torn = False  # a quotation mark stands open: where the next arguments end is a guess
    position, text = 0, value or ""
    while position < len(text):
        argument: str | None = ""
        whole = None if torn else _DIRECTIVE.match(text, position)
        if whole is not None:
            element, position = whole, whole.end()
            quoted = whole[3]
            argument = whole[2] if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
        else:
            comma = text.find(",", position)
            end = len(text) if comma < 0 else comma
            torn = torn or text.count('"', position, end) % 2 == 1
            start, position = position, end + 1
            name_only = _NAME.match(text, start, end)
            if name_only is None:
                continue
            element = name_only
        name = element[1].lower()
        found[name] = argument if found.get(name, argument) == argument else ""
    return found


def entity_tag(value: str | None) -> str | None:
    """The value when it is exactly one entity-tag (RFC 9110 §8.8.3), else None."""
    return value if value is not None and _ONE_TAG.fullmatch(value) else None


def entity_tags(value: str) -> tuple[str, ...]:
    """The members of a list of entity-tags; empty when the list is malformed."""
    return tuple(_ONE_TAG.findall(value)) if _TAG_LIST.fullmatch(value) else ()


def opaque_tag(tag: str) -> str:
    """What the weak comparison compares (RFC 9110 §8.8.3.2): the tag without its ``W/``."""
    return tag.removeprefix("W/")
