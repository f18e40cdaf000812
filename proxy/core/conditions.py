"""Preconditions and ranges: what part of a representation a client wants, if any (RFC 9110 §13, §14).

Header mappings have lower-case names. Nothing here raises: a condition or a range that cannot be understood
is as good as absent, and the client gets the whole representation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.core.fields import entity_tag, entity_tags, opaque_tag, parse_date

# Longer digit strings are this number: no representation has as many bytes, and int() refuses very long ones.
_BEYOND = 10**18
# There is no clock here: the two-digit years of RFC 850 dates are read as those within 50 years of 2026.
_TWO_DIGIT_YEARS = 1_767_225_600.0
_RANGE_SET = re.compile(r"bytes=(.*)", re.IGNORECASE)  # §14.1: "range units are case-insensitive"
_INT_RANGE = re.compile(r"([0-9]+)-([0-9]*)")
_SUFFIX_RANGE = re.compile(r"-([0-9]+)")


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``start`` up to, not including, ``stop``: never empty, inside the representation."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Prefix:
    """Of a size not known yet: from ``start`` to ``stop`` (not included), or to the end when that is None."""

    start: int
    stop: int | None


@dataclass(frozen=True, slots=True)
class Suffix:
    """Of a size not known yet: the last ``length`` bytes, at least one."""

    length: int


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """A well-formed range with no byte of the representation in it: 416."""


RangeAsked = Span | Prefix | Suffix | Unsatisfiable | None


def not_modified(headers: Mapping[str, str], *, etag: str | None, last_modified: str | None) -> bool:
    """Does the client hold the current representation already, so that a GET or HEAD is answered 304?

    ``etag`` and ``last_modified`` are the fields of the answer about to be sent, None where it has none.
    """
    if_none_match = headers.get("if-none-match")
    # §13.1.3: "A recipient MUST ignore If-Modified-Since if the request contains an If-None-Match".
    if if_none_match is not None:
        # §13.1.2: "If the field value is "*", the condition is false if the origin server has a current
        # representation". There is one, or nobody would ask.
        if if_none_match.strip(" \t") == "*":
            return True
        # §13.1.2: "A recipient MUST use the weak comparison function".
        held = {opaque_tag(tag) for tag in entity_tags(if_none_match)}
        return etag is not None and opaque_tag(etag) in held
    modified = parse_date(last_modified, _TWO_DIGIT_YEARS)
    # §13.1.3: "A recipient MUST ignore the If-Modified-Since header field if the received field value is not
    # a valid HTTP-date ... or if the resource does not have a modification date available".
    since = parse_date(headers.get("if-modified-since"), _TWO_DIGIT_YEARS)
    return modified is not None and since is not None and modified <= since


def requested_range(headers: Mapping[str, str], *, size: int | None, etag: str | None) -> RangeAsked:
    """The bytes a GET asks for; None: all of them.

    ``size`` is the representation's in bytes; while that is unknown (None) the answer is ``Prefix`` or
    ``Suffix``, as asked, and whether it can be satisfied is found out later. ``etag`` is the answer's own,
    for If-Range. No Range, a malformed one, another unit, several ranges, and an If-Range that does not match
    all mean the whole (§14.2: "A server MAY ignore the Range header field").
    """
    range_set = _RANGE_SET.fullmatch(headers.get("range", ""))
    if range_set is None or not _if_range_holds(headers.get("if-range"), etag):
        return None
    # §5.6.1.2: "A recipient MUST parse and ignore a reasonable number of empty list elements".
    specs = [spec for spec in (part.strip(" \t") for part in range_set[1].split(",")) if spec]
    if len(specs) != 1:
        return None
    if (suffix := _SUFFIX_RANGE.fullmatch(specs[0])) is not None:
        return _last(_number(suffix[1]), size)
    if (bounds := _INT_RANGE.fullmatch(specs[0])) is None:
        return None
    start = _number(bounds[1])
    stop = _number(bounds[2]) + 1 if bounds[2] else None
    # §14.1.1: "An int-range is invalid if the last-pos value is present and less than the first-pos".
    if stop is not None and stop <= start:
        return None
    if size is None:
        return Prefix(start, stop)
    # §14.1.2: a last-pos beyond the end "is interpreted as the remainder of the representation".
    return Span(start, size if stop is None else min(stop, size)) if start < size else Unsatisfiable()


def _last(length: int, size: int | None) -> RangeAsked:
    """§14.1.2: "If the suffix-length is zero, the range is unsatisfiable"; a too long one is the whole."""
    if length == 0:
        return Unsatisfiable()
    if size is None:
        return Suffix(length)
    # Satisfiable by the clause, but Content-Range cannot say "no bytes of none": all of nothing is sent.
    if size == 0:
        return None
    return Span(max(0, size - length), size)


def _if_range_holds(if_range: str | None, etag: str | None) -> bool:
    """§13.1.5: entity-tags match by the strong comparison only. A date never matches: Last-Modified is strong
    only under §8.8.2.2's conditions, and our answers carry a strong ETag for whoever wants to resume."""
    if if_range is None:
        return True
    tag = entity_tag(if_range.strip(" \t"))
    return tag is not None and tag == etag and not tag.startswith("W/")


def _number(digits: str) -> int:
    significant = digits.lstrip("0")
    return _BEYOND if len(significant) > 18 else int(significant or "0")
