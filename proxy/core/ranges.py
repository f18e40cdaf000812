"""Ranges as text: how one is asked of an upstream, and what an upstream says it sent (RFC 9110 §14)."""

from __future__ import annotations

import re
from typing import assert_never

from proxy.core.conditions import Prefix, Span, Suffix

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


def spelled(asked: Span | Prefix | Suffix) -> str:
    """The value of a Range field that asks for these bytes."""
    match asked:
        case Span(start, stop):
            return f"bytes={start}-{stop - 1}"
        case Prefix(start, end):
            return f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"
        case Suffix(length):
            return f"bytes=-{length}"
        case _:
            assert_never(asked)


def within(asked: Span | Prefix | Suffix, size: int) -> Span | None:
    """The bytes asked for, of a body of ``size`` bytes; None when there are none (416)."""
    match asked:
        case Suffix(length):
            start, stop = max(0, size - length), size
        case Prefix(start, end):
            stop = size if end is None else min(end, size)
        case Span(start, end):
            stop = min(end, size)
        case _:
            assert_never(asked)
    return Span(start, stop) if start < stop else None


def content_range(span: Span, size: int) -> str:
    """The value of Content-Range for a part of a body of ``size`` bytes (§14.4)."""
    return f"bytes {span.start}-{span.stop - 1}/{size}"


def received_range(value: str | None) -> tuple[Span, int] | None:
    """What a 206 says it holds: the span and the whole body's size; None for anything unusual, a size of ``*`` or
    a multipart answer included."""
    found = _CONTENT_RANGE.fullmatch(value or "")
    if found is None:
        return None
    start, last, size = int(found[1]), int(found[2]), int(found[3])
    return (Span(start, last + 1), size) if start <= last < size else None
