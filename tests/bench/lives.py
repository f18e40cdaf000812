"""What the proxy takes before it is asked for anything, with nothing kept and with much; and what much costs a hit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
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
    first, held, again, in_turn = (defaultdict[int, list[float]](list) for _ in range(4))
    with Upstream(wheel("one")) as upstream:
        with proxy(scratch / "compiled", upstream):
            pass
        for _ in range(repetitions):
            for count, place in places.items():
                with proxy(place, upstream) as server:
                    first[count].append(server.first_answer)
                    held[count].append(server.rss() / 10**6)
                    if count:
                        for into, wide in ((again, scale.FEW_FILES), (in_turn, _ASKED)):
                            paths = [made[count].file(7919 * (each % wide) % count) for each in range(_ASKED)]
                            scale.asked(server, paths)
                            into[count].append(median(scale.asked(server, paths)))
    many, musts, reaches = f"{files:,} files", (Bound(1.1, None),), (Bound(1.0, None),)
    near, far = ({OURS: _ratio(took, files)} for took in (again, in_turn))
    return [
        Line("start to first answer", "s", False, (Bound(0.8, None),), (Bound(0.5, None),), {OURS: first[0]}),
        Line(f"the same, {many}", "s", False, (Bound(1.5, None),), (Bound(0.8, None),), {OURS: first[files]}),
        Line("memory, idle", "MB", False, (Bound(80, None),), (Bound(60, None),), {OURS: held[0]}),
        Line(f"the same, {many}", "MB", False, (Bound(80, None),), (Bound(60, None),), {OURS: held[files]}),
        Line(f"a hit, {many} beside 100, the same 100 asked for again and again", "times", False, musts, reaches, near),
        # With 100 files each is asked for ten times a second, with more only once: the head is made anew meanwhile.
        Line(f"a hit, {many} beside 100, {_ASKED:,} asked for in turn", "times", False, (), (), far),
    ]


def _ratio(took: Mapping[int, list[float]], files: int) -> list[float]:
    return [many / few for many, few in zip(took[files], took[scale.FEW_FILES], strict=True)]
