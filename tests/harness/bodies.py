"""Bodies an upstream serves: from memory, or made as they are read so that 200 MB cost 64 KiB of memory."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

BLOCK = 64 * 1024


class Body(Protocol):
    """Bytes with a known size (in bytes), readable from any offset, in pieces of at most 64 KiB."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, stop: int) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Held:
    """A body held in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        for offset in range(start, stop, BLOCK):
            yield self.data[offset : min(offset + BLOCK, stop)]


@dataclass(frozen=True, slots=True)
class Generated:
    """``size`` bytes that follow from ``seed``: blocks of noise, each with its own number in front, so that
    a block that is swapped, repeated or left out changes the hash."""

    size: int
    seed: int = 0
    _noise: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_noise", random.Random(self.seed).randbytes(BLOCK - 8))

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        offset, stop = start, min(stop, self.size)
        while offset < stop:
            number, within = divmod(offset, BLOCK)
            block = number.to_bytes(8, "big") + self._noise
            piece = block[within : within + min(BLOCK - within, stop - offset)]
            yield piece
            offset += len(piece)


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from ``start`` to ``stop`` of another body, read when they are wanted."""

    body: Body
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        return self.body.read(self.start + start, min(self.start + stop, self.stop))


def as_body(data: bytes | Body) -> Body:
    """The body itself, or the bytes as one."""
    return Held(data) if isinstance(data, bytes) else data


def whole(body: Body) -> bytes:
    """Every byte of it, for bodies that are known to be small."""
    return b"".join(body.read(0, body.size))


def sha256_of(body: Body) -> str:
    """The lower-case hex sha256, read in pieces."""
    digest = hashlib.sha256()
    for piece in body.read(0, body.size):
        digest.update(piece)
    return digest.hexdigest()
