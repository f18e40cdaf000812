"""One way in, one way out: aiohttp's request becomes ours, our Answer becomes bytes on the wire."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, quote

from aiohttp import web
from multidict import CIMultiDict, MultiMapping

from proxy.answer import Answer, Flow, Piece, Stream
from proxy.core.messages import FileTarget, Moved, NotHere, Request
from proxy.core.urls import parse_target
from proxy.errors import ProxyError, Refused, StoreFailed, UpstreamFailed

_log = logging.getLogger("proxy.web")

SLICE = 256 * 1024
# All that can change an answer. Authorization, Cookie and the like are dropped here and reach nothing behind.
_KEPT = (
    "Accept",
    "Accept-Encoding",
    "Cache-Control",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "Pragma",
    "Range",
    "User-Agent",
)


@dataclass(slots=True)
class Sent:
    """What went out: ``sent`` body bytes; ``aborted`` when the connection ended before the body did, ``because`` of
    what. ``kind`` is what was asked for, as an Event says it."""

    status: int
    sent: int = 0
    aborted: bool = False
    because: str = ""
    kind: str = "other"


def translated(incoming: web.BaseRequest, indexes: Collection[str], default: str, root: str = "") -> Request:
    """The request in our words; ``root`` is what its client put before the path."""
    return request_of(incoming.method, incoming.raw_path, incoming.headers, indexes, default, root)


def request_of(
    method: str, raw_target: str, headers: MultiMapping[str], indexes: Collection[str], default: str, root: str = ""
) -> Request:
    """The same of its parts; names in ``headers`` are compared without case. A query on a file is nothing we serve:
    files have none (and no tokens in them)."""
    path, _, query = raw_target.partition("?")
    target = parse_target(path, indexes, default)
    if query and isinstance(target, FileTarget):
        target = NotHere("a file has no query")
    kept = {name.lower(): ", ".join(headers.getall(name)) for name in _KEPT if name in headers}
    if "cache-control" in kept:
        kept["cache-control"] = _without_no_store(kept["cache-control"])
    wanted = _wanted_format(query)
    if isinstance(target, Moved) and wanted is not None:
        target = Moved(f"{target.location}?format={quote(wanted, safe='')}")
    return Request(method, target, kept, wanted, path, root)


def _wanted_format(query: str) -> str | None:
    """The value of ``?format=``, None when there is none; the rest of a query changes nothing."""
    try:
        values = parse_qs(query, keep_blank_values=True, max_num_fields=16).get("format")
    except ValueError:
        raise Refused("the query has too many fields", status=400) from None
    return values[0] if values else None


def _without_no_store(value: str) -> str:
    """RFC 9111 §5.2.1.5 asks not to keep "any part of either this request or any response to it": nothing of a
    client's request is ever kept, and what an index or a file says is nobody's secret."""
    return ", ".join(part for part in value.split(",") if part.strip().lower() != "no-store").strip()


class Sender:
    """Writes answers. ``stall`` is how many seconds a client may take to accept one slice."""

    def __init__(self, *, stall: float) -> None:
        self._stall = stall

    async def settled(self, incoming: web.BaseRequest, answer: Answer) -> Answer:
        """The answer, with its length known where the client must know it. Raises UpstreamFailed instead of
        beginning a body that will not come."""
        if answer.stop is not None or incoming.version >= (1, 1) or isinstance(answer.body, bytes | Flow):
            return answer
        # HTTP/1.0 has no chunks, and the end of the connection proves nothing: wait for the end.
        try:
            return replace(answer, stop=await _end_of(answer.body, answer.start))
        except BaseException:
            answer.close()
            raise

    async def send(self, incoming: web.BaseRequest, answer: Answer, sent: Sent) -> web.StreamResponse:
        """Send the answer; ``sent`` is filled in as it goes. Closes the answer in every case."""
        response: web.StreamResponse = web.Response(status=500)
        try:
            response = _response(incoming, answer)
            async with asyncio.timeout(self._stall):
                await response.prepare(incoming)
            if incoming.method != "HEAD" and answer.status != 304:
                await self._body(incoming, response, answer, sent)
            async with asyncio.timeout(self._stall):
                await response.write_eof()
        except BaseException as reason:
            # The client left or does not read, or the rest of the body will never come, or a disk failed. A clean
            # end would make a short body look complete, an error document would be taken for the rest of it, and
            # a cancelled sendfile leaves the socket open: whatever it was, reset.
            sent.aborted, sent.because = True, _because(reason)
            if incoming.transport is not None:
                reset(incoming.transport)
            if not isinstance(reason, Exception):
                raise
            if not isinstance(reason, ConnectionError | TimeoutError | ProxyError):
                _log.error("a response was cut by a fault of ours", exc_info=reason)
        finally:
            answer.close()
            if isinstance(answer.body, Flow):
                await answer.body.rest.aclose()
        return response

    async def _body(
        self,
        incoming: web.BaseRequest,
        response: web.StreamResponse,
        answer: Answer,
        sent: Sent,
    ) -> None:
        if isinstance(response, web.Response):
            sent.sent = len(answer.body) if isinstance(answer.body, bytes) else 0
        elif isinstance(answer.body, bytes):
            await self._write(response, answer.body, sent)
        elif isinstance(answer.body, Flow):
            await self._write(response, answer.body.first, sent)
            async for piece in answer.body.rest:
                await self._write(response, piece, sent)
        elif answer.stop is None:
            await self._chunks(response, answer.body, sent)
        else:
            await self._slices(incoming, response, answer.body, answer.start, answer.stop, sent)

    async def _write(self, response: web.StreamResponse, data: bytes, sent: Sent) -> None:
        """All of the data, slice by slice, each under the stall timer."""
        for offset in range(0, len(data), SLICE):
            piece = data[offset : offset + SLICE]
            async with asyncio.timeout(self._stall):
                await response.write(piece)
            sent.sent += len(piece)

    async def _slices(
        self,
        incoming: web.BaseRequest,
        response: web.StreamResponse,
        stream: Stream,
        offset: int,
        stop: int,
        sent: Sent,
    ) -> None:
        """The bytes from ``offset`` to ``stop`` by sendfile, slice by slice, each under the stall timer."""
        loop = asyncio.get_running_loop()
        # The kernel cannot encrypt: over TLS every slice goes through memory.
        native = incoming.scheme == "http"
        while offset < stop:
            piece = await stream.beyond(offset)
            transport = incoming.transport
            if piece is None or transport is None or transport.is_closing():
                raise UpstreamFailed("the body ended early") if piece is None else ConnectionResetError
            count = min(piece.count, stop - offset, SLICE)
            async with asyncio.timeout(self._stall):
                if native:
                    try:
                        # asyncio's own fallback reads by the file's position, which all followers share.
                        sent_now = await loop.sendfile(transport, piece.file, piece.position, count, fallback=False)
                    except asyncio.SendfileNotAvailableError:
                        native = False
                        continue
                else:
                    sent_now = await _copied(response, piece, count)
            if sent_now != count:
                raise StoreFailed("the stored file is shorter than it was")
            offset += count
            sent.sent += count

    async def _chunks(self, response: web.StreamResponse, stream: Stream, sent: Sent) -> None:
        """A body of unknown length, in chunks: its last chunk is the proof that it is whole."""
        offset = 0
        while (piece := await stream.beyond(offset)) is not None:
            async with asyncio.timeout(self._stall):
                count = await _copied(response, piece, min(piece.count, SLICE))
            if count == 0:
                raise StoreFailed("the stored file is shorter than it was")
            offset += count
            sent.sent += count


def _response(incoming: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    headers: CIMultiDict[str] = CIMultiDict(answer.headers)
    headers["Server"] = "pip-cache-proxy"
    headers["Cache-Status"] = answer.cache_status.header()
    headers["X-Content-Type-Options"] = "nosniff"
    if headers.get("Content-Type", "").startswith("text/html"):
        headers.setdefault("Content-Security-Policy", "default-src 'none'")
    response: web.StreamResponse
    if isinstance(answer.body, bytes) and len(answer.body) <= SLICE and incoming.method != "HEAD":
        # Head and body leave in one write.
        response = web.Response(status=answer.status, headers=headers, body=answer.body)
    else:
        if answer.stop is not None and answer.status != 304:
            headers["Content-Length"] = str(answer.stop - answer.start)
        response = web.StreamResponse(status=answer.status, headers=headers)
    if not incoming.content.is_eof() or headers.get("Connection") == "close":
        # Of a body that was refused before it came we read no more than aiohttp does in passing (RFC 9112 §9.6).
        response.force_close()
    return response


def _because(reason: BaseException) -> str:
    """Why a body did not come to its end, for the log: a client that was cut has nothing but that to go by."""
    match reason:
        case ProxyError():
            return reason.because
        case TimeoutError():
            return "the client stopped reading"
        case ConnectionError():
            return "the client left"
        case asyncio.CancelledError():
            return "the proxy is shutting down"
        case _:
            return "the proxy failed"


async def _copied(response: web.StreamResponse, piece: Piece, count: int) -> int:
    """Send up to ``count`` bytes of a piece through memory; returns how many there were."""
    data = await asyncio.to_thread(os.pread, piece.file.fileno(), count, piece.position)
    await response.write(data)
    return len(data)


def reset(transport: asyncio.BaseTransport) -> None:
    """Close with RST. A FIN would do for clients that count, but older ones (pip 23.2) take it for the end."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()


async def _end_of(stream: Stream, offset: int) -> int:
    while (piece := await stream.beyond(offset)) is not None:
        offset += piece.count
    return offset
