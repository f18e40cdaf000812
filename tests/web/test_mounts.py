"""The web side of mounts over real connections: every line and every byte of a request, and a head that is another
server's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from proxy.answer import Answer, Flow, Upload
from proxy.core.messages import CacheStatus, Headers, RawTarget, Request
from proxy.errors import ProxyError, Refused
from proxy.web.listener import Listener
from proxy.web.outlet import SLICE
from proxy.web.problems import problem
from proxy.web.routes import kind_of
from proxy.web.sending import Sender, Sent
from proxy.web.translate import request_of, translated
from proxy.web.uploads import upload_of

MOUNTS = ("m",)
STATUS = CacheStatus("miss", "nothing was stored", forward="uri-miss")
GOOD = "HTTP/1.1 200 OK"
Room = Callable[[Request, Upload | None], Awaitable[Answer]]


def answered(body: bytes = b"ok", headers: Headers = (), status: int = 200) -> Answer:
    """A raw answer with these bytes."""
    return Answer(status, headers, body, STATUS, stop=len(body), raw=True)


async def whole(upload: Upload | None) -> bytes:
    """All of a request's body."""
    assert upload is not None
    return b"".join([piece async for piece in upload.chunks])


async def echo(_: Request, upload: Upload | None) -> Answer:
    """What the client sent."""
    return answered(await whole(upload) if upload is not None else b"nothing")


@dataclass
class Server:
    """What the door does, with a room that a test gives in the gateway's place."""

    port: int = 0
    stall: float = 20.0
    room: Room = echo
    requests: list[Request] = field(default_factory=list)
    uploads: list[Upload | None] = field(default_factory=list)
    outcomes: list[Sent] = field(default_factory=list)
    connections: Callable[[], Sequence[web.RequestHandler]] = list
    began: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        sender = Sender(stall=self.stall)
        try:
            request = translated(incoming, ("main",), "main", mounts=MOUNTS)
            self.requests.append(request)
            self.began.set()
            upload = upload_of(incoming, self.stall)
            self.uploads.append(upload)
            answer = await self.room(request, upload)
        except ProxyError as error:
            answer = problem(error, accept=None, request_id="0123")
        sent = Sent(answer.status)
        try:
            return await sender.send(incoming, answer, sent)
        finally:
            self.outcomes.append(sent)
            self.ended.set()

    async def over(self) -> Sent:
        """What became of the first answer, once it is over."""
        async with asyncio.timeout(20):
            await self.ended.wait()
        return self.outcomes[0]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server on a free loopback port."""
    made = Server()
    async with AsyncExitStack() as running:
        listener = Listener(made.handle, connections_max=100, access_log=None, auto_decompress=False)
        running.push_async_callback(listener.shutdown, 1.0)
        sockets = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
        running.callback(sockets.close)
        made.port = sockets.sockets[0].getsockname()[1]
        made.connections = lambda: listener.connections
        yield made


class Line:
    """A connection; everything on it within 20 s."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Line:
        self._limit = asyncio.timeout(20)
        await self._limit.__aenter__()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *failure: object) -> None:
        self.writer.close()
        await self._limit.__aexit__(*failure)  # type: ignore[arg-type]  # as it came

    def say(self, line: str, fields: Sequence[str] = (), body: bytes = b"", version: str = "1.1") -> None:
        """One request; text goes out as Latin-1."""
        lines = "".join(f"{each}\r\n" for each in ("Host: x", *fields))
        self.writer.write(f"{line} HTTP/{version}\r\n{lines}\r\n".encode("latin-1") + body)

    async def head(self) -> list[str]:
        """The status line and the fields of what comes next."""
        data = await self.reader.readuntil(b"\r\n\r\n")
        return data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")

    async def hear(self) -> tuple[list[str], bytes]:
        """The next head, and a body of the length that it gives."""
        head = await self.head()
        (length,) = (int(each.partition(":")[2]) for each in head if each.lower().startswith("content-length:"))
        return head, await self.reader.readexactly(length)


# --- the way in


