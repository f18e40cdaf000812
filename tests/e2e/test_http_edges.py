"""The edges of HTTP/1.1 on raw sockets: where one message ends and the next begins, whoever says what."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.harness.behaviours import Answer, Behaviour, Early, Raw
from tests.harness.exchange import Ending, Framing, Seen
from tests.harness.index import JSON_V1
from tests.harness.packages import blob, wheel
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import PATIENCE, World, fresh_name, heard, world

TOKEN = "w" * 32
LINE_MAX, FIELD_MAX, FIELDS_MAX = 4096, 8192, 128
BIG = bytes(range(256)) * 4096
FRESH = (("Cache-Control", "max-age=600"), ("Content-Type", "application/gzip"))


def tree_of(upstream: Upstream) -> dict[str, str]:
    """A mount "m" of what lies below ``/tree/`` there."""
    return {"m": f"{upstream.origin}/tree/"}


@pytest.fixture(scope="module")
def here(lane: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy with an index and a mount, shared by all tests."""
    with world(tmp_path_factory.mktemp("edges"), {"admin": {"token": TOKEN}}, mounts=tree_of) as made:
        yield made


@dataclass(frozen=True, slots=True)
class Part:
    """One response of a connection; ``lines`` are its fields as they came, ``body`` is without its framing."""

    status: int
    version: str
    lines: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """The values of one field."""
        return [value for key, value in self.lines if key.lower() == name]

    def one(self, name: str) -> str | None:
        """The value of a field that may stand there once."""
        values = self.all(name)
        assert len(values) < 2
        return values[0] if values else None


class Talk:
    """A connection to the proxy on which every byte counts. ConnectionError when a response is cut."""

    def __init__(self, here: World) -> None:
        self._connection = here.connect()
        self._data = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def say(self, data: bytes) -> None:
        """Exactly these bytes; a proxy that has closed by now is no failure."""
        with suppress(ConnectionError):
            self._connection.sendall(data)

    def hear(self, method: str = "GET") -> Part:
        """The next response, to a request of this method; 1xx are responses of their own."""
        head, _, self._data = self._until(b"\r\n\r\n").partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        version, status, _ = line.split(" ", 2)
        pairs = tuple((name, value.strip()) for name, _, value in (each.partition(":") for each in fields))
        part = Part(int(status), version, pairs, b"")
        return Part(part.status, version, pairs, b"" if method == "HEAD" else self._body(part))

    def rest(self) -> tuple[bytes, bool]:
        """What else comes until the connection ends, and whether that was a reset."""
        try:
            while self._more():
                pass
        except ConnectionError:
            return self._data, True
        return self._data, False

    def _body(self, part: Part) -> bytes:
        if part.status < 200 or part.status in (204, 304):
            assert not part.all("transfer-encoding")
            return b""
        if part.one("transfer-encoding") is not None:
            assert part.one("content-length") is None
            return b"".join(self._chunks())
        length = part.one("content-length")
        if length is not None:
            return self._exactly(int(length))
        assert part.one("connection") == "close" or part.version == "HTTP/1.0"
        while self._more():
            pass
        data, self._data = self._data, b""
        return data

    def _chunks(self) -> Iterator[bytes]:
        while True:
            line, _, self._data = self._until(b"\r\n").partition(b"\r\n")
            piece = self._exactly(int(line, 16))
            assert self._exactly(2) == b"\r\n"
            if not piece:
                return
            yield piece

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._data:
            if not self._more():
                raise ConnectionError(f"closed after {self._data!r}")
        return self._data

    def _exactly(self, count: int) -> bytes:
        while len(self._data) < count:
            if not self._more():
                raise ConnectionError("the body was cut")
        data, self._data = self._data[:count], self._data[count:]
        return data

    def _more(self) -> bool:
        received = self._connection.recv(65536)
        self._data += received
        return bool(received)


