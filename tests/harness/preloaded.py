"""A server that is forked from a process which has imported it already: the same program, and a second less to start.

Imports are most of what a start costs, and tests start a thousand servers. `multiprocessing`'s forkserver is one such
process for each process of tests; it runs no code of ours but imports.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TextIO

# `serve` imports the other ones when it is called.
MODULES = ("proxy.cli", "proxy.config", "proxy.app", "proxy.core.judge")
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(MODULES))


class Forked:
    """``main(arguments)`` of the command in a process of its own, with the part of subprocess.Popen that tests use."""

    def __init__(self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        said, saying = _context.Pipe(duplex=False)
        self._process = _context.Process(target=_run, args=(list(arguments), str(cwd), dict(env), saying), daemon=True)
        self._process.start()
        saying.close()
        self.stderr: TextIO | None = os.fdopen(os.dup(said.fileno()), "r", errors="backslashreplace")
        said.close()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """The exit code, negative for a signal's number; None while it runs."""
        # Two threads would read the code, and the second one gets none.
        with self._lock:
            self.returncode = self._process.exitcode
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once there is one. Raises subprocess.TimeoutExpired after so many seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired("pip-cache-proxy", timeout or 0.0)
            wait([self._process.sentinel], 0.2)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], cwd: str, env: dict[str, str], saying: Connection) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    os.dup2(saying.fileno(), sys.__stderr__.fileno() if sys.__stderr__ is not None else 2)
    saying.close()
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)
    sys.argv = ["pip-cache-proxy", *arguments]
    # Imported by its name: pickled as an argument it would be looked for before the fork.
    sys.exit(import_module("proxy.cli").main(arguments))
