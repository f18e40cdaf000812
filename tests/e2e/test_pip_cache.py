"""``pip-cache-proxy cache`` beside ``pip cache``: both say the same of the same wheels, with a server and without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha224
from pathlib import Path
from typing import Any

import pytest

from proxy import pipwords
from tests.harness.certificates import pair
from tests.harness.clients import Fresh, Pip, client_environment, pip_install
from tests.harness.packages import blob, sdist, wheel
from tests.harness.server import ROOT, ProxyServer, clean_environment
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import World, world

Done = subprocess.CompletedProcess[str]
OURS = (sys.executable, "-m", "proxy", "cache")
WHEELS = [
    wheel("requests", "2.32.3", requires=["urllib3>=1.21", "charset-normalizer"]),
    wheel("urllib3", "2.2.3"),
    wheel("charset-normalizer", "3.4.0"),
    blob("requests", "2.31.0", size=9_999),
    blob("numpy", "2.1.0", size=1_234_567),
    blob("numpy", "1.26.4", size=10_500),
    blob("Zope.Interface", "7.0", size=1_000),
    blob("docopt", "0.6.2", size=13_000),
    blob("docopt-ng", "0.9.0", size=1_001),
]
SDISTS = [sdist("docopt", "0.6.2"), sdist("requests-oauthlib", "1.0")]
PATTERNS = [
    "requests", "numpy", "numpy-2*", "numpy-2.1.0-py3-none-any.whl", "*", "*-*", "doc", "doc*", "docopt-0.6.2",
    "Requests", "zope.interface", "zope_interface", "charset-normalizer", "charset_normalizer", "[nr]*", "?umpy",
    "nomatch", "-", "", "*.whl", "requests-oauthlib", "[", "numpy-[12].*",
]  # fmt: skip


# Starting an interpreter and importing pip takes ten times as long as what is asked of it.
_LOOP = """
import contextlib, importlib, io, json, sys
main = importlib.import_module(sys.argv[1]).main
for line in sys.stdin:
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        try:
            code = main(json.loads(line))
        except SystemExit as end:
            code = end.code
    print(json.dumps([said.getvalue(), complained.getvalue(), code]), flush=True)
"""


class Program:
    """A command line, called over and over in one process: ``main`` of that module."""

    def __init__(self, python: str | Path, module: str, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [python, "-c", _LOOP, module],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str | Path) -> Done:
        """What it says to these words."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(list(map(str, words))) + "\n")
        self._process.stdin.flush()
        said, complained, code = json.loads(self._process.stdout.readline())
        return Done(list(map(str, words)), code, said, complained)

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@pytest.fixture(scope="module")
def ours() -> Iterator[Program]:
    """Our command, with nothing in its environment."""
    with closing(Program(sys.executable, "proxy.cli", clean_environment())) as program:
        yield program


