"""G1: kill -9 at every failpoint and at random, under load, over one directory; a start with 10,000 entries."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.bench.inventory import PROJECTS, made
from tests.harness.server import ROOT, ProxyServer
from tests.harness.upstream import Upstream
from tests.promises.kills import ALIKE, ROOMY, TINY, Killed, Tally
from tests.promises.promise import Measured, Promise, Size

PROMISE = Promise(
    "G1",
    "kill -9",
    "1,000 kills (every failpoint and random): 0 wrong bytes, 0 failed starts, 0 orphans, sums = disk ±1 %,"
    " start <= 2 s with 10,000 entries",
)
KILLS = {"ci": 100, "long": 1000}
ENTRIES, START = 10_000, 2.0
# On the way of every download; each the first time or the second.
FILLING = (
    "spool created",
    "first write",
    "middle write",
    "last write",
    "verified",
    "fsynced",
    "linked",
    "directory synced",
    "row written",
    "value written",
    "head updated",
)
ROUND = len(FILLING) + 9
TRIES = 3
# What somebody else does while clients download and the server is killed: mostly nothing.
OPERATORS: tuple[Callable[[Killed], Callable[[], object] | None], ...] = (
    lambda killed: None,
    lambda killed: None,
    lambda killed: killed.remove,
    lambda killed: killed.purge,
)


def measure(size: Size, directory: Path) -> Measured:
    """Kills at each failpoint, one at random after each, and then again; see `Promise`."""
    tally = Tally()
    with Upstream() as upstream:
        killed = Killed(directory / "killed", upstream, tally)
        for number, step in enumerate(_steps(killed, directory)):
            if number >= ROUND and tally.kills >= KILLS[size]:
                break
            step()
            killed.after(killed.random.uniform(0.0, 0.4), killed.random.choice(OPERATORS)(killed))
        killed.sound()
    missed = _points() - tally.points
    assert not missed, f"failpoints that no kill was at: {missed}"
    return _measured(tally, _start_of_many(directory / "many"))


def _points() -> set[str]:
    """All that the source has."""
    calls = (
        call for path in (ROOT / "proxy").rglob("*.py") for call in re.findall(r"\breach\((.*)\)", path.read_text())
    )
    return {point for call in calls for point in re.findall(r'"([^"]+)"', call)}


def _steps(killed: Killed, directory: Path) -> Iterator[Callable[[], None]]:
    """A kill at each failpoint, ROUND in all, and then again, without end."""
    for number in itertools.count():
        for point in FILLING:
            yield partial(killed.at, f"{point}:{killed.random.randint(1, 2)}")
        yield partial(_leaves_strays, killed)
        yield partial(killed.starting, "ballast", {"cache": {"ballast": "1MB", "max_size": ROOMY}})
        yield partial(killed.at, "evict:2", settings=TINY, lossy=True, crowd=3)
        for point in ("rows deleted", "body unlinked"):
            yield partial(killed.at, point, killed.remove, lossy=True)
        for room in (1, 2, 3):
            yield partial(killed.at, f"purge:{room}", killed.purge, lossy=True)
        yield partial(_of_a_new_directory, killed, directory / f"new{number}")


def _leaves_strays(killed: Killed) -> None:
    """A body without its row, and then a kill in the sweep that finds it."""
    killed.at("linked")
    killed.starting("sweep")


def _of_a_new_directory(killed: Killed, new: Path) -> None:
    first = Killed(new, killed.here.upstream, killed.tally)
    first.starting("version written")
    first.starting("version renamed")
    first.at("row written")
    first.sound()


def _start_of_many(directory: Path) -> float:
    """Seconds from the command to the start line, of a server that was killed with so many entries: the best of some
    tries, for the machine may be busy."""
    asyncio.run(made(directory / "cache", ENTRIES - PROJECTS))
    took = list[float]()
    with ProxyServer(directory, {"main": "http://127.0.0.1:9/simple/"}, fresh=True) as proxy:
        for _ in range(TRIES):
            proxy.kill()
            began = time.monotonic()
            proxy.start()
            took.append(time.monotonic() - began)
            if took[-1] <= START:
                break
    return min(took)


def _measured(tally: Tally, start: float) -> Measured:
    figure = (
        f"{tally.kills} kills ({len(tally.points)} failpoints, and random): {tally.wrong} of {tally.answers} answers"
        f" wrong, {tally.failed_starts} failed starts, {tally.orphans} orphans,"
        f" {tally.lost} lost, sums = disk ±{tally.off:.1%}, start {start:.2f} s with {ENTRIES:,} entries"
    )
    shortfalls = [*dict.fromkeys(tally.faults)][:5]
    if tally.wrong:
        shortfalls.append(f"{tally.wrong} wrong answers")
    if tally.off > ALIKE:
        shortfalls.append(f"the sums are {tally.off:.1%} off")
    if start > START:
        shortfalls.append(f"a start took {start:.2f} s")
    return Measured(figure, tuple(shortfalls))
