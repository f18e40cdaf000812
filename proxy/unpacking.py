"""A whole body, decoded: gzip with a check for its end, and bounds that stop a bomb early."""

from __future__ import annotations

import asyncio
import io
import zlib

from proxy.errors import UpstreamFailed
from proxy.replies import CHUNK, Reply, passing

_MEMBERS = 1024
_RATIO_FROM = 1024 * 1024


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
            raise passing("a gzip body that ends early")
        return super().finish()
