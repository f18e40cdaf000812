"""What a request's Cache-Control asks for (RFC 9111 §5.2.1); names in header mappings are lower-case."""

from __future__ import annotations

import re
from collections.abc import Mapping

from proxy.core.fields import FOREVER, directives, parse_seconds
from proxy.core.messages import Head, Request, Rules

# pip before 26.2 sends a bare max-age=0 with every index page: it says nothing of what the user wants.
_PIP = re.compile(r"pip/([0-9]{1,4})\.([0-9]{1,4})")
_PIP_THAT_CACHES = (26, 2)


def wishes_of(request_headers: Mapping[str, str]) -> Mapping[str, str | None]:
    """The request's directives. RFC 7234 §5.4 (RFC 9111 only deprecates the field): "When the Cache-Control header
    field is not present in a request, caches MUST consider the no-cache request pragma-directive as having the same
    effect"."""
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


def reload_ignored(request: Request, head: Head, now: float, rules: Rules) -> str | None:
    """The reload rule: why a client's wish for something newer is overruled, None when it is heeded.

    RFC 9111 §5.2.1: request directives "are advisory; caches MAY implement them, but are not required to".
    """
    if rules.reload == "ignore":
        return "fresh, reloads are ignored"
    if rules.reload != "limited":
        return None
    if _always_reloads(request.headers):
        return "fresh, and this pip always asks for newer"
    # A negative difference is a clock that went back: it says nothing about when the page was validated.
    if 0 <= now - head.received_at < rules.min_reload_interval:
        return "fresh, validated a moment ago"
    return None


def _always_reloads(headers: Mapping[str, str]) -> bool:
    version = _PIP.match(headers.get("user-agent", ""))
    if version is None or (int(version[1]), int(version[2])) >= _PIP_THAT_CACHES:
        return False
    return dict(directives(headers.get("cache-control"))) == {"max-age": "0"}
