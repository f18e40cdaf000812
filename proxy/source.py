"""What upstreams send of one body: judged, counted, and gone on with by Range where it broke.

Only a body that will be kept is asked on for, and only where something proves that all parts are of the same one:
the hash its page lists, at the end; or a strong ETag, part by part (RFC 9110 §13.1.5, §15.3.7).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Self

from proxy.core.messages import Head
from proxy.core.ranges import received_range
from proxy.errors import UpstreamFailed, WrongBody
from proxy.plan import Plan, strongest
from proxy.replies import Reply, passing
from proxy.upstream import Upstream

RESUMES = 2
"""How often in a row a body is asked on for when less than PROGRESS bytes come of it."""
PROGRESS = 2**20
_PAUSE = (0.1, 0.5)


class Source:
    """The bytes of one body, in chunks of at most 256 KiB, from as many replies as it takes.

    ``open`` comes first. Iterating raises WrongBody for a body of another length than it may have, and any
    other UpstreamFailed for one that breaks for good. Leaving the context closes the connection.
    """

    def __init__(self, plan: Plan, upstream: Upstream, headers: Mapping[str, str]) -> None:
        self.start = 0
        self.size: int | None = plan.size
        self._plan = plan
        self._upstream = upstream
        self._headers = headers
        self._pinned = strongest(plan.hashes) is not None
        self._replies = AsyncExitStack()
        self._reply: Reply
        self._etag: str | None = None
        self._coding: str | None = None
        self._ranges = False
        self._limit = plan.limit
        self._received = 0
        self._skip = 0
        self._futile = 0
        self._resumed_at = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._replies.aclose()

    async def open(self) -> Head:
        """The head of the first reply. From here on ``start`` is the offset of the first byte that comes, ``size``
        the complete length, None while unknown. Raises UpstreamFailed for what is no body to take."""
        plan = self._plan
        reply = self._reply = await self._ask({})
        self.start, declared = plan.judge(reply)
        if plan.size is not None and declared is not None and plan.size != declared:
            because = "the upstream's file has another size than its page lists"
            raise WrongBody(because, upstream_status=reply.head.status)
        if plan.size is None and declared is not None and declared > plan.limit:
            raise UpstreamFailed("the upstream's body is larger than allowed", upstream_status=reply.head.status)
        self.size = plan.size if plan.size is not None else declared
        if self.size is not None:
            self._limit = self.size - self.start
        self._etag = _strong(reply.head.header("ETag"))
        self._coding = reply.head.header("Content-Encoding")
        refused = (reply.head.header("Accept-Ranges") or "").strip().lower() == "none"
        kept_file = plan.keep is not None and plan.pool == "file"
        self._ranges = kept_file and not refused and (self._pinned or self._etag is not None)
        return reply.head

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while True:
            try:
                chunk = await anext(self._reply.chunks)
            except StopAsyncIteration:
                if (wrong := self._wrong_end()) is None:
                    raise
                if self._reply.framed and self._reply.head.status == 200:
                    raise wrong from None
                await self._go_on(wrong)
                continue
            except UpstreamFailed as broken:
                if self._pinned and self._received == self.size:
                    # Nothing is missing but the end of its framing, and the hash needs no such end.
                    raise StopAsyncIteration from None
                await self._go_on(broken)
                continue
            if self._skip:
                known = min(self._skip, len(chunk))
                self._skip -= known
                chunk = chunk[known:]
            self._received += len(chunk)
            if self._received > self._limit:
                raise WrongBody("the upstream's body is longer than it may be")
            if chunk:
                return chunk

    def _wrong_end(self) -> UpstreamFailed | None:
        """What is wrong with an end that came in good order; nothing ever is with a relay's."""
        if self._plan.keep is None:
            return None
        if self.size is not None and self._received != self.size:
            if self._reply.head.status == 206:
                return passing("the body was cut")
            return WrongBody("the upstream's body ended early")
        if self.size is None and not self._reply.framed and not self._pinned:
            return WrongBody("the upstream's body has no length that could prove it whole")
        return None

    # -- the rest of a broken body ---------------------------------------------------------------------------

    async def _go_on(self, broken: UpstreamFailed) -> None:
        """Return when the rest comes; raise what broke when it will not."""
        if self._received - self._resumed_at >= PROGRESS:
            self._futile = 0
        while self._ranges and self._futile < RESUMES:
            self._futile += 1
            await self._replies.aclose()
            await asyncio.sleep(random.uniform(*_PAUSE))  # nosec B311 # jitter
            wanted = {"Range": f"bytes={self._received}-"}
            if not self._pinned and self._etag is not None:
                wanted["If-Range"] = self._etag
            try:
                self._reply = await self._ask(wanted)
            except UpstreamFailed:
                continue
            if not self._is_the_rest(self._reply):
                break
            self._resumed_at = self._received
            return
        raise broken from None

    def _is_the_rest(self, reply: Reply) -> bool:
        """Whether the reply goes on where the body broke. A 200 does from its N-th byte on, if a hash will tell
        whether it was the same body; without one it is another representation."""
        if reply.head.status != 206:
            try:
                start, declared = self._plan.judge(reply)
            except UpstreamFailed:
                return False
            self._skip = self._received
            return self._pinned and start == 0 and (None in (declared, self.size) or declared == self.size)
        found = received_range(reply.head.header("Content-Range"))
        if found is None:
            return False
        span, size = found
        if span.start != self._received or reply.length not in (None, span.stop - span.start):
            return False
        # A hash decides at the end. Without one: a part of a coded body is none of this one, whatever its ETag says.
        told = _strong(reply.head.header("ETag")), reply.head.header("Content-Encoding")
        if not self._pinned and told != (self._etag, self._coding):
            return False
        if self.size is None and size <= self._limit:
            self.size = self._limit = size
        self._skip = 0
        return size == self.size

    async def _ask(self, more: Mapping[str, str]) -> Reply:
        plan = self._plan
        headers = {**self._headers, **more}
        if plan.source is not None:
            return await self._replies.enter_async_context(plan.source(headers))
        opened = self._upstream.open(plan.index, plan.url, pool=plan.pool, headers=headers)
        return await self._replies.enter_async_context(opened)


def _strong(etag: str | None) -> str | None:
    """The ETag if it is a strong one: only that proves bytes equal (RFC 9110 §8.8.1)."""
    return etag if etag is not None and len(etag) > 2 and etag[0] == etag[-1] == '"' else None
