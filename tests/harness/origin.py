"""The origin of a mount on raw sockets: it says line by line what a test wants, and writes down what it was asked;
and a proxy with mounts of it, asked in the same way."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tests.harness.exchange import Gate
from tests.harness.scrape import Scraped, parsed
from tests.harness.server import ProxyServer
from tests.harness.upstream import Port
from tests.harness.waiting import eventually
from tests.harness.walking import files_below
from tests.harness.world import fresh_name

PATIENCE = 20.0
PIECE = 64 * 1024
Lines = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Question:
    """One request as it came: ``lines`` in their order and spelling, a character for each octet. ``whole``: all of its
    body came."""

    method: str
    target: str
    lines: Lines
    body: bytes
    whole: bool

    def all(self, name: str) -> list[str]:
        """Every value of that field."""
        return [value for each, value in self.lines if each.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The values of that field, None when it is absent."""
        return ", ".join(self.all(name)) if self.all(name) else None


@dataclass(frozen=True, slots=True)
class Say:
    """An answer. ``lines`` go out as they are, with a Date before them unless they have one or ``dated`` is false.
    ``declared`` is the Content-Length that is said instead of the true one. It waits at ``held`` before the head, at
    ``gate`` after ``pause_after`` bytes of the body, and cuts the connection after ``stop_after``; ``before`` is called
    first, and ``interim`` sent."""

    status: int = 200
    lines: Lines = ()
    body: bytes = b""
    framing: Literal["length", "chunked", "close", "none"] = "length"
    declared: int | None = None
    dated: bool = True
    reason: str = "Fine"
    interim: bytes = b""
    before: Callable[[], object] | None = None
    held: Gate | None = None
    pause_after: int | None = None
    gate: Gate | None = None
    stop_after: int | None = None

    def head(self) -> bytes:
        """The status line and the lines."""
        fields = list(self.lines)
        if self.dated and "date" not in {name.lower() for name, _ in fields}:
            fields.insert(0, ("Date", formatdate(usegmt=True)))
        if self.framing == "chunked":
            fields.append(("Transfer-Encoding", "chunked"))
        elif self.framing == "length" and self.status not in (204, 304):
            fields.append(("Content-Length", str(len(self.body) if self.declared is None else self.declared)))
        elif self.framing == "close":
            fields.append(("Connection", "close"))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return f"HTTP/1.1 {self.status} {self.reason}\r\n{lines}\r\n".encode("latin-1")


def say(body: bytes | str = b"", control: str | None = None, *lines: tuple[str, str], **more: Any) -> Say:
    """An answer with that body, and that Cache-Control if any."""
    data = body.encode() if isinstance(body, str) else body
    fields = (*(() if control is None else (("Cache-Control", control),)), *lines)
    return Say(lines=fields, body=data, **more)


Step = Say | Callable[[Question], Say]
NOTHING = say("nothing here", "no-store", status=404)
HANG_UP = Say(status=0)
"""The connection is closed without a word."""


