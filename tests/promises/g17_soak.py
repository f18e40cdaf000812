"""A day in which everything happens at once: clients of all kinds, an upstream with every fault, operators, a restart.

The wall clock of the server and of its upstream runs ahead, so that a day passes within the time of the test.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.harness.aftermath import Aftermath
from tests.harness.clocked import Clock
from tests.harness.fetch import fetch
from tests.harness.server import ROOT, ProxyServer, clean_environment
from tests.promises.promise import Measured, Promise, Size
from tests.promises.soakelsewhere import TROUBLES, authority, naming
from tests.promises.soakfaults import FAULTS, FIRST_BYTE, IDLE

PROMISE = Promise(
    "G17",
    "soak",
    ">= 1,000,000 requests of a day, 1 % of each fault: >= 99.99 % served, 0 wrong, memory <= 1 MiB per 100,000,"
    " descriptors and tasks back",
)
SERVED = 0.9999
SLOPE = 1.0
"""MiB that may be added with each 100,000 requests."""
SETTLED_FROM = 0.3
"""The part of the time after which memory counts: by then what is kept is at its limits, and goes round."""
_TICK = 0.25
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Extent:
    """``seconds`` of real time, in which ``day`` seconds pass; ``looks`` at the memory, so many processes of
    ``clients`` each; ``least`` requests; ``rounds`` of all that befalls the upstream elsewhere. ``noise`` MiB that
    memory may grow by all the same: in less than a minute a server is still warming up, so there only what leaks fast
    is seen."""

    seconds: float
    day: float
    looks: int
    projects: int
    processes: int
    clients: int
    least: int
    rounds: int
    noise: float


EXTENTS: Mapping[Size, Extent] = {
    "ci": Extent(45.0, 3600.0, 90, 25, 1, 96, 1_000, 1, 16.0),
    "long": Extent(1800.0, 86_400.0, 3600, 150, 2, 150, 1_000_000, 6, 0.0),
}


class Program:
    """A process of ours that is told words and answers in lines of JSON."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.promises.{module}", *arguments],
            cwd=ROOT, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def tell(self, word: str) -> None:
        """Says it, and does not wait."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def said(self) -> Any:
        """The next thing it says. AssertionError when it says no more."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{self._process.args!r} ended with {self._process.wait()}"
        return json.loads(line)

    def end(self) -> None:
        """No more words."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for each in (self._process.stdin, self._process.stdout):
            assert each is not None
            each.close()


@dataclass(slots=True)
class Course:
    """The day as it goes: ``samples`` are requests so far and resident bytes, ``happened`` what was done."""

    extent: Extent
    proxy: ProxyServer
    upstream: Program
    clock: Clock
    loads: list[Program] = field(default_factory=list)
    samples: list[tuple[int, int]] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)
    aftermath: Aftermath | None = None
    trouble: tuple[str, float, int] | None = None
    """What is wrong elsewhere, until when at least, and how often that had struck before."""

    def run(self) -> None:
        """From its beginning to its end."""
        began, due = time.monotonic(), self._events()
        last = began
        while (now := time.monotonic()) < began + self.extent.seconds or (self.missing() and now < began + self._most):
            self.clock.move((now - last) * (self.extent.day / self.extent.seconds - 1))
            last = now
            while due and due[0][0] * self.extent.seconds <= now - began:
                due.pop(0)[1]()
            self._end_trouble()
            time.sleep(_TICK)

    @property
    def _most(self) -> float:
        """Seconds until a busy machine must have come to all faults."""
        return 3 * self.extent.seconds

    def struck(self) -> dict[str, int]:
        """How often which fault happened so far."""
        self.upstream.tell("tell")
        counted: dict[str, int] = self.upstream.said()
        return counted

    def missing(self) -> set[str]:
        """Faults that did not happen yet to anything; to a mount, and elsewhere, all have to."""
        struck = self.struck()
        every = {fault for faults in FAULTS.values() for fault in faults} - {each.partition(": ")[2] for each in struck}
        own = {*(f"mount: {fault}" for fault in FAULTS["mount"]), *(f"elsewhere: {trouble}" for trouble in TROUBLES)}
        return every | (own - struck.keys())

    def look(self) -> None:
        """How much memory it takes, and after how many requests."""
        for load in self.loads:
            load.tell("tell")
        self.samples.append((sum(load.said() for load in self.loads), self.proxy.rss()))

    def _events(self) -> list[tuple[float, Callable[[], None]]]:
        """What is done when, in parts of the whole time."""
        looks = ((part / self.extent.looks, self.look) for part in range(1, self.extent.looks + 1))
        seconds = int(self.extent.seconds)
        releases = ((second / seconds, self._publish) for second in range(seconds))
        once = (
            (0.05, self._begin), (0.12, self._restart), (0.2, self._purge), (0.45, self._remove), (0.55, self._outage),
            (0.58, self._back), (0.7, self._purge),
        )  # fmt: skip
        number = len(TROUBLES) * self.extent.rounds
        troubles = (
            (0.15 + 0.8 * each / number, partial(self._begin_trouble, trouble))
            for each, trouble in enumerate([*TROUBLES] * self.extent.rounds)
        )
        return sorted((*looks, *releases, *once, *troubles), key=lambda each: each[0])

    def _begin_trouble(self, trouble: str) -> None:
        self.upstream.tell(trouble)
        before = self.struck().get(f"elsewhere: {trouble}", 0)
        self.trouble = trouble, time.monotonic() + TROUBLES[trouble], before

    def _end_trouble(self) -> None:
        """Once it met somebody."""
        if self.trouble is None or time.monotonic() < self.trouble[1]:
            return
        trouble, _, before = self.trouble
        if self.struck().get(f"elsewhere: {trouble}", 0) > before:
            self.upstream.tell("well")
            self.trouble = None

    def _publish(self) -> None:
        self.upstream.tell("publish")

    def _begin(self) -> None:
        """Until then there was time to get what is asked for most."""
        self.upstream.tell("faults")

    def _restart(self) -> None:
        """While they ask; what is held by the new process is measured against what it holds now."""
        settings = {**self.proxy.settings, "server": {"drain": "5s", "port": self.proxy.port}}
        self.proxy.restart(settings=settings)
        self.happened.append("restart")
        for load in self.loads:
            load.tell("rest")
        assert all(load.said() for load in self.loads)
        self.aftermath = Aftermath(self.proxy)
        for load in self.loads:
            load.tell("go")

    def _purge(self) -> None:
        self._operate("purge", {})

    def _remove(self) -> None:
        self._operate("remove", {"pattern": "soak_1-*"})

    def _operate(self, verb: str, body: Mapping[str, str]) -> None:
        headers = {"Authorization": f"Bearer {_token(self.proxy)}", "Content-Type": "application/json"}
        for load in self.loads:
            load.tell("purging")
        assert all(load.said() for load in self.loads)
        got = fetch(f"{self.proxy.url}/admin/cache/{verb}", headers, "POST", body=json.dumps(body).encode())
        assert got.status == 200, got
        for load in self.loads:
            load.tell("purged")
        self.happened.append(verb)

    def _outage(self) -> None:
        self.upstream.tell("away")
        self.happened.append("outage")

    def _back(self) -> None:
        self.upstream.tell("back")


def measure(size: Size, directory: Path) -> Measured:
    """One day."""
    extent = EXTENTS[size]
    clock = Clock(directory / "clock")
    with ExitStack() as running:
        elsewhere = directory / "elsewhere"
        upstream = running.enter_context(Program("soakfaults", str(clock.path), str(extent.projects), str(elsewhere)))
        where = upstream.said()
        proxy = running.enter_context(_proxy(directory, where, clock))
        course = Course(extent, proxy, upstream, clock)
        for seed in range(extent.processes):
            place = {
                "host": proxy.host, "port": proxy.port, "token": _token(proxy), "seed": seed,
                "files": urlsplit(where["files"]).netloc, "elsewhere": urlsplit(where["other_files"]).netloc,
                "projects": extent.projects, "clients": extent.clients,
            }  # fmt: skip
            course.loads.append(running.enter_context(Program("soakload", json.dumps(place))))
        course.run()
        upstream.tell("peace")
        for load in course.loads:
            load.end()
        tallies = [load.said() for load in course.loads]
        struck = course.struck()
        # Who is gone ends its connections; one that nobody looks after stays half open, and is found.
        upstream.tell("away")
        (directory / "day.json").write_text(
            json.dumps({"tallies": tallies, "struck": struck, "samples": course.samples}, indent=1)
        )
        return _measured(course, tallies, struck)


def _proxy(directory: Path, where: Mapping[str, str], clock: Clock) -> ProxyServer:
    settings: Mapping[str, Mapping[str, Any]] = {
        # Small, so that what is kept goes round many times in a day.
        "cache": {"max_size": "40MB", "responses_max_size": "8MB", "mounts_max_size": "2MB", "hot_max_size": "2MB"},
        "limits": {"idle_timeout": IDLE, "first_byte_timeout": FIRST_BYTE},
        "server": {"drain": "5s"},
        "log": {"level": "warning"},
    }
    there = directory / "elsewhere"
    return ProxyServer(
        directory / "proxy",
        {"test": where["url"], "elsewhere": where["elsewhere"]},
        mounts={"tree": where["tree"], "other": where["other_tree"]},
        settings=settings,
        clock=clock,
        environment=naming(there).environment | authority(there),
    )


def _token(proxy: ProxyServer) -> str:
    return (proxy.cache / "admin.token").read_text().strip()


def _measured(course: Course, tallies: Sequence[Mapping[str, Any]], struck: Mapping[str, int]) -> Measured:
    assert not course.missing(), f"faults that did not happen: {course.missing()}"
    assert course.happened == ["restart", "purge", "remove", "outage", "purge"], course.happened
    sums = Counter[str]()
    for tally in tallies:
        sums.update({name: tally[name] for name in ("requests", "wishes", "at_once")})
    unserved = sum(sum(tally["unserved"].values()) for tally in tallies)
    wrong = [each for tally in tallies for each in tally["wrong"]]
    denied = sum(sum(tally["denied"].values()) for tally in tallies)
    served = 1 - (unserved + len(wrong)) / sums["wishes"]
    granted = served - denied / sums["wishes"]
    slope, grown = _grown(course)
    left = _left(course)
    figure = (
        f"{sums['requests']:,} requests in {course.extent.day / 3600:.0f} h, {sum(struck.values()):,} faults:"
        f" {100 * served:.4f} % served ({100 * granted:.2f} % with what was cold while an upstream failed,"
        f" {100 * sums['at_once'] / sums['wishes']:.2f} % at once), {len(wrong)} wrong, {slope:+.2f} MiB per 100,000,"
        f" left over: {left or 'nothing'}"
    )
    shortfalls = [
        *([f"{sums['requests']:,} requests"] if sums["requests"] < course.extent.least else []),
        *([f"{100 * served:.4f} % served: {[tally['unserved'] for tally in tallies]}"] if served < SERVED else []),
        *([f"{len(wrong)} wrong: {wrong[:10]}"] if wrong else []),
        *([f"{slope:+.2f} MiB per 100,000 requests: {course.samples}"] if grown > 0 else []),
        *([left] if left else []),
    ]
    return Measured(figure, tuple(shortfalls))


def _grown(course: Course) -> tuple[float, float]:
    """MiB that each 100,000 requests add, by the line through the samples with the least squares; and by how many MiB
    that went beyond what may be added in all."""
    requests, held = zip(*course.samples[int(SETTLED_FROM * course.extent.looks) :], strict=True)
    asked = (requests[-1] - requests[0]) / 1e5
    assert asked > 0, "nothing was asked"
    slope = statistics.linear_regression(requests, held).slope * 1e5 / _MIB
    return slope, (slope - SLOPE) * asked - course.extent.noise


def _left(course: Course) -> str:
    """What is still held when all is over."""
    assert course.aftermath is not None
    try:
        course.aftermath.settled(wholly=True, timeout=60.0)
    except AssertionError as error:
        return str(error)
    return ""
