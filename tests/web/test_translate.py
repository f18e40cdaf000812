"""The way in and the way out, over real connections."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from proxy.answer import Answer, Flow, Piece, StoredStream
from proxy.core.messages import CacheStatus, FileTarget, Headers, Moved, NotHere, PageTarget, Request, Target
from proxy.errors import Refused, StoreFailed, UpstreamFailed
from proxy.web.listener import Listener
from proxy.web.outlet import SLICE
from proxy.web.problems import problem
from proxy.web.sending import Sender, Sent
from proxy.web.translate import translated
from tests.harness.server import ProxyServer
from tests.harness.upstream import Upstream

STATUS = CacheStatus("hit", "fresh", hit=True)
FILE: Headers = (("Content-Type", "application/octet-stream"),)
BIG = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(3 * SLICE // 32)) + b"end"
JSON = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True, slots=True)
class Raw:
    """What came back on a connection: header names are lower-case, ``body`` is what follows the head."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def whole(self) -> bytes:
        """The body without its framing; AssertionError when that says it was cut."""
        if self.headers.get("transfer-encoding") != "chunked":
            assert len(self.body) == int(self.headers["content-length"])
            return self.body
        rest, body = self.body, b""
        while True:
            size, _, rest = rest.partition(b"\r\n")
            assert size, "cut"
            if int(size, 16) == 0:
                assert rest == b"\r\n"
                return body
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]


