"""The real proxy as a process: ``python -m proxy serve`` with a config file of the test's own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.harness.clocked import Clock
from tests.harness.preloaded import Forked
from tests.harness.walking import files_below

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0
# Lines of answers from memory are written together, this often at least (seconds; with room for a busy machine).
QUIET = 0.2
Settings = Mapping[str, Mapping[str, Any]]
Line = dict[str, Any]
Condition = Callable[[list[Line]], object]


def toml(
    settings: Settings, indexes: Sequence[Mapping[str, Any]], mounts: Sequence[Mapping[str, Any]] = ()
) -> str:
    """A config file: sections of strings, numbers, booleans and lists of them, ``[[index]]``, ``[[mount]]`` tables."""
    sections = [(f"[{name}]", section) for name, section in settings.items()]
    tables = [*sections, *(("[[index]]", index) for index in indexes), *(("[[mount]]", mount) for mount in mounts)]
    return "\n".join("\n".join([title, *map(_assignment, table.items())]) + "\n" for title, table in tables)


def _assignment(item: tuple[str, Any]) -> str:
    return f"{item[0]} = {json.dumps(item[1])}"  # JSON's spelling of these types is TOML's too


def _tables(sites: Mapping[str, str | Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    tables = ({"url": each} if isinstance(each, str) else each for each in sites.values())
    return [{"name": name, **table} for name, table in zip(sites, tables, strict=True)]


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would configure the proxy or lead around it."""
    unwanted = re.compile(r"PIPCACHEPROXY_.*|PIP_.*|(https?|all|no)_proxy|NETRC", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not unwanted.fullmatch(name)}
    return kept | {"PYTHONUNBUFFERED": "1", "NETRC": os.devnull} | dict(extra or {})


