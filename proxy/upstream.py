"""One request to an index, streamed back: pools, egress guard, redirects by hand, retries before the first
byte.

The only module that speaks HTTP as a client. Every way to fail ends in UpstreamFailed with constant text: no
URL, no header and no aiohttp exception leaves this module.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import aiohttp
from aiohttp import ClientResponse, ClientSession, ClientTimeout, hdrs
from yarl import URL

from proxy import egress
from proxy.breaker import Patience
from proxy.connections import FILES, FLIGHT, PAGES, Budget, Dropped, Flight, open_session, trusting, user_agent
from proxy.credentials import Credentials
from proxy.egress import Address, Destination
from proxy.errors import UpstreamFailed
from proxy.replies import FailedHop, Reply, drain, explained, location_header, passing, reply_of, rest_of, violation_of
from proxy.rests import Place, Rests

Pool = Literal["page", "file"]

HEAD_WITHIN = 60.0
"""Seconds until the head of the final response, with redirects, retries and the wait for a connection."""

_STOPPING = "the proxy is shutting down"
_OWN_ADDRESSES_FOR = 60.0
_PAUSE = (0.1, 0.5)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ONLY_TO_OWN_ORIGIN = frozenset({"authorization", "cookie"})


@dataclass(frozen=True, slots=True)
class Site:
    """An index as its operator configured it. ``proxy`` is the URL of a forward proxy; ``ca_file`` is trusted
    beside the system's own certificates; ``private`` lets its pages name private addresses; ``missing`` are the
    statuses that mean 404 here, besides 404 and 410; ``credentials`` go to the index's own origin alone."""

    name: str
    url: str
    private: bool = False
    proxy: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    missing: frozenset[int] = frozenset()
    credentials: Credentials | None = field(default=None, repr=False)