def request(line: str, *fields: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """A request; text is Latin-1."""
    lines = "".join(f"{each}\r\n" for each in ("Host: localhost", *fields))
    return f"{line} HTTP/{version}\r\n{lines}\r\n".encode("latin-1") + body


def tree(here: World, *behaviours: Behaviour) -> str:
    """A path below the mount that nobody asked for before, with what the upstream does there."""
    name = fresh_name("leaf")
    here.upstream.script(f"/tree/{name}", *behaviours)
    return f"/raw/m/{name}"


def arrived(here: World, path: str) -> list[Seen]:
    """What the upstream was asked for that path of the mount."""
    wanted = f"/tree/{path.partition('/raw/m/')[2]}"
    return [each for each in here.upstream.log if each.path == wanted]


def leaf(body: bytes = b"leaf", **changes: Any) -> Answer:
    """A response of the tree that may be kept."""
    return Answer(status=200, body=body, extra=FRESH, **changes)


def kept(here: World, path: str) -> None:
    """Returns once that path is answered from the cache."""
    eventually(lambda: here.get(path).hit, f"{path} is kept")


# --- pipelining


def test_pipelined(here: World) -> None:
    """In one write: hits, misses, refusals, a file by sendfile, a HEAD; the answers in their order, each its own."""
    file = here.publish(blob(fresh_name(), size=700_000))
    cold = here.publish(wheel(fresh_name()))
    raw, other = tree(here, leaf(BIG)), tree(here, leaf(b"other"))
    assert here.file(file).status == 200
    eventually(lambda: here.file(file).hit, "the file is kept")
    here.get(raw)
    kept(here, raw)
    asked = [
        ("GET", here.path_of(file), 200, file.data),
        ("GET", "/healthz", 200, None),
        ("GET", f"/simple/{cold.project}/", 200, None),
        ("GET", "/simple/a%00b/", 400, None),
        ("HEAD", here.path_of(file), 200, b""),
        ("GET", raw, 200, BIG),
        ("GET", other, 200, b"other"),
        ("POST", "/simple/six/", 405, None),
        ("GET", "/raw/nowhere/a", 404, None),
        ("HEAD", raw, 200, b""),
        ("GET", here.path_of(file), 200, file.data),
        ("GET", "/nothing", 404, None),
    ]
    with Talk(here) as talk:
        talk.say(b"".join(request(f"{method} {path}") for method, path, _, _ in asked))
        for method, path, status, body in asked:
            got = talk.hear(method)
            assert (path, got.status) == (path, status)
            assert body is None or got.body == body, path


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_pipelined_behind_a_body(here: World, coding: str) -> None:
    """The body of a POST, whatever it looks like, is the upstream's; what stands behind it is the next request."""
    path = tree(here, Answer(status=201, body=b"made"))
    body = request(f"GET {tree(here, leaf())}")
    if coding == "length":
        said = request(f"POST {path}", f"Content-Length: {len(body)}", body=body)
    else:
        said = request(f"POST {path}", "Transfer-Encoding: chunked", body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    with Talk(here) as talk:
        talk.say(said + request("GET /healthz") + said + request("GET /healthz", "Connection: close"))
        statuses = [talk.hear().status for _ in range(4)]
        assert statuses == [201, 200, 201, 200]
        assert talk.rest() == (b"", False)
    assert [each.body for each in arrived(here, path)] == [body, body]


def test_a_long_pipeline(here: World) -> None:
    """More than anybody would queue: all of them, in order."""
    with Talk(here) as talk:
        talk.say(b"".join(request(f"GET /{number}/") for number in range(200)) + request("GET /healthz"))
        assert [talk.hear().status for _ in range(201)] == [404] * 200 + [200]


def test_a_request_that_comes_in_pieces(here: World) -> None:
    """Octet by octet, two requests and a body."""
    path = tree(here, Answer(status=200, body=b"ok"))
    with Talk(here) as talk:
        for octet in request(f"PUT {path}", "Content-Length: 3", body=b"abc") + request("GET /healthz"):
            talk.say(bytes([octet]))
        assert [talk.hear().status for _ in range(2)] == [200, 200]
    assert [each.body for each in arrived(here, path)] == [b"abc"]


def test_nothing_is_answered_behind_a_close(here: World) -> None:
    """RFC 9112 §9.6: what follows the last request of a connection is not served."""
    behind = tree(here, leaf())
    with Talk(here) as talk:
        talk.say(request("GET /healthz", "Connection: close") + request(f"DELETE {behind}"))
        got = talk.hear()
        assert (got.status, got.one("connection")) == (200, "close")
        assert talk.rest()[0] == b""
    assert arrived(here, behind) == []


# --- HTTP/1.0


@pytest.mark.parametrize("keep", [True, False])
def test_http_1_0(here: World, keep: bool) -> None:
    """It closes after one answer, unless it is asked to stay; a mount, a page and a refusal alike."""
    path = tree(here, leaf(BIG))
    page = here.publish(wheel(fresh_name()))
    fields = ["Connection: keep-alive"] if keep else []
    paths = (path, f"/simple/{page.project}/", "/simple/%00/")
    if keep:
        with Talk(here) as talk:
            for asked in paths:
                talk.say(request(f"GET {asked}", *fields, version="1.0"))
                got = talk.hear()
                assert (got.status, got.one("connection")) == (400 if "%00" in asked else 200, "keep-alive")
        return
    for asked in paths:
        with Talk(here) as talk:
            talk.say(request(f"GET {asked}", version="1.0") + request(f"GET {asked}", version="1.0"))
            got = talk.hear()
            assert got.status == (400 if "%00" in asked else 200)
            assert got.one("content-length") is not None
            assert got.one("connection") in (None, "close")
            assert talk.rest()[0] == b""


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_http_1_0_and_a_body_of_unknown_length(here: World, keep: bool, whole: bool) -> None:
    """Never in chunks: the end of the connection ends it, and a reset says that it was cut."""
    extra = (("Cache-Control", "no-store"),)
    answer = Answer(status=200, body=BIG, extra=extra, framing="chunked", stop_after=None if whole else 300_000)
    path = tree(here, answer)
    with Talk(here) as talk:
        talk.say(request(f"GET {path}", *(["Connection: keep-alive"] if keep else []), version="1.0"))
        if whole:
            got = talk.hear()
            assert (got.status, got.body, got.all("transfer-encoding")) == (200, BIG, [])
        else:
            data, reset = talk.rest()
            # It may also have been found out before a byte had left.
            assert reset or heard(data, reset).status in (502, 503)
            assert BIG not in data


def test_http_1_0_has_no_chunks(here: World) -> None:
    """RFC 9112 §6.1: an HTTP/1.0 request with Transfer-Encoding has faulty framing."""
    path = tree(here, leaf())
    with Talk(here) as talk:
        talk.say(request(f"POST {path}", "Transfer-Encoding: chunked", "Connection: keep-alive", version="1.0"))
        talk.say(b"3\r\nabc\r\n0\r\n\r\n" + request(f"GET {path}"))
        assert talk.hear().status == 400
        assert talk.rest()[0] == b""
    assert arrived(here, path) == []


# --- fields of one connection


def test_fields_named_by_connection(here: World) -> None:
    """RFC 9110 §7.6.1: they end at the next hop, in both directions, and nothing else does."""
    answer = Answer(
        status=200,
        body=b"ok",
        extra=(
            ("X-Foo", "secret"),
            ("X-Bar", "kept"),
            ("Keep-Alive", "timeout=1"),
            ("Connection", "keep-alive, X-Foo"),
            ("Cache-Control", "no-store"),
        ),
    )
    path = tree(here, answer)
    fields = ("X-Foo: secret", "X-Bar: kept", "Keep-Alive: timeout=1", "TE: trailers", "Connection: close, x-FOO, te")
    with Talk(here) as talk:
        talk.say(request(f"GET {path}", *fields))
        got = talk.hear()
        assert talk.rest() == (b"", False)
    (seen,) = arrived(here, path)
    assert seen.headers["x-bar"] == "kept"
    assert not {"x-foo", "keep-alive", "te"} & set(seen.headers)
    assert "x-foo" not in seen.headers.get("connection", "").lower()
    assert got.all("x-bar") == ["kept"]
    assert not got.all("x-foo") + got.all("keep-alive")
    assert got.all("connection") == ["close"]


# --- chunks


def test_chunks_from_a_client(here: World) -> None:
    """A body of unknown length arrives as one, octet for octet; extensions and trailers do not."""
    path = tree(here, Answer(status=200, body=b"ok"))
    chunks = b'5;name="va;lue"\r\nfirst\r\n0000A;x\r\n, a second\r\n' + b"%X\r\n%b\r\n" % (len(BIG), BIG)
    trailers = b"0\r\nX-Trailer: secret\r\nX-Other: secret\r\n\r\n"
    with Talk(here) as talk:
        talk.say(request(f"PUT {path}", "Transfer-Encoding: chunked", "Trailer: X-Trailer", body=chunks + trailers))
        talk.say(request("GET /healthz"))
        assert [talk.hear().status for _ in range(2)] == [200, 200]
    (seen,) = arrived(here, path)
    assert seen.headers["transfer-encoding"] == "chunked"
    assert not {"content-length", "x-trailer", "x-other", "trailer"} & set(seen.headers)
    assert seen.body == b"first, a second" + BIG


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "PATCH"])
def test_a_body_with_any_method(here: World, method: str) -> None:
    """It is what the client says it is; the length is passed on as such."""
    path = tree(here, Answer(status=200, body=b"ok"))
    with Talk(here) as talk:
        talk.say(request(f"{method} {path}", f"Content-Length: {len(BIG)}", body=BIG))
        assert talk.hear().status == 200
    (seen,) = arrived(here, path)
    assert (seen.method, seen.headers["content-length"], seen.body) == (method, str(len(BIG)), BIG)


