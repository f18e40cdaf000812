"""The door: gate, operations, data plane, errors, one Event for each request."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping

from aiohttp import HttpVersion11, web

from proxy.answer import Answer
from proxy.core.messages import FileTarget, JsonTarget, ListTarget, Moved, NotHere, PageTarget, Target
from proxy.errors import ProxyError, Refused
from proxy.events import Event, Observer
from proxy.gateway import Gateway
from proxy.web.forwarded import UNIX, Front
from proxy.web.gate import admit
from proxy.web.problems import problem
from proxy.web.translate import Sender, Sent, reset, translated

_log = logging.getLogger("proxy.web")
_LOOK_AGAIN = 0.05
_WRITE_AHEAD = 64 * 1024
"""Bytes that may wait in the process for one client; asyncio's own default for plain connections."""
IN_ALL, PER_ADDRESS = "client_connections", "client_connections_per_address"
"""Both limits on connections, as the settings call them."""
NO_FRONT = Front()
"""Nobody is trusted to speak for others."""


Route = Callable[[web.BaseRequest], Awaitable[Answer]]
"""Answers what is no part of the data plane; raises ProxyError as the gateway does. That of ``/admin`` answers all
below it, too."""


_KINDS: Mapping[type[Target], str] = {
    PageTarget: "page",
    ListTarget: "list",
    FileTarget: "file",
    JsonTarget: "json",
    Moved: "other",
    NotHere: "other",
}


def kind_of(target: Target) -> str:
    """What was asked for, in the word that events have for it."""
    return "metadata" if isinstance(target, FileTarget) and target.metadata else _KINDS[type(target)]


class Door:
    """Handles every request of every connection."""

    def __init__(
        self,
        gateway: Gateway,
        sender: Sender,
        operations: Mapping[str, Route],
        *,
        indexes: Collection[str],
        default: str,
        hosts: Collection[str],
        front: Front,
        observers: Collection[Observer],
    ) -> None:
        self._gateway = gateway
        self._sender = sender
        self._operations = operations
        self._indexes = indexes
        self._default = default
        self._hosts = hosts
        self._front = front
        self._observers = observers
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        """Answer one request and tell the observers."""
        began = time.perf_counter()
        self._under_way += 1
        self._idle.clear()
        incoming["request_id"] = request_id = secrets.token_hex(8)
        try:
            return await self._handled(incoming, began, request_id)
        finally:
            self._under_way -= 1
            if self._under_way == 0:
                self._idle.set()

    async def _handled(self, incoming: web.BaseRequest, began: float, request_id: str) -> web.StreamResponse:
        sent = Sent(0)
        try:
            answer = await self._sender.settled(incoming, await self._answer(incoming, sent))
        except Exception as error:
            if not isinstance(error, ProxyError):
                # A fault of ours: the client gets a constant 500, the log the trace.
                _log.exception("request %s failed", request_id)
            told = error if isinstance(error, ProxyError) else ProxyError("the proxy failed")
            if told.status == 505:
                # aiohttp answers in the version of the request, which we do not speak (RFC 9110 §15.6.6).
                incoming._cache["version"] = HttpVersion11
            answer = problem(told, accept=incoming.headers.get("Accept"), request_id=request_id)
        sent.status = answer.status
        try:
            return await self._sender.send(incoming, answer, sent)
        finally:
            self._tell(incoming, answer, sent, time.perf_counter() - began, request_id)

    async def idle(self) -> None:
        """Return once no request is under way."""
        await self._idle.wait()

    async def _answer(self, incoming: web.BaseRequest, sent: Sent) -> Answer:
        admit(incoming.method, incoming.raw_path, incoming.version, incoming.headers, self._hosts)
        path = incoming.raw_path.partition("?")[0]
        operation = self._operations.get("/admin" if path.startswith("/admin/") else path)
        if operation is not None:
            sent.kind = "admin" if path.startswith("/admin") else "operation"
            return await operation(incoming)
        # Only the JSON API's documents name it, and finding it out costs as much as a warm look-up.
        root = self._front.root(incoming) if path.endswith("/json") else ""
        request = translated(incoming, self._indexes, self._default, root)
        sent.kind = kind_of(request.target)
        return await self._gateway.answer(request)

    def _tell(self, incoming: web.BaseRequest, answer: Answer, sent: Sent, seconds: float, request_id: str) -> None:
        status = answer.cache_status
        event = Event(
            method=incoming.method,
            # A target in absolute form may carry credentials.
            path=incoming.raw_path.partition("?")[0] if incoming.raw_path.startswith("/") else "-",
            outcome=status.outcome,
            because=sent.because or status.because,
            status=sent.status,
            sent=sent.sent,
            seconds=seconds,
            upstream_seconds=answer.upstream_seconds,
            upstream_status=status.forward_status,
            collapsed=status.collapsed,
            aborted=sent.aborted,
            client=self._front.client(incoming),
            request_id=request_id,
            kind=sent.kind,
        )
        for observer in self._observers:
            observer(event)


