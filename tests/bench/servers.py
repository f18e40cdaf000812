"""The servers that are measured: the proxy, and a plain aiohttp server beside it. Each in a process of its own."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.harness.server import ROOT, clean_environment, toml
from tests.harness.upstream import Upstream

HOST = "127.0.0.1"
_PATIENCE = 60.0
_LOOK_EVERY = 0.001
_TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """A context manager: answering inside, killed (by its own id) outside. What it says goes to ``log``; ``ready`` is a
    path that it answers with 200 as soon as it can.

    ``first_answer`` is how many seconds went by from its spawn to its first answer.
    """

    def __init__(
        self,
        words: Sequence[str],
        port: int,
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        ready: str = "/healthz",
    ) -> None:
        self.port = port
        self.first_answer = 0.0
        self.log = log
        self._words = words
        self._environment = environment or {}
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # As when installed: compiled once, also where this process is told to leave no bytecode behind.
        bytecode = str(self.log.parent.parent / "bytecode")
        own = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode, **self._environment}
        with self.log.open("wb") as log:
            began = time.perf_counter()
            self._process = subprocess.Popen(
                self._words, cwd=ROOT, env=clean_environment(own), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        while not self._answers():
            if self._process.poll() is not None or time.perf_counter() - began > _PATIENCE:
                self.__exit__(None, None, None)
                raise RuntimeError(f"{self._words} does not answer:\n{self.log.read_text()[-2000:]}")
            time.sleep(_LOOK_EVERY)
        self.first_answer = time.perf_counter() - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def rss(self) -> int:
        """Resident memory now, in bytes."""
        return rss_of(self.pid)

    def peak_rss(self) -> int:
        """Most resident memory since the start, in bytes."""
        return _memory(self.pid, "VmHWM")

    def cpu(self) -> float:
        """Seconds of CPU used so far, user and system."""
        return cpu_of(self.pid)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=_PATIENCE)
        try:
            connection.request("GET", self._ready)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process used so far, user and system."""
    # proc(5): the second field may hold spaces, so count from its closing bracket.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_of(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    return _memory(pid, "VmRSS")


def _memory(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def proxy(directory: Path, upstream: Upstream, *prefix: str) -> Server:
    """The proxy over ``directory / "cache"``, its log in a file, the upstream as its index "test". ``prefix``: what the
    interpreter is told before that (see ``harness.unproven``)."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings: Mapping[str, Mapping[str, Any]] = {
        "server": {"host": HOST, "port": port},
        "cache": {"dir": str(directory / "cache")},
        "log": {"format": "json"},
    }
    config = directory / "config.toml"
    config.write_text(toml(settings, [{"name": "test", "url": upstream.url}]))
    words = [sys.executable, *prefix, "-m", "proxy", "serve", "--config", str(config)]
    return Server(words, port, directory / "proxy.log")


def plain(directory: Path) -> Server:
    """The server beside it, which serves the files of ``directory``; without a log."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    words = [sys.executable, "-m", "tests.bench.plain", HOST, str(port), str(directory)]
    return Server(words, port, directory / "plain.log")


def free_port() -> int:
    """One that was free just now."""
    with socket.create_server((HOST, 0)) as taken:
        port: int = taken.getsockname()[1]
    return port
