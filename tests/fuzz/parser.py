"""The words that all fuzzed parsers share."""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
Law = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Parser:
    """``law`` takes any bytes and raises AssertionError, or whatever the parser should not have raised. ``words`` are
    what inputs are made of, ``most`` is the greatest length in bytes of those that are made up, ``longest`` of any that
    could come. ``seconds`` of one processor are what a megabyte may cost, with the law around it."""

    name: str
    law: Law
    words: Sequence[bytes]
    most: int = 4096
    longest: int = 256 * 1024
    seconds: float = 2.0

    @property
    def corpus(self) -> Path:
        """Where its inputs are kept."""
        return CORPUS / self.name

    def inputs(self) -> Iterator[tuple[str, bytes]]:
        """The kept ones, with their names."""
        for path in sorted(self.corpus.iterdir()):
            yield path.name, path.read_bytes()

    def hold(self, data: bytes) -> None:
        """The law, in bounded time: of this thread's processor, for others may be busy."""
        since = time.thread_time()
        self.law(data)
        took = time.thread_time() - since
        # What costs its square takes minutes; four times the usual is a slow machine that counts branches, too.
        allowed = 4.0 * (1.0 + self.seconds * len(data) / 2**20)
        assert took <= allowed, f"{self.name}: {len(data)} bytes took {took:.1f} s"


def cuts_of(data: bytes) -> list[int]:
    """Where to cut an input that comes in pieces: anywhere, but always the same for the same bytes."""
    luck = random.Random(zlib.crc32(data))
    return sorted(luck.randrange(len(data) + 1) for _ in range(luck.randrange(4)))


def in_pieces(data: bytes) -> Iterator[bytes]:
    """The input, cut."""
    borders = [0, *cuts_of(data), len(data)]
    for start, stop in pairwise(borders):
        yield data[start:stop]


def stretched(data: bytes, size: int, luck: random.Random) -> bytes:
    """The input with a part of it said again and again until it has so many bytes: what costs more than its length
    says shows only in long ones."""
    start = luck.randrange(len(data))
    part = data[start : start + luck.choice((1, 2, 5, 20, 100))]
    return (data[:start] + part * (size // len(part)))[:size] + data[start:]
