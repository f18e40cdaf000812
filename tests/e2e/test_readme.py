"""README's "Your client", line by line: read from there, and run by that client in a network of its own."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import uv
import yaml

from tests.conftest import missing
from tests.harness.assortment import TAKEN, WANTED, assortment, taken
from tests.harness.certificates import pair
from tests.harness.clients import Pip
from tests.harness.desk import Desk
from tests.harness.fetch import fetch
from tests.harness.index import JSON_V1
from tests.harness.lan import NAME, Lan
from tests.harness.server import ROOT, ProxyServer
from tests.harness.toolbox import Tool
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text()
LOOPBACK, PLAIN, SECURE = "http://127.0.0.1:3143", f"http://{NAME}:3143", f"https://{NAME}"
AUTHORITY = "/etc/ssl/our-ca.pem"
# What a machine's own settings could do to the TLS under test.
FOREIGN = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
WHEEL = "/delta-1.0-py3-none-any.whl"
HATCH = '[tool.hatch.envs.default]\nskip-install = true\ndependencies = ["delta"]\n'


def table() -> dict[str, list[list[str]]]:
    """By client: the code spans of its line, of what plain http adds, and of what https adds."""
    _, _, section = README.partition("### Your client")
    rows = re.findall(r"^\| (.+) \|$", section.partition("\n### ")[0], re.MULTILINE)[1:]
    cells = [row.split(" | ") for row in rows]
    assert all(len(each) == 4 for each in cells)
    return {name: [re.findall(r"`([^`]+)`", cell) for cell in rest] for name, *rest in cells}


def block(begins: str) -> str:
    """The fenced block whose first line is this."""
    found = re.findall(r"^```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (one,) = [each for each in found if each.startswith(begins)]
    return str(one)


@dataclass(frozen=True)
class Network:
    """A LAN on which the proxy is ``proxy.example.com``: at port 3143 in plain http, on every address, and at 443
    in https; ``authority`` is the file that clients have to trust for that."""

    lan: Lan
    plain: ProxyServer
    secure: ProxyServer
    authority: Path

    def forget(self) -> None:
        """What was asked so far."""
        self.plain.forget()
        self.secure.forget()

    def check_served(self, name: str = WHEEL) -> None:
        """Either of them sent that file since; it is forgotten then."""

        def sent() -> bool:
            seen = [*self.plain.requests("/files/"), *self.secure.requests("/files/")]
            return any(each["path"].endswith(name) and each["status"] == 200 for each in seen)

        # A line is written when the answer has gone, and with others.
        eventually(sent, f"{name} is sent")
        self.forget()


def warmed(directory: Path, settings: dict[str, object], lan: Lan) -> ProxyServer:
    """A proxy that has all that is taken, and that will start in the network, where it has no upstream."""
    with Upstream(*assortment()) as upstream:
        proxy = ProxyServer(directory, {"test": upstream.url})
        proxy.start()
        for project in TAKEN:
            assert fetch(f"{proxy.index_url}/{project}/", {"Accept": JSON_V1}).status == 200
        for each in taken():
            for suffix in ["", ".metadata"] if each.metadata is not None else [""]:
                assert fetch(proxy.file_url(upstream.location(each)) + suffix).status == 200
        proxy.terminate()
    proxy.prefix = lan.prefix(ROOT)
    proxy.settings, proxy.arguments = {"server": {"host": "0.0.0.0"} | settings}, ("--offline",)
    return proxy


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """One for all of these tests; skips (fails in CI) where namespaces cannot be made."""
    if (reason := Lan.missing()) is not None:
        missing(reason)
    directory = tmp_path_factory.mktemp("network")
    certificate = pair(directory / "tls", NAME)
    https = {"port": 443, **certificate.settings}
    with (
        Lan(directory) as lan,
        warmed(directory / "plain", {"port": 3143}, lan) as plain,
        warmed(directory / "secure", https, lan) as secure,
    ):
        yield Network(lan, plain, secure, certificate.authority)


Run = Callable[[Desk, list[str]], None]
"""What a client's user does: README's lines in a shell, and then the client's own command."""


@pytest.fixture
def place(network: Network, tmp_path: Path) -> Callable[[], Desk]:
    """Makes a new desk in that network each time it is called."""
    made: list[Desk] = []

    def make() -> Desk:
        made.append(Desk(tmp_path / f"desk{len(made)}"))
        made[-1].prefix = network.lan.prefix(made[-1].project)
        for name in FOREIGN:
            made[-1].environment.pop(name, None)
        return made[-1]

    return make