class Upstream:
    """All that is asked of all indexes. Connections are per index and pool: one that was opened under the
    permissions of one index is never used by another, and big files never keep pages waiting."""

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        pages: Budget = PAGES,
        files: Budget = FILES,
        patience: Patience | None = None,
    ) -> None:
        self._rests = Rests(patience)
        self._sites = {site.name: (site, egress.parse(site.url)) for site in sites}
        self._budgets: dict[Pool, Budget] = {"page": pages, "file": files}
        self._sessions: dict[tuple[str, Pool], ClientSession] = {}
        self._trusts: dict[str, ssl.SSLContext] = {}
        self._own: dict[str, tuple[float, frozenset[Address]]] = {}
        self._closed = False

    async def close(self) -> None:
        """Close every connection, also those in use; later requests fail with 503."""
        self._closed = True
        sessions = list(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()

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
        call = _Call(
            site, configured, budget, self._session(site, pool), method, ends, budget.retries,
            coding | {name.lower(): value for name, value in headers.items()},
        )  # fmt: skip
        try:
            async with asyncio.timeout(min(HEAD_WITHIN, budget.total or HEAD_WITHIN)):
                response, there, asked_at = await self._follow(call, url)
        except TimeoutError:
            raise passing("no answer in time") from None
        try:
            reply = reply_of(response, there, asked_at, bodiless=method == "HEAD", idle=budget.idle)
            if reply.head.status in site.missing:
                reply.head = replace(reply.head, status=404)
            yield reply
        finally:
            # A body read to its end has given its connection back already, then this does nothing.
            response.close()

    async def _follow(self, call: _Call, url: str) -> tuple[ClientResponse, Destination, float]:
        proxied = call.site.proxy is not None
        here = egress.parse(url)
        egress.admit(here, call.configured, proxied=proxied)
        for _ in range(call.budget.redirects + 1):
            response, asked_at = await self._answered(call, here)
            if response.status not in _REDIRECTS:
                return response, here, asked_at
            try:
                there = egress.follow(here, location_header(response))
                egress.admit(there, call.configured, proxied=proxied, here=here)
                await drain(response)
            finally:
                response.close()
            here = there
        raise UpstreamFailed("more redirects than allowed")

    async def _answered(self, call: _Call, there: Destination) -> tuple[ClientResponse, float]:
        """One hop, asked again where that may help: nothing of an answer has been used yet, and GET and HEAD
        are idempotent (RFC 9110 §9.2.2)."""
        place = call.site.name, there.origin
        probe = self._rests.admit(place, asyncio.get_running_loop().time())
        while True:
            try:
                return await self._attempt(call, there, place)
            except FailedHop as failed:
                if probe or not call.may_retry(failed.kind):
                    # Without its context: that would carry the URL into a traceback.
                    raise failed.failure from None
            await asyncio.sleep(random.uniform(*_PAUSE))

    async def _attempt(self, call: _Call, there: Destination, place: Place) -> tuple[ClientResponse, float]:
        """One request, and a word to the breaker of what became of it."""
        now = asyncio.get_running_loop().time
        try:
            response, asked_at = await self._ask(call, there)
        except FailedHop as failed:
            if failed.counts:
                self._rests.failed(place, there.url if failed.connected else None, now())
            raise
        finally:
            # What was refused by us or cancelled says nothing about the origin.
            self._rests.dropped(place)
        status, rest = response.status, rest_of(response)
        self._rests.answered(place, there.url, now(), status=status, rest=rest, method=call.method)
        return response, asked_at

    async def _ask(self, call: _Call, there: Destination) -> tuple[ClientResponse, float]:
        site = call.site
        # With a forward proxy the only socket is the one to it, and its host was configured.
        named = site.proxy is None and there.host != call.configured.host
        own = await self._own_addresses(call) if named else frozenset()
        flight = Flight(not named, own, site.private, call.budget.connect)
        verify = await self._trust(site.ca_file) if site.ca_file else True
        if call.session.closed:
            raise passing(_STOPPING)
        current = FLIGHT.set(flight)
        asked_at = time.time()
        try:
            response = await call.session.request(
                call.method,
                URL(there.url, encoded=True),
                headers=call.headers_for(there),
                allow_redirects=False,
                ssl=verify,
                proxy=site.proxy,
                proxy_headers={hdrs.USER_AGENT: user_agent()} if site.proxy else None,
                timeout=call.timeout(),
            )
        except (aiohttp.ClientError, OSError, ValueError, Dropped) as exc:
            raise explained(exc, refused=flight.refused and not flight.made, reused=not flight.made) from None
        except asyncio.CancelledError:
            # close() cancels what waits for a connection or a name. Nobody cancelled this task then, and a
            # CancelledError it did not ask for would end it without a word.
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise passing(_STOPPING) from None
            raise
        finally:
            FLIGHT.reset(current)
        violation = violation_of(response, call.headers)
        if violation is not None:
            response.close()
            raise FailedHop("protocol", passing(violation, response.status), connected=True)
        return response, asked_at

    async def _own_addresses(self, call: _Call) -> frozenset[Address]:
        """Where the index's own host is now, as far back as a minute; nowhere when it cannot be resolved, so
        that doubt allows less."""
        loop = asyncio.get_running_loop()
        until, addresses = self._own.get(call.site.name, (0.0, frozenset[Address]()))
        if loop.time() < until:
            return addresses
        place = call.configured
        try:
            async with asyncio.timeout(call.budget.connect):
                infos = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
            addresses = frozenset(egress.address_of(str(info[4][0])) for info in infos)
        except (OSError, ValueError):
            addresses = frozenset()
        self._own[call.site.name] = (loop.time() + _OWN_ADDRESSES_FOR, addresses)
        return addresses

    async def _trust(self, ca_file: str) -> ssl.SSLContext:
        """Made on first use and in a thread: reading the system's certificates takes tens of milliseconds."""
        if ca_file not in self._trusts:
            try:
                self._trusts[ca_file] = await asyncio.to_thread(trusting, ca_file)
            except (OSError, ValueError):
                raise UpstreamFailed("the CA file of the index cannot be used") from None
        return self._trusts[ca_file]

    def _session(self, site: Site, pool: Pool) -> ClientSession:
        if self._closed:
            raise passing(_STOPPING)
        session = self._sessions.get((site.name, pool))
        if session is None:
            session = self._sessions[site.name, pool] = open_session(self._budgets[pool])
        return session


@dataclass(slots=True)
class _Call:
    """What stays the same, and what is used up, over the redirects and retries of one request."""

    site: Site
    configured: Destination
    budget: Budget
    session: ClientSession
    method: str
    ends: float | None
    retries: int
    headers: Mapping[str, str]
    asked_again: bool = False
    left: bool = False

    def may_retry(self, kind: str) -> bool:
        """Count one more try, at most ``budget.retries`` in all and one of them for a protocol error; none when
        ``total`` would end before it."""
        if self.ends is not None and asyncio.get_running_loop().time() + _PAUSE[0] >= self.ends:
            return False
        if kind == "final" or self.retries == 0 or (kind == "protocol" and self.asked_again):
            return False
        self.retries -= 1
        self.asked_again = self.asked_again or kind == "protocol"
        return True

    def headers_for(self, there: Destination) -> dict[str, str]:
        """Credentials of an index go to its own origin only, and not when somebody else sent us there."""
        self.left = self.left or there.origin != self.configured.origin
        if self.left:
            return {name: value for name, value in self.headers.items() if name not in _ONLY_TO_OWN_ORIGIN}
        known = self.site.credentials
        authorization = known.authorization() if known is not None else None
        return {**self.headers} if authorization is None else {**self.headers, "authorization": authorization}

    def timeout(self) -> ClientTimeout:
        """No limit on the wait for a free connection of the pool but HEAD_WITHIN: it says nothing about the
        host. ``total`` goes on through the body."""
        left = None
        if self.ends is not None:
            left = max(0.001, self.ends - asyncio.get_running_loop().time())
        return ClientTimeout(total=left, connect=None, sock_connect=self.budget.connect, sock_read=self.budget.idle)
