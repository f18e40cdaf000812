"""One request to an upstream, against servers on raw sockets that misbehave on purpose."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy import __version__
from proxy.breaker import Patience
from proxy.calls import Site
from proxy.connections import Budget
from proxy.core.messages import Head
from proxy.credentials import Basic, Bearer, Kept, Word, read_token
from proxy.errors import UpstreamFailed
from proxy.replies import Reply
from proxy.unpacking import Gunzip, read_body
from proxy.upstream import Upstream
from tests.harness.responder import (
    OK,
    PATIENCE,
    Answer,
    Conversation,
    Responder,
    Serve,
    body,
    eventually,
    head,
    moved,
    responders,
    then_close,
    then_reset,
    then_silence,
)

Ask = Callable[..., Upstream]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """``await serve(*answers, host=, tls=)`` starts a responder on a free port."""
    async with responders() as start:
        yield start


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """``ask(site, ..., budget=, patience=)`` makes an Upstream that is closed with the test."""
    async with AsyncExitStack() as running:

        def make(
            *sites: Site | str,
            budget: Budget | None = None,
            files: Budget | None = None,
            patience: Patience | None = None,
        ) -> Upstream:
            named = [each if isinstance(each, Site) else Site("test", each) for each in sites]
            pages = budget or Budget(total=PATIENCE)
            upstream = Upstream(named, pages=pages, files=files or pages, patience=patience)
            running.push_async_callback(upstream.close)
            return upstream

        yield make


async def fetch(upstream: Upstream, url: str, **options: Any) -> tuple[Reply, bytes]:
    """The reply and its whole body as it came."""
    options = {"pool": "page", "headers": {}} | options
    async with upstream.open(options.pop("index", "test"), url, **options) as reply:
        return reply, b"".join([chunk async for chunk in reply.chunks])


async def failing(upstream: Upstream, url: str, **options: Any) -> UpstreamFailed:
    """The failure, after checking that it can be shown and logged."""
    with pytest.raises(UpstreamFailed) as caught:
        await fetch(upstream, url, **options)
    failure = caught.value
    assert failure.status in (502, 503)
    assert (failure.retry_after is None) == (failure.status == 502)
    return failure


# --- what goes out and what comes back


async def test_the_request_is_ours_to_the_byte(serve: Serve, ask: Ask) -> None:
    """Nothing but Host, our constants and what the caller said; the URL keeps its spelling."""
    responder = await serve(OK)
    path = "/a%2Fb/%7e;x/..//?q=%20&y=a+b%2B"
    await fetch(ask(responder.url()), responder.url(path + "#fragment"), headers={"Accept": "text/html"})
    lines = responder.requests[0].decode().split("\r\n")
    assert lines[0] == f"GET {path} HTTP/1.1"
    assert sorted(line.lower() for line in lines[1:] if line) == [
        "accept-encoding: gzip",
        "accept: text/html",
        f"host: 127.0.0.1:{responder.port}",
        f"user-agent: pip-cache-proxy/{__version__}",
    ]


async def test_files_are_asked_for_without_coding(serve: Serve, ask: Ask) -> None:
    """A file comes as it is."""
    responder = await serve(OK)
    await fetch(ask(responder.url()), responder.url("/f"), pool="file")
    assert b"accept-encoding: identity\r\n" in responder.requests[0].lower()


async def test_no_cookie_comes_back(serve: Serve, ask: Ask) -> None:
    """What an upstream sets is forgotten."""
    responder = await serve(body(b"", "Set-Cookie: a=b; Path=/"))
    upstream = ask(responder.url())
    for _ in range(2):
        await fetch(upstream, responder.url())
    assert b"cookie" not in responder.requests[1].lower()


async def test_the_environment_is_not_asked(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither proxy variables nor netrc change where a request goes or what it says."""
    responder, other = await serve(OK), await serve(OK)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, other.url())
    await fetch(ask(responder.url()), responder.url())
    assert other.connections == 0
    assert b"authorization" not in responder.requests[0].lower()


async def test_the_head_is_kept_as_it_came(serve: Serve, ask: Ask) -> None:
    """Order, spelling and repetition of fields survive; octets beyond ASCII do no harm."""
    responder = await serve(head("X-b: 1", "x-A: \xe9", "X-b: 2", "Content-Length: 0", status="404 No"))
    reply, _ = await fetch(ask(responder.url()), responder.url())
    assert reply.head.status == 404
    assert reply.head.headers == (("X-b", "1"), ("x-A", "\xe9"), ("X-b", "2"), ("Content-Length", "0"))
    assert reply.head.asked_at <= reply.head.received_at


CHUNKED = head("Transfer-Encoding: chunked") + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "length", "framed", "content"),
    [
        (body(b"abc"), 3, True, b"abc"),
        (body(b""), 0, True, b""),
        (CHUNKED, None, True, b"abcde"),
        (then_close(head() + b"abc"), None, False, b"abc"),
        (then_close(b"HTTP/1.0 200 OK\r\n\r\nabc"), None, False, b"abc"),
        (head(status="204 No Content"), None, True, b""),
        (body(b"abc", "Content-Encoding: gzip"), 3, True, b"abc"),
        (head("Content-Length: 2") + b"ok", 2, True, b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, 2, True, b"ok"),
    ],
)
async def test_framings(
    serve: Serve, ask: Ask, answer: Answer, length: int | None, framed: bool, content: bytes
) -> None:
    """Content-Length, chunked and close-delimited bodies arrive raw, and the caller learns which it was."""
    responder = await serve(answer)
    reply, received = await fetch(ask(responder.url()), responder.url())
    assert (reply.length, reply.framed, received) == (length, framed, content)


