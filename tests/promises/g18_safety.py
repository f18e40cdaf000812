"""G18: what it costs that every hit is what was kept: throughput with its verification against that without."""

from __future__ import annotations

from pathlib import Path

from tests.bench.safety import Turns, measured
from tests.promises.promise import Measured, Promise, Size

PROMISE = Promise("G18", "cost of safety", "checking every hit costs <= 10 % of throughput")
MOST = 0.10
TURNS = {"ci": (10, 0.3), "long": (40, 1.0)}
TRIES = 3


def measure(size: Size, directory: Path) -> Measured:
    """The proxy against itself without verification, in turns; the best of three tries, for the machine may be busy."""
    turns, seconds = TURNS[size]
    best: list[Turns] = []
    for number in range(TRIES):
        found = list(measured(directory / str(number), turns=turns, seconds=seconds))
        if not best or max(each.cost for each in found) < max(each.cost for each in best):
            best = found
        if max(each.cost for each in best) <= MOST:
            break
    return Measured(
        ", ".join(f"{each.what}: {each.cost:.1%} of the requests per second of CPU" for each in best),
        tuple(f"{each.what}: {each.cost:.1%} instead of {MOST:.0%}" for each in best if each.cost > MOST),
    )