def test_chunks_from_an_upstream(here: World) -> None:
    """Whatever its chunks look like, the client gets the same octets in chunks of ours; its trailers are dropped."""
    said = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Trailer\r\nCache-Control: no-store\r\n\r\n"
        b"5;a=b\r\nfirst\r\n00a\r\n, a second\r\n0\r\nX-Trailer: secret\r\n\r\n"
    )
    path = tree(here, Raw(said))
    with Talk(here) as talk:
        talk.say(request(f"GET {path}") + request("GET /healthz"))
        got = talk.hear()
        assert (got.status, got.body) == (200, b"first, a second")
        assert (got.one("transfer-encoding"), got.all("x-trailer")) == ("chunked", [])
        assert talk.hear().status == 200


FRAMING_TRAILERS = b"1\r\na\r\n0\r\nContent-Length: 5\r\n\r\n"
NO_CHUNKS = [FRAMING_TRAILERS, b"x\r\nabc\r\n", b"5\r\nabc\r\n0\r\n\r\n", b"-3\r\nabc\r\n0\r\n\r\n", b"3\nabc\n0\n\n"]


@pytest.mark.parametrize("body", NO_CHUNKS)
def test_chunks_that_are_none(here: World, body: bytes) -> None:
    """400, the last answer of that connection; the upstream sees no whole request, and nothing that stands behind."""
    path, behind = tree(here, leaf()), tree(here, leaf())
    with Talk(here) as talk:
        talk.say(request(f"POST {path}", "Transfer-Encoding: chunked", body=body) + request(f"GET {behind}"))
        assert talk.hear().status == 400
        assert talk.rest()[0] == b""
    assert arrived(here, behind) == []
    assert not [each for each in arrived(here, path) if each.status is not None]