async def test_head_requests(serve: Serve, ask: Ask) -> None:
    """HEAD stays HEAD, has a length and no body, and its connection is used again."""
    to_b = head("Location: /b", "Content-Length: 4", status="302 Found")
    responder = await serve(to_b, head("Content-Length: 1000"))
    upstream = ask(responder.url())
    for _ in range(2):
        reply, received = await fetch(upstream, responder.url(), method="HEAD")
        assert (reply.length, reply.framed, received) == (1000, True, b"")
    assert [request.split()[0] for request in responder.requests] == [b"HEAD"] * 3
    assert responder.connections == 1


async def test_conditions_and_ranges_that_were_asked(serve: Serve, ask: Ask) -> None:
    """304 and 206 are answers to those who asked for them."""
    part = head("Content-Length: 1", "Content-Range: bytes 0-0/5", status="206 Partial") + b"x"
    responder = await serve(head(status="304 Not Modified"), part)
    upstream = ask(responder.url())
    reply, _ = await fetch(upstream, responder.url(), headers={"If-None-Match": '"a"'})
    assert reply.head.status == 304
    reply, received = await fetch(upstream, responder.url(), headers={"Range": "bytes=0-0"})
    assert (reply.head.status, received) == (206, b"x")


async def test_big_bodies_come_in_small_chunks(serve: Serve, ask: Ask) -> None:
    """No chunk is larger than 256 KiB, and all of them make the body."""
    content = bytes(range(256)) * 8192
    responder = await serve(body(content))
    async with ask(responder.url()).open("test", responder.url(), pool="file", headers={}) as reply:
        chunks = [chunk async for chunk in reply.chunks]
    assert b"".join(chunks) == content
    assert max(map(len, chunks)) <= 256 * 1024


async def test_a_slow_reader_slows_the_upstream(serve: Serve, ask: Ask) -> None:
    """Of 64 MiB only what buffers hold leaves the upstream before anyone reads; no idle timer runs then."""
    sent, stuck, block, count = 0, asyncio.Event(), bytes(256 * 1024), 256

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(head(f"Content-Length: {len(block) * count}"))
        for _ in range(count):
            writer.write(block)
            sent += len(block)
            draining = asyncio.ensure_future(writer.drain())
            if not (await asyncio.wait({draining}, timeout=0.5))[0]:
                stuck.set()
            await draining

    responder = await serve(pour)
    upstream = ask(responder.url(), budget=Budget(idle=0.2))
    async with upstream.open("test", responder.url(), pool="file", headers={}) as reply:
        received = len(await anext(reply.chunks))
        await asyncio.wait_for(stuck.wait(), PATIENCE)
        assert sent < 24 * 1024 * 1024
        received += sum([len(chunk) async for chunk in reply.chunks])
    assert received == sent == len(block) * count


# --- cuts, stalls and lies


@pytest.mark.parametrize(
    "answer",
    [
        then_close(head("Content-Length: 10") + b"short"),
        then_reset(head("Content-Length: 10") + b"short"),
        then_close(head("Content-Length: 10")),
        then_close(head("Transfer-Encoding: chunked") + b"5\r\nshort\r\n"),
        then_close(head("Transfer-Encoding: chunked") + b"9\r\nshort"),
        then_close(head("Transfer-Encoding: chunked") + b"5\r\nshort\r\n0\r\n"),
        then_reset(head("Transfer-Encoding: chunked") + b"5\r\nshort\r\n"),
    ],
)
async def test_a_cut_body_is_never_a_whole_one(serve: Serve, ask: Ask, answer: Answer) -> None:
    """Where framing shows the cut, the chunks end with a failure; it is not asked again, bytes have left."""
    responder = await serve(answer)
    assert (await failing(ask(responder.url()), responder.url())).status == 503
    assert len(responder.requests) == 1


async def test_broken_chunks(serve: Serve, ask: Ask) -> None:
    """A chunk size that is none cuts the body, also of a file, for which no total time is set."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head("Transfer-Encoding: chunked") + b"2\r\nab\r\n")
        await go_on.wait()
        writer.write(b"zz\r\nab\r\n")

    go_on = asyncio.Event()
    responder = await serve(answer)
    upstream = ask(responder.url(), files=Budget(idle=10 * PATIENCE))
    async with upstream.open("test", responder.url(), pool="file", headers={}) as reply:
        assert await anext(reply.chunks) == b"ab"
        go_on.set()
        with pytest.raises(UpstreamFailed) as caught:
            await asyncio.wait_for(anext(reply.chunks), PATIENCE)
    assert caught.value.because == "the body was cut"


async def test_more_than_declared_after_the_head(serve: Serve, ask: Ask) -> None:
    """The body ends where it was declared to end, and its connection is not used again."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head("Content-Length: 4") + b"bo")
        await go_on.wait()
        writer.write(b"dy" + body(b"poison"))

    go_on = asyncio.Event()
    responder = await serve(answer, OK)
    upstream = ask(responder.url())
    async with upstream.open("test", responder.url(), pool="page", headers={}) as reply:
        assert await anext(reply.chunks) == b"bo"
        go_on.set()
        assert b"".join([chunk async for chunk in reply.chunks]) == b"dy"
    assert (await fetch(upstream, responder.url()))[1] == b"ok"
    assert responder.connections == 2


