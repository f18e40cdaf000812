"""Bodies and queries of the admin API, over real connections: what is let in, and what becomes of the connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from proxy.answer import Answer
from proxy.core.messages import CacheStatus
from proxy.errors import Refused
from proxy.web import asked
from proxy.web.asked import LARGEST, asked_by_body, asked_by_query
from proxy.web.listener import Listener
from proxy.web.models import ListQuery, PurgeRequest, RemoveRequest
from proxy.web.problems import problem
from proxy.web.sending import Sender, Sent

BODY = b'{"pattern": "six", "dry_run": true}'


async def handle(incoming: web.BaseRequest) -> web.StreamResponse:
    """Answers with what was asked, or with the refusal."""
    try:
        if incoming.method == "GET":
            model: ListQuery | RemoveRequest | PurgeRequest = asked_by_query(ListQuery, incoming)
        else:
            kind = PurgeRequest if incoming.raw_path == "/purge" else RemoveRequest
            model = await asked_by_body(kind, incoming)
        body = model.model_dump_json(exclude_defaults=True).encode()
        answer = Answer(200, (), body, CacheStatus("local", "asked"), stop=len(body))
    except Refused as refused:
        answer = problem(refused, accept=None, request_id="0123")
    return await Sender(stall=5).send(incoming, answer, Sent(answer.status))


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Of a server that answers so, made as the real one is."""
    async with AsyncExitStack() as running:
        listener = Listener(handle, connections_max=100, access_log=None, auto_decompress=False)
        running.push_async_callback(listener.shutdown, 1.0)
        sockets = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
        running.callback(sockets.close)
        yield sockets.sockets[0].getsockname()[1]


class Line:
    """One connection, on which several requests may go."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Line:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def say(self, *fields: str, body: bytes = b"", line: str = "POST /remove") -> None:
        """A head, and whatever follows it."""
        head = "".join(f"{each}\r\n" for each in (f"{line} HTTP/1.1", "Host: x", *fields))
        self.writer.write(head.encode("latin-1") + b"\r\n" + body)
        await self.writer.drain()

    async def hear(self) -> tuple[int, dict[str, str], bytes]:
        """The next response: status, fields, body."""
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, fields = head.split(" ", 2)[1], dict(each.split(": ", 1) for each in head.split("\r\n")[1:-2])
            body = await self.reader.readexactly(int(fields.get("Content-Length", 0)))
        return int(status), {name.lower(): value for name, value in fields.items()}, body

    async def ended(self) -> bool:
        """Whether the server closes the connection and says no more."""
        async with asyncio.timeout(20):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True


def length(body: bytes) -> str:
    """The field that says it."""
    return f"Content-Length: {len(body)}"


def chunked(body: bytes, size: int = 7) -> bytes:
    """The body in chunks."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces) + b"0\r\n\r\n"


CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ((length(BODY),), BODY),
        ((CHUNKED,), chunked(BODY)),
        ((CHUNKED, "Content-Type: text/plain"), chunked(BODY, 1)),
        ((length(BODY), "Content-Type: application/x-www-form-urlencoded"), BODY),
        ((length(BODY), "Content-Type: \xff;;"), BODY),
        ((length(BODY), "Content-Encoding: identity"), BODY),
        ((length(BODY.ljust(LARGEST)),), BODY.ljust(LARGEST)),
        ((CHUNKED,), chunked(BODY.ljust(LARGEST), 1000)),
    ],
)
async def test_bodies_let_in(port: int, fields: tuple[str, ...], body: bytes) -> None:
    """A JSON object up to the limit, framed either way, whatever it says its type is; and then the next one."""
    async with Line(port) as line:
        for _ in range(2):
            await line.say(*fields, body=body)
            assert (await line.hear())[::2] == (200, b'{"pattern":"six","dry_run":true}')


async def test_no_body_is_an_empty_object(port: int) -> None:
    """``curl -X POST`` sends none; where a field is needed it is missed as in any other."""
    async with Line(port) as line:
        for fields in ((), ("Content-Length: 0",)):
            await line.say(*fields, line="POST /purge")
            assert (await line.hear())[::2] == (200, b"{}")
        await line.say()
        status, _, body = await line.hear()
        assert (status, json.loads(body)["because"]) == (400, "pattern is required")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b" ",
        b"nul",
        b"{'pattern': 'six'}",
        b'{"pattern": "six",}',
        b'{"pattern": NaN}',
        b'\xef\xbb\xbf{"pattern": "six"}',
        b'{"pattern": "\xff"}',
        b'{"pattern": "\\ud800"}',
        b"pattern=six",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"pattern": ' + b"9" * 60_000 + b"}",
        b'{"pattern": 1e999}',
        b'"six"',
        b"[]",
        b"null",
        b"7",
        b"[" * 500 + b"]" * 500,
        b'{"pattern": {"pattern": "six"}}',
    ],
    ids=lambda body: body[:20],
)
async def test_what_is_no_object_of_ours(port: int, body: bytes) -> None:
    """400 for bad JSON and for good JSON of another shape, however deep and however long its numbers."""
    async with Line(port) as line:
        await line.say(length(body), body=body)
        status, fields, said = await line.hear()
        assert (status, fields["content-type"]) == (400, "application/problem+json")
        assert b"six" not in said
        await line.say(length(BODY), body=BODY)
        assert (await line.hear())[0] == 200


