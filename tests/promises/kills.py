"""A server that is killed while clients are at it, and what is found when it starts again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.admin import ask
from tests.harness.behaviours import Answer
from tests.harness.fetch import Fetched, fetch
from tests.harness.packages import Distribution, blob
from tests.harness.scrape import parsed
from tests.harness.server import ProxyServer, Settings
from tests.harness.upstream import Upstream
from tests.harness.world import World

PATIENCE = 20.0
CLIENTS = 3
ROOMY = "1GB"
CROWDED: Settings = {"cache": {"max_size": "5MB", "mounts_max_size": "5MB"}}
# Less than three rounds of files, without the largest.
TINY: Settings = {"cache": {"max_size": "700KB", "mounts_max_size": "700KB"}}
ALIKE = 0.01
"""Of what is on the disk: how far the sum that is kept may be from it."""
# Below 64 KiB nothing leaves before it is verified; the last one comes in many pieces.
SIZES = (3_000, 30_000, 70_000, 150_000, 700_000)


@dataclass(slots=True)
class Tally:
    """What came of all kills so far; ``faults`` are what must not be, in words, ``points``
    the failpoints that were reached."""

    kills: int = 0
    answers: int = 0
    wrong: int = 0
    failed_starts: int = 0
    orphans: int = 0
    lost: int = 0
    off: float = 0.0
    points: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


class Killed:
    """One cache directory, and the servers that are killed over it one after the other. Clients ask as pip does, for a
    page and then a file, and for a mount's answers. All that they get is compared with what was published."""

    def __init__(self, directory: Path, upstream: Upstream, tally: Tally, seed: int = 0) -> None:
        self.tally = tally
        self.random = random.Random(seed)
        mounts = {"tree": upstream.origin}
        self.here = World(ProxyServer(directory, {"test": upstream.url}, mounts=mounts), upstream)
        self.kept: set[str] = set()
        self._files: list[Distribution] = []
        self._known: dict[str, Distribution] = {}
        self._rounds = 0
        self._lossy = False

    @property
    def proxy(self) -> ProxyServer:
        """The server, of which there is a new one after each kill."""
        return self.here.proxy

    # --- kills

    def at(
        self,
        point: str,
        provoke: Callable[[], object] | None = None,
        *,
        settings: Settings | None = None,
        lossy: bool = False,
        crowd: int = 1,
    ) -> None:
        """Killed by itself at a failpoint, which ``provoke`` leads to, else clients do. ``lossy``: this may remove
        what is kept; ``crowd``: so many times the usual number of files."""
        if self._started({"FAILPOINT": point}, settings):
            self.inspected()
            self._lossy = lossy
            self._publish(crowd)
            self._load(provoke)
            self._killed_itself(point)

    def starting(self, point: str, settings: Settings | None = None) -> None:
        """Killed by itself at a failpoint on the way of a start, or of what a start sets off."""
        self._started({"FAILPOINT": point}, settings)
        self._killed_itself(point)

    def after(self, seconds: float, provoke: Callable[[], object] | None = None) -> None:
        """Killed from outside, that long after clients began, in a room that has to evict."""
        if self._started({}, CROWDED):
            self.inspected()
            self._lossy = True
            self._publish()
            self._load(provoke, seconds)
            self.tally.kills += 1

    def sound(self) -> None:
        """Starts once more, is looked at, and ends in good order."""
        if self._started({}, None):
            self.inspected()
            assert self.proxy.terminate() == 0

    def remove(self) -> None:
        """An operator removes a file that clients ask for, until nobody answers."""
        name, version, *_ = self._files[-len(SIZES)].filename.split("-")
        self._again_and_again("remove", {"pattern": f"{name}-{version}"})

    def purge(self) -> None:
        """An operator removes everything, until nobody answers."""
        self._again_and_again("purge", {})

    def _again_and_again(self, verb: str, asked: Mapping[str, str]) -> None:
        until = time.monotonic() + PATIENCE
        while ask(self.here, "POST", f"/admin/cache/{verb}", asked).status and time.monotonic() < until:
            # What was asked for before it was removed is not kept: sometimes there must be time for that.
            time.sleep(self.random.uniform(0.01, 0.2))

    def _killed_itself(self, point: str) -> None:
        try:
            code: int | None = self.proxy.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = None
        assert code == -signal.SIGKILL, f"{point} was not reached: {code}\n{self.proxy.stderr[-2000:]}"
        self.proxy.kill()
        self.tally.kills += 1
        self.tally.points.add(point.partition(":")[0])

    def _started(self, environment: Mapping[str, str], settings: Settings | None) -> bool:
        self.proxy.environment = dict(environment)
        self.proxy.settings = {"cache": {"max_size": ROOMY}} if settings is None else dict(settings)
        try:
            self.proxy.start()
        except AssertionError as error:
            # Some failpoints lie on the way of a start.
            if not (environment and self.proxy.process.poll() == -signal.SIGKILL):
                self.tally.failed_starts += 1
                self.tally.faults.append(f"a start failed: {error}")
            return False
        return True

    # --- clients

    def _publish(self, crowd: int = 1) -> None:
        self._rounds += 1
        number = len(self.here.upstream.index.distributions)  # names that nobody had before
        new = [
            blob(f"file{number}-{each}", size=size + number, seed=number + each)
            for each, size in enumerate(SIZES * crowd)
        ]
        # Of the round before there are pages, and what the mount answered.
        self._files = [*self._files[-len(new) :], *new]
        self.here.upstream.index.add(*new)
        self._known |= {each.filename: each for each in new}
        # A mount's answer that is asked for again each time: its head is written over the same body.
        self.here.upstream.script(self._path(new[0]), Answer(headers={"Cache-Control": "no-cache"}))

    def _load(self, provoke: Callable[[], object] | None, seconds: float | None = None) -> None:
        clients = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        killer = threading.Timer(0 if seconds is None else seconds, self.proxy.kill)
        if seconds is not None:
            killer.start()
        elif provoke is not None:
            provoke()
        for client in clients:
            client.join(2 * PATIENCE)
            assert not client.is_alive(), "a client waits for ever"
        if seconds is not None:
            killer.join()

    def _client(self, number: int) -> None:
        """Asks until nobody answers any more."""
        mine = random.Random(self._rounds * CLIENTS + number)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            files = mine.sample(self._files, len(self._files))
            for each in files:
                if not all(self._right(each, got) for got in self._as_pip_does(each)):
                    return

    def _as_pip_does(self, file: Distribution) -> Iterator[Fetched]:
        for path in (f"/simple/{file.project}/", self.here.path_of(file), f"/raw/tree{self._path(file)}"):
            try:
                yield self.here.get(path, {"Accept": "application/vnd.pypi.simple.v1+json"})
            except OSError:
                yield Fetched(0, {}, b"", False)

    def _path(self, file: Distribution) -> str:
        return self.here.upstream.path_of(file)

    def _right(self, file: Distribution, got: Fetched) -> bool:
        """Whether there was an answer at all; a wrong one is counted."""
        if got.status == 0 or not got.complete:
            return False
        self.tally.answers += 1
        if got.status != 200:
            self.tally.faults.append(f"{file.filename}: {got.status} {got.body[:200]!r}")
        elif "json" in got.headers.get("content-type", ""):
            listed = [each["hashes"]["sha256"] for each in json.loads(got.body)["files"]]
            self._compared(file, listed == [file.sha256], got)
        else:
            self._compared(file, got.sha256 == file.sha256, got)
        return True

    def _compared(self, file: Distribution, right: bool, got: Fetched) -> None:
        if not right:
            self.tally.wrong += 1
            self.tally.faults.append(f"wrong, of {file}: {len(got.body)} bytes, {got.headers}")

    # --- what is found

    def inspected(self) -> None:
        """Looks at all that is kept. What was kept at the last look and is not now was lost, unless it was removed."""
        listed, strays = self._swept()
        self.tally.orphans += len(strays)
        if strays:
            self.tally.faults.append(f"left over: {strays[:5]}")
        now = {path for path in listed if path.startswith("wheels/")}
        if not self._lossy and (lost := self.kept - now):
            self.tally.lost += len(lost)
            self.tally.faults.append(f"lost: {sorted(lost)[:5]}")
        # What a mount answered is found by a row of another database, and may have to be asked for again.
        for path in sorted(now):
            got = fetch(f"{self.proxy.url}{listed[path]}")
            self.tally.answers += 1
            file = self._known[path.rpartition("/")[2]]
            self._compared(file, got.complete and got.status == 200 and got.sha256 == file.sha256, got)
            if not got.hit:
                self.tally.faults.append(f"{path} is listed and was no hit")
        self.kept = now

    def _swept(self) -> tuple[dict[str, str], list[str]]:
        """The URL's path at the proxy of all that is listed, by its path on the disk; what else lies there once the
        sweep had its time. Also measures how well the sums agree with the disk."""
        until = time.monotonic() + PATIENCE
        while True:
            listed, accounted, sizes = self._listed(), self._accounted(), bodies(self.proxy.cache)
            strays = [*(set(sizes) ^ set(listed)), *map(str, self.proxy.spooled()), *empty(self.proxy.cache)]
            off = abs(accounted - sum(sizes.values())) / max(1, sum(sizes.values()))
            if (not strays and off <= ALIKE) or time.monotonic() > until:
                self.tally.off = max(self.tally.off, off)
                return listed, strays
            time.sleep(0.01)

    def _listed(self) -> dict[str, str]:
        found: dict[str, str] = {}
        cursor = ""
        while True:
            got = ask(self.here, "GET", f"/admin/cache/list?kind=wheel&kind=sdist&kind=mount&limit=1000{cursor}")
            assert got.status == 200, got.body
            told = json.loads(got.body)
            for each in told["files"]:
                found[each["path"]] = f"/files/test/{each['url'].partition('://')[2]}"
            if told["cursor"] is None:
                return found
            cursor = f"&cursor={told['cursor']}"

    def _accounted(self) -> int:
        answer = fetch(f"{self.proxy.url}/metrics")
        said = parsed(answer.body.decode(), answer.headers["content-type"])
        return int(sum(said.sum("pipcacheproxy_cache_bytes", room=room) for room in ("wheels", "mounts")))


def bodies(cache: Path) -> dict[str, int]:
    """Size by path below the cache directory of all files in the rooms of bodies, but for their databases."""
    found: dict[str, int] = {}
    for room in ("wheels", "mounts"):
        for path, _, names in os.walk(cache / room):
            for name in names:
                whole = Path(path, name)
                with suppress(FileNotFoundError):  # the sweep is at work
                    if not name.startswith("cache.db"):
                        found[str(whole.relative_to(cache))] = whole.lstat().st_size
    return found


def empty(cache: Path) -> list[str]:
    """Directories in the rooms of bodies with nothing in them."""
    below = (each for room in ("wheels", "mounts") for each in os.walk(cache / room))
    return [path for path, directories, names in below if not directories and not names]
