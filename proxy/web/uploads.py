"""Bodies of requests, read as somebody wants them: leave to send one is given when its first piece is asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.answer import Upload
from proxy.errors import Refused

LOST = (ClientError, HttpProcessingError, ConnectionError, web.RequestPayloadError)
"""What aiohttp raises for a body that breaks off, or whose chunks are malformed."""
TRICKLE = 1024
"""Bytes per second; who sends less holds a connection to the upstream that others wait for."""
_BUFFERED = 32 * 1024
"""Bytes that aiohttp takes at least before anybody reads them: its own limit is twice that."""


def upload_of(incoming: web.BaseRequest, stall: float) -> Upload | None:
    """The body of this request, None without one. Its client may pause for ``stall`` seconds, and over as many it sends
    TRICKLE at least, also before anybody asks for it. Raises Refused (417)."""
    waits = waits_for_leave(incoming)
    if not incoming.body_exists:
        return None
    return Upload(_chunks(incoming, stall, waits, time.monotonic()), incoming.content_length)


def waits_for_leave(incoming: web.BaseRequest) -> bool:
    """RFC 9110 §10.1.1: whether the client sends its body only when it is told to. Raises Refused (417)."""
    expected = incoming.headers.get("Expect")
    if expected is None or incoming.version < (1, 1):
        return False
    if expected.strip().lower() != "100-continue":
        raise Refused("this expectation cannot be met", status=417)
    return True


async def give_leave(incoming: web.BaseRequest) -> None:
    """Send 100 (Continue), unless the body is on its way already, or the answer."""
    content, writer = incoming.content, incoming.writer
    if not content.is_eof() and not content.total_bytes and not writer.output_size:
        await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # That was no part of the answer, whose head is not out yet.
        writer.output_size = 0


async def _chunks(incoming: web.BaseRequest, stall: float, waits: bool, began: float) -> AsyncIterator[bytes]:
    try:
        if waits:
            await give_leave(incoming)
            began = time.monotonic()
        # While the upstream has no place for it, the client sends as much as our buffer takes: who has not even sent
        # that must not hold the place as well.
        waited, came = time.monotonic() - began, 0
        while True:
            began = time.monotonic()
            async with asyncio.timeout(stall):
                piece = await incoming.content.readany()
            if not piece:
                return
            waited, came = waited + time.monotonic() - began, came + len(piece)
            if waited >= stall:
                if came < min(TRICKLE * waited, _BUFFERED) and not incoming.content.at_eof():
                    raise TimeoutError
                waited, came = 0.0, 0
            yield piece
    except TimeoutError:
        raise Refused("the body did not come", status=408) from None
    except LOST:
        raise Refused("the body is malformed, or did not come") from None
