"""The gateway against a model: any sequence of requests, publications, faults, removals, crashes and clocks.

The rooms are those that a server has (`proxy.app`), over a real store, with a real upstream on raw sockets; only the
clients and the listener are left out. The model knows what was published when, and what must be kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy import app, config
from proxy.answer import Answer as Given
from proxy.answer import Flow
from proxy.core.messages import Request
from proxy.core.patterns import Selection
from proxy.core.urls import parse_target
from proxy.errors import ProxyError
from proxy.gateway import Gateway
from proxy.store import Store
from proxy.web.metrics import Metrics
from tests.harness.behaviours import Answer, Behaviour, busy, cut, reset_at_once
from tests.harness.exchange import Gate
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, blob
from tests.harness.upstream import Upstream
from tests.keeping import files_in

T = TypeVar("T")
KIB = 1024
DAY, YEARS = 86_400.0, 5 * 365 * 86_400.0
PATIENCE = 20.0
PROJECTS = ("first", "second")
# Below what is held back until it is proved, and above it.
SIZES = (9, 40 * KIB, 70 * KIB)
FILES = {f"{project}-{size}": blob(project, f"{size}.0", size=size) for project in PROJECTS for size in SIZES}
FAULTS: dict[str, Behaviour | None] = {
    "busy": busy(503),
    "reset": reset_at_once,
    "portal": Answer(status=200, body=b"<html>Please log in</html>", headers={"Content-Type": "text/html"}),
    "missing": Answer(status=404, body=b""),
    "cut": cut(5),
    "wrong": Answer(corrupt=3),
    "down": None,
}
# Which of them an upstream may have with a page: there is nothing that would prove its bytes.
OF_PAGES = tuple(name for name in FAULTS if name != "wrong")
OF_FILES = tuple(name for name in FAULTS if name != "portal")
# Without shrinking, which takes minutes here: the steps of a failure are few enough to read.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
AS_JSON = {"accept": JSON_V1, "accept-encoding": "identity"}


async def read(given: Given) -> bytes:
    """The body, as a client gets it."""
    if isinstance(given.body, bytes):
        return given.body
    assert not isinstance(given.body, Flow)
    got = b""
    try:
        while given.stop != len(got) and (piece := await given.body.beyond(len(got))) is not None:
            got += os.pread(piece.file.fileno(), piece.count, piece.position)
    finally:
        given.close()
    return got


class GatewayAgainstModel(RuleBasedStateMachine):
    """``history`` is what a project's page listed, one state after the other; ``floor`` the state that a client was
    shown last; ``good`` the projects whose last good page must be there, ``kept`` the files. ``doubtful`` projects were
    said to be missing a moment ago; ``lacking`` files as well, and ``wrong`` ones came with wrong bytes so often."""

    @initialize()
    def begin(self) -> None:
        """An empty directory, and all files published."""
        self.unmoved, self.ahead = time.time, 0.0
        time.time = lambda: self.unmoved() + self.ahead
        self.runner = asyncio.Runner()
        self.top = Path(tempfile.mkdtemp())
        self.directories = 0
        self.upstream = Upstream(*FILES.values()).__enter__()
        # Its clock is right, and days pass there, too.
        self.days = 0.0
        self.upstream.now = lambda: self.unmoved() + self.days
        listed = {project: [each.filename for each in self.upstream.index.files_of(project)] for project in PROJECTS}
        self.history = {project: [frozenset(names)] for project, names in listed.items()}
        self.floor = dict.fromkeys(PROJECTS, 0)
        self.good: set[str] = set()
        self.kept: set[str] = set()
        self.doubtful: set[str] = set()
        self.wrong: dict[str, int] = {}
        self.lacking: set[str] = set()
        self.runner.run(self._open())

    async def _open(self) -> None:
        self.rooms = AsyncExitStack()
        cache = {"dir": str(self._directory), "ballast": 0, "min_free": "0B"}
        freshness = {"min_reload_interval": "0s", "negative_ttl": "60s", "stale_if_error": "3650d"}
        limits = {"breaker_failures": 1_000_000, "rest_max": "0s"}
        index = [{"name": "test", "url": self.upstream.url}]
        flags = {"cache": cache, "freshness": freshness, "limits": limits, "index": index}
        self.store: Store
        self.gateway: Gateway
        self.store, self.gateway, _ = await app._rooms(config.load(None, flags), self.rooms, Metrics(["test"]))
        await self.store.swept()

    @property
    def _directory(self) -> Path:
        return self.top / f"cache{self.directories}"

    # -- what the upstream does

    @rule(name=st.sampled_from(sorted(FILES)))
    def publish(self, name: str) -> None:
        """A file is taken down, or is there again."""
        file, now = FILES[name], self.history[FILES[name].project][-1]
        if file.filename in now:
            self.upstream.index.remove(file)
        else:
            self.upstream.index.add(file)
        self.history[file.project].append(now ^ {file.filename})

    @rule()
    def a_day_passes(self) -> None:
        """For everybody; what is remembered for a while is not any more."""
        self.days += DAY
        self.ahead += DAY
        self.doubtful.clear()

    @rule(jump=st.sampled_from([-YEARS, -3600.0, 3600.0, YEARS]))
    def the_clock_jumps(self, jump: float) -> None:
        """Ours alone, which is wrong from then on, until it is put right."""
        self.ahead = self.days if self.ahead != self.days else self.days + jump

    # -- what clients do

    @rule(project=st.sampled_from(PROJECTS), fault=st.sampled_from([None, None, None, *OF_PAGES]))
    def page(self, project: str, fault: str | None) -> None:
        """Somebody asks for a page."""
        status, body = self.runner.run(self._asked(f"/simple/{project}/", self._page_path(project), fault))
        self._judge_page(project, fault, status, body)

    def _judge_page(self, project: str, fault: str | None, status: int, body: bytes) -> None:
        history = self.history[project]
        if status == 200:
            names = frozenset(each["filename"] for each in json.loads(body)["files"])
            later = [number for number, state in enumerate(history) if state == names and number >= self.floor[project]]
            assert later, f"{set(names)} is older than what was shown, {self.floor[project]} of {history}"
            self.floor[project] = later[0]
            self.good.add(project)
        elif status == 404:
            assert fault == "missing" or not history[-1] or project in self.doubtful
            self.good.discard(project)
            self.doubtful.add(project)
        else:
            assert status in (502, 503)
            assert fault is not None
            assert project not in self.good

    @rule(name=st.sampled_from(sorted(FILES)), fault=st.sampled_from([None, None, None, *OF_FILES]))
    def file(self, name: str, fault: str | None) -> None:
        """Somebody asks for a file, without asking for its page before."""
        file = FILES[name]
        status, body = self.runner.run(self._asked(self._path(file), self.upstream.path_of(file), fault))
        self._judge_file(name, fault, status, body)

    def _judge_file(self, name: str, fault: str | None, status: int, body: bytes) -> None:
        file = FILES[name]
        whole = status == 200 and body == file.data
        assert not whole or any(file.filename in state for state in self.history[file.project])
        if name in self.kept:
            assert whole, f"{status}, {len(body)} bytes, of what is kept"
        elif whole:
            # A wrong body that came first is over.
            self.wrong.pop(name, None)
            self.kept.add(name)
        elif status == 200:
            assert fault in ("cut", "wrong", "down"), "a body that is not whole"
            assert len(body) < file.size or fault is None, "a wrong body that is whole"
        elif status == 404:
            listed = file.filename in self.history[file.project][-1]
            assert fault == "missing" or not listed or file.project in self.doubtful
        else:
            assert status in (502, 503)
            assert fault is not None or name in self.lacking or self.wrong.get(name, 0) >= 2
        if fault == "missing" and not whole:
            self.lacking.add(name)
        if fault == "wrong" and name not in self.kept:
            self.wrong[name] = self.wrong.get(name, 0) + 1

    @rule(project=st.sampled_from(PROJECTS))
    def warm(self, project: str) -> None:
        """Somebody installs from a project whose upstream is well."""
        self.page(project, None)
        for name, file in FILES.items():
            if file.project == project:
                self.file(name, None)

    @rule(name=st.sampled_from(sorted(FILES)))
    @precondition(lambda self: not self.doubtful)
    def two_clients(self, name: str) -> None:
        """They ask for the same at the same time, and the upstream is asked once."""
        file = FILES[name]
        before = self.upstream.count("GET", self.upstream.path_of(file))

        async def both() -> list[tuple[int, bytes]]:
            return list(await asyncio.gather(self._get(self._path(file)), self._get(self._path(file))))

        for status, body in self.runner.run(self._settled(both())):
            self._judge_file(name, None, status, body)
        assert self.upstream.count("GET", self.upstream.path_of(file)) <= before + 1

    # -- what operators do, and what befalls us

    @rule(project=st.sampled_from([*PROJECTS, None]))
    def purge(self, project: str | None) -> None:
        """A project goes, or everything."""
        self.runner.run(self.gateway.remove(Selection(project=project)))
        self._forget(project)

    def _forget(self, project: str | None) -> None:
        gone = set(PROJECTS) if project is None else {project}
        self.good -= gone
        self.doubtful -= gone
        self.floor |= dict.fromkeys(gone, 0)
        for name, file in FILES.items():
            if file.project in gone:
                self.kept.discard(name)
                self.wrong.pop(name, None)

    @rule(name=st.sampled_from(sorted(FILES)))
    def purge_during_a_fill(self, name: str) -> None:
        """Who is being served is served to the end, and nothing of it comes back."""
        file, gate = FILES[name], Gate()
        path = self.upstream.path_of(file)

        async def purged() -> tuple[int, bytes]:
            self.upstream.script(path, Answer(stall_after=file.size // 2, gate=gate))
            client = asyncio.create_task(self._get(self._path(file)))
            while not gate.reached.is_set() and not client.done():  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.005)
            await self.gateway.remove(Selection())
            gate.open()
            return await client

        known = name in self.kept
        begun = not known
        status, body = self.runner.run(self._settled(purged()))
        self.upstream.script(path)
        if begun and status == 200:
            assert body == file.data
            self.kept.discard(name)
        else:
            self._judge_file(name, None, status, body)
        self._forget(None)

    @rule()
    def evict(self) -> None:
        """Room is needed: whatever goes, goes wholly, and what is left is as it was."""

        async def brought_down() -> None:
            limit = self.store._limits["wheels"]
            self.store._limits["wheels"] = 150 * KIB
            await self.store._evictor.bring_down("wheels")
            self.store._limits["wheels"] = limit

        self.runner.run(self._settled(brought_down()))
        left = {Path(path).name for path in files_in(self._directory / "wheels")}
        self.kept = {name for name in self.kept if FILES[name].filename in left}
        assert sum(FILES[name].size for name in self.kept) <= 150 * KIB

    @rule(name=st.sampled_from(sorted(FILES)), under_way=st.booleans())
    def crash(self, name: str, under_way: bool) -> None:
        """All that is in memory is gone, in the middle of a fill, too; nothing that was kept is."""
        file, gate = FILES[name], Gate()
        path = self.upstream.path_of(file)
        there = self.top / f"cache{self.directories + 1}"

        async def crashed() -> None:
            client = None
            if under_way:
                self.upstream.script(path, Answer(stall_after=file.size // 2, gate=gate))
                client = asyncio.create_task(self._get(self._path(file)))
                while not gate.reached.is_set() and not client.done():  # noqa: ASYNC110 - another thread sets it
                    await asyncio.sleep(0.005)
            # On the thread of all rows: no transaction is half-way, as none is for who opens it next.
            await self.store._workers.ask("wheels", lambda _: shutil.copytree(self._directory, there))
            gate.open()
            await self.rooms.aclose()
            if client is not None:
                await client

        self.runner.run(crashed())
        self.upstream.script(path)
        shutil.rmtree(self._directory)
        self.directories += 1
        self.runner.run(self._open())
        self.wrong.clear()
        self.lacking.clear()
        if under_way:
            # It had its page looked at, perhaps; what came of that was not seen.
            self.good.discard(file.project)

    # -- how it is done

    def _page_path(self, project: str) -> str:
        return f"/simple/{project}/"

    def _path(self, file: Distribution) -> str:
        return f"/files/test/{self.upstream.location(file)}"

    async def _asked(self, path: str, scripted: str, fault: str | None) -> tuple[int, bytes]:
        """What comes of a request while the upstream has that fault; afterwards nothing is under way."""
        if fault == "down":
            self.upstream.stop()
        elif fault is not None and (behaviour := FAULTS[fault]) is not None:
            self.upstream.script(scripted, behaviour)
        try:
            return await self._settled(self._get(path))
        finally:
            if fault == "down":
                self.upstream.start()
            self.upstream.script(scripted)

    async def _get(self, path: str) -> tuple[int, bytes]:
        """Status and body; what was there of a body that broke off."""
        request = Request("GET", parse_target(path, {"test"}, "test"), AS_JSON, path=path)
        try:
            given = await self.gateway.answer(request)
        except ProxyError as error:
            return error.status, b""
        try:
            return given.status, await read(given)
        except ProxyError:
            return given.status, b""

    async def _settled(self, work: Awaitable[T]) -> T:
        """What comes of it, once nothing is under way any more."""
        done = await work
        async with asyncio.timeout(PATIENCE):
            while any(room.under_way for room in self.gateway.waiting().values()):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.002)
            await self.store._adoption.settled()
        return done

    @invariant()
    def agrees(self) -> None:
        """What is on the disk is right, and what the books and the model say."""
        if not hasattr(self, "store"):
            return
        found = files_in(self._directory / "wheels")
        names = {file.filename: name for name, file in FILES.items()}
        for path in found:
            assert (self._directory / "wheels" / path).read_bytes() == FILES[names[Path(path).name]].data
        assert {names[Path(path).name] for path in found} == self.kept
        stats = self.store.stats().wheels
        assert (stats.count, stats.bytes) == (len(self.kept), sum(FILES[name].size for name in self.kept))
        assert not list((self._directory / "incoming").iterdir())
        assert self.store.degraded is None

    def teardown(self) -> None:
        """Nothing is left behind."""
        if hasattr(self, "store"):
            time.time = self.unmoved
            self.runner.run(self.rooms.aclose())
            self.runner.close()
            self.upstream.stop()
            shutil.rmtree(self.top)


TestGatewayAgainstModel = GatewayAgainstModel.TestCase
TestGatewayAgainstModel.settings = settings(max_examples=12, stateful_step_count=25, deadline=None, phases=PHASES)
