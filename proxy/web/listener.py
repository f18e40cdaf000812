"""Connections of clients: how many there are, and how all of them end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

from proxy.web.connection import Connection, unsent
from proxy.web.forwarded import UNIX, Front
from proxy.web.lane import Lane
from proxy.web.sending import reset

_LOOK_AGAIN = 0.05
_STALL = 30.0
_WRITE_AHEAD = 64 * 1024
"""Bytes that may wait in the process for one client; asyncio's own default for plain connections."""
IN_ALL, PER_ADDRESS = "client_connections", "client_connections_per_address"
"""Both limits on connections, as the settings call them."""
NO_FRONT = Front()
"""Nobody is trusted to speak for others."""


class Listener(web.Server):
    """Makes connections, a bounded number at a time: in all, and from one address that ``front`` does not trust to
    speak for many. ``refused`` counts those beyond, by the limit that they met. Who takes nothing of what is left of
    an answer for ``stall`` seconds is reset. What can be answered at once is, by the ``lane``."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], object],
        *,
        connections_max: int,
        per_address_max: int | None = None,
        front: Front = NO_FRONT,
        stall: float = _STALL,
        lane: Lane | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(handler, **kwargs)  # type: ignore[arg-type]  # aiohttp's own, passed on
        self._connections_max = connections_max
        self._per_address_max = connections_max if per_address_max is None else per_address_max
        self._front = front
        self._stall = stall
        self._lane = lane
        self.refused: Counter[str] = Counter()
        self._peers: dict[web.RequestHandler, str] = {}
        self._counts: Counter[str] = Counter()

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Refuse a connection beyond a limit by closing it at once."""
        super().connection_made(handler, transport)
        # TLS would let half a megabyte wait for each slow client.
        transport.set_write_buffer_limits(_WRITE_AHEAD)
        name = transport.get_extra_info("peername")
        self._peers[handler] = peer = str(name[0]) if isinstance(name, tuple) else UNIX
        self._counts[peer] += 1
        crowded = self._counts[peer] > self._per_address_max and peer != UNIX and not self._front.trusts(peer)
        if crowded or len(self.connections) > self._connections_max:
            self.refused[PER_ADDRESS if crowded else IN_ALL] += 1
            transport.abort()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Its place is free."""
        super().connection_lost(handler, exc)
        if (peer := self._peers.pop(handler, None)) is not None:
            self._counts[peer] -= 1
            if not self._counts[peer]:
                del self._counts[peer]

    def __call__(self) -> web.RequestHandler:
        """A protocol for one more connection."""
        own: dict[str, Any] = {"stall": self._stall, "front": self._front, "lane": self._lane}
        return Connection(self, loop=self._loop, **own, **self._kwargs)

    async def flushed(self) -> None:
        """Return once the system has taken all that was written for clients: it goes on sending when we are gone."""
        # asyncio tells nobody when a buffer has run empty: only the protocol that writes, and only below a mark.
        while any(unsent(each.transport) for each in self.connections if each.transport):  # noqa: ASYNC110 - see above
            await asyncio.sleep(_LOOK_AGAIN)

    def cut_all(self) -> None:
        """Reset every connection."""
        for connection in self.connections:
            if connection.transport is not None:
                reset(connection.transport)