class ProxyServer:
    """A context manager: serving inside, killed (by its own id) outside.

    ``indexes`` maps names to upstream URLs or whole tables, the first is the default; none leaves the
    built-in default; ``mounts`` are the same for ``/raw/{name}/``. ``settings`` are merged over host, free port,
    the cache ``directory / "cache"`` and JSON logs; with ``tls_cert`` and ``tls_key`` in ``[server]`` it speaks HTTPS
    (see ``harness.certificates``).
    ``arguments`` follow ``serve``; ``prefix`` is put before the command the next time it starts (see ``harness.lan``).
    Without a prefix, and with no variable but our own, it is forked from a process that has imported it already (see
    ``harness.preloaded``); ``fresh`` runs an interpreter for it, as a user does.
    ``clock``: the wall clock that it goes by, which a test moves (see ``harness.clocked``).

    Once started: ``scheme``, ``host`` and ``port`` of the first address, ``addresses`` ("host:port") of all, and
    ``unix_socket`` as a path or None. Without TCP host is "" and port 0. ``fast_lane`` is for those whose settings say
    nothing of it (see the fixture ``lane``).
    """

    fast_lane = True

    def __init__(
        self,
        directory: Path,
        indexes: Mapping[str, str | Mapping[str, Any]] | None = None,
        *,
        mounts: Mapping[str, str | Mapping[str, Any]] | None = None,
        settings: Settings | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        fresh: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.directory = directory
        self.cache = directory / "cache"
        self.indexes = dict(indexes or {})
        self.mounts = dict(mounts or {})
        self.settings: dict[str, Mapping[str, Any]] = dict(settings or {})
        self.arguments = tuple(arguments)
        self.environment = dict(environment or {})
        self.fresh = fresh
        self.clock = clock
        self.prefix: tuple[str, ...] = ()
        self.scheme = "http"
        self.host = "127.0.0.1"
        self.port = 0
        self.addresses: list[str] = []
        self.unix_socket: Path | None = None
        self._process: subprocess.Popen[str] | Forked | None = None
        self._reader: threading.Thread | None = None
        self._lines: list[str] = []
        self._forgotten = 0
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Returns when the start line was read. Raises AssertionError with its stderr when it ended."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "config.toml"
        config.write_text(toml(self._settings(), _tables(self.indexes), _tables(self.mounts)))
        with self._changed:
            self._lines.clear()
            self._forgotten = 0
        self._process = self._spawned(["serve", "--config", str(config), *self.arguments])
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        self._await(lambda: self._started() is not None or self._ended())
        started = self._started()
        if started is None:
            self._finish()
            raise AssertionError(f"the proxy ended with {self._process.wait()}:\n{self.stderr}")
        self._learn(started)

    def kill(self) -> None:
        """SIGKILL, and waits for the end. Does nothing when it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self._finish()

    def terminate(self, timeout: float = 40.0) -> int:
        """SIGTERM; the exit code. Raises TimeoutExpired when it does not end within ``timeout`` seconds."""
        self.signal(signal.SIGTERM)
        code = self.process.wait(timeout)
        self._finish()
        return code

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal and does not wait."""
        self.process.send_signal(number)

    def restart(self, *, settings: Settings | None = None, arguments: Sequence[str] | None = None) -> None:
        """SIGTERM if it runs, and a start over the same cache directory; what is given replaces what was."""
        if self._process is not None and self._process.poll() is None:
            self.terminate()
        self.settings = self.settings if settings is None else dict(settings)
        self.arguments = self.arguments if arguments is None else tuple(arguments)
        self.start()

    @property
    def process(self) -> subprocess.Popen[str] | Forked:
        """The running process."""
        assert self._process is not None, "the proxy was not started"
        return self._process

    @property
    def url(self) -> str:
        """``http://host:port`` or ``https://host:port`` of the first address, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def index_url(self) -> str:
        """What PIP_INDEX_URL is set to."""
        return f"{self.url}/simple"

    @property
    def stderr(self) -> str:
        """Everything it wrote since it was last started."""
        with self._changed:
            return "".join(self._lines)

    def log_lines(self, event: str | None = "request") -> list[Line]:
        """The JSON log lines of one event, or of all; lines that are no JSON are left out."""
        lines = []
        with self._changed:
            remembered = self._lines[self._forgotten :]
        for text in remembered:
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict) and event in (None, line.get("event")):
                    lines.append(line)
        return lines

    def requests(self, prefix: str = "/") -> list[Line]:
        """Request lines whose path starts so, once no more come: a line is written after its answer has gone."""
        self._settle()
        return [line for line in self.log_lines() if str(line.get("path", "")).startswith(prefix)]

    def forget(self) -> None:
        """From here on ``log_lines`` begins with what comes next; ``stderr`` keeps everything."""
        with self._changed:
            self._forgotten = len(self._lines)

    def wait_for_log(self, condition: Condition, timeout: float = PATIENCE) -> list[Line]:
        """The log lines of all events, once the condition holds for them. AssertionError at the end."""
        self._await(lambda: bool(condition(self.log_lines(None))), timeout)
        return self.log_lines(None)

    def rss(self) -> int:
        """Resident memory now, in bytes (/proc, Linux only)."""
        return self._status("VmRSS")

    def peak_rss(self) -> int:
        """Most resident memory so far, in bytes (/proc, Linux only)."""
        return self._status("VmHWM")

    def stored(self) -> list[Path]:
        """Bodies of wheels and sdists on disk, without the database that lists them."""
        return sorted(path for path in files_below(self.cache / "wheels") if not path.name.startswith("cache.db"))

    def spooled(self) -> list[Path]:
        """What lies in ``incoming/``."""
        return sorted((self.cache / "incoming").iterdir())

    def file_url(self, location: str, index: str = "test") -> str:
        """The proxy's URL of a file; ``location`` is its upstream URL without the scheme."""
        return f"{self.url}/files/{index}/{location}"

    def _spawned(self, words: Sequence[str]) -> subprocess.Popen[str] | Forked:
        environment = clean_environment(self.environment)
        # What is for the interpreter or its libraries is read when these start, and not again.
        own = all(name.startswith(("PIPCACHEPROXY_", "FAILPOINT")) for name in self.environment)
        if own and not self.fresh and not self.prefix and self.clock is None:
            return Forked(words, cwd=ROOT, env=environment)
        command = ["proxy"] if self.clock is None else ["tests.harness.clocked", str(self.clock.path)]
        return subprocess.Popen(
            [*self.prefix, sys.executable, "-m", *command, *words],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
        )

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def _settings(self) -> Settings:
        defaults: dict[str, Mapping[str, Any]] = {
            "server": {"host": self.host or "127.0.0.1", "port": 0, "fast_lane": self.fast_lane},
            # Of 16 MiB each, those of all tests would fill a disk.
            "cache": {"dir": str(self.cache), "ballast": 0},
            "log": {"format": "json"},
        }
        names = [*defaults, *(name for name in self.settings if name not in defaults)]
        return {name: {**defaults.get(name, {}), **self.settings.get(name, {})} for name in names}

    def _started(self) -> Line | None:
        """The fields of the start line, those in its text when it is no JSON."""
        for line in self.log_lines("started"):
            return line
        found = re.search(r"PIP_INDEX_URL=(https?)://(\[[^\s\]/]+\]|[^\s:/]+):(\d+)/simple", self.stderr)
        return {"scheme": found[1], "host": found[2].strip("[]"), "port": found[3]} if found else None

    def _learn(self, line: Line) -> None:
        self.scheme, self.host, self.port = str(line["scheme"]), str(line["host"]), int(line["port"])
        self.addresses = list(line.get("addresses", []))
        self.unix_socket = Path(line["unix_socket"]) if line.get("unix_socket") else None

    def _ended(self) -> bool:
        return self._reader is not None and not self._reader.is_alive()

    def _read(self, process: subprocess.Popen[str] | Forked) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        process.wait()
        with self._changed:
            self._changed.notify_all()

    def _await(self, condition: Callable[[], bool], timeout: float = PATIENCE) -> None:
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"not seen within {timeout} s; the proxy said:\n{''.join(self._lines)}")
                self._changed.wait(min(left, 0.1))

    def _settle(self) -> None:
        ended = time.monotonic() + PATIENCE / 10
        with self._changed:
            while time.monotonic() < ended and self._changed.wait(QUIET):
                pass

    def _finish(self) -> None:
        if self._process is not None:
            self._process.wait(PATIENCE)
        if self._reader is not None:
            self._reader.join(PATIENCE)
        if self._process is not None and self._process.stderr is not None:
            self._process.stderr.close()