async def test_a_reset_without_framing_is_marked(serve: Serve, ask: Ask) -> None:
    """A close-delimited body that is reset either fails or says that its end proves nothing."""
    responder = await serve(then_reset(head() + b"short"))
    with suppress(UpstreamFailed):
        reply, _ = await fetch(ask(responder.url()), responder.url())
        assert not reply.framed


PROTOCOL_ERRORS = {
    "not modified, unasked": head(status="304 Not Modified"),
    "a part, unasked": head("Content-Length: 1", "Content-Range: bytes 0-0/5", status="206 P") + b"x",
    "two lengths": head("Content-Length: 2", "Content-Length: 3") + b"ok.",
    "the same length twice": head("Content-Length: 2", "Content-Length: 2") + b"ok",
    "a length and chunks": head("Content-Length: 2", "Transfer-Encoding: chunked") + b"2\r\nok\r\n0\r\n\r\n",
    "chunks and a length": head("Transfer-Encoding: chunked", "Content-Length: 2") + b"2\r\nok\r\n0\r\n\r\n",
    "an unknown coding": head("Transfer-Encoding: gzip, chunked") + b"2\r\nok\r\n0\r\n\r\n",
    "a coding that ends with the connection": then_close(head("Transfer-Encoding: gzip") + b"ok"),
    "chunks from HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "a bad length": head("Content-Length: two") + b"ok",
    "a negative length": head("Content-Length: -2") + b"ok",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "another protocol": head("Upgrade: x", "Connection: upgrade", status="101 Switching Protocols"),
    "a long field": head("X-Long: " + "x" * 9000, "Content-Length: 0"),
    "a long reason": head("Content-Length: 0", status="200 " + "x" * 9000),
    "many fields": head(*(f"X-{n}: {n}" for n in range(2000)), "Content-Length: 0"),
    "more than declared": OK + b"more",
}


@pytest.mark.parametrize("name", PROTOCOL_ERRORS)
async def test_a_protocol_error_is_asked_again_once(serve: Serve, ask: Ask, name: str) -> None:
    """Twice wrong is a 503, for it may pass; wrong and then right is an answer."""
    responder = await serve(PROTOCOL_ERRORS[name])
    assert (await failing(ask(responder.url()), responder.url())).status == 503
    assert len(responder.requests) == 2
    responder = await serve(PROTOCOL_ERRORS[name], OK)
    assert (await fetch(ask(responder.url()), responder.url()))[1] == b"ok"


async def test_what_comes_unasked_is_no_answer(serve: Serve, ask: Ask) -> None:
    """A second response on an idle connection is not handed to the next request (RFC 9112 §9.2)."""
    sent = asyncio.Event()

    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        await received.wait()
        writer.write(body(b"poison"))
        await writer.drain()
        sent.set()

    received = asyncio.Event()
    responder = await serve(twice, OK)
    upstream = ask(responder.url())
    assert (await fetch(upstream, responder.url()))[1] == b"ok"
    received.set()
    await sent.wait()
    connector = upstream._sessions["test", "page"].connector
    assert connector is not None
    await eventually(lambda: any(len(held) for each in connector._conns.values() for held, _ in each))
    assert (await fetch(upstream, responder.url()))[1] == b"ok"
    assert responder.connections == 2


async def test_a_stalled_body(serve: Serve, ask: Ask) -> None:
    """Silence in the body for longer than ``idle`` is a failure."""
    responder = await serve(then_silence(head("Content-Length: 10") + b"short"))
    failure = await failing(ask(responder.url(), budget=Budget(idle=0.1)), responder.url())
    assert (failure.status, failure.because) == (503, "the body came to a stop")


def trickle(count: int, piece: bytes = b"x") -> Conversation:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(f"Content-Length: {count * len(piece)}"))
        for _ in range(count):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)

    return answer


async def test_a_trickled_page_and_a_trickled_file(serve: Serve, ask: Ask) -> None:
    """``total`` ends a page that never stops; a file may take its time as long as bytes come, of which less than
    1 KiB/s over ``idle`` seconds are none."""
    piece = bytes(1000)
    responder = await serve(trickle(20, piece), trickle(20, piece), trickle(200))
    upstream = ask(responder.url(), budget=Budget(total=0.3), files=Budget(idle=0.5))
    assert (await failing(upstream, responder.url())).status == 503
    assert (await fetch(upstream, responder.url(), pool="file"))[1] == piece * 20
    with pytest.raises(UpstreamFailed) as caught:
        await fetch(upstream, responder.url(), pool="file")
    assert (caught.value.status, caught.value.because) == (503, "the body came to a stop")


async def test_time_that_we_do_not_read_is_not_the_upstreams(serve: Serve, ask: Ask) -> None:
    """A few bytes that lie ready came in time, however late we read them."""
    done = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head())
        for _ in range(16):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)
        done.set()
        await go_on.wait()
        writer.close()

    go_on = asyncio.Event()
    responder = await serve(answer)
    upstream = ask(responder.url(), files=Budget(idle=0.5))
    async with upstream.open("test", responder.url(), pool="file", headers={}) as reply:
        received = await anext(reply.chunks)
        await asyncio.wait_for(done.wait(), PATIENCE)
        received += await anext(reply.chunks)
        go_on.set()
        assert received + b"".join([chunk async for chunk in reply.chunks]) == b"x" * 16


