"""How one body is fetched, and how it proves itself."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal

from proxy.bodies import Spool
from proxy.core.messages import Head
from proxy.directory import RoomName
from proxy.fence import Named
from proxy.replies import Reply

_STRENGTH = ("sha256", "sha512", "sha384", "blake2b", "sha3_256", "sha3_512", "sha224", "sha1", "md5")
_MAGIC = b"\x1f\x8b"
_STEP = 1024 * 1024
_GROWTH = 200


@dataclass(frozen=True, slots=True)
class Completed:
    """What a finished body turned out to be; ``verified`` when a listed hash was checked."""

    head: Head
    size: int
    sha256: str
    verified: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """How one body is fetched.

    ``judge`` looks at the reply's head and raises what it means if it is no body to keep; it returns the offset
    of the body's first byte (0, or the start of a 206) and the whole body's size if known. ``keep`` receives the
    spool of a verified body; None for a relay, which is followed but never kept. ``limit`` is the most bytes
    taken of a body whose size no page lists. ``source`` gets the headers and gives the reply where that is not
    simply the upstream's to ``url``: a body that is changed on its way in, or is made of another one. It is asked once.
    ``room`` is where in the store it is kept, ``named`` what it will be called there, ``since`` the mark taken before
    anything of this was read or asked for; None where nobody can remove it.
    """

    key: str
    index: str
    url: str = field(repr=False)  # its query may be signed
    judge: Callable[[Reply], tuple[int, int | None]]
    keep: Callable[[Spool, Completed], Awaitable[object]] | None
    pool: Literal["page", "file"] = "file"
    headers: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    limit: int = 5 * 2**30
    source: Callable[[Mapping[str, str]], AbstractAsyncContextManager[Reply]] | None = None
    room: RoomName = "wheels"
    named: Named | None = None
    since: int | None = None
    labelled: bool = False
    """Whether a body that is labelled as gzip and begins so must end so, where no hash is listed."""


def strongest(hashes: Mapping[str, str]) -> tuple[str, str] | None:
    """The hash to check: algorithm and hex digest, the strongest that hashlib always has; None when there is none."""
    return next(((name, hashes[name]) for name in _STRENGTH if name in hashes), None)


class GzipEnd:
    """Whether a gzip stream came to its end (RFC 1952 §2.2), without what it holds. What does not begin as one has
    only a wrong label and is never ``short``, neither is what grows more than is worth looking at."""

    def __init__(self) -> None:
        self._start = b""
        self._member = zlib.decompressobj(wbits=31)
        self._taken = self._made = 0
        self._looks = True

    def update(self, data: bytes) -> None:
        """The next bytes."""
        if self._looks and len(self._start) < len(_MAGIC):
            self._start = (self._start + data[: len(_MAGIC)])[: len(_MAGIC)]
            self._looks = _MAGIC.startswith(self._start)
        self._taken += len(data)
        try:
            while data and self._looks:
                if self._member.eof:
                    if not data.startswith(_MAGIC[: len(data)]):
                        self._looks = False  # padding, which archives have
                        return
                    self._member = zlib.decompressobj(wbits=31)
                self._made += len(self._member.decompress(data, _STEP))
                self._looks = self._made <= max(_STEP, _GROWTH * self._taken)
                data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        except zlib.error:
            # Broken, but not short: whoever unpacks it sees that.
            self._looks = False

    @property
    def short(self) -> bool:
        """Whether more should have come."""
        return self._looks and not self._member.eof


class Digests:
    """sha256 of everything (it is the ETag), and the listed hash when that is another one. ``end`` is told all too."""

    def __init__(self, listed: tuple[str, str] | None, end: GzipEnd | None = None) -> None:
        self.listed = listed
        self.end = end
        self._sha256 = hashlib.sha256()
        self._other = hashlib.new(listed[0]) if listed is not None and listed[0] != "sha256" else None

    def update(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._sha256.update(chunk)
        if self._other is not None:
            self._other.update(chunk)
        if self.end is not None:
            self.end.update(chunk)

    def sha256(self) -> str:
        """The hex sha256 so far."""
        return self._sha256.hexdigest()

    def pinned(self) -> str:
        """The hex digest so far by the listed algorithm."""
        return self._other.hexdigest() if self._other is not None else self.sha256()
