"""One request on a raw connection, and the means to answer it well or badly."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Literal

from tests.harness.bodies import BLOCK, Body, Held

Ending = Literal["close", "reset", "keep"]
Framing = Literal["length", "chunked", "close"]
HEAD_LIMIT = 256 * 1024


@dataclass(slots=True)
class Seen:
    """One request as it arrived, and what became of it: ``status`` is None until a head has left, ``sent``
    counts body bytes, ``done`` turns true when the behaviour has ended, ``complete`` when all was sent.
    Header names are lower-case. ``port`` is the port it came in at, ``peer`` the client's. ``body`` is that of the
    request without its framing."""

    method: str
    target: str
    headers: Mapping[str, str]
    time: float
    port: int
    peer: int
    raw: bytes = b""
    status: int | None = None
    sent: int = 0
    done: bool = False
    complete: bool = False
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Reply:
    """What will be sent: headers without the framing ones, which follow from the body."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: Body = field(default_factory=lambda: Held(b""))

    def with_header(self, name: str, value: str) -> Reply:
        """The same reply with this field set once."""
        kept = tuple(pair for pair in self.headers if pair[0].lower() != name.lower())
        return replace(self, headers=(*kept, (name, value)))

    def without(self, names: Sequence[str]) -> Reply:
        """The same reply without these fields."""
        dropped = {name.lower() for name in names}
        return replace(self, headers=tuple(pair for pair in self.headers if pair[0].lower() not in dropped))


class Gate:
    """Something a behaviour waits at until the test opens it; ``reached`` says that it got there."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()

    def open(self) -> None:
        """Lets everybody pass, now and later."""
        self._opened.set()

    def pass_through(self, stopping: threading.Event) -> None:
        """Waits until the gate opens or the upstream stops."""
        self.reached.set()
        while not self._opened.wait(0.02) and not stopping.is_set():
            pass


class Exchange:
    """A request and its connection. Everything a behaviour sends goes through here, so that it is counted."""

    def __init__(
        self,
        connection: socket.socket,
        seen: Seen,
        *,
        polite: Reply,
        stopping: threading.Event,
        changed: threading.Condition,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.connection = connection
        self.seen = seen
        self.polite = polite
        self.stopping = stopping
        self.ending: Ending = "keep"
        self._changed = changed
        self._now = now

    def send(self, data: bytes) -> None:
        """Raw bytes, uncounted. Raises OSError when the client is gone."""
        self.connection.sendall(data)

    def head(self, reply: Reply, framing: Framing = "length", declared: int | None = None) -> None:
        """The status line and the header section, with Date and the framing the caller wants."""
        status = HTTPStatus(reply.status)
        fields = [("Date", formatdate(self._now(), usegmt=True)), *reply.headers]
        if framing == "chunked":
            fields.append(("Transfer-Encoding", "chunked"))
        elif framing == "length" and reply.status not in (204, 304):
            fields.append(("Content-Length", str(reply.body.size if declared is None else declared)))
        if framing == "close":
            fields.append(("Connection", "close"))
            self.ending = "close"
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        self.send(f"HTTP/1.1 {reply.status} {status.phrase}\r\n{lines}\r\n".encode("latin-1"))
        self.note(status=reply.status)

    def body(self, data: bytes, framing: Framing = "length") -> None:
        """A piece of the body, counted without its chunk framing."""
        self.send(b"%x\r\n%b\r\n" % (len(data), data) if framing == "chunked" else data)
        self.note(sent=len(data))

    def answer(self, reply: Reply) -> None:
        """All of it, in good order."""
        self.head(reply)
        if self.seen.method != "HEAD" and reply.status not in (204, 304):
            for piece in reply.body.read(0, reply.body.size):
                self.body(piece)

    def pause(self, seconds: float) -> None:
        """Lets time pass; a stopping upstream cuts it short."""
        self.stopping.wait(max(0.0, seconds))

    def reset(self) -> None:
        """Makes the kernel send RST instead of FIN, at once and dropping what was not sent yet."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.ending = "reset"

    def note(self, *, status: int | None = None, sent: int = 0) -> None:
        """Writes into the log and wakes who waits for it."""
        with self._changed:
            self.seen.status = self.seen.status if status is None else status
            self.seen.sent += sent
            self._changed.notify_all()


class RequestReader:
    """Cuts requests out of a connection's bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    def next(self, port: int) -> Seen | None:
        """The next request; None at the end of the connection or when it is no HTTP/1 request."""
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > HEAD_LIMIT or not self._more():
                return None
        raw, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        line, *fields = raw.decode("latin-1").split("\r\n")
        words = line.split(" ")
        if len(words) != 3:
            return None
        pairs = (each.partition(":") for each in fields)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        return Seen(words[0], words[1], headers, time.time(), port, self._connection.getpeername()[1], raw)

    def body(self, seen: Seen) -> bytes:
        """The body of that request, which was the last one. Raises OSError when it is cut."""
        if seen.headers.get("transfer-encoding") != "chunked":
            return self._exactly(int(seen.headers.get("content-length", "0")))
        pieces = []
        while size := int(self._line().partition(b";")[0], 16):
            pieces.append(self._exactly(size))
            self._line()
        while self._line():
            pass
        return b"".join(pieces)

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if not self._more():
                raise ConnectionError("the body was cut")
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not self._more():
                raise ConnectionError("the body was cut")
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def _more(self) -> bool:
        received = self._connection.recv(BLOCK)
        self._buffer += received
        return bool(received)