async def test_no_head_in_time(serve: Serve, ask: Ask) -> None:
    """Silence before the head is tried again ``retries`` times; where there is a ``total``, as of a page, it is not."""
    responder = await serve(then_silence(b""))
    assert (await failing(ask(responder.url(), budget=Budget(idle=0.1)), responder.url())).status == 503
    assert len(responder.requests) == 3
    responder = await serve(then_silence(b""))
    assert (await failing(ask(responder.url(), budget=Budget(idle=0.1, total=60)), responder.url())).status == 503
    assert len(responder.requests) == 1
    responder = await serve(then_silence(b""))
    failure = await failing(ask(responder.url(), budget=Budget(total=0.2)), responder.url())
    assert failure.because == "no answer in time"
    assert len(responder.requests) == 1


class Mute:
    """Accepts and says nothing."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError):
            await reader.read()
        writer.close()


async def test_connect_covers_tls_and_all_addresses(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and is then silent holds nobody, and its other addresses get no time of their own."""
    monkeypatch.setattr(socket, "getaddrinfo", Names(index=("127.0.0.1 127.0.0.1 127.0.0.1",)))
    mute = Mute()
    async with AsyncExitStack() as running:
        server = await asyncio.start_server(mute.converse, "127.0.0.1", 0)
        running.callback(server.close)
        mute.port = server.sockets[0].getsockname()[1]
        url = f"https://index.example.com:{mute.port}/"
        failure = await failing(ask(url, budget=Budget(connect=0.2, retries=0)), url)
    assert failure.status == 503
    assert mute.connections == 1


# --- retries


async def test_lost_before_the_head(serve: Serve, ask: Ask) -> None:
    """Twice lost and then answered is an answer; three times is a 503; nothing is asked a fourth time."""
    responder = await serve(then_close(b""), then_reset(b""), OK)
    assert (await fetch(ask(responder.url()), responder.url()))[1] == b"ok"
    responder = await serve(then_close(b"HTTP/1.1 200"))
    assert (await failing(ask(responder.url()), responder.url())).status == 503
    assert len(responder.requests) == 3


async def test_refused(serve: Serve, ask: Ask) -> None:
    """Nobody listens: 503, with words of our own and no exception of aiohttp."""
    responder = await serve(OK)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}/path?token=secret"
    failure = await failing(ask(responder.url()), url)
    assert failure.status == 503
    shown = "".join(traceback.format_exception(failure))
    assert "secret" not in shown
    assert "aiohttp.client_exceptions" not in shown
    assert failure.__cause__ is None


async def test_a_kept_alive_connection_that_is_gone(serve: Serve, ask: Ask) -> None:
    """The peer closed it between two requests: the next one gets another."""
    responder = await serve(then_close(OK), OK)
    upstream = ask(responder.url())
    for _ in range(3):
        assert (await fetch(upstream, responder.url()))[1] == b"ok"
    assert responder.connections == 2


async def test_kept_alive_connections_that_are_gone_say_nothing_of_the_origin(serve: Serve, ask: Ask) -> None:
    """A firewall forgets them all at one time: those who find out do not make it rest for everybody."""
    responder = await serve(OK, then_reset(b""), OK)
    upstream = ask(responder.url(), budget=Budget(total=PATIENCE, retries=0), patience=Patience(failures=1))
    await fetch(upstream, responder.url())
    assert (await failing(upstream, responder.url())).because == "connection lost before the answer"
    assert (await fetch(upstream, responder.url()))[1] == b"ok"


@pytest.mark.parametrize("status", ["500 E", "501 N"])
async def test_a_head_that_fails_says_nothing_of_the_origin(serve: Serve, ask: Ask, status: str) -> None:
    """Some servers know no HEAD; installers that try it on a few files do not make the host rest for everybody."""
    responder = await serve(head("Content-Length: 0", status=status), OK)
    upstream = ask(responder.url(), patience=Patience(failures=1))
    await fetch(upstream, responder.url(), method="HEAD")
    assert (await fetch(upstream, responder.url()))[1] == b"ok"


@pytest.mark.parametrize("status", ["400 B", "401 U", "403 F", "404 N", "410 G", "429 T", "500 E", "503 U"])
async def test_an_answer_is_an_answer(serve: Serve, ask: Ask, status: str) -> None:
    """Whatever the status, it is not asked again here."""
    responder = await serve(head("Content-Length: 0", "Retry-After: 1", status=status))
    reply, _ = await fetch(ask(responder.url()), responder.url())
    assert reply.head.status == int(status[:3])
    assert len(responder.requests) == 1


# --- redirects


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
async def test_redirects_are_followed(serve: Serve, ask: Ask, status: str) -> None:
    """Relative and absolute, to the end, whose URL the reply bears; the connection is used again."""
    other = await serve(body(b"there"))
    responder = await serve(moved("b%2F?x=%7E", status), moved("", status), moved(other.url("/c"), status))
    reply, received = await fetch(ask(responder.url()), responder.url("/a/"))
    assert received == b"there"
    assert reply.url == other.url("/c")
    assert responder.paths() == ["/a/", "/a/b%2F?x=%7E", "/a/b%2F?x=%7E"]
    assert (responder.connections, other.connections) == (1, 1)


async def test_redirects_end(serve: Serve, ask: Ask) -> None:
    """A loop is followed five times."""
    responder = await serve(moved("/again"))
    assert (await failing(ask(responder.url()), responder.url())).status == 502
    assert len(responder.requests) == 6


