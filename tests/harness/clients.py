"""Real installers in fresh environments: nothing of the machine's configuration or caches gets in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uv

from tests.harness.server import ProxyServer
from tests.harness.upstream import Upstream

PATIENCE = 300.0
OURS = "pip-cache-proxy"
Result = subprocess.CompletedProcess[str]
Words = Sequence[str]
_QUIET = ("--disable-pip-version-check", "--no-input")


@dataclass(frozen=True, slots=True)
class Pip:
    """An environment's interpreter whose pip is of a known version."""

    python: Path
    version: str


def client_environment(home: Path) -> dict[str, str]:
    """Its own HOME, XDG directories and caches; of the machine only PATH, locale and CA variables.

    What an empty HOME does not keep out is switched off by name: pip also reads files beside the interpreter
    and in /etc.
    """
    kept = re.compile(r"PATH|LANG|LC_ALL|TMPDIR|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE")
    environment = {name: value for name, value in os.environ.items() if kept.fullmatch(name)}
    for name in ("config", "cache", "data", "state"):
        (home / name).mkdir(parents=True, exist_ok=True)
        environment[f"XDG_{name.upper()}_HOME"] = str(home / name)
    return environment | {
        "HOME": str(home),
        "NETRC": os.devnull,
        "PIP_CONFIG_FILE": os.devnull,
        "UV_NO_CONFIG": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_PYTHON": sys.executable,
    }


def run(command: Sequence[str | Path], environment: Mapping[str, str], cwd: Path | None = None) -> Result:
    """The finished process, stdout and stderr together in ``stdout``."""
    return subprocess.run(
        [str(word) for word in command],
        env=dict(environment),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=PATIENCE,
        check=False,
    )


class Fresh:
    """An empty virtual environment, an empty HOME and empty client caches below ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.environment = client_environment(self.home)
        self.venv = directory / "venv"
        made = run([sys.executable, "-m", "venv", "--without-pip", self.venv], self.environment)
        assert made.returncode == 0, made.stdout
        self.python = self.venv / "bin" / "python"

    def empty_caches(self) -> None:
        """A new HOME: the next client run has nothing cached."""
        number = len(list(self.directory.glob("home*")))
        self.home = self.directory / f"home{number}"
        self.environment = client_environment(self.home)

    def version_of(self, module: str) -> str:
        """``module.VERSION`` as the environment imports it; raises AssertionError when it cannot."""
        done = run([self.python, "-c", f"import {module}; print({module}.VERSION)"], self.environment)
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()


def pip_install(pip: Pip, fresh: Fresh, index_url: str, *requirements: str, extra: Words = ()) -> Result:
    """``pip install`` of this pip into the fresh environment."""
    command: list[str | Path] = [pip.python, "-m", "pip", *_QUIET, "--python", fresh.python, "install"]
    return run([*command, "--index-url", index_url, *extra, *requirements], fresh.environment)


def pip_download(pip: Pip, fresh: Fresh, index_url: str, *requirements: str, extra: Words = ()) -> Result:
    """``pip download`` into ``fresh.directory / "downloads"``."""
    command: list[str | Path] = [pip.python, "-m", "pip", *_QUIET, "download", "--index-url", index_url]
    return run([*command, "-d", fresh.directory / "downloads", *extra, *requirements], fresh.environment)


def uv_install(fresh: Fresh, index_url: str, *requirements: str, extra: Words = ()) -> Result:
    """``uv pip install`` into the fresh environment."""
    command: list[str | Path] = [uv.find_uv_bin(), "pip", "install", "--python", fresh.python]
    return run([*command, "--index-url", index_url, *extra, *requirements], fresh.environment)


def uv_lock(fresh: Fresh, index_url: str, *requirements: str, extra: Words = ()) -> Result:
    """``uv lock`` of a project with these dependencies; leaves ``project/uv.lock`` in ``fresh.directory``."""
    project = fresh.directory / "project"
    project.mkdir(exist_ok=True)
    (project / "pyproject.toml").write_text(
        f'[project]\nname = "locked"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = {list(requirements)}\n'
    )
    command: list[str | Path] = [uv.find_uv_bin(), "lock", "--default-index", index_url, *extra]
    return run(command, fresh.environment, cwd=project)


@dataclass(frozen=True, slots=True)
class Installer:
    """One of the clients, by the name a test's id shows; ``pip`` is None for uv."""

    name: str
    pip: Pip | None

    def install(self, fresh: Fresh, index_url: str, *requirements: str, extra: Words = ()) -> Result:
        """Installs into the fresh environment; the caller looks at the return code."""
        if self.pip is None:
            return uv_install(fresh, index_url, *requirements, extra=extra)
        return pip_install(self.pip, fresh, index_url, *requirements, extra=extra)


def make_pip(directory: Path, requirement: str) -> Pip:
    """An environment with this pip, fetched with the machine's own configuration: it is not under test.

    Raises AssertionError with pip's words when it cannot be had.
    """
    run([sys.executable, "-m", "venv", "--without-pip", directory], os.environ)
    python = directory / "bin" / "python"
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--upgrade",
        requirement,
    ]
    done = run(command, os.environ)
    assert done.returncode == 0, done.stdout
    said = run([python, "-m", "pip", "--version"], client_environment(directory / "home"))
    return Pip(python, said.stdout.split()[1])


def file_names(lines: Sequence[Mapping[str, object]]) -> set[str]:
    """File names among answered requests of the proxy's log."""
    good = (line for line in lines if line.get("status") in (200, 206))
    paths = (str(line.get("path", "")) for line in good)
    return {path.rpartition("/")[2] for path in paths if path.startswith("/files/")}


def installed_through(proxy: ProxyServer, upstream: Upstream | None, files: Sequence[str]) -> None:
    """Asserts that the proxy's log names each file, and that nobody but the proxy asked the upstream."""
    wanted = set(files)
    proxy.wait_for_log(lambda lines: wanted <= file_names(lines))
    if upstream is not None:
        agents = {each.headers.get("user-agent", "") for each in upstream.log}
        assert all(agent.startswith(OURS) for agent in agents), f"asked by others: {agents}"
