"""What a client gets: a status, a header list, and a body: bytes, a file to be read piece by piece, or a flow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass
from typing import BinaryIO, Protocol, Self

from proxy.core.messages import CacheStatus, Headers


@dataclass(frozen=True, slots=True)
class Piece:
    """``count`` bytes that lie at ``position`` of an open ``file``, ready to be sent."""

    file: BinaryIO
    position: int
    count: int


class Stream(Protocol):
    """A body in a file: complete on disk, or still growing."""

    async def beyond(self, offset: int) -> Piece | None:
        """What is there from ``offset`` of the body on, waiting for it if need be; None at its end.

        Raises UpstreamFailed when the rest will never come: the connection to the client must then be cut.
        """

    def close(self) -> None:
        """Give the open file back; the answer is over, however it ended."""


class Closing(AsyncIterable[bytes], Protocol):
    """Pieces of a body, and an end to them at any time."""

    async def aclose(self) -> None:
        """There are no more."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A body that is made, or passed on, while it is sent; what it raises cuts the connection. Whoever sends it closes
    ``rest``, also one that was never begun."""

    first: bytes
    rest: Closing

    @classmethod
    async def begun(cls, pieces: AsyncGenerator[bytes, None]) -> Self:
        """The flow of these pieces, its first one made: what fails before that still gets an answer of its own."""
        return cls(await anext(pieces), pieces)


@dataclass(frozen=True, slots=True)
class Upload:
    """The body of a client's request, read as it is sent on; ``length`` in bytes, None when it comes in chunks. What
    breaks it while it is read raises ProxyError."""

    chunks: AsyncIterator[bytes]
    length: int | None


@dataclass(frozen=True, slots=True)
class Lasting:
    """How an answer can be given again, to the same question, without anything being looked up or made.

    ``rows`` of the store are what it was made of: when one of them changes it is over. ``again`` says what it is now,
    with a body of bytes, and until when that is so to the second (seconds since the epoch); None when the question is
    to be decided anew. ``sound`` is asked each time: whether what it was made of still is what it was. ``kept``: before
    that has ended it cannot be given again.
    """

    rows: tuple[tuple[str, str], ...]
    again: Callable[[], tuple[Answer, float] | None]
    sound: Callable[[], bool] | None = None
    kept: asyncio.Future[None] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A response in our words. ``stop`` is exclusive and None while the body's length is unknown.

    ``headers`` lacks Content-Length and Cache-Status: the first follows from ``start`` and ``stop``, the
    second from ``cache_status``. ``raw``: its head is that of another server, and goes out as it is. ``lasting``: it
    is in memory, and can be given again.
    """

    status: int
    headers: Headers
    body: bytes | Stream | Flow
    cache_status: CacheStatus
    start: int = 0
    stop: int | None = None
    upstream_seconds: float = 0.0
    raw: bool = False
    lasting: Lasting | None = None

    def close(self) -> None:
        """Release what the body holds open; a flow ends where it is sent."""
        if not isinstance(self.body, bytes | Flow):
            self.body.close()


@dataclass(frozen=True, slots=True)
class StoredStream:
    """A body that lies complete in an open file. ``doubt`` is to be called when it cannot be read."""

    file: BinaryIO
    size: int
    doubt: Callable[[], None] = lambda: None

    async def beyond(self, offset: int) -> Piece | None:
        """The rest of the file in one piece."""
        return Piece(self.file, offset, self.size - offset) if offset < self.size else None

    def close(self) -> None:
        """Close the handle; an evicted file's bytes live until then."""
        self.file.close()


def moved(location: str) -> Answer:
    """The answer to another spelling than ours."""
    status = CacheStatus("moved", "there is one spelling for every name")
    return Answer(301, (("Location", location),), b"", status, stop=0)
