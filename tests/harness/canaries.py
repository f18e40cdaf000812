"""Listeners where nobody may be led to, and a name server that says what a test wants. For a network namespace
(``harness.lan``) that has their addresses."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from tests.harness.upstream import Port

PATIENCE = 20.0
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\ncanary"
_KINDS = {1: 4, 28: 6}
"""What a question asks for (RFC 1035 §3.2.2: A, RFC 3596: AAAA), and the version of the addresses that it wants."""


class Canaries:
    """A context manager that listens on each of these addresses and ports; whoever connects is counted, and gets an
    answer, so that he does not come again."""

    def __init__(self, addresses: Sequence[str], ports: Sequence[int]) -> None:
        self._ports: list[Port] = []
        for address in addresses:
            for number in ports:
                listener = Port(address, lambda connection, at=address: self._caught(connection, at))  # type: ignore[misc]  # bound
                listener.number = number
                self._ports.append(listener)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._running = ExitStack()

    def __enter__(self) -> Self:
        for each in self._ports:
            self._running.callback(each.close)
            each.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    @property
    def counts(self) -> Counter[str]:
        """Connections so far, for each address."""
        with self._lock:
            return Counter(self._counts)

    def _caught(self, connection: socket.socket, address: str) -> None:
        with self._lock:
            self._counts[address] += 1
        connection.settimeout(PATIENCE)
        said = b""
        while b"\r\n\r\n" not in said:
            if not (piece := connection.recv(65536)):
                return
            said += piece
        connection.sendall(_ANSWER)


class NameServer:
    """A context manager: DNS over UDP at 127.0.0.1:53. ``names`` (lower case, without the dot at the end) have the
    answers of one look-up after the other, the last for ever; each is addresses of both versions, with spaces between.
    Every other name does not exist."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self.names = dict(names)
        self._asked: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._socket.bind(("127.0.0.1", 53))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join(PATIENCE)
        self._socket.close()

    def looked_up(self, name: str) -> int:
        """How often that name was asked for, at least in one of the two kinds."""
        with self._lock:
            return max(self._asked[name, kind] for kind in _KINDS)

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(4096)
            if not question:
                return
            with suppress(OSError):
                self._socket.sendto(self._answer(question), client)

    def _answer(self, message: bytes) -> bytes:
        """RFC 1035 §4.1; the name in an answer is a pointer to the one in the question."""
        labels, at = [], 12
        while size := message[at]:
            labels.append(message[at + 1 : at + 1 + size].decode("latin-1").lower())
            at += size + 1
        question = message[12 : at + 5]
        (kind,) = struct.unpack("!H", message[at + 1 : at + 3])
        name = ".".join(labels)
        found = [ip_address(each).packed for each in self._next(name, kind).split()]
        records = [each for each in found if len(each) == {4: 4, 6: 16}.get(_KINDS.get(kind, 0))]
        flags = 0x8180 if name in self.names else 0x8183
        head = message[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0)
        answers = (struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(each)) + each for each in records)
        return head + question + b"".join(answers)

    def _next(self, name: str, kind: int) -> str:
        answers = self.names.get(name, [""])
        with self._lock:
            turn = self._asked[name, kind]
            self._asked[name, kind] += 1
        return answers[min(turn, len(answers) - 1)]