def script(lines: list[str], *command: str | Path) -> list[str]:
    """These lines in a shell, and then this command."""
    return ["sh", "-e", "-c", "\n".join([*lines, shlex.join(map(str, command))])]


def row(
    network: Network, place: Callable[[], Desk], client: str, run: Run, needed: Sequence[str] = (), file: str = WHEEL
) -> None:
    """A row of the table: on this machine, on a network, and over https; where a second line is ``needed``, it fails
    without. ``file`` is what the client gets from the proxy at least."""
    (line,), plain, secure = table()[client]
    for base, added in ((LOOPBACK, []), (PLAIN, plain), (SECURE, secure)):
        first = line.replace(LOOPBACK, base)
        more = [each.replace(AUTHORITY, str(network.authority)) for each in added]
        if base in needed:
            with pytest.raises(AssertionError):
                run(place(), [first])
        network.forget()
        run(place(), [first, *more])
        network.check_served(file)


def on_path(desk: Desk, directory: Path) -> None:
    """The client is called by its name, as README does."""
    desk.environment["PATH"] = f"{directory}:{desk.environment['PATH']}"


def check(desk: Desk) -> None:
    """What was wanted is there."""
    assert desk.versions(["delta"]) == {"delta": "1.0"}


def test_the_table_names_every_client() -> None:
    """Nobody on the team is the exception."""
    clients = {"pip", "uv", "Poetry", "PDM", "pipenv", "hatch", 'hatch with `installer = "uv"`', "pip-tools"}
    assert set(table()) == clients
    tested = set(re.findall(r'^    row\(network, place, (["\'])(.+)\1,', Path(__file__).read_text(), re.MULTILINE))
    assert {name for _, name in tested} == clients


@pytest.mark.parametrize("version", ["old_pip", "new_pip"])
def test_pip(version: str, network: Network, place: Callable[[], Desk], request: pytest.FixtureRequest) -> None:
    """pip 23.2 and the newest one."""
    pip: Pip = request.getfixturevalue(version)

    def run(desk: Desk, lines: list[str]) -> None:
        desk.make_venv()
        desk.run(*script(lines, pip.python, "-m", "pip", "--python", desk.python, "install", "delta"))
        check(desk)

    row(network, place, "pip", run, needed=[PLAIN] if version == "new_pip" else [])


def test_uv(network: Network, place: Callable[[], Desk]) -> None:
    """uv pip install."""

    def run(desk: Desk, lines: list[str]) -> None:
        desk.make_venv()
        desk.run(*script(lines, uv.find_uv_bin(), "pip", "install", "delta"))
        check(desk)

    row(network, place, "uv", run, needed=[SECURE])


def test_poetry(network: Network, place: Callable[[], Desk], poetry: Tool) -> None:
    """poetry add."""

    def run(desk: Desk, lines: list[str]) -> None:
        desk.write_project(more="[tool.poetry]\npackage-mode = false\n")
        on_path(desk, poetry.bin)
        desk.run(*script(lines, "poetry", "add", "delta"))
        check(desk)

    row(network, place, "Poetry", run)


def test_pdm(network: Network, place: Callable[[], Desk], pdm: Tool) -> None:
    """pdm add."""

    def run(desk: Desk, lines: list[str]) -> None:
        desk.write_project()
        on_path(desk, pdm.bin)
        desk.run(*script(lines, "pdm", "add", "--no-self", "delta"))
        check(desk)

    row(network, place, "PDM", run, needed=[PLAIN])


def test_pipenv(network: Network, place: Callable[[], Desk], pipenv: Tool) -> None:
    """pipenv lock, which asks in two ways; over https, sync, too."""

    def run(desk: Desk, lines: list[str]) -> None:
        desk.write("Pipfile", '[packages]\ndelta = "*"\n')
        on_path(desk, pipenv.bin)
        secure = any(SECURE in line for line in lines)
        desk.run(*script([*lines, "pipenv lock"], "pipenv", *(["sync"] if secure else ["--version"])))
        assert {each.sha256 for each in taken() if each.project == "delta"} == set(
            re.findall(r"sha256:([0-9a-f]{64})\b", desk.read("Pipfile.lock").partition('"default"')[2])
        )
        if secure:
            check(desk)

    row(network, place, "pipenv", run, file=f"{WHEEL}.metadata")