@pytest.mark.parametrize(
    "answer",
    [
        head("Content-Length: 0", status="302 F"),
        head("Location: /a", "Location: /b", "Content-Length: 0", status="302 F"),
        moved("ftp://example.com/"),
        moved("http://user:secret@127.0.0.1/"),
        moved("http://10.255.255.1/"),
        moved("http://[fe80::1]/"),
        moved("http://0/"),
        moved("http://224.0.0.1/"),
        moved("http://[::ffff:10.0.0.1]/"),
        moved("http://[64:ff9b::a9fe:a9fe]/latest/"),
    ],
)
async def test_redirects_that_are_refused(serve: Serve, ask: Ask, answer: bytes) -> None:
    """Each hop passes the guard; a redirect to nowhere is a failure too."""
    responder = await serve(answer)
    failure = await failing(ask(responder.url()), responder.url())
    assert (failure.status, len(responder.requests)) == (502, 1)


async def test_a_redirect_with_an_endless_body(serve: Serve, ask: Ask) -> None:
    """The body of a redirect is not waited for."""
    sent = head("Location: /b", "Content-Length: 99999999", status="302 F") + b"x" * 99999
    responder = await serve(then_silence(sent), OK)
    assert (await fetch(ask(responder.url()), responder.url()))[1] == b"ok"


async def test_credentials_go_to_their_own_origin(serve: Serve, ask: Ask) -> None:
    """Authorization stays with the index's origin; another port is another origin."""
    other = await serve(OK)
    responder = await serve(moved("/b"), moved(other.url()))
    await fetch(ask(responder.url()), responder.url(), headers={"Authorization": "Basic eDp5"})
    assert [b"Basic eDp5" in request for request in responder.requests + other.requests] == [True, True, False]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("pool", ["page", "file"])
async def test_an_index_is_shown_its_own_credentials(serve: Serve, ask: Ask, pool: str, method: str) -> None:
    """On every request to its origin, also after a redirect within; not where it redirects to, nor on a URL of
    another origin that a page names; and never another index's."""
    empty = head("Content-Length: 0")
    other = await serve(empty)
    there = [head(f"Location: {url}", "Content-Length: 0", status="302 F") for url in ("/b", other.url())]
    responder = await serve(*there, empty)
    site = Site("test", responder.url("/simple/"), credentials=Basic("reader", Word("secret")))
    upstream = ask(site, Site("plain", responder.url("/simple/")))
    for index, url in (("test", responder.url()), ("test", other.url()), ("plain", responder.url())):
        options = {"index": index, "pool": pool, "headers": {"Range": "bytes=0-1"}, "method": method}
        assert (await fetch(upstream, url, **options))[0].head.status == 200
    shown = [b"authorization: Basic cmVhZGVyOnNlY3JldA==\r\n" in request for request in responder.requests]
    assert shown == [True, True, False]
    assert [b"authorization" in request.lower() for request in other.requests] == [False, False]


async def test_another_origin_cannot_borrow_credentials(serve: Serve, ask: Ask) -> None:
    """Where it redirects to the index's own origin, we come as anybody."""
    responder = await serve(OK)
    other = await serve(moved(responder.url("/secret")))
    site = Site("test", responder.url("/simple/"), credentials=Basic("reader", Word("secret")))
    await fetch(ask(site), other.url())
    assert responder.paths() == ["/secret"]
    assert b"authorization" not in responder.requests[0].lower()


async def test_credentials_that_nobody_can_read(serve: Serve, ask: Ask, tmp_path: Path) -> None:
    """Nothing is sent then: an index that wants credentials is not asked without."""
    responder = await serve(OK)
    kept = Kept(tmp_path / "none", read_token)
    failure = await failing(ask(Site("test", responder.url(), credentials=Bearer(kept))), responder.url())
    assert (failure.because, failure.status) == ("the credentials of the index cannot be read", 502)
    assert responder.requests == []


@pytest.mark.parametrize(
    ("status", "missing", "seen"),
    [("403 F", {403}, 404), ("403 F", set(), 403), ("401 U", {403}, 401), ("404 N", {403}, 404), ("410 G", {403}, 410)],
)
async def test_a_status_that_means_missing(serve: Serve, ask: Ask, status: str, missing: set[int], seen: int) -> None:
    """What an operator lists becomes 404, on pages as on files."""
    responder = await serve(body(b"<Error/>").replace(b"200 OK", status.encode()))
    site = Site("test", responder.url(), missing=frozenset(missing))
    for pool in ("page", "file"):
        reply, _ = await fetch(ask(site), responder.url(), pool=pool)
        assert reply.head.status == seen


# --- the egress guard


class Names:
    """A resolver of the system's, scripted: each look-up of a name takes its next answer, the last stays."""

    def __init__(self, **answers: tuple[str, ...]) -> None:
        self.answers = {f"{name}.example.com": list(each) for name, each in answers.items()}
        self.asked: list[str] = []

    def __call__(self, host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host not in self.answers:
            return self.system(host, port, *rest, **options)
        self.asked.append(host)
        answers = self.answers[host]
        given = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (each, port, 0, 0))
            if ":" in each
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in given.split()
        ]

    system = staticmethod(socket.getaddrinfo)


INDEX = "http://192.0.2.1/simple/"
"""Configured, never connected to: an address of documentation (RFC 5737), neither loopback nor private."""


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1.2.3",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.1.",
        "0.0.0.0",
        "0",
        "localhost",
        "LOCALHOST.",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "both.example.com",
        "inner.example.com",
        "mapped.example.com",
    ],
)
@pytest.mark.parametrize("private", [False, True])
async def test_nobody_is_led_to_this_machine(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch, host: str, private: bool
) -> None:
    """However a page spells loopback, and whatever a name resolves to: not one connection."""
    canaries = [await serve(OK), await serve(OK, host="::1")]
    names = Names(both=("::1 127.0.0.1",), inner=("127.0.0.1",), mapped=("::ffff:127.0.0.1",))
    monkeypatch.setattr(socket, "getaddrinfo", names)
    upstream = ask(Site("test", INDEX, private))
    for canary in canaries:
        failure = await failing(upstream, canary.url("/x", host))
        # A spelling that no resolver takes is a name that does not resolve.
        assert failure.status == 502 or failure.because == "the host name cannot be resolved"
        assert canary.connections == 0