def parsed(data: bytes) -> Raw:
    """A response; status 0 when none came."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        assert data == b""
        return Raw(0, {}, b"")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for each in fields:
        name, _, value = each.partition(":")
        assert name.lower() not in headers, f"{name} twice"
        headers[name.lower()] = value.strip()
    return Raw(int(line.split(" ")[1]), headers, body)


async def received(reader: asyncio.StreamReader) -> bytes:
    """Everything until the connection ends, however it does."""
    data = bytearray()
    try:
        async with asyncio.timeout(20):
            while piece := await reader.read(65536):
                data += piece
    except ConnectionError:
        pass
    return bytes(data)


@dataclass
class Server:
    """A listener whose answers a test gives; what was asked and what became of it are written down."""

    port: int = 0
    stall: float = 20.0
    answer: Answer | None = None
    requests: list[Request] = field(default_factory=list)
    outcomes: list[Sent] = field(default_factory=list)
    transports: list[asyncio.Transport] = field(default_factory=list)

    async def handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        """What the door does, without a gate and a gateway."""
        assert incoming.transport is not None
        self.transports.append(incoming.transport)
        self.requests.append(translated(incoming, ("main",), "main"))
        answer = self.answer or Answer(200, FILE, b"ok", STATUS, stop=2)
        sender = Sender(stall=self.stall)
        try:
            answer = await sender.settled(incoming, answer)
        except UpstreamFailed as failure:
            answer = problem(failure, accept=None, request_id="0123")
        sent = Sent(answer.status)
        try:
            return await sender.send(incoming, answer, sent)
        finally:
            self.outcomes.append(sent)

    async def ask(self, *lines: str, version: str = "1.1", line: str = "GET /simple/six/") -> Raw:
        """One request on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        fields = "".join(f"{each}\r\n" for each in ("Host: example.com", "Connection: close", *lines))
        writer.write(f"{line} HTTP/{version}\r\n{fields}\r\n".encode("latin-1"))
        try:
            return parsed(await received(reader))
        finally:
            writer.close()

    async def over(self, count: int = 1) -> Sent:
        """The last outcome, once there are so many."""
        for _ in range(2000):
            if len(self.outcomes) >= count:
                return self.outcomes[-1]
            await asyncio.sleep(0.01)
        raise AssertionError("not within 20 s")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server on a free loopback port."""
    made = Server()
    async with AsyncExitStack() as running:
        listener = Listener(made.handle, connections_max=100, access_log=None)
        running.push_async_callback(listener.shutdown, 1.0)
        sockets = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
        running.callback(sockets.close)
        made.port = sockets.sockets[0].getsockname()[1]
        yield made


@pytest.fixture
def file(tmp_path: Path) -> BinaryIO:
    """A file with BIG in it; whoever is given it closes it."""
    (tmp_path / "body").write_bytes(BIG)
    return (tmp_path / "body").open("rb")


class Growing:
    """A stream that shows ``steps`` one after the other and then ends, or fails with ``failure``."""

    def __init__(self, file: BinaryIO, *steps: int, failure: Exception | None = None) -> None:
        self.file = file
        self.steps = [*steps]
        self.failure = failure
        self.closed = 0
        self.asked: Callable[[], Awaitable[None]] | None = None

    async def beyond(self, offset: int) -> Piece | None:
        if self.asked is not None:
            await self.asked()
        end = next((step for step in self.steps if step > offset), None)
        if end is not None:
            return Piece(self.file, offset, end - offset)
        if self.failure is not None:
            raise self.failure
        return None

    def close(self) -> None:
        self.closed += 1
        self.file.close()


# --- the way in


async def test_what_is_dropped(server: Server) -> None:
    """Rule 12: credentials, cookies and request no-store reach nothing behind; neither does what we do not know."""
    await server.ask(
        "Authorization: Basic c2VjcmV0",
        "Proxy-Authorization: Basic c2VjcmV0",
        "Cookie: a=secret",
        "X-Forwarded-For: secret",
        "Accept: text/html",
        "ACCEPT: application/json",
        "Cache-Control: no-store, max-age=0",
        "Cache-Control: No-Store",
        "Range: bytes=0-1",
        "If-Range: x",
        "If-None-Match: y",
        "If-Modified-Since: z",
        "Pragma: no-cache",
        "User-Agent: pip",
        "Accept-Encoding: gzip",
    )
    (request,) = server.requests
    assert request.headers == {
        "accept": "text/html, application/json",
        "cache-control": "max-age=0",
        "range": "bytes=0-1",
        "if-range": "x",
        "if-none-match": "y",
        "if-modified-since": "z",
        "pragma": "no-cache",
        "user-agent": "pip",
        "accept-encoding": "gzip",
    }
    assert "secret" not in repr(request)


@pytest.mark.parametrize(
    ("path", "target", "wanted"),
    [
        ("/simple/six/", PageTarget("main", "six", "../../"), None),
        ("/simple/six/?", PageTarget("main", "six", "../../"), None),
        ("/simple/six/?x=1&format=a%2Bb&format=c", PageTarget("main", "six", "../../"), "a+b"),
        ("/simple/six/?format=", PageTarget("main", "six", "../../"), ""),
        ("/simple/Six/?format=a%2Bb&x=1", Moved("../six/?format=a%2Bb"), "a+b"),
        ("/simple/Six/?x=1", Moved("../six/"), None),
        ("/files/main/example.com/a.whl", FileTarget("main", "example.com/a.whl", False), None),
        ("/files/main/example.com/a.whl?", FileTarget("main", "example.com/a.whl", False), None),
        ("/files/main/example.com/a.whl?token=1", NotHere("a file has no query"), None),
    ],
)
async def test_targets(server: Server, path: str, target: Target, wanted: str | None) -> None:
    """The raw path decides; of a query only ``format`` is looked at, and a file has none."""
    await server.ask(line=f"GET {path}")
    (request,) = server.requests
    assert (request.target, request.wanted_format) == (target, wanted)
    assert request.path == path.partition("?")[0]
    assert request.method == "GET"


def test_a_query_of_many_fields_is_refused() -> None:
    """Not a fault of ours: a client that sends thousands of fields is told so."""
    with pytest.raises(Refused) as caught:
        translated(make_mocked_request("GET", "/simple/six/?" + "a&" * 1000), ("main",), "main")
    assert caught.value.status == 400


# --- the way out


@pytest.mark.parametrize("body", [b"", b"x", BIG[:SLICE], BIG[: SLICE + 1], BIG], ids=len)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_bytes(server: Server, body: bytes, method: str, version: str) -> None:
    """Length and body for every method but HEAD, which gets the same head alone (RFC 9110 §9.3.2)."""
    server.answer = Answer(404, (*FILE, ("X-Y", "z")), body, STATUS, stop=len(body))
    got = await server.ask(line=f"{method} /", version=version)
    assert got.status == 404
    assert got.headers["content-length"] == str(len(body))
    assert got.body == (b"" if method == "HEAD" else body)
    assert got.headers["x-y"] == "z"
    assert got.headers["content-type"] == FILE[0][1]
    assert got.headers["server"] == "pip-cache-proxy"
    assert got.headers["cache-status"] == STATUS.header()
    assert got.headers["x-content-type-options"] == "nosniff"
    assert "content-security-policy" not in got.headers
    assert await server.over() == Sent(404, 0 if method == "HEAD" else len(body))


@pytest.mark.parametrize("media_type", ["text/html", "text/html; charset=utf-8"])
async def test_html_may_do_nothing(server: Server, media_type: str) -> None:
    """A page from an upstream runs no script in our origin."""
    server.answer = Answer(200, (("Content-Type", media_type),), b"<html>", STATUS, stop=6)
    assert (await server.ask()).headers["content-security-policy"] == "default-src 'none'"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_not_modified(server: Server, method: str) -> None:
    """RFC 9110 §15.4.5: no body, and no length that a client could wait for."""
    server.answer = Answer(304, (("ETag", '"1"'),), b"", STATUS, stop=0)
    got = await server.ask(line=f"{method} /")
    assert (got.status, got.body, got.headers["etag"]) == (304, b"", '"1"')
    assert got.headers.get("content-length", "0") == "0"
    assert "transfer-encoding" not in got.headers


async def test_moved(server: Server) -> None:
    """A redirect has no body and says so."""
    server.answer = Answer(301, (("Location", "../six/"),), b"", STATUS, stop=0)
    got = await server.ask()
    assert (got.status, got.headers["location"], got.whole) == (301, "../six/", b"")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, len(BIG)), (0, 0), (1, 2), (SLICE - 1, SLICE + 1), (7, 2 * SLICE + 9), (len(BIG) - 1, len(BIG))],
)
async def test_stored_bodies(server: Server, file: BinaryIO, version: str, start: int, stop: int) -> None:
    """A file or a part of it by sendfile, closed afterwards."""
    server.answer = Answer(200, FILE, StoredStream(file, len(BIG)), STATUS, start=start, stop=stop)
    got = await server.ask(version=version)
    assert got.whole == BIG[start:stop]
    assert await server.over() == Sent(200, stop - start)
    assert file.closed


async def test_head_of_a_stored_body(server: Server, file: BinaryIO) -> None:
    """The length, not a byte, and the file is closed."""
    server.answer = Answer(200, FILE, StoredStream(file, len(BIG)), STATUS, stop=len(BIG))
    got = await server.ask(line="HEAD /")
    assert (got.headers["content-length"], got.body) == (str(len(BIG)), b"")
    assert await server.over() == Sent(200)
    assert file.closed


async def test_a_growing_body(server: Server, file: BinaryIO) -> None:
    """Of known length: as it comes, with a length from the start."""
    stream = Growing(file, 1, 1000, SLICE + 5, len(BIG))
    server.answer = Answer(200, FILE, stream, STATUS, stop=len(BIG))
    assert (await server.ask()).whole == BIG
    assert await server.over() == Sent(200, len(BIG))
    assert stream.closed == 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_body_of_unknown_length(server: Server, file: BinaryIO, version: str) -> None:
    """In chunks; HTTP/1.0 waits for the end and is told the length."""
    stream = Growing(file, 1, 1000, SLICE + 5, len(BIG))
    server.answer = Answer(200, FILE, stream, STATUS)
    got = await server.ask(version=version)
    assert got.whole == BIG
    assert ("transfer-encoding" in got.headers) == (version == "1.1")
    assert await server.over() == Sent(200, len(BIG))
    assert stream.closed == 1


@pytest.mark.parametrize(
    ("failure", "stop"),
    [
        *(
            (failure, stop)
            for failure in (UpstreamFailed("cut"), OSError(5, "x"), KeyError())
            for stop in (len(BIG), None)
        ),
        (None, len(BIG)),
    ],
)
async def test_a_body_that_ends_early(
    server: Server, file: BinaryIO, failure: Exception | None, stop: int | None
) -> None:
    """Rule 3: whatever failed, the client can tell; no error document is mistaken for the rest of the body."""
    stream = Growing(file, SLICE + 5, failure=failure)
    server.answer = Answer(200, FILE, stream, STATUS, stop=stop)
    got = await server.ask()
    assert got.status in (0, 200)
    assert b"problem" not in got.body
    if got.status:
        with pytest.raises(AssertionError):
            _ = got.whole
    sent = await server.over()
    assert sent.aborted
    reasons = {UpstreamFailed: "cut", type(None): "the body ended early" if stop else ""}
    assert sent.because == reasons.get(type(failure), "the proxy failed")
    assert stream.closed == 1


async def test_a_file_shorter_than_its_head(server: Server, file: BinaryIO) -> None:
    """Truncated behind our back: the connection is reset instead of waiting for bytes that are not there."""
    server.answer = Answer(200, FILE, StoredStream(file, 2 * len(BIG)), STATUS, stop=2 * len(BIG))
    await server.ask()
    sent = await server.over()
    assert (sent.aborted, sent.because) == (True, "the stored file is shorter than it was")
    assert file.closed


async def test_http_1_0_gets_no_part_of_a_body_that_fails(server: Server, file: BinaryIO) -> None:
    """The end of the connection would prove it whole, so it waits for the end and gets a clean 502 instead."""
    stream = Growing(file, SLICE, failure=UpstreamFailed("cut"))
    server.answer = Answer(200, FILE, stream, STATUS)
    got = await server.ask(version="1.0")
    assert (got.status, json.loads(got.whole)["because"]) == (502, "cut")
    assert not (await server.over()).aborted
    assert stream.closed == 1


async def test_a_client_that_does_not_read(server: Server, tmp_path: Path) -> None:
    """Within ``stall`` seconds per slice it must have taken it; then the file is closed and nobody waits."""
    large = tmp_path / "large"
    with large.open("wb") as made:
        made.truncate(64 * 1024 * 1024)
    opened = large.open("rb")
    server.stall = 0.2
    server.answer = Answer(200, FILE, StoredStream(opened, 64 * 1024 * 1024), STATUS, stop=64 * 1024 * 1024)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", server.port))
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        sent = await server.over()
    assert (sent.aborted, sent.because) == (True, "the client stopped reading")
    assert sent.sent < 64 * 1024 * 1024
    assert opened.closed


async def test_a_client_that_leaves(server: Server, file: BinaryIO, caplog: pytest.LogCaptureFixture) -> None:
    """Its connection closes while the stream is asked for more: that is over, and no fault of ours is logged."""
    stream = Growing(file, 1000, len(BIG))
    server.answer = Answer(200, FILE, stream, STATUS, stop=len(BIG))

    async def leave() -> None:
        server.transports[-1].close()

    stream.asked = leave
    with caplog.at_level(logging.WARNING):
        assert (await server.ask()).status in (0, 200)
        sent = await server.over()
    assert (sent.aborted, sent.because) == (True, "the client left")
    assert stream.closed == 1
    assert caplog.messages == []


async def test_a_connection_is_used_again(server: Server, file: BinaryIO) -> None:
    """After a body by sendfile comes the next answer, on the same connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    server.answer = Answer(200, FILE, StoredStream(file, len(BIG)), STATUS, stop=len(BIG))
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(len(BIG)) == BIG
    server.answer = None
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert parsed(await received(reader)).whole == b"ok"
    writer.close()