class Origin:
    """A context manager: listens inside. Paths that nobody scripted are answered with 404 and no-store."""

    def __init__(self) -> None:
        self._port = Port("127.0.0.1", self._converse)
        self._scripts: dict[str, deque[Step]] = {}
        self._questions: list[Question] = []
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._busy = 0

    def __enter__(self) -> Self:
        self._stopping.clear()
        self._port.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """As if it were killed; ``with`` makes it listen on the same port again."""
        self._stopping.set()
        self._port.close()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._port.number}"

    @property
    def url(self) -> str:
        """What goes into a ``[[mount]]``."""
        return f"http://{self.address}/base/"

    @property
    def busy(self) -> int:
        """Answers under way: of those that nobody reads the end never comes, unless their connection is closed."""
        with self._changed:
            return self._busy

    def script(self, rest: str, *steps: Step) -> None:
        """Requests for that path below the mount (no query) get these in turn, the last one for ever."""
        with self._changed:
            self._scripts[f"/base/{rest}"] = deque(steps)

    def asked(self, rest: str, method: str | None = None) -> list[Question]:
        """What came for that path below the mount, with any query."""
        with self._changed:
            found = [each for each in self._questions if each.target.partition("?")[0] == f"/base/{rest}"]
        return [each for each in found if method in (None, each.method)]

    def await_asked(self, rest: str, count: int) -> list[Question]:
        """The same, once so many came."""
        eventually(lambda: len(self.asked(rest)) >= count, f"{count} requests for {rest}")
        return self.asked(rest)

    def _converse(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection.makefile("rb") as reader:
            while (question := self._read(reader)) is not None:
                with self._changed:
                    self._busy += 1
                try:
                    if not self._answer(connection, question):
                        return
                finally:
                    with self._changed:
                        self._busy -= 1

    def _read(self, reader: Any) -> Question | None:
        words = reader.readline().decode("latin-1").split()
        if len(words) != 3:
            return None
        lines = []
        while (line := reader.readline().decode("latin-1").rstrip("\r\n")) != "":
            name, _, value = line.partition(":")
            lines.append((name, value.strip()))
        body, whole = self._body(reader, Question(words[0], words[1], lines, b"", True))
        question = Question(words[0], words[1], tuple(lines), body, whole)
        with self._changed:
            self._questions.append(question)
        return question

    def _body(self, reader: Any, head: Question) -> tuple[bytes, bool]:
        if head.header("transfer-encoding") is None:
            length = int(head.header("content-length") or 0)
            data: bytes = reader.read(length)
            return data, len(data) == length
        data = b""
        while (line := reader.readline()).strip():
            size = int(line, 16)
            data += reader.read(size)
            reader.readline()
            if size == 0:
                return data, True
        return data, False

    def _answer(self, connection: socket.socket, question: Question) -> bool:
        with self._changed:
            steps = self._scripts.get(question.target.partition("?")[0], deque([NOTHING]))
            step = steps[0] if len(steps) == 1 else steps.popleft()
        told = step if isinstance(step, Say) else step(question)
        if told.before is not None:
            told.before()
        if told.interim:
            connection.sendall(told.interim)
        if told.held is not None:
            told.held.pass_through(self._stopping)
        if told.status == 0:
            return False
        connection.sendall(told.head())
        if question.method == "HEAD" or told.status in (204, 304):
            return True
        stops = sorted({len(told.body)} | {each for each in (told.pause_after, told.stop_after) if each is not None})
        offset = 0
        for stop in stops:
            for start in range(offset, stop, PIECE):
                piece = told.body[start : min(start + PIECE, stop)]
                chunked = told.framing == "chunked"
                connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            offset = stop
            if stop == told.pause_after and told.gate is not None:
                told.gate.pass_through(self._stopping)
            if stop == told.stop_after:
                return False
        if told.framing == "chunked":
            connection.sendall(b"0\r\n\r\n")
        return told.framing != "close" and question.header("connection") != "close"


@dataclass(frozen=True, slots=True)
class Told:
    """What a client got: ``lines`` in order and spelling, a character for each octet; ``whole``: the body ended as its
    head said it would. Status 0: no head came."""

    status: int = 0
    reason: str = ""
    lines: Lines = ()
    body: bytes = b""
    whole: bool = False

    def all(self, name: str) -> list[str]:
        """Every value of that field."""
        return [value for each, value in self.lines if each.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The values of that field, None when it is absent."""
        return ", ".join(self.all(name)) if self.all(name) else None

    @property
    def cache(self) -> list[str]:
        """The parameters in our part of Cache-Status."""
        ours = (self.header("cache-status") or "").rpartition("pip-cache-proxy;")[2]
        return [each.strip() for each in ours.split(";")]

    @property
    def hit(self) -> bool:
        """Whether nobody was asked."""
        return "hit" in self.cache


def request(method: str, path: str, lines: Lines = (), body: bytes | None = None, version: str = "1.1") -> bytes:
    """A request as bytes, for a connection of its own."""
    fields = [("Host", "proxy.example"), *lines]
    if body is not None and "transfer-encoding" not in {name.lower() for name, _ in lines}:
        fields.append(("Content-Length", str(len(body))))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"{method} {path} HTTP/{version}\r\n{head}\r\n".encode("latin-1") + (body or b"")


def listen(connection: socket.socket, method: str) -> Told:
    """One response."""
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
    except (http.client.HTTPException, OSError):
        return Told()
    lines = tuple(response.getheaders())
    data, whole = b"", True
    try:
        while piece := response.read1(PIECE):
            data += piece
        whole = not response.length
    except (http.client.HTTPException, OSError):
        whole = False
    return Told(response.status, response.reason, lines, data, whole)


@dataclass(frozen=True, slots=True)
class Tree:
    """A running proxy, and the origin behind its mounts. Names are those of mounts, ``rest`` is below them."""

    proxy: ProxyServer
    origin: Origin
    mount: str = "tree"

    def on(self, mount: str) -> Tree:
        """The same, asked through another mount."""
        return Tree(self.proxy, self.origin, mount)

    def place(self, *steps: Step) -> str:
        """A path that nobody had before, scripted."""
        rest = f"{fresh_name('path')}.bin"
        self.origin.script(rest, *steps)
        return rest

    def connect(self) -> socket.socket:
        """A connection to the proxy."""
        return socket.create_connection((self.proxy.host, self.proxy.port), timeout=PATIENCE)

    def path(self, rest: str) -> str:
        """What the proxy is asked for."""
        return f"/raw/{self.mount}/{rest}"

    def ask(
        self, method: str, rest: str, *lines: tuple[str, str], body: bytes | None = None, version: str = "1.1"
    ) -> Told:
        """One request on a connection of its own."""
        with self.connect() as connection:
            connection.sendall(request(method, self.path(rest), lines, body, version))
            return listen(connection, method)

    def get(self, rest: str, *lines: tuple[str, str]) -> Told:
        """A GET."""
        return self.ask("GET", rest, *lines)

    def send(self, rest: str, *lines: tuple[str, str], method: str = "GET") -> socket.socket:
        """A request whose answer is read later."""
        connection = self.connect()
        connection.sendall(request(method, self.path(rest), lines))
        return connection

    def crowd(self, rest: str, clients: Sequence[Lines], gate: Gate, waiting: int | None = None) -> list[Told]:
        """All of them at once; the gate opens when the origin has the first request and so many wait for its answer,
        by default all others."""
        expected = len(clients) - 1 if waiting is None else waiting
        with ExitStack() as running:
            connections = [running.enter_context(self.send(rest, *lines)) for lines in clients]
            assert gate.reached.wait(PATIENCE)
            self.await_waiters(expected)
            gate.open()
            return [listen(connection, "GET") for connection in connections]

    def taken_up(self) -> None:
        """Return when the proxy has read all that was sent before: it reads in the order of arrival."""
        with self.connect() as connection:
            connection.sendall(request("GET", "/healthz"))
            assert listen(connection, "GET").status == 200

    def hit(self, rest: str, *lines: tuple[str, str]) -> Told:
        """The answer from the store, once it is kept."""
        found: list[Told] = []

        def kept() -> bool:
            found.append(self.get(rest, ("Cache-Control", "only-if-cached"), *lines))
            return found[-1].hit

        eventually(kept, f"{rest} is kept")
        return found[-1]

    def kept(self, rest: str) -> bool:
        """Whether any body of that name lies in the cache (paths of ``place`` are its names)."""
        return any(rest in path.name for path in files_below(self.proxy.cache / "mounts"))

    def settle(self, rest: str) -> None:
        """Return when the body is on the disk and its row committed: nothing of it is under way."""
        eventually(lambda: self.kept(rest), f"{rest} is kept")
        self.idle()

    def scraped(self) -> Scraped:
        """All metrics."""
        with self.connect() as connection:
            connection.sendall(request("GET", "/metrics"))
            told = listen(connection, "GET")
        return parsed(told.body.decode(), told.header("content-type") or "")

    def under_way(self) -> float:
        """Looks and fills that are under way, and who waits for them."""
        scraped = self.scraped()
        names = ("pipcacheproxy_fetches", "pipcacheproxy_waiters")
        return sum(scraped.sum(name, what=what) for name in names for what in ("raw", "fill"))

    def await_waiters(self, count: int) -> None:
        """Return when so many requests wait for somebody else's answer."""
        waiters = "pipcacheproxy_waiters"
        eventually(lambda: self.scraped().sum(waiters, what="raw") == count, f"{count} requests wait")

    def idle(self) -> None:
        """Return when nothing is under way."""
        eventually(lambda: self.under_way() == 0, "nothing is under way")

    def problem(self, told: Told) -> str:
        """What a problem document of ours says."""
        detail: str = json.loads(told.body)["detail"]
        return detail


@contextmanager
def tree(
    directory: Path,
    mounts: Mapping[str, Mapping[str, Any]] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> Iterator[Tree]:
    """A proxy with these mounts of one origin, "tree" among them; its breaker is off unless ``settings`` say so."""
    given = dict(settings or {})
    given["limits"] = {"breaker_failures": 1_000_000, "rest_max": "0s", **given.get("limits", {})}
    given["freshness"] = {"min_reload_interval": "0s", **given.get("freshness", {})}
    with ExitStack() as running:
        origin = running.enter_context(Origin())
        tables = {name: {"url": origin.url, **more} for name, more in {"tree": {}, **(mounts or {})}.items()}
        indexes = {"test": f"http://{origin.address}/simple/"}
        proxy = ProxyServer(directory, indexes, mounts=tables, settings=given, **options)
        running.enter_context(proxy)
        yield Tree(proxy, origin)
    print(f"--- what the proxy in {directory} said:\n{proxy.stderr[-20000:]}")