@pytest.fixture(scope="module")
def theirs(new_pip: Pip, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The newest pip."""
    environment = client_environment(tmp_path_factory.mktemp("home"))
    with closing(Program(new_pip.python, "pip._internal.cli.main", environment)) as program:
        yield program


def finished(command: tuple[str | Path, ...], environment: Mapping[str, str]) -> Done:
    """The process at its end, its streams apart."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@dataclass(frozen=True, slots=True)
class Both:
    """The same wheels in a proxy's cache and in pip's."""

    proxy: ProxyServer
    directory: Path
    program: Program
    pip: Program

    def ours(self, *words: str) -> Done:
        """``pip-cache-proxy cache`` over the proxy's settings."""
        return self.program("cache", "--config", self.proxy.directory / "config.toml", *words)

    def theirs(self, *words: str) -> Done:
        """``pip cache`` over the same wheels."""
        options = ("--disable-pip-version-check", "--no-color", "--cache-dir", self.directory)
        return self.pip(*options, "cache", *words)

    def plant(self) -> None:
        """Puts the wheels that the proxy has where pip keeps its own."""
        for path in self.proxy.stored():
            if path.suffix == ".whl":
                name = sha224(path.name.encode()).hexdigest()
                place = self.directory / "wheels" / name[:2] / name[2:4] / name[4:6] / name[6:]
                place.mkdir(parents=True)
                shutil.copy(path, place)

    def rows(self, *words: str) -> list[dict[str, Any]]:
        """What our list says as JSON."""
        done = self.ours("list", "--format", "json", *words)
        assert (done.returncode, done.stderr) == (0, "")
        document = json.loads(done.stdout)
        assert document["cursor"] is None
        files: list[dict[str, Any]] = document["files"]
        return files


def filled(served: World, ours: Program, theirs: Program, directory: Path, installs: Pip | None = None) -> Both:
    """Both caches, ours by downloads, and by a real install where there is a pip for it."""
    served.upstream.index.add(*WHEELS, *SDISTS)
    if installs is not None:
        done = pip_install(installs, Fresh(directory / "client"), served.proxy.index_url, "requests")
        assert done.returncode == 0, done.stdout
    for each in [*WHEELS, *SDISTS]:
        assert served.file(each).status == 200
    names = sorted(each.filename for each in [*WHEELS, *SDISTS])
    both = Both(served.proxy, directory / "pip-cache", ours, theirs)
    eventually(lambda: sorted(row["filename"] for row in both.rows()) == names, "files are kept")
    both.plant()
    return both


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, new_pip: Pip, ours: Program, theirs: Program) -> Iterator[Both]:
    """For tests that only look: a server runs."""
    directory = tmp_path_factory.mktemp("both")
    with world(directory / "proxy") as served:
        yield filled(served, ours, theirs, directory, new_pip)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, ours: Program, theirs: Program) -> Iterator[Both]:
    """For tests that only look: no server runs."""
    directory = tmp_path_factory.mktemp("both")
    with world(directory / "proxy") as served:
        both = filled(served, ours, theirs, directory)
        assert served.proxy.terminate() == 0
        yield both


@pytest.fixture(params=["running", "stopped"])
def both(request: pytest.FixtureRequest) -> Both:
    """With a server, and without."""
    found: Both = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def own(tmp_path: Path, ours: Program, theirs: Program) -> Iterator[Both]:
    """A pair that a test may change."""
    with world(tmp_path / "proxy") as served:
        yield filled(served, ours, theirs, tmp_path)


# --- what both say


def test_sizes_are_those_of_pip(new_pip: Pip) -> None:
    """Around every power of ten and of two, and around what is rounded: pip's own function says the same."""
    numbers = {0, 1, 999, 1_000, 1_001, 1_049, 1_050, 1_051, 9_949, 9_950, 9_999, 10_000, 10_001, 10_999, 999_999}
    numbers |= {base**power * times + off for base in (2, 10) for power in range(1, 13) for times in (1, 3, 7)
                for off in (-1, 0, 1)}  # fmt: skip
    numbers |= set(range(1_000_000, 1_300_000, 7_919)) | set(range(900, 12_000, 13))
    wanted = sorted(numbers)
    code = "import sys, json; from pip._internal.utils.misc import format_size; "
    code += "print(json.dumps([format_size(each) for each in json.load(sys.stdin)]))"
    done = subprocess.run(
        [new_pip.python, "-c", code], input=json.dumps(wanted), capture_output=True, text=True, check=True
    )
    assert [pipwords.size(each) for each in wanted] == json.loads(done.stdout)


def test_list_looks_alike(both: Both) -> None:
    """Our lines without those of sdists are pip's."""
    ours, theirs = both.ours("list"), both.theirs("list")
    assert (ours.returncode, ours.stderr) == (theirs.returncode, theirs.stderr) == (0, "")
    lines = ours.stdout.splitlines()
    sdists = [line for line in lines if ".tar.gz (" in line]
    assert [line for line in lines if line not in sdists] == theirs.stdout.splitlines()
    assert sdists == [f" - {each.filename} ({each.size} bytes)" for each in SDISTS]
    assert len(lines) == 2 + len(WHEELS) + len(SDISTS)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_alike(running: Both, pattern: str) -> None:
    """Of wheels, each pattern names the same, byte for byte."""
    ours, theirs = running.ours("list", "--kind", "wheel", "--", pattern), running.theirs("list", "--", pattern)
    assert (ours.stdout, ours.stderr, ours.returncode) == (theirs.stdout, theirs.stderr, theirs.returncode)


