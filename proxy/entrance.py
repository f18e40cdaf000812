"""Who is let in: not more connections than are allowed, and none while descriptors are scarce."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from proxy import descriptors

_log = logging.getLogger("proxy")
_REST = 0.5
"""Seconds; asyncio rests for one."""


class Crowd:
    """Who is in: at most ``most`` connections, at most ``each`` from one address but those that are ``exempt``.
    ``refused`` counts those beyond, by the setting that is their limit."""

    def __init__(self, most: int, each: int, exempt: Callable[[str], bool]) -> None:
        self._most = most
        self._each = each
        self._exempt = exempt
        self.refused: Counter[str] = Counter()
        self._inside: Counter[str] = Counter()
        self._count = 0

    def enter(self, address: str) -> bool:
        """Whether one more may come in; it is counted then until it leaves."""
        full = self._inside[address] >= self._each and not self._exempt(address)
        if full or self._count >= self._most:
            self.refused["client_connections_per_address" if full else "client_connections"] += 1
            return False
        self._count += 1
        self._inside[address] += 1
        return True

    def leave(self, address: str) -> None:
        """One less."""
        self._count -= 1
        self._inside[address] -= 1
        if not self._inside[address]:
            del self._inside[address]


class Entrance(socket.socket):
    """A socket that listens, and accepts nobody while `descriptors` are scarce: asyncio rests for a second then. With a
    ``crowd`` it accepts no more than may come in: asyncio tells nobody of a TLS connection before its handshake is
    over, and keeps 300 KB for it until then."""

    crowd: Crowd | None = None
    _scarce = False
    _told = False
    _rests_until = 0.0

    def accept(self) -> tuple[socket.socket, Any]:
        if self._scarce:
            self._look_again()
        try:
            connection, address = super().accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._rest()
            raise
        self._scarce = descriptors.is_scarce(connection.fileno())
        crowd = self.crowd
        if crowd is None:
            return connection, address
        if not crowd.enter(address[0]):
            connection.close()
            raise ConnectionAbortedError  # for asyncio: nobody is there now
        return _Guest(connection, partial(crowd.leave, address[0])), address

    def _look_again(self) -> None:
        if time.monotonic() < self._rests_until:
            raise BlockingIOError  # asyncio up to 3.13 goes on asking, a thousand times, before it rests
        if descriptors.are_scarce(self.fileno()):
            self._rest()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self._scarce = False
        if self._told:
            self._told = False
            _log.warning("connections are accepted again")

    def _rest(self) -> None:
        self._scarce, self._rests_until = True, time.monotonic() + _REST
        if not self._told:
            self._told = True
            _log.warning("too few descriptors are left: no connection is accepted until some are free")


class _Guest(socket.socket):
    """A connection that says when it is closed."""

    def __init__(self, connection: socket.socket, left: Callable[[], None]) -> None:
        super().__init__(connection.family, connection.type, connection.proto, connection.detach())
        self._left: Callable[[], None] | None = left

    def close(self) -> None:
        left, self._left = self._left, None
        if left is not None:
            left()
        super().close()


def unless_told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio says of itself, but that it rests with accepting, and that it would go on with it when the socket
    has been closed meanwhile."""
    message = str(context.get("message"))
    if "socket.accept() out of system resource" not in message and "_start_serving" not in message:
        loop.default_exception_handler(context)
