"""One connection of a client: what is no HTTP on it, what is answered at once, and how it ends."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import secrets
import sys
import termios
from contextlib import suppress
from itertools import islice
from typing import Any

from aiohttp import EMPTY_PAYLOAD, HttpVersion11, StreamReader, web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from proxy.errors import ProxyError, Refused
from proxy.web.forwarded import Front, peer_of
from proxy.web.hot import Key
from proxy.web.lane import Lane
from proxy.web.problems import problem
from proxy.web.sending import FAREWELL, reset

_log = logging.getLogger("proxy.web")
_LINGER = 5.0
"""Seconds for a client to see that it was answered while it is still sending."""
_END = b"\r\n\r\n"


class Connection(web.RequestHandler):
    """One client connection. What was asked before is answered by the ``lane``, what aiohttp's parser refuses gets a
    constant answer, never an echo of itself."""

    def __init__(self, *args: Any, stall: float, front: Front, lane: Lane | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stall = stall
        self._front = front
        self._lane = lane
        self.peer, self.trusted = "", False
        self.question: Key | None = None
        self.before = 0
        self._between = True
        """Whether the parser stands between two requests, and no body is under way."""
        self._tls = False
        self._wire: asyncio.Transport | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._untaken = 0
        self._body: StreamReader = EMPTY_PAYLOAD
        """Of the latest request that was parsed."""
        self._held = b""
        self._parting = False
        self._gone = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Parse one head at a time: with what is malformed aiohttp drops all that it has parsed in the same call, and
        behind some requests all that follows."""
        if self._lane is not None:
            if self._idle():
                if self._lane.answered(self, data):
                    self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                    return
            else:
                self.question = None
        if self._parting:
            return
        data, self._held = self._held + data, b""
        while self._body.is_eof() and _END in data:
            head, _, data = data.partition(_END)
            self._parsed(head + _END)
            if not data:
                return
            if len(self._messages) >= self._max_msg_queue_size:
                # aiohttp has paused, and calls again when there is room.
                self._held, self._between = data, False
                return
        self._parsed(data)

    def _parsed(self, data: bytes) -> None:
        """Tell whoever reads a body that it broke: aiohttp queues the mistake as a request of its own behind, and
        leaves the reader waiting for more."""
        closing, count = self._close, self._request_count
        # aiohttp would drop the rest of a body that is under way when it is told to take no more requests.
        self._close = closing and self._body.is_eof()
        super().data_received(data)
        self._close = closing
        self._between = False
        if not self._messages:
            return
        self._body = self._messages[-1][1]
        whole = data.endswith(_END) and self._request_count == count + 1
        self._between = whole and self._body.is_eof() and not self._upgraded
        before = [payload for _, payload in islice(self._messages, len(self._messages) - 1)]
        if self._current_request is not None:
            before.append(self._current_request.content)
        for body in before:
            # Behind a body that is not over nothing else can begin.
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError("the body is malformed"))

    def _idle(self) -> bool:
        """Whether what comes now begins a request that nothing is in the way of: aiohttp waits for one, its parser
        stands between two, and the client has taken all that was written."""
        waiter, wire = self._waiter, self._wire
        if waiter is None or waiter.done() or not self._between or wire is None or wire.is_closing():
            return False
        return not (unsent(wire) if self._tls else wire.get_write_buffer_size())

    def send(self, first: bytes, rest: bytes) -> None:
        """Write an answer that is at hand; who does not take it is cut as everybody else."""
        wire = self._wire
        assert wire is not None
        wire.write(first)
        if rest:
            wire.write(rest)
        if unsent(wire) if self._tls else wire.get_write_buffer_size():
            self._watch(len(first) + len(rest))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody is there."""
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        self._wire, self._tls = transport, transport.get_extra_info("sslcontext") is not None
        self.peer = peer_of(self.peername)
        self.trusted = self._front.trusts(self.peer)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Nobody is there any more who could read an answer."""
        self._gone.set()
        if self._unread is not None:
            self._unread.cancel()
        super().connection_lost(exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Part from a client that may still be sending: what was no HTTP, or a body that nobody wants."""
        done = await super().finish_response(request, resp, start_time)
        self._watch(request.writer.output_size)
        body = request.content
        if FAREWELL in resp or not body.is_eof():
            await self._part(unread=not body.is_eof())
            if not body.is_eof():
                # Never a clean end for one who might still read it; and aiohttp would wait for the rest once more.
                body.set_exception(web.RequestPayloadError("the body was given up"))
                body.feed_eof()
        return done

    def _watch(self, added: int = 0) -> None:
        """Reset when the client takes nothing of what is left of its answers for as long as it may. Whoever wrote them
        is done, and asyncio would keep a connection that it was told to close until all is sent. ``added``: the bytes
        of one more of them, which wait behind the others."""
        if self._unread is not None:
            self._untaken += added
        elif self._wire is not None and unsent(self._wire):
            self._untaken = _untaken(self._wire)
            self._unread = self._loop.call_later(self._stall, self._look, self._wire)

    def _look(self, wire: asyncio.Transport) -> None:
        self._unread = None
        # While an answer is written it has a timer of its own.
        if self._current_request is None and unsent(wire) and _untaken(wire) >= self._untaken:
            reset(wire)
        else:
            self._watch()

    async def _part(self, *, unread: bool) -> None:
        """RFC 9112 §9.6: say that nothing follows, and read on for a while. If we closed while bytes are on their way
        here, the reset would overtake our answer."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self._parting = True
        if transport.can_write_eof():
            try:
                transport.write_eof()
            except OSError:
                # Gone already, though nobody has told us yet.
                return
        elif not unread:
            # TLS cannot say it: who is done would wait in vain for the end.
            return
        transport.resume_reading()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                await self._gone.wait()

    def close(self) -> None:
        """Take no more requests. One that waits for its next request ends now: aiohttp would leave it open, and
        what its client asks then without an answer."""
        idle = self._waiter is not None and not self._waiter.done()
        super().close()
        if self._parting:
            self._gone.set()
        if idle and self.transport is not None:
            self.transport.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that could not even be parsed, and to a fault of ours."""
        if request.writer.output_size > 0:
            # A head is out already: what follows would be read as its body.
            if self.transport is not None:
                reset(self.transport)
            raise ConnectionResetError("the response was cut")
        if status >= 500:
            _log.error("a request failed", exc_info=exc)
            error = ProxyError("the proxy failed", status=status)
        else:
            error = self._refusal(exc, status)
            # aiohttp takes what it could not read for HTTP/1.0.
            request._cache["version"] = HttpVersion11
        answer = problem(error, accept=None, request_id=secrets.token_hex(8))
        assert isinstance(answer.body, bytes)
        response = web.Response(status=answer.status, headers=dict(answer.headers), body=answer.body)
        response[FAREWELL] = True
        response.headers["Server"] = "pip-cache-proxy"
        response.headers["Cache-Status"] = answer.cache_status.header()
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.force_close()
        return response

    def _refusal(self, exc: BaseException | None, status: int) -> Refused:
        match exc:
            case LineTooLong(args=(_, limit, *_)) if limit == self.max_line_size:
                return Refused("the request line is too long", status=414)
            case LineTooLong():
                return Refused("a field of the request is too long", status=431)
            case BadHttpMessage(message="Too many headers received"):
                return Refused("the request has too many fields", status=431)
        return Refused("the request is not well-formed HTTP", status=status)


def unsent(transport: asyncio.Transport) -> int:
    """Bytes written that the system has not taken. asyncio's TLS transport counts its own only, not those of the
    transport below, which it does not show."""
    if transport.is_closing() and getattr(transport, "_ssl_protocol", transport) is None:
        return 0  # over TLS, and lost: up to Python 3.12 it fails where it is asked
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    count = transport.get_write_buffer_size()
    return count if below is None else count + int(below.get_write_buffer_size())


def _untaken(transport: asyncio.Transport) -> int:
    """Bytes that the client has not taken, as far as the system tells: it takes more from us only when a third of its
    own buffer is free, which may be megabytes."""
    connection = transport.get_extra_info("socket")
    queued = bytearray(4)
    if connection is not None:
        with suppress(OSError):
            fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, queued)
    return unsent(transport) + int.from_bytes(queued, sys.byteorder)
