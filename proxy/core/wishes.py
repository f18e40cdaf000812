"""What a request's Cache-Control asks for (RFC 9111 §5.2.1); names in header mappings are lower-case."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.core.fields import FOREVER, directives, parse_seconds


def wishes_of(request_headers: Mapping[str, str]) -> Mapping[str, str | None]:
    """The request's directives. RFC 9111 §5.4: "When the Cache-Control header field is not present in a
    request, caches MUST consider the no-cache request pragma-directive as having the same effect"."""
    if "cache-control" in request_headers:
        return directives(request_headers["cache-control"])
    return {"no-cache": None} if "no-cache" in directives(request_headers.get("pragma")) else {}


def max_stale(wishes: Mapping[str, str | None]) -> int:
    """§5.2.1.2: with no value "the client will accept a stale response of any age"."""
    if "max-stale" not in wishes:
        return 0
    value = wishes["max-stale"]
    return FOREVER if value is None else parse_seconds(value) or 0


def shortening(wishes: Mapping[str, str | None], age: int, allowance: int) -> str:
    """Cache-Control of the question. The age goes into min-fresh, ``freshness`` says why; max-age is
    bounded, because the controller would let it lengthen a life."""
    min_fresh = 0
    if "min-fresh" in wishes:
        asked = parse_seconds(wishes["min-fresh"])
        min_fresh = FOREVER if asked is None else asked
    parts = [f"min-fresh={age + min_fresh}"]
    if "max-age" in wishes:
        parts.append(f"max-age={min(parse_seconds(wishes['max-age']) or 0, allowance)}")
    if "no-cache" in wishes:
        parts.append("no-cache")
    return ", ".join(parts)
