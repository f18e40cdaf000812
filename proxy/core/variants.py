"""Which of a URL's stored responses may answer a request (RFC 9111 §4.1), and how many of them are kept.

A URL has a list of its variants, the newest first. Each says which request fields chose it (Vary), and what they said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxy.core.lifetime import read
from proxy.core.messages import Head

MOST = 20
"""Variants of one URL that are kept, those received last."""
# RFC 9110 §8.3.2, §8.4.1, §8.5.1: their values are compared without case, which §4.1 lets a cache know.
_CASELESS = frozenset({"accept-charset", "accept-encoding", "accept-language"})


@dataclass(frozen=True, slots=True)
class Variant:
    """One stored response: ``names`` are the fields in its Vary, in lower case and sorted; ``mark`` is made of what the
    request had in them, "" where nothing chose it."""

    names: tuple[str, ...]
    mark: str


def selecting(head: Head) -> tuple[str, ...]:
    """The names in its Vary, in lower case, sorted, each once. (With ``*`` among them nothing ever matches, and it is
    not stored.)"""
    names = {name.strip(" \t").lower() for name in read(head).fields.get("vary", "").split(",")}
    return tuple(sorted(names - {""}))


def chosen_by(names: Sequence[str], request_headers: Mapping[str, str]) -> Variant:
    """The variant that these fields of the request choose. §4.1: they match if they "can be transformed" into each
    other by "adding or removing whitespace" and by "combining multiple header field lines with the same field name"; a
    field that is absent is not an empty one."""
    if not names:
        return Variant((), "")
    chosen = "\0".join(f"{name}:{_normalised(name, request_headers.get(name))}" for name in names)
    return Variant(tuple(names), hashlib.sha256(chosen.encode("utf-8", "surrogateescape")).hexdigest()[:32])


def _normalised(name: str, value: str | None) -> str:
    if value is None:
        return "-"
    members = ",".join(member.strip(" \t") for member in value.split(","))
    return "+" + (members.lower() if name in _CASELESS else members)


def matching(variants: Sequence[Variant], request_headers: Mapping[str, str]) -> list[Variant]:
    """Those that may answer the request, in their order."""
    return [each for each in variants if each == chosen_by(each.names, request_headers)]


def precedence(variant: Variant, head: Head) -> tuple[bool, float]:
    """Of several that may answer the one with the greatest: "the most recent one (as determined by the Date header
    field)" (§4); but where one omits Vary, "the most recent ... with a valid Vary field value" (§4.1)."""
    return bool(variant.names), read(head).originated()


def with_newest(variants: Sequence[Variant], newest: Variant) -> tuple[list[Variant], list[Variant]]:
    """The list with this one in front, at most MOST; and those that are gone from it."""
    others = [each for each in variants if each != newest]
    return [newest, *others[: MOST - 1]], others[MOST - 1 :]


def dumped(variants: Sequence[Variant]) -> bytes:
    """The list as bytes."""
    return json.dumps([[each.mark, *each.names] for each in variants]).encode()


def loaded(data: bytes | None) -> list[Variant]:
    """The list that ``dumped`` wrote; empty for anything else."""
    try:
        rows = json.loads(data or b"[]")
    except (ValueError, RecursionError):
        return []
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        return []
    return [Variant(tuple(names), mark) for mark, *names in rows]


def _is_row(row: object) -> bool:
    return isinstance(row, list) and bool(row) and {str}.issuperset(map(type, row))
