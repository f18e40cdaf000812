"""What a client gets: a status, a header list, and a body that is bytes or can be read piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Protocol

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


@dataclass(frozen=True, slots=True)
class Answer:
    """A response in our words. ``stop`` is exclusive and None while the body's length is unknown.

    ``headers`` lacks Content-Length and Cache-Status: the first follows from ``start`` and ``stop``, the
    second from ``cache_status``.
    """

    status: int
    headers: Headers
    body: bytes | Stream
    cache_status: CacheStatus
    start: int = 0
    stop: int | None = None
    upstream_seconds: float = 0.0

    def close(self) -> None:
        """Release what the body holds open."""
        if not isinstance(self.body, bytes):
            self.body.close()


@dataclass(frozen=True, slots=True)
class StoredStream:
    """A body that lies complete in an open file."""

    file: BinaryIO
    size: int

    async def beyond(self, offset: int) -> Piece | None:
        """The rest of the file in one piece."""
        return Piece(self.file, offset, self.size - offset) if offset < self.size else None

    def close(self) -> None:
        """Close the handle; an evicted file's bytes live until then."""
        self.file.close()