async def test_all_lines_as_they_came(server: Server) -> None:
    """Order, spelling and repetition; credentials and no-store, too: the room decides what is passed on."""
    lines = [
        ("hOSt", "x"),
        ("X-One", "1"),
        ("accept", "a"),
        ("cookie", "c=1"),
        ("ACCEPT", "b"),
        ("Authorization", "Basic c2VjcmV0"),
        ("cache-control", "no-store"),
        ("x-one", "2"),
        ("X-Empty", ""),
        ("Connection", "close, X-One"),
    ]
    async with Line(server.port) as line:
        fields = "".join(f"{name}: {value}\r\n" for name, value in lines)
        line.writer.write(f"GET /raw/m/a/b HTTP/1.1\r\n{fields}\r\n".encode())
        await line.hear()
    (request,) = server.requests
    assert request.fields == tuple(lines)
    assert request.headers == {
        "host": "x",
        "x-one": "1, 2",
        "accept": "a, b",
        "cookie": "c=1",
        "authorization": "Basic c2VjcmV0",
        "cache-control": "no-store",
        "x-empty": "",
        "connection": "close, X-One",
    }
    assert server.uploads == [None]
    assert kind_of(request.target) == "raw"


@pytest.mark.parametrize(
    "rest", ["", "a", "a/", "a%2Bb/c+d", "a?", "a?b=c", "a?b?c", "?", "?format=x", "a?" + "b&" * 1000, "a?%zz=%2F//.."]
)
async def test_the_rest_is_what_the_client_spelt(server: Server, rest: str) -> None:
    """Nothing is decoded, sorted or dropped; an empty query is not the same as none."""
    async with Line(server.port) as line:
        line.say(f"PURGE /raw/m/{rest}")
        await line.hear()
    (request,) = server.requests
    assert request.target == RawTarget("m", rest)
    assert (request.method, request.path, request.wanted_format) == ("PURGE", f"/raw/m/{rest.partition('?')[0]}", None)


async def test_octets_beyond_ascii(server: Server) -> None:
    """UTF-8 is kept, a character for each octet as in every head of ours; what is no UTF-8 cannot be sent on."""
    async with Line(server.port) as line:
        line.writer.write(b"GET /raw/m/ HTTP/1.1\r\nHost: x\r\nX-A: \xc3\xa4\r\n\r\n")
        assert (await line.hear())[0][0] == GOOD
        line.writer.write(b"GET /raw/m/ HTTP/1.1\r\nHost: x\r\nX-A: \xe4\r\n\r\n")
        assert (await line.hear())[0][0] == "HTTP/1.1 400 Bad Request"
    (request,) = server.requests
    assert request.fields[1] == ("X-A", "\xc3\xa4")
    assert request.headers["x-a"] == "\xc3\xa4"


def test_explained_requests_have_lines() -> None:
    """Without a connection: those that are given."""
    given = CIMultiDict([("Accept", "a"), ("accept", "b")])
    request = request_of("GET", "/raw/m/a?b", given, ("main",), "main", mounts=MOUNTS)
    assert request.fields == (("Accept", "a"), ("accept", "b"))
    assert request.headers == {"accept": "a, b"}


# --- bodies of requests


