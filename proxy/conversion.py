"""Bodies of tens of megabytes turned into another form on their way, piece by piece: decoded, rewritten, coded.

All of it runs on one thread of its own. More would take the interpreter from the event loop more often, and each
would keep a heap of its own; and however many lists are asked for in however many forms, no more than one step of
one of them is worked at.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from proxy.answer import Stream
from proxy.codings import Compressor
from proxy.core.projects import STEP
from proxy.core.projectwriters import Writer
from proxy.errors import UpstreamFailed
from proxy.replies import CHUNK
from proxy.unpacking import Decoder

T = TypeVar("T")
_PIECE = 64 * 1024


class Conversion:
    """One body: ``decoder``, then ``writer`` (None: nothing is rewritten), then ``compressor``. Raises UpstreamFailed
    when the body is not what these take."""

    def __init__(self, decoder: Decoder, writer: Writer | None, compressor: Compressor) -> None:
        self._decoder = decoder
        self._writer = writer
        self._compressor = compressor

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes become; each piece is one short step of work, and may be empty."""
        for part in self._decoder.parts(data):
            for start in range(0, len(part), STEP):
                step = part[start : start + STEP]
                yield self._compressor.compress(step if self._writer is None else self._writer.feed(step))

    def rest(self) -> Iterator[bytes]:
        """What is left when there is no more."""
        self._decoder.finish()
        if self._writer is not None:
            yield self._compressor.compress(self._writer.finish())
        yield self._compressor.flush()


class Converter:
    """The thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "lists")

    def close(self) -> None:
        """Begin nothing any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def converted(self, chunks: AsyncIterator[bytes], conversion: Conversion) -> AsyncGenerator[bytes, None]:
        """The whole body in its other form, in chunks of at most 256 KiB."""
        more = True
        while more:
            try:
                pieces = conversion.pieces(await anext(chunks))
            except StopAsyncIteration:
                pieces, more = conversion.rest(), False
            ended = False
            while not ended:
                made, ended = await self._run(partial(_some, pieces))
                for start in range(0, len(made), CHUNK):
                    yield made[start : start + CHUNK]

    async def read(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """The bytes of a body in a file, also while it grows, in chunks of at most 256 KiB."""
        offset = 0
        while (piece := await stream.beyond(offset)) is not None:
            count = min(piece.count, CHUNK)
            data = await self._run(partial(os.pread, piece.file.fileno(), count, piece.position))
            if not data:
                raise UpstreamFailed("the stored list is shorter than it was", status=503, retry_after=1)
            offset += len(data)
            yield data

    async def _run(self, work: Callable[[], T]) -> T:
        """Wait for it also when cancelled: whoever cancels closes the files that it reads from."""
        try:
            working = asyncio.wrap_future(self._thread.submit(work))
        except RuntimeError:
            raise UpstreamFailed("the proxy is shutting down", status=503, retry_after=2) from None
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            await asyncio.wait([working])
            raise


def _some(pieces: Iterator[bytes]) -> tuple[bytes, bool]:
    """64 KiB of pieces, or a little more; and whether these are the last."""
    made: list[bytes] = []
    size = 0
    for piece in pieces:
        made.append(piece)
        size += len(piece)
        if size >= _PIECE:
            return b"".join(made), False
    return b"".join(made), True
