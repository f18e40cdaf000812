"""Mounts map one to one: methods, bodies, statuses and fields both ways; whose answers they are, and what changes them.

How long an answer lives is in test_mounts_freshness, who shares one in test_mounts_crowd, bodies in test_mounts_bodies.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.harness.exchange import Gate
from tests.harness.origin import HANG_UP, Lines, Origin, Question, Say, Tree, listen, request, say, tree
from tests.harness.server import ProxyServer
from tests.harness.waiting import eventually
from tests.harness.world import fresh_name

FRESH = "max-age=1000"
MOUNTS = {"keys": {"pass_credentials": True}}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """One proxy that these tests share."""
    with tree(tmp_path_factory.mktemp("mounts"), MOUNTS) as made:
        yield made


def stored(here: Tree, *steps: Say) -> str:
    """A path whose first answer is kept."""
    rest = here.place(*steps)
    assert here.get(rest).status == 200
    here.hit(rest)
    return rest


# --- methods, bodies, statuses

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH", "QUERY", "PURGE", "MKCOL"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("body", [None, b"", b"some\0bytes\xff"], ids=["none", "empty", "some"])
def test_every_method_and_body(here: Tree, method: str, body: bytes | None) -> None:
    """It reaches the origin as it is, once, and so does what it says."""
    rest = here.place(say(b"\0answer\xff", "no-store"))
    told = here.ask(method, rest, body=body)
    assert (told.status, told.body, told.whole) == (200, b"\0answer\xff", True)
    [asked] = here.origin.asked(rest)
    assert (asked.method, asked.target, asked.body) == (method, f"/base/{rest}", body or b"")
    if body:
        assert asked.all("content-length") == [str(len(body))]


def test_a_body_in_chunks(here: Tree) -> None:
    """It goes on in chunks, and comes out as it was."""
    rest = here.place(say("ok", "no-store"))
    data = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"
    assert here.ask("PUT", rest, ("Transfer-Encoding", "chunked"), body=data).body == b"ok"
    [asked] = here.origin.asked(rest)
    assert (asked.body, asked.whole, asked.all("transfer-encoding")) == (b"hello world", True, ["chunked"])


STATUSES = [200, 201, 202, 203, 206, 226, 299, 300, 302, 399, 400, 401, 402, 403, 404, 407, 418, 429, 451, 499]
STATUSES += [500, 502, 503, 504, 511, 599, 999]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("status", STATUSES)
def test_every_status(here: Tree, status: int, method: str) -> None:
    """It is passed on with its body, and is nobody's failure."""
    rest = here.place(say("body", None, ("X-Of", "origin"), status=status))
    told = here.ask(method, rest, *([("Range", "bytes=0-3")] if status == 206 else []))
    assert (told.status, told.body, told.header("x-of")) == (status, b"body", "origin")
    assert len(here.origin.asked(rest)) == 1


def test_204_has_no_body(here: Tree) -> None:
    """RFC 9110 §8.6: nor a length, also when it is kept."""
    rest = here.place(say(b"", FRESH, status=204))
    for told in (here.get(rest), here.hit(rest)):
        assert (told.status, told.body, told.header("content-length")) == (204, b"", None)


def test_interim_responses_are_no_answers(here: Tree) -> None:
    """They are swallowed."""
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    told = here.get(here.place(say("final", None, interim=interim)))
    assert (told.status, told.body, told.header("link")) == (200, b"final", None)


# --- fields


def test_every_field_of_a_request(here: Tree) -> None:
    """Lines stay lines, in order, spelling and octets; beside them stand Host, Via and nothing else of ours."""
    lines = [
        ("X-Odd-cASE", "1"),
        ("x-unknown", "\xc3\xa4 as octets"),
        ("X-Twice", "a"),
        ("X-Twice", "b, c"),
        ("User-Agent", "me (and, nobody)"),
        ("Accept-Encoding", "br;q=0.1"),
        ("X-Empty", ""),
        ("If-None-Match", '"x"'),
        ("Via", "1.0 somebody"),
    ]
    rest = here.place(say("ok", "no-store"))
    assert here.get(rest, *lines).status == 200
    [asked] = here.origin.asked(rest)
    mine = [line for line in asked.lines if line[0] != "Host"]
    assert mine[:-1] == lines
    assert mine[-1][0] == "Via"
    assert mine[-1][1].startswith("1.1 pip-cache-proxy-")
    assert asked.all("host") == [here.origin.address]


