"""A client's request, passed on through a mount as it is: against servers on raw sockets."""

from __future__ import annotations

import asyncio
import resource
import socket
import traceback
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from proxy import upstream as upstream_module
from proxy.breaker import Patience
from proxy.calls import Site
from proxy.connections import Budget
from proxy.core.messages import Headers
from proxy.errors import Refused, UpstreamFailed
from proxy.events import UpstreamEvent
from proxy.replies import Reply
from proxy.upstream import Upstream
from tests.harness.responder import (
    OK,
    PATIENCE,
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

ALL = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PROPFIND", "M-SEARCH", "QUERY"]
SAFE = ["GET", "HEAD", "OPTIONS"]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """``await serve(*answers)`` starts a responder on a free port."""
    async with responders() as start:
        yield start


class Mounted:
    """An Upstream with one mount, and what it tells its observers."""

    def __init__(self, responder: Responder, budget: Budget, patience: Patience | None) -> None:
        self.told: list[UpstreamEvent] = []
        self.responder = responder
        self.upstream = Upstream(
            [Site("tree", responder.url("/tree/")), Site("index", responder.url("/simple/"))],
            pages=budget,
            files=budget,
            patience=patience,
            observers=(self.told.append,),
        )

    def forward(self, method: str = "GET", path: str = "/tree/a", headers: Headers = (), **more: Any) -> Any:
        """The context of one request."""
        url = more.pop("url", None) or self.responder.url(path)
        return self.upstream.forward("tree", url, method=method, headers=headers, **more)

    async def fetch(self, method: str = "GET", path: str = "/tree/a", **more: Any) -> tuple[Reply, bytes]:
        """The reply and its whole body."""
        async with asyncio.timeout(PATIENCE), self.forward(method, path, **more) as reply:
            return reply, b"".join([chunk async for chunk in reply.chunks])

    async def failing(self, method: str = "GET", path: str = "/tree/a", **more: Any) -> UpstreamFailed:
        """The failure, after checking that it can be shown and logged."""
        with pytest.raises(UpstreamFailed) as caught:
            await self.fetch(method, path, **more)
        failure = caught.value
        assert failure.status in (502, 503)
        assert (failure.retry_after is None) == (failure.status == 502)
        assert failure.__cause__ is None
        return failure

    def lines(self, which: int = -1) -> list[str]:
        """The request line and the fields of a request, as they came."""
        return self.responder.requests[which].decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")

    def facts(self) -> list[tuple[int | None, int, str]]:
        """Status, bytes and reason of each request that was sent."""
        assert all(each.index == "tree" and each.seconds >= 0 for each in self.told)
        return [(each.status, each.received, each.because) for each in self.told]


@pytest.fixture
async def mounted(serve: Serve) -> AsyncIterator[Any]:
    """``await mounted(*answers, budget=, patience=)``: a mount of a responder."""
    async with AsyncExitStack() as running:

        async def make(
            *answers: Any, budget: Budget | None = None, patience: Patience | None = None, **more: Any
        ) -> Mounted:
            made = Mounted(await serve(*answers, **more), budget or Budget(), patience)
            running.push_async_callback(made.upstream.close)
            return made

        yield make


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    """A body that is all there."""
    for chunk in chunks:
        yield chunk


async def broken_after(chunks: Iterable[bytes], error: Exception) -> AsyncIterator[bytes]:
    """A body that ends in a mistake."""
    for chunk in chunks:
        yield chunk
    raise error


# --- what goes out


async def test_every_line_goes_out_as_it_came(mounted: Any) -> None:
    """Order, spelling, repetition and odd octets are kept; Host is ours; nothing of ours is added."""
    tree = await mounted(OK)
    headers = (
        ("x-b", "1"),
        ("Accept", "text/html;q=0.5"),
        ("X-B", ""),
        ("aCCept-EnCoding", "br"),
        ("x-b", "2, 3"),
        ("User-Agent", "someone/1"),
        ("Cookie", "a=b; c=d"),
        ("X-UTF-8", "é".encode().decode("latin-1")),
        ("user-agent", "and again"),
        ("Content-Type", "x/y"),
    )
    await tree.fetch(path="/tree/%7e;x/..//%2f?q=%20&y=a+b%2B?", headers=headers)
    assert tree.lines() == [
        "GET /tree/%7e;x/..//%2f?q=%20&y=a+b%2B? HTTP/1.1",
        f"Host: 127.0.0.1:{tree.responder.port}",
        *(f"{name}: {value}" for name, value in headers),
    ]


async def test_host_framing_and_expect_are_ours(mounted: Any) -> None:
    """What a client says of them was said to us: no second Host, no second length, and nobody waits for a 100."""
    tree = await mounted(OK)
    theirs = (
        ("HOST", "example.org"),
        ("content-length", "9"),
        ("Transfer-Encoding", "gzip"),
        ("Expect", "100-continue"),
    )
    await tree.fetch("POST", headers=theirs, chunks=pieces(b"abc"), length=3)
    assert tree.lines() == ["POST /tree/a HTTP/1.1", f"Host: 127.0.0.1:{tree.responder.port}", "Content-Length: 3"]
    assert tree.responder.uploads == [b"abc"]


@pytest.mark.parametrize("scheme", ["NTLM", "negotiate", "Negotiate"])
async def test_credentials_of_a_connection_stay_here(mounted: Any, scheme: str) -> None:
    """They would hold for whoever is next on it (RFC 4559 §6); those of a request go on."""
    tree = await mounted(OK)
    await tree.fetch(headers=(("Authorization", f"{scheme} c2VjcmV0"), ("authorization", "Basic YTpi")))
    assert tree.lines()[2:] == ["authorization: Basic YTpi"]


async def test_a_line_that_cannot_be_sent_is_refused(mounted: Any) -> None:
    """Nothing is ever put between two lines."""
    tree = await mounted(OK)
    assert (await tree.failing(headers=(("X", "a\r\nY: b"),))).status == 502
    assert tree.responder.requests == []


@pytest.mark.parametrize("method", ALL)
async def test_a_method_without_a_body(mounted: Any, method: str) -> None:
    """POST, PUT and PATCH say that there is none (RFC 9110 §8.6), the others say nothing."""
    tree = await mounted(OK if method != "HEAD" else head("Content-Length: 2"))
    reply, received = await tree.fetch(method)
    said = ["Content-Length: 0"] if method in ("POST", "PUT", "PATCH") else []
    assert tree.lines()[0] == f"{method} /tree/a HTTP/1.1"
    assert tree.lines()[2:] == said
    assert (reply.head.status, reply.length, received) == (200, 2, b"" if method == "HEAD" else b"ok")


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize(
    ("length", "chunks", "framing"),
    [
        (6, [b"abc", b"", b"def"], "Content-Length: 6"),
        (None, [b"abc", b"", b"def"], "Transfer-Encoding: chunked"),
        (0, [], "Content-Length: 0"),
        (None, [], "Transfer-Encoding: chunked"),
    ],
)
async def test_a_method_with_a_body(
    mounted: Any, method: str, length: int | None, chunks: list[bytes], framing: str
) -> None:
    """Whatever the method: its length when that is known, else chunks."""
    tree = await mounted(OK if method != "HEAD" else head("Content-Length: 2"))
    for _ in range(2):
        await tree.fetch(method, chunks=pieces(*chunks), length=length)
        assert tree.lines()[2:] == [framing]
    assert tree.responder.uploads == [b"".join(chunks)] * 2


async def test_a_big_upload_is_streamed(mounted: Any) -> None:
    """Many times what may lie between the two sides arrives whole, and little of it is ever here."""
    sent, ahead, size = 0, 0, 256 * 1024

    async def big() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(400):
            sent += size
            yield bytes(size)

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal ahead
        received = 0
        while received < 400 * size:
            received += len(await reader.read(size))
            ahead = max(ahead, sent - received)
        writer.write(body(str(received).encode()))
        await writer.drain()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tree = await mounted(count)
    _, received = await tree.fetch("PUT", chunks=big(), length=400 * size)
    assert received == str(400 * size).encode()
    # Two socket buffers and the one of asyncio; of 100 MiB.
    assert ahead < 20 * 2**20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024


async def test_an_upstream_that_reads_slowly_slows_the_client(mounted: Any) -> None:
    """Of a body without end only so much is taken as the sockets hold; then the upload is given up."""
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 65536
            yield bytes(65536)

    tree = await mounted(then_silence_unread, budget=Budget(idle=0.3))
    failure = await tree.failing("PUT", chunks=endless())
    assert (failure.status, failure.because) == (503, "the upstream stopped reading")
    assert taken < 20 * 2**20
    assert tree.facts() == [(None, 0, "the upload was cut")]


async def then_silence_unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take nothing until the connection ends."""
    while not writer.transport.is_closing():  # noqa: ASYNC110 - nothing tells when a peer that is not read has gone
        await asyncio.sleep(0.01)


async def test_an_upload_may_take_longer_than_the_wait_for_an_answer(
    mounted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit begins to count when all is sent, whatever interim responses came before; and then it holds."""
    monkeypatch.setattr(upstream_module, "HEAD_WITHIN", 1.0)

    async def interim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        await tree.responder.take(reader)
        writer.write(OK)

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(8):
            await asyncio.sleep(0.2)
            yield b"x"

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await tree.responder.take(reader)
        await reader.read()

    tree = await mounted(interim, silent, budget=Budget(idle=1.0))
    assert (await tree.fetch("PUT", chunks=slow(), length=8))[1] == b"ok"
    assert tree.responder.uploads == [b"x" * 8]
    assert (await tree.failing("PUT", chunks=pieces(b"x"), length=1)).because == "no answer in time"


# --- what breaks on its way


@pytest.mark.parametrize("length", [100, None])
@pytest.mark.parametrize("early", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"])
async def test_an_upload_that_breaks_is_never_a_whole_one(mounted: Any, length: int | None, early: bytes) -> None:
    """The upstream sees a cut; whoever waits for the answer gets the mistake of the client, or no whole answer."""
    cut: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(early)
        try:
            await tree.responder.take(reader)
            cut.set_result(False)
        except (asyncio.IncompleteReadError, OSError):
            cut.set_result(True)

    async def breaking() -> AsyncIterator[bytes]:
        yield b"half"
        await answered.wait()
        raise Refused("the client is gone")

    answered = asyncio.Event()
    tree = await mounted(watch)
    if early:
        async with tree.forward("PUT", chunks=breaking(), length=length) as reply:
            assert await anext(reply.chunks) == b"half"
            answered.set()
            with pytest.raises(UpstreamFailed):
                await anext(reply.chunks)
        assert tree.facts() == [(200, 4, "the body was cut")]
    else:
        answered.set()
        with pytest.raises(Refused, match="the client is gone"):
            await tree.fetch("PUT", chunks=breaking(), length=length)
        assert tree.facts() == [(None, 0, "the upload was cut")]
    assert await asyncio.wait_for(cut, PATIENCE)
    assert len(tree.responder.requests) == 1
    assert tree.upstream.resting()["tree"] == 0


@pytest.mark.parametrize(
    ("chunks", "length"), [([b"abc"], 4), ([], 1), ([b"abc", b"de"], 4), ([b"abcde"], 4), ([b"x"], 0)]
)
async def test_an_upload_of_another_length(mounted: Any, chunks: list[bytes], length: int) -> None:
    """Neither padded nor clipped: it is a mistake, and the upstream sees no whole request."""
    tree = await mounted(OK)
    failure = await tree.failing("PUT", chunks=pieces(*chunks), length=length)
    assert (failure.status, failure.because) == (502, "an upload of another length than declared")
    await eventually(lambda: tree.responder.idle)
    assert tree.responder.uploads == []


async def test_a_foreign_mistake_in_an_upload_stays_inside(mounted: Any) -> None:
    """Neither its class nor its text is shown to anybody."""
    tree = await mounted(OK)
    failure = await tree.failing("PUT", chunks=broken_after([b"x"], RuntimeError("secret")))
    assert (failure.status, failure.because) == (502, "the upload broke")
    assert "secret" not in "".join(traceback.format_exception(failure))


@pytest.mark.parametrize("ending", ["complete", "open", "closed"])
async def test_an_early_answer_is_the_answer(mounted: Any, ending: str) -> None:
    """A 413 while the body is on its way is delivered, whether more of it follows or not; the upload is given up."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield bytes(65536)
            if sent > 4:
                # All that the server wants to see; then nothing until it has spoken.
                await asyncio.Event().wait()

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(65536)
        writer.write(head("Content-Length: 4", status="413 Too Large") + b"long"[: None if ending != "open" else 2])
        await writer.drain()
        if ending == "closed":
            writer.close()
            return
        if ending == "open":
            await go_on.wait()
            writer.write(b"ng")
        gone.set_result(await rest_of(reader))

    go_on = asyncio.Event()
    gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    tree = await mounted(early, OK)
    async with asyncio.timeout(PATIENCE), tree.forward("PUT", chunks=endless(), length=10**9) as reply:
        assert reply.head.status == 413
        go_on.set()
        assert b"".join([chunk async for chunk in reply.chunks]) == b"long"
    if ending != "closed":
        assert await asyncio.wait_for(gone, PATIENCE) == "cut"
    assert tree.facts() == [(413, 4, "")]
    assert (await tree.fetch())[1] == b"ok"
    assert tree.responder.connections == 2


@pytest.mark.parametrize("pause", [False, True])
async def test_an_early_answer_is_heard_after_a_reset(pause: bool) -> None:
    """A server that answers and closes with the upload unread resets the connection: its answer is the answer still."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"

        async def until_answered() -> AsyncIterator[bytes]:
            yield bytes(100_000)
            # All of it happens before anything here is read.
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(head("Content-Length: 4", status="413 Too Large") + b"long")
            while True:
                yield bytes(65536)
                if pause:
                    await asyncio.sleep(0.01)

        upstream = Upstream([Site("tree", url)])
        try:
            async with upstream.forward("tree", url, method="PUT", headers=(), chunks=until_answered()) as reply:
                assert reply.head.status == 413
                assert [chunk async for chunk in reply.chunks] == [b"long"]
        finally:
            await upstream.close()


async def rest_of(reader: asyncio.StreamReader) -> str:
    """Read on to the end of the connection."""
    try:
        while await reader.read(65536):
            pass
    except OSError:
        pass
    return "cut"


async def test_an_answer_may_come_beside_the_upload(mounted: Any) -> None:
    """What is sent back piece by piece as it arrives (an echo) is neither held up nor cut."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head("Content-Length: 20"))
        for _ in range(4):
            writer.write(await reader.readexactly(5))

    async def asked() -> AsyncIterator[bytes]:
        for number in range(4):
            yield b"%d...." % number
            await heard[number].wait()

    heard = [asyncio.Event() for _ in range(4)]
    tree = await mounted(echo)
    async with asyncio.timeout(PATIENCE), tree.forward("POST", chunks=asked(), length=20) as reply:
        for number in range(4):
            assert await anext(reply.chunks) == b"%d...." % number
            heard[number].set()
        assert [chunk async for chunk in reply.chunks] == []
    assert tree.facts() == [(200, 20, "")]


class Endless:
    """A body that never ends; ``reading`` while somebody waits for more of it."""

    def __init__(self) -> None:
        self.reading = False
        self.taken = 0

    def __aiter__(self) -> Endless:
        return self

    async def __anext__(self) -> bytes:
        self.reading = True
        try:
            await asyncio.sleep(0.001)
        finally:
            self.reading = False
        self.taken += 1
        return b"x"


@pytest.mark.parametrize("answered", [True, False])
async def test_nobody_reads_an_upload_when_its_request_is_over(mounted: Any, answered: bool) -> None:
    """Leaving early cuts the connection, and the chunks are nobody's any more."""

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head("Content-Length: 4") + b"no" if answered else b"")
        await rest_of(reader)
        gone.set()

    gone = asyncio.Event()
    tree, upload = await mounted(early), Endless()
    if answered:
        async with tree.forward("PUT", chunks=upload) as reply:
            assert reply.head.status == 200
    else:
        task = asyncio.create_task(tree.fetch("PUT", chunks=upload))
        await eventually(lambda: upload.taken > 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    taken = upload.taken
    assert not upload.reading
    await asyncio.wait_for(gone.wait(), PATIENCE)
    assert upload.taken == taken


# --- asked again, or not


@pytest.mark.parametrize("method", ALL)
async def test_what_is_unsafe_is_never_sent_twice(mounted: Any, method: str) -> None:
    """GET, HEAD and OPTIONS without a body are asked again, as pages are; nothing else (RFC 9110 §9.2.2)."""
    tree = await mounted(then_close(b""), head("Content-Length: 0"))
    if method in SAFE:
        assert (await tree.fetch(method))[0].head.status == 200
    else:
        assert (await tree.failing(method)).because == "connection lost before the answer"
    assert len(tree.responder.requests) == (2 if method in SAFE else 1)


@pytest.mark.parametrize("method", ALL)
async def test_nothing_with_a_body_is_sent_twice(mounted: Any, method: str) -> None:
    """Half of it is gone already."""
    tree = await mounted(then_close(b""), head("Content-Length: 0"))
    assert (await tree.failing(method, chunks=pieces(b"abc"))).status == 503
    assert tree.responder.connections == 1


async def test_a_head_of_more_than_anybody_needs(mounted: Any) -> None:
    """Each field may be long, and there may be many; but not both."""
    tree = await mounted(head("Content-Length: 0", *[f"X-{number}: {'x' * 8000}" for number in range(9)]))
    assert (await tree.failing()).because == "a head that is larger than allowed"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nothing_follows_an_upload_on_its_connection(mounted: Any, method: str) -> None:
    """An origin that overlooks the body would take it for the beginning of the next request, which is another's."""
    tree = await mounted(body(b"one"), body(b"two"))
    for expected, connections in ((b"one", 1), (b"two", 2)):
        reply, data = await tree.fetch(method, chunks=pieces(b"GET /evil HTTP/1.1\r\nX-Eaten: "))
        assert (reply.head.status, data, tree.responder.connections) == (200, expected, connections)
    for _ in range(2):
        await tree.fetch()
    assert tree.responder.connections == 3


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_kept_alive_connection_that_is_gone(mounted: Any, method: str) -> None:
    """Closed as the next request arrives: a GET gets another, a POST a 503, for nobody knows whether it was done."""
    tree = await mounted(OK, then_reset(b""), OK)
    await tree.fetch()
    if method == "GET":
        assert (await tree.fetch())[1] == b"ok"
    else:
        assert (await tree.failing("POST", chunks=pieces(b"abc"), length=3)).status == 503
    assert len(tree.responder.requests) == (3 if method == "GET" else 2)
    assert tree.upstream.resting()["tree"] == 0


# --- what comes back


async def test_every_line_comes_back_as_it_came(mounted: Any) -> None:
    """Order, spelling, repetition and octets beyond ASCII; codings are not undone, cookies not kept."""
    lines = ["X-b: 1", "x-A: \xe9", "X-b: 2", "Set-Cookie: a=b", "set-cookie: c=d", "Content-Encoding: gzip"]
    tree = await mounted(head(*lines, "Content-Length: 3", status="299 Odd") + b"raw")
    for _ in range(2):
        reply, received = await tree.fetch()
        assert (reply.head.status, received, reply.length, reply.framed) == (299, b"raw", 3, True)
        assert [": ".join(line) for line in reply.head.headers] == [*lines, "Content-Length: 3"]
    assert len(tree.lines()) == 2


@pytest.mark.parametrize("status", [200, 201, 207, 226, 300, 301, 302, 303, 307, 308, 400, 401, 407, 418, 500, 599])
async def test_any_final_status_is_an_answer(mounted: Any, status: int) -> None:
    """Redirects, too: they are not followed, wherever they lead."""
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        location = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/"
        tree = await mounted(moved(location, f"{status} X"))
        reply, received = await tree.fetch()
        assert (reply.head.status, reply.head.header("Location"), received) == (status, location, b"gone")
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    assert len(tree.responder.requests) == 1


@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints", "199 Odd"])
@pytest.mark.parametrize("count", [1, 5])
async def test_interim_responses_are_swallowed(mounted: Any, interim: str, count: int) -> None:
    """One or several, with fields and without, before the answer to a GET and to an upload."""
    early = head(status=interim) + head("Link: </a>", "X: y", status=interim) * (count - 1)
    tree = await mounted(early + OK)
    for more in ({}, {}, {"method": "PUT", "chunks": pieces(b"abc"), "length": 3}):
        reply, received = await tree.fetch(**more)
        assert (reply.head.status, reply.head.headers, received) == (200, (("Content-Length", "2"),), b"ok")
    assert tree.responder.connections == 2


async def test_a_switch_of_protocols_is_refused(mounted: Any) -> None:
    """101 is no answer: nobody here speaks what would follow."""
    tree = await mounted(head("Upgrade: x", "Connection: upgrade", status="101 Switching Protocols"))
    failure = await tree.failing("POST")
    assert (failure.status, failure.because) == (503, "a switch of protocols nobody asked for")
    assert len(tree.responder.requests) == 1


@pytest.mark.parametrize(
    ("method", "fields", "answer", "length"),
    [
        ("GET", (), head(status="204 No"), None),
        ("DELETE", (), head(status="204 No"), None),
        ("GET", (("if-none-MATCH", '"a"'),), head('ETag: "a"', status="304 Not"), None),
        ("GET", (("If-Modified-Since", "x"),), head("Content-Length: 7", status="304 Not"), 7),
        ("HEAD", (), head("Content-Length: 1000"), 1000),
        ("HEAD", (), head("Transfer-Encoding: chunked"), None),
    ],
)
async def test_answers_without_a_body(
    mounted: Any, method: str, fields: Headers, answer: bytes, length: int | None
) -> None:
    """They end with their heads, whatever these say of a length, and the connection is used again."""
    tree = await mounted(answer)
    for _ in range(2):
        reply, received = await tree.fetch(method, headers=fields)
        assert (reply.length, reply.framed, received) == (length, True, b"")
    assert tree.responder.connections == 1


@pytest.mark.parametrize("more", [b"more", body(b"poison")], ids=["bytes", "a response"])
async def test_a_body_ends_where_it_was_declared_to_end(mounted: Any, more: bytes) -> None:
    """Also when more comes with it in one piece: that is nobody's, and its connection is not used again."""
    tree = await mounted(head("Content-Length: 4") + b"body" + more, OK)
    assert (await tree.fetch())[1] == b"body"
    assert (await tree.fetch())[1] == b"ok"
    assert tree.responder.connections == 2


async def test_a_part_that_was_asked_for(mounted: Any) -> None:
    """The client's own Range makes a 206 an answer."""
    part = head("Content-Length: 1", "Content-Range: bytes 0-0/5", status="206 Partial") + b"x"
    tree = await mounted(part)
    reply, received = await tree.fetch(headers=(("rAnge", "bytes=0-0"),))
    assert (reply.head.status, received) == (206, b"x")
    assert (await tree.failing("POST")).because == "a part, without a range"


async def test_a_304_that_was_not_asked_for(mounted: Any) -> None:
    """It would say that something is right that nobody has."""
    tree = await mounted(head(status="304 Not Modified"))
    assert (await tree.failing("POST")).because == "not modified, without a condition"


@pytest.mark.parametrize(
    ("answer", "framed"),
    [
        (then_close(head() + b"abc"), False),
        (then_close(b"HTTP/1.0 200 OK\r\n\r\nabc"), False),
        (head("Transfer-Encoding: chunked") + b"3;x=y\r\nabc\r\n0\r\nTrailer: x\r\n\r\n", True),
    ],
)
async def test_bodies_without_a_length(mounted: Any, answer: Any, framed: bool) -> None:
    """What ends with its connection is marked, for nobody can see whether it is whole."""
    tree = await mounted(answer)
    reply, received = await tree.fetch()
    assert (reply.length, reply.framed, received) == (None, framed, b"abc")


async def test_a_body_that_stops(mounted: Any) -> None:
    """It ends in a failure, never as if it were whole."""
    tree = await mounted(then_silence(head("Content-Length: 10") + b"short"), budget=Budget(idle=1.0))
    assert (await tree.failing()).because == "the body came to a stop"
    assert tree.facts() == [(200, 5, "the body came to a stop")]


# --- who is asked, and who is left alone


@pytest.mark.parametrize("private", [False, True])
async def test_the_host_of_a_mount_may_be_anywhere(serve: Serve, private: bool) -> None:
    """Loopback, too, as for an index: somebody has configured it."""
    responder = await serve(OK)
    upstream = Upstream([Site("tree", responder.url("/tree/"), private)])
    try:
        async with upstream.forward("tree", responder.url("/tree/x"), method="GET", headers=()) as reply:
            assert reply.head.status == 200
    finally:
        await upstream.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/tree/a",
        "http://127.0.0.2:{port}/tree/a",
        "http://localhost:{port}/tree/a",
        "https://127.0.0.1:{port}/tree/a",
        "http://example.com/tree/a",
        "http://a@127.0.0.1:{port}/tree/a",
        "ftp://127.0.0.1:{port}/tree/a",
        "/tree/a",
    ],
)
async def test_no_other_origin_is_asked(mounted: Any, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """A mount is one origin: whatever is put behind its URL, no name is looked up and no socket made for another."""
    tree = await mounted(OK)
    monkeypatch.setattr(socket, "getaddrinfo", None)
    failure = await tree.failing(url=url.format(port=tree.responder.port))
    assert failure.status == 502
    assert tree.responder.connections == 0
    assert tree.told == []


@pytest.mark.parametrize("status", ["429 T", "503 U", "500 E", "502 B"])
async def test_an_answer_of_a_mount_makes_nobody_rest(mounted: Any, status: str) -> None:
    """One path says nothing of the others; on an index, the same answer does."""
    tree = await mounted(head("Content-Length: 0", "Retry-After: 100", status=status), patience=Patience(failures=2))
    for number in range(4):
        reply, _ = await tree.fetch(path=f"/tree/{number}")
        assert reply.head.status == int(status.split()[0])
    assert tree.upstream.resting() == {"tree": 0, "index": 0}
    for number in range(1 if status in ("429 T", "503 U") else 2):
        url = tree.responder.url(f"/simple/{number}")
        async with tree.upstream.open("index", url, pool="page", headers={}):
            pass
    assert tree.upstream.resting() == {"tree": 0, "index": 1}
    assert (await tree.fetch())[0].head.status == int(status.split()[0])


async def test_a_mount_that_cannot_be_reached_rests() -> None:
    """After so many failures nobody is kept waiting, whatever the method: that is said without asking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    upstream = Upstream([Site("tree", url)], patience=Patience(failures=3, probe_every=600.0))
    reasons = []
    try:
        for method in ("POST", "DELETE", "PUT", "GET", "POST"):
            with pytest.raises(UpstreamFailed) as caught:
                async with upstream.forward("tree", url, method=method, headers=()):
                    pass
            reasons.append(caught.value.because)
        assert reasons == ["no connection"] * 3 + ["the upstream rests after failures"] * 2
        assert upstream.resting() == {"tree": 1}
    finally:
        await upstream.close()


@pytest.mark.parametrize(
    "answer",
    [then_close(b""), then_close(head("X: secret", "Content-Length: 9") + b"secret"), head("Content-Length: x")],
)
async def test_nothing_of_a_request_is_in_a_failure(mounted: Any, answer: Any) -> None:
    """Neither URL nor fields nor body, in whatever is raised, shown or told."""
    tree = await mounted(answer)
    with pytest.raises(UpstreamFailed) as caught:
        await tree.fetch(
            "PUT", "/tree/secret", headers=(("Authorization", "secret"),), chunks=pieces(b"secret"), length=6
        )
    assert "secret" not in "".join(traceback.format_exception(caught.value)).replace('"secret"', "")
    assert "secret" not in repr(tree.told)


async def test_a_mount_shares_no_connection(mounted: Any) -> None:
    """Not with an index of the same host, though it is the same host: permissions differ, and who we say we are."""
    tree = await mounted(OK)
    await tree.fetch()
    async with tree.upstream.open("index", tree.responder.url("/simple/"), pool="file", headers={}) as reply:
        assert [chunk async for chunk in reply.chunks] == [b"ok"]
    assert tree.responder.connections == 2
    assert "User-Agent" not in "".join(tree.lines(0))


async def test_close_ends_an_upload(mounted: Any) -> None:
    """A shutdown cuts it: 503, and no clean end."""

    tree = await mounted(then_silence(b""))
    task = asyncio.create_task(tree.failing("PUT", chunks=Endless()))
    await eventually(lambda: tree.responder.requests)
    await tree.upstream.close()
    assert (await asyncio.wait_for(task, PATIENCE)).status == 503
