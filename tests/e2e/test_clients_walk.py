"""Every client installs, locks and downloads through the proxy: cold, warm with empty caches, and with no upstream."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import uv

from tests.harness.assortment import TAKEN, WANTED, assortment, taken
from tests.harness.clients import Pip, file_names, installed_through
from tests.harness.desk import Desk
from tests.harness.server import ProxyServer
from tests.harness.toolbox import Tool
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually

pytestmark = pytest.mark.slow

StartProxy = Callable[..., ProxyServer]
Errand = Callable[[Desk, str], str]
"""Installs, locks and downloads at that desk from that index URL, as far as the client can; the lock file's text."""

HASHES = {each.project: f"sha256:{each.sha256}" for each in taken()}
NAMES = [each.filename for each in taken()]


@dataclass(frozen=True)
class Walk:
    """A proxy whose pages are never fresh, its upstream, and desks; ``go`` takes a client through all three."""

    upstream: Upstream
    proxy: ProxyServer
    desk: Callable[[], Desk]

    def go(self, errand: Errand) -> None:
        """Cold, warm and with the upstream gone: the same files, the same lock, and a witness for each."""
        locks = []
        for stage in ("cold", "warm", "gone"):
            if stage == "gone":
                self.upstream.stop()
            locks.append(errand(self.desk(), self.proxy.index_url))
            installed_through(self.proxy, self.upstream, NAMES)
            self._witness(stage)
            eventually(lambda: sorted(each.name for each in self.proxy.stored()) == sorted(NAMES), "files are kept")
            self.upstream.forget()
            self.proxy.forget()
        assert locks == locks[:1] * 3

    def _witness(self, stage: str) -> None:
        """What the upstream was asked: each file once, then none; pages again, and again; then nothing."""
        files = [each.path for each in self.upstream.asked("/packages/")]
        pages = {each.path for each in self.upstream.asked("/simple/")}
        assert len(files) == len(set(files)), f"{stage}: files were asked for twice"
        wheels = sorted(path.rpartition("/")[2] for path in files if not path.endswith(".metadata"))
        assert wheels == (sorted(NAMES) if stage == "cold" else [])
        assert (files == []) is (stage != "cold")
        # Which pages those are is the client's business: some ask for pip's, too.
        assert (pages >= {f"/simple/{project}/" for project in TAKEN}) is (stage != "gone")
        got = file_names(self.proxy.requests("/files/"))
        chosen = {name.removesuffix(".metadata") for name in got}
        # Poetry looks at the metadata of what it cannot take; nobody downloads it.
        assert {name for name in got if not name.endswith(".metadata")} == set(NAMES)
        assert chosen <= {each.filename for each in assortment() if each.yanked is False}


@pytest.fixture
def walk(upstream: Upstream, start_proxy: StartProxy, desk: Callable[[], Desk]) -> Walk:
    """Pages must be asked for again each time; so a warm one is a 304, and one without upstream a stale one."""
    upstream.index.add(*assortment())
    upstream.index.page_cache_control = "max-age=0"
    proxy = start_proxy(upstream, settings={"freshness": {"min_reload_interval": "0s"}})
    return Walk(upstream, proxy, desk)


def requirements_hashes(text: str) -> Mapping[str, set[str]]:
    """Project to hashes, of a requirements.txt with hashes."""
    joined = text.replace("\\\n", " ")
    lines = [line.split() for line in joined.splitlines() if "--hash=" in line]
    return {
        words[0].partition("==")[0].partition("[")[0]: {
            word.removeprefix("--hash=") for word in words if word.startswith("--hash=")
        }
        for words in lines
    }


def locked_hashes(text: str) -> Mapping[str, set[str]]:
    """Project to hashes, of pylock.toml, uv.lock, poetry.lock or pdm.lock."""
    document = tomllib.loads(text)
    found: dict[str, set[str]] = {}
    for package in document.get("packages", document.get("package", [])):
        files = [*package.get("wheels", []), *package.get("files", [])]
        files += [package["sdist"]] if "sdist" in package else []
        for file in files:
            digest = file["hash"] if "hash" in file else "sha256:" + file["hashes"]["sha256"]
            found.setdefault(package["name"], set()).add(digest)
    return found


def right(hashes: Mapping[str, set[str]]) -> bool:
    """Whether they are those of what was to be taken."""
    return {name: digests for name, digests in hashes.items() if name != "buyer"} == {
        name: {digest} for name, digest in HASHES.items()
    }


def downloaded(desk: Desk, directory: str) -> bool:
    """Whether that directory has exactly the files, byte for byte."""
    found = {path.name: path.read_bytes() for path in (desk.project / directory).iterdir()}
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items()} == {
        each.filename: each.sha256 for each in taken()
    }


def test_pip_23(walk: Walk, old_pip: Pip) -> None:
    """The oldest pip that is supported: install and download."""

    def errand(desk: Desk, url: str) -> str:
        python = desk.make_venv()
        desk.pip(old_pip, "install", *WANTED, PIP_INDEX_URL=url)
        assert desk.versions(list(TAKEN), python) == TAKEN
        desk.pip(old_pip, "download", "-d", "downloads", *WANTED, PIP_INDEX_URL=url)
        assert downloaded(desk, "downloads")
        return ""

    walk.go(errand)


def test_newest_pip(walk: Walk, new_pip: Pip) -> None:
    """Install, download, lock, and install from the lock."""

    def errand(desk: Desk, url: str) -> str:
        python = desk.make_venv()
        desk.pip(new_pip, "install", *WANTED, PIP_INDEX_URL=url)
        assert desk.versions(list(TAKEN), python) == TAKEN
        desk.pip(new_pip, "download", "-d", "downloads", *WANTED, PIP_INDEX_URL=url)
        assert downloaded(desk, "downloads")
        desk.pip(new_pip, "lock", *WANTED, PIP_INDEX_URL=url)
        desk.pip(new_pip, "install", "--force-reinstall", "-r", "pylock.toml", PIP_INDEX_URL=url)
        assert desk.versions(list(TAKEN), python) == TAKEN
        assert right(locked_hashes(desk.read("pylock.toml")))
        return desk.read("pylock.toml")

    walk.go(errand)


