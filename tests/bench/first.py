"""A client with a watch, in a process of its own: ``python -m tests.bench.first``.

Reads a JSON array of ``[url, {header: value}]`` from stdin, asks for one after the other over one connection per
server, and writes an array of ``[seconds to the first byte of the body, seconds to its last, status, bytes]``.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_BUFFER = memoryview(bytearray(256 * 1024))
Timed = tuple[float, float, int, int]


def ask(connection: socket.socket, netloc: str, path: str, headers: Mapping[str, str]) -> Timed:
    """One request. Raises ConnectionError when the answer ends too early."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {netloc}", *(f"{name}: {value}" for name, value in headers.items())]
    began = time.perf_counter()
    connection.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1"))
    head = b""
    while b"\r\n\r\n" not in head or head.endswith(b"\r\n\r\n"):
        received = connection.recv_into(_BUFFER)
        if not received:
            raise ConnectionError("the answer was cut")
        head += _BUFFER[:received]
    first = time.perf_counter() - began
    head, _, body = head.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    assert length is not None
    size, got = int(length[1]), len(body)
    while got < size:
        received = connection.recv_into(_BUFFER)
        if not received:
            raise ConnectionError("the body was cut")
        got += received
    return first, time.perf_counter() - began, int(head[9:12]), got


def main() -> None:
    """Ask what stdin says."""
    connections: dict[str, socket.socket] = {}
    timed: list[Timed] = []
    for url, headers in json.load(sys.stdin):
        parts = urlsplit(url)
        assert parts.hostname is not None
        if parts.netloc not in connections:
            connections[parts.netloc] = socket.create_connection((parts.hostname, parts.port or 80), timeout=60)
            connections[parts.netloc].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        timed.append(ask(connections[parts.netloc], parts.netloc, parts.path, headers))
    print(json.dumps(timed))


if __name__ == "__main__":
    main()
