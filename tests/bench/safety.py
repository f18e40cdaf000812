"""What it costs that every hit is verified: the proxy against itself without that, both answering in turns."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from tests.bench.figures import Series, report
from tests.bench.load import load
from tests.bench.servers import HOST, Server, proxy
from tests.harness.fetch import fetch
from tests.harness.packages import Distribution, blob
from tests.harness.rot import flip, seen_to_change
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually

SIZES = {"wheel, 1 KB": 1_000, "wheel, 50 KB": 50_000}
_CONNECTIONS = 16
_UNPROVEN = ("-m", "tests.harness.unproven", sys.executable)


@dataclass(frozen=True, slots=True)
class Turns:
    """What was asked for, and how many requests per second of its CPU each server answered, turn by turn."""

    what: str
    proven: list[float]
    unproven: list[float]

    @property
    def cost(self) -> float:
        """The part of the throughput that verification takes: the middle of all turns, each a ratio of its own."""
        return 1 - median(one / other for one, other in zip(self.proven, self.unproven, strict=True))


def run(directory: Path) -> None:
    """A line for each size."""
    for turns in measured(directory, turns=15, seconds=0.5):
        ours, beside = (Series(name, getattr(turns, name), "req/cpu-s") for name in ("proven", "unproven"))
        report(f"{turns.what}, verified", ours, beside)


def measured(directory: Path, *, turns: int, seconds: float) -> Iterator[Turns]:
    """So many turns of so many seconds for each size. Counted by the CPU that the server used: what else goes on at the
    machine is not in it."""
    files = [blob(f"file{size}", size=size) for size in SIZES.values()]
    with ExitStack() as running:
        upstream = running.enter_context(Upstream(*files))
        proven = running.enter_context(proxy(directory / "proven", upstream))
        unproven = running.enter_context(proxy(directory / "unproven", upstream, *_UNPROVEN))
        for what, file in zip(SIZES, files, strict=True):
            path = f"/files/test/{upstream.location(file)}"
            for server in (proven, unproven):
                _warm(server, path, file)
            rates: dict[Server, list[float]] = {proven: [], unproven: []}
            for turn in range(1 + turns):
                # Neither always comes first, and the first of all does not count.
                for server in (proven, unproven) if turn % 2 else (unproven, proven):
                    rates[server].append(_rate(server, path, seconds))
            _differ(directory, proven, unproven, path, file)
            yield Turns(what, rates[proven][1:], rates[unproven][1:])


def _warm(server: Server, path: str, file: Distribution) -> None:
    fetch(f"{server.url}/simple/{file.project}/")
    eventually(lambda: fetch(server.url + path).hit, "a hit")


def _rate(server: Server, path: str, seconds: float) -> float:
    before = server.cpu()
    # From this process: what is counted is the CPU of the other one.
    result = asyncio.run(load(HOST, server.port, path, connections=_CONNECTIONS, seconds=seconds, headers=[]))
    assert result.statuses == {"200": result.requests}, result
    return result.requests / max(server.cpu() - before, 0.01)


def _differ(directory: Path, proven: Server, unproven: Server, path: str, file: Distribution) -> None:
    """The one notices another byte, and the other does not: it is this that is measured."""
    for name in ("proven", "unproven"):
        (kept,) = (directory / name).rglob(file.filename)
        seen_to_change(kept, partial(flip, at=file.size // 2))
    assert fetch(proven.url + path).sha256 == file.sha256
    damaged = fetch(unproven.url + path)
    assert (damaged.status, damaged.complete, damaged.sha256 == file.sha256) == (200, True, False)