def chunked(*pieces: bytes) -> bytes:
    """These pieces as chunks, with the last one."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


BIG = bytes(range(256)) * 8192
assert len(BIG) > 4 * SLICE


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("body", [b"x", b"GET / HTTP/1.1\r\n\r\n", BIG], ids=len)
async def test_a_body_of_known_length(server: Server, method: str, body: bytes) -> None:
    """To the last byte, whatever the method; the next request is found behind it."""
    async with Line(server.port) as line:
        for _ in range(2):
            line.say(f"{method} /raw/m/a", [f"Content-Length: {len(body)}"], body)
            assert await line.hear() != ([], b"")
        line.say("GET /raw/m/b")
        assert (await line.hear())[1] == b"nothing"
    assert [None if each is None else each.length for each in server.uploads] == [len(body), len(body), None]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_body_in_chunks(server: Server, method: str) -> None:
    """The framing is gone, extensions and trailers with it; nothing of them is taken for a field of the request."""
    said = b"3;a=b\r\nabc\r\n" + b"%x\r\n%b\r\n" % (len(BIG), BIG) + b"0;x\r\nX-Trailer: 1\r\n\r\n"
    async with Line(server.port) as line:
        line.say(f"{method} /raw/m/a", ["Transfer-Encoding: chunked", "Trailer: X-Trailer"], said)
        assert (await line.hear())[1] == b"abc" + BIG
        line.say("GET /raw/m/b")
        assert (await line.hear())[1] == b"nothing"
    assert server.uploads[0] is not None
    assert server.uploads[0].length is None
    assert "x-trailer" not in server.requests[0].headers


async def test_an_encoded_body_stays_encoded(server: Server) -> None:
    """What it means is between the client and the upstream."""
    async with Line(server.port) as line:
        line.say("PUT /raw/m/a", ["Content-Encoding: gzip", "Content-Length: 9"], b"no gzip!!")
        assert (await line.hear())[1] == b"no gzip!!"


@pytest.mark.parametrize("length", ["0", None])
async def test_no_body(server: Server, length: str | None) -> None:
    """Nothing is uploaded where there is nothing."""
    async with Line(server.port) as line:
        line.say("POST /raw/m/a", [] if length is None else [f"Content-Length: {length}"])
        assert (await line.hear())[1] == b"nothing"


async def test_a_body_is_read_as_it_is_wanted(server: Server) -> None:
    """A room that does not read does not have it pile up in memory, and gets all of it when it does."""
    size = 64 * 1024 * 1024
    reading = asyncio.Event()

    async def later(_: Request, upload: Upload | None) -> Answer:
        await reading.wait()
        assert upload is not None
        count = 0
        async for piece in upload.chunks:
            count += len(piece)
        return answered(str(count).encode())

    server.room = later
    async with Line(server.port) as line:
        line.say("PUT /raw/m/a", [f"Content-Length: {size}"])
        sending = asyncio.create_task(fed(line.writer, size))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(sending), 0.5)
        reading.set()
        assert (await line.hear())[1] == str(size).encode()
        await sending


async def fed(writer: asyncio.StreamWriter, size: int) -> None:
    """Writes so many bytes as they are taken."""
    for _ in range(size // len(BIG)):
        writer.write(BIG)
        await writer.drain()


BROKEN = [b"x\r\n", b"3\r\nabcd\r\n", b"3\r\nabc\r\n-1\r\n", b"3 3\r\nabc\r\n", b"3\nabc\n0\n\n", b"f" * 17 + b"\r\n"]


async def malformed(line: Line) -> None:
    """The next answer is 400 in HTTP/1.1, the last of its connection."""
    head = await line.head()
    assert head[0] == "HTTP/1.1 400 Bad Request"
    assert "Connection: close" in head
    await line.reader.read()


@pytest.mark.parametrize("body", BROKEN)
async def test_chunks_that_break(server: Server, body: bytes) -> None:
    """400, whether the parser finds it together with the head or while the room reads; nothing behind is a request."""
    for apart in (False, True):
        async with Line(server.port) as line:
            server.began.clear()
            line.say("POST /raw/m/a", ["Transfer-Encoding: chunked"], b"1\r\nx\r\n" if apart else b"")
            if apart:
                await server.began.wait()
            line.writer.write(body)
            line.say("GET /raw/m/behind")
            await malformed(line)
    assert not [each for each in server.requests if each.path.endswith("behind")]


async def test_chunks_that_break_before_their_turn(server: Server) -> None:
    """A body may break while the request before it is still being answered: 400 at once when its turn comes, and not
    after the pause that a client may make."""
    done = asyncio.Event()

    async def room(request: Request, upload: Upload | None) -> Answer:
        if request.path.endswith("before"):
            await done.wait()
        return await echo(request, upload)

    server.room = room
    async with Line(server.port) as line:
        line.say("GET /raw/m/before")
        await server.began.wait()
        line.say("POST /raw/m/a", ["Transfer-Encoding: chunked"], b"1\r\nx\r\n")
        await nudged(server)
        line.writer.write(BROKEN[0])
        await nudged(server)
        done.set()
        assert (await line.hear())[1] == b"nothing"
        await malformed(line)


async def nudged(server: Server) -> None:
    """The server reads in the order of arrival: once this is answered it has read what came before."""
    async with Line(server.port) as other:
        other.say("GET /raw/m/other")
        await other.hear()


async def test_a_client_that_leaves_while_it_sends(server: Server) -> None:
    """The room hears of it as of a body that breaks."""
    heard: list[ProxyError] = []
    begun = asyncio.Event()

    async def room(_: Request, upload: Upload | None) -> Answer:
        assert upload is not None
        try:
            async for _piece in upload.chunks:
                begun.set()
        except Refused as error:
            heard.append(error)
            raise
        return answered()

    server.room = room
    async with Line(server.port) as line:
        line.say("POST /raw/m/a", ["Content-Length: 10"], b"12345")
        await begun.wait()
    assert (await server.over()).status == 400
    assert [each.status for each in heard] == [400]


async def test_a_client_that_pauses(server: Server) -> None:
    """It may, for so long and no longer."""
    server.stall = 0.3
    async with Line(server.port) as line:
        line.say("POST /raw/m/a", ["Content-Length: 10"], b"12345")
        head = await line.head()
        assert head[0] == "HTTP/1.1 408 Request Timeout"
        assert "Connection: close" in head


async def _dripped(line: Line) -> list[str]:
    """A large body, a byte at a time, until it is answered."""

    async def drip() -> None:
        while True:
            line.writer.write(b"x")
            await asyncio.sleep(0.05)

    line.say("POST /raw/m/a", ["Content-Length: 100000"])
    dripping = asyncio.create_task(drip())
    try:
        return await line.head()
    finally:
        dripping.cancel()


async def test_a_client_that_drips(server: Server) -> None:
    """Each byte comes soon enough, and all of them never: others wait for the connection to the upstream that it
    holds."""
    server.stall = 0.3
    async with Line(server.port) as line:
        assert (await _dripped(line))[0] == "HTTP/1.1 408 Request Timeout"


async def test_a_client_that_drips_while_it_waits_for_its_turn(server: Server) -> None:
    """By then it has had its time: it does not get as much again."""
    server.stall = 0.3
    asked: list[float] = []

    async def room(request: Request, upload: Upload | None) -> Answer:
        assert upload is not None
        await asyncio.sleep(2 * server.stall)
        asked.append(asyncio.get_running_loop().time())
        async for _ in upload.chunks:
            asked.append(asyncio.get_running_loop().time())
        return answered()

    server.room = room
    async with Line(server.port) as line:
        assert (await _dripped(line))[0] == "HTTP/1.1 408 Request Timeout"
    assert len(asked) == 1


async def test_a_small_upload_that_waited_for_its_turn(server: Server) -> None:
    """All of it is here, however little that is."""
    server.stall = 0.3

    async def room(request: Request, upload: Upload | None) -> Answer:
        await asyncio.sleep(2 * server.stall)
        return await echo(request, upload)

    server.room = room
    async with Line(server.port) as line:
        line.say("POST /raw/m/a", ["Content-Length: 5"], b"12345")
        assert (await line.head())[0] == "HTTP/1.1 200 OK"


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue", " 100-continue "])
async def test_leave_is_given_when_the_body_is_wanted(server: Server, expect: str) -> None:
    """RFC 9110 §10.1.1: 100 (Continue) when the room asks for the first piece, and not before."""
    wanted = asyncio.Event()

    async def room(request: Request, upload: Upload | None) -> Answer:
        await wanted.wait()
        return await echo(request, upload)

    server.room = room
    async with Line(server.port) as line:
        line.say("PUT /raw/m/a", [f"Expect:{expect}", "Content-Length: 3"])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line.reader.read(1), 0.3)
        wanted.set()
        assert await line.head() == ["HTTP/1.1 100 Continue"]
        line.writer.write(b"abc")
        head, body = await line.hear()
        assert (head[0], body) == (GOOD, b"abc")
        line.say("GET /raw/m/b")
        assert (await line.hear())[1] == b"nothing"


async def test_no_leave_for_a_body_that_is_not_wanted(server: Server) -> None:
    """The answer comes instead, and the connection ends: nobody knows whether the body still comes."""

    async def room(_: Request, __: Upload | None) -> Answer:
        return answered(b"no", status=403)

    server.room = room
    async with Line(server.port) as line:
        line.say("PUT /raw/m/a", ["Expect: 100-continue", "Content-Length: 3"])
        head, body = await line.hear()
        assert (head[0], body) == ("HTTP/1.1 403 Forbidden", b"no")
        assert "Connection: close" in head
        assert await line.reader.read() == b""


async def test_no_leave_where_none_is_waited_for(server: Server) -> None:
    """A client that sends its body at once, one of HTTP/1.0, and one that has no body."""
    for version, body, heard in (("1.1", b"abc", b"abc"), ("1.0", b"abc", b"abc"), ("1.1", b"", b"nothing")):
        async with Line(server.port) as line:
            fields = ["Expect: 100-continue", f"Content-Length: {len(body)}"]
            line.say("PUT /raw/m/a", fields, body, version)
            head, got = await line.hear()
            assert (head[0].endswith("200 OK"), got) == (True, heard)


async def test_no_leave_for_what_is_on_its_way(server: Server) -> None:
    """Whoever has begun does not wait."""
    async with Line(server.port) as line:
        line.say("PUT /raw/m/a", ["Expect: 100-continue", "Content-Length: 6"], b"abc")
        await server.began.wait()
        line.writer.write(b"def")
        head, body = await line.hear()
        assert (head[0], body) == (GOOD, b"abcdef")


async def test_other_expectations(server: Server) -> None:
    """417, before anything of the body is read."""
    async with Line(server.port) as line:
        line.say("PUT /raw/m/a", ["Expect: the-best", "Content-Length: 3"])
        head = await line.head()
        assert head[0] == "HTTP/1.1 417 Expectation Failed"
        assert "Connection: close" in head
    assert server.uploads == []


async def test_an_answer_before_the_body_is_over(server: Server) -> None:
    """RFC 9112 §9.6: a client that goes on sending can still read it, and then finds the connection closed."""

    async def room(_: Request, upload: Upload | None) -> Answer:
        assert upload is not None
        await anext(upload.chunks)
        return answered(b"too large", status=413)

    server.room = room
    async with Line(server.port) as line:
        line.say("PUT /raw/m/a", [f"Content-Length: {1 << 40}"])
        await fed(line.writer, 8 * len(BIG))
        head, body = await line.hear()
        assert (head[0].split(" ")[1], body) == ("413", b"too large")
        assert "Connection: close" in head
        assert await line.reader.read() == b""
    assert not (await server.over()).aborted


async def test_a_pipeline_is_not_read_ahead(server: Server) -> None:
    """Of thousands of requests in one write only a few are parsed before their turn."""
    done = asyncio.Event()

    async def room(request: Request, _: Upload | None) -> Answer:
        await done.wait()
        return answered(request.path.encode())

    server.room = room
    async with Line(server.port) as line:
        for number in range(3000):
            line.say(f"GET /raw/m/{number}")
        await server.began.wait()
        await asyncio.sleep(0)
        (connection,) = server.connections()
        assert len(connection._messages) < 100
        done.set()
        for number in range(3000):
            assert (await line.hear())[1] == f"/raw/m/{number}".encode()


# --- the way out


@pytest.mark.parametrize("body", [b"", b"body", BIG], ids=len)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_a_head_of_another_server(server: Server, body: bytes, method: str) -> None:
    """In order and spelling, several lines of a field stay several, every octet; ours is but the framing, the Date
    where there is none, and our part of Cache-Status behind the others'."""
    lines = (
        ("x-b", "2"),
        ("X-A", "1"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Cache-Status", "Upstream; hit"),
        ("Date", "Thu, 01 Jan 1998 00:00:00 GMT"),
        ("X-Octets", "\xc3\xa4 \xe4"),
        ("Content-Type", "text/x-something"),
    )

    async def room(_: Request, __: Upload | None) -> Answer:
        return answered(body, lines)

    server.room = room
    async with Line(server.port) as line:
        line.say(f"{method} /raw/m/a", ["Connection: close"])
        head = await line.head()
        assert head[0] == GOOD
        ours = [f"Cache-Status: {STATUS.header()}", f"Content-Length: {len(body)}", "Connection: close"]
        assert head[1:] == [*(f"{name}: {value}" for name, value in lines), *ours]
        assert await line.reader.read() == (b"" if method == "HEAD" else body)


async def test_nothing_of_ours_is_added(server: Server) -> None:
    """No Content-Type, no Server: what the upstream does not say is not said."""
    async with Line(server.port) as line:
        line.say("POST /raw/m/a", ["Content-Length: 2"], b"ok")
        head, _ = await line.hear()
    names = [each.partition(":")[0].lower() for each in head[1:]]
    assert sorted(names) == ["cache-status", "content-length", "content-security-policy", "date"]


@pytest.mark.parametrize(
    ("media_type", "given", "policies"),
    [
        ("text/html", None, ["sandbox"]),
        ("Text/HTML; charset=utf-8", None, ["sandbox"]),
        ("image/svg+xml", None, ["sandbox"]),
        ("application/xhtml+xml", None, ["sandbox"]),
        ("application/rss+xml; charset=utf-8", None, ["sandbox"]),
        ("text/xml", None, ["sandbox"]),
        ("text/xsl", None, ["sandbox"]),
        ("unknown/unknown", None, ["sandbox"]),
        ("application/unknown", None, ["sandbox"]),
        ("*/*", None, ["sandbox"]),
        ("html", None, ["sandbox"]),
        ("text/plain, text/html", None, ["sandbox"]),
        ("text/plain; a=b,text/html", None, ["sandbox"]),
        ("multipart/x-mixed-replace; boundary=x", None, ["sandbox"]),
        (None, None, ["sandbox"]),
        ("text/html", "default-src 'self'", ["default-src 'self'", "sandbox"]),
        ("text/plain", "default-src 'self'", ["default-src 'self'"]),
        ("application/gzip", None, []),
        ("text/plain; charset=utf-8", None, []),
        ("application/json", None, []),
        ("application/vnd.pypi.simple.v1+json", None, []),
    ],
)
async def test_what_a_browser_would_run(
    server: Server, media_type: str | None, given: str | None, policies: list[str]
) -> None:
    """Whatever a mount serves, its scripts do not run in our origin, whatever it says they may do."""
    lines = [("Content-Type", media_type), ("Content-Security-Policy", given)]

    async def room(_: Request, __: Upload | None) -> Answer:
        return answered(b"<html>", tuple((name, value) for name, value in lines if value is not None))

    server.room = room
    async with Line(server.port) as line:
        line.say("GET /raw/m/a")
        head, _ = await line.hear()
    found = [each.partition(": ")[2] for each in head if each.startswith("Content-Security-Policy")]
    assert found == policies


async def test_what_would_end_a_line_early(server: Server) -> None:
    """RFC 9110 §5.5: replaced by spaces, so that an upstream's field never becomes a head of its own."""

    async def room(_: Request, __: Upload | None) -> Answer:
        return answered(b"ok", (("X-A", "1\r\nX-B: 2\r\n\r\nHTTP/1.1 200 OK\0\x7f"),))

    server.room = room
    async with Line(server.port) as line:
        line.say("GET /raw/m/a")
        head, body = await line.hear()
    assert "X-A: 1  X-B: 2    HTTP/1.1 200 OK  " in head
    assert body == b"ok"


@pytest.mark.parametrize(("status", "line"), [(299, "HTTP/1.1 299 "), (599, "HTTP/1.1 599 "), (418, "HTTP/1.1 418")])
async def test_any_status(server: Server, status: int, line: str) -> None:
    """Those nobody has heard of, too."""

    async def room(_: Request, __: Upload | None) -> Answer:
        return answered(b"ok", status=status)

    server.room = room
    async with Line(server.port) as connection:
        connection.say("GET /raw/m/a")
        head, body = await connection.hear()
    assert head[0].startswith(line)
    assert body == b"ok"


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("body", [b"", b"never"])
async def test_statuses_without_a_body(server: Server, status: int, body: bytes) -> None:
    """Whatever the upstream sends behind such a head; the next answer begins where it should."""

    async def room(request: Request, _: Upload | None) -> Answer:
        return answered(body, (("ETag", '"1"'),), status=status) if request.path.endswith("a") else answered()

    server.room = room
    async with Line(server.port) as line:
        line.say("GET /raw/m/a")
        line.say("GET /raw/m/b")
        head = await line.head()
        assert head[0].startswith(f"HTTP/1.1 {status} ")
        framing = ("content-length", "transfer-encoding", "content-security")
        assert not [each for each in head if each.lower().startswith(framing)]
        assert (await line.hear())[1] == b"ok"


async def pieces(*given: bytes, failure: Exception | None = None) -> AsyncGenerator[bytes, None]:
    """These, and then the failure."""
    for each in given:
        yield each
    if failure is not None:
        raise failure


def flowing(*given: bytes, stop: int | None, failure: Exception | None = None) -> Room:
    """A room that passes a body on as it comes."""

    async def room(_: Request, __: Upload | None) -> Answer:
        return Answer(200, (), Flow(b"", pieces(*given, failure=failure)), STATUS, stop=stop, raw=True)

    return room


async def test_a_flow_of_known_length(server: Server) -> None:
    """It has its length, and the connection lives on; a HEAD has the length alone."""
    server.room = flowing(b"abc", BIG, stop=3 + len(BIG))
    async with Line(server.port) as line:
        line.say("HEAD /raw/m/a")
        head = await line.head()
        assert f"Content-Length: {3 + len(BIG)}" in head
        line.say("GET /raw/m/a")
        assert (await line.hear())[1] == b"abc" + BIG


async def test_a_flow_of_unknown_length(server: Server) -> None:
    """In chunks, and to a client of HTTP/1.0 until the connection closes: even if that would keep it."""
    server.room = flowing(b"abc", b"def", stop=None)
    async with Line(server.port) as line:
        line.say("GET /raw/m/a")
        assert "Transfer-Encoding: chunked" in await line.head()
        assert await line.reader.readuntil(b"0\r\n\r\n") == chunked(b"abc", b"def")
        line.say("GET /raw/m/a", ["Connection: keep-alive"], version="1.0")
        head = await line.head()
        assert not [each for each in head if each.lower().startswith(("transfer-encoding", "content-length"))]
        assert "Connection: keep-alive" not in head
        assert await line.reader.read() == b"abcdef"


@pytest.mark.parametrize("given", [(b"abc",), (), (b"abc", b"def"), (b"abcde",)], ids=len)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_flow_of_another_length(server: Server, given: Sequence[bytes], version: str) -> None:
    """Cut, not ended: nothing of another length is taken for the whole."""
    server.room = flowing(*given, stop=4)
    async with Line(server.port) as line:
        line.say("GET /raw/m/a", version=version)
        with pytest.raises(ConnectionResetError):
            await line.reader.read()
    outcome = await server.over()
    assert (outcome.aborted, outcome.because) == (True, "the body is not as long as its head says")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("stop", [None, 100])
async def test_a_flow_that_fails(server: Server, version: str, stop: int | None) -> None:
    """A reset, in every framing."""
    server.room = flowing(b"abc", stop=stop, failure=ProxyError("cut"))
    async with Line(server.port) as line:
        line.say("GET /raw/m/a", version=version)
        with pytest.raises(ConnectionResetError):
            await line.reader.read()
    assert (await server.over()).because == "cut"


def test_a_query_of_many_fields_is_not_looked_at() -> None:
    """Only pages know a ``?format=``."""
    request = translated(make_mocked_request("GET", "/raw/m/?" + "a&" * 1000), ("main",), "main", mounts=MOUNTS)
    assert request.target == RawTarget("m", "?" + "a&" * 1000)
