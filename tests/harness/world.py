"""A proxy and its upstreams that many tests share: each test takes projects of its own and asks through short words."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tests.harness.behaviours import Behaviour
from tests.harness.exchange import Gate, Seen
from tests.harness.fetch import Fetched, fetch
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, blob
from tests.harness.server import ProxyServer, Settings
from tests.harness.upstream import Upstream

HTML = "text/html"
AS_JSON = {"Accept": JSON_V1}
PATIENCE = 20.0
SMALL, BIG = 60_000, 300_000
"""Bytes: the larger one is more than the 64 KiB that are held back, so that a status line has left before the end of it
is known."""
_numbers = count()


def fresh_name(kind: str = "project") -> str:
    """A project name that nobody had before, so that tests which share a proxy do not meet."""
    return f"{kind}-{next(_numbers)}"


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back on a raw connection: ``reset`` when it ended with RST; ``status`` 0 when no head came.
    Header names are lower-case, ``body`` is all that followed the head."""

    data: bytes
    reset: bool
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def heard(data: bytes, reset: bool) -> Heard:
    """The bytes of a connection, read as one response."""
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    words = line.split(" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        return Heard(data, reset)
    pairs = (each.partition(":") for each in fields)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return Heard(data, reset, int(words[1]), headers, body)


def right(got: Fetched, file: Distribution) -> bool:
    """Whether it is the whole file."""
    return (got.status, got.complete, got.sha256) == (200, True, file.sha256)


def listen(connection: socket.socket, begun: bytes = b"") -> Heard:
    """Everything until the connection ends."""
    data, reset = begun, False
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionError:
        reset = True
    return heard(data, reset)


@dataclass(frozen=True, slots=True)
class World:
    """A running proxy, and the upstream behind its index "test"."""

    proxy: ProxyServer
    upstream: Upstream

    def get(self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET", **how: Any) -> Fetched:
        """A request to the proxy; ``path`` begins with a slash."""
        return fetch(f"{self.proxy.url}{path}", headers, method, **how)

    def page(self, project: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Fetched:
        """The project's page below ``/simple/``, as JSON unless an Accept says otherwise."""
        return self.get(f"/simple/{project}/", {**AS_JSON, **(headers or {})}, method)

    def path_of(self, file: Distribution, suffix: str = "", index: str = "test") -> str:
        """The file's path at the proxy."""
        return f"/files/{index}/{self.upstream.location(file)}{suffix}"

    def file(
        self, file: Distribution, headers: Mapping[str, str] | None = None, method: str = "GET", suffix: str = ""
    ) -> Fetched:
        """The file, or with ``suffix`` its metadata, through the proxy."""
        return self.get(self.path_of(file, suffix), headers, method)

    def publish(self, *files: Distribution) -> Distribution:
        """Puts files into the upstream's index; the first of them."""
        self.upstream.index.add(*files)
        return files[0]

    def cold(self, size: int = BIG) -> Distribution:
        """A new file of that size that nobody asked for yet; its page was looked at."""
        name = fresh_name("blob")
        made = self.publish(blob(name, size=size, seed=len(name)))
        assert self.page(name).status == 200
        return made

    def script(self, project: str, *behaviours: Behaviour) -> None:
        """What the upstream does with requests for that project's page."""
        self.upstream.script(f"/simple/{project}/", *behaviours)

    def script_file(self, file: Distribution, *behaviours: Behaviour, suffix: str = "") -> None:
        """What the upstream does with requests for that file."""
        self.upstream.script(self.upstream.path_of(file) + suffix, *behaviours)

    def page_requests(self, project: str) -> list[Seen]:
        """What the upstream was asked for that page."""
        return [each for each in self.upstream.log if each.path == f"/simple/{project}/"]

    def file_requests(self, file: Distribution, suffix: str = "") -> list[Seen]:
        """What the upstream was asked for that file."""
        return [each for each in self.upstream.log if each.path == self.upstream.path_of(file) + suffix]

    def kept(self, file: Distribution) -> bool:
        """Whether the file lies on the cache's disk; its row, which makes it a hit, may follow a moment later."""
        return file.filename in [path.name for path in self.proxy.stored()]

    def line(self, answer: Fetched) -> dict[str, Any]:
        """The log line of an answer that is a problem document."""
        wanted = json.loads(answer.body)["request_id"]
        lines = self.proxy.wait_for_log(lambda lines: wanted in [each.get("request_id") for each in lines])
        return next(each for each in lines if each.get("request_id") == wanted)

    def connect(self) -> socket.socket:
        """A raw connection to the proxy."""
        return socket.create_connection((self.proxy.host, self.proxy.port), timeout=PATIENCE)

    def all_at_once(
        self, path: str, number: int, gate: Gate, headers: Sequence[str] = (), method: str = "GET"
    ) -> list[Heard]:
        """So many answers to the same request; the gate opens once the proxy has taken up all of them."""
        fields = "".join(f"{each}\r\n" for each in headers)
        request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n".encode()
        with ExitStack() as open_ones, ThreadPoolExecutor(number) as pool:
            connections = [open_ones.enter_context(self.connect()) for _ in range(number)]
            for connection in connections:
                connection.sendall(request)
            assert gate.reached.wait(PATIENCE)
            # Read in the order of arrival: an answer to this means that those before it are under way.
            assert self.get("/healthz").status == 200
            jobs = [pool.submit(listen, connection) for connection in connections]
            gate.open()
            return [job.result() for job in jobs]

    def say(self, request: bytes | str) -> Heard:
        """Raw bytes to the proxy, and all it says until it closes."""
        with self.connect() as connection:
            connection.sendall(request if isinstance(request, bytes) else request.encode("latin-1"))
            return listen(connection)


@contextmanager
def world(
    directory: Path, settings: Settings | None = None, others: Mapping[str, Upstream] | None = None, **options: Any
) -> Iterator[World]:
    """Runs an upstream as index "test", ``others`` beside it, and a proxy in front of them, whose breaker is off
    unless ``settings`` say otherwise: tests that share an upstream must not meet in its failures. ``indexes`` and
    ``mounts`` are called with that upstream, and give tables of more."""
    given = dict(settings or {})
    given["limits"] = {"breaker_failures": 1_000_000, "rest_max": "0s", **given.get("limits", {})}
    with ExitStack() as running:
        upstream = running.enter_context(Upstream())
        more = {name: running.enter_context(other).url for name, other in (others or {}).items()}
        extra = options.pop("indexes", None)
        indexes = {"test": upstream.url, **more, **(extra(upstream) if extra is not None else {})}
        mounts = options.pop("mounts", None)
        tables = None if mounts is None else mounts(upstream)
        proxy = ProxyServer(directory, indexes, mounts=tables, settings=given, **options)
        running.enter_context(proxy)
        yield World(proxy, upstream)
    print(f"--- what the proxy in {directory} said:\n{proxy.stderr[-20000:]}")
