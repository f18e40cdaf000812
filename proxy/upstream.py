"""One request to an index, streamed back: pools, egress guard, redirects by hand, retries before the first
byte.

The only module that speaks HTTP as a client. Every way to fail ends in UpstreamFailed with constant text: no
URL, no header and no aiohttp exception leaves this module.
"""

from __future__ import annotations

import asyncio
import errno
import io
import random
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import aiohttp
from aiohttp import ClientResponse, ClientSession, ClientTimeout, TCPConnector, hdrs
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from proxy import egress
from proxy.core.messages import Head
from proxy.egress import Address, Destination
from proxy.errors import UpstreamFailed

Pool = Literal["page", "file"]

CHUNK = 256 * 1024
RETRY_AFTER = 2
"""Seconds after which a client may try again what failed with 503."""

HEAD_WITHIN = 60.0
"""Seconds until the head of the final response, with redirects, retries and the wait for a connection."""

_STOPPING = "the proxy is shutting down"
_OWN_ADDRESSES_FOR = 60.0
_DRAIN_WITHIN = 1.0
_PAUSE = (0.1, 0.5)
_LOOK_EVERY = 1.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONDITIONS = frozenset({"if-none-match", "if-modified-since", "if-match", "if-unmodified-since"})
_ONLY_TO_OWN_ORIGIN = frozenset({"authorization", "cookie"})
_SMALL_BODY = 16 * 1024
_MEMBERS = 1024
_RATIO_FROM = 1024 * 1024
_FIELD_LIMIT = 8190
_FIELDS = 128


@dataclass(frozen=True, slots=True)
class Site:
    """An index as its operator configured it. ``proxy`` is the URL of a forward proxy; ``ca_file`` is trusted
    beside the system's own certificates; ``private`` lets its pages name private addresses."""

    name: str
    url: str
    private: bool = False
    proxy: str | None = None
    ca_file: str | None = None


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
class Reply:
    """A response whose body is still coming. ``url`` is the final one, ``length`` what it declared (a HEAD
    declares too), ``framed`` is true when Content-Length or chunked framing shows a cut; without either a
    complete body and a cut one look the same. ``chunks`` are at most 256 KiB each, not decoded, and raise
    UpstreamFailed on a cut, a stall or wrong framing."""

    head: Head
    url: str
    length: int | None
    framed: bool
    chunks: AsyncIterator[bytes]


# All that aiohttp raises for a body that does not go on; RuntimeError when its connection is gone.
_BODY_LOST = (aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError)


