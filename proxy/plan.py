"""How one body is fetched, and how it proves itself."""

from __future__ import annotations

import hashlib
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


def strongest(hashes: Mapping[str, str]) -> tuple[str, str] | None:
    """The hash to check: algorithm and hex digest, the strongest that hashlib always has; None when there is none."""
    return next(((name, hashes[name]) for name in _STRENGTH if name in hashes), None)


class Digests:
    """sha256 of everything (it is the ETag), and the listed hash when that is another one."""

    def __init__(self, listed: tuple[str, str] | None) -> None:
        self.listed = listed
        self._sha256 = hashlib.sha256()
        self._other = hashlib.new(listed[0]) if listed is not None and listed[0] != "sha256" else None

    def update(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._sha256.update(chunk)
        if self._other is not None:
            self._other.update(chunk)

    def sha256(self) -> str:
        """The hex sha256 so far."""
        return self._sha256.hexdigest()

    def pinned(self) -> str:
        """The hex digest so far by the listed algorithm."""
        return self._other.hexdigest() if self._other is not None else self.sha256()
