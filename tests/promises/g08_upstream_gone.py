"""The index dies, falls silent or is cut off for a week: what is here is served on, and the index left alone."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from tests.harness.behaviours import Answer
from tests.harness.blackhole import blackhole
from tests.harness.clocked import Clock
from tests.harness.exchange import Gate
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, wheel
from tests.harness.scrape import Scraped, parsed
from tests.harness.server import Settings
from tests.harness.waiting import eventually
from tests.harness.world import World, world
from tests.promises.promise import Measured, Promise, Size

PROMISE = Promise(
    "G8",
    "upstream gone",
    "1,000 warm projects: 100 % served, the first in <= 1 s, then p99 <= 50 ms, for 7 simulated days;"
    " recovery <= 30 s, at most 1 probe per 5 s",
)
DAY, HOUR = 86_400.0, 3_600.0
FIRST_MOST, P99_MOST, RECOVERY_MOST, PROBE_EVERY = 1.0, 0.050, 30.0, 5.0
OWN_TIME = 0.050
"""Seconds beyond ``stale_after``, which is FIRST_MOST, that the first answer may take: what every later one may."""
TRIES = 3
"""Rounds whose p99 may be the one that counts: the machine may be busy with something else in the others."""
Way = Callable[[World], AbstractContextManager[None]]
SPEAKS = {"Accept": JSON_V1, "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Scale:
    """``observed``: seconds for which probes are counted at the least."""

    projects: int
    observed: float


SCALES: dict[Size, Scale] = {"ci": Scale(300, 11.0), "long": Scale(1_000, 60.0)}


@dataclass(frozen=True, slots=True)
class Outage:
    """``asked`` pages and files, of which ``lost`` were not the stored ones; ``first`` and ``p99`` in seconds, the
    ``probes`` that left in ``observed`` seconds, ``recovery`` in seconds until the index was asked again."""

    way: str
    asked: int
    lost: int
    first: float
    p99: float
    probes: int
    observed: float
    recovery: float

    def __str__(self) -> str:
        share = 100 * (1 - self.lost / self.asked)
        return (
            f"{self.way} {share:.4g} % of {self.asked:,}, first {self.first:.2f} s, p99 {self.p99 * 1000:.0f} ms,"
            f" {self.probes} probes in {self.observed:.0f} s, back in {self.recovery:.0f} s"
        )

    def shortfalls(self) -> Iterator[str]:
        """What was promised and is not so."""
        if self.lost:
            yield f"{self.way}: {self.lost} of {self.asked} not served"
        if self.first > FIRST_MOST + OWN_TIME:
            yield f"{self.way}: the first took {self.first:.2f} s"
        if self.p99 > P99_MOST:
            yield f"{self.way}: p99 {self.p99 * 1000:.0f} ms"
        if self.probes > 1 + self.observed / PROBE_EVERY:
            yield f"{self.way}: {self.probes} probes in {self.observed:.0f} s"
        if self.recovery > RECOVERY_MOST:
            yield f"{self.way}: recovered after {self.recovery:.0f} s"


class Reader:
    """Asks on one connection: what comes is compared with ``bodies``, by path, and how long it takes is noted."""

    def __init__(self, here: World, bodies: Mapping[str, bytes]) -> None:
        self._connection = http.client.HTTPConnection(here.proxy.host, here.proxy.port, timeout=30)
        self.bodies = bodies
        self.asked = self.lost = self.stale = 0
        self.taken: list[float] = []

    def close(self) -> None:
        """Of the connection."""
        self._connection.close()

    def get(self, path: str) -> tuple[int, str, bytes]:
        """Status, Cache-Status, body."""
        self._connection.request("GET", path, headers=SPEAKS)
        answer = self._connection.getresponse()
        return answer.status, answer.headers.get("Cache-Status", ""), answer.read()

    def ask(self, path: str) -> float:
        """Seconds until all of it was here."""
        began = time.perf_counter()
        status, said, body = self.get(path)
        self.taken.append(time.perf_counter() - began)
        self.asked += 1
        self.lost += (status, body) != (200, self.bodies[path])
        self.stale += "; hit; ttl=-" in said
        return self.taken[-1]

    def none_stale(self, paths: Sequence[str]) -> bool:
        """Whether the upstream is asked for all of them again."""
        before = self.stale
        return all(self.ask(path) and self.stale == before for path in paths)

    def p99(self) -> float:
        """Seconds, of all since it was asked last."""
        taken, self.taken = sorted(self.taken), []
        return taken[min(len(taken) - 1, int(len(taken) * 0.99))]


def measure(size: Size, directory: Path) -> Measured:
    """Refused, silent, and in a black hole, each for 7 days of the server's clock."""
    scale, clock, outages = SCALES[size], Clock(directory / "clock"), []
    # The defaults, which the tests' worlds switch off.
    settings: Settings = {"limits": {"breaker_failures": 5, "rest_max": "5m"}}
    with world(directory / "proxy", settings, clock=clock) as here:
        here.upstream.now = lambda: clock.now
        files = [here.publish(wheel(f"warm{number}")) for number in range(scale.projects)]
        for way in (refused, silent, swallowed):
            bodies = warmed(here, files)
            clock.move(HOUR)  # no page is fresh any more
            with closing(Reader(here, bodies)) as reader:
                outages.append(outage(here, clock, reader, scale, way))
    told = "; ".join(str(each) for each in outages)
    return Measured(f"{scale.projects:,} projects: {told}", tuple(each for way in outages for each in way.shortfalls()))


