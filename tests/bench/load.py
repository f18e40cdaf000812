"""Load from a process of its own: ``python -m tests.bench.load HOST PORT PATH CONNECTIONS SECONDS [HEADER...]``.

Keep-alive connections that ask again as soon as they have their answer; one line of JSON says what came back.
Answers need a Content-Length, except a 304. Bodies are counted, not kept.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

_BUFFER = 256 * 1024
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


@dataclass(slots=True)
class Result:
    """``received`` counts body bytes, ``p50`` and ``p99`` are milliseconds from question to whole answer."""

    requests: int = 0
    received: int = 0
    seconds: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)


class Client(asyncio.BufferedProtocol):
    """One connection. ``ended`` resolves after the answer under way at the deadline, or when it was cut."""

    def __init__(self, question: bytes, deadline: float) -> None:
        self.times: list[float] = []
        self.received = 0
        self.statuses: Counter[str] = Counter()
        self.ended = asyncio.get_running_loop().create_future()
        self._question = question
        self._deadline = deadline
        self._buffer = bytearray(_BUFFER)
        self._head = b""
        self._missing = 0
        self._asked = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def get_buffer(self, sizehint: int) -> bytearray:
        """The one buffer there is."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Count; at the end of an answer ask again."""
        if self._missing:
            self._count(nbytes)
            return
        self._head += bytes(memoryview(self._buffer)[:nbytes])
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            return
        self._head = b""
        status = head[9:12].decode("ascii")
        self.statuses[status] += 1
        length = _LENGTH.search(head)
        self._missing = int(length[1]) if length is not None and status != "304" else 0
        self._count(len(rest))

    def connection_lost(self, exc: Exception | None) -> None:
        """Cut or closed: what was under way is not counted."""
        if not self.ended.done():
            self.statuses["cut"] += 1
            self.ended.set_result(None)

    def _count(self, nbytes: int) -> None:
        self._missing -= nbytes
        self.received += nbytes
        if self._missing:
            return
        now = time.perf_counter()
        self.times.append(now - self._asked)
        if now < self._deadline:
            self._ask()
        elif self._transport is not None:
            self.ended.set_result(None)
            self._transport.close()

    def _ask(self) -> None:
        assert self._transport is not None
        self._asked = time.perf_counter()
        self._transport.write(self._question)


async def load(host: str, port: int, path: str, *, connections: int, seconds: float, headers: list[str]) -> Result:
    """Ask for that long over that many connections."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", *headers]
    question = "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")
    began = time.perf_counter()
    loop = asyncio.get_running_loop()
    clients = [Client(question, began + seconds) for _ in range(connections)]
    await asyncio.gather(*(loop.create_connection(lambda one=one: one, host, port) for one in clients))  # type: ignore[misc]
    await asyncio.gather(*(client.ended for client in clients))
    took = time.perf_counter() - began
    times = sorted(1000 * each for client in clients for each in client.times) or [0.0]
    statuses = sum((client.statuses for client in clients), Counter[str]())
    return Result(
        requests=len(times),
        received=sum(client.received for client in clients),
        seconds=took,
        p50=times[len(times) // 2],
        p99=times[len(times) * 99 // 100],
        statuses=dict(statuses),
    )


if __name__ == "__main__":
    host, port, path, connections, seconds, *headers = sys.argv[1:]
    answer = load(host, int(port), path, connections=int(connections), seconds=float(seconds), headers=headers)
    print(json.dumps(asdict(asyncio.run(answer))))
