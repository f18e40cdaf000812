"""Answers that fit into a buffer of ours and are never read: their connection does not stay for ever."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from proxy.answer import Answer
from proxy.core.messages import CacheStatus
from proxy.web.listener import Listener
from proxy.web.sending import Sender, Sent

STALL = 0.5
# More than the buffers of the kernel take here, and less than may wait in the process before it stops a writer.
BODY = bytes(60_000)


@dataclass
class Server:
    """A listener with small buffers, which answers everything with BODY."""

    port: int = 0
    answered: int = 0
    listener: Listener = field(init=False)

    async def handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        """As the door does."""
        self.answered += 1
        answer = Answer(200, (), BODY, CacheStatus("hit", "test", hit=True), stop=len(BODY))
        return await Sender(stall=STALL).send(incoming, answer, Sent(200))

    async def done(self) -> bool:
        """Whether it has no connection any more, within 20 s after it had one."""
        for _ in range(400):
            if self.answered and not self.listener.connections:
                return True
            await asyncio.sleep(0.05)
        return False


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server on a free loopback port."""
    made = Server()
    async with AsyncExitStack() as running:
        listener = made.listener = Listener(
            made.handle, connections_max=10, access_log=None, stall=STALL, keepalive_timeout=STALL
        )
        running.push_async_callback(listener.shutdown, 1.0)
        opened = socket.create_server(("127.0.0.1", 0))
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sockets = await asyncio.get_running_loop().create_server(listener, sock=opened)
        running.callback(sockets.close)
        made.port = opened.getsockname()[1]
        yield made


async def asking(server: Server, *lines: str) -> socket.socket:
    """A client that has asked, and takes little before it reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", server.port))
    fields = "".join(f"{each}\r\n" for each in ("Host: x", *lines))
    await loop.sock_sendall(client, f"GET / HTTP/1.1\r\n{fields}\r\n".encode())
    return client


@pytest.mark.parametrize("lines", [[], ["Connection: close"], ["Content-Length: 5"]], ids=["kept", "close", "body"])
async def test_an_answer_that_nobody_reads(server: Server, lines: list[str]) -> None:
    """It is reset when the client has taken nothing for as long as it may; asyncio would wait until it does."""
    with await asking(server, *lines):
        assert await server.done()
        assert server.answered == 1


async def test_an_answer_that_is_read_slowly(server: Server) -> None:
    """Who takes some of it from time to time gets all, also long after the last request may have come."""
    loop, got = asyncio.get_running_loop(), b""
    with await asking(server, "Connection: close") as client:
        while piece := await loop.sock_recv(client, 4096):
            got += piece
            await asyncio.sleep(STALL / 5)
    assert got.partition(b"\r\n\r\n")[2] == BODY