# --- HEAD


def test_head(here: World) -> None:
    """RFC 9110 §9.3.2: the head that GET would have, and nothing behind it but the next answer."""
    file = here.publish(blob(fresh_name(), size=100_000))
    raw = tree(here, leaf(BIG))
    here.file(file)
    here.get(raw)
    kept(here, raw)
    eventually(lambda: here.file(file).hit, "the file is kept")
    for path in ("/healthz", here.path_of(file), f"/simple/{file.project}/", raw, "/nothing"):
        with Talk(here) as talk:
            talk.say(request(f"HEAD {path}", f"Accept: {JSON_V1}") + request(f"GET {path}", f"Accept: {JSON_V1}"))
            head, whole = talk.hear("HEAD"), talk.hear()
        changing = {"date", "age", "cache-status"}
        assert head.status == whole.status
        assert [each for each in head.lines if each[0].lower() not in changing] == [
            each for each in whole.lines if each[0].lower() not in changing
        ]
        assert int(head.one("content-length") or 0) == len(whole.body)


def test_head_of_an_upstream_that_knows_no_length(here: World) -> None:
    """Neither a length nor chunks are made up."""
    path = tree(here, Answer(status=200, body=b"", framing="chunked", extra=(("Cache-Control", "no-store"),)))
    with Talk(here) as talk:
        talk.say(request(f"HEAD {path}") + request("GET /healthz"))
        assert talk.hear("HEAD").status == 200
        assert talk.hear().status == 200


# --- 100 (Continue) and other interim responses


def test_leave_to_continue(here: World) -> None:
    """A client that waits gets its leave, sends, and gets the answer; what it expected of us is not passed on."""
    path = tree(here, Answer(status=201, body=b"made"))
    with Talk(here) as talk:
        talk.say(request(f"PUT {path}", "Expect: 100-continue", "Content-Length: 3"))
        assert talk.hear().status == 100
        talk.say(b"abc" + request("GET /healthz"))
        assert [talk.hear().status for _ in range(2)] == [201, 200]
    (seen,) = arrived(here, path)
    assert seen.body == b"abc"
    assert "expect" not in seen.headers


