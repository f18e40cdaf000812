"""One body on its way: written to a spool file, read by its followers as it grows.

Of a body that will be kept, the last 64 KiB stay hidden until length and hash agree: a follower of a wrong body
is cut before its end and can never take it for complete.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from proxy.answer import Piece
from proxy.bodies import Spool
from proxy.core.messages import Head
from proxy.errors import StoreFailed, UpstreamFailed, WrongBody
from proxy.plan import Completed, Digests, Plan, strongest
from proxy.source import Source
from proxy.store import Store
from proxy.upstream import Upstream

HOLD_BACK = 64 * 1024


class Fill:
    """One body on its way. Followers call ``ready`` once and then ``beyond`` until it returns None."""

    def __init__(self, plan: Plan, store: Store, upstream: Upstream) -> None:
        self.plan = plan
        self.head: Head | None = None
        self.base = 0
        self.size: int | None = plan.size
        self.failure: UpstreamFailed | None = None
        self.completed: Completed | None = None
        self.followers = 0
        self.settled = False
        self.task: asyncio.Task[None] | None = None
        self._store = store
        self._upstream = upstream
        self._received = 0
        self._visible = 0
        self._changed = asyncio.Event()
        self._spool: Spool | None = None
        # (offset of the first byte in the body, file): a second one only when the cache's disk failed half-way.
        self._segments: list[tuple[int, BinaryIO]] = []

    @property
    def abandoned(self) -> bool:
        """Whether this is a relay that everybody left: it is being cancelled, nobody may join it."""
        return self.plan.keep is None and self.task is not None and self.followers <= 0

    @property
    def keeps(self) -> bool:
        """Whether the body goes into the store if it proves itself."""
        return self._spool is not None and len(self._segments) == 1

    # -- followers -------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Return once a byte may be shown or the body is complete; raise UpstreamFailed if it will not come."""
        while self._visible == 0 and self.completed is None:
            await self._change()

    async def complete(self) -> Completed:
        """Return once the whole body is verified; raise UpstreamFailed if it will not be."""
        while self.completed is None:
            await self._change()
        return self.completed

    def shows(self, upto: int) -> bool:
        """Whether all bytes of the body before that offset are here and may be shown."""
        return self.base == 0 and not self.settled and upto <= self._visible

    async def beyond(self, offset: int) -> Piece | None:
        """The bytes from ``offset`` of the whole body on, as far as they may be shown."""
        while offset >= self.base + self._visible:
            if self.completed is not None:
                return None
            await self._change()
        within = offset - self.base
        for position, (start, file) in reversed(list(enumerate(self._segments))):
            if within >= start:
                last = position == len(self._segments) - 1
                end = self._visible if last else min(self._visible, self._segments[position + 1][0])
                return Piece(file, within - start, end - within)
        raise UpstreamFailed("the bytes asked for lie before the part that is fetched")

    def leave(self) -> None:
        """One follower less. What will be kept goes on without any; a relay without them is work for nobody."""
        self.followers -= 1
        if self.plan.keep is None and self.followers <= 0 and not self.settled and self.task is not None:
            self.task.cancel()
        self._release()

    async def _change(self) -> None:
        if self.failure is not None:
            raise self.failure
        await self._changed.wait()

    def _tell(self) -> None:
        # Every waiter holds the old event; swapping it before they run means that none of them can miss a later
        # change or see an earlier one twice.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _release(self) -> None:
        if self.settled and self.followers <= 0:
            for _, file in self._segments:
                file.close()
            self._segments.clear()

    # -- the fetch -------------------------------------------------------------------------------------------

    async def run(self, extra_headers: Mapping[str, str]) -> None:
        """Fetch, verify, keep. What goes wrong is told to the followers; only a cancellation, or a fault of ours,
        is raised as well."""
        try:
            plan = self.plan
            async with Source(plan, self._upstream, {**plan.headers, **extra_headers}) as source:
                head = await source.open()
                self.head, self.base, self.size = head, source.start, source.size
                digests = await self._receive(source)
            self.completed = self._verified(digests)
            self._visible = self._received
            self._tell()
            await self._keep()
        except UpstreamFailed as failure:
            self._fail(failure.after(self.head.status if self.head is not None else None))
        except StoreFailed:
            if self.completed is None:
                self._fail(UpstreamFailed("no place to put the body", status=503, retry_after=2))
        except OSError:
            self._fail(UpstreamFailed("no place to put the body", status=503, retry_after=2))
        except asyncio.CancelledError:
            self._fail(UpstreamFailed("the proxy is shutting down", status=503, retry_after=2))
            raise
        except Exception:
            # A fault of ours: the task's end reports it, and nobody may wait for what will not come.
            self._fail(UpstreamFailed("the proxy failed", status=503, retry_after=2))
            raise
        finally:
            await self._settle()

    async def _settle(self) -> None:
        try:
            if self._spool is not None:
                with suppress(StoreFailed):
                    await asyncio.shield(self._store.discard(self._spool))
        finally:
            # Also when a shutdown cancels the wait, or the file would stay open for ever.
            self.settled = True
            self._release()

    def give_up(self) -> None:
        """Tell the followers that nothing will come any more; does nothing to a fill that has ended by itself."""
        if not self.settled:
            self._fail(UpstreamFailed("the proxy is shutting down", status=503, retry_after=2))
            self.settled = True
            self._release()

    def _fail(self, failure: UpstreamFailed) -> None:
        if self.completed is None:
            self.failure = failure
            self._tell()

    async def _receive(self, source: Source) -> Digests:
        digests = Digests(strongest(self.plan.hashes))
        await self._open_spool(self.size)
        hidden = HOLD_BACK if self.plan.keep is not None else 0
        async for chunk in source:
            await self._written(chunk, digests)
            self._received += len(chunk)
            if self._received - hidden > self._visible:
                self._visible = self._received - hidden
                self._tell()
        return digests

    async def _open_spool(self, size: int | None) -> None:
        """A spool in the cache; or, when the cache has no room or no working disk, one that is thrown away."""
        if self.plan.keep is not None and self._store.has_room(size or 0, self.plan.room):
            try:
                self._spool = await self._store.spool()
            except StoreFailed:
                self._spool = None
        if self._spool is not None:
            file: BinaryIO = os.fdopen(os.dup(self._spool.fd), "r+b", buffering=0)
        else:
            file = self._aside()
        self._segments.append((0, file))

    def _aside(self) -> BinaryIO:
        """A nameless file, on the cache's disk while that works: where temporary files go may be memory."""
        try:
            return _throwaway(self._store.directory / "incoming")
        except OSError:
            return _throwaway(None)

    async def _written(self, chunk: bytes, digests: Digests) -> None:
        """Write in a thread, and wait for it also when cancelled:

        task: to_thread(write)   cancelled, files closed        number 17 is another file's
        thread:                  ... has asked for fileno() 17  pwrite(17): into the other file
        """
        writing = asyncio.ensure_future(asyncio.to_thread(self._write, chunk, digests))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            raise

    def _write(self, chunk: bytes, digests: Digests) -> None:
        """Runs in a thread: both the write and the hash release the GIL."""
        digests.update(chunk)
        view = memoryview(chunk)
        at = self._received
        while view:
            start, file = self._segments[-1]
            try:
                written = os.pwrite(file.fileno(), view, at - start)
            except OSError:
                # The cache's disk is full or failing: the rest of this body goes where temporary files go, so
                # that the followers get it; nothing is kept.
                if len(self._segments) > 1:
                    raise
                self._segments.append((at, _throwaway(None)))
                continue
            view = view[written:]
            at += written

    def _verified(self, digests: Digests) -> Completed:
        assert self.head is not None
        if digests.listed is not None and digests.listed[1] != digests.pinned():
            raise WrongBody("the upstream's body does not have the hash its page lists")
        return Completed(self.head, self._received, digests.sha256(), verified=digests.listed is not None)

    async def _keep(self) -> None:
        if self.plan.keep is None or self._spool is None or len(self._segments) > 1:
            return
        assert self.completed is not None
        await self.plan.keep(self._spool, self.completed)


def _throwaway(directory: Path | None) -> BinaryIO:
    """A nameless file in that directory, or where temporary files go; it is gone when it is closed."""
    return tempfile.TemporaryFile(buffering=0, dir=directory)


class Follower:
    """One reader of a fill. It counts until it is closed, once, however often it is said."""

    __slots__ = ("_follows", "fill")

    def __init__(self, fill: Fill) -> None:
        self.fill = fill
        self._follows = True
        fill.followers += 1

    async def beyond(self, offset: int) -> Piece | None:
        """The bytes from ``offset`` of the whole body on, as far as they may be shown."""
        return await self.fill.beyond(offset)

    def close(self) -> None:
        """Follow no more; the fill itself goes on."""
        if self._follows:
            self._follows = False
            self.fill.leave()