async def test_a_name_that_is_bound_again(serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that is judged is the one that is connected to, whatever the name said before."""
    canary = await serve(OK)
    names = Names(files=("203.0.113.1 192.0.2.1", "127.0.0.1"), index=("198.51.100.1", "127.0.0.1"))
    monkeypatch.setattr(socket, "getaddrinfo", names)
    upstream = ask("http://index.example.com/simple/")
    for pool in ("page", "file"):
        assert (await failing(upstream, canary.url("/x", "files.example.com"), pool=pool)).status == 502
    assert names.asked.count("files.example.com") == 2
    assert canary.connections == 0


async def test_another_name_for_the_index(serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of an index inside may name hosts at the index's own addresses, looked up once a minute."""
    responder = await serve(OK)
    names = Names(index=("127.0.0.1",), files=("127.0.0.1",))
    monkeypatch.setattr(socket, "getaddrinfo", names)
    upstream = ask(responder.url(host="index.example.com"))
    for host in ("index.example.com", "files.example.com", "127.0.0.1", "localhost"):
        assert (await fetch(upstream, responder.url("/x", host)))[1] == b"ok"
    assert names.asked.count("index.example.com") == 2  # to connect, and to know its addresses


async def test_the_allowed_one_of_several_addresses(serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbidden addresses of a name are passed over, also in the race between address families."""
    responder, canary = await serve(OK), await serve(OK, host="::1")
    names = Names(files=("fe80::1 10.0.0.1 127.0.0.1",))
    monkeypatch.setattr(socket, "getaddrinfo", names)
    assert (await fetch(ask(responder.url()), responder.url("/", "files.example.com")))[1] == b"ok"
    assert canary.connections == 0


async def test_http_only_where_configured(serve: Serve, ask: Ask) -> None:
    """An index that is configured as https never leads to http."""
    canary = await serve(OK)
    upstream = ask("https://127.0.0.1/simple/")
    assert (await failing(upstream, canary.url())).status == 502
    assert (await failing(upstream, canary.url(host="user@127.0.0.1", scheme="https"))).status == 502
    assert canary.connections == 0


# --- TLS


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """A server's context for 127.0.0.1 and example.com."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "example.com").configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


async def test_a_ca_file_is_trusted(serve: Serve, ask: Ask, tls: ssl.SSLContext, ca_file: str) -> None:
    """With the index's CA file its certificate is good, over one connection for two requests."""
    responder = await serve(OK, tls=tls)
    url = responder.url(scheme="https")
    upstream = ask(Site("test", url, ca_file=ca_file))
    for _ in range(2):
        assert (await fetch(upstream, url))[1] == b"ok"
    assert responder.connections == 1


async def test_an_unknown_ca_is_not_trusted(serve: Serve, ask: Ask, tls: ssl.SSLContext, ca_file: str) -> None:
    """Without it, with another one, or under another name nothing is asked; what one index trusts, only it does."""
    responder = await serve(OK, tls=tls)
    url = responder.url(scheme="https")
    other = Path(ca_file).with_name("other.pem")
    trustme.CA().cert_pem.write_to_path(str(other))
    upstream = ask(Site("a", url), Site("b", url, ca_file=str(other)), Site("c", url, ca_file=ca_file))
    await fetch(upstream, url, index="c")
    for index, named in (("a", url), ("b", url), ("c", responder.url(host="localhost", scheme="https"))):
        failure = await failing(upstream, named, index=index)
        assert (failure.status, failure.because) == (503, "no trusted TLS connection")
    assert len(responder.requests) == 1


async def test_a_ca_file_that_is_none(ask: Ask, tmp_path: Path) -> None:
    """Missing or not a certificate: 502, and no connection with less trust instead."""
    (tmp_path / "bad.pem").write_text("nothing")
    for name in ("bad.pem", "missing.pem"):
        site = Site("test", "https://127.0.0.1:1/", ca_file=str(tmp_path / name))
        assert (await failing(ask(site), site.url)).status == 502


async def test_never_from_https_to_http(serve: Serve, ask: Ask, tls: ssl.SSLContext, ca_file: str) -> None:
    """A redirect does not take TLS away, also for an index configured as http."""
    canary = await serve(OK)
    responder = await serve(moved(canary.url()), tls=tls)
    secure = responder.url(scheme="https")
    for configured in (secure, responder.url()):
        upstream = ask(Site("test", configured, ca_file=ca_file))
        assert (await failing(upstream, secure)).status == 502
    assert canary.connections == 0


# --- a forward proxy


def tunnel(target: Responder) -> Conversation:
    """The 200 to a CONNECT, then every byte to ``target``, whatever name was asked for."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", target.port)
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        await asyncio.gather(pump(reader, outer), pump(inner, writer))

    return answer


async def test_http_through_a_forward_proxy(serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute form (RFC 9112 §3.2.2), spelled as the URL; names are the proxy's business."""
    names = Names(index=("127.0.0.1",), files=("127.0.0.1",))
    monkeypatch.setattr(socket, "getaddrinfo", names)
    forward = await serve(OK)
    site = Site("test", "http://index.example.com/simple/", proxy=forward.url(host="u:p@127.0.0.1"))
    upstream = ask(site)
    for url in ("http://index.example.com/a%2Fb?%7e", "http://files.example.com:81/x"):
        assert (await fetch(upstream, url))[1] == b"ok"
    assert forward.paths() == ["http://index.example.com/a%2Fb?%7e", "http://files.example.com:81/x"]
    assert all(b"Proxy-Authorization: Basic dTpw\r\n" in request for request in forward.requests)
    assert names.asked == []


async def test_https_through_a_forward_proxy(serve: Serve, ask: Ask, tls: ssl.SSLContext, ca_file: str) -> None:
    """A tunnel, with TLS checked against the name inside it."""
    responder = await serve(OK, tls=tls)
    forward = await serve(tunnel(responder))
    proxy = forward.url(host="u:p@127.0.0.1")
    known = Basic("reader", Word("secret"))
    site = Site("test", "https://example.com/simple/", proxy=proxy, ca_file=ca_file, credentials=known)
    upstream = ask(site)
    assert "u:p" not in repr(site)
    assert (await fetch(upstream, "https://example.com/x"))[1] == b"ok"
    assert forward.requests[0].startswith(b"CONNECT example.com:443 HTTP/1.1\r\n")
    assert f"user-agent: pip-cache-proxy/{__version__}\r\n".encode() in forward.requests[0].lower()
    assert b"python" not in forward.requests[0].lower()
    assert b"cmVhZGVyOnNlY3JldA==" not in forward.requests[0]
    assert responder.requests[0].count(b"uthorization: ") == 1
    assert b"authorization: Basic cmVhZGVyOnNlY3JldA==\r\n" in responder.requests[0]
    failure = await failing(upstream, "https://example.org/x")
    assert failure.because == "no trusted TLS connection"


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "1.1.1.1", "[::1]", "0x7f.1", "2130706433", "inner"])
async def test_inner_hosts_behind_a_forward_proxy(serve: Serve, ask: Ask, host: str) -> None:
    """The proxy would connect where we would not: literals and single labels are not asked for."""
    forward = await serve(OK)
    upstream = ask(Site("test", "http://index.example.com/", proxy=forward.url()))
    assert (await failing(upstream, f"http://{host}/x")).status == 502
    assert forward.connections == 0


