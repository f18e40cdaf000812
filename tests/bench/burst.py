"""So many clients at once for one thing: ``python -m tests.bench.burst URL COUNT SIZE [HEADER...]``.

One process, one thread, sockets that do not block; bodies are counted, not kept. One line of JSON: the median seconds
to the first byte of the body, and the seconds until the last client had all. It is an error when a status is not 200,
or when a body does not have SIZE bytes (0: whatever is declared).
"""

from __future__ import annotations

import json
import re
import select
import socket
import sys
import time
from statistics import median
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_ENDING = b"0\r\n\r\n"


class Client:
    """One connection: ``first`` is when its body began, ``whole`` whether all of it is here."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=60)
        self.first = 0.0
        self.whole = False
        self._head = b""
        self._missing: int | None = None
        self._tail = b""

    def received(self, piece: memoryview, size: int) -> None:
        """Count it. RuntimeError for an answer that is not the one expected."""
        if not len(piece):
            raise RuntimeError("an answer was cut")
        if not self.first:
            self._head += bytes(piece)
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end or not rest:
                return
            if head[9:12] != b"200":
                raise RuntimeError(head.decode("latin-1"))
            length = _LENGTH.search(head)
            self._missing = int(length[1]) if length else None
            if size and self._missing not in (None, size):
                raise RuntimeError(f"{self._missing} bytes are declared, not {size}")
            self.first = time.perf_counter()
            piece = memoryview(rest)
        if self._missing is not None:
            self._missing -= len(piece)
            self.whole = self._missing == 0
        else:  # chunked: what it ends with is enough here, nothing follows it on this connection
            self._tail = (self._tail + bytes(piece[-len(_ENDING) :]))[-len(_ENDING) :]
            self.whole = self._tail == _ENDING


def burst(url: str, count: int, size: int, headers: list[str]) -> tuple[float, float]:
    """Median seconds to the first byte, and the seconds to the last one of all."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    clients = [Client((parts.hostname, parts.port or 80)) for _ in range(count)]
    lines = [f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", *headers, "", ""]
    question = "\r\n".join(lines).encode("latin-1")
    buffer = memoryview(bytearray(256 * 1024))
    ready = select.epoll()
    began = time.perf_counter()
    for client in clients:
        client.socket.sendall(question)
        client.socket.setblocking(False)
        ready.register(client.socket, select.EPOLLIN)
    waiting = {client.socket.fileno(): client for client in clients}
    while waiting:
        for number, _ in ready.poll(120) or _late():
            client = waiting[number]
            client.received(buffer[: client.socket.recv_into(buffer)], size)
            if client.whole:
                ready.unregister(client.socket)
                del waiting[number]
    took = time.perf_counter() - began
    return median(client.first - began for client in clients), took


def _late() -> list[tuple[int, int]]:
    raise TimeoutError("two minutes without a byte")


if __name__ == "__main__":
    asked, number, bytes_, *fields = sys.argv[1:]
    print(json.dumps(burst(asked, int(number), int(bytes_), fields)))