def test_a_client_that_does_not_wait_for_leave(here: World) -> None:
    """Its body is there: it may get a 100 or none, and its answer in any case."""
    path = tree(here, Answer(status=201, body=b"made"))
    with Talk(here) as talk:
        talk.say(request(f"PUT {path}", "Expect: 100-continue", "Content-Length: 3", body=b"abc"))
        talk.say(request("GET /healthz"))
        statuses = [talk.hear().status]
        if statuses == [100]:
            statuses = [talk.hear().status]
        assert [*statuses, talk.hear().status] == [201, 200]
    assert [each.body for each in arrived(here, path)] == [b"abc"]


@pytest.mark.parametrize(
    ("line", "status"),
    [("PUT /raw/nowhere/a", 405), ("GET /raw/nowhere/a", 400), ("PUT /simple/six/", 405), ("PUT /raw/m/a%2fb", 400)],
)
def test_no_leave_for_what_is_refused(here: World, line: str, status: int) -> None:
    """The answer instead of the 100, and the connection ends: the body may still come, or not."""
    with Talk(here) as talk:
        talk.say(request(line, "Expect: 100-continue", "Content-Length: 3"))
        got = talk.hear()
        assert (got.status, got.one("connection")) == (status, "close")
        assert talk.rest() == (b"", False)


def test_no_leave_without_a_body(here: World) -> None:
    """RFC 9110 §10.1.1: there is nothing to wait for."""
    path = tree(here, leaf())
    with Talk(here) as talk:
        talk.say(request(f"GET {path}", "Expect: 100-continue"))
        assert talk.hear().status == 200


def test_another_expectation(here: World) -> None:
    """417: what we do not know we cannot promise."""
    path = tree(here, leaf())
    with Talk(here) as talk:
        talk.say(request(f"PUT {path}", "Expect: the-best", "Content-Length: 3", body=b"abc"))
        assert talk.hear().status == 417
    assert arrived(here, path) == []


@pytest.mark.parametrize("body", [b"", b"abc"])
def test_interim_responses_of_an_upstream(here: World, body: bytes) -> None:
    """Its 100, 102 and 103 are between the two of us; the client gets the final answer, once."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    interim += b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 5\r\n\r\nfinal"
    path = tree(here, Raw(interim + final))
    with Talk(here) as talk:
        method = "POST" if body else "GET"
        talk.say(request(f"{method} {path}", f"Content-Length: {len(body)}", body=body) + request("GET /healthz"))
        got = talk.hear()
        assert (got.status, got.body, got.all("link")) == (200, b"final", [])
        assert talk.hear().status == 200


def test_an_early_answer(here: World) -> None:
    """An upstream that refuses a body before it has read it: the client, which is still sending, can read why."""
    path = tree(here, Early(Answer(status=413, body=b"too large", extra=(("Cache-Control", "no-store"),))))
    with Talk(here) as talk:
        talk.say(request(f"PUT {path}", f"Content-Length: {1 << 40}"))
        for _ in range(16):
            talk.say(BIG)
        got = talk.hear()
        assert (got.status, got.body, got.one("connection")) == (413, b"too large", "close")
        assert talk.rest() == (b"", False)


# --- forms of the target, and methods


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET http://localhost/healthz", 400),
        ("GET http://localhost/raw/m/a", 400),
        ("PUT https://example.com/raw/m/a", 400),
        ("GET //localhost/raw/m/a", 400),
        ("OPTIONS *", 400),
        ("GET *", 400),
        ("GET localhost:80", 400),
        ("GET raw/m/a", 400),
        ("CONNECT localhost:80", 400),
        ("CONNECT /raw/m/a", 405),
        ("TRACE /raw/m/a", 405),
        ("GET /raw/m/a#b", 400),
        ("GET /raw/m/a?b#c", 400),
        ("GET /raw/m/../simple/", 400),
        ("GET /raw/m//a", 400),
        ("NOSUCHMETHOD /raw/m/a", 400),
        ("get /raw/m/a", 400),
        ("PUT /raw/m", 405),
        ("PUT /raw/nowhere/a", 405),
        ("GET /raw/nowhere/a", 404),
        ("HEAD /raw/nowhere/a", 404),
    ],
)
def test_what_is_no_request_for_us(here: World, line: str, status: int) -> None:
    """RFC 9112 §3.2: origin-form alone; a proxy that followed the others would be an open one."""
    before = len(here.upstream.log)
    with Talk(here) as talk:
        talk.say(request(line, "Connection: close"))
        assert talk.hear(line.partition(" ")[0]).status == status
        assert talk.rest()[0] == b""
    assert len(here.upstream.log) == before


METHODS = ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "MKCOL", "M-SEARCH", "QUERY"]


@pytest.mark.parametrize("method", METHODS)
def test_methods_of_a_mount(here: World, method: str) -> None:
    """What it means is the upstream's to say."""
    path = tree(here, Answer(status=207, body=b"ok"))
    with Talk(here) as talk:
        talk.say(request(f"{method} {path}?a=%2F/..//&b"))
        assert talk.hear().status == 207
    (seen,) = arrived(here, path)
    assert (seen.method, seen.target) == (method, f"/tree/{path.removeprefix('/raw/m/')}?a=%2F/..//&b")


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "tls/1.2", "tcp"])
def test_an_upgrade_that_is_not_followed(here: World, protocol: str) -> None:
    """RFC 9110 §7.8: a server may ignore it; the upstream is not asked, and the next request is one."""
    path = tree(here, leaf())
    fields = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABk")
    with Talk(here) as talk:
        talk.say(request(f"GET {path}", *fields) + request("GET /healthz"))
        assert [talk.hear().status for _ in range(2)] == [200, 200]
    (seen,) = arrived(here, path)
    assert not {"upgrade", "http2-settings"} & set(seen.headers)