def test_uv(walk: Walk) -> None:
    """uv pip install, pip compile, lock, and sync from the lock."""
    command = uv.find_uv_bin()

    def errand(desk: Desk, url: str) -> str:
        python = desk.make_venv()
        desk.run(command, "pip", "install", "--python", python, *WANTED, UV_DEFAULT_INDEX=url)
        assert desk.versions(list(TAKEN)) == TAKEN
        desk.write("wanted.in", "\n".join(WANTED))
        desk.run(command, "pip", "compile", "--generate-hashes", "wanted.in", "-o", "pinned.txt", UV_DEFAULT_INDEX=url)
        assert right(requirements_hashes(desk.read("pinned.txt")))
        desk.write_project(*WANTED)
        desk.run(command, "lock", UV_DEFAULT_INDEX=url)
        assert right({name: found & {HASHES[name]} for name, found in locked_hashes(desk.read("uv.lock")).items()})
        desk.run(command, "sync", "--locked", "--reinstall", UV_DEFAULT_INDEX=url)
        assert desk.versions(list(TAKEN)) == TAKEN
        return desk.read("uv.lock")

    walk.go(errand)


def test_poetry(walk: Walk, poetry: Tool) -> None:
    """lock, install, and add, with the proxy as its one source."""

    def errand(desk: Desk, url: str) -> str:
        desk.write_project(*WANTED, more="[tool.poetry]\npackage-mode = false\n")
        desk.run(poetry.command(), "source", "add", "--priority=primary", "cache", url)
        desk.run(poetry.command(), "lock")
        assert right(locked_hashes(desk.read("poetry.lock")))
        desk.run(poetry.command(), "install")
        assert desk.versions(list(TAKEN)) == TAKEN
        locked = desk.read("poetry.lock")
        said = desk.run(poetry.command(), "add", "delta")
        assert "Using version" in said
        assert desk.versions(list(TAKEN)) == TAKEN
        return locked

    walk.go(errand)


def test_pdm(walk: Walk, pdm: Tool) -> None:
    """lock, install, and add."""

    def errand(desk: Desk, url: str) -> str:
        desk.write_project(*WANTED)
        desk.run(pdm.command(), "lock", PDM_PYPI_URL=url)
        assert right(locked_hashes(desk.read("pdm.lock")))
        desk.run(pdm.command(), "install", "--no-self", PDM_PYPI_URL=url)
        assert desk.versions(list(TAKEN)) == TAKEN
        locked = desk.read("pdm.lock")
        desk.run(pdm.command(), "add", "--no-self", "delta", PDM_PYPI_URL=url)
        assert desk.versions(list(TAKEN)) == TAKEN
        return locked

    walk.go(errand)


def test_pipenv(walk: Walk, pipenv: Tool) -> None:
    """lock, and sync from the lock."""
    pipfile = """
[packages]
alpha = { version = ">=1", extras = ["fast"] }
many = ">=1"
"""

    def errand(desk: Desk, url: str) -> str:
        desk.write("Pipfile", pipfile)
        desk.run(pipenv.command(), "lock", PIPENV_PYPI_MIRROR=url)
        locked = desk.read("Pipfile.lock")
        found = json.loads(locked)["default"]
        assert right({name: set(package["hashes"]) for name, package in found.items()})
        desk.run(pipenv.command(), "sync", PIPENV_PYPI_MIRROR=url)
        assert desk.versions(list(TAKEN)) == TAKEN
        return locked

    walk.go(errand)


def test_hatch(walk: Walk, hatch: Tool) -> None:
    """An environment with dependencies, made by pip; one made by uv; and a lock."""
    more = """
[tool.hatch.envs.default]
skip-install = true
dependencies = ["alpha[fast]>=1", "many>=1"]
[tool.hatch.envs.quick]
installer = "uv"
"""
    show = "import alpha, beta, delta, many; print(*(each.VERSION for each in (alpha, beta, delta, many)))"

    def errand(desk: Desk, url: str) -> str:
        desk.write_project(more=more)
        for environment in ("default", "quick"):
            said = desk.run(
                hatch.command(), "-e", environment, "run", "python", "-c", show,
                PIP_INDEX_URL=url, UV_DEFAULT_INDEX=url,
            )  # fmt: skip
            assert said.splitlines()[-1].split() == list(TAKEN.values())
        desk.run(hatch.command(), "lock", "--export", "pylock.buyer.toml", PIP_INDEX_URL=url)
        assert right(locked_hashes(desk.read("pylock.buyer.toml")))
        return desk.read("pylock.buyer.toml")

    walk.go(errand)


def test_pip_tools(walk: Walk, pip_tools: Tool) -> None:
    """pip-compile with hashes, and pip-sync of what it wrote."""

    def errand(desk: Desk, url: str) -> str:
        desk.write("requirements.in", "\n".join(WANTED))
        desk.run(pip_tools.command(), "--generate-hashes", "--strip-extras", PIP_INDEX_URL=url)
        assert right(requirements_hashes(desk.read("requirements.txt")))
        desk.run(pip_tools.bin / "python", "-m", "venv", ".venv")
        desk.run(pip_tools.command("pip-sync"), "--python-executable", desk.python, PIP_INDEX_URL=url)
        assert desk.versions(list(TAKEN)) == TAKEN
        return desk.read("requirements.txt")

    walk.go(errand)