def warmed(here: World, files: Sequence[Distribution]) -> dict[str, bytes]:
    """Every page and file, kept and found good now; by path."""
    bodies = {}
    with closing(Reader(here, {})) as reader:
        for file in files:
            for path in (f"/simple/{file.project}/", here.path_of(file)):
                status, _, bodies[path] = reader.get(path)
                assert status == 200, f"{path}: {status}"
    for path in list(bodies)[-2:]:
        eventually(lambda path=path: here.get(path, SPEAKS).hit, f"{path} is kept")  # type: ignore[misc]  # the default binds it
    return bodies


def outage(here: World, clock: Clock, reader: Reader, scale: Scale, way: Way) -> Outage:
    """Round after round for a week, with the files in the end; then the upstream is back."""
    pages = [path for path in reader.bodies if path.startswith("/simple/")]
    with way(here):
        first = reader.ask(pages[0])
        assert reader.stale == 1, "the upstream is not gone"
        reader.taken.clear()
        for path in pages[1:]:
            reader.ask(path)
        if way is not silent:  # which is no failure for as long as a page may take
            # Until then what fails is no probe, but what shows that it is gone: five requests, and what was under way.
            eventually(lambda: left_alone(here), "it is left alone", RECOVERY_MOST)
        began, before = time.monotonic(), attempts(here, way)
        for seconds in (*[DAY] * 6, DAY - HOUR):
            clock.move(seconds)
            for path in pages:
                reader.ask(path)
        for path in reader.bodies.keys() - set(pages):
            reader.ask(path)
        p99s = [reader.p99()]
        while min(p99s) > P99_MOST and len(p99s) < TRIES:
            for path in pages:
                reader.ask(path)
            p99s.append(reader.p99())
        for path in cycle(pages):  # so much traffic as to let a probe leave whenever one may
            if time.monotonic() - began > scale.observed:
                break
            reader.ask(path)
            time.sleep(0.05)
        observed, probes = time.monotonic() - began, attempts(here, way) - before
    asked, lost, began = reader.asked, reader.lost, time.monotonic()
    eventually(lambda: reader.none_stale(pages[:10]), "pages are asked for again", 3 * RECOVERY_MOST)
    recovery = time.monotonic() - began
    assert reader.none_stale(pages), "pages are served stale though the upstream is back"
    return Outage(way.__name__, asked, lost, first, min(p99s), probes, observed, recovery)


def scraped(here: World) -> Scraped:
    """What Prometheus reads."""
    answer = here.get("/metrics")
    return parsed(answer.body.decode(), answer.headers["content-type"])


def left_alone(here: World) -> bool:
    """Whether the index rests, and what was asked of it before has come to its end."""
    now = scraped(here)
    return now.sum("pipcacheproxy_upstream_resting_origins") > 0 and now.sum("pipcacheproxy_fetches") == 0


def attempts(here: World, way: Way) -> int:
    """Requests to the upstream so far: those it heard of, and where it hears of none, those that got no answer."""
    if way is silent:
        return len(here.upstream.asked("/simple/"))
    return int(scraped(here).sum("pipcacheproxy_upstream_requests_total", status="none"))


@contextmanager
def refused(here: World) -> Iterator[None]:
    """It is killed, and nobody listens at its port."""
    here.upstream.stop()
    yield
    here.upstream.start()


@contextmanager
def silent(here: World) -> Iterator[None]:
    """It takes requests and does not answer until it is back."""
    gate, projects = Gate(), {each.project for each in here.upstream.index.distributions}
    for project in projects:
        here.script(project, Answer(held=gate))
    yield
    gate.open()
    for project in projects:
        here.script(project)


@contextmanager
def swallowed(here: World) -> Iterator[None]:
    """Whatever is sent to its port is lost."""
    here.upstream.stop()
    with blackhole(int(here.upstream.origin.rpartition(":")[2])):
        yield
    here.upstream.start()