def test_an_upgrade_with_a_body(here: World) -> None:
    """Whose octets would those be? Nobody's."""
    path = tree(here, leaf())
    with Talk(here) as talk:
        fields = ("Connection: Upgrade", "Upgrade: websocket", "Content-Length: 3")
        talk.say(request(f"POST {path}", *fields, body=b"abc") + request(f"GET {path}"))
        assert talk.hear().status == 400
        assert talk.rest()[0] == b""
    assert arrived(here, path) == []


# --- limits of heads

ROUTES = ["/healthz", "/simple/six/", "/admin/cache/dir", "/raw/m/a"]


def refused(here: World, said: bytes, status: int, *, behind: bytes = b"") -> None:
    """One problem document with that status, the last of its connection; no upstream is asked. No reset: that would
    take the answer away from a client that is still sending."""
    before = len(here.upstream.log)
    with Talk(here) as talk:
        talk.say(said)
        talk.say(behind)
        got = talk.hear()
        assert got.status == status, got
        assert got.one("connection") == "close"
        assert json.loads(got.body)["blame"] == "client"
        assert talk.rest() == (b"", False)
    assert here.upstream.log[before:] == []


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("size", [LINE_MAX + 100, 2_000_000])
def test_a_long_request_line(here: World, route: str, size: int) -> None:
    """414, readable to a client that is still talking."""
    refused(here, request(f"GET {route}?{'a' * size}"), 414)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("size", [FIELD_MAX + 100, 2_000_000])
@pytest.mark.parametrize("part", ["name", "value"])
def test_a_long_field(here: World, route: str, size: int, part: str) -> None:
    """431 (RFC 6585 §5)."""
    field = f"X-{'a' * size}: b" if part == "name" else f"X-A: {'b' * size}"
    refused(here, request(f"GET {route}", field), 431)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("count", [FIELDS_MAX + 1, 50_000])
def test_many_fields(here: World, route: str, count: int) -> None:
    """431 as well."""
    refused(here, request(f"GET {route}", *(f"X-{number}: a" for number in range(count))), 431)


def test_heads_within_the_limits(here: World) -> None:
    """What is just allowed arrives at the upstream, all of it."""
    path = tree(here, leaf())
    query = "q" * (LINE_MAX - 200)
    fields = [f"X-{number}: {'v' * (FIELD_MAX - 100)}" for number in range(7)]
    fields += [f"Y-{number}: a" for number in range(FIELDS_MAX - 12)]
    with Talk(here) as talk:
        talk.say(request(f"GET {path}?{query}", *fields))
        assert talk.hear().status == 200
    (seen,) = arrived(here, path)
    assert seen.target.endswith(f"?{query}")
    assert {each.lower() for each in fields} <= {f"{name}: {value}" for name, value in seen.headers.items()}


# --- what is no HTTP, and what is two things at once

