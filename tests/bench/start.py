"""From the spawn to the first answer, and the memory of a proxy that has nothing to do."""

from __future__ import annotations

from pathlib import Path

from tests.bench.figures import Series, bound, report
from tests.bench.servers import plain, proxy
from tests.harness.fetch import fetch
from tests.harness.packages import wheel
from tests.harness.upstream import Upstream

_REPETITIONS = 7
_START_MOST = 1.0
_IDLE_MOST = 90.0


def run(directory: Path) -> None:
    """Both, against a minimal aiohttp server; each start has an empty cache."""
    started: dict[str, list[float]] = {"proxy": [], "aiohttp": []}
    idle: dict[str, list[float]] = {"proxy": [], "aiohttp": []}
    with Upstream(wheel("one")) as upstream:
        with plain(directory / "plain"), proxy(directory / "proxy", upstream):
            pass  # from here on all is compiled
        for number in range(_REPETITIONS):
            with plain(directory / "plain") as other:
                started["aiohttp"].append(other.first_answer)
                idle["aiohttp"].append(other.rss() / 10**6)
            with proxy(directory / f"proxy{number}", upstream) as server:
                started["proxy"].append(server.first_answer)
                # After a page: what is loaded on demand is loaded.
                assert fetch(f"{server.url}/simple/one/").status == 200
                idle["proxy"].append(server.rss() / 10**6)
    for what, values, most, unit in (
        ("start to first answer", started, _START_MOST, "s"),
        ("idle memory", idle, _IDLE_MOST, "MB"),
    ):
        ours, beside = (Series(name, each, unit) for name, each in values.items())
        report(what, ours, beside, bound(ours.median, most, unit))
