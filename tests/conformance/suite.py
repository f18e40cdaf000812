"""Runs http-cache-tests: its origin server, the real proxy with a mount in front of it, its client and its judge."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from tests.harness.server import ProxyServer

HERE = Path(__file__).resolve().parent
INSTALLED = Path(sys.prefix) / "http-cache-tests"  # by the Makefile
# Not to hang for ever; the suite takes 20 seconds.
PATIENCE = 300.0
# Cases with a window of a second are 17. More disagree with the list only where something is broken, not slow.
SECOND_LOOKS = 25
# Nothing beyond RFC 9111, but RFC 5861 as a setting: what the suite asks about stale answers depends on it.
MOUNT = {
    "default_ttl": "0s",
    "stale_if_error": "60s",
    "stale_while_revalidate": "0s",
    "reload": "honour",
    "min_reload_interval": "0s",
    "pass_credentials": True,
}
# Some cases cut connections while a hundred others run: this is no sign that the origin is dead.
SETTINGS = {"limits": {"breaker_failures": 1_000_000}}


@dataclass(frozen=True, slots=True)
class Case:
    """One case and what the suite's own judge made of it; ``suite`` is its group, ``kind`` required, optimal or check,
    ``mark`` the judge's sign, ``detail`` what was seen instead."""

    id: str
    suite: str
    kind: str
    mark: str
    detail: str

    @property
    def passed(self) -> bool:
        """Whether it counts: a case that could not be judged does not."""
        return self.mark in ("✅", "Y")


@dataclass(frozen=True, slots=True)
class Outcome:
    """All cases in the suite's order, and the ids of those that were run twice."""

    cases: tuple[Case, ...]
    again: tuple[str, ...] = ()

    def of_kind(self, kind: str) -> list[Case]:
        """The cases of one kind."""
        return [case for case in self.cases if case.kind == kind]


def lacking() -> str | None:
    """What is missing to run the suite, or None."""
    if shutil.which("node") is None:
        return "node is not installed"
    if not (INSTALLED / "node_modules" / "http-cache-tests" / "cli.mjs").is_file():
        return "http-cache-tests is not installed: make conformance does that"
    return None


def conformance(directory: Path, failing: Collection[str]) -> Outcome:
    """The whole suite through a mount of a new proxy in ``directory``.

    A hundred cases run at a time, and some have windows of a second. Those that disagree with ``failing`` are therefore
    run once more, one after the other, and it is this second result that counts."""
    with origin() as url:
        mounts = {"suite": {"url": url, **MOUNT}}
        with ProxyServer(directory, {"unused": url}, mounts=mounts, settings=SETTINGS) as proxy:
            base = f"{proxy.url}/raw/suite"
            first, results = run(base)
            doubtful = to_run_again(first, failing)
            return Outcome(run(base, doubtful, results)[0] if doubtful else first, doubtful)


def to_run_again(cases: Sequence[Case], failing: Collection[str]) -> tuple[str, ...]:
    """The ids of what fails and is not in ``failing``, and of what is and passes; none where they are too many."""
    doubtful = [case.id for case in cases if case.kind != "check" and case.passed == (case.id in failing)]
    return tuple(doubtful) if len(doubtful) <= SECOND_LOOKS else ()


def run(
    base: str, ids: Sequence[str] | None = None, known: Mapping[str, Any] | None = None
) -> tuple[tuple[Case, ...], dict[str, Any]]:
    """All cases against ``base``, a URL without a slash at the end; or those named, one after the other, while for the
    others what is ``known`` stands. The judged cases, and the results as the suite writes them."""
    done = subprocess.run(
        ["node", "--no-warnings", str(HERE / "suite.mjs"), str(INSTALLED), base],
        input=json.dumps({"ids": ids, "known": known or {}}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"the suite ended with {done.returncode}:\n{done.stderr}"
    said = json.loads(done.stdout)
    return tuple(Case(**each) for each in said["cases"]), said["results"]


@contextmanager
def origin() -> Iterator[str]:
    """The suite's origin server on a free port, for as long as the context lasts; its URL, with a slash at the end."""
    with tempfile.TemporaryDirectory(prefix="origin") as directory:
        settings = {"port": "0", "protocol": "http", "pidfile": f"{directory}/pid"}
        process = subprocess.Popen(
            ["node", str(HERE / "origin.mjs"), str(INSTALLED)],
            env={**os.environ, **{f"npm_config_{name}": value for name, value in settings.items()}},
            cwd=INSTALLED,  # it serves the files below
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        with process.stdout:
            line = process.stdout.readline()
            # It says much, and would wait for a reader.
            reader = Thread(target=process.stdout.read, daemon=True)
            reader.start()
            try:
                listening = re.match(r"Listening on (http://127\.0\.0\.1:\d+/)", line)
                assert listening is not None, f"the suite's origin did not start: {line}"
                yield listening[1]
            finally:
                process.kill()
                process.wait()
                reader.join()
