"""Clients as a process of their own: ``python hashing_client.py HOST PORT PATH [COUNT]``, one alone if none is said.

Each asks on a connection of its own. Says ``started`` once all of them have first bytes of the body, and at the end one
line for each: the sha256 of its body; ``cut`` when that is shorter than its Content-Length, or the status when it is no
200. Exits 1 when there is one of these. Keeps no more than 256 KiB of all bodies together.
"""

from __future__ import annotations

import hashlib
import re
import selectors
import socket
import sys

_PATIENCE = 300.0
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


class Client:
    """One connection and what came of it so far."""

    def __init__(self, address: tuple[str, int], path: str) -> None:
        self.socket = socket.create_connection(address, _PATIENCE)
        host = f"{address[0]}:{address[1]}"
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        self.received = 0
        self._head = b""
        self._status = ""
        self._declared = 0
        self._digest = hashlib.sha256()

    def take(self, buffer: bytearray) -> bool:
        """What is there now; whether more may come."""
        try:
            count = self.socket.recv_into(buffer)
        except ConnectionError:
            count = 0
        piece = memoryview(buffer)[:count]
        if not self._status:
            self._head += piece
            head, end, body = self._head.partition(b"\r\n\r\n")
            if end:
                length = _LENGTH.search(head)
                self._status = head[9:12].decode()
                self._declared = int(length[1]) if length is not None else -1
                self._count(body)
        else:
            self._count(piece)
        return count > 0 and self.received != self._declared

    def _count(self, piece: bytes | memoryview) -> None:
        self._digest.update(piece)
        self.received += len(piece)

    def said(self) -> str:
        """Its line, at the end."""
        if self._status != "200":
            return self._status or "cut"
        return self._digest.hexdigest() if self.received == self._declared else "cut"


def main(host: str, port: str, path: str, count: str = "1") -> int:
    """The exit code."""
    clients = [Client((host, int(port)), path) for _ in range(int(count))]
    buffer = bytearray(256 * 1024)
    silent = len(clients)
    with selectors.DefaultSelector() as ready:
        for each in clients:
            ready.register(each.socket, selectors.EVENT_READ, each)
        while ready.get_map():
            heard = ready.select(_PATIENCE)
            if not heard:
                break
            for key, _ in heard:
                client: Client = key.data
                before = client.received
                if not client.take(buffer):
                    ready.unregister(client.socket)
                    client.socket.close()
                if before == 0 < client.received:
                    silent -= 1
                    if not silent:
                        print("started", flush=True)
    lines = [each.said() for each in clients]
    print("\n".join(lines), flush=True)
    return 0 if all(len(line) == 64 for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