@pytest.mark.parametrize("pattern", ["*", "numpy", "nomatch", ""])
def test_patterns_match_alike_without_a_server(stopped: Both, pattern: str) -> None:
    """The same, on the directory itself."""
    ours, theirs = stopped.ours("list", "--kind", "wheel", pattern), stopped.theirs("list", pattern)
    assert (ours.stdout, ours.stderr, ours.returncode) == (theirs.stdout, theirs.stderr, theirs.returncode)


@pytest.mark.parametrize("pattern", ["*", "docopt", "nomatch"])
def test_paths_look_alike(both: Both, pattern: str) -> None:
    """``--format abspath``: sorted, absolute, each a file that is there; nothing for no match."""
    ours = both.ours("list", pattern, "--kind", "wheel", "--format", "abspath")
    theirs = both.theirs("list", pattern, "--format=abspath")
    paths = ours.stdout.splitlines()
    assert paths == sorted(paths)
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in paths)
    assert sorted(map(os.path.basename, paths)) == sorted(map(os.path.basename, theirs.stdout.splitlines()))
    assert (ours.returncode, ours.stderr) == (0, "")


def test_info_looks_alike(both: Both) -> None:
    """The lines about wheels, and where they are; the bytes are those of the disk."""
    ours, theirs = both.ours("info"), both.theirs("info")
    assert (ours.returncode, ours.stderr) == (0, "")
    wheels = [line for line in theirs.stdout.splitlines() if "wheels" in line]
    wheels = [line.replace(str(both.directory), str(both.proxy.cache)) for line in wheels]
    assert ours.stdout.splitlines()[3:6] == wheels
    assert ours.stdout.splitlines()[0] == f"Package index page cache location: {both.proxy.cache}/responses"
    told = json.loads(both.ours("info", "--format", "json").stdout)
    on_disk = sum(path.stat().st_size for path in both.proxy.stored())
    assert told["wheels"]["bytes"] + told["sdists"]["bytes"] == on_disk
    assert told["sdists"]["count"] == len(SDISTS)


def test_dir_looks_alike(both: Both) -> None:
    """One line."""
    assert both.theirs("dir").stdout == f"{both.directory}\n"
    assert both.ours("dir").stdout == f"{both.proxy.cache}\n"
    assert json.loads(both.ours("dir", "--format", "json").stdout) == {"dir": str(both.proxy.cache)}


WRONG_USES: list[tuple[str, ...]] = [
    (), ("bogus",), ("LIST",), ("dir", "x"), ("info", "x"), ("list", "a", "b"), ("purge", "x"), ("remove",),
    ("remove", "a", "b"), ("dir", "list"), ("--format", "abspath"), ("", "list"),
]  # fmt: skip


@pytest.mark.parametrize("words", WRONG_USES, ids=" ".join)
def test_wrong_uses_are_answered_alike(running: Both, words: tuple[str, ...]) -> None:
    """The same line on the same stream, and the same exit code."""
    ours, theirs = running.program("cache", *words), running.theirs(*words)
    assert (ours.stdout, ours.stderr, ours.returncode) == (theirs.stdout, theirs.stderr, theirs.returncode)
    assert ours.returncode == 1


@pytest.mark.parametrize(
    "words", [("list", "--format", "bogus"), ("list", "--format"), ("--bogus", "list"), ("list", "-x")], ids=" ".join
)
def test_wrong_options_are_answered_alike(running: Both, words: tuple[str, ...]) -> None:
    """Our usage, and below it pip's line, which lists one format less."""
    ours, theirs = running.program("cache", *words), running.theirs(*words)
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode) == ("", 2)
    assert "Usage:" in ours.stderr
    assert ours.stderr.splitlines()[-1].replace(", 'json')", ")") == theirs.stderr.splitlines()[-1]


# --- removing


def wheel_lines(done: Done) -> list[str]:
    """Names of wheels that went, as -v lists them, and the line that counts files."""
    lines = done.stdout.splitlines()
    names = sorted(line.rpartition("/")[2] for line in lines if line.startswith("Removed ") and line.endswith(".whl"))
    return [*names, *(line for line in lines if line.startswith("Files removed:"))]


