"""Core metadata that a page advertises and the upstream lacks: taken out of the wheel, byte for byte.

Mirrors copy pages and wheels, but not always the ``.metadata`` beside them, and for pip and uv an advertised file that
is missing is the end. What comes out of a wheel goes the way of every body: one fill however many ask, verified
against the hash its page lists for it, kept under the key it would have had. It also stands in while an upstream
fails, as long as the wheel is here.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from dataclasses import replace

from proxy.answer import Answer
from proxy.core.messages import CacheStatus, FileTarget, Head, Request
from proxy.core.urls import file_name
from proxy.core.wheels import is_wheel
from proxy.errors import Lacking, ProxyError, UpstreamFailed
from proxy.filebodies import etag_of, pieces_of, whole_or_part
from proxy.files import Files
from proxy.fills import Fills
from proxy.plan import strongest
from proxy.replies import CHUNK, Reply, passing
from proxy.wanted import Listings, Wanted
from proxy.wheelfile import metadata_in

_AT_ONCE = 4
"""Wheels looked into at one time: the directory of a hostile one may take 100 MB in memory."""
TAKEN = "taken from the wheel"
"""Why such an answer is what it is."""
_IF_HERE = {"cache-control": "only-if-cached"}


class Extraction:
    """The metadata of every index; ``fetch_max`` is the most bytes of a wheel that is fetched only for its own."""

    def __init__(
        self, files: Files, listings: Listings, fills: Fills, *, fetch_max: int, clock: Callable[[], float]
    ) -> None:
        self._files = files
        self._listings = listings
        self._fills = fills
        self._fetch_max = fetch_max
        self._clock = clock
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def answer(self, request: Request, target: FileTarget) -> Answer:
        """The metadata as ``Files`` answers it, or as it is in the wheel. An sdist has no such thing: what its
        PKG-INFO says need not be what comes of a build."""
        try:
            return await self._files.answer(request, target)
        except ProxyError as failure:
            # What a client got wrong stays wrong; 504 says that it wants nobody asked.
            if (failure.status < 500) or not is_wheel(file_name(target.location)):
                raise
            listed = await self._listings.find(request, target)
            wheel = await self._listings.find(request, replace(target, metadata=False))
            # Between the two a page may have changed; and a file that only its entry speaks of has no listed hash.
            if not isinstance(listed, Wanted) or not isinstance(wheel, Wanted) or wheel.hashes != listed.file_hashes:
                raise
            fetch = isinstance(failure, Lacking)
            try:
                return await self._extracted(request, listed, wheel, fetch=fetch)
            except UpstreamFailed as because:
                # Why the wheel could not help tells nothing to who asked for something that merely failed.
                raise (because if fetch else failure) from None

    async def _extracted(self, request: Request, listed: Wanted, wheel: Wanted, *, fetch: bool) -> Answer:
        since = self._clock()
        # Who may have nothing fetched is not joined by who may.
        key = f"{listed.key}|{'wheel' if fetch else 'wheel that is here'}"
        plan = replace(self._files.plan(listed), key=key, source=self._source(listed, wheel, fetch))
        follower, joined = self._fills.join(plan)
        try:
            completed = await follower.fill.complete()
        except BaseException:
            follower.close()
            raise
        stored = follower.fill.keeps
        status = CacheStatus("miss", TAKEN, forward="uri-miss", collapsed=joined, stored=stored)
        answer = whole_or_part(request, follower, completed.size, etag_of(completed.sha256), status)
        return replace(answer, upstream_seconds=self._clock() - since)

    def _source(
        self, listed: Wanted, wheel: Wanted, fetch: bool
    ) -> Callable[[Mapping[str, str]], AbstractAsyncContextManager[Reply]]:
        @asynccontextmanager
        async def source(_: Mapping[str, str]) -> AsyncIterator[Reply]:
            since = self._clock()
            with closing(await self._wheel(wheel, fetch)) as answer:
                pieces = await pieces_of(answer)
                async with self._slots:
                    taken = await asyncio.to_thread(metadata_in, pieces, wheel.name)
            pin = strongest(listed.hashes)
            if pin is not None and hashlib.new(pin[0], taken).hexdigest() != pin[1]:
                # Not a wrong body, which would be asked for anew past all caches: the wheel is what its page lists.
                raise passing("the metadata in the wheel does not have the hash its page lists")
            head = Head(200, (("Content-Type", "application/octet-stream"),), since, self._clock())
            yield Reply(head, listed.url, len(taken), True, _chunks(taken))

        return source

    async def _wheel(self, wheel: Wanted, fetch: bool) -> Answer:
        """The wheel that is here; with ``fetch``, one that is fetched if it is not too large for that."""
        try:
            return await self._files.serve(Request("GET", wheel.target, _IF_HERE), wheel)
        except ProxyError as failure:
            if not fetch:
                raise UpstreamFailed(failure.because, status=503) from None
        try:
            size = wheel.size if wheel.size is not None else await self._size(wheel)
            if size is not None and size > self._fetch_max:
                raise passing("the upstream lacks the metadata, and the wheel is too large to be fetched for it")
            return await self._files.serve(Request("GET", wheel.target, {}), wheel)
        except UpstreamFailed:
            raise
        except ProxyError:
            # Its page has dropped it in this moment.
            raise passing("the upstream lacks the metadata, and the wheel") from None

    async def _size(self, wheel: Wanted) -> int | None:
        """What the upstream says of it, if that knows HEAD."""
        with suppress(UpstreamFailed), closing(await self._files.serve(Request("HEAD", wheel.target, {}), wheel)) as it:
            return it.stop
        return None


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]