@pytest.mark.parametrize(
    ("answer", "status"),
    [(head("Content-Length: 0", status="407 P"), 502), (head("Content-Length: 0", status="502 B"), 503)],
)
async def test_a_forward_proxy_that_refuses(serve: Serve, ask: Ask, answer: bytes, status: int) -> None:
    """What a proxy says to a CONNECT is not the upstream's answer."""
    forward = await serve(answer)
    upstream = ask(Site("test", "https://example.com/", proxy=forward.url()))
    assert (await failing(upstream, "https://example.com/")).status == status


# --- pools, cancellation, the end


async def test_waiting_for_a_connection_is_not_connecting(serve: Serve, ask: Ask) -> None:
    """A full pool makes a request wait, longer than ``connect``; files in their own pool do not."""
    responder = await serve(then_silence(head("Content-Length: 10") + b"short"), OK)
    budget = Budget(connect=0.1, retries=0, pool=1, pool_per_host=1)
    upstream = ask(responder.url(), budget=budget)
    async with upstream.open("test", responder.url(), pool="page", headers={}):
        waiting = asyncio.create_task(fetch(upstream, responder.url("/next")))
        assert (await fetch(upstream, responder.url("/file"), pool="file"))[1] == b"ok"
        done, _ = await asyncio.wait({waiting}, timeout=4 * budget.connect)
        assert not done
        assert responder.paths() == ["/", "/file"]
    assert (await waiting)[1] == b"ok"


async def test_indexes_share_no_connection(serve: Serve, ask: Ask) -> None:
    """Nor do pages and files: four sessions, four connections."""
    responder = await serve(OK)
    upstream = ask(Site("a", responder.url()), Site("b", responder.url()))
    for index in ("a", "b", "a", "b"):
        for pool in ("page", "file"):
            await fetch(upstream, responder.url(), index=index, pool=pool)
    assert (responder.connections, len(responder.requests)) == (4, 8)


async def test_leaving_early_frees_the_connection(serve: Serve, ask: Ask) -> None:
    """Cancelled before the head, or left before the end of the body: closed, and its place is free."""
    gone = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal gone
        if len(responder.requests) == 2:
            writer.write(head("Content-Length: 10") + b"short")
        await reader.read()
        gone += 1

    responder = await serve(endless, endless, OK)
    upstream = ask(responder.url(), budget=Budget(pool=1))
    cancelled = asyncio.create_task(fetch(upstream, responder.url()))
    await eventually(lambda: responder.requests)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    async with upstream.open("test", responder.url(), pool="page", headers={}) as reply:
        assert await anext(reply.chunks) == b"short"
    assert (await fetch(upstream, responder.url()))[1] == b"ok"
    await eventually(lambda: gone == 2)


async def test_close_ends_everything(serve: Serve, ask: Ask) -> None:
    """Bodies in flight and requests that wait fail with 503 as well as those that come later."""
    responder = await serve(then_silence(head("Content-Length: 10") + b"short"))
    upstream = ask(responder.url(), budget=Budget(pool=1))
    async with upstream.open("test", responder.url(), pool="page", headers={}) as reply:
        assert await anext(reply.chunks) == b"short"
        session = upstream._sessions["test", "page"]
        waiting = asyncio.create_task(failing(upstream, responder.url()))
        await eventually(lambda: session.connector and session.connector._waiters)
        await upstream.close()
        with pytest.raises(UpstreamFailed):
            await anext(reply.chunks)
    assert (await waiting).status == 503
    assert (await failing(upstream, responder.url())).status == 503


