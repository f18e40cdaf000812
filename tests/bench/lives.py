"""What the proxy takes before it is asked for anything, with nothing kept and with much; and what much costs a hit."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import median

from tests.bench import scale
from tests.bench.servers import proxy
from tests.bench.verdicts import OURS, Bound, Line
from tests.harness.packages import wheel
from tests.harness.upstream import Upstream

_ASKED = 1_000


def starts(scratch: Path, repetitions: int, files: int = scale.FILES, pages: int = scale.PAGES) -> list[Line]:
    """From the spawn to the first answer, memory then, and hits of files: interleaved, with an empty cache, one of 100
    files, and one of so many."""
    places = {0: scratch / "none", scale.FEW_FILES: scratch / "few", files: scratch / "many"}
    made: dict[int, scale.Generated] = {}
    for count, of_pages in ((scale.FEW_FILES, scale.FEW_PAGES), (files, pages)):
        places[count].mkdir(parents=True)
        made[count] = scale.generate(places[count] / "cache", count, of_pages)
    first, held, took = (defaultdict[int, list[float]](list) for _ in range(3))
    with Upstream(wheel("one")) as upstream:
        with proxy(scratch / "compiled", upstream):
            pass
        for _ in range(repetitions):
            for count, place in places.items():
                with proxy(place, upstream) as server:
                    first[count].append(server.first_answer)
                    held[count].append(server.rss() / 10**6)
                    if count:
                        paths = [made[count].file(7919 * number % count) for number in range(_ASKED)]
                        scale.asked(server, paths)
                        took[count].append(median(scale.asked(server, paths)))
    ratio = [many / few for many, few in zip(took[files], took[scale.FEW_FILES], strict=True)]
    many = f"{files:,} files"
    return [
        Line("start to first answer", "s", False, (Bound(0.8, None),), (Bound(0.5, None),), {OURS: first[0]}),
        Line(f"the same, {many}", "s", False, (Bound(1.5, None),), (Bound(0.8, None),), {OURS: first[files]}),
        Line("memory, idle", "MB", False, (Bound(80, None),), (Bound(60, None),), {OURS: held[0]}),
        Line(f"the same, {many}", "MB", False, (Bound(80, None),), (Bound(60, None),), {OURS: held[files]}),
        Line(f"a hit, {many} beside 100", "times", False, (Bound(1.1, None),), (Bound(1.0, None),), {OURS: ratio}),
    ]