@pytest.mark.parametrize("served", [True, False], ids=["running", "stopped"])
def test_remove_looks_alike(own: Both, served: bool) -> None:
    """One pattern after the other, until nothing is left: the same wheels go, with the same words."""
    if not served:
        own.proxy.terminate()
    for pattern in ("nomatch", "Requests", "numpy-2*", "requests", "numpy", "[zu]*", ""):
        ours, theirs = own.ours("remove", "-v", "--kind", "wheel", pattern), own.theirs("remove", "-v", pattern)
        assert wheel_lines(ours) == wheel_lines(theirs)
        assert (ours.stderr, ours.returncode) == (theirs.stderr, theirs.returncode)
        assert own.ours("list", "--kind", "wheel").stdout == own.theirs("list").stdout
        removed = [line.removeprefix("Removed ") for line in ours.stdout.splitlines() if line.endswith(".whl")]
        assert not any(map(os.path.exists, removed))
    assert own.ours("purge").returncode == own.theirs("purge").returncode == 0
    for words in (("purge",), ("remove", "*"), ("remove", "x")):
        ours, theirs = own.ours(*words), own.theirs(*words)
        assert (ours.stdout, ours.stderr, ours.returncode) == (theirs.stdout, theirs.stderr, theirs.returncode)
        assert own.ours("list").stdout == own.theirs("list").stdout == "No locally built wheels cached.\n"
    assert own.proxy.stored() == []


def test_remove_frees_what_info_says_and_the_next_install_fetches_it_again(
    own: Both, new_pip: Pip, tmp_path: Path
) -> None:
    """What is removed by its project's name is gone from the disk, sdists too, and comes back by itself."""

    def info() -> dict[str, Any]:
        told: dict[str, Any] = json.loads(own.ours("info", "--format", "json").stdout)
        return told

    def on_disk() -> int:
        return sum(path.stat().st_size for path in own.proxy.stored())

    before, used = info(), on_disk()
    dry = own.ours("remove", "requests", "--dry-run")
    assert dry.stdout.splitlines()[0] == "Would remove:"
    assert dry.stdout.splitlines()[-2:] == ["Files that would be removed: 2 (11 kB)", "Nothing was removed."]
    assert info()["wheels"] == before["wheels"]
    done = json.loads(own.ours("remove", "requests", "--format", "json").stdout)
    after = info()
    assert {each["filename"] for each in done["removed"]} == {WHEELS[0].filename, WHEELS[3].filename}
    assert done["count"] == before["wheels"]["count"] - after["wheels"]["count"] == 2
    assert done["bytes"] == before["wheels"]["bytes"] - after["wheels"]["bytes"] == used - on_disk()
    assert own.ours("remove", "docopt", "--kind", "sdist").stdout.startswith("Files removed: 1 (")
    assert own.ours("remove", "Requests.OAuthlib").stdout.startswith("Files removed: 1 (")
    assert info()["sdists"] == {"count": 0, "bytes": 0}
    assert pip_install(new_pip, Fresh(tmp_path / "again"), own.proxy.index_url, "requests").returncode == 0
    eventually(lambda: [each["version"] for each in own.rows("requests")] == ["2.32.3"], "it is kept again")


def test_filters(running: Both) -> None:
    """By index, by project in any spelling, by version in any spelling, by kind."""
    assert running.rows("--index", "nobody") == []
    assert len(running.rows("--index", "test")) == len(WHEELS) + len(SDISTS)
    assert [each["filename"] for each in running.rows("--project", "zope_INTERFACE")] == [WHEELS[6].filename]
    assert {each["kind"] for each in running.rows("docopt")} == {"wheel", "sdist"}
    assert [each["filename"] for each in running.rows("--project", "numpy", "--version", "2.1")] == [WHEELS[4].filename]
    responses = running.rows("--kind", "response")
    assert {each["kind"] for each in responses} == {"response"}
    said = running.ours("list", "--kind", "response").stdout.splitlines()
    assert len(said) == 2 + len(responses)
    assert any(line.startswith(" - page of requests (index test) (") for line in said)
    assert running.ours("list", "--version", "").stderr == "ERROR: version: expected text of 1 to 512 characters\n"


# --- whoever answers, the answer is the same


