"""A relay in front of the proxy that cuts one answer in the middle, so that a real client has to resume."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

PATIENCE = 20.0
PIECE = 64 * 1024


class Scissors:
    """A context manager: relays connections to ``host:port``. The first answer to a request whose head has
    ``word`` in it is cut once ``after`` bytes of it have passed; ``cuts`` counts."""

    def __init__(self, host: str, port: int, word: bytes, after: int) -> None:
        self.cuts = 0
        self._target = (host, port)
        self._word = word
        self._after = after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._ending = False
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        with contextlib.suppress(OSError), socket.create_connection(self._listener.getsockname(), PATIENCE):
            pass
        self._thread.join(PATIENCE)
        self._listener.close()
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        """Instead of the proxy's own."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._ending:
                client.close()
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(self._target, PATIENCE) as proxy:
            with self._lock:
                self._open |= {client, proxy}
            due = threading.Event()
            upward = threading.Thread(target=self._upward, args=(client, proxy, due), daemon=True)
            upward.start()
            self._downward(proxy, client, due)
            for each in (client, proxy):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            upward.join(PATIENCE)

    def _upward(self, client: socket.socket, proxy: socket.socket, due: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(PIECE):
                if self._word in data and self.cuts == 0:
                    due.set()
                proxy.sendall(data)

    def _downward(self, proxy: socket.socket, client: socket.socket, due: threading.Event) -> None:
        passed = 0
        while data := proxy.recv(PIECE):
            if due.is_set():
                data = data[: self._after - passed]
                passed += len(data)
            client.sendall(data)
            if due.is_set() and passed >= self._after:
                with self._lock:
                    self.cuts += 1
                return
