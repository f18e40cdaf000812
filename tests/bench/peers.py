"""The peers: other caching proxies for PyPI, each in an environment of its own, in front of the same upstream."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from tests.bench.servers import HOST, Server, free_port
from tests.harness.fetch import fetch
from tests.harness.packages import Distribution
from tests.harness.server import toml
from tests.harness.upstream import Upstream

_INSTALLED_WITHIN = 300.0
Programs = Path
"""Where the programs of an environment are."""


@dataclass(frozen=True, slots=True)
class Start:
    """A command, what it finds in its environment, and a path that it answers once it is ready."""

    words: Sequence[str]
    environment: Mapping[str, str]
    ready: str


@dataclass(frozen=True, slots=True)
class Kind:
    """``package`` is what pip calls it; ``page`` where a project's page is; ``prepared`` is done once it answers."""

    package: str
    page: str
    start: Callable[[Programs, Path, int, Upstream], Start]
    prepared: Callable[[Server, Upstream], None] = lambda server, upstream: None


class Peer:
    """One of them, running."""

    def __init__(self, kind: Kind, server: Server) -> None:
        self.name = kind.package
        self.server = server
        self._page = kind.page

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return self.server.url

    def cpu(self) -> float:
        """Seconds of CPU used so far."""
        return self.server.cpu()

    def rss(self) -> int:
        """Resident memory now, in bytes."""
        return self.server.rss()

    def page(self, project: str) -> str:
        """The path of a project's page."""
        return self._page.format(project=project)

    def file(self, file: Distribution) -> str:
        """The path of a file, as its page has it."""
        page = f"{self.url}{self.page(file.project)}"
        listed = json.loads(fetch(page, {"Accept": "application/vnd.pypi.simple.v1+json"}).decoded)["files"]
        (link,) = (str(each["url"]) for each in listed if each["filename"] == file.filename)
        return urlsplit(urljoin(page, link)).path


@contextmanager
def running(scratch: Path, upstream: Upstream) -> Iterator[tuple[list[Peer], Mapping[str, str]]]:
    """Those that can be had, and why not the others."""
    peers, absent = list[Peer](), dict[str, str]()
    with ExitStack() as servers:
        for kind in KINDS:
            place = scratch / kind.package
            place.mkdir(parents=True)
            try:
                start = kind.start(_installed(kind.package), place, port := free_port(), upstream)
                server = Server(start.words, port, place / "log", environment=start.environment, ready=start.ready)
                kind.prepared(servers.enter_context(server), upstream)
            except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
                absent[kind.package] = f"{type(error).__name__}: {str(error)[-200:]}"
            else:
                peers.append(Peer(kind, server))
        yield peers, absent


def version(package: str) -> str:
    """Of one that is installed; else nothing."""
    if not (_place(package) / "installed").exists():
        return ""
    program = f"from importlib.metadata import version; print(version({package!r}))"
    words = [f"{_place(package)}/bin/python", "-c", program]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def _place(package: str) -> Path:
    """In the environment of the tests, so that `make clean` takes it along."""
    return Path(sys.prefix) / "peers" / package


def _installed(package: str) -> Programs:
    place = _place(package)
    if not (place / "installed").exists():
        venv.create(place, clear=True, with_pip=True)
        words = [f"{place}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]
        subprocess.run(words, check=True, stderr=subprocess.PIPE, text=True, timeout=_INSTALLED_WITHIN)
        (place / "installed").touch()
    return place / "bin"


def _proxpi(programs: Programs, place: Path, port: int, upstream: Upstream) -> Start:
    words = [f"{programs}/python", "-m", "flask", "--app", "proxpi.server", "run", "--host", HOST, "--port", str(port)]
    (place / "files").mkdir()
    environment = {"PROXPI_INDEX_URL": upstream.url, "PROXPI_CACHE_DIR": str(place / "files")}
    return Start(words, environment, "/health")


def _devpi(programs: Programs, place: Path, port: int, _: Upstream) -> Start:
    data = f"{place}/data"
    made = [f"{programs}/devpi-init", "--serverdir", data, "--no-root-pypi"]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=60)
    words = [f"{programs}/devpi-server", "--serverdir", data, "--host", HOST, "--port", str(port)]
    return Start(words, {}, "/+api")


def _mirroring(server: Server, upstream: Upstream) -> None:
    """Give devpi an index that mirrors the upstream."""
    said = _posted(f"{server.url}/+login", "POST", {"user": "root", "password": ""}, {})
    token = base64.b64encode(f"root:{said['result']['password']}".encode()).decode()
    mirror = {"type": "mirror", "mirror_url": upstream.url, "volatile": False}
    _posted(f"{server.url}/root/mirror", "PUT", mirror, {"X-Devpi-Auth": token})


def _posted(url: str, method: str, said: object, headers: Mapping[str, str]) -> dict[str, dict[str, str]]:
    fields = {"Content-Type": "application/json", "Accept": "application/json", **headers}
    got = fetch(url, fields, method, body=json.dumps(said).encode())
    assert got.status == 200, got
    answer: dict[str, dict[str, str]] = json.loads(got.body)
    return answer


def _peryx(programs: Programs, place: Path, port: int, upstream: Upstream) -> Start:
    hosts = [urlsplit(each).hostname for each in (upstream.url, upstream.files_url)]
    index = {"name": "pypi", "ecosystem": "pypi"}
    above = f'[[index.upstream]]\nname = "upstream"\nurl = "{upstream.url}"\ntrusted_hosts = {json.dumps(hosts)}\n'
    (place / "peryx.toml").write_text(toml({}, [index]) + above)
    words = [
        f"{programs}/peryx", "serve", "--config", f"{place}/peryx.toml", "--host", HOST, "--port", str(port),
        "--data-dir", f"{place}/data", "--log-sink", "file", "--log-file", f"{place}/access.log",
    ]  # fmt: skip
    return Start(words, {}, "/")


KINDS = (
    Kind("proxpi", "/index/{project}/", _proxpi),
    Kind("devpi-server", "/root/mirror/+simple/{project}/", _devpi, _mirroring),
    Kind("peryx", "/pypi/simple/{project}/", _peryx),
)
NAMES = tuple(kind.package for kind in KINDS)