class Connection(web.RequestHandler):
    """One client connection. What aiohttp's parser refuses gets a constant answer, never an echo of itself."""

    def data_received(self, data: bytes) -> None:
        """Tell whoever reads a body that it broke: aiohttp queues the mistake as a request of its own behind, and
        leaves the reader waiting for more."""
        super().data_received(data)
        request = self._current_request
        # Behind a body that is not over nothing else can begin.
        if request is not None and self._messages and not request.content.is_eof():
            request.content.set_exception(web.RequestPayloadError("the body is malformed"))

    def close(self) -> None:
        """Take no more requests. One that waits for its next request ends now: aiohttp would leave it open, and
        what its client asks then without an answer."""
        idle = self._waiter is not None and not self._waiter.done()
        super().close()
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
            error = Refused("the request is not well-formed HTTP", status=status)
        answer = problem(error, accept=None, request_id=secrets.token_hex(8))
        assert isinstance(answer.body, bytes)
        response = web.Response(status=answer.status, headers=dict(answer.headers), body=answer.body)
        response.headers["Server"] = "pip-cache-proxy"
        response.headers["Cache-Status"] = answer.cache_status.header()
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.force_close()
        return response


class Listener(web.Server):
    """Makes connections, a bounded number at a time: in all, and from one address that ``front`` does not trust to
    speak for many. ``refused`` counts those beyond, by the limit that they met."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], object],
        *,
        connections_max: int,
        per_address_max: int | None = None,
        front: Front = NO_FRONT,
        **kwargs: object,
    ) -> None:
        super().__init__(handler, **kwargs)  # type: ignore[arg-type]
        self._connections_max = connections_max
        self._per_address_max = connections_max if per_address_max is None else per_address_max
        self._front = front
        self.refused: Counter[str] = Counter()
        self._peers: dict[web.RequestHandler, str] = {}
        self._counts: Counter[str] = Counter()

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Refuse a connection beyond a limit by closing it at once."""
        super().connection_made(handler, transport)
        # TLS would let half a megabyte wait for each slow client.
        transport.set_write_buffer_limits(_WRITE_AHEAD)
        name = transport.get_extra_info("peername")
        self._peers[handler] = peer = str(name[0]) if isinstance(name, tuple) else UNIX
        self._counts[peer] += 1
        crowded = self._counts[peer] > self._per_address_max and peer != UNIX and not self._front.trusts(peer)
        if crowded or len(self.connections) > self._connections_max:
            self.refused[PER_ADDRESS if crowded else IN_ALL] += 1
            transport.abort()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Its place is free."""
        super().connection_lost(handler, exc)
        if (peer := self._peers.pop(handler, None)) is not None:
            self._counts[peer] -= 1
            if not self._counts[peer]:
                del self._counts[peer]

    def __call__(self) -> web.RequestHandler:
        """A protocol for one more connection."""
        return Connection(self, loop=self._loop, **self._kwargs)

    async def flushed(self) -> None:
        """Return once the system has taken all that was written for clients: it goes on sending when we are gone."""
        # asyncio tells nobody when a buffer has run empty: only the protocol that writes, and only below a mark.
        while any(_unsent(each.transport) for each in self.connections if each.transport is not None):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_AGAIN)

    def cut_all(self) -> None:
        """Reset every connection."""
        for connection in self.connections:
            if connection.transport is not None:
                reset(connection.transport)


def _unsent(transport: asyncio.Transport) -> int:
    """Bytes written that the system has not taken. asyncio's TLS transport counts its own only, not those of the
    transport below, which it does not show."""
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    count = transport.get_write_buffer_size()
    return count if below is None else count + int(below.get_write_buffer_size())