async def test_a_declared_length_beyond_the_limit(port: int) -> None:
    """413 before a byte of it was read, and the connection ends: nothing of the body is taken for a request."""
    async with Line(port) as line:
        await line.say("Content-Length: 999999999", body=b"x" * 1000)
        status, fields, _ = await line.hear()
        assert (status, fields["connection"]) == (413, "close")
        line.writer.write_eof()
        assert await line.ended()


async def test_chunks_beyond_the_limit(port: int) -> None:
    """413 as soon as they are more, though nobody has said how many there will be."""
    async with Line(port) as line:
        await line.say(CHUNKED, body=b"8000\r\n" + b"x" * 0x8000 + b"\r\n" + b"8001\r\n" + b"x" * 0x8001 + b"\r\n")
        status, fields, _ = await line.hear()
        assert (status, fields["connection"]) == (413, "close")
        line.writer.write_eof()
        assert await line.ended()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (("Content-Encoding: gzip",), 415),
        (("Content-Encoding: identity, gzip",), 415),
        (("Content-Encoding: ",), 415),
        (("Expect: something",), 417),
    ],
)
async def test_refused_by_the_head(port: int, fields: tuple[str, ...], status: int) -> None:
    """Whoever reads a small refused body on keeps the connection."""
    async with Line(port) as line:
        await line.say(length(BODY), *fields, body=BODY)
        assert (await line.hear())[0] == status
        await line.say(length(BODY), body=BODY)
        assert (await line.hear())[0] == 200


async def test_leave_to_send_a_body(port: int) -> None:
    """RFC 9110 §10.1.1: 100 when it is wanted, the refusal at once when it is not."""
    async with Line(port) as line:
        await line.say(length(BODY), "Expect: 100-Continue")
        assert (await line.hear())[0] == 100
        line.writer.write(BODY)
        assert (await line.hear())[0] == 200
        await line.say("Content-Length: 70000", "Expect: 100-continue")
        status, fields, _ = await line.hear()
        assert (status, fields["connection"]) == (413, "close")


@pytest.mark.parametrize(
    "body",
    [b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}XX0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n", b"fffffffffffffffff\r\n"],
)
@pytest.mark.parametrize("waits", [True, False])
async def test_broken_chunks(port: int, body: bytes, waits: bool) -> None:
    """400 and no more, whether they come with the head or after it: nobody knows where the next request begins."""
    async with Line(port) as line:
        if waits:
            await line.say(CHUNKED, "Expect: 100-continue", line="POST /purge")
            assert (await line.hear())[0] == 100
            line.writer.write(body)
        else:
            await line.say(CHUNKED, body=body, line="POST /purge")
        assert (await line.hear())[0] == 400
        assert await line.ended()


async def test_a_body_that_does_not_come(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """408, and the connection does not wait for the rest."""
    monkeypatch.setattr(asked, "WITHIN", 0.2)
    async with Line(port) as line:
        await line.say(length(BODY), body=BODY[:5])
        status, fields, _ = await line.hear()
        assert (status, fields["connection"]) == (408, "close")
        line.writer.write_eof()
        assert await line.ended()


async def test_a_body_that_ends_early(port: int) -> None:
    """A client that hangs up in the middle asks for nothing."""
    async with Line(port) as line:
        await line.say(length(BODY), body=BODY[:-1])
        line.writer.write_eof()
        assert await line.ended()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", {}),
        ("?", {}),
        ("?limit=5", {"limit": 5}),
        ("?pattern=six-1*&project=s%C3%A4x&index=a+b", {"pattern": "six-1*", "project": "säx", "index": "a b"}),
        ("?kind=wheel&kind=sdist", {"kind": ["wheel", "sdist"]}),
        ("?limit=5&limit=5", 400),
        ("?limit", 400),
        ("?limit=", 400),
        ("?token=canary", 400),
        ("?LIMIT=5", 400),
        ("?pattern=%ff", 400),
        ("?pattern=%ed%a0%80", 400),
        ("?pattern=\xe4", 400),
        ("?kind=egg", 400),
        ("?" + "kind=wheel&" * 65, 400),
        ("?kind=wheel&kind=wheel&kind=wheel&kind=wheel&kind=wheel", 400),
    ],
)
async def test_queries(port: int, query: str, said: object) -> None:
    """Known fields, each once, in UTF-8; nothing of a bad one comes back."""
    async with Line(port) as line:
        await line.say(line=f"GET /list{query}")
        status, _, body = await line.hear()
        assert (json.loads(body) if status == 200 else status) == said
        assert b"canary" not in body


async def test_a_change_has_no_query(port: int) -> None:
    """What is asked for stands in one place."""
    async with Line(port) as line:
        await line.say(length(BODY), body=BODY, line="POST /remove?pattern=six")
        assert (await line.hear())[0] == 400
