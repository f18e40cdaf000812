"""A forward proxy that forwards nothing: whatever a client asks of anybody but the loopback ends here, and is seen."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

PATIENCE = 20.0


class Tripwire:
    """A context manager. ``environment`` sends a client's requests here; ``caught`` has their first lines."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._caught: list[str] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._ending = False

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

    @property
    def environment(self) -> dict[str, str]:
        """What makes every HTTP client turn to it, in the two spellings that are in use."""
        here = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        said = {"http_proxy": here, "https_proxy": here, "all_proxy": here, "no_proxy": "127.0.0.1,localhost,::1"}
        return said | {name.upper(): value for name, value in said.items()}

    @property
    def caught(self) -> list[str]:
        """First lines of the requests that came: ``CONNECT example.com:443 HTTP/1.1``."""
        with self._lock:
            return list(self._caught)

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                if self._ending:
                    return
                connection.settimeout(PATIENCE)
                line = connection.recv(4096).partition(b"\r\n")[0].decode("latin-1")
                with self._lock:
                    self._caught.append(line)
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