HOST = "Host: localhost\r\n"
SYNTAX = {
    "folded": f"{HOST}X-A: b\r\n c\r\n",
    "folded with a tab": f"{HOST}X-A: b\r\n\tc\r\n",
    "folded at once": f" X-A: b\r\n{HOST}",
    "space before the colon": f"{HOST}X-A : b\r\n",
    "tab before the colon": f"{HOST}X-A\t: b\r\n",
    "space before the length's colon": f"{HOST}Content-Length : 5\r\n",
    "NUL in a value": f"{HOST}X-A: b\0c\r\n",
    "CR in a value": f"{HOST}X-A: b\rc\r\n",
    "LF in a value": f"{HOST}X-A: b\nX-B: c\r\n",
    "control character in a value": f"{HOST}X-A: b\x01c\r\n",
    "no name": f"{HOST}: b\r\n",
    "no colon": f"{HOST}X-A\r\n",
    "space in a name": f"{HOST}X A: b\r\n",
    "octets in a name": f"{HOST}X-\xe4: b\r\n",
    "two hosts": f"{HOST}Host: example.com\r\n",
    "two hosts alike": f"{HOST}{HOST}",
    "no host": "X-A: b\r\n",
    "plus": f"{HOST}Content-Length: +5\r\n",
    "minus": f"{HOST}Content-Length: -5\r\n",
    "space in the length": f"{HOST}Content-Length: 5 5\r\n",
    "list of lengths": f"{HOST}Content-Length: 5, 5\r\n",
    "list of two lengths": f"{HOST}Content-Length: 5, 6\r\n",
    "no length": f"{HOST}Content-Length:\r\n",
    "hexadecimal length": f"{HOST}Content-Length: 0x5\r\n",
    "fraction of a length": f"{HOST}Content-Length: 5.0\r\n",
    "huge length": f"{HOST}Content-Length: 99999999999999999999\r\n",
    "length of other digits": f"{HOST}Content-Length: \xb2\r\n",
    "two lengths": f"{HOST}Content-Length: 5\r\nContent-Length: 6\r\n",
    "two lengths alike": f"{HOST}Content-Length: 5\r\nContent-Length: 5\r\n",
    "length and chunks": f"{HOST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "chunks and length": f"{HOST}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "chunks twice": f"{HOST}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "chunks and something": f"{HOST}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "something and chunks": f"{HOST}Transfer-Encoding: gzip, chunked\r\n",
    "chunks, then something": f"{HOST}Transfer-Encoding: chunked, identity\r\n",
    "chunked chunks": f"{HOST}Transfer-Encoding: chunked, chunked\r\n",
    "identity": f"{HOST}Transfer-Encoding: identity\r\n",
    "misspelt": f"{HOST}Transfer-Encoding: xchunked\r\n",
    "quoted": f'{HOST}Transfer-Encoding: "chunked"\r\n',
    "parameter": f"{HOST}Transfer-Encoding: chunked;q=1\r\n",
    "trailing comma": f"{HOST}Transfer-Encoding: chunked,\r\n",
    "nothing": f"{HOST}Transfer-Encoding:\r\n",
    "vertical tab": f"{HOST}Transfer-Encoding: \x0bchunked\r\n",
    "folded coding": f"{HOST}Transfer-Encoding:\r\n chunked\r\n",
    "space before the coding's colon": f"{HOST}Transfer-Encoding : chunked\r\n",
    "line feed before the coding": f"{HOST}X-A: b\nTransfer-Encoding: chunked\r\n",
}


@pytest.mark.parametrize("line", ["POST /raw/m/a", "GET /raw/m/a", "GET /simple/six/", "POST /admin/cache/purge"])
@pytest.mark.parametrize("case", SYNTAX)
def test_two_readings_of_one_request(here: World, line: str, case: str) -> None:
    """Whatever a neighbour could read otherwise than we do is refused, and so is all that follows on that connection:
    no octet of it is ever served as a request."""
    behind = b"0\r\n\r\n" + request(f"GET {tree(here, leaf())}") * 2
    fields = f"{SYNTAX[case]}Authorization: Bearer {TOKEN}\r\n"
    refused(here, f"{line} HTTP/1.1\r\n{fields}\r\n".encode("latin-1"), 400, behind=behind)


