"""Fixtures of every test: upstreams, proxies and clients that end with the test that asked for them."""

from __future__ import annotations

import os
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from pypi_simple import PYPI_SIMPLE_ENDPOINT

from tests.harness.clients import Fresh, Installer, Pip, make_pip
from tests.harness.desk import Desk
from tests.harness.fronts import installed
from tests.harness.server import ProxyServer
from tests.harness.toolbox import TOOLS, Tool, Toolbox
from tests.harness.trees import Tree
from tests.harness.tripwire import Tripwire
from tests.harness.upstream import Upstream

# What an example takes says how busy the machine is, not whether it holds.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
OUTCOMES = ("passed", "failed", "xpassed", "xfailed")
INSTALLERS = ("pip-23.2", "pip-newest", "uv")


def missing(what: str) -> None:
    """Skips on a machine without network; fails where CI is set, for there it must be had."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """An empty, polite upstream that runs; add to its ``index`` and script it."""
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module", params=[True, False], ids=["fast lane", "no lane"])
def lane(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs a module twice whose proxy asks for it: with the fast lane, and without."""
    ProxyServer.fast_lane = request.param
    yield
    ProxyServer.fast_lane = True


@pytest.fixture
def near() -> Iterator[Path]:
    """A directory with a short path: a local socket's may have 103 bytes, and ``tmp_path`` alone has more at times."""
    with tempfile.TemporaryDirectory(prefix="near", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
def start_proxy(tmp_path: Path) -> Iterator[Callable[..., ProxyServer]]:
    """``start_proxy(upstream, **options of ProxyServer)`` runs one; the upstream is its index "test"."""
    started: list[ProxyServer] = []
    with ExitStack() as running:

        def start(upstream: Upstream | None = None, **options: Any) -> ProxyServer:
            options.setdefault("indexes", {} if upstream is None else {"test": upstream.url})
            started.append(ProxyServer(tmp_path / f"proxy{len(started)}", **options))
            return running.enter_context(started[-1])

        yield start
    for proxy in started:
        print(f"--- what the proxy in {proxy.directory} said:\n{proxy.stderr}")  # shown where a test failed


@pytest.fixture
def make_tree(tmp_path: Path) -> Callable[[str], Tree]:
    """``make_tree("nginx")`` is a tree which that program will serve; skips (fails in CI) where it is not installed."""

    def make(program: str) -> Tree:
        if program == "nginx" and not installed(program):
            missing("nginx is missing")
        return Tree(program, tmp_path / "origin")

    return make


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Fresh]:
    """Makes a new empty client environment each time it is called."""
    made: list[Fresh] = []

    def make() -> Fresh:
        made.append(Fresh(tmp_path / f"client{len(made)}"))
        return made[-1]

    return make


@pytest.fixture(scope="session")
def pip_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pip]:
    """``pip_of("pip==23.2")``: fetched once per session; skips (fails in CI) when it cannot be had."""
    made: dict[str, Pip] = {}

    def make(requirement: str) -> Pip:
        if requirement not in made:
            try:
                made[requirement] = make_pip(tmp_path_factory.mktemp("pip") / "venv", requirement)
            except AssertionError as error:
                missing(f"{requirement} cannot be had here: {error}")
        return made[requirement]

    return make


@pytest.fixture(scope="session")
def old_pip(pip_of: Callable[[str], Pip]) -> Pip:
    """The oldest pip that is supported."""
    return pip_of("pip==23.2")


@pytest.fixture(scope="session")
def new_pip(pip_of: Callable[[str], Pip]) -> Pip:
    """The newest pip there is."""
    return pip_of("pip")


@pytest.fixture(params=INSTALLERS)
def installer(request: pytest.FixtureRequest) -> Installer:
    """pip 23.2, the newest pip and uv, one after the other."""
    pips = {"pip-23.2": "old_pip", "pip-newest": "new_pip"}
    pip = request.getfixturevalue(pips[request.param]) if request.param in pips else None
    return Installer(request.param, pip)


@pytest.fixture(scope="session")
def toolbox(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toolbox]:
    """Installs what the tests of this session ask for, all at once, when the first of them asks."""
    with Toolbox(tmp_path_factory.mktemp("tools")) as box:
        asked = (name for item in request.session.items for name in getattr(item, "fixturenames", ()))
        box.begin(name for name in asked if name in TOOLS)
        yield box


def _tool_fixture(name: str) -> Callable[[Toolbox], Tool]:
    @pytest.fixture(name=name, scope="session")
    def tool(toolbox: Toolbox) -> Tool:
        try:
            return toolbox.tool(name)
        except AssertionError as error:
            missing(f"{name} cannot be had here: {error}")
            raise

    return tool


# Each is fetched once per session; skips (fails in CI) when it cannot be had.
poetry = _tool_fixture("poetry")
pdm = _tool_fixture("pdm")
pipenv = _tool_fixture("pipenv")
hatch = _tool_fixture("hatch")
pip_tools = _tool_fixture("pip_tools")


@pytest.fixture
def tripwire() -> Iterator[Tripwire]:
    """Catches what a client asks of anybody but the loopback."""
    with Tripwire() as wire:
        yield wire


@pytest.fixture
def desk(tmp_path: Path, tripwire: Tripwire) -> Iterator[Callable[[], Desk]]:
    """Makes a new desk each time it is called; no client there may have asked anybody but the loopback."""
    made: list[Desk] = []

    def make() -> Desk:
        made.append(Desk(tmp_path / f"desk{len(made)}", tripwire.environment))
        return made[-1]

    yield make
    assert tripwire.caught == []


@pytest.fixture(scope="session")
def default_upstream() -> str:
    """The index that is proxied when nothing is configured; skips (fails in CI) when unreachable."""
    try:
        with urllib.request.urlopen(f"{PYPI_SIMPLE_ENDPOINT}six/", timeout=20) as answer:
            assert answer.status == 200
    except OSError as error:
        missing(f"the default upstream is not reachable: {error}")
    return PYPI_SIMPLE_ENDPOINT


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers each module is one group, for its tests share a server; those with the many clients are
    one together, since these are fetched once per worker, and go first: they take longest."""
    clients = ("test_clients_walk", "test_clients_needs", "test_clients_uv", "test_readme", "test_default_upstream")
    for item in items:
        item.add_marker(pytest.mark.xdist_group("clients" if item.path.stem in clients else item.path.stem))
    items.sort(key=lambda item: item.path.stem not in clients)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI nothing may be skipped: a skipped test there is a promise nobody looked at."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("CI is set, and tests were skipped: see -rs", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the promises came to, a line each, by their numbers: kept ones, too, for the figures are what counts."""
    reports = (each for outcome in OUTCOMES for each in terminalreporter.stats.get(outcome, ()))
    told = {str(value) for each in reports for name, value in each.user_properties if name == "promise"}
    if told:
        terminalreporter.section("promise | goal | measured | verdict")
        for line in sorted(told, key=lambda line: int(line.split()[0].removeprefix("G"))):
            terminalreporter.write_line(line)
