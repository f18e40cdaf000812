"""What an upstream answered, in our words: a Reply, or a failure with constant text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Set
from dataclasses import dataclass, field
from typing import Literal

import aiohttp
from aiohttp import ClientResponse, hdrs
from aiohttp.http_exceptions import HttpProcessingError

from proxy.core.fields import parse_retry_after
from proxy.core.messages import Head
from proxy.egress import Destination
from proxy.errors import UpstreamFailed

CHUNK = 256 * 1024
RETRY_AFTER = 2
"""Seconds after which a client may try again what failed with 503."""
TRICKLE = 1024
"""Bytes per second; who sends less sends nothing that anybody would wait for."""
REST_UNTOLD = 5.0
"""Seconds for which an origin is left alone that answers 429 and does not say until when."""
_DRAIN_WITHIN = 1.0
_LOOK_EVERY = 1.0
_CONDITIONS = frozenset({"if-none-match", "if-modified-since", "if-match", "if-unmodified-since"})
_SMALL_BODY = 16 * 1024
_HEAD_MOST = 64 * 1024
"""Bytes of all fields: those of warm heads stay in memory, a thousand at a time."""


@dataclass(slots=True)
class Reply:
    """A response whose body is still coming. ``url`` is the final one, ``length`` what it declared (a HEAD
    declares too), ``framed`` is true when Content-Length or chunked framing shows a cut; without either a
    complete body and a cut one look the same. ``chunks`` are at most 256 KiB each, not decoded, and raise
    UpstreamFailed on a cut, a stall or wrong framing."""

    head: Head
    url: str = field(repr=False)
    length: int | None
    framed: bool
    chunks: AsyncIterator[bytes]

    def account(self) -> tuple[int, str]:
        """Body bytes that came so far, and in constant words what kept the rest away ("": nothing)."""
        return (self.chunks.received, self.chunks.lost) if isinstance(self.chunks, _Chunks) else (0, "")


# All that aiohttp raises for a body that does not go on; RuntimeError when its connection is gone.
_BODY_LOST = (aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError)


class FailedHop(Exception):
    """``failure`` for the caller, and whether to ask again: ``transport``, ``protocol``, ``silence`` (of who took the
    request over a new connection), or ``final``. ``counts``: whether it says that the origin is in trouble; what we or
    a forward proxy refuse (502) does not. ``connected``: a connection stood, so that the trouble may be with what was
    asked for alone."""

    def __init__(
        self,
        kind: Literal["transport", "protocol", "silence", "final"],
        failure: UpstreamFailed,
        *,
        counts: bool = True,
        connected: bool = False,
    ) -> None:
        super().__init__(kind)
        self.kind = kind
        self.failure = failure
        self.counts = counts and failure.status == 503
        self.connected = connected


def passing(because: str, upstream_status: int | None = None) -> UpstreamFailed:
    return UpstreamFailed(because, status=503, retry_after=RETRY_AFTER, upstream_status=upstream_status)


def explained(exc: Exception, *, refused: bool, reused: bool) -> FailedHop:
    """An exception of aiohttp before the head, in our words. Order matters: its classes overlap. ``reused``: no
    connection was made for this request. That one of those kept is lost says nothing about the origin: a firewall
    forgets all of them at one time, and the next requests find out together."""
    if refused:
        return FailedHop("final", UpstreamFailed("an address this index may not be fetched from"))
    match exc:
        case aiohttp.ClientConnectorDNSError():
            return FailedHop("final", passing("the host name cannot be resolved"))
        case aiohttp.ClientSSLError():
            return FailedHop("final", passing("no trusted TLS connection"))
        case aiohttp.ClientHttpProxyError() if exc.status < 500:
            return FailedHop("final", UpstreamFailed("refused by the forward proxy"))
        case aiohttp.ClientHttpProxyError():
            return FailedHop("final", passing("the forward proxy cannot reach the host"))
        case aiohttp.ClientResponseError():
            return FailedHop("protocol", passing("a malformed response"), connected=True)
        case TimeoutError():
            connected = not isinstance(exc, aiohttp.ConnectionTimeoutError)
            silent = connected and not reused
            return FailedHop("silence" if silent else "transport", passing("no answer in time"), connected=connected)
        case aiohttp.InvalidURL() | ValueError():
            return FailedHop("final", UpstreamFailed("no valid host in a URL"))
        case aiohttp.ClientConnectorError():
            return FailedHop("transport", passing("no connection"))
        case _:
            because = "connection lost before the answer"
            return FailedHop("transport", passing(because), counts=not reused, connected=True)


def violation_of(response: ClientResponse, asked: Set[str]) -> str | None:
    """Why this head cannot be an answer to a request with these fields (lower case); None when it can."""
    codings = [value.strip().lower() for value in response.headers.getall(hdrs.TRANSFER_ENCODING, ())]
    lengths = response.headers.getall(hdrs.CONTENT_LENGTH, ())
    if response.status < 200:
        return "a switch of protocols nobody asked for"
    if sum(len(name) + len(value) for name, value in response.raw_headers) > _HEAD_MOST:
        return "a head that is larger than allowed"
    if response.status == 304 and not _CONDITIONS & asked:
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


def rest_of(response: ClientResponse) -> float | None:
    """Seconds for which the origin asks to be left alone, by a 429 or with a 503; None when it does not."""
    told = parse_retry_after(response.headers.get(hdrs.RETRY_AFTER), time.time())
    if response.status == 429:
        return REST_UNTOLD if told is None else told
    return told if response.status == 503 else None


def location_header(response: ClientResponse) -> bytes:
    found = [value for name, value in response.raw_headers if name.lower() == b"location"]
    if len(found) != 1:
        raise UpstreamFailed("a redirect that leads nowhere", upstream_status=response.status)
    return found[0]


async def drain(response: ClientResponse) -> None:
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


def reply_of(response: ClientResponse, there: Destination, asked_at: float, *, bodiless: bool, idle: float) -> Reply:
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers)
    head = Head(response.status, headers, asked_at, time.time())
    length = response.content_length
    bodiless = bodiless or response.status in (204, 304)
    framed = bodiless or length is not None or hdrs.TRANSFER_ENCODING in response.headers
    return Reply(head, there.url, length, framed, _Chunks(response, 0 if bodiless else length, idle))


class _Chunks:
    """The body as it comes. Nothing is read ahead beyond aiohttp's buffer of twice 256 KiB: a slow reader
    stops the socket, and with it the idle timer. Less than TRICKLE over ``idle`` seconds of waiting is a stall."""

    def __init__(self, response: ClientResponse, expected: int | None, idle: float) -> None:
        self._response = response
        self._missing = expected
        self._idle = idle
        self._waited = 0.0
        self._came = 0
        self.received = 0
        self.lost = ""

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        began = time.monotonic()
        try:
            data = await self._read()
        except TimeoutError:
            raise self._ended("the body came to a stop") from None
        except _BODY_LOST:
            raise self._ended("the body was cut") from None
        self.received += len(data)
        if self._missing is not None:
            self._missing -= len(data)
            if self._missing < 0 or (self._missing and not data):
                raise self._ended("a body of another length than declared")
        if not data:
            raise StopAsyncIteration
        if self._missing != 0:
            self._watch(time.monotonic() - began, len(data))
        return data

    def _watch(self, waited: float, came: int) -> None:
        """Raise when too little came while we waited; the time that our own reader takes is not counted."""
        self._waited += waited
        self._came += came
        if self._waited >= self._idle:
            if self._came < TRICKLE * self._waited:
                raise self._ended("the body came to a stop")
            self._waited, self._came = 0.0, 0

    def _ended(self, because: str) -> UpstreamFailed:
        self.lost = because
        return passing(because)

    async def _read(self) -> bytes:
        """At most 256 KiB, b"" at the end.

        When chunk framing breaks in mid-body, aiohttp's C parser closes the connection and stops the idle
        timer, but never wakes who waits for the body: so the wait is begun anew every second, which it refuses
        (RuntimeError) on a connection that is gone.
        """
        if data := self._response.content.read_nowait(CHUNK):
            return data
        while True:
            try:
                async with asyncio.timeout(_LOOK_EVERY) as look:
                    return await self._response.content.read(CHUNK)
            except TimeoutError:
                if not look.expired():
                    raise