def hatching(hatch: Tool, more: str) -> Run:
    """hatch run, in an environment that needs delta."""

    def run(desk: Desk, lines: list[str]) -> None:
        desk.write_project(more=HATCH + more)
        on_path(desk, hatch.bin)
        said = desk.run(*script(lines, "hatch", "run", "python", "-c", "import delta; print('got', delta.VERSION)"))
        assert "got 1.0" in said

    return run


def test_hatch(network: Network, place: Callable[[], Desk], hatch: Tool) -> None:
    """hatch as it is, with pip."""
    row(network, place, "hatch", hatching(hatch, ""))


def test_hatch_with_uv(network: Network, place: Callable[[], Desk], hatch: Tool) -> None:
    """hatch that was told to use uv."""
    row(network, place, 'hatch with `installer = "uv"`', hatching(hatch, 'installer = "uv"\n'))


def test_pip_tools(network: Network, place: Callable[[], Desk], pip_tools: Tool) -> None:
    """pip-compile, and a download of what it wrote."""

    def run(desk: Desk, lines: list[str]) -> None:
        desk.write("requirements.in", "delta")
        on_path(desk, pip_tools.bin)
        desk.run(
            *script([*lines, "pip-compile --strip-extras"], "pip", "download", "-d", "got", "-r", "requirements.txt")
        )

    row(network, place, "pip-tools", run)


def test_pip_for_good(network: Network, place: Callable[[], Desk], new_pip: Pip) -> None:
    """``pip config set``; what this machine's own pip.conf adds is kept away."""
    desk = place()
    desk.make_venv()
    on_path(desk, new_pip.python.parent)
    del desk.environment["PIP_CONFIG_FILE"]
    empty = desk.project / "empty"
    empty.mkdir()
    desk.environment |= {"PIP_FIND_LINKS": str(empty), "PIP_EXTRA_INDEX_URL": empty.as_uri()}
    desk.run(*script([block("pip config set")], "pip", "--python", desk.python, "install", "delta"))
    check(desk)
    network.check_served()


def test_project_files(network: Network, place: Callable[[], Desk], pdm: Tool, pipenv: Tool) -> None:
    """The tables for pyproject.toml and Pipfile, as they stand there."""
    desk = place()
    desk.write_project("delta", more=block("# pyproject.toml, for uv"))
    del desk.environment["UV_NO_CONFIG"]
    desk.run(uv.find_uv_bin(), "sync")
    check(desk)
    network.check_served()

    desk = place()
    desk.write_project("delta", more=block("# pyproject.toml, for PDM"))
    desk.run(pdm.command(), "install", "--no-self")
    check(desk)
    network.check_served()

    desk = place()
    desk.write("Pipfile", block("# Pipfile") + '[packages]\ndelta = "*"\n')
    desk.run(pipenv.command(), "lock")
    desk.run(pipenv.command(), "sync")
    check(desk)
    network.check_served()


@pytest.mark.parametrize("where", ["image", "CI"])
def test_environments(where: str, network: Network, place: Callable[[], Desk], new_pip: Pip) -> None:
    """The ENV lines of an image and the variables of a CI job are what pip and uv need."""
    if where == "image":
        words = [word for line in block("ENV ").splitlines() for word in line.removeprefix("ENV ").split()]
        variables = dict(word.split("=", 1) for word in words)
    else:
        variables = yaml.safe_load(block("# CI"))["variables"]
    for client in ("pip", "uv"):
        desk = place()
        desk.environment |= variables
        desk.make_venv()
        if client == "pip":
            desk.pip(new_pip, "install", "delta")
        else:
            desk.run(uv.find_uv_bin(), "pip", "install", "delta")
        check(desk)
        network.check_served()


def test_lock_files_by_sed(
    upstream: Upstream, start_proxy: Callable[..., ProxyServer], desk: Callable[[], Desk]
) -> None:
    """The command that makes the upstream's lock of one made here: both agree, and it holds there."""
    upstream.index.add(*assortment())
    proxy = start_proxy(upstream)
    locked = []
    for index in (proxy.index_url, f"{upstream.origin}/simple"):
        one = desk()
        one.write_project(*WANTED)
        one.run(uv.find_uv_bin(), "lock", UV_DEFAULT_INDEX=index)
        locked.append(one)
    command = block("sed ").strip()
    for told, here in (
        (LOOPBACK, proxy.url),
        ("/files/internal/|https://", "/files/test/|http://"),
        ("https://example.com", upstream.origin),
    ):
        assert told in command
        command = command.replace(told, here)
    assert locked[0].run("sh", "-c", command) == locked[1].read("uv.lock")
