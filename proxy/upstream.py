"""One request to an index or a mount, streamed back: pools, egress guard, redirects by hand, retries before the first
byte.

The only room that speaks HTTP as a client. Every way to fail ends in UpstreamFailed with constant text: no
URL, no header and no aiohttp exception leaves it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Literal

from aiohttp import ClientSession

from proxy import egress
from proxy.breaker import Patience
from proxy.calls import Call, Forward, Site
from proxy.connections import FILES, PAGES, Budget, open_session, user_agent
from proxy.core.messages import Headers
from proxy.egress import Destination
from proxy.errors import UpstreamFailed
from proxy.events import UpstreamObserver
from proxy.hops import STOPPING, Heard, Hops
from proxy.replies import Reply, drain, location_header, passing, reply_of
from proxy.rests import Rests
from proxy.uploads import Body, lines

Pool = Literal["page", "file", "mount", "upload"]

HEAD_WITHIN = 60.0
"""Seconds until the head of the final response, with redirects, retries and the wait for a connection."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Upstream:
    """All that is asked of all indexes. Connections are per index and pool: one that was opened under the
    permissions of one index is never used by another, and neither do big files keep pages waiting nor slow uploads
    those who only read."""

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        pages: Budget = PAGES,
        files: Budget = FILES,
        patience: Patience | None = None,
        observers: Sequence[UpstreamObserver] = (),
    ) -> None:
        self._rests = Rests(patience)
        self._hops = Hops(self._rests, observers)
        self._sites = {site.name: (site, egress.parse(site.url)) for site in sites}
        self._budgets: dict[Pool, Budget] = {"page": pages, "file": files, "mount": files, "upload": files}
        self._sessions: dict[tuple[str, Pool], ClientSession] = {}

    async def close(self) -> None:
        """Close every connection, also those in use; later requests fail with 503."""
        self._hops.closed = True
        sessions = list(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()

    def refuses(self, index: str, url: str) -> UpstreamFailed | None:
        """What ``open`` would say without asking anybody; None: it would ask. Changes nothing."""
        site, configured = self._sites[index]
        try:
            there = egress.parse(url)
            egress.admit(there, configured, proxied=site.proxy is not None)
        except UpstreamFailed as refused:
            return refused
        return self._rests.refuses((site.name, there.origin), asyncio.get_running_loop().time())

    def resting(self) -> Mapping[str, int]:
        """How many origins of each index are left alone for now."""
        return dict.fromkeys(self._sites, 0) | self._rests.resting()

    def open(
        self, index: str, url: str, *, pool: Pool, headers: Mapping[str, str], method: str = "GET"
    ) -> AbstractAsyncContextManager[Reply]:
        """Ask for ``url`` (absolute, spelled as it is to be sent) under the permissions of ``index``.

        Any HTTP status but a redirect comes back as a Reply. UpstreamFailed: 502 for what the egress guard
        refuses, 503 with ``retry_after`` for what may pass, and at once while the origin rests (see ``breaker``).
        Only GET and HEAD.
        Leaving the context closes the connection unless the body was read to its end.
        """
        return self._open(index, url, pool, headers, method)

    @asynccontextmanager
    async def _open(
        self, index: str, url: str, pool: Pool, headers: Mapping[str, str], method: str
    ) -> AsyncIterator[Reply]:
        site, configured = self._sites[index]
        budget = self._budgets[pool]
        now = asyncio.get_running_loop().time()
        ends = None if budget.total is None else now + budget.total
        coding = {"accept-encoding": "gzip" if pool == "page" else "identity"}
        call = Call(
            site, configured, budget, self._session(site, pool), method, ends, budget.retries,
            coding | {name.lower(): value for name, value in headers.items()},
        )  # fmt: skip
        try:
            async with asyncio.timeout(min(HEAD_WITHIN, budget.total or HEAD_WITHIN)):
                heard, there = await self._follow(call, url)
        except TimeoutError:
            raise passing("no answer in time") from None
        async with self._replied(call, there, heard) as reply:
            if reply.head.status in site.missing:
                reply.head = replace(reply.head, status=404)
            yield reply

    def forward(
        self,
        site: str,
        url: str,
        *,
        method: str,
        headers: Headers,
        chunks: AsyncIterator[bytes] | None = None,
        length: int | None = None,
    ) -> AbstractAsyncContextManager[Reply]:
        """Pass a client's request on to a mount: these lines, but for Host, the framing and Expect, and this body:
        ``length`` bytes of ``chunks``, in chunks where that is None.

        Any final status comes back as a Reply, once: redirects too, and early ones, beside which the upload goes on
        until the answer is complete. Raises what ``chunks`` raise while there is no answer, and UpstreamFailed as
        ``open`` does; a 429 or a 503 makes nobody rest. The limit on the wait for an answer begins to count when all
        is sent. When the context is left nobody reads ``chunks`` any more, and a body that was not sent whole has been
        cut.
        """
        return self._forward(site, url, method, headers, chunks, length)

    @asynccontextmanager
    async def _forward(
        self,
        name: str,
        url: str,
        method: str,
        headers: Headers,
        chunks: AsyncIterator[bytes] | None,
        length: int | None,
    ) -> AsyncIterator[Reply]:
        site, configured = self._sites[name]
        budget = self._budgets["mount"]
        there = egress.parse(url)
        if there.origin != configured.origin:
            raise UpstreamFailed("another origin than that of the mount")
        body = None if chunks is None else Body(chunks, length, stall=budget.idle, within=HEAD_WITHIN)
        call = Forward(
            site, configured, budget, self._session(site, "mount" if body is None else "upload"), method, None,
            budget.retries, {}, lines=lines(headers), body=body,
        )  # fmt: skip
        try:
            heard = await self._answer(call, there)
            async with self._replied(call, there, heard) as reply:
                yield reply
        finally:
            if body is not None:
                await body.ended()

    async def _answer(self, call: Forward, there: Destination) -> Heard:
        """What the mount answers, in time."""
        body = call.body
        try:
            async with asyncio.timeout(HEAD_WITHIN) as limit:
                if body is not None:
                    body.limit = limit
                return await self._hops.answered(call, there)
        except TimeoutError:
            raise passing("no answer in time") from None
        except UpstreamFailed:
            if body is not None and body.broken is not None:
                raise body.broken from None
            raise
        finally:
            if body is not None:
                body.limit = None

    @asynccontextmanager
    async def _replied(self, call: Call, there: Destination, heard: Heard) -> AsyncIterator[Reply]:
        response, asked_at, seconds = heard
        reply = reply_of(response, there, asked_at, bodiless=call.method == "HEAD", idle=call.budget.idle)
        try:
            yield reply
        finally:
            # A body read to its end has given its connection back already, then this does nothing.
            response.close()
            self._hops.tell(call, response.status, seconds, *reply.account())

    async def _follow(self, call: Call, url: str) -> tuple[Heard, Destination]:
        proxied = call.site.proxy is not None
        here = egress.parse(url)
        egress.admit(here, call.configured, proxied=proxied)
        for _ in range(call.budget.redirects + 1):
            response, _, seconds = heard = await self._hops.answered(call, here)
            if response.status not in _REDIRECTS:
                return heard, here
            try:
                there = egress.follow(here, location_header(response))
                egress.admit(there, call.configured, proxied=proxied, here=here)
                await drain(response)
            finally:
                response.close()
                self._hops.tell(call, response.status, seconds)
            here = there
        raise UpstreamFailed("more redirects than allowed")

    def _session(self, site: Site, pool: Pool) -> ClientSession:
        if self._hops.closed:
            raise passing(STOPPING)
        session = self._sessions.get((site.name, pool))
        if session is None:
            agent = None if pool in ("mount", "upload") else user_agent()
            session = self._sessions[site.name, pool] = open_session(self._budgets[pool], agent=agent)
        return session