@pytest.mark.parametrize(
    "said",
    [
        b"GET /raw/m/a HTTP/1.1\nHost: localhost\n\n",
        b"GET /raw/m/a HTTP/1.1\rHost: localhost\r\r",
        b"GET\t/raw/m/a HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /raw/m/a HTTP/1.1 \r\nHost: localhost\r\n\r\n",
        b"GET /raw/m/a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /raw/m/a HTTP/1.1x\r\nHost: localhost\r\n\r\n",
        b"GET /raw/m/a HTTP/01.1\r\nHost: localhost\r\n\r\n",
        b"GET /raw/m/a http/1.1\r\nHost: localhost\r\n\r\n",
        b" GET /raw/m/a HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\0GET /raw/m/a HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_request_lines_that_are_none(here: World, said: bytes) -> None:
    """400, and nothing behind it."""
    before = len(here.upstream.log)
    with Talk(here) as talk:
        talk.say(said)
        talk.say(request(f"GET {tree(here, leaf())}"))
        assert talk.hear().status in (400, 505)
        assert talk.rest()[0] == b""
    assert here.upstream.log[before:] == []


def test_empty_lines_before_a_request(here: World) -> None:
    """RFC 9112 §2.2: a server should ignore at least one, which old clients send behind a body."""
    with Talk(here) as talk:
        talk.say(b"\r\n" + request("GET /healthz") + b"\r\n" + request("GET /healthz", "Connection: close"))
        assert [talk.hear().status for _ in range(2)] == [200, 200]
        assert talk.rest() == (b"", False)


def test_octets_of_a_field(here: World) -> None:
    """Both ways unchanged: UTF-8 from a client, anything from an upstream; what could not be sent on is refused."""
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: no-store\r\nX-A: \xe4 \xc3\xa4\r\n\r\nok"
    path = tree(here, Raw(said))
    with Talk(here) as talk:
        talk.say(request(f"GET {path}", "X-B: \xc3\xa4"))
        got = talk.hear()
        assert (got.status, got.all("x-a")) == (200, ["\xe4 \xc3\xa4"])
        talk.say(request(f"GET {path}", "X-B: \xe4"))
        assert talk.hear().status == 400
    (seen,) = arrived(here, path)
    assert seen.headers["x-b"] == "\xc3\xa4"


def test_the_whole_of_a_raw_answer(here: World) -> None:
    """Several lines of a field stay several, the Date is the origin's, a status may be anybody's, and nothing of ours
    is added but Age, Via or the like of a cache."""
    said = (
        b"HTTP/1.1 299 Odd\r\nDate: Thu, 01 Jan 1998 00:00:00 GMT\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 2\r\n"
        b"Cache-Control: no-store\r\nCache-Status: origin; hit\r\n\r\nok"
    )
    path = tree(here, Raw(said))
    with Talk(here) as talk:
        talk.say(request(f"GET {path}"))
        got = talk.hear()
    assert (got.status, got.body, got.all("x-a")) == (299, b"ok", ["1", "2"])
    assert got.all("date") == ["Thu, 01 Jan 1998 00:00:00 GMT"]
    assert got.all("content-type") + got.all("server") + got.all("x-content-type-options") == []
    first, ours = got.all("cache-status")
    assert first == "origin; hit"
    assert ours.startswith("pip-cache-proxy")


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_cut_is_a_cut(here: World, framing: Framing, ending: Ending) -> None:
    """A body that breaks off upstream never looks whole at the client."""
    path = tree(here, Answer(status=200, body=BIG, framing=framing, stop_after=300_000, ending=ending))
    with Talk(here) as talk:
        talk.say(request(f"POST {path}"))
        with suppress(ConnectionError):
            assert talk.hear().status in (502, 503)


def test_a_client_that_leaves_in_its_body(here: World) -> None:
    """The upstream gets a cut, too: half an upload is never made a whole one."""
    path = tree(here, leaf())
    with here.connect() as connection:
        connection.sendall(request(f"PUT {path}", "Content-Length: 10", body=b"12345"))
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(PATIENCE)
        while connection.recv(65536):
            pass
    assert not [each for each in arrived(here, path) if each.status is not None]
    assert here.get("/healthz").status == 200


@pytest.mark.parametrize("behind", [b"", request("GET /healthz")])
def test_an_upload_while_the_proxy_ends(tmp_path: Path, behind: bytes) -> None:
    """It may come to its end, as a download may; what stands behind it is not served any more."""
    with world(tmp_path, mounts=tree_of) as here, Talk(here) as talk:
        path = tree(here, Answer(status=201, body=b"made"))
        talk.say(request(f"PUT {path}", "Content-Length: 6", body=b"abc"))
        here.upstream.wait_for(lambda log: bool(log))
        here.proxy.signal(signal.SIGTERM)
        here.proxy.wait_for_log(lambda lines: "stopping" in [each.get("event") for each in lines])
        talk.say(b"def" + behind)
        assert talk.hear().status == 201
        assert talk.rest()[0] == b""
        assert [each.body for each in arrived(here, path)] == [b"abcdef"]
        assert here.proxy.process.wait(20) == 0


def test_faults_of_ours_are_none(here: World) -> None:
    """After all of this the log holds no trace."""
    assert "Traceback" not in here.proxy.stderr