# --- through the whole door


HOSTILE = [
    ("GET /files/test/example.com/\x80.whl HTTP/1.1", 400),
    ("GET /simple/six?format=\x80 HTTP/1.1", 400),
    ("GET /simple/six/?" + "a&" * 1000 + " HTTP/1.1", 400),
    ("GET //simple/ HTTP/1.1", 400),
    ("GET http://example.com/simple/ HTTP/1.1", 400),
    ("GET /simple/%2e%2e/ HTTP/1.1", 400),
    ("GET /simple/six/ HTTP/1.1\r\nContent-Length: 2", 400),
    ("GET /simple/six/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3", 400),
    ("GET /simple/six/ HTTP/1.1\r\nBad Name: 1", 400),
    ("GET /simple/six/ HTTP/1.1\r\nHost: second.example", 400),
    ("POST /simple/six/ HTTP/1.1\r\nContent-Length: 0", 405),
    ("DELETE /simple/six/ HTTP/1.1", 405),
    ("OPTIONS * HTTP/1.1", 400),
    ("GET /nothing HTTP/1.1", 404),
    ("GET /files/test/example.com/a.whl?token=secret HTTP/1.1", 404),
    ("nonsense", 400),
]


def test_hostile_requests(upstream: Upstream, start_proxy: Callable[..., ProxyServer]) -> None:
    """Each gets a complete problem document that repeats nothing of it, no upstream is asked, no fault is logged."""
    proxy = start_proxy(upstream)
    for head, status in HOSTILE:
        with socket.create_connection((proxy.host, proxy.port), timeout=20) as connection:
            connection.sendall(f"{head}\r\nHost: example.com\r\nConnection: close\r\n\r\n".encode("latin-1"))
            if "Content-Length: 2" in head:
                connection.sendall(b"ab")
            data = b""
            try:
                while piece := connection.recv(65536):
                    data += piece
            except ConnectionError:
                pass
        got = parsed(data)
        assert got.status == status, (head, data)
        assert got.headers["content-type"] == "application/problem+json", head
        document = json.loads(got.whole)
        assert document["status"] == status
        assert document["blame"] == "client"
        assert got.headers["cache-status"].startswith("pip-cache-proxy; detail=")
        assert not any(word in data for word in (b"secret", b"nonsense", b"second.example", b"\x80"))
    assert upstream.log == []
    lines = proxy.requests("")
    assert not any("secret" in json.dumps(line) or "?" in line["path"] for line in lines)
    assert "Traceback" not in proxy.stderr


