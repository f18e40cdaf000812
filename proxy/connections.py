"""Sockets to upstreams: pools, name look-ups, TLS, and the egress guard where the socket is made."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from aiohttp import ClientResponse, ClientSession, ClientTimeout, TCPConnector, hdrs
from aiohttp.client_proto import ResponseHandler

from proxy import egress
from proxy.core.messages import Headers
from proxy.egress import Address
from proxy.replies import CHUNK

_FIELD_LIMIT = 8190
_FIELDS = 128
_EXPECTED_WITH_A_BODY = frozenset({"POST", "PUT", "PATCH"})


@dataclass(frozen=True, slots=True)
class Budget:
    """Seconds and counts for one request. ``connect`` is for one name look-up, and for socket and TLS
    together; ``idle`` between two bytes; ``total`` up to the last byte of the body, None for as long as bytes
    come. ``pool`` bounds the connections in use per index, ``pool_per_host`` those to one host and port."""

    connect: float = 3.5
    idle: float = 30.0
    total: float | None = None
    retries: int = 2
    redirects: int = 5
    pool: int = 20
    pool_per_host: int = 10


PAGES = Budget(total=60.0)
FILES = Budget()


@dataclass(slots=True)
class Flight:
    """What the request in flight is permitted, and what became of its sockets. ``lines`` are sent with its headers."""

    everywhere: bool
    own: frozenset[Address]
    private: bool
    connect: float
    lines: Headers = ()
    refused: bool = False
    made: bool = False
    until: float = 0.0


# aiohttp hands socket_factory an address and nothing else. It calls it in the task of the request, or in
# tasks that this one started to race addresses (they copy its context): all see the flight that was set.
# Without a flight get() raises: no socket is ever made that nobody permitted.
FLIGHT: ContextVar[Flight] = ContextVar("flight")


def _socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """The egress guard. Here every address passes, also literals, and after the last name look-up."""
    flight = FLIGHT.get()
    family, kind, protocol, _, place = info
    now = time.monotonic()
    if not flight.until:
        flight.until = now + flight.connect
    elif now > flight.until:
        # aiohttp gives its connect timeout to each address anew; a name with 20 of them must not take 70 s.
        raise TimeoutError(errno.ETIMEDOUT, "no time left for another address")
    address = egress.address_of(str(place[0]))
    if not flight.everywhere and not egress.permitted(address, own=flight.own, private=flight.private):
        flight.refused = True
        raise PermissionError(errno.EACCES, "refused by the egress guard")
    flight.made = True
    return socket.socket(family, kind, protocol)


class _Protocol(ResponseHandler):
    """Hears what an upstream said before it hung up on an upload.

    RFC 9112 §9.6: who answers early and closes at once resets the connection. asyncio reads no more when a write fails
    over that, while the answer lies in the socket.
    """

    def connection_lost(self, exc: BaseException | None) -> None:
        transport = self.transport
        if isinstance(exc, ConnectionError) and transport is not None and not transport.get_extra_info("sslcontext"):
            with suppress(OSError), transport.get_extra_info("socket").dup() as left:
                while not self._reading_paused and (data := left.recv(CHUNK)):
                    self.data_received(data)
        super().connection_lost(exc)


class _AsDeclared(_Protocol):
    """For mounts: a body ends where its length says, however the bytes are cut into segments.

    RFC 9112 §6.3: Content-Length "defines the expected message body length", and what comes behind the last response
    may be discarded. Of a head that comes in one piece with too much, aiohttp's parser would keep nothing.
    """

    def data_received(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n", 0, CHUNK) + 4
        if 4 <= end < len(data):
            super().data_received(data[:end])
            data = data[end:]
        super().data_received(data)


class _Connector(TCPConnector):
    """Never gives out a connection on which something came before anything was asked.

    RFC 9112 §9.2: such data is not a response. aiohttp keeps a well-formed message that arrives on an idle
    connection and hands it to the next request: that answer, and every one after it, belonged to another URL.
    """

    def __init__(self, protocol: type[_Protocol], **options: Any) -> None:
        super().__init__(**options)
        self._factory = partial(protocol, loop=self._loop)  # type: ignore[assignment] # partial is invariant

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[aiohttp.tracing.Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> aiohttp.connector.Connection:
        connection = await super().connect(req, traces, timeout)
        protocol = connection.protocol
        if protocol is None or len(protocol) or protocol.should_close:
            connection.close()
            raise aiohttp.ServerDisconnectedError
        return connection


class _Resolver(aiohttp.ThreadedResolver):
    """The system's resolver, bounded: aiohttp's connect timeout starts only after it."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[aiohttp.abc.ResolveResult]:
        try:
            async with asyncio.timeout(self._seconds):
                return await super().resolve(host, port, family)
        except TimeoutError:
            raise aiohttp.ConnectionTimeoutError from None


class Dropped(Exception):
    """A connection lost before the head. Not one of aiohttp's classes, which it would try again by itself."""


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> ClientResponse:
    """Middleware that leaves retries to us, so that they are counted and spaced."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        raise Dropped from None


async def _as_it_came(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> ClientResponse:
    """Middleware for the lines of a client: in its arguments aiohttp takes two spellings of a name for one line. And it
    gives a DELETE or a PROPFIND without a body a length of 0, of which nobody has spoken (RFC 9110 §8.6)."""
    if not request.body and request.method not in _EXPECTED_WITH_A_BODY:
        request.headers.popall(hdrs.CONTENT_LENGTH, None)
    for name, value in FLIGHT.get().lines:
        request.headers.add(name, value)
    return await handler(request)


def open_session(budget: Budget, *, agent: str | None) -> ClientSession:
    """``agent``: what User-Agent says of us; None where the client's own counts."""
    return ClientSession(
        connector=_Connector(
            _AsDeclared if agent is None else _Protocol,
            limit=budget.pool,
            limit_per_host=budget.pool_per_host,
            socket_factory=_socket,
            resolver=_Resolver(budget.connect),
        ),
        headers=None if agent is None else {hdrs.USER_AGENT: agent},
        skip_auto_headers=(hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.USER_AGENT, hdrs.CONTENT_TYPE),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=CHUNK,
        max_line_size=_FIELD_LIMIT,
        max_field_size=_FIELD_LIMIT,
        max_headers=_FIELDS,
        middlewares=(_once, _as_it_came),
    )


def user_agent() -> str:
    from proxy import __version__

    return f"pip-cache-proxy/{__version__}"


def trusting(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context