# --- read_body


def reply_of(content: bytes, coding: str | None = None, *, step: int = 65536, length: int | None = None) -> Reply:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), step):
            yield content[start : start + step]

    headers = () if coding is None else (("Content-Encoding", coding),)
    return Reply(Head(200, headers, 0.0, 0.0), "https://example.com/", length, True, chunks())


TEXT = b"".join(b"%d," % n for n in range(200_000))
PACKED = gzip.compress(TEXT)


@pytest.mark.parametrize("step", [1, 7, 1000, 65536, 10_000_000])
@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZip", "identity, gzip"])
async def test_a_gzip_body_is_decoded(coding: str, step: int) -> None:
    """In whatever pieces it comes."""
    packed, text = (PACKED, TEXT) if step > 7 else (gzip.compress(TEXT[:50_000]), TEXT[:50_000])
    assert await read_body(reply_of(packed, coding, step=step), limit=len(text)) == text


@pytest.mark.parametrize("coding", [None, "", "identity", "identity,"])
async def test_an_identity_body_is_taken_as_it_is(coding: str | None) -> None:
    """Up to the limit and not a byte beyond."""
    assert await read_body(reply_of(PACKED, coding), limit=len(PACKED)) == PACKED
    with pytest.raises(UpstreamFailed):
        await read_body(reply_of(PACKED, coding), limit=len(PACKED) - 1)


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "gzip, br"])
async def test_other_codings_are_refused(coding: str) -> None:
    """Only gzip was asked for."""
    with pytest.raises(UpstreamFailed):
        await read_body(reply_of(PACKED, coding), limit=len(TEXT))


async def test_members_of_a_gzip_body() -> None:
    """RFC 1952 §2.2: members follow one another, within reason."""
    packed = b"".join(gzip.compress(bytes([n])) for n in range(100))
    assert await read_body(reply_of(packed, "gzip"), limit=100) == bytes(range(100))
    with pytest.raises(UpstreamFailed):
        await read_body(reply_of(gzip.compress(b"") * 2000, "gzip"), limit=100)


@pytest.mark.parametrize("cut", [0, 1, 9, 10, 11, len(PACKED) // 2, len(PACKED) - 8, len(PACKED) - 1])
async def test_a_gzip_body_cut_short(cut: int) -> None:
    """A stream that ends before its trailer is not a body, whatever its framing said."""
    with pytest.raises(UpstreamFailed) as caught:
        await read_body(reply_of(PACKED[:cut], "gzip"), limit=len(TEXT))
    assert caught.value.status == 503


@pytest.mark.parametrize(
    "tail",
    [b"\0", b"x", b"garbage" * 10, b"\x1f", PACKED[:50]],
    ids=["zero", "letter", "garbage", "first byte", "half a member"],
)
async def test_a_gzip_body_and_more(tail: bytes) -> None:
    """What follows the last member must be a whole member."""
    with pytest.raises(UpstreamFailed):
        await read_body(reply_of(PACKED + tail, "gzip"), limit=len(TEXT) * 2)


async def test_a_gzip_body_that_was_changed() -> None:
    """The checksum in the trailer is compared."""
    spoiled = PACKED[:-8] + bytes(4) + PACKED[-4:]
    with pytest.raises(UpstreamFailed):
        await read_body(reply_of(spoiled, "gzip"), limit=len(TEXT))
    with pytest.raises(UpstreamFailed):
        await read_body(reply_of(TEXT, "gzip"), limit=len(TEXT))


async def test_a_bomb_is_left_early() -> None:
    """Growth beyond the ratio ends it after about 1 MiB, the limit ends it at the limit."""
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    read = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal read
        for start in range(0, len(bomb), 1024):
            read += 1024
            yield bomb[start : start + 1024]

    reply = reply_of(b"", "gzip")
    for limit, ratio, most in ((1 << 30, 200, 16 * 1024), (4 << 20, 2000, 16 * 1024)):
        read = 0
        reply.chunks = chunks()
        with pytest.raises(UpstreamFailed):
            await read_body(reply, limit=limit, ratio=ratio)
        assert read <= most
    small = bytes(1024 * 1024)
    assert await read_body(reply_of(gzip.compress(small), "gzip"), limit=1 << 30, ratio=2) == small


def test_a_bomb_in_one_chunk() -> None:
    """What of a chunk is not decoded yet does not count for what was: it ends no later than in small chunks."""
    parts = Gunzip(1 << 30, 200).parts(gzip.compress(bytes(64 * 1024 * 1024)))
    with pytest.raises(UpstreamFailed):
        sum(len(next(parts)) for _ in range(8))  # of 256 KiB each


async def test_a_declared_length_over_the_limit_is_not_read() -> None:
    """Nothing of it is fetched."""
    reply = reply_of(b"x" * 100, length=100)
    with pytest.raises(UpstreamFailed):
        await read_body(reply, limit=99)
    assert await anext(reply.chunks) == b"x" * 100


async def test_a_truncated_gzip_page_whose_length_agrees(serve: Serve, ask: Ask) -> None:
    """The cut that framing cannot show, end to end."""
    responder = await serve(body(PACKED[:-20], "Content-Encoding: gzip"))
    async with ask(responder.url()).open("test", responder.url(), pool="page", headers={}) as reply:
        with pytest.raises(UpstreamFailed):
            await read_body(reply, limit=len(TEXT))