class Upstream:
    """All that is asked of all indexes. Connections are per index and pool: one that was opened under the
    permissions of one index is never used by another, and big files never keep pages waiting."""

    def __init__(self, sites: Sequence[Site], *, pages: Budget = PAGES, files: Budget = FILES) -> None:
        self._sites = {site.name: (site, egress.parse(site.url)) for site in sites}
        self._budgets: dict[Pool, Budget] = {"page": pages, "file": files}
        self._sessions: dict[tuple[str, Pool], ClientSession] = {}
        self._trusts: dict[str, ssl.SSLContext] = {}
        self._own: dict[str, tuple[float, frozenset[Address]]] = {}
        self._closed = False

    async def close(self) -> None:
        """Close every connection, also those in use; later requests fail with 503."""
        self._closed = True
        sessions = list(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()

    def open(
        self, index: str, url: str, *, pool: Pool, headers: Mapping[str, str], method: str = "GET"
    ) -> AbstractAsyncContextManager[Reply]:
        """Ask for ``url`` (absolute, spelled as it is to be sent) under the permissions of ``index``.

        Any HTTP status but a redirect comes back as a Reply. UpstreamFailed: 502 for what the egress guard
        refuses and for a protocol error, 503 with ``retry_after`` for what may pass. Only GET and HEAD.
        Leaving the context closes the connection unless the body was read to its end.
        """
        return self._open(index, url, pool, headers, method)

    @asynccontextmanager
    async def _open(
        self, index: str, url: str, pool: Pool, headers: Mapping[str, str], method: str
    ) -> AsyncIterator[Reply]:
        site, configured = self._sites[index]
        budget = self._budgets[pool]
        now = asyncio.get_running_loop().time()
        ends = None if budget.total is None else now + budget.total
        coding = {"accept-encoding": "gzip" if pool == "page" else "identity"}
        call = _Call(
            site, configured, budget, self._session(site, pool), method, ends, budget.retries,
            coding | {name.lower(): value for name, value in headers.items()},
        )  # fmt: skip
        try:
            async with asyncio.timeout(min(HEAD_WITHIN, budget.total or HEAD_WITHIN)):
                response, there, asked_at = await self._follow(call, url)
        except TimeoutError:
            raise _passing("no answer in time") from None
        try:
            yield _reply(response, there, asked_at, bodiless=method == "HEAD")
        finally:
            # A body read to its end has given its connection back already, then this does nothing.
            response.close()

    async def _follow(self, call: _Call, url: str) -> tuple[ClientResponse, Destination, float]:
        proxied = call.site.proxy is not None
        here = egress.parse(url)
        egress.admit(here, call.configured, proxied=proxied)
        for _ in range(call.budget.redirects + 1):
            response, asked_at = await self._answered(call, here)
            if response.status not in _REDIRECTS:
                return response, here, asked_at
            try:
                there = egress.follow(here, _location(response))
                egress.admit(there, call.configured, proxied=proxied, here=here)
                await _drain(response)
            finally:
                response.close()
            here = there
        raise UpstreamFailed("more redirects than allowed")

    async def _answered(self, call: _Call, there: Destination) -> tuple[ClientResponse, float]:
        """One hop, asked again where that may help: nothing of an answer has been used yet, and GET and HEAD
        are idempotent (RFC 9110 §9.2.2)."""
        while True:
            try:
                return await self._ask(call, there)
            except _Failed as failed:
                if not call.may_retry(failed.kind):
                    # Without its context: that would carry the URL into a traceback.
                    raise failed.failure from None
            await asyncio.sleep(random.uniform(*_PAUSE))

    async def _ask(self, call: _Call, there: Destination) -> tuple[ClientResponse, float]:
        site = call.site
        # With a forward proxy the only socket is the one to it, and its host was configured.
        named = site.proxy is None and there.host != call.configured.host
        own = await self._own_addresses(call) if named else frozenset()
        flight = _Flight(not named, own, site.private, call.budget.connect)
        verify = await self._trust(site.ca_file) if site.ca_file else True
        if call.session.closed:
            raise _passing(_STOPPING)
        current = _FLIGHT.set(flight)
        asked_at = time.time()
        try:
            response = await call.session.request(
                call.method,
                URL(there.url, encoded=True),
                headers=call.headers_for(there),
                allow_redirects=False,
                ssl=verify,
                proxy=site.proxy,
                proxy_headers={hdrs.USER_AGENT: _user_agent()} if site.proxy else None,
                timeout=call.timeout(),
            )
        except (aiohttp.ClientError, OSError, ValueError, _Dropped) as exc:
            raise _failed(exc, flight) from None
        except asyncio.CancelledError:
            # close() cancels what waits for a connection or a name. Nobody cancelled this task then, and a
            # CancelledError it did not ask for would end it without a word.
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise _passing(_STOPPING) from None
            raise
        finally:
            _FLIGHT.reset(current)
        violation = _violation(response, call.headers)
        if violation is not None:
            response.close()
            raise _Failed("protocol", UpstreamFailed(violation, upstream_status=response.status))
        return response, asked_at

    async def _own_addresses(self, call: _Call) -> frozenset[Address]:
        """Where the index's own host is now, as far back as a minute; nowhere when it cannot be resolved, so
        that doubt allows less."""
        loop = asyncio.get_running_loop()
        until, addresses = self._own.get(call.site.name, (0.0, frozenset[Address]()))
        if loop.time() < until:
            return addresses
        place = call.configured
        try:
            async with asyncio.timeout(call.budget.connect):
                infos = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
            addresses = frozenset(egress.address_of(str(info[4][0])) for info in infos)
        except (OSError, ValueError):
            addresses = frozenset()
        self._own[call.site.name] = (loop.time() + _OWN_ADDRESSES_FOR, addresses)
        return addresses

    async def _trust(self, ca_file: str) -> ssl.SSLContext:
        """Made on first use and in a thread: reading the system's certificates takes tens of milliseconds."""
        if ca_file not in self._trusts:
            try:
                self._trusts[ca_file] = await asyncio.to_thread(_trusting, ca_file)
            except (OSError, ValueError):
                raise UpstreamFailed("the CA file of the index cannot be used") from None
        return self._trusts[ca_file]

    def _session(self, site: Site, pool: Pool) -> ClientSession:
        if self._closed:
            raise _passing(_STOPPING)
        session = self._sessions.get((site.name, pool))
        if session is None:
            session = self._sessions[site.name, pool] = _session(self._budgets[pool])
        return session


async def read_body(reply: Reply, *, limit: int, ratio: int = 200) -> bytes:
    """The whole body, decoded. UpstreamFailed when it is cut, longer than ``limit`` decoded bytes, coded as
    anything but gzip (RFC 9110 §8.4.1.3), or when, beyond 1 MiB, it grows more than ``ratio`` times."""
    codings = [each.strip().lower() for each in (reply.head.header("content-encoding") or "").split(",")]
    codings = [each for each in codings if each not in ("", "identity")]
    if codings and codings not in (["gzip"], ["x-gzip"]):
        raise UpstreamFailed("a content coding that was not asked for")
    if reply.length is not None and reply.length > limit:
        raise UpstreamFailed("a body larger than allowed")
    body = _Unpacked(limit, ratio) if codings else _Whole(limit)
    async for chunk in reply.chunks:
        await body.feed(chunk)
    return body.finish()


class _Whole:
    """A body as it comes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = io.BytesIO()

    async def feed(self, data: bytes) -> None:
        self._keep(data)

    def _keep(self, part: bytes) -> None:
        self._kept.write(part)
        if self._kept.tell() > self._limit:
            raise UpstreamFailed("a body larger than allowed")

    def finish(self) -> bytes:
        return self._kept.getvalue()


class _Unpacked(_Whole):
    """A gzip body, decoded in steps of 256 KiB with a turn of the event loop after each: neither a bomb nor
    an honest 40 MB page stops the other clients."""

    def __init__(self, limit: int, ratio: int) -> None:
        super().__init__(limit)
        self._ratio = ratio
        self._fed = self._members = 0
        self._member = zlib.decompressobj(wbits=31)

    async def feed(self, data: bytes) -> None:
        self._fed += len(data)
        while data:
            if self._member.eof:  # RFC 1952 §2.2: members follow one another; anything else is an error
                self._members += 1
                if self._members == _MEMBERS:
                    raise UpstreamFailed("a gzip body of too many members")
                self._member = zlib.decompressobj(wbits=31)
            try:
                part = self._member.decompress(data, CHUNK)
            except zlib.error:
                raise UpstreamFailed("a gzip body that cannot be decoded") from None
            self._keep(part)
            if self._kept.tell() > max(_RATIO_FROM, self._ratio * self._fed):
                raise UpstreamFailed("a gzip body that grows too much")
            # With all input taken, output may still wait inside zlib. It comes with the next input: the
            # 8 bytes that end a member are not taken before all of its output is out.
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            await asyncio.sleep(0)

    def finish(self) -> bytes:
        if not self._member.eof:  # aiohttp takes a stream cut here for a good one when Content-Length agrees
            raise _passing("a gzip body that ends early")
        return super().finish()


@dataclass(slots=True)
class _Call:
    """What stays the same, and what is used up, over the redirects and retries of one request."""

    site: Site
    configured: Destination
    budget: Budget
    session: ClientSession
    method: str
    ends: float | None
    retries: int
    headers: Mapping[str, str]
    asked_again: bool = False

    def may_retry(self, kind: str) -> bool:
        """Count one more try, at most ``budget.retries`` in all and one of them for a protocol error; none when
        ``total`` would end before it."""
        if self.ends is not None and asyncio.get_running_loop().time() + _PAUSE[0] >= self.ends:
            return False
        if kind == "final" or self.retries == 0 or (kind == "protocol" and self.asked_again):
            return False
        self.retries -= 1
        self.asked_again = self.asked_again or kind == "protocol"
        return True

    def headers_for(self, there: Destination) -> dict[str, str]:
        """Credentials of an index go to its own origin only."""
        same = there.origin == self.configured.origin
        return {name: value for name, value in self.headers.items() if same or name not in _ONLY_TO_OWN_ORIGIN}

    def timeout(self) -> ClientTimeout:
        """No limit on the wait for a free connection of the pool but HEAD_WITHIN: it says nothing about the
        host. ``total`` goes on through the body."""
        left = None
        if self.ends is not None:
            left = max(0.001, self.ends - asyncio.get_running_loop().time())
        return ClientTimeout(total=left, connect=None, sock_connect=self.budget.connect, sock_read=self.budget.idle)


@dataclass(slots=True)
class _Flight:
    """What the request in flight is permitted, and what became of its sockets."""

    everywhere: bool
    own: frozenset[Address]
    private: bool
    connect: float
    refused: bool = False
    made: bool = False
    until: float = 0.0


# aiohttp hands socket_factory an address and nothing else. It calls it in the task of the request, or in
# tasks that this one started to race addresses (they copy its context): all see the flight that was set.
# Without a flight get() raises: no socket is ever made that nobody permitted.
_FLIGHT: ContextVar[_Flight] = ContextVar("flight")


def _socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """The egress guard. Here every address passes, also literals, and after the last name look-up."""
    flight = _FLIGHT.get()
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


class _Connector(TCPConnector):
    """Never gives out a connection on which something came before anything was asked.

    RFC 9112 §9.2: such data is not a response. aiohttp keeps a well-formed message that arrives on an idle
    connection and hands it to the next request: that answer, and every one after it, belonged to another URL.
    """

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
        async with asyncio.timeout(self._seconds):
            return await super().resolve(host, port, family)


class _Dropped(Exception):
    """A connection lost before the head. Not one of aiohttp's classes, which it would try again by itself."""


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> ClientResponse:
    """Middleware that leaves retries to us, so that they are counted and spaced."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        raise _Dropped from None


def _session(budget: Budget) -> ClientSession:
    return ClientSession(
        connector=_Connector(
            limit=budget.pool,
            limit_per_host=budget.pool_per_host,
            socket_factory=_socket,
            resolver=_Resolver(budget.connect),
        ),
        headers={hdrs.USER_AGENT: _user_agent()},
        skip_auto_headers=(hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.USER_AGENT, hdrs.CONTENT_TYPE),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=CHUNK,
        max_line_size=_FIELD_LIMIT,
        max_field_size=_FIELD_LIMIT,
        max_headers=_FIELDS,
        middlewares=(_once,),
    )


def _user_agent() -> str:
    from proxy import __version__

    return f"pip-cache-proxy/{__version__}"


def _trusting(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Failed(Exception):
    """``failure`` for the caller, and whether to ask again: ``transport``, ``protocol``, or ``final``."""

    def __init__(self, kind: Literal["transport", "protocol", "final"], failure: UpstreamFailed) -> None:
        super().__init__(kind)
        self.kind = kind
        self.failure = failure


def _passing(because: str) -> UpstreamFailed:
    return UpstreamFailed(because, status=503, retry_after=RETRY_AFTER)


def _failed(exc: Exception, flight: _Flight) -> _Failed:
    """An exception of aiohttp before the head, in our words. Order matters: its classes overlap."""
    if flight.refused and not flight.made:
        return _Failed("final", UpstreamFailed("an address this index may not be fetched from"))
    match exc:
        case aiohttp.ClientConnectorDNSError():
            return _Failed("final", _passing("the host name cannot be resolved"))
        case aiohttp.ClientSSLError():
            return _Failed("final", _passing("no trusted TLS connection"))
        case aiohttp.ClientHttpProxyError() if exc.status < 500:
            return _Failed("final", UpstreamFailed("refused by the forward proxy"))
        case aiohttp.ClientHttpProxyError():
            return _Failed("final", _passing("the forward proxy cannot reach the host"))
        case aiohttp.ClientResponseError():
            return _Failed("protocol", UpstreamFailed("a malformed response"))
        case TimeoutError():
            return _Failed("transport", _passing("no answer in time"))
        case aiohttp.InvalidURL() | ValueError():
            return _Failed("final", UpstreamFailed("no valid host in a URL"))
        case aiohttp.ClientConnectorError():
            return _Failed("transport", _passing("no connection"))
        case _:
            return _Failed("transport", _passing("connection lost before the answer"))


def _violation(response: ClientResponse, asked: Mapping[str, str]) -> str | None:
    """Why this head cannot be an answer to what was asked; None when it can."""
    codings = [value.strip().lower() for value in response.headers.getall(hdrs.TRANSFER_ENCODING, ())]
    lengths = response.headers.getall(hdrs.CONTENT_LENGTH, ())
    if response.status < 200:
        return "a switch of protocols nobody asked for"
    if response.status == 304 and not _CONDITIONS & asked.keys():
        return "not modified, without a condition"
    if response.status == 206 and "range" not in asked:
        return "a part, without a range"
    # RFC 9112 §6.1, §6.3: chunked is all we understand, and not from HTTP/1.0; beside a length, or with two
    # lengths, one of the two ends is a lie.
    if codings and (codings != ["chunked"] or lengths or response.version != aiohttp.HttpVersion11):
        return "a framing that is not understood"
    if len(lengths) > 1:
        return "more than one length"
    return None


def _location(response: ClientResponse) -> bytes:
    found = [value for name, value in response.raw_headers if name.lower() == b"location"]
    if len(found) != 1:
        raise UpstreamFailed("a redirect that leads nowhere", upstream_status=response.status)
    return found[0]


async def _drain(response: ClientResponse) -> None:
    """Read the short body of a redirect, so that its connection can be used again; a long or slow one is not
    worth it."""
    length = response.content_length
    if length is None or length > _SMALL_BODY:
        return
    try:
        async with asyncio.timeout(_DRAIN_WITHIN):
            await response.content.read(_SMALL_BODY)
    except _BODY_LOST:
        response.close()


def _reply(response: ClientResponse, there: Destination, asked_at: float, *, bodiless: bool) -> Reply:
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers)
    head = Head(response.status, headers, asked_at, time.time())
    length = response.content_length
    bodiless = bodiless or response.status in (204, 304)
    framed = bodiless or length is not None or hdrs.TRANSFER_ENCODING in response.headers
    return Reply(head, there.url, length, framed, _Chunks(response, 0 if bodiless else length))


class _Chunks:
    """The body as it comes. Nothing is read ahead beyond aiohttp's buffer of twice 256 KiB: a slow reader
    stops the socket, and with it the idle timer."""

    def __init__(self, response: ClientResponse, expected: int | None) -> None:
        self._response = response
        self._missing = expected

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        try:
            data = await self._read()
        except TimeoutError:
            raise _passing("the body came to a stop") from None
        except _BODY_LOST:
            raise _passing("the body was cut") from None
        if self._missing is not None:
            self._missing -= len(data)
            if self._missing < 0 or (self._missing and not data):
                raise _passing("a body of another length than declared")
        if not data:
            raise StopAsyncIteration
        return data

    async def _read(self) -> bytes:
        """At most 256 KiB, b"" at the end.

        When chunk framing breaks in mid-body, aiohttp's C parser closes the connection and stops the idle
        timer, but never wakes who waits for the body: so the wait is begun anew every second, which it refuses
        (RuntimeError) on a connection that is gone.
        """
        while True:
            try:
                async with asyncio.timeout(_LOOK_EVERY) as look:
                    return await self._response.content.read(CHUNK)
            except TimeoutError:
                if not look.expired():
                    raise
