"""A well-behaved client as a process of its own:
``python honest.py SECONDS HOST:PORT PID PATH SHA256 [HOST:PORT PID PATH SHA256 ...]``.

Asks for one after the other, two hundred a second at most, each fourth time on a new connection, and checks every
answer. At the end one line of JSON, by HOST:PORT: ``asked``, ``right``, and the ``times`` from question to whole answer
in milliseconds, connecting included. Without the time for which the server with that PID, or this process if that was
longer, could have run and the machine ran others (/proc/PID/schedstat, Linux only): these are no servers' doing.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass, field

_EVERY = 0.005
_NEW = 4
_PATIENCE = 20.0


@dataclass(slots=True)
class Server:
    """What one of them did."""

    asked: int = 0
    right: int = 0
    times: list[float] = field(default_factory=list)


def delayed(process: str) -> float:
    """Seconds for which its main thread has waited for a processor."""
    with open(f"/proc/{process}/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


def main(seconds: str, *wanted: str) -> None:
    """See the module."""
    wishes = list(zip(wanted[::4], wanted[1::4], wanted[2::4], wanted[3::4], strict=True))
    servers = {address: Server() for address, *_ in wishes}
    lines = {address: http.client.HTTPConnection(address, timeout=_PATIENCE) for address in servers}
    deadline = time.monotonic() + float(seconds)
    for address, process, path, sha256 in itertools.cycle(wishes):
        if (began := time.monotonic()) >= deadline:
            break
        server, line = servers[address], lines[address]
        if server.asked % _NEW == 0:
            line.close()
        server.asked += 1
        before = delayed(process), delayed("self")
        try:
            line.request("GET", path)
            answer = line.getresponse()
            body = answer.read()
            server.right += answer.status == 200 and hashlib.sha256(body).hexdigest() == sha256
        except (OSError, http.client.HTTPException):
            line.close()
        took = time.monotonic() - began
        others = max(delayed(process) - before[0], delayed("self") - before[1])
        server.times.append(1000 * max(0.0, took - others))
        time.sleep(max(0.0, _EVERY - took))
    print(json.dumps({address: asdict(server) for address, server in servers.items()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
