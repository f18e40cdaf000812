"""Mirrors that lag behind each other: what a client has seen it never sees undone, and it is never stuck."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tests.harness.behaviours import Answer, busy, hang_up
from tests.harness.clocked import Clock
from tests.harness.exchange import Exchange
from tests.harness.fetch import Fetched
from tests.harness.index import JSON_V1
from tests.harness.server import Settings
from tests.harness.world import AS_JSON, HTML, World, world
from tests.promises.promise import Measured, Promise, Size

PROMISE = Promise(
    "G9", "rollback", "200 sequences of serial and ETag flaps: never an older page after a newer one, never stuck"
)
SEQUENCES: dict[Size, int] = {"ci": 200, "long": 1_000}
STEPS: dict[Size, int] = {"ci": 8, "long": 40}
AT_ONCE = 8
SETTINGS: Settings = {"freshness": {"min_reload_interval": "0s"}}
REMEMBERED = 61.0
"""Seconds after which a 404 is no longer remembered."""
BEYOND_ALL_CAPS = 8 * 86_400.0
"""Seconds after which no stored page may stand for a failing upstream any more: ``stale_if_error`` is 7 days."""
FAILURES = (*(busy(500), busy(429, 60), busy(404)) * 3, hang_up)


@dataclass(slots=True)
class Mirrors:
    """One project behind three mirrors, each at a serial of its own that only grows; a request comes to any of them.
    The page of serial 7 lists the releases 0.0 to 7.0. What is ``sent`` are the serials of the pages that left."""

    project: str
    chance: random.Random
    serials: list[int]
    etags: str
    flapping: bool = True
    sent: list[int] = field(default_factory=list)

    def step(self) -> None:
        """One of them catches up a little, or all of a sudden."""
        mirror = self.chance.randrange(len(self.serials))
        self.serials[mirror] = min(99, self.serials[mirror] + self.chance.choice([0, 1, 1, 5]))

    def agree(self, serial: int) -> None:
        """From now on all of them have this page, and no failures."""
        self.serials, self.flapping = [serial] * len(self.serials), False

    def __call__(self, exchange: Exchange) -> None:
        """Answers a request for the page, by its condition where it has one."""
        mirror = self.chance.randrange(len(self.serials)) if self.flapping else 0
        if self.flapping and self.chance.random() < 0.15:
            return self.chance.choice(FAILURES)(exchange)
        serial, seen = self.serials[mirror], exchange.seen.headers
        etag = self._etag(mirror, serial)
        headers = {"Cache-Control": "max-age=0", "Age": "100", "X-PyPI-Last-Serial": str(serial)}
        headers |= {"ETag": etag} if etag else {}
        without = ("Last-Modified", "Content-Encoding") + (() if etag else ("ETag",))
        if etag and seen.get("if-none-match") == etag:
            Answer(status=304, body=b"", headers=headers, without=without)(exchange)
            return None
        body = json.dumps(self._page(serial)).encode()
        self.sent.append(serial)
        Answer(status=200, body=body, headers={**headers, "Content-Type": JSON_V1}, without=without)(exchange)
        return None

    def _etag(self, mirror: int, serial: int) -> str:
        """By content, by mirror and content, weak, none at all; or so badly made that pages share one."""
        said = {
            "content": f'"{serial}"', "mirror": f'"{mirror}-{serial}"', "weak": f'W/"{serial}"', "none": "",
            "shared": f'"{serial // 2}"',
        }  # fmt: skip
        return said[self.etags]

    def _page(self, serial: int) -> dict[str, object]:
        releases = [f"{number}.0" for number in range(serial + 1)]
        names = [f"{self.project}-{each}.tar.gz" for each in releases]
        files = [{"filename": name, "url": name, "hashes": {}} for name in names]
        return {"meta": {"api-version": "1.1"}, "name": self.project, "versions": releases, "files": files}


@dataclass(slots=True)
class Reader:
    """A client that keeps what it got, and asks by its ETag: ``has`` is the serial of the page at hand."""

    accept: dict[str, str]
    etag: str = ""
    has: int = -1
    undone: int = 0
    failed: int = 0

    def ask(self, here: World, mirrors: Mirrors) -> None:
        """Once more."""
        condition = {"If-None-Match": self.etag} if self.etag else {}
        got = here.page(mirrors.project, {**self.accept, **condition})
        if got.status == 304:
            return
        if got.status != 200:
            self.failed += 1
            return
        shown = shown_by(got, mirrors.project)
        self.undone += shown < self.has
        self.etag, self.has = got.headers["etag"], shown


def shown_by(got: Fetched, project: str) -> int:
    """The serial of the page that came, by the releases that it lists."""
    return got.body.count(f"{project}-".encode()) // 2 - 1  # each file is named, and its link ends with its name


def measure(size: Size, directory: Path) -> Measured:
    """Sequences of looks at a project of many minds, one after the other; then all agree, on a newer page and, when
    every cap is over, on an older one."""
    clock = Clock(directory / "clock")
    with world(directory / "proxy", SETTINGS, clock=clock) as here, ThreadPoolExecutor(AT_ONCE) as pool:
        sequences = [started(here, number) for number in range(SEQUENCES[size])]
        for job in [pool.submit(flap, here, *each, steps=STEPS[size]) for each in sequences]:
            job.result()
        clock.move(REMEMBERED)
        stuck = sum(pool.map(lambda each: not shows(here, *each), sequences))
        older = sum(one > other for mirrors, _ in sequences for one, other in pairwise(mirrors.sent))
        assert older > len(sequences) / 2, "the mirrors hardly ever sent an older page after a newer one"
        clock.move(BEYOND_ALL_CAPS)
        undone = sum(reader.undone for _, readers in sequences for reader in readers)
        for mirrors, _ in sequences:
            mirrors.agree(0)
        stuck += sum(pool.map(lambda each: not shows(here, *each), sequences))
    figure = f"{len(sequences)} sequences ({older} older pages sent): {undone} older pages seen, {stuck} stuck"
    shortfalls = [f"{undone} clients saw an older page after a newer one"] if undone else []
    shortfalls += [f"{stuck} did not come to what all mirrors say"] if stuck else []
    return Measured(figure, tuple(shortfalls))


def started(here: World, number: int) -> tuple[Mirrors, Sequence[Reader]]:
    """A project nobody asked for yet, and its clients."""
    chance = random.Random(number)
    kinds = ("content", "mirror", "weak", "none", "shared")
    made = Mirrors(f"flap{number}", chance, [chance.randrange(1, 20) for _ in range(3)], kinds[number % len(kinds)])
    here.script(made.project, made)
    return made, (Reader(dict(AS_JSON)), Reader({"Accept": HTML}))


def flap(here: World, mirrors: Mirrors, readers: Sequence[Reader], *, steps: int) -> None:
    """So many looks; then all mirrors have the same next page."""
    for _ in range(steps):
        mirrors.step()
        mirrors.chance.choice(readers).ask(here, mirrors)
    mirrors.agree(max(mirrors.serials) + 1)


def shows(here: World, mirrors: Mirrors, readers: Sequence[Reader]) -> bool:
    """Whether every client has the page that all mirrors have once it has asked again."""
    for reader in readers:
        reader.ask(here, mirrors)
    return all(reader.has == mirrors.serials[0] for reader in readers)
