"""Many raw requests, one after the other: a connection that is kept for as long as the server keeps it."""

from __future__ import annotations

import contextlib
import socket
from types import TracebackType
from typing import Self

from tests.harness.origin import Told, listen

PATIENCE = 20.0


class Wire:
    """A context manager; for one thread."""

    def __init__(self, host: str, port: int) -> None:
        self._place = host, port
        self._connection: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def ask(self, request: bytes, method: str = "GET") -> Told:
        """These bytes, and what is answered. On a kept connection that the server has closed meanwhile nothing was
        read of them: they are sent again on a new one."""
        kept = self._connection is not None
        told = self._told(request, method)
        return self._told(request, method) if kept and told.status == 0 else told

    def _told(self, request: bytes, method: str) -> Told:
        if self._connection is None:
            self._connection = socket.create_connection(self._place, timeout=PATIENCE)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        told = Told()
        with contextlib.suppress(OSError):
            self._connection.sendall(request)
        told = listen(self._connection, method)
        # RFC 9112 §9.6; of HTTP/1.0 nothing else is expected here.
        kept = told.whole and (told.header("connection") or "").lower() != "close"
        if not kept or b"HTTP/1.0\r\n" in request:
            self._leave()
        return told

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
