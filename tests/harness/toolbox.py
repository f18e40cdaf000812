"""Poetry, PDM, pipenv, hatch and pip-tools, each in an environment of its own, fetched as a session needs them."""

from __future__ import annotations

import os
import sys
import venv
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness.clients import run

TOOLS: Mapping[str, tuple[str, str]] = {
    # Below these versions they speak otherwise; above them a new major version may.
    "poetry": ("poetry", "poetry>=2.1,<3"),
    # With the dependencies its authors tested: of 2.29.3 alone, the newest hishel makes a program that does not start.
    "pdm": ("pdm", "pdm[locked]>=2.29,<3"),
    # Versions are years.
    "pipenv": ("pipenv", "pipenv>=2025"),
    # From 1.17 on it has `hatch lock`.
    "hatch": ("hatch", "hatch>=1.17,<2"),
    "pip_tools": ("pip-compile", "pip-tools>=7.5,<8"),
}
"""By the name of their fixture: a command that proves that it is there, and what to install."""


@dataclass(frozen=True, slots=True)
class Tool:
    """An installed client: ``bin`` holds its commands and its interpreter."""

    name: str
    bin: Path

    def command(self, name: str | None = None) -> Path:
        """Its command of that name; without one, the one it is called by."""
        return self.bin / (TOOLS[self.name][0] if name is None else name)


class Toolbox:
    """A context manager that installs tools on threads, with the machine's own pip configuration: what fetches
    them is not under test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._threads = ThreadPoolExecutor(len(TOOLS))
        self._tools: dict[str, Future[Tool]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def begin(self, names: Iterable[str]) -> None:
        """Starts installing these, unless it has."""
        for name in names:
            if name not in self._tools:
                self._tools[name] = self._threads.submit(self._install, name)

    def tool(self, name: str) -> Tool:
        """The tool, once it is there. Raises AssertionError with pip's words when it cannot be had."""
        self.begin([name])
        return self._tools[name].result()

    def _install(self, name: str) -> Tool:
        directory = self.directory / name
        venv.create(directory, symlinks=True)
        command: list[str | Path] = [sys.executable, "-m", "pip", "--python", directory / "bin" / "python", "install"]
        # Not compiled: most of a tool's modules are never imported here.
        done = run([*command, "--quiet", "--no-compile", "--disable-pip-version-check", TOOLS[name][1]], os.environ)
        made = Tool(name, directory / "bin")
        assert done.returncode == 0, done.stdout
        assert made.command().exists(), f"{name} has no command {made.command()}"
        return made
