"""One body on its way: written to a spool file, read by its followers as it grows.

Of a body that will be kept, the last 64 KiB stay hidden until length and hash agree: a follower of a wrong body
is cut before its end and can never take it for complete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

from proxy.answer import Piece
from proxy.bodies import Spool
from proxy.core.messages import Head
from proxy.errors import StoreFailed, UpstreamFailed, WrongBody
from proxy.failpoints import reach
from proxy.follower import Follower
from proxy.plan import Completed, Digests, GzipEnd, Plan, strongest
from proxy.segments import Segments
from proxy.source import Source
from proxy.store import Store
from proxy.upstream import Upstream

HOLD_BACK = 64 * 1024
_WAITING = 2**20
"""Bytes that may come while others are being written."""
_READ_WITHIN = 30.0
"""Seconds for followers to read what lies in memory, where there is no other place for more."""


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
        self._waiting: list[bytes] = []
        self._segments = Segments()
        self._readers: set[Follower] = set()
        self._moved = asyncio.Event()

    @property
    def abandoned(self) -> bool:
        """Whether this is a relay that everybody left: it is being cancelled, nobody may join it."""
        return self.plan.keep is None and self.task is not None and self.followers <= 0

    @property
    def keeps(self) -> bool:
        """Whether the body goes into the store if it proves itself."""
        return self._spool is not None and self._segments.one

    @property
    def late(self) -> bool:
        """Whether its beginning is gone already: nobody may join it."""
        return self._segments.gone > 0

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
        return self.base == 0 and not self.settled and not self.late and upto <= self._visible

    async def beyond(self, offset: int) -> Piece | None:
        """The bytes from ``offset`` of the whole body on, as far as they may be shown."""
        while offset >= self.base + self._visible:
            if self.completed is not None:
                return None
            await self._change()
        within = offset - self.base
        piece = self._segments.piece(within, self._visible) if within >= 0 else None
        if piece is not None:
            return piece
        raise UpstreamFailed("the bytes asked for lie before the part that is fetched")

    def leave(self, follower: Follower) -> None:
        """One follower less. What will be kept goes on without any; a relay without them is work for nobody."""
        self.followers -= 1
        self._readers.discard(follower)
        self._moved.set()
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
            self._segments.close()

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
            reach("verified")
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
            if self._spool is not None and self._spool.there:
                with suppress(StoreFailed):
                    await asyncio.shield(self._store.discard(self._spool))
            elif self._spool is not None:
                self._spool.close()
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
        pinned = strongest(self.plan.hashes)
        coding = (self.head.header("Content-Encoding") or "").strip().lower() if self.head is not None else ""
        looks = self.plan.labelled and pinned is None and coding in ("gzip", "x-gzip")
        digests = Digests(pinned, GzipEnd() if looks else None)
        await self._open_spool(self.size)
        writing: asyncio.Task[None] | None = None
        try:
            async for chunk in source:
                self._waiting.append(chunk)
                if writing is not None and (writing.done() or sum(map(len, self._waiting)) >= _WAITING):
                    await writing
                if not self._visible:
                    await self._written(digests)
                elif writing is None or writing.done():
                    writing = asyncio.create_task(self._written(digests))
        except BaseException as reason:
            if writing is not None:
                if isinstance(reason, asyncio.CancelledError):
                    writing.cancel()
                # What came is shown before it is said that no more does.
                await asyncio.gather(writing, return_exceptions=True)
            raise
        if writing is not None:
            await writing
        return digests

    async def _written(self, digests: Digests) -> None:
        """Write what came, and what comes meanwhile, and show it: in a thread, when there is a first byte to show. That
        is waited for also when cancelled:

        task: to_thread(write)   cancelled, files closed        number 17 is another file's
        thread:                  ... has asked for fileno() 17  pwrite(17): into the other file
        """
        hidden = HOLD_BACK if self.plan.keep is not None else 0
        while self._waiting:
            if self._segments.full:
                await self._room()
            chunks, self._waiting = self._waiting, []
            if self._visible:
                writing = asyncio.ensure_future(asyncio.to_thread(self._write, chunks, digests))
                try:
                    await asyncio.shield(writing)
                except asyncio.CancelledError:
                    await asyncio.wait([writing])
                    raise
            else:
                self._write(chunks, digests)
            self._received += sum(map(len, chunks))
            if self._received - hidden > self._visible:
                self._visible = self._received - hidden
                self._tell()

    async def _open_spool(self, size: int | None) -> None:
        """A spool in the cache; or, when the cache has no room or no working disk, one that is thrown away."""
        if self.plan.keep is not None and self._store.has_room(size or 0, self.plan.room):
            try:
                self._spool = await self._store.spool()
            except StoreFailed:
                self._spool = None
        self._segments.begin(None if self._spool is None else self._spool.fd, self._store.directory / "incoming")

    async def _room(self) -> None:
        """Return once the followers have read so much of what lies in memory that more of it may."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_READ_WITHIN):
                while self._readers:
                    self._moved.clear()
                    self._segments.let_go(min(each.offset for each in self._readers) - self.base)
                    if not self._segments.full:
                        return
                    await self._moved.wait()
        raise UpstreamFailed("no place to put the body", status=503, retry_after=2)

    def follow(self, follower: Follower) -> None:
        """One more, or one that has read on."""
        self._readers.add(follower)
        self._moved.set()

    def _write(self, chunks: Sequence[bytes], digests: Digests) -> None:
        upto = self._received
        for chunk in chunks:
            digests.update(chunk)
            # When the cache's disk is full or failing the followers get the body all the same; nothing is kept.
            self._segments.write(chunk, upto)
            first, upto = upto == 0, upto + len(chunk)
            reach("first write" if first else "last write" if upto == self.size else "middle write")

    def _verified(self, digests: Digests) -> Completed:
        assert self.head is not None
        if digests.listed is not None and digests.listed[1] != digests.pinned():
            raise WrongBody("the upstream's body does not have the hash its page lists")
        if digests.end is not None and digests.end.short:
            raise WrongBody("the upstream's body ended early")
        return Completed(self.head, self._received, digests.sha256(), verified=digests.listed is not None)

    async def _keep(self) -> None:
        if self.plan.keep is None or not self.keeps or self._spool is None:
            return
        assert self.completed is not None
        await self.plan.keep(self._spool, self.completed)
