"""Real clients: uv resolves a tree of 115 packages, pip installs a few of them, cold and warm, through each side."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping

import uv

from tests.bench.verdicts import NGINX, OURS, Bound, Line
from tests.harness.packages import Distribution, wheel
from tests.harness.server import clean_environment
from tests.harness.upstream import Upstream

PACKAGES, FEW = 115, 7
DIRECT = "direct"
_WITHIN = 300.0


def lines(sides: Mapping[str, str], upstream: Upstream, repetitions: int) -> list[Line]:
    """``sides``: where each has a project's page, with {} for its name; `DIRECT` is the upstream itself. Each
    repetition has packages of its own."""
    found = [defaultdict[str, list[float]](list) for _ in range(4)]
    # All of them before anybody is asked: a peer may look at the list of projects once and then keep to it.
    upstream.index.add(*(_package(number, each) for number in range(repetitions) for each in range(PACKAGES)))
    for number in range(repetitions):
        for name, page in sides.items():
            index = page.removesuffix("{}/")
            for into, command in zip(found, 2 * [_resolve] + 2 * [_install], strict=True):
                into[name].append(command(index, number))
    cold, warm, first, again = found
    others = [Bound(1.0, name) for name in sides if name not in (OURS, NGINX, DIRECT)]
    resolved, installed = f"uv resolves {PACKAGES} packages", f"pip installs {FEW} packages"
    return [
        Line(f"{resolved}, cold", "s", False, (Bound(1.2, DIRECT), *others), (Bound(1.05, DIRECT),), cold),
        Line(f"{resolved}, warm", "s", False, (Bound(1.1), *others), (Bound(1.0),), warm),
        # The first of them finds the pages and metadata that uv asked for, and no file.
        Line(f"{installed}, no file cached", "s", False, (), (), first),
        Line(f"{installed}, warm", "s", False, (), (), again),
    ]


def _name(number: int, each: int) -> str:
    return f"tree{number}-{each}"


def _package(number: int, each: int) -> Distribution:
    """A node of a binary tree, which needs its two children."""
    children = [child for child in (2 * each + 1, 2 * each + 2) if child < PACKAGES]
    return wheel(_name(number, each), requires=[_name(number, child) for child in children], padding=20_000)


def _resolve(index: str, number: int) -> float:
    """Seconds, with nothing in uv's own cache."""
    with tempfile.TemporaryDirectory(prefix="pip-cache-proxy-uv-") as place:
        words = [uv.find_uv_bin(), "pip", "compile", "--quiet", "--no-config", "--python", sys.executable]
        words += ["--cache-dir", place, "--default-index", index, "-"]
        return _timed(words, f"{_name(number, 0)}\n", PACKAGES)


def _install(index: str, number: int) -> float:
    """Seconds, with nothing in pip's own cache."""
    with tempfile.TemporaryDirectory(prefix="pip-cache-proxy-pip-") as place:
        words = [sys.executable, "-m", "pip", "--isolated", "install", "--quiet", "--no-cache-dir", "--no-deps"]
        words += ["--disable-pip-version-check", "--target", place, "--index-url", index]
        return _timed([*words, *(_name(number, each) for each in range(FEW))], "", 0)


def _timed(words: list[str], said: str, least: int) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        words, input=said, stdout=subprocess.PIPE, text=True, check=True, timeout=_WITHIN, env=clean_environment()
    )
    took = time.perf_counter() - began
    found = [line for line in done.stdout.splitlines() if "==" in line]
    assert len(found) == least, done.stdout
    return took
