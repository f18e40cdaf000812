"""A client that has read the head of a body and no more than its buffer takes, until it is told to go on."""

from __future__ import annotations

import hashlib
import socket

from tests.harness.world import PATIENCE, World

_KIB = 1024


class Reader:
    """Asks when it is made; the rest is read once."""

    def __init__(self, here: World, path: str) -> None:
        self._connection = socket.socket()
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * _KIB)
        self._connection.settimeout(PATIENCE)
        self._connection.connect((here.proxy.host, here.proxy.port))
        self._connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        self._begun = b""
        while b"\r\n\r\n" not in self._begun:
            self._begun += self._connection.recv(_KIB)
        assert self._begun.startswith(b"HTTP/1.1 200 ")

    def rest(self) -> str:
        """Reads to the end; the body's sha256."""
        with self._connection:
            digest = hashlib.sha256(self._begun.partition(b"\r\n\r\n")[2])
            while piece := self._connection.recv(64 * _KIB):
                digest.update(piece)
            return digest.hexdigest()
