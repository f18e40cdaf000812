"""Answers of mounts: a stored response or one that arrives, as a client wants it, with the lines of its origin."""

from __future__ import annotations

from contextlib import AsyncExitStack

from proxy.answer import Answer, Flow, Stream
from proxy.core import decide
from proxy.core.conditions import Span, Unsatisfiable, not_modified, requested_range
from proxy.core.messages import CacheStatus, Entry, Head, Headers, RawTarget, Request, combined
from proxy.core.passing import dated, locally, without_body
from proxy.core.ranges import content_range
from proxy.replies import Reply

_BODILESS = (204, 304)


def mapped(status: int, lines: Headers, mount_url: str, target: RawTarget) -> Headers:
    """The lines with Location as the client can follow it. RFC 9110 §10.2.2: it means something with 201 and 3xx."""
    if status != 201 and not 300 <= status <= 399:
        return lines
    return tuple(
        (name, locally(value, mount_url, target)) if name.lower() == "location" else (name, value)
        for name, value in lines
    )


def from_body(
    request: Request, status: int, lines: Headers, stream: Stream, size: int | None, told: CacheStatus
) -> Answer:
    """The answer from a body that is kept, or will be: 304 or 206 where the client's own preconditions and Range say so
    (RFC 9111 §4.3.2, RFC 9110 §13.2.1: only instead of a 200), else all of it. ``size`` is None while unknown."""
    if status != 200:
        return Answer(status, lines, stream, told, stop=size, raw=True)
    etag, modified = combined(lines, "etag"), combined(lines, "last-modified")
    if modified is None:
        # §4.3.2: "a cache SHOULD use the stored response's Date field value ... to evaluate the conditional".
        modified = combined(lines, "date")
    if not_modified(request.headers, etag=etag, last_modified=modified):
        stream.close()
        return Answer(304, without_body(lines), b"", told, stop=0, raw=True)
    asked = requested_range(request.headers, size=size, etag=etag) if request.method == "GET" and size else None
    match asked:
        case Unsatisfiable():
            stream.close()
            unmet = (*without_body(lines), ("Content-Range", f"bytes */{size}"))
            return Answer(416, unmet, b"", told, stop=0, raw=True)
        case Span() as span if size is not None:
            whole = tuple(line for line in lines if line[0].lower() != "content-range")
            part = (*whole, ("Content-Range", content_range(span, size)))
            return Answer(206, part, stream, told, start=span.start, stop=span.stop, raw=True)
        case _:
            return Answer(200, lines, stream, told, stop=size, raw=True)


class Relayed:
    """The body of a reply that is passed on as it comes; the end of it closes what holds the reply."""

    def __init__(self, reply: Reply, holding: AsyncExitStack) -> None:
        self._chunks = reply.chunks
        self._holding = holding

    def __aiter__(self) -> Relayed:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Give the connection back, or close it where more would have come."""
        await self._holding.aclose()


async def relayed(
    method: str, status: int, lines: Headers, reply: Reply, holding: AsyncExitStack, told: CacheStatus
) -> Answer:
    """The answer that passes a reply on. It owns ``holding`` from here on."""
    if method == "HEAD" or status in _BODILESS:
        await holding.aclose()
        stop = reply.length if method == "HEAD" else 0
        return Answer(status, lines, b"", told, stop=stop, raw=True)
    return Answer(status, lines, Flow(b"", Relayed(reply, holding)), told, stop=reply.length, raw=True)


def passed_on(head: Head, mount_url: str, target: RawTarget) -> Headers:
    """The lines of an answer that comes from the upstream now."""
    return mapped(head.status, dated(head), mount_url, target)


def asked_status(
    because: str, request: Request, entry: Entry | None, forward_status: int | None = None, *, relay: bool = False
) -> CacheStatus:
    """How an answer came about that was asked for (RFC 9211 §2.2)."""
    if request.method not in decide.ANSWERED:
        forward = "method"
    elif "range" in request.headers and entry is None:
        forward = "partial"
    else:
        forward = "uri-miss" if entry is None else "stale"
    return CacheStatus("relay" if relay else "miss", because, forward=forward, forward_status=forward_status)
