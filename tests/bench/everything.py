"""``python -m tests.bench table`` writes RESULTS.md and results.svg; ``table-quick`` prints a short one."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from tests.bench import ideal, lives, peers, pressure, table
from tests.bench.figures import show
from tests.bench.report import chart, markdown
from tests.bench.verdicts import NGINX, Line

_HERE = Path(__file__).parent
_FULL = table.Length(repetitions=5, seconds=2, big=200 * 10**6, whole=True)
_QUICK = table.Length(repetitions=2, seconds=1, big=50 * 10**6)


def full(directory: Path) -> None:
    """Everything, written down."""
    lines, absent = _measured(directory, _FULL)
    facts = _facts("make bench", _FULL)
    (_HERE / "RESULTS.md").write_text(markdown(lines, facts, absent))
    (_HERE / "results.svg").write_text(chart(lines))
    show(markdown(lines, facts, absent))


def quick(directory: Path) -> None:
    """For information: what cannot be measured is said, and no figure fails."""
    lines, absent = _measured(directory, _QUICK)
    show(markdown(lines, _facts("python -m tests.bench table-quick", _QUICK), absent))


def _measured(directory: Path, length: table.Length) -> tuple[list[Line], Mapping[str, str]]:
    absent = {} if ideal.installed() else {NGINX: "it is not installed"}
    parts: dict[str, Callable[[Path, table.Length], table.Part]] = {"cold": table.cold, "bursts": table.bursts}
    if pressure.installed():
        parts = {"warm": table.warm, **parts}
    else:
        absent["warm answers"] = "wrk or taskset is not installed"
    if length.whole:
        parts |= {"starts": _starts, "clients": table.clients}
    lines: list[Line] = []
    for name, part in parts.items():
        (directory / name).mkdir()
        try:
            found, missing = part(directory / name, length)
            lines += found
            absent |= missing
        except (AssertionError, OSError, RuntimeError, table.Failed) as error:
            absent[name] = f"{type(error).__name__}: {str(error)[:200]}"
    return lines, absent


def _starts(scratch: Path, length: table.Length) -> table.Part:
    return lives.starts(scratch, length.repetitions), {}


def _facts(command: str, length: table.Length) -> Mapping[str, str]:
    versions = {"Python": platform.python_version(), "aiohttp": version("aiohttp")}
    versions |= {"nginx": ideal.version()} if ideal.installed() else {}
    versions |= {"wrk": pressure.version()} if pressure.installed() else {}
    if length.whole:
        versions |= {name: said for name in peers.NAMES if (said := peers.version(name))}
    return {
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}",
        "versions": ", ".join(f"{name} {said}" for name, said in versions.items()),
        "command": f"`{command}`: {length.repetitions} repetitions, wrk {length.seconds:g} s each, interleaved; "
        "wrk on the last core, the proxy and aiohttp on the first, nginx's two workers on both",
        "the proxy": "its defaults: log to a file, metrics, verification, walls",
    }