@pytest.mark.parametrize("control", ["no-store", FRESH])
def test_every_field_of_an_answer(here: Tree, control: str) -> None:
    """The same on the way back, from the origin and from the store; nothing is invented."""
    lines = (
        ("Date", formatdate(usegmt=True)),
        ("x-ODD-case", "1"),
        ("X-Octets", "\xe4\xff no UTF-8"),
        ("X-Twice", "a"),
        ("X-Twice", "b, c"),
        ("Server", "theirs/1"),
        ("Content-Encoding", "x-nobody-knows"),
        ("Content-Location", "/somewhere/else"),
        ("Link", "</a>; rel=next"),
        ("ETag", 'W/"weak"'),
        ("Last-Modified", "not a date"),
        ("Cache-Control", control),
        ("Cache-Status", "Other; hit"),
        ("Content-Type", "x/y"),
    )
    rest = here.place(Say(lines=lines, body=b"body"))
    answers = [here.get(rest)] + ([here.hit(rest)] if control == FRESH else [])
    for told in answers:
        theirs = [line for line in told.lines if line[0] not in ("Age", "Content-Length", "Content-Security-Policy")]
        assert theirs[:-1] == list(lines)
        assert theirs[-1][0] == "Cache-Status"
        assert theirs[-1][1].startswith("pip-cache-proxy; ")
        assert told.all("content-length") == ["4"]


def test_no_type_is_invented(here: Tree) -> None:
    """Nor a server; what a browser would guess may not run in our origin."""
    rest = here.place(say("<script>", FRESH))
    here.get(rest)
    told = here.hit(rest)
    assert (told.header("content-type"), told.header("server")) == (None, None)
    assert told.header("content-security-policy") == "sandbox"


