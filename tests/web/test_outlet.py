"""The way from a file to a client: all bytes in their order, others get their turn, and who stalls is found out."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import BinaryIO

import pytest

from proxy.answer import Piece
from proxy.web.outlet import AT_ONCE, SLICE, Outlet, Unavailable

SIZE = 8 * AT_ONCE + 17


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BinaryIO]:
    """Bytes that tell where they are."""
    path = tmp_path_factory.mktemp("outlet") / "file"
    path.write_bytes(b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(SIZE // 32 + 1))[:SIZE])
    with path.open("rb") as opened:
        yield opened


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.WriteTransport, socket.socket]]:
    """A transport, and the socket at the other end of it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    for each in (ours, theirs):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    try:
        yield transport, theirs
    finally:
        transport.abort()
        theirs.close()


async def sent(outlet: Outlet, file: BinaryIO, start: int, stop: int) -> int:
    """All of it; the most that went at once."""
    most = 0
    while start < stop:
        count = await outlet.send(Piece(file, start, stop - start), stop - start)
        assert count
        start, most = start + count, max(most, count)
    return most


async def received(theirs: socket.socket, count: int) -> bytes:
    """So many bytes."""
    loop, got = asyncio.get_running_loop(), bytearray()
    while len(got) < count:
        data = await loop.sock_recv(theirs, min(2**16, count - len(got)))
        assert data
        got += data
    return bytes(got)


async def test_all_bytes_in_their_order_behind_what_was_written_before(file: BinaryIO) -> None:
    """Also where the head waits in the transport yet. Only as many bytes as were asked for leave."""
    head = bytes(300_000)
    async with connected() as (transport, theirs):
        transport.write(head)
        assert transport.get_write_buffer_size()
        with Outlet(transport, stall=10.0) as outlet:
            reading = asyncio.ensure_future(received(theirs, len(head) + SIZE - 105))
            assert await sent(outlet, file, 5, SIZE - 100) <= AT_ONCE
            got = await reading
    assert got == head + os.pread(file.fileno(), SIZE - 105, 5)


async def test_who_does_not_read_is_found_out(file: BinaryIO) -> None:
    """After the stall time, not sooner."""
    async with connected() as (transport, _):
        began = time.monotonic()
        with Outlet(transport, stall=0.3) as outlet, pytest.raises(TimeoutError):
            await sent(outlet, file, 0, SIZE)
        assert 0.25 < time.monotonic() - began < 5


async def test_who_reads_too_slowly_is_found_out(file: BinaryIO) -> None:
    """A few bytes now and then are no slice: each must be taken within the stall time."""
    async with connected() as (transport, theirs):

        async def trickle() -> None:
            while True:
                await asyncio.sleep(0.02)
                await received(theirs, SLICE // 200)

        reading = asyncio.ensure_future(trickle())
        began = time.monotonic()
        with Outlet(transport, stall=0.5) as outlet, pytest.raises(TimeoutError):
            await sent(outlet, file, 0, SIZE)
        assert 0.4 < time.monotonic() - began < 5
        reading.cancel()


async def test_what_the_source_takes_is_not_the_clients_time(file: BinaryIO) -> None:
    """A body that grows slowly is sent to its end."""
    async with connected() as (transport, theirs):
        reading = asyncio.ensure_future(received(theirs, 5000))
        with Outlet(transport, stall=0.2) as outlet:
            for start in range(0, 5000, 1000):
                await sent(outlet, file, start, start + 1000)
                await asyncio.sleep(0.1)
        assert await reading == os.pread(file.fileno(), 5000, 0)


async def test_a_client_that_left(file: BinaryIO) -> None:
    """Is told as such, also to one who waits for room."""
    async with connected() as (transport, theirs):
        with Outlet(transport, stall=10.0) as outlet:
            sending = asyncio.ensure_future(sent(outlet, file, 0, SIZE))
            await asyncio.sleep(0.1)
            theirs.close()
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(sending, 5)


async def test_others_get_their_turn(file: BinaryIO) -> None:
    """Also when a socket takes everything at once."""
    async with connected() as (transport, theirs):
        reading = asyncio.ensure_future(received(theirs, SIZE))
        turns = 0

        async def other() -> None:
            nonlocal turns
            while not reading.done():
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(other())
        with Outlet(transport, stall=10.0) as outlet:
            await sent(outlet, file, 0, SIZE)
        await reading
        await counting
        assert turns >= SIZE // AT_ONCE


async def test_a_short_file(file: BinaryIO) -> None:
    """Is told by nothing sent."""
    async with connected() as (transport, _):
        with Outlet(transport, stall=1.0) as outlet:
            assert await outlet.send(Piece(file, SIZE, 10), 10) == 0


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP], ids=["EINVAL", "EOPNOTSUPP"])
async def test_a_file_that_the_kernel_cannot_send(
    file: BinaryIO, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is told from one that cannot be read."""

    def refusing(*_: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "sendfile", refusing)
    async with connected() as (transport, _):
        with Outlet(transport, stall=1.0) as outlet:
            with pytest.raises(Unavailable):
                await outlet.send(Piece(file, 0, 10), 10)
            number = errno.EIO
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                await outlet.send(Piece(file, 0, 10), 10)
