"""The way from an open file to a client without a copy: sendfile on the connection's own socket.

``loop.sendfile`` takes a future, a writer and a fresh look at the transport for each slice, and a cancelled one leaves
the transport open. Here the kernel is asked at once, and only a full socket is waited for, through a duplicate of its
descriptor: one that a transport uses may not be watched.
"""

from __future__ import annotations

import asyncio
import errno
import os
from types import TracebackType
from typing import Self

from proxy.answer import Piece

SLICE = 256 * 1024
"""Bytes that a client has to accept within the stall time."""
AT_ONCE = 1024 * 1024
"""Bytes for one client before the others get a turn."""
_NOT_HERE = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTSOCK})


class Unavailable(Exception):
    """The kernel cannot send this file over this connection."""


class Outlet:
    """One connection, while a body is sent over it. ``stall``: seconds that a client may take to accept one SLICE."""

    def __init__(self, transport: asyncio.WriteTransport, *, stall: float) -> None:
        self._transport = transport
        self._stall = stall
        self._loop = asyncio.get_running_loop()
        self._watched: int | None = None
        # Of the slice under way: bytes that are missing, seconds that are left for them.
        self._missing = 0
        self._left = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Before the connection is reset: as long as one descriptor is open, nothing goes out to say so.
        if self._watched is not None:
            os.close(self._watched)

    async def send(self, piece: Piece, count: int) -> int:
        """Send up to ``count`` bytes of a piece, at least one; 0 when the file ends before them. Raises TimeoutError
        when the client stalls, ConnectionError when it left, another OSError when the file cannot be read,
        Unavailable."""
        if self._missing <= 0:
            self._missing, self._left = SLICE, self._stall
        began = self._loop.time()
        sent = await self._send(piece, min(count, AT_ONCE), began + self._left)
        # What the upstream takes to go on is not the client's.
        self._left -= self._loop.time() - began
        self._missing -= sent
        return sent

    async def _send(self, piece: Piece, count: int, until: float) -> int:
        if self._transport.get_write_buffer_size():
            return await self._behind_what_waits(piece, min(count, SLICE), until)
        waited = False
        while not self._transport.is_closing():
            try:
                sent = os.sendfile(self._socket(), piece.file.fileno(), piece.position, count)
            except (BlockingIOError, InterruptedError):
                await self._room(until)
                waited = True
            except OSError as error:
                if error.errno in _NOT_HERE:
                    raise Unavailable from error
                raise
            else:
                if not waited:
                    await asyncio.sleep(0)
                return sent
        raise ConnectionResetError

    def _socket(self) -> int:
        descriptor: int = self._transport.get_extra_info("socket").fileno()
        return descriptor

    async def _behind_what_waits(self, piece: Piece, count: int, until: float) -> int:
        """The head has not left yet."""
        try:
            async with asyncio.timeout_at(until):
                # asyncio's own fallback reads by the file's position, which all followers share.
                return await self._loop.sendfile(self._transport, piece.file, piece.position, count, fallback=False)
        except asyncio.SendfileNotAvailableError as error:
            raise Unavailable from error

    async def _room(self, until: float) -> None:
        """Return when the socket takes more."""
        if self._watched is None:
            self._watched = os.dup(self._socket())
        ready = self._loop.create_future()
        self._loop.add_writer(self._watched, _set, ready)
        try:
            async with asyncio.timeout_at(until):
                await ready
        finally:
            self._loop.remove_writer(self._watched)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
