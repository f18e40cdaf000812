"""A file as an Answer: its header set, preconditions, and the part of the body a client wants."""

from __future__ import annotations

from dataclasses import replace

from proxy.answer import Answer, Flow, Piece, Stream
from proxy.core.conditions import Span, Unsatisfiable, not_modified, requested_range
from proxy.core.messages import CacheStatus, Entry, Headers, Request
from proxy.core.ranges import content_range
from proxy.errors import Refused

# Longer than any cache keeps anything; `immutable` (RFC 8246) spares even the reload of a browser.
FOREVER = "public, max-age=365000000, immutable"


def etag_of(sha256: str) -> str:
    """The strong ETag of a body: its hash, so that it stays equal across evictions and restarts."""
    return f'"sha256-{sha256}"'


def proof_of(entry: Entry) -> str:
    """Why a stored body is believed, for Cache-Status."""
    return "verified against the hash its page lists" if entry.verified else "pinned by its first complete copy"


def proven(entry: Entry) -> CacheStatus:
    """What is said of an answer from a stored body."""
    return CacheStatus("hit", proof_of(entry), hit=True)


def file_headers(etag: str | None) -> Headers:
    """What every answer with or about a file says. Never a Content-Encoding: some clients would undo it and
    then hash the wrong bytes."""
    headers: Headers = (
        ("Content-Type", "application/octet-stream"),
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", FOREVER),
    )
    return (*headers, ("ETag", etag)) if etag is not None else headers


def whole_or_part(request: Request, stream: Stream, size: int, etag: str, status: CacheStatus) -> Answer:
    """The answer from a body of known size whose bytes can all be had: 304, 206 or 200. Raises Refused (416)
    when it has none of the bytes asked for."""
    headers = file_headers(etag)
    if not_modified(request.headers, etag=etag, last_modified=None):
        stream.close()
        return Answer(304, headers, b"", status, stop=0)
    # RFC 9110 §14.2: Range is defined for GET alone.
    asked = requested_range(request.headers, size=size, etag=etag) if request.method == "GET" else None
    match asked:
        case Unsatisfiable():
            stream.close()
            raise unsatisfiable(size)
        case Span() as span:
            return part(stream, span, size, etag, status)
        case _:
            return Answer(200, headers, stream, status, stop=size)


def part(stream: Stream, span: Span, size: int, etag: str | None, status: CacheStatus) -> Answer:
    """A 206 with one span of a body of ``size`` bytes."""
    headers = (*file_headers(etag), ("Content-Range", content_range(span, size)))
    return Answer(206, headers, stream, status, start=span.start, stop=span.stop)


async def pieces_of(answer: Answer) -> list[Piece]:
    """Where its whole body lies, once all of that is there; raises UpstreamFailed when it will not be."""
    pieces: list[Piece] = []
    offset = 0
    while not isinstance(answer.body, bytes | Flow) and (piece := await answer.body.beyond(offset)) is not None:
        offset += piece.count
        last = pieces[-1] if pieces else None
        if last is not None and last.file is piece.file and last.position + last.count == piece.position:
            pieces[-1] = replace(last, count=last.count + piece.count)
        else:
            pieces.append(piece)
    return pieces


def unsatisfiable(size: int) -> Refused:
    """The error 416, which tells the size (RFC 9110 §15.5.17)."""
    headers = (("Content-Range", f"bytes */{size}"),)
    return Refused("no byte of the file is in the range asked for", status=416, headers=headers)
