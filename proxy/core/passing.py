"""What passes through a mount, and what is for one connection only: header fields both ways, and Location.

A mount maps ``/raw/{mount}/{rest}`` to its URL with ``rest`` behind it, one to one. Nothing else is rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import SplitResult, urljoin, urlsplit

from proxy.core.fields import format_date, parse_seconds
from proxy.core.lifetime import Said, current_age, read
from proxy.core.messages import Head, Headers, RawTarget, Request, combined
from proxy.core.urls import dotted

# RFC 9110 §7.6.1: "Intermediaries SHOULD remove or replace fields that are known to require removal before forwarding".
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)  # fmt: skip
# RFC 9111 §3.1: "Header fields that are specific to the proxy that a cache uses when forwarding a request MUST NOT be
# stored, unless the cache incorporates the identity of the proxy into the cache key".
NOT_STORED = frozenset({"proxy-authenticate", "proxy-authentication-info", "proxy-authorization"})
# Where a message ends is said anew on every connection, to whom it goes, and whether it is waited for.
_FRAMING = frozenset({"content-length", "host", "expect"})
CREDENTIALS = frozenset({"authorization", "cookie", "cookie2", "proxy-authorization"})
_COOKIES = frozenset({"set-cookie", "set-cookie2"})
# RFC 9110 §7.6.1: "A sender MUST NOT send a connection option corresponding to a field that is intended for all
# recipients of the content. For example, Cache-Control is never appropriate as a connection option": what is not to be
# kept would be.
_FOR_CACHES = frozenset({"age", "cache-control", "date", "expires", "vary"})
_REFUSED = re.compile(r"%(?:2f|5c|00|0a|0d)|\\|//", re.IGNORECASE)
# RFC 9111 §4.3.1: these are the cache's own, when it asks whether what it has still holds.
CONDITIONS = frozenset({"if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "if-range", "range"})


def asked_of_upstream(fields: Headers, *, without: Collection[str], via: str) -> Headers:
    """The lines of a request as they are sent on. ``without`` are further names (lower-case) that are not; ``via`` is
    our own entry (RFC 9110 §7.6.3: a gateway "MUST send an appropriate Via header field in each inbound request")."""
    gone = for_one_connection(fields) | _FRAMING | frozenset(without)
    return (*(line for line in fields if line[0].lower() not in gone), ("Via", via))


def hops_left(request: Request) -> int | None:
    """How far an OPTIONS may still go; None where it does not say. RFC 9110 §7.6.2: with 0 "the intermediary MUST NOT
    forward the request; instead, the intermediary MUST respond as the final recipient"."""
    if request.method != "OPTIONS":
        return None
    return parse_seconds(combined(request.fields, "max-forwards"))


def one_hop_less(request: Request) -> Headers:
    """The lines of a request that goes one hop further. §7.6.2: an OPTIONS with "the received value decremented by
    one", or what is the most here if that is less."""
    left = hops_left(request)
    if not left:
        return request.fields
    fewer = ("Max-Forwards", str(left - 1))
    return tuple(fewer if line[0].lower() == "max-forwards" else line for line in request.fields)


def told_to_client(head: Head, *, cookies: bool) -> Head:
    """The head of an answer as it is passed on; without what sets ``cookies``, where none are ever sent back."""
    gone = for_one_connection(head.headers) - _FOR_CACHES | {"content-length"} | (frozenset() if cookies else _COOKIES)
    return Head(head.status, _without(head.headers, gone), head.asked_at, head.received_at)


def kept(head: Head) -> Head:
    """What is stored of a head that may be passed on."""
    return Head(head.status, _without(head.headers, NOT_STORED), head.asked_at, head.received_at)


def dated(head: Head) -> Headers:
    """The lines of an answer that comes from the upstream now. RFC 9110 §6.6.1: who receives one without a Date "MUST
    record the time it was received and append a corresponding Date" when it is forwarded."""
    if head.header("date") is not None:
        return head.headers
    return (*head.headers, ("Date", format_date(int(head.received_at))))


def aged(head: Head, now: float) -> Headers:
    """The lines of a stored answer. RFC 9111 §4: "a cache MUST generate an Age header field (Section 5.1), replacing
    any present in the response"; the Date is the origin's."""
    said: Said = read(head)
    lines = _without(dated(head), frozenset({"age"}))
    return (*lines, ("Age", str(int(current_age(said, now)))))


def without_body(headers: Headers) -> Headers:
    """The lines of a 304 made here. RFC 9110 §15.4.5: of representation metadata only what guides the cache of the one
    who asked; the rest is what its stored response says already."""
    body = frozenset({"content-type", "content-encoding", "content-language", "content-range", "transfer-encoding"})
    return _without(headers, body)


def looped(fields: Headers, via: str) -> bool:
    """Did the request pass through here before?"""
    ours = via.partition(" ")[2]
    return any(ours in entry.split() for entry in (combined(fields, "via") or "").split(","))


def locally(location: str, mount_url: str, target: RawTarget) -> str:
    """A Location as the client can follow it; ``mount_url`` ends in a slash. Relative, where it points into the mount,
    so that neither Host nor a front proxy's prefix matters; else absolute: what is relative there is not here. One that
    is no URL stays as it is."""
    there = absolute(location, mount_url + target.rest)
    if there is None:
        return location
    inside = below(there, mount_url)
    if inside is None:
        return there
    up = target.rest.partition("?")[0].count("/")
    # RFC 3986 §4.2: a first segment with a colon would be read as a scheme.
    return ("../" * up or "./") + inside


def absolute(reference: str, url: str) -> str | None:
    """What a reference found at a URL refers to; None when it is none."""
    try:
        return urljoin(url, reference)
    except ValueError:
        return None


def below(url: str, mount_url: str) -> str | None:
    """What stands behind the mount's URL in one that points into it; None for any other."""
    try:
        there, base = urlsplit(url), urlsplit(mount_url)
        same = _origin(there) == _origin(base)
    except ValueError:
        return None
    if not same or there.username is not None or not there.path.startswith(base.path):
        return None
    # What our front gate would refuse is better asked for there.
    if _REFUSED.search(there.path) or any(dotted(segment) for segment in there.path.split("/")):
        return None
    return url.split("://", 1)[1].partition("/")[2][len(base.path) - 1 :]


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)


def for_one_connection(fields: Headers) -> frozenset[str]:
    """The names, in lower case, of fields that go no further than this connection: those that are known, and those that
    Connection names (RFC 9110 §7.6.1)."""
    named = combined(fields, "connection") or ""
    return HOP_BY_HOP | frozenset(name.strip(" \t").lower() for name in named.split(","))


def _without(lines: Headers, names: Collection[str]) -> Headers:
    return tuple(line for line in lines if line[0].lower() not in names)