def test_a_body_after_a_refusal(upstream: Upstream, start_proxy: Callable[..., ProxyServer]) -> None:
    """A refused body is never read as the next request."""
    proxy = start_proxy(upstream)
    smuggled = b"GET /simple/smuggled/ HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection((proxy.host, proxy.port), timeout=20) as connection:
        head = f"POST /simple/six/ HTTP/1.1\r\nHost: x\r\nContent-Length: {len(smuggled)}\r\n\r\n"
        connection.sendall(head.encode() + smuggled + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = b""
        try:
            while piece := connection.recv(65536):
                data += piece
        except ConnectionError:
            pass
    assert data.startswith(b"HTTP/1.1 405 ")
    assert upstream.log == []


# --- what is made while it is sent


class Made:
    """Pieces that are made one by one: ``given`` so far, ``closed`` once nobody wants more of them."""

    def __init__(self, *pieces: bytes, failure: Exception | None = None, endless: bool = False) -> None:
        self.given = 0
        self.closed = False
        self._pieces = pieces
        self._failure = failure
        self._endless = endless

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """All of them."""
        try:
            for piece in self._pieces:
                self.given += 1
                yield piece
            while self._endless:
                self.given += 1
                yield BIG
            if self._failure is not None:
                raise self._failure
        finally:
            self.closed = True


async def flowing(made: Made) -> Answer:
    """An answer with that body."""
    return Answer(200, FILE, await Flow.begun(made.pieces()), STATUS)


async def test_a_flow_comes_in_chunks(server: Server) -> None:
    """Nobody knows its length: the last chunk says that it is whole."""
    made = Made(b"first,", BIG, b"", b",last")
    server.answer = await flowing(made)
    got = await server.ask()
    assert got.whole == b"first," + BIG + b",last"
    assert (await server.over()).sent == len(got.whole)
    assert made.closed


async def test_a_flow_of_http_1_0_ends_with_the_connection(server: Server) -> None:
    """There are no chunks; it does not wait in memory for its end."""
    made = Made(b"first,", BIG)
    server.answer = await flowing(made)
    got = await server.ask(version="1.0")
    assert got.body == b"first," + BIG
    assert not {"content-length", "transfer-encoding"} & set(got.headers)


async def test_a_head_of_a_flow_makes_no_more_of_it(server: Server) -> None:
    """One piece is made, for what could fail before."""
    made = Made(b"first,", BIG)
    server.answer = await flowing(made)
    got = await server.ask(line="HEAD /")
    assert (got.status, got.body) == (200, b"")
    await server.over()
    assert (made.given, made.closed) == (1, True)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_flow_that_fails_is_cut(server: Server, version: str) -> None:
    """Never a clean end that would make half of it look like all."""
    server.answer = await flowing(Made(b"first,", BIG, failure=StoreFailed("the disk failed")))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET / HTTP/{version}\r\nHost: x\r\n\r\n".encode())
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    outcome = await server.over()
    assert (outcome.aborted, outcome.because) == (True, "the disk failed")


async def test_a_flow_that_cannot_begin_is_no_answer() -> None:
    """What fails before the first piece is still told with a status."""
    with pytest.raises(StoreFailed):
        await flowing(Made(failure=StoreFailed("the disk failed")))


async def test_a_flow_ends_when_its_client_leaves(server: Server) -> None:
    """Nothing is made for nobody."""
    made = Made(BIG, endless=True)
    server.answer = await flowing(made)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.read(1)
    writer.transport.abort()
    assert (await server.over()).aborted
    assert made.closed
