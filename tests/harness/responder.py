"""An upstream on raw sockets in the test's own event loop: each request gets the next answer, bytes or a conversation.

For tests of the client alone; ``upstream`` is the one that a server in another process asks.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Answer = bytes | Conversation
Serve = Callable[..., Awaitable["Responder"]]

PATIENCE = 20.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Responder:
    """Answers the n-th request with the n-th answer, the last one again and again. ``requests`` are the heads as they
    came. Bytes are sent when the body of the request is there, which goes to ``uploads``; conversations ``take`` it
    themselves."""

    def __init__(self, answers: tuple[Answer, ...]) -> None:
        self.answers = answers
        self.requests: list[bytes] = []
        self.uploads: list[bytes] = []
        self.connections = 0
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
                if isinstance(answer, bytes):
                    await self.take(reader)
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def take(self, reader: asyncio.StreamReader) -> None:
        """Read the body of the last request, as it is framed. Raises IncompleteReadError for one that is cut."""
        head = self.requests[-1].lower()
        if b"\r\ntransfer-encoding: chunked\r\n" in head:
            self.uploads.append(b"")
            while size := int(await reader.readuntil(b"\r\n"), 16):
                self.uploads[-1] += (await reader.readexactly(size + 2))[:-2]
            assert await reader.readexactly(2) == b"\r\n"
        elif b"\r\ncontent-length: " in head:
            length = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
            self.uploads.append(await reader.readexactly(length))

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def paths(self) -> list[str]:
        return [request.split(b" ")[1].decode() for request in self.requests]

    @property
    def idle(self) -> bool:
        """Whether no connection is open."""
        return not self._writers

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def responders() -> AsyncIterator[Serve]:
    """``await serve(*answers, host=, tls=)`` starts a responder on a free port, until the context is left."""
    async with AsyncExitStack() as running:

        async def start(*answers: Answer, host: str = "127.0.0.1", tls: Any = None) -> Responder:
            responder = Responder(answers)
            server = await asyncio.start_server(responder.converse, host, 0, ssl=tls)
            responder.port = server.sockets[0].getsockname()[1]
            running.callback(server.close)
            running.callback(responder.abort)
            return responder

        yield start


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - conditions of servers and sockets set no event
            await asyncio.sleep(0.005)


def head(*fields: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode("latin-1")


def body(content: bytes, *fields: str) -> bytes:
    return head(f"Content-Length: {len(content)}", *fields) + content


def moved(location: str, status: str = "302 Found") -> bytes:
    return head(f"Location: {location}", "Content-Length: 4", status=status) + b"gone"


def then_close(sent: bytes) -> Conversation:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        writer.close()

    return answer


def then_reset(sent: bytes) -> Conversation:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    return answer


def then_silence(sent: bytes) -> Conversation:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        await reader.read()

    return answer
