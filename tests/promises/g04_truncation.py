"""G4: an upstream that sends a part of what it has, at every kind of place and in every kind of framing."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from tests.harness.bodies import Held, Part, as_body, whole
from tests.harness.exchange import Exchange, Framing
from tests.harness.fetch import fetch
from tests.harness.packages import blob, wheel
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import AS_JSON, world
from tests.promises.promise import Measured, Promise, Size

PROMISE = Promise(
    "G4",
    "truncation",
    "1,024 cases (256 offsets x Content-Length, chunked, close, gzip), pages and files: 0 completed, 0 stored",
)
Kind = Literal["length", "chunked", "close", "gzip"]
KINDS: tuple[Kind, ...] = ("length", "chunked", "close", "gzip")
WHAT = ("page", "file")
# Below and above the 64 KiB that are held back.
SMALL, BIG = 20_000, 200_000
OFFSETS = {"ci": 48, "long": 256}
AT_ONCE = 16
# From the end where they are negative: an empty body, all but a byte, a gzip's trailer, and what is held back.
BORDERS = (0, 1, -1, -2, -8, -65_536, -65_537, 65_536)


@dataclass(frozen=True, slots=True)
class Short:
    """A behaviour: the head of a whole body, and that body up to ``offset`` (from its end where that is negative, at
    random where it is None). It is never sent beyond, whatever is asked for then. The end of a "gzip" is that of a
    coded stream which is framed well; in the others the framing breaks."""

    kind: Kind
    offset: int | None
    number: int

    def __call__(self, exchange: Exchange) -> None:
        reply = exchange.polite
        ranges = self.number % 2 and self.kind != "gzip"
        start = reply.body.start if isinstance(reply.body, Part) else 0
        body = reply.body.body if isinstance(reply.body, Part) else reply.body
        if self.kind == "gzip":
            body = as_body(gzip.compress(whole(body), mtime=0))
        stop = self._stop(body.size)
        if self.kind == "gzip":
            headers = (*(pair for pair in reply.headers if pair[0] != "Content-Range"), ("Content-Encoding", "gzip"))
            framed: Framing = "chunked" if self.number % 2 else "length"
            exchange.head(type(reply)(200, headers, Held(b"".join(body.read(0, stop)))), framed)
            exchange.body(b"".join(body.read(0, stop)), framed)
            if framed == "chunked":
                exchange.send(b"0\r\n\r\n")
            return
        if not ranges:
            headers = tuple(pair for pair in reply.headers if pair[0] not in ("Content-Range", "Accept-Ranges"))
            reply, start = type(reply)(200, headers, body), 0
        exchange.head(reply, self.kind)
        for piece in body.read(start, stop):
            exchange.body(piece, self.kind)
        exchange.ending = "close"
        if self.kind != "close" and self.number % 3 == 0:
            exchange.reset()

    def _stop(self, size: int) -> int:
        if self.offset is None:
            return random.Random(self.number).randrange(size)
        return min(max(0, self.offset + size if self.offset < 0 else self.offset), size - 1)


@dataclass(frozen=True, slots=True)
class Case:
    """``path`` is what the proxy is asked for, ``there`` what the upstream is."""

    fault: Short
    what: str
    path: str
    upstream: Upstream
    there: str


def measure(size: Size, directory: Path) -> Measured:
    """Each case is asked for once while it is cut, and once more when no upstream may be asked any more."""
    # JSON that gives hash and size of every file, and HTML that does not.
    plain = Upstream()
    plain.index.html_only()
    plain.index.hashes = False
    settings = {"freshness": {"min_reload_interval": "0s"}}
    with world(directory, settings, {"plain": plain}) as here, ThreadPoolExecutor(AT_ONCE) as pool:
        here.upstream.index.gzip = plain.index.gzip = False
        cases = list(_cases(OFFSETS[size], here.upstream, plain))
        _shown(cases)
        answers = list(pool.map(lambda case: here.get(case.path, AS_JSON), cases))
        completed = [case.fault for case, got in zip(cases, answers, strict=True) if got.status == 200 and got.complete]
        eventually(lambda: here.proxy.spooled() == [], "no fetch is under way")
        here.proxy.restart(settings={**here.proxy.settings, "freshness": {"offline": True}})
        answers = list(pool.map(lambda case: here.get(case.path, AS_JSON), cases))
        stored = [case.fault for case, got in zip(cases, answers, strict=True) if got.status == 200]
        left = len(here.proxy.stored())
    figure = f"{len(cases)} cases: {len(completed)} completed, {len(stored) + left} stored"
    promised = (
        (f"completed, for example {completed[:1]}", not completed),
        (f"stored, for example {stored[:1]}, {left} files", not stored and not left),
    )
    return Measured(figure, tuple(told for told, holds in promised if not holds))


def _cases(offsets: int, listed: Upstream, plain: Upstream) -> Iterator[Case]:
    number = 0
    for kind in KINDS:
        for each in range(offsets):
            for what in WHAT:
                number += 1
                upstream, index = ((listed, "test"), (plain, "plain"))[each % 2]
                fault = Short(kind, BORDERS[each // 2] if each // 2 < len(BORDERS) else None, number)
                yield _page(upstream, index, fault) if what == "page" else _file(upstream, index, fault)


def _page(upstream: Upstream, index: str, fault: Short) -> Case:
    """Of a project of its own."""
    name = f"page-{fault.number}"
    upstream.index.add(*(wheel(name, f"1.{each}") for each in range(3)))
    upstream.script(f"/simple/{name}/", fault)
    return Case(fault, "page", f"/index/{index}/simple/{name}/", upstream, f"/simple/{name}/")


def _file(upstream: Upstream, index: str, fault: Short) -> Case:
    """Of a project that it shares with others."""
    made = blob(f"files-{fault.number % 8}", f"1.{fault.number}", size=BIG if fault.number % 3 else SMALL)
    upstream.index.add(made)
    there = upstream.path_of(made)
    upstream.script(there, fault)
    return Case(fault, "file", f"/files/{index}/{upstream.location(made)}", upstream, there)


def _shown(cases: list[Case]) -> None:
    """Who asks the upstream itself gets too little, and cannot see it where only the end of the connection, or of a
    coded stream, would tell."""
    for kind, what in product(KINDS, WHAT):
        case = next(each for each in cases if (each.fault.kind, each.what, each.fault.offset) == (kind, what, -1))
        case.upstream.script(case.there)
        whole_one = fetch(f"{case.upstream.origin}{case.there}")
        case.upstream.script(case.there, case.fault)
        short = fetch(f"{case.upstream.origin}{case.there}")
        assert (whole_one.status, short.status) == (200, 200)
        assert short.complete == (kind in ("close", "gzip"))
        if kind == "gzip":
            assert zlib.decompressobj(wbits=31).decompress(short.body) == whole_one.body, "only its trailer is missing"
        assert len(short.body) < len(gzip.compress(whole_one.body, mtime=0) if kind == "gzip" else whole_one.body)
