"""Bodies of requests, read as somebody wants them: leave to send one is given when its first piece is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.answer import Upload
from proxy.errors import Refused

LOST = (ClientError, HttpProcessingError, ConnectionError, web.RequestPayloadError)
"""What aiohttp raises for a body that breaks off, or whose chunks are malformed."""


def upload_of(incoming: web.BaseRequest, stall: float) -> Upload | None:
    """The body of this request, None without one; its client may pause for ``stall`` seconds. Raises Refused (417)."""
    waits = waits_for_leave(incoming)
    if not incoming.body_exists:
        return None
    return Upload(_chunks(incoming, stall, waits), incoming.content_length)


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


async def _chunks(incoming: web.BaseRequest, stall: float, waits: bool) -> AsyncIterator[bytes]:
    try:
        if waits:
            await give_leave(incoming)
        while True:
            async with asyncio.timeout(stall):
                piece = await incoming.content.readany()
            if not piece:
                return
            yield piece
    except TimeoutError:
        raise Refused("the body did not come", status=408) from None
    except LOST:
        raise Refused("the body is malformed, or did not come") from None
