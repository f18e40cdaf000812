"""A port of the loopback that answers no SYN: its backlog is full, and nobody accepts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FILLING = 8
_SYN_SENT = "02"


@contextmanager
def blackhole(port: int = 0) -> Iterator[int]:
    """Takes that port, or any, and swallows what connects to it; the port. AssertionError when somebody gets in."""
    with socket.create_server(("127.0.0.1", port), backlog=0) as listener:
        taken = int(listener.getsockname()[1])
        waiting = [socket.socket() for _ in range(_FILLING)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", taken))
        try:
            with socket.create_connection(("127.0.0.1", taken), timeout=0.3):
                raise AssertionError("a connection was made through the black hole")
        except TimeoutError:
            yield taken
        finally:
            for each in waiting:
                each.close()


def knocking(port: int) -> frozenset[str]:
    """The local ends of connections to that port of the loopback which nobody has answered yet (/proc, Linux only)."""
    words = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return frozenset(each[1] for each in words if each[3] == _SYN_SENT and each[2].endswith(f":{port:04X}"))
