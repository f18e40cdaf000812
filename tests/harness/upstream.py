"""An upstream on raw sockets that does what a test says, and writes down what it was asked.

Two ports of one loopback address: the index, and the host its absolute file links lead to. ``name`` is what its URLs
call that address, if it has one. Without a script it is a polite index of ``upstream.index``; ``script`` gives a path
behaviours of its own.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from tests.harness.behaviours import Behaviour, Early, polite
from tests.harness.exchange import Exchange, RequestReader, Seen
from tests.harness.index import Index
from tests.harness.packages import Distribution

PATIENCE = 20.0


class Port:
    """One listening socket and its connections, each on its own thread. It reopens on the port it had. ``tls`` is what
    a connection begins with that is accepted now."""

    def __init__(self, address: str, converse: Callable[[socket.socket], None]) -> None:
        self.address = address
        self.number = 0
        self.tls: ssl.SSLContext | None = None
        self._converse = converse
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._accepting: threading.Thread | None = None
        self._wake: socket.socket | None = None

    def open(self) -> None:
        """Listens; connections are refused before and after."""
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        listener = socket.create_server((self.address, self.number), family=family, backlog=512)
        self.number = listener.getsockname()[1]
        woken, self._wake = socket.socketpair()
        self._accepting = threading.Thread(target=self._accept, args=(listener, woken), daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Refuses from now on, and ends every connection."""
        if self._wake is None or self._accepting is None:
            return
        self._wake.close()
        self._accepting.join(PATIENCE)
        self._wake = None
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket, woken: socket.socket) -> None:
        with listener, woken, selectors.DefaultSelector() as ready:
            ready.register(listener, selectors.EVENT_READ)
            ready.register(woken, selectors.EVENT_READ)
            while all(key.fileobj is listener for key, _ in ready.select()):
                connection, _ = listener.accept()
                if self.tls is not None:
                    with contextlib.suppress(OSError):  # it is gone already, and says so to who reads from it
                        connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                with self._lock:
                    self._connections.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._converse(connection)
        finally:
            with self._lock:
                self._connections.discard(connection)


class Upstream:
    """A context manager: listens inside, refuses outside. Everything on it may be used from any thread."""

    def __init__(
        self,
        *distributions: Distribution,
        address: str = "127.0.0.1",
        index: Index | None = None,
        name: str | None = None,
    ) -> None:
        self.distrusted = 0
        """Connections that ended because of the certificate."""
        self._name = address if name is None else name
        self.index = Index() if index is None else index
        self.index.distributions = [*self.index.distributions, *distributions]
        self.connections = 0
        self.default: Behaviour = polite
        """What paths without a script get."""
        self.now: Callable[[], float] = time.time
        """What its Date says, in seconds since the epoch."""
        self._site = Port(address, lambda connection: self._converse(connection, self._site))
        self._files = Port(address, lambda connection: self._converse(connection, self._files))
        self._scripts: dict[str, deque[Behaviour]] = {}
        self._log: list[Seen] = []
        self._changed = threading.Condition(threading.RLock())
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listens, on the ports it had before if it had any."""
        self._stopping = threading.Event()
        self._site.open()
        self._files.open()
        self.index.site_url, self.index.files_url = self.origin, self.files_url

    def stop(self) -> None:
        """As if it were killed: ends every connection, refuses new ones. A behaviour may call it."""
        self._stopping.set()
        self._site.close()
        self._files.close()

    def secure(self, tls: ssl.SSLContext) -> None:
        """From the next connection on it speaks TLS, with that certificate."""
        self._site.tls = self._files.tls = tls

    @property
    def ports(self) -> tuple[int, int]:
        """Of the index, and of the file host."""
        return self._site.number, self._files.number

    @property
    def origin(self) -> str:
        """Of the index: scheme, host and port."""
        return f"{self._scheme(self._site)}://{self._host(self._site)}"

    @property
    def url(self) -> str:
        """What goes into an ``[[index]]``."""
        return f"{self.origin}/simple/"

    @property
    def files_url(self) -> str:
        """Origin of the file host."""
        return f"{self._scheme(self._files)}://{self._host(self._files)}"

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopping.is_set()

    def location(self, distribution: Distribution) -> str:
        """What follows ``/files/{index}/`` at the proxy: the file's URL without its scheme."""
        return self.index.url_of(distribution).partition("://")[2]

    def path_of(self, distribution: Distribution) -> str:
        """The path the upstream itself is asked for the file; what ``script`` and ``count`` want."""
        return f"/packages/{distribution.project}/{distribution.filename}"

    def script(self, path: str, *behaviours: Behaviour) -> None:
        """Requests for this path (no query) get these in turn, the last one for ever; none: polite again."""
        with self._changed:
            self._scripts.pop(path, None)
            if behaviours:
                self._scripts[path] = deque(behaviours)

    @property
    def log(self) -> list[Seen]:
        """Everything asked so far, in order of arrival."""
        with self._changed:
            return list(self._log)

    def count(self, method: str | None = None, path: str | None = None) -> int:
        """Requests of this method and path (without query); None means any."""
        return sum(method in (None, each.method) and path in (None, each.path) for each in self.log)

    def asked(self, prefix: str) -> list[Seen]:
        """Requests whose path starts so: ``/packages/`` for files, ``/simple/`` for pages."""
        return [each for each in self.log if each.path.startswith(prefix)]

    def forget(self) -> None:
        """Empties the log."""
        with self._changed:
            self._log.clear()

    def wait_for(self, condition: Callable[[Sequence[Seen]], bool], timeout: float = PATIENCE) -> list[Seen]:
        """The log, once the condition holds for it. Raises AssertionError after ``timeout`` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self._log), timeout):
                raise AssertionError(f"not seen within {timeout} s; seen: {self._log}")
            return list(self._log)

    def _host(self, port: Port) -> str:
        return f"[{self._name}]:{port.number}" if ":" in self._name else f"{self._name}:{port.number}"

    def _scheme(self, port: Port) -> str:
        return "http" if port.tls is None else "https"

    def _converse(self, connection: socket.socket, port: Port) -> None:
        with self._changed:
            self.connections += 1
        if isinstance(connection, ssl.SSLSocket):
            try:
                connection.do_handshake()
            except ssl.SSLError:
                with self._changed:
                    self.distrusted += 1
                raise
        reader = RequestReader(connection)
        while (seen := reader.next(port.number)) is not None:
            with self._changed:
                self._log.append(seen)
                behaviour = self._behaviour(seen.path)
                self._changed.notify_all()
            if not isinstance(behaviour, Early):
                seen.body = reader.body(seen)
            exchange = Exchange(
                connection,
                seen,
                polite=self.index.reply(seen),
                stopping=self._stopping,
                changed=self._changed,
                now=self.now,
            )
            try:
                behaviour(exchange)
                seen.complete = exchange.ending == "keep" and not self._stopping.is_set()
            finally:
                with self._changed:
                    seen.done = True
                    self._changed.notify_all()
            if exchange.ending != "keep" or seen.headers.get("connection", "").lower() == "close":
                return

    def _behaviour(self, path: str) -> Behaviour:
        scripted = self._scripts.get(path)
        if scripted is None:
            return self.default
        return scripted[0] if len(scripted) == 1 else scripted.popleft()
