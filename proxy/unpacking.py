"""A body, decoded: gzip with a check for its end, and bounds that stop a bomb early."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator

from isal import isal_zlib

from proxy.errors import UpstreamFailed
from proxy.replies import CHUNK, Reply, passing

RATIO = 200
_MAGIC = b"\x1f\x8b"
_MEMBERS = 1024
_RATIO_FROM = 1024 * 1024


async def read_body(reply: Reply, *, limit: int, ratio: int = RATIO) -> bytes:
    """The whole body, decoded. UpstreamFailed when it is cut, longer than ``limit`` decoded bytes, coded as
    anything but gzip (RFC 9110 §8.4.1.3), or when, beyond 1 MiB, it grows more than ``ratio`` times.

    It is decoded in steps of 256 KiB with a turn of the event loop after each: neither a bomb nor an honest 40 MB
    page stops the other clients."""
    return (await read_coded(reply, limit=limit, ratio=ratio, most=0))[1]()


async def read_coded(
    reply: Reply, *, limit: int, ratio: int = RATIO, most: int = 2**20
) -> tuple[int, Callable[[], bytes]]:
    """How many bytes came, and what decodes them as ``read_body`` does: for another thread. Of more than ``most`` bytes
    nothing is left for it: a bomb is not waited for to its end."""
    decoder = decoder_of(reply, limit=limit, ratio=ratio)
    kept, came = io.BytesIO(), 0
    waiting: list[bytes] = []
    async for chunk in reply.chunks:
        waiting.append(chunk)
        came += len(chunk)
        if came <= most:
            continue
        for each in waiting:
            for part in decoder.parts(each):
                kept.write(part)
                await asyncio.sleep(0)
        waiting.clear()

    def decoded() -> bytes:
        for each in waiting:
            kept.writelines(decoder.parts(each))
        decoder.finish()
        return kept.getvalue()

    return came, decoded


def decoder_of(reply: Reply, *, limit: int, ratio: int = RATIO) -> Decoder:
    """What undoes the coding of this reply. UpstreamFailed when it is none that was asked for, or when the body
    is declared larger than allowed."""
    codings = [each.strip().lower() for each in (reply.head.header("content-encoding") or "").split(",")]
    codings = [each for each in codings if each not in ("", "identity")]
    if codings and codings not in (["gzip"], ["x-gzip"]):
        raise UpstreamFailed("a content coding that was not asked for")
    if reply.length is not None and reply.length > limit:
        raise UpstreamFailed("a body larger than allowed")
    return Gunzip(limit, ratio) if codings else Decoder(limit)


class Decoder:
    """Takes a body as it comes, up to ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._made = 0

    def parts(self, data: bytes) -> Iterator[bytes]:
        """The next bytes decoded, at most 256 KiB at a time."""
        self._made += len(data)
        if self._made > self._limit:
            raise UpstreamFailed("a body larger than allowed")
        yield data

    def finish(self) -> None:
        """There is no more. UpstreamFailed when there should be."""


class Gunzip(Decoder):
    """The same for a gzip body (RFC 1952), which may not be more than ``ratio`` times what came."""

    def __init__(self, limit: int, ratio: int = RATIO) -> None:
        super().__init__(limit)
        self._ratio = ratio
        self._fed = self._members = 0
        self._start = b""
        self._member = isal_zlib.decompressobj(wbits=31)

    def parts(self, data: bytes) -> Iterator[bytes]:
        """See ``Decoder``."""
        waits = False
        while data or waits:
            if self._member.eof:  # §2.2: members follow one another; anything else is an error
                self._members += 1
                if self._members == _MEMBERS:
                    raise UpstreamFailed("a gzip body of too many members")
                self._start, self._member = b"", isal_zlib.decompressobj(wbits=31)
            # ISA-L waits for a whole header before it says that it is none.
            self._start += data[: len(_MAGIC) - len(self._start)]
            if not _MAGIC.startswith(self._start):
                raise passing("a gzip body that cannot be decoded")
            try:
                part = self._member.decompress(data, CHUNK)
            except isal_zlib.error:  # type: ignore[misc] # its stub has an instance for a class
                raise passing("a gzip body that cannot be decoded") from None
            # With all input taken, output may still wait inside.
            waits = len(part) == CHUNK and not self._member.eof
            left = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            self._fed += len(data) - len(left)  # what waits has not grown yet: a chunk of it may be a bomb of its own
            data = left
            yield from super().parts(part)
            if self._made > max(_RATIO_FROM, self._ratio * self._fed):
                raise UpstreamFailed("a gzip body that grows too much")

    def finish(self) -> None:
        """See ``Decoder``."""
        if not self._member.eof:  # aiohttp takes a stream cut here for a good one when Content-Length agrees
            raise passing("a gzip body that ends early")
