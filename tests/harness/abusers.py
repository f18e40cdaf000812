"""Clients that hold connections and mean no good, in a process of their own:
``python abusers.py HOST PORT SECONDS SPREAD REQUESTS``.

REQUESTS is a JSON list of [count, times, request, drip, reads]: so many clients who send that request so often and
then, every second, the bytes of ``drip`` (none when it is empty); and who read what comes, or nothing at all. They come
over the first SPREAD seconds. Whoever is cut comes again at once; a clean end alone is none for those who drip. Each
entry of the list has a loopback address of its own, other than 127.0.0.1. At the end one line of JSON says how many
connections there were.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import random
import resource
import select
import socket
import sys
import time
from dataclasses import dataclass

_EVERY = 1.0
_RECEIVE = 4096
"""Bytes that a client's kernel takes while nobody reads; it doubles that."""


def address_of(entry: int) -> str:
    """Of the clients of that entry."""
    return f"127.0.1.{1 + entry}"


Socket = socket.socket


@dataclass(slots=True)
class Abuser:
    """One of them, on one connection after the other."""

    number: int
    address: str
    request: bytes
    drip: bytes
    reads: bool
    socket: socket.socket | None = None
    comes: int = 0

    def come(self, target: tuple[str, int]) -> Socket:
        """Connect without waiting for it; what cannot be sent yet is sent later, or never."""
        self.socket = made = socket.socket()
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE)
        made.bind((self.address, 0))
        self.comes += 1
        made.connect_ex(target)
        return made

    def go(self) -> None:
        """Leave, without a word."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None


def run(target: tuple[str, int], seconds: float, spread: float, abusers: list[Abuser]) -> int:
    """How many connections there were."""
    began = time.monotonic()
    numbers = itertools.count()
    chance = random.Random(len(abusers))
    due = [(began + chance.random() * spread, next(numbers), each, 0) for each in abusers]
    heapq.heapify(due)
    begun = set[int]()
    by_descriptor = dict[int, Abuser]()
    with select.epoll() as ready:

        def again(abuser: Abuser) -> None:
            if abuser.socket is not None:
                by_descriptor.pop(abuser.socket.fileno(), None)
            abuser.go()
            begun.discard(abuser.number)
            heapq.heappush(due, (time.monotonic(), next(numbers), abuser, abuser.comes))

        while (now := time.monotonic()) < began + seconds:
            while due and due[0][0] <= now:
                _, _, abuser, comes = heapq.heappop(due)
                if comes != abuser.comes:
                    continue  # that was for a connection which is over
                if abuser.socket is None:
                    with contextlib.suppress(OSError):
                        came = abuser.come(target)
                        by_descriptor[came.fileno()] = abuser
                        # Without EPOLLIN: nobody is told that there is something to read.
                        events = select.EPOLLIN if abuser.reads else 0
                        ready.register(came, events | select.EPOLLOUT | select.EPOLLRDHUP)
                elif abuser.drip:
                    with contextlib.suppress(OSError):
                        abuser.socket.send(abuser.drip)
                    heapq.heappush(due, (now + _EVERY, next(numbers), abuser, comes))
            for descriptor, event in ready.poll(min(0.1, max(0.0, due[0][0] - now)) if due else 0.1):
                abuser = by_descriptor[descriptor]
                assert abuser.socket is not None
                if event & (select.EPOLLHUP | select.EPOLLERR):
                    again(abuser)
                    continue
                if event & select.EPOLLRDHUP:
                    if abuser.drip:
                        ready.modify(abuser.socket, 0)
                    else:
                        again(abuser)
                    continue
                if event & select.EPOLLOUT and abuser.number not in begun:
                    begun.add(abuser.number)
                    ready.modify(abuser.socket, select.EPOLLRDHUP | (select.EPOLLIN if abuser.reads else 0))
                    with contextlib.suppress(OSError):
                        abuser.socket.send(abuser.request)
                    if abuser.drip:
                        heapq.heappush(due, (now + _EVERY, next(numbers), abuser, abuser.comes))
                if event & select.EPOLLIN:
                    with contextlib.suppress(OSError):
                        abuser.socket.recv(65536)
    return sum(each.comes for each in abusers)


def main(host: str, port: str, seconds: str, spread: str, requests: str) -> None:
    """See the module."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kinds = [(entry, *each) for entry, (count, *each) in enumerate(json.loads(requests)) for _ in range(count)]
    abusers = [
        Abuser(number, address_of(entry), request.encode("latin-1") * times, drip.encode("latin-1"), reads)
        for number, (entry, times, request, drip, reads) in enumerate(kinds)
    ]
    print(json.dumps({"connections": run((host, int(port)), float(seconds), float(spread), abusers)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
