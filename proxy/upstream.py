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
from dataclasses import replace
from typing import Literal

import aiohttp
from aiohttp import ClientResponse, ClientSession, hdrs
from yarl import URL

from proxy import egress
from proxy.breaker import Patience
from proxy.calls import PAUSE, Call, Site
from proxy.connections import FILES, FLIGHT, PAGES, Budget, Dropped, Flight, open_session, trusting, user_agent
from proxy.egress import Address, Destination
from proxy.errors import UpstreamFailed
from proxy.events import UpstreamEvent, UpstreamObserver
from proxy.replies import FailedHop, Reply, drain, explained, location_header, passing, reply_of, rest_of, violation_of
from proxy.rests import Place, Rests

Pool = Literal["page", "file"]

HEAD_WITHIN = 60.0
"""Seconds until the head of the final response, with redirects, retries and the wait for a connection."""

_STOPPING = "the proxy is shutting down"
_OWN_ADDRESSES_FOR = 60.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_Heard = tuple[ClientResponse, float, float]
"""A head, when it was asked for (since the epoch), and how many seconds it took."""


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
        observers: Sequence[UpstreamObserver] = (),
    ) -> None:
        self._rests = Rests(patience)
        self._observers = observers
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
                (response, asked_at, seconds), there = await self._follow(call, url)
        except TimeoutError:
            raise passing("no answer in time") from None
        reply = reply_of(response, there, asked_at, bodiless=method == "HEAD", idle=budget.idle)
        try:
            if reply.head.status in site.missing:
                reply.head = replace(reply.head, status=404)
            yield reply
        finally:
            # A body read to its end has given its connection back already, then this does nothing.
            response.close()
            self._tell(call, response.status, seconds, *reply.account())

    async def _follow(self, call: Call, url: str) -> tuple[_Heard, Destination]:
        proxied = call.site.proxy is not None
        here = egress.parse(url)
        egress.admit(here, call.configured, proxied=proxied)
        for _ in range(call.budget.redirects + 1):
            response, _, seconds = heard = await self._answered(call, here)
            if response.status not in _REDIRECTS:
                return heard, here
            try:
                there = egress.follow(here, location_header(response))
                egress.admit(there, call.configured, proxied=proxied, here=here)
                await drain(response)
            finally:
                response.close()
                self._tell(call, response.status, seconds)
            here = there
        raise UpstreamFailed("more redirects than allowed")

    async def _answered(self, call: Call, there: Destination) -> _Heard:
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
            await asyncio.sleep(random.uniform(*PAUSE))

    async def _attempt(self, call: Call, there: Destination, place: Place) -> _Heard:
        """One request, and a word of what became of it: to the breaker, and of none to the observers."""
        now = asyncio.get_running_loop().time
        began = now()
        try:
            response, asked_at = await self._ask(call, there)
        except FailedHop as failed:
            if failed.counts:
                self._rests.failed(place, there.url if failed.connected else None, now())
            self._tell(call, failed.failure.upstream_status, now() - began, because=failed.failure.because)
            raise
        except asyncio.CancelledError:
            self._tell(call, None, now() - began)
            raise
        finally:
            # What was refused by us or cancelled says nothing about the origin.
            self._rests.dropped(place)
        status, rest = response.status, rest_of(response)
        self._rests.answered(place, there.url, now(), status=status, rest=rest, method=call.method)
        return response, asked_at, now() - began

    def _tell(self, call: Call, status: int | None, seconds: float, received: int = 0, because: str = "") -> None:
        event = UpstreamEvent(call.site.name, status, seconds, received, because)
        for observer in self._observers:
            observer(event)

    async def _ask(self, call: Call, there: Destination) -> tuple[ClientResponse, float]:
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

    async def _own_addresses(self, call: Call) -> frozenset[Address]:
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
