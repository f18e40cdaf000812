"""The way out: an Answer becomes bytes on the wire, and what cannot be sent to its end is cut."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, replace

from aiohttp import web
from multidict import CIMultiDict, MultiMapping

from proxy.answer import Answer, Flow, Piece, StoredStream, Stream
from proxy.errors import ProxyError, StoreFailed, UpstreamFailed
from proxy.web.outlet import SLICE, Outlet, Unavailable

_log = logging.getLogger("proxy.web")

FAREWELL = web.ResponseKey("farewell", bool)
"""Marks the last answer of a connection whose client may still be sending."""
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_BODILESS = (204, 304)
# RFC 9110 §8.3: what comes without a type is guessed, and may be HTML.
_ACTIVE = re.compile(r".*/(html|xml|xsl|xslt|.*\+xml|unknown|\*)")
_KNOWN = re.compile(r"(application|audio|chemical|font|image|message|model|text|video)/[!#$&^_.+\-0-9a-z]+")


@dataclass(slots=True)
class Sent:
    """What went out: ``sent`` body bytes; ``aborted`` when the connection ended before the body did, ``because`` of
    what. ``kind`` is what was asked for, as an Event says it."""

    status: int
    sent: int = 0
    aborted: bool = False
    because: str = ""
    kind: str = "other"


class Sender:
    """Writes answers. ``stall`` is how many seconds a client may take to accept one slice."""

    def __init__(self, *, stall: float) -> None:
        self.stall = stall

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
            async with asyncio.timeout(self.stall):
                await response.prepare(incoming)
            if incoming.method != "HEAD" and answer.status not in _BODILESS:
                await self._body(incoming, response, answer, sent)
            async with asyncio.timeout(self.stall):
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
            left = isinstance(reason, ConnectionError | TimeoutError)  # OSErrors, too: they say nothing of a disk
            if isinstance(answer.body, StoredStream) and isinstance(reason, OSError | StoreFailed) and not left:
                answer.body.doubt()
            if not left and not isinstance(reason, ProxyError):
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
            if answer.stop is not None and sent.sent != answer.stop - answer.start:
                raise UpstreamFailed("the body is not as long as its head says")
        elif answer.stop is None:
            await self._chunks(response, answer.body, sent)
        else:
            await self._slices(incoming, response, answer.body, answer.start, answer.stop, sent)

    async def _write(self, response: web.StreamResponse, data: bytes, sent: Sent) -> None:
        """All of the data, slice by slice, each under the stall timer."""
        for offset in range(0, len(data), SLICE):
            piece = data[offset : offset + SLICE]
            async with asyncio.timeout(self.stall):
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
        """The bytes from ``offset`` to ``stop`` by sendfile, each slice under the stall timer."""
        transport = incoming.transport
        if transport is None:
            raise ConnectionResetError
        # The kernel cannot encrypt: over TLS every slice goes through memory.
        native = incoming.scheme == "http"
        with Outlet(transport, stall=self.stall) as outlet:
            while offset < stop:
                piece = await stream.beyond(offset)
                if piece is None or transport.is_closing():
                    raise UpstreamFailed("the body ended early") if piece is None else ConnectionResetError
                if native:
                    try:
                        count = await outlet.send(piece, min(piece.count, stop - offset))
                    except Unavailable:
                        native = False
                        continue
                else:
                    async with asyncio.timeout(self.stall):
                        count = await _copied(response, piece, min(piece.count, stop - offset, SLICE))
                if not count:
                    raise StoreFailed("the stored file is shorter than it was")
                offset += count
                sent.sent += count

    async def _chunks(self, response: web.StreamResponse, stream: Stream, sent: Sent) -> None:
        """A body of unknown length, in chunks: its last chunk is the proof that it is whole."""
        offset = 0
        while (piece := await stream.beyond(offset)) is not None:
            async with asyncio.timeout(self.stall):
                count = await _copied(response, piece, min(piece.count, SLICE))
            if count == 0:
                raise StoreFailed("the stored file is shorter than it was")
            offset += count
            sent.sent += count


def fields_of(answer: Answer) -> CIMultiDict[str]:
    """The fields of the answer as they go out, but for its length, and for its date where it tells none."""
    headers: CIMultiDict[str] = CIMultiDict(answer.headers)
    # RFC 9211 §2: behind what those before us said.
    headers.add("Cache-Status", answer.cache_status.header())
    if answer.raw:
        if answer.status not in _BODILESS and _could_run(headers):
            # Beside that of the origin, which speaks for an origin of its own: all of them hold (CSP3 §8.1).
            headers.add("Content-Security-Policy", "sandbox")
    else:
        headers["Server"] = "pip-cache-proxy"
        headers["X-Content-Type-Options"] = "nosniff"
        if headers.get("Content-Type", "").startswith("text/html"):
            headers.setdefault("Content-Security-Policy", "default-src 'none'")
    return headers


def _response(incoming: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    headers = fields_of(answer)
    response: web.StreamResponse
    small = isinstance(answer.body, bytes) and len(answer.body) <= SLICE and incoming.method != "HEAD"
    if small and not answer.raw:
        # Head and body leave in one write.
        response = web.Response(status=answer.status, headers=headers, body=answer.body)
    else:
        if answer.stop is not None and answer.status != 304:
            headers["Content-Length"] = str(answer.stop - answer.start)
        made = RawResponse if answer.raw else web.StreamResponse
        response = made(status=answer.status, headers=headers)
    if not incoming.content.is_eof() or headers.get("Connection") == "close":
        # Where the next request begins is known only to one who reads a body that nobody wants (RFC 9112 §9.3).
        response.force_close()
        response[FAREWELL] = True
    elif incoming.version < (1, 1) and answer.stop is None:
        # Nothing but the end of the connection ends this body; aiohttp would keep it for a client that asks so.
        response.force_close()
    return response


def _could_run(headers: MultiMapping[str]) -> bool:
    """Whether a browser might run scripts of this body in our origin: markup; and what has no type, none that it
    knows, or several, for there it looks at the body itself, or takes the last."""
    types = headers.getall("Content-Type", [])
    essence = types[0].partition(";")[0].strip().lower() if len(types) == 1 and "," not in types[0] else ""
    return _KNOWN.fullmatch(essence) is None or _ACTIVE.fullmatch(essence) is not None


class RawResponse(web.StreamResponse):
    """A response whose head is another server's: of aiohttp only Date and the framing are added, and every byte goes
    out as it came in. Its own writer adds a Content-Type and a Server, and leaves out what is no UTF-8."""

    def __init__(self, *, status: int, headers: MultiMapping[str]) -> None:
        super().__init__(status=status, headers=headers)
        self._ours = [name for name in ("Content-Type", "Server") if name not in headers]

    async def _write_headers(self) -> None:
        request = self._req
        if request is None or request.transport is None:
            raise ConnectionResetError
        for name in self._ours:
            self.headers.popall(name, None)
        major, minor = request.version
        lines = [f"HTTP/{major}.{minor} {self.status} {self.reason}"]
        lines += (f"{name}: {value}" for name, value in self.headers.items())
        # RFC 9110 §5.5: what could end a line early is replaced by a space.
        head = "".join(f"{CONTROL.sub(' ', line)}\r\n" for line in lines) + "\r\n"
        data = head.encode("latin-1")
        request.transport.write(data)
        request.writer.output_size += len(data)


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
