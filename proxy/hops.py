"""One request on one connection, asked again where that may help, and told to the breaker and to the observers."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections.abc import Sequence

import aiohttp
from aiohttp import ClientResponse, hdrs
from yarl import URL

from proxy import egress
from proxy.calls import PAUSE, Call
from proxy.connections import FLIGHT, Dropped, Flight, trusting, user_agent
from proxy.egress import Address, Destination
from proxy.errors import UpstreamFailed
from proxy.events import UpstreamEvent, UpstreamObserver
from proxy.replies import FailedHop, explained, passing, violation_of
from proxy.rests import Place, Rests

STOPPING = "the proxy is shutting down"
_OWN_ADDRESSES_FOR = 60.0
Heard = tuple[ClientResponse, float, float]
"""A head, when it was asked for (since the epoch), and how many seconds it took."""


class Hops:
    """Every request that is sent goes through here. ``closed``: what fails from now on does so because we stop."""

    def __init__(self, rests: Rests, observers: Sequence[UpstreamObserver]) -> None:
        self.closed = False
        self._rests = rests
        self._observers = observers
        self._trusts: dict[str, ssl.SSLContext] = {}
        self._own: dict[str, tuple[float, frozenset[Address]]] = {}

    async def answered(self, call: Call, there: Destination) -> Heard:
        """One hop, asked again where that may help: nothing of an answer has been used yet, and what may be sent
        twice is (RFC 9110 §9.2.2). Raises UpstreamFailed."""
        place, now = (call.site.name, there.origin), asyncio.get_running_loop().time
        probe = self._rests.admit(place, now())
        while True:
            try:
                return await self._attempt(call, there, place)
            except FailedHop as failed:
                failure = failed.failure
                if probe or not call.may_retry(failed.kind):
                    # Without its context: that would carry the URL into a traceback.
                    raise failure from None
            await asyncio.sleep(random.uniform(*PAUSE))  # nosec B311 # jitter
            if self._rests.refuses(place, now()) is not None:
                raise failure  # left alone by now, also by those who were under way when that began
            probe = self._rests.admit(place, now())

    async def _attempt(self, call: Call, there: Destination, place: Place) -> Heard:
        """One request, and a word of what became of it: to the breaker, and of none to the observers."""
        now = asyncio.get_running_loop().time
        began = now()
        try:
            response, asked_at = await self._ask(call, there)
        except FailedHop as failed:
            # What breaks over an upload may be the client's doing: it must not shut out all the others.
            if failed.counts and not (failed.connected and call.body is not None):
                self._rests.failed(place, there.url if failed.connected else None, now())
            self.tell(call, failed.failure.upstream_status, now() - began, because=failed.failure.because)
            raise
        except asyncio.CancelledError:
            self.tell(call, None, now() - began)
            raise
        finally:
            # What was refused by us or cancelled says nothing about the origin.
            self._rests.dropped(place)
        status, rest = call.says(response)
        self._rests.answered(place, there.url, now(), status=status, rest=rest, method=call.method)
        return response, asked_at, now() - began

    def tell(self, call: Call, status: int | None, seconds: float, received: int = 0, because: str = "") -> None:
        """The observers, of one request that is over (``UpstreamEvent``)."""
        event = UpstreamEvent(call.site.name, status, seconds, received, because)
        for observer in self._observers:
            observer(event)

    async def _ask(self, call: Call, there: Destination) -> tuple[ClientResponse, float]:
        site = call.site
        # With a forward proxy the only socket is the one to it, and its host was configured.
        named = site.proxy is None and there.host != call.configured.host
        own = await self._own_addresses(call) if named else frozenset()
        flight = Flight(not named, own, site.private, call.budget.connect, call.lines)
        verify = await self._trust(site.ca_file) if site.ca_file else True
        if call.session.closed:
            raise passing(STOPPING)
        current = FLIGHT.set(flight)
        asked_at = time.time()
        try:
            response = await call.session.request(
                call.method,
                URL(there.url, encoded=True),
                headers=call.headers_for(there),
                data=call.body,
                allow_redirects=False,
                ssl=verify,
                proxy=site.proxy,
                proxy_headers={hdrs.USER_AGENT: user_agent()} if site.proxy else None,
                timeout=call.timeout(),
            )
        except (aiohttp.ClientError, OSError, ValueError, Dropped) as exc:
            if call.body is not None and call.body.broken is not None:
                raise FailedHop("final", passing("the upload was cut"), counts=False) from None
            raise explained(exc, refused=flight.refused and not flight.made, reused=not flight.made) from None
        except asyncio.CancelledError:
            # close() cancels what waits for a connection or a name. Nobody cancelled this task then, and a
            # CancelledError it did not ask for would end it without a word.
            task = asyncio.current_task()
            if self.closed and task is not None and not task.cancelling():
                raise passing(STOPPING) from None
            raise
        finally:
            FLIGHT.reset(current)
        violation = violation_of(response, call.asked)
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
