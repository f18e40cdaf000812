"""Core metadata (PEP 658), coded for those who take it: once per coding, and kept beside the body it is made from.

Only metadata: wheels and sdists are compressed already, and a client that hashes what it receives (PDM asks for
gzip on files) must receive the file. The first answer, from upstream, is coded when the whole body is held back
until it is verified anyway; a longer one, or one of unknown length, is not made to wait for its end.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from proxy.again import until, with_headers
from proxy.answer import Answer, Lasting
from proxy.asking import INLINE
from proxy.codings import compress
from proxy.core.conditions import not_modified
from proxy.core.messages import CacheStatus, Entry, FileTarget, Headers, Request
from proxy.core.negotiation import Coding, coding_of
from proxy.core.urls import listing_key
from proxy.errors import StoreFailed
from proxy.extraction import Extraction
from proxy.filebodies import file_headers, pieces_of, proven
from proxy.fill import HOLD_BACK
from proxy.flights import Flights, Waiting
from proxy.follower import Follower
from proxy.room import Row
from proxy.store import Store
from proxy.wanted import Listings, Wanted

CODED_MAX = 4 * 2**20
"""Metadata of more bytes than this is sent as it is."""
ZSTD_LEVEL = 9
"""Prose and requirements, made once: of 20.8 KB level 9 makes 6.9 KB in under 1 ms, as gzip 6 does, level 1 7.6 KB."""
_MARKS: Mapping[Coding, str] = {"gzip": "g", "zstd": "z"}
_VARY = ("Vary", "Accept-Encoding")


@dataclass(frozen=True, slots=True)
class _Made:
    """Coded bytes, empty when coding makes nothing smaller; what they are made from, and where that came from; what
    ends when that is kept, if it is not."""

    coded: bytes
    sha256: str
    status: CacheStatus
    upstream_seconds: float
    kept: asyncio.Task[None] | None = None


class Metadata:
    """The metadata of every index; at most ``waiters`` clients wait for the same coding of one body."""

    def __init__(self, extraction: Extraction, listings: Listings, store: Store, *, waiters: int) -> None:
        self._extraction = extraction
        self._listings = listings
        self._store = store
        self._making: Flights[_Made | None] = Flights(waiters=waiters)

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._making.close()

    @property
    def waiting(self) -> Waiting:
        """Who waits for metadata to be coded, or taken out of a wheel before."""
        return self._making.waiting

    async def answer(self, request: Request, target: FileTarget) -> Answer:
        """The metadata as ``Extraction`` answers it, or coded. Ranges are those of the bytes as they are."""
        coding = coding_of(request.headers.get("accept-encoding"))
        answer = None
        if coding and "range" not in request.headers:
            answer = await self._coded(request, target, coding)
        if answer is None:
            answer = await self._extraction.answer(request, target)
            lasting = with_headers(answer.lasting, (_VARY,))
            answer = replace(answer, headers=(*answer.headers, _VARY), lasting=lasting)
        return answer

    async def _coded(self, request: Request, target: FileTarget, coding: Coding) -> Answer | None:
        """The coded answer; None when the body is to be sent as it is."""
        listed = await self._listings.find(request, target)
        entry = await self._entry(listed.key)
        if entry is not None:
            coded = await self._kept(_key(entry.key, entry.sha256, coding)) if entry.size <= CODED_MAX else b""
            if coded is not None:
                return self._answer(request, listed, _Made(coded, entry.sha256, proven(entry), 0.0), coding)
        elif isinstance(listed, Wanted) and "sha256" in listed.hashes:
            status = CacheStatus("hit", "the hash its page lists is the client's ETag", hit=True)
            etag = _etag(listed.hashes["sha256"], coding)
            if not_modified(request.headers, etag=etag, last_modified=None):
                return Answer(304, _headers(etag), b"", status, stop=0)
        # What one client does not want fetched is refused to that client alone, not to those who joined it.
        if entry is None and (request.method == "HEAD" or "only-if-cached" in request.headers.get("cache-control", "")):
            return None
        since = self._store.mark()  # of the key, too: who asks after a removal shares nothing of before
        flight, joined = self._making.join(
            f"{listed.key}|{coding}|{since}", lambda: self._make(request, target, listed, coding, entry, since)
        )
        made = await asyncio.shield(flight)
        if made is not None and joined:
            made = replace(made, status=replace(made.status, collapsed=not made.status.hit))
        return self._answer(request, listed, made, coding) if made is not None else None

    def _answer(self, request: Request, listed: Wanted | Entry, made: _Made, coding: Coding) -> Answer | None:
        """The answer, and how to give it again once it is kept."""
        answer = _shown(request, made, coding)
        if answer is None or not isinstance(listed, Wanted):
            return answer
        key = _key(listed.key, made.sha256, coding)
        known: tuple[Entry, Answer | None] | None = None

        def again() -> tuple[Answer, float] | None:
            nonlocal known
            here = self._store.at_hand
            entry = here.entry("responses", listed.key)
            if known is None and entry is not None and entry.sha256 == made.sha256:
                known = entry, _shown(request, replace(made, status=proven(entry), upstream_seconds=0.0), coding)
            if known is None or entry is not known[0] or known[1] is None or not here.value("responses", key):
                return None
            return (known[1], until(self._listings.now())) if self._listings.still(listed) else None

        listing = listing_key(listed.target.index, listed.project)
        rows = tuple(("responses", each) for each in (listed.key, key, listing))
        return replace(answer, lasting=Lasting(rows, again, kept=made.kept))

    async def _entry(self, key: str) -> Entry | None:
        try:
            return await self._store.entry("responses", key)
        except StoreFailed:
            return None

    async def _kept(self, key: str) -> bytes | None:
        try:
            return await self._store.read(key)
        except StoreFailed:
            return None

    async def _make(
        self,
        request: Request,
        target: FileTarget,
        listed: Wanted | Entry,
        coding: Coding,
        entry: Entry | None,
        since: int,
    ) -> _Made | None:
        """Code the body that a client without conditions would get, and keep that; None when it is too large, or
        not the one that ``entry`` speaks of."""
        headers = {name: value for name, value in request.headers.items() if not name.startswith("if-")}
        answer = await self._extraction.answer(replace(request, method="GET", headers=headers), target)
        try:
            known = answer.cache_status.hit
            if answer.stop is None or answer.stop > (CODED_MAX if known else HOLD_BACK):
                return None
            pieces = await pieces_of(answer)

            def work() -> tuple[bytes, str]:
                plain = b"".join(os.pread(piece.file.fileno(), piece.count, piece.position) for piece in pieces)
                coded = compress(plain, coding, zstd_level=ZSTD_LEVEL)
                return coded if len(coded) < len(plain) else b"", hashlib.sha256(plain).hexdigest()

            coded, sha256 = work() if answer.stop <= INLINE // 4 else await asyncio.to_thread(work)
            kept = answer.body.fill.task if isinstance(answer.body, Follower) else None
        finally:
            answer.close()
        if entry is not None and sha256 != entry.sha256:
            return None
        if known or answer.cache_status.stored:
            await self._store.behind.write([Row(_key(listed.key, sha256, coding), coded, listed.tag)], (), since)
        return _Made(coded, sha256, answer.cache_status, answer.upstream_seconds, kept)


def _shown(request: Request, made: _Made, coding: Coding) -> Answer | None:
    if not made.coded:
        return None
    etag = _etag(made.sha256, coding)
    headers = _headers(etag)
    if not_modified(request.headers, etag=etag, last_modified=None):
        return Answer(304, headers, b"", made.status, stop=0, upstream_seconds=made.upstream_seconds)
    headers = (*headers, ("Content-Encoding", coding))
    size = len(made.coded)
    return Answer(200, headers, made.coded, made.status, stop=size, upstream_seconds=made.upstream_seconds)


def _headers(etag: str) -> Headers:
    # No byte range of coded bytes is ever sent: a client that asks for one gets that of the bytes as they are.
    return (*(each for each in file_headers(etag) if each[0] != "Accept-Ranges"), _VARY)


def _etag(sha256: str, coding: Coding) -> str:
    """A strong ETag, another one for each coding of the same bytes (RFC 9110 §8.8.3)."""
    return f'"sha256-{sha256}-{_MARKS[coding]}"'


def _key(key: str, sha256: str, coding: Coding) -> str:
    """The store key of coded bytes; a body without a listed hash may be another one under the same key."""
    return f"{key}|{sha256}|{coding}"
