"""Somebody's desk: a project directory, a HOME and empty caches, and commands run there as they would run them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.harness.clients import Pip, Result, client_environment, run

PROJECT = """\
[project]
name = "buyer"
version = "1"
requires-python = ">=3.11,<3.90"
dependencies = [{dependencies}]
"""
"""An upper bound, because Poetry wants to know that what it locks works for every Python the project allows."""


class Desk:
    """``environment`` holds what ``client_environment`` and ``extra`` say; ``prefix`` goes before every command.

    Python of the tests' own version is first on the PATH, for tools that look for one there.
    """

    def __init__(self, directory: Path, extra: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.prefix: tuple[str, ...] = ()
        self.project = directory / "project"
        self.project.mkdir(parents=True)
        self.environment = client_environment(directory / "home")
        # uv finds the environment by itself, as hatch relies on: told a Python, it would install into that one.
        del self.environment["UV_PYTHON"]
        path = f"{Path(sys.base_prefix) / 'bin'}:{self.environment['PATH']}"
        self.environment |= {
            "PATH": path,
            # pipenv and Poetry put environments elsewhere unless told; here tests look for them.
            "PIPENV_VENV_IN_PROJECT": "1",
            "POETRY_VIRTUALENVS_IN_PROJECT": "true",
            # Whether there is a newer PDM is asked of PyPI itself, whatever index is set.
            "PDM_CHECK_UPDATE": "false",
        }
        self.environment |= dict(extra or {})

    @property
    def python(self) -> Path:
        """The interpreter of the project's environment."""
        return self.project / ".venv" / "bin" / "python"

    def write(self, name: str, text: str) -> Path:
        """A file in the project."""
        path = self.project / name
        path.write_text(text)
        return path

    def read(self, name: str) -> str:
        """A file of the project."""
        return (self.project / name).read_text()

    def write_project(self, *dependencies: str, more: str = "") -> None:
        """A pyproject.toml with these dependencies; ``more`` is appended."""
        listed = ", ".join(f'"{each}"' for each in dependencies)
        self.write("pyproject.toml", PROJECT.format(dependencies=listed) + more)

    def make_venv(self) -> Path:
        """An empty environment at ``.venv``, for clients that do not make one."""
        self.run(sys.executable, "-m", "venv", "--without-pip", self.project / ".venv")
        return self.python

    def attempt(self, *words: str | Path, **environment: str) -> Result:
        """Runs a command in the project; the caller looks at the return code."""
        return run([*self.prefix, *words], self.environment | environment, cwd=self.project)

    def run(self, *words: str | Path, **environment: str) -> str:
        """Runs a command in the project; what it said. Raises AssertionError with that when it fails."""
        done = self.attempt(*words, **environment)
        assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}"
        return done.stdout

    def pip(self, pip: Pip, *words: str | Path, **environment: str) -> str:
        """This pip, which works on the project's environment."""
        return self.run(pip.python, "-m", "pip", "--python", self.python, *words, **environment)

    def versions(self, modules: Sequence[str], python: Path | None = None) -> dict[str, str]:
        """VERSION of each of these modules, imported in the project's environment (or by ``python``)."""
        said = self.run(
            self.python if python is None else python,
            # Two releases installed within a second look alike to what decides whether byte code is still good.
            "-B",
            "-c",
            f"import importlib\nfor name in {list(modules)}: print(importlib.import_module(name).VERSION)",
        )
        return dict(zip(modules, said.split(), strict=True))