HOPS = [
    ("Connection", "X-Named, x-named-too,close"),
    ("X-Named", "1"),
    ("X-NAMED-Too", "2"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Connection", "keep-alive"),
    ("TE", "trailers"),
    ("Trailer", "X-T"),
]


def test_fields_for_one_connection(here: Tree) -> None:
    """They and those that Connection names go no further, either way, and are not kept."""
    rest = here.place(say("body", FRESH, *HOPS, ("X-End", "to end")))
    first = here.get(rest, *HOPS, ("X-End", "to end"))
    [asked] = here.origin.asked(rest)
    for lines in (asked.lines, first.lines, here.hit(rest).lines):
        names = {name.lower() for name, _ in lines}
        assert "x-end" in names
        assert names.isdisjoint({"x-named", "x-named-too", "keep-alive", "proxy-connection", "te", "trailer"})


def test_what_a_connection_names_selects_nothing(here: Tree) -> None:
    """The origin did not see it: else one client could put the answer for nobody in the place of that for others."""

    def by_accept(question: Question) -> Say:
        return say(f"for {question.header('accept')}", FRESH, ("Vary", "Accept"))

    rest = here.place(by_accept)
    assert here.get(rest, ("Accept", "a/b"), ("Connection", "close, accept")).body == b"for None"
    here.hit(rest)
    assert here.get(rest, ("Accept", "a/b")).body == b"for a/b"


# --- addresses


def test_a_query_is_part_of_the_address(here: Tree) -> None:
    """``?a``, ``?`` and none are three, and reach the origin in their spelling."""
    rest = here.place(say("x", FRESH))
    for query in ("", "?", "?a", "?a=", "?A", "?a&b", "?b&a", "?a=%2F%2f//..\\"[:12]):
        assert not here.get(rest + query).hit
        here.hit(rest + query)
    assert len(here.origin.asked(rest)) == 8
    assert "?a=%2F%2f//" in "".join(each.target for each in here.origin.asked(rest))


def test_paths_in_any_spelling(here: Tree) -> None:
    """Escapes stay escapes: each spelling is an address of its own."""
    name = fresh_name("spelled")
    for rest in (f"{name}{end}" for end in ("%20x", "%7e", "~", ";a=b", "/a/", "/a", "|'*", "%ff")):
        here.origin.script(rest, say(rest, FRESH))
        assert here.get(rest).body == rest.encode()
        assert here.hit(rest).body == rest.encode()


def test_the_mount_itself(here: Tree) -> None:
    """It ends in a slash: without it the client is told."""
    here.origin.script("", say("root", FRESH))
    assert here.get("").body == b"root"
    with here.connect() as connection:
        connection.sendall(request("GET", "/raw/tree"))
        told = listen(connection, "GET")
    assert (told.status, told.header("location")) == (301, "tree/")


TARGET = "dir/sub/page?x=1"
LOCATIONS = [
    ("other", "../../dir/sub/other"),
    ("other?y=2#frag", "../../dir/sub/other?y=2#frag"),
    ("./", "../../dir/sub/"),
    ("../up", "../../dir/up"),
    ("?y=2", "../../dir/sub/page?y=2"),
    ("/base/top", "../../top"),
    ("/base/", "../../"),
    ("/base/a:b", "../../a:b"),
    ("{origin}/base/abs", "../../abs"),
    ("HTTP://{address}/base/abs", "../../abs"),
    ("//{address}/base/abs", "../../abs"),
    ("/elsewhere", "{origin}/elsewhere"),
    ("/base", "{origin}/base"),
    ("/based/x", "{origin}/based/x"),
    ("../../../outside", "{origin}/outside"),
    ("{origin}/base/a%2Fb", "{origin}/base/a%2Fb"),
    ("{origin}/base//twice", "{origin}/base//twice"),
    ("{origin}/base/%2e%2e/x", "{origin}/base/%2e%2e/x"),
    ("https://{address}/base/x", "https://{address}/base/x"),
    ("http://user@{address}/base/x", "http://user@{address}/base/x"),
    ("https://example.com/x?y", "https://example.com/x?y"),
    ("mailto:me", "mailto:me"),
    ("http://[not", "http://[not"),
    ("http://example.com:port/", "http://example.com:port/"),
]


@pytest.mark.parametrize(("location", "seen"), LOCATIONS)
def test_where_a_redirect_leads(here: Tree, location: str, seen: str) -> None:
    """Through the mount if it points into it, relative so that no prefix matters; else to where it says. It is not
    followed, and the same from the store."""
    words = {"address": here.origin.address, "origin": f"http://{here.origin.address}"}
    here.origin.script("dir/sub/page", say("gone", FRESH, ("Location", location.format(**words)), status=301))
    mount = here.on("keys")
    query = fresh_name("&q")
    told = mount.get(TARGET + query)
    assert (told.status, told.all("location"), told.body) == (301, [seen.format(**words)], b"gone")
    assert mount.hit(TARGET + query).all("location") == [seen.format(**words)]


def test_a_colon_in_the_first_segment(here: Tree) -> None:
    """RFC 3986 §4.2: it would be read as a scheme."""
    here.origin.script("page", say("", "no-store", ("Location", "/base/a:b"), status=302))
    assert here.get("page").header("location") == "./a:b"


MAPPED = [(200, False), (201, True), (202, False), (303, True), (308, True), (404, False)]


@pytest.mark.parametrize(("status", "mapped"), MAPPED)
def test_location_where_it_means_something(here: Tree, status: int, mapped: bool) -> None:
    """RFC 9110 §10.2.2: with 201 and 3xx. Content-Location is a name, and stays."""
    lines = (("Location", "/base/new"), ("Content-Location", "/base/name"))
    told = here.ask("POST", here.place(say("x", None, *lines, status=status)), body=b"")
    assert told.header("location") == ("./new" if mapped else "/base/new")
    assert told.header("content-location") == "/base/name"


@contextmanager
def mirror(port_of: list[int]) -> Iterator[int]:
    """A port that leads to another one, which is known later."""
    listener = socket.create_server(("127.0.0.1", 0))
    with closing(listener), ExitStack() as running:

        def pump(source: socket.socket, sink: socket.socket) -> None:
            try:
                while data := source.recv(65536):
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                pass

        def accept() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                far = socket.create_connection(("127.0.0.1", port_of[0]))
                for each in (near, far):
                    running.callback(each.close)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_a_mount_that_leads_back(tmp_path: Path, method: str) -> None:
    """One round, and 508: no storm."""
    port: list[int] = []
    with mirror(port) as through:
        mounts = {"loop": {"url": f"http://127.0.0.1:{through}/raw/loop/"}}
        with ProxyServer(tmp_path, {"test": "http://127.0.0.1:1/simple/"}, mounts=mounts) as proxy:
            port.append(proxy.port)
            with Origin() as origin:
                told = Tree(proxy, origin, "loop").ask(method, "x", body=b"" if method == "POST" else None)
            assert told.status == 508
            eventually(lambda: len(proxy.requests("/raw/")) >= 2, "both rounds are in the log")
            assert [each["status"] for each in proxy.requests("/raw/")] == [508, 508]


# --- dates and ages


def test_a_date_is_kept_or_made(here: Tree) -> None:
    """RFC 9110 §6.6.1; from the store it is the same one."""
    old = "Sun, 06 Nov 1994 08:49:37 GMT"
    rest = here.place(say("x", "max-age=2000000000", ("Date", old)))
    assert here.get(rest).all("date") == here.hit(rest).all("date") == [old]
    rest = here.place(say("x", FRESH, dated=False))
    first = here.get(rest).all("date")
    assert len(first) == 1
    assert here.hit(rest).all("date") == first


def test_an_age_is_ours_on_hits_alone(here: Tree) -> None:
    """On a miss that of the origin is passed on as it came, none made up; on a hit it has grown."""
    rest = here.place(say("x", FRESH, ("Age", "0070")))
    assert here.get(rest).all("age") == ["0070"]
    [age] = here.hit(rest).all("age")
    assert 70 <= int(age) < 100
    rest = here.place(say("x", FRESH))
    assert here.get(rest).all("age") == []
    assert len(here.hit(rest).all("age")) == 1


# --- whose answers


SECRETS = [("Authorization", "Basic c2VjcmV0"), ("Cookie", "a=secret"), ("Proxy-Authorization", "Basic c2VjcmV0")]


def test_credentials_stay_here(here: Tree) -> None:
    """Unless the mount says otherwise; nor does an origin set cookies. Whoever asks, it is one answer for all."""
    rest = here.place(say("x", FRESH, ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X", "y")))
    told = here.get(rest, *SECRETS)
    [asked] = here.origin.asked(rest)
    assert "secret" not in str(asked.lines)
    assert "c2VjcmV0" not in str(asked.lines)
    assert (told.all("set-cookie"), told.all("x")) == ([], ["y"])
    assert here.hit(rest).all("set-cookie") == []
    assert here.hit(rest, *SECRETS).body == b"x"


def test_credentials_go_on(here: Tree) -> None:
    """Where the mount says so; and cookies come back, line by line, also from the store."""
    keys = here.on("keys")
    rest = keys.place(say("x", f"public, {FRESH}", ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")))
    assert keys.get(rest, *SECRETS).all("set-cookie") == ["a=1", "b=2"]
    [asked] = keys.origin.asked(rest)
    assert [line for line in asked.lines if line in SECRETS] == SECRETS
    assert keys.hit(rest).all("set-cookie") == ["a=1", "b=2"]


AUTHORIZED = ("Authorization", "Bearer secret")


@pytest.mark.parametrize(
    ("control", "shared"),
    [(FRESH, False), (f"public, {FRESH}", True), ("s-maxage=1000", True), (f"must-revalidate, {FRESH}", True)],
)
def test_answers_to_somebody(here: Tree, control: str, shared: bool) -> None:
    """RFC 9111 §3.5, both ways: kept for others only where it allows that; and what was said to all is not what
    somebody is told who says who he is."""
    keys = here.on("keys")
    rest = keys.place(say("x", control))
    assert keys.get(rest, AUTHORIZED).body == b"x"
    keys.idle()
    assert keys.get(rest).hit is shared
    keys.hit(rest)
    assert keys.get(rest, AUTHORIZED).hit is shared
    assert len(keys.origin.asked(rest)) == (1 if shared else 3)


def test_no_secret_in_the_log(here: Tree) -> None:
    """Of a query, a credential or a cookie nothing is written, on no disk either."""
    keys = here.on("keys")
    rest = keys.place(say("x", f"public, {FRESH}"))
    assert keys.get(f"{rest}?signature=Zm9vYmFy", AUTHORIZED, ("Cookie", "c=Zm9vYmFy")).status == 200
    keys.settle(rest)
    assert "Zm9vYmFy" not in here.proxy.stderr
    assert not [path for path in here.proxy.cache.rglob("*") if path.is_file() and b"Zm9vYmFy" in path.read_bytes()]


# --- unsafe methods

UNSAFE = ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"]


@pytest.mark.parametrize("method", UNSAFE)
@pytest.mark.parametrize("status", [200, 204, 302])
def test_a_change_ends_what_is_kept(here: Tree, method: str, status: int) -> None:
    """RFC 9111 §4.4: the URL, all its variants, and what Location and Content-Location name inside the mount."""
    lines = (("Vary", "Accept"),)
    rest, new, named, other = (stored(here, say("before", FRESH, *lines), say("after", FRESH)) for _ in range(4))
    assert here.get(rest, ("Accept", "x/y")).body == b"after"
    here.hit(rest, ("Accept", "x/y"))
    told_lines = (("Location", f"/base/{new}#x"), ("Content-Location", f"http://{here.origin.address}/base/{named}"))
    here.origin.script(rest, say("", None, *told_lines, status=status), say("after", FRESH))
    assert here.ask(method, rest, body=b"").status == status
    for each in (rest, new, named):
        assert here.get(each).body == b"after"
    assert here.get(rest, ("Accept", "x/y")).body == b"after"
    assert here.get(other).hit


@pytest.mark.parametrize("method", UNSAFE)
@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_a_change_that_failed(here: Tree, method: str, status: int) -> None:
    """An error changes nothing."""
    rest = stored(here, say("before", FRESH), say("", None, ("Location", "x"), status=status))
    assert here.ask(method, rest, body=b"").status == status
    assert here.get(rest).hit


@pytest.mark.parametrize("method", ["OPTIONS", "PROPFIND", "REPORT", "SEARCH", "HEAD"])
def test_what_changes_nothing(here: Tree, method: str) -> None:
    """RFC 9110 §9.2.1: safe methods leave what is kept."""
    rest = stored(here, say("before", FRESH), say("", None))
    assert here.ask(method, rest).status == 200
    assert here.get(rest).hit


def test_a_location_elsewhere_ends_nothing(here: Tree) -> None:
    """§4.4: of another origin "MUST NOT"; and what is no URL is none."""
    rest = stored(here, say("before", FRESH))
    elsewhere = [f"http://127.0.0.1:9/base/{rest}", f"https://{here.origin.address}/base/{rest}", "http://[x", "//["]
    for location in elsewhere:
        poster = here.place(say("", None, ("Location", location), ("Content-Location", location)))
        assert here.ask("POST", poster, body=b"").status == 200
    assert here.get(rest).hit


def test_what_was_on_its_way_when_it_changed(here: Tree) -> None:
    """A body that was asked for before the change and is whole after it goes to who waits for it, and is not kept."""
    gate = Gate()
    body = b"before" * 50_000
    rest = here.place(say(body, FRESH, pause_after=200_000, gate=gate), say("", None), say("after", FRESH))
    with here.send(rest) as connection:
        assert gate.reached.wait(20)
        assert here.ask("POST", rest, body=b"").status == 200
        assert here.get(rest).body == b"after"
        gate.open()
        assert listen(connection, "GET").body == body
    here.idle()
    assert here.hit(rest).body == b"after"


# --- OPTIONS and HEAD


@pytest.mark.parametrize(("value", "goes", "less"), [
    ("0", False, None), ("00", False, None), ("1", True, "0"), ("10", True, "9"), ("x", True, "x"), ("-1", True, "-1"),
    ("99999999999999999999", True, "2147483647"),
])  # fmt: skip
def test_max_forwards(here: Tree, value: str, goes: bool, less: str | None) -> None:
    """RFC 9110 §7.6.2: with 0 we are who was meant, else it is one less; what is no number is passed on as it is."""
    rest = here.place(say("theirs", "no-store"))
    told = here.ask("OPTIONS", rest, ("Max-Forwards", value))
    asked = here.origin.asked(rest)
    assert [each.all("max-forwards") for each in asked] == ([[less]] if goes else [])
    if not goes:
        assert (told.status, told.body) == (204, b"")
        assert "GET" in (told.header("allow") or "")


def test_max_forwards_of_others(here: Tree) -> None:
    """Only OPTIONS (and TRACE, which is refused) count hops."""
    rest = here.place(say("theirs", "no-store"))
    assert here.get(rest, ("Max-Forwards", "0")).body == b"theirs"
    assert here.origin.asked(rest)[0].all("max-forwards") == ["0"]


def test_head_of_what_is_here(here: Tree) -> None:
    """From the GET: its fields, its length, no body."""
    rest = stored(here, say("seven b", FRESH, ("X-A", "1"), ("ETag", '"a"')))
    told = here.ask("HEAD", rest)
    assert (told.status, told.body, told.hit) == (200, b"", True)
    assert (told.header("content-length"), told.header("x-a"), told.header("etag")) == ("7", "1", '"a"')
    assert here.ask("HEAD", rest, ("If-None-Match", '"a"')).status == 304
    assert len(here.origin.asked(rest)) == 1


def test_head_of_what_is_not_here(here: Tree) -> None:
    """It is passed on, and nothing of it is kept."""
    rest = here.place(say("seven b", FRESH))
    for _ in range(2):
        told = here.ask("HEAD", rest)
        assert (told.status, told.header("content-length"), told.hit) == (200, "7", False)
    assert [each.method for each in here.origin.asked(rest)] == ["HEAD", "HEAD"]


STALE = "max-age=0"
SINCE = "Sun, 06 Nov 1994 08:49:37 GMT"
HEADS = [
    pytest.param((("ETag", '"a"'),), "before", True, id="same-etag"),
    pytest.param((("ETag", '"b"'),), "before", False, id="other-etag"),
    pytest.param((("ETag", 'W/"a"'),), "before", False, id="weak-etag"),
    pytest.param((("Last-Modified", SINCE),), "before", True, id="same-date"),
    pytest.param((("ETag", '"a"'), ("Last-Modified", formatdate(0, usegmt=True))), "before", False, id="other-date"),
    pytest.param((("ETag", '"a"'),), "longer than that", False, id="other-length"),
    pytest.param((), "before", True, id="same-length"),
    pytest.param((), "longer than that", False, id="other-length-alone"),
]


@pytest.mark.parametrize(("lines", "body", "same"), HEADS)
def test_what_a_head_says_of_a_get(here: Tree, lines: Lines, body: str, same: bool) -> None:
    """RFC 9111 §4.3.5: one that agrees freshens it, one that does not ends it."""
    first = say("before", STALE, ("ETag", '"a"'), ("Last-Modified", SINCE), ("X-A", "1"))
    rest = here.place(first, say(body, FRESH, *lines, ("X-A", "2")), say("after", FRESH))
    here.get(rest)
    here.settle(rest)
    assert here.ask("HEAD", rest).header("x-a") == "2"
    told = here.get(rest)
    assert (told.hit, told.body) == ((True, b"before") if same else (False, b"after"))
    if same:
        assert told.header("x-a") == "2"
        assert len(here.origin.asked(rest)) == 2


@pytest.mark.parametrize("status", [404, 304, 500])
def test_a_head_of_another_status_says_nothing(here: Tree, status: int) -> None:
    """Only a 200 does (§4.3.5)."""
    rest = here.place(say("before", STALE, ("ETag", '"a"')), say("", FRESH, ("ETag", '"b"'), status=status))
    here.get(rest)
    here.settle(rest)
    here.ask("HEAD", rest, ("If-None-Match", '"b"'))
    here.origin.script(rest, say("", None, status=304))
    assert here.get(rest).body == b"before"


def test_a_head_when_the_origin_is_down(here: Tree) -> None:
    """What is kept answers it, as it does a GET: dead, or in trouble."""
    rest = here.place(say("before", STALE), HANG_UP, say("", None, status=503))
    here.get(rest)
    here.settle(rest)
    for status in (503, 200):
        if status == 503:
            here.origin.script(rest, say("", None, status=503))
        else:
            here.origin.script(rest, HANG_UP)
        told = here.ask("HEAD", rest)
        assert (told.status, told.hit, told.header("content-length")) == (200, True, "6")


def test_nothing_is_left_open(here: Tree) -> None:
    """No look is under way, no body on its way, nothing spooled, and the log has no fault of ours."""
    here.idle()
    assert here.proxy.spooled() == []
    eventually(lambda: here.origin.busy == 0, "no answer is under way")
    assert "Traceback" not in here.proxy.stderr