def test_the_directory_answers_as_its_server_does(own: Both) -> None:
    """Every verb's JSON, but for what only a server can count; and the lock is let go of at once."""
    words = (
        ("list",), ("list", "--kind", "response"), ("list", "docopt"), ("info",), ("dir",),
        ("remove", "numpy", "--dry-run"), ("purge", "--dry-run"),
    )  # fmt: skip

    def told() -> list[Any]:
        answers = [json.loads(own.ours(*each, "--format", "json").stdout) for each in words]
        for row in [row for answer in answers for row in [*answer.get("files", ()), *answer.get("removed", ())]]:
            row.pop("last_used")
        answers[3] |= dict.fromkeys(("hits", "misses", "hit_ratio", "since", "free"))
        return answers

    served = told()
    assert len(served[0]["files"]) == len(WHEELS) + len(SDISTS)
    own.proxy.terminate()
    assert not (own.proxy.cache / "address").exists()
    assert told() == served
    own.proxy.start()
    assert told() == served
    own.proxy.kill()
    assert (own.proxy.cache / "address").exists()
    assert told() == served


StartProxy = Callable[..., ProxyServer]


def info_of(proxy: ProxyServer, *words: str, environment: Mapping[str, str] | None = None) -> Done:
    """``cache info`` over the settings of this proxy."""
    config = ("--config", str(proxy.directory / "config.toml"))
    return finished((*OURS, "info", *config, *words), clean_environment(environment))


def answered(proxy: ProxyServer, done: Done) -> None:
    """The server was asked, and what it said was understood."""
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Locally built wheels location: {proxy.cache}/wheels\n" in done.stdout
    proxy.wait_for_log(lambda lines: [line["path"] for line in lines if "path" in line] == ["/admin/cache/info"])


def test_over_https_the_servers_own_certificate_counts(
    start_proxy: StartProxy, upstream: Upstream, tmp_path: Path
) -> None:
    """It is signed by nobody known, for other names; with --url the system's authorities judge it."""
    made = pair(tmp_path / "pem", "example.com")
    proxy = start_proxy(upstream, settings={"server": made.settings})
    answered(proxy, info_of(proxy))
    token = ("--token-file", str(proxy.cache / "admin.token"))
    done = info_of(proxy, "--url", proxy.url, *token)
    assert (done.returncode, done.stdout) == (69, "")
    assert "is not trusted" in done.stderr
    ours = pair(tmp_path / "known")
    proxy.restart(settings={"server": ours.settings})
    known = {"SSL_CERT_FILE": str(ours.authority)}
    answered(proxy, info_of(proxy, "--url", proxy.url, *token, environment=known))


def test_by_the_local_socket_alone(start_proxy: StartProxy, upstream: Upstream, near: Path) -> None:
    """A server without TCP is found by its directory."""
    proxy = start_proxy(upstream, settings={"server": {"host": [], "unix_socket": str(near / "s")}})
    answered(proxy, info_of(proxy))


def test_where_only_some_hosts_are_allowed(start_proxy: StartProxy, upstream: Upstream) -> None:
    """And on every address there is: it is asked under a name it answers to."""
    proxy = start_proxy(upstream, settings={"server": {"host": ["0.0.0.0"], "allowed_hosts": ["cache.example.com"]}})
    answered(proxy, info_of(proxy))


def test_by_its_url_with_the_right_token_and_a_wrong_one(
    start_proxy: StartProxy, upstream: Upstream, tmp_path: Path
) -> None:
    """77 for a token it does not know, and for a read token that would remove; neither token is ever shown."""
    tokens = {"token_file": tmp_path / "write", "read_token_file": tmp_path / "read"}
    for number, path in enumerate([*tokens.values(), tmp_path / "other"]):
        path.write_text(f"canary{number}" * 6)
        path.chmod(0o600)
    proxy = start_proxy(upstream, settings={"admin": {name: str(path) for name, path in tokens.items()}})
    assert not (proxy.cache / "admin.token").exists()
    answered(proxy, info_of(proxy))

    def ask(verb: str, name: str) -> Done:
        words = ("--url", proxy.url, "--token-file", str(tmp_path / name))
        return finished((*OURS, verb, *words), clean_environment())

    assert ask("info", "write").returncode == ask("info", "read").returncode == ask("purge", "write").returncode == 0
    for refused in (ask("info", "other"), ask("purge", "read")):
        assert (refused.returncode, refused.stdout) == (77, "")
        assert "refuses the token (403" in refused.stderr
        assert "canary" not in refused.stderr
    assert "canary" not in proxy.stderr
