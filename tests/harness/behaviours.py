"""What a scripted upstream does with a request: callables on an Exchange."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from tests.harness.bodies import BLOCK, Body, as_body, whole
from tests.harness.exchange import Ending, Exchange, Framing, Gate, Reply

Behaviour = Callable[[Exchange], None]


def polite(exchange: Exchange) -> None:
    """What this path says when nothing is scripted."""
    exchange.answer(exchange.polite)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The polite reply of the path, changed: whatever is left out stays polite.

    ``headers`` replace fields of that name, ``extra`` are appended (also a second Content-Length),
    ``without`` are dropped. ``delay`` seconds pass, or ``held`` opens, before the head. ``rate`` is in bytes
    per second. ``corrupt`` is the offset of a byte that is flipped. After ``stop_after`` body bytes the
    connection ends as ``ending`` says; after ``stall_after`` it rests until ``gate`` opens. ``declared`` is
    the Content-Length that is said, ``compressed`` sends the body gzipped whatever was accepted.
    """

    status: int | None = None
    body: bytes | Body | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[tuple[str, str], ...] = ()
    without: tuple[str, ...] = ()
    delay: float = 0.0
    held: Gate | None = None
    rate: int | None = None
    corrupt: int | None = None
    stop_after: int | None = None
    ending: Ending = "close"
    stall_after: int | None = None
    gate: Gate | None = None
    framing: Framing = "length"
    declared: int | None = None
    compressed: bool = False

    def __call__(self, exchange: Exchange) -> None:
        exchange.pause(self.delay)
        if self.held is not None:
            self.held.pass_through(exchange.stopping)
        reply = self.over(exchange.polite)
        exchange.head(reply, self.framing, self.declared)
        if exchange.seen.method != "HEAD" and reply.status not in (204, 304):
            self._stream(exchange, reply.body)

    def over(self, reply: Reply) -> Reply:
        """The polite reply with this answer's changes."""
        if self.status is not None:
            reply = replace(reply, status=self.status)
        if self.body is not None:
            reply = replace(reply, body=as_body(self.body))
        if self.compressed:
            reply = replace(reply, body=as_body(gzip.compress(whole(reply.body))))
            reply = reply.with_header("Content-Encoding", "gzip")
        for name, value in self.headers.items():
            reply = reply.with_header(name, value)
        reply = reply.without(self.without)
        return replace(reply, headers=(*reply.headers, *self.extra))

    def _stream(self, exchange: Exchange, body: Body) -> None:
        started, sent = time.monotonic(), 0
        if self.stall_after == 0 and self.gate is not None:
            self.gate.pass_through(exchange.stopping)
        stop = body.size if self.stop_after is None else min(body.size, self.stop_after)
        for piece in self._pieces(body, stop):
            exchange.body(piece, self.framing)
            sent += len(piece)
            if sent == self.stall_after and self.gate is not None:
                self.gate.pass_through(exchange.stopping)
            if self.rate is not None:
                exchange.pause(started + sent / self.rate - time.monotonic())
            if exchange.stopping.is_set():
                return
        if self.stop_after is not None:
            exchange.ending = self.ending
            if self.ending == "reset":
                exchange.reset()
        elif self.framing == "chunked":
            exchange.send(b"0\r\n\r\n")

    def _pieces(self, body: Body, stop: int) -> Iterator[bytes]:
        """Small enough for the rate, with a border at the stall."""
        most = BLOCK if self.rate is None else max(1, min(BLOCK, self.rate // 20))
        borders = [0, *([self.stall_after] if self.stall_after is not None else []), stop]
        offset = 0
        for start, end in pairwise(borders):
            for block in body.read(start, min(end, stop)):
                for begin in range(0, len(block), most):
                    piece = block[begin : begin + most]
                    yield self._flipped(piece, offset)
                    offset += len(piece)

    def _flipped(self, piece: bytes, offset: int) -> bytes:
        if self.corrupt is None or not offset <= self.corrupt < offset + len(piece):
            return piece
        at = self.corrupt - offset
        return piece[:at] + bytes([piece[at] ^ 0xFF]) + piece[at + 1 :]


@dataclass(frozen=True, slots=True)
class Raw:
    """Exactly these bytes, whatever was asked; then the connection ends as ``ending`` says."""

    data: bytes
    ending: Ending = "close"

    def __call__(self, exchange: Exchange) -> None:
        exchange.send(self.data)
        exchange.ending = self.ending
        if self.ending == "reset":
            exchange.reset()


@dataclass(frozen=True, slots=True)
class Early:
    """That, before the body of the request is read, which nobody does; the connection ends with it."""

    behaviour: Behaviour

    def __call__(self, exchange: Exchange) -> None:
        self.behaviour(exchange)
        exchange.ending = "close"


def redirect(location: str, status: int = 302) -> Answer:
    """Elsewhere, with an empty body."""
    return Answer(status=status, body=b"", headers={"Location": location}, without=("ETag", "Cache-Control"))


def busy(status: int = 503, retry_after: int | str | None = None) -> Answer:
    """429 or 503, and when to come again."""
    headers = {"Content-Type": "text/plain"} | ({} if retry_after is None else {"Retry-After": str(retry_after)})
    return Answer(status=status, body=b"busy", headers=headers, without=("ETag", "Cache-Control"))


def cut(after: int = 0, ending: Ending = "close") -> Answer:
    """The right head, ``after`` bytes of the body, and the end."""
    return Answer(stop_after=after, ending=ending)


def hang_up(exchange: Exchange) -> None:
    """Closes without a byte."""
    exchange.ending = "close"


def reset_at_once(exchange: Exchange) -> None:
    """RST without a byte."""
    exchange.reset()


def in_circles(exchange: Exchange) -> None:
    """A redirect to itself."""
    redirect(exchange.seen.path)(exchange)


def instead(body: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> Answer:
    """200 with this in the page's place."""
    fields = {"Content-Type": content_type, **(headers or {})}
    dropped = ("Content-Encoding", "ETag", "Last-Modified", "X-PyPI-Last-Serial")
    without = tuple(name for name in dropped if name not in fields)
    return Answer(status=200, body=body, headers=fields, without=without)
