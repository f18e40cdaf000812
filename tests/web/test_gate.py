"""The front gate: a table of requests and the status each is refused with."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.core.urls import parse_target
from proxy.errors import Refused
from proxy.web.gate import admit

HOSTS = frozenset({"example.com", "[::1]", "127.0.0.1"})


def refusal(
    method: str = "GET",
    target: str = "/simple/",
    version: tuple[int, int] = (1, 1),
    headers: Mapping[str, str] | None = None,
    hosts: frozenset[str] = frozenset(),
    mounts: frozenset[str] = frozenset(),
) -> int | None:
    """The status a request is refused with, None when it is let in."""
    try:
        admit(method, target, version, CIMultiDict(headers or {}), hosts, mounts)
    except Refused as refused:
        return refused.status
    return None


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/simple/six/",
        "/simple/six/?format=application/vnd.pypi.simple.v1%2Bjson",
        "/simple/?a=//%2F..%00\\",
        "/files/main/example.com%3A8080/a%2B1-1.0.whl",
        "/files/main/%5B::1%5D/a.whl",
        "/files/main/example.com/a%252Fb/c%255Cd.whl",
        "/files/main/example.com/...",
        "/files/main/example.com/..a/.b",
        "/files/main/example.com/%C3%A4.whl",
        "/files/main/example.com/100%.whl",
        "/healthz",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("version", [(1, 0), (1, 1)])
def test_let_in(method: str, target: str, version: tuple[int, int]) -> None:
    """What clients send."""
    assert refusal(method, target, version) is None


@pytest.mark.parametrize(
    "target",
    [
        "",
        "*",
        "simple/",
        "?x",
        "http://example.com/simple/",
        "example.com:443",
        "//example.com/simple/",
        "/simple//",
        "/simple//six/",
        "/simple/../six/",
        "/simple/./six/",
        "/simple/..",
        "/.",
        "/simple/%2e%2E/six/",
        "/simple/.%2e/six/",
        "/simple/%2E/six/",
        "/simple/..%2fsix/",
        "/files/main/example.com/a%2Fb.whl",
        "/files/main/example.com/a%5cb.whl",
        "/files/main/example.com/a\\b.whl",
        "/files/main/example.com/a%00.whl",
        "/files/main/example.com/a%0a.whl",
        "/files/main/example.com/a%0D.whl",
        "/files/main/example.com/a\0.whl",
        "/files/main/example.com/a b.whl",
        "/files/main/example.com/a\tb.whl",
        "/files/main/example.com/a\r\nb.whl",
        "/files/main/example.com/a\x7f.whl",
        "/files/main/example.com/ä.whl",
        "/files/main/example.com/\udc80.whl",
        "/simple/\u2028/",
        "/simple/six?format=\udc80",
        "/simple/six/?\x7f",
        "/admin/cache/list?ä",
    ],
)
def test_paths_refused(target: str) -> None:
    """Every spelling that a neighbour could read otherwise than we do, and what no URL may hold (RFC 3986 §2)."""
    assert refusal(target=target) == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get", "PURGE"])
def test_methods_refused(method: str) -> None:
    """RFC 9110 §9.1: method names have case; only two are served."""
    assert refusal(method) == 405


@pytest.mark.parametrize("path", ["/admin", "/admin/", "/admin/cache/remove", "/admin/x?y"])
@pytest.mark.parametrize(
    ("method", "status"),
    [("POST", None), ("PUT", None), ("DELETE", None), ("OPTIONS", None), ("TRACE", 405), ("CONNECT", 405)],
)
def test_methods_below_admin(path: str, method: str, status: int | None) -> None:
    """The admin API says itself what each of its paths is asked with; what is for forward proxies stays outside."""
    assert refusal(method, path) == status
    assert refusal("GET", path) is None


@pytest.mark.parametrize(
    "path", ["/", "/administrator", "/admin.json", "/Admin/", "/x/admin/", "/simple/", "/?/admin/"]
)
def test_methods_beside_admin(path: str) -> None:
    """Nothing else is ever changed by a request."""
    assert refusal("POST", path) == 405


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, None),
        ({"content-length": "0"}, None),
        ({"content-length": "17"}, None),
        ({"transfer-encoding": "chunked"}, None),
        ({"transfer-encoding": " Chunked "}, None),
        ({"transfer-encoding": ""}, 400),
        ({"transfer-encoding": "gzip, chunked"}, 400),
        ({"transfer-encoding": "chunked, chunked"}, 400),
        ({"transfer-encoding": "identity"}, 400),
        ({"transfer-encoding": "chunked", "content-length": "0"}, 400),
        ({"upgrade": "websocket", "content-length": "2"}, 400),
    ],
)
def test_bodies_below_admin(headers: dict[str, str], status: int | None) -> None:
    """Where a body ends is told in one way only; on a GET there is none here either."""
    assert refusal("POST", "/admin/cache/purge", headers=headers) == status
    bare = not headers or headers == {"content-length": "0"}
    assert refusal("GET", "/admin/cache/list", headers=headers) == (None if bare else 400)


@pytest.mark.parametrize("version", [(0, 9), (1, 2), (2, 0), (3, 0)])
def test_versions_refused(version: tuple[int, int]) -> None:
    """Only what is known to be framed as we frame it."""
    assert refusal(version=version) == 505


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, None),
        ({"content-length": "0"}, None),
        ({"content-length": " 0 "}, None),
        ({"content-length": "1"}, 400),
        ({"content-length": ""}, 400),
        ({"content-length": "00"}, 400),
        ({"content-length": "-0"}, 400),
        ({"transfer-encoding": "chunked"}, 400),
        ({"transfer-encoding": ""}, 400),
        ({"transfer-encoding": "chunked", "content-length": "0"}, 400),
    ],
)
def test_bodies_refused(headers: dict[str, str], status: int | None) -> None:
    """A GET with a body has no meaning (RFC 9110 §9.3.1) and is how requests are smuggled."""
    assert refusal(headers=headers) == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("example.com", None),
        ("EXAMPLE.com", None),
        ("example.com:3143", None),
        (" example.com ", None),
        ("127.0.0.1:80", None),
        ("[::1]", None),
        ("[::1]:3143", None),
        ("", 421),
        ("example.org", 421),
        ("example.com.evil.example", 421),
        ("example.com:80:80", 421),
        ("example.com:80@evil.example", 421),
        ("::1", 421),
        ("[::1", 421),
        ("[::2]", 421),
    ],
)
def test_hosts(host: str, status: int | None) -> None:
    """With allowed hosts set, the Host field must name one, with any port (DNS rebinding)."""
    assert refusal(headers={"host": host}, hosts=HOSTS) == status
    assert refusal(headers={"host": host}) is None


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("example.com:3143", None),
        ("EXAMPLE.com:3143", None),
        (" example.com:3143 ", None),
        ("[::1]:3143", None),
        ("example.org", None),
        ("example.org:1", None),
        ("example.com", 421),
        ("example.com:", 421),
        ("example.com:80", 421),
        ("example.com:31430", 421),
        ("example.com:3143:3143", 421),
        ("example.com:3143@evil.example", 421),
        ("[::1]", 421),
        ("[::1]:80", 421),
        ("::1:3143", 421),
        (":3143", 421),
        ("", 421),
    ],
)
def test_hosts_with_a_port(host: str, status: int | None) -> None:
    """An allowed host that names a port means just this one; beside it, one without a port still means any."""
    hosts = frozenset({"example.com:3143", "[::1]:3143", "example.org"})
    assert refusal(headers={"host": host}, hosts=hosts) == status


def test_a_missing_host_is_not_an_allowed_one() -> None:
    """RFC 9112 §3.2: a request of HTTP/1.0 may lack it."""
    assert refusal(version=(1, 0), hosts=HOSTS) == 421
    assert refusal(version=(1, 0)) is None


# --- below mounts

MOUNTS = frozenset({"builds", "builds.2"})
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH", "PURGE", "X-Other"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", ["/raw/builds/", "/raw/builds/a/b.tar.gz", "/raw/builds.2/a?b=c"])
def test_every_method_below_a_mount(method: str, target: str) -> None:
    """All but CONNECT and TRACE, with a body and without one."""
    for headers in ({}, {"content-length": "0"}, {"content-length": "17"}, {"transfer-encoding": "chunked"}):
        assert refusal(method, target, headers=headers, mounts=MOUNTS) is None
    assert refusal(method, target, (1, 0), {"content-length": "17"}, mounts=MOUNTS) is None


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_never_below_a_mount(method: str) -> None:
    """What is for forward proxies, and what would show a client's credentials to a script."""
    assert refusal(method, "/raw/builds/a", mounts=MOUNTS) == 405


@pytest.mark.parametrize(
    "target",
    ["/raw/", "/raw/builds", "/raw/other/a", "/raw/Builds/a", "/RAW/builds/a", "/x/raw/builds/a", "/raw/%62uilds/a"],
)
def test_beside_mounts(target: str) -> None:
    """Whatever is no configured mount is read only, and has no bodies."""
    assert refusal("POST", target, mounts=MOUNTS) == 405
    assert refusal("GET", target, headers={"content-length": "1"}, mounts=MOUNTS) == 400
    assert refusal("GET", target, mounts=MOUNTS) is None


@pytest.mark.parametrize(
    "target",
    [
        "/raw/builds//a",
        "/raw/builds/../a",
        "/raw/builds/.",
        "/raw/builds/%2e%2e/a",
        "/raw/builds/a%2fb",
        "/raw/builds/a%5Cb",
        "/raw/builds/a%00",
        "/raw/builds/a%0ab",
        "/raw/builds/a\\b",
        "/raw/builds/a b",
        "/raw/builds/\udc80",
        "/raw/builds/a#b",
        "/raw/builds/a?b#c",
        "/raw/builds/a?\udc80",
        "/raw/builds/a?\x01",
        "/raw/builds/a?b c",
        "/raw/builds/a?\x7f",
    ],
)
def test_targets_refused_below_a_mount(target: str) -> None:
    """The walls stand here, too; a query is visible ASCII, and a fragment never leaves a client."""
    assert refusal(target=target, mounts=MOUNTS) == 400


@pytest.mark.parametrize("query", ["", "a=b&a=%2F..%00//\\", "?", "!$'()*+,;:@[]{}|^`~\"<>"])
def test_queries_below_a_mount(query: str) -> None:
    """What an upstream means by it is its own affair."""
    assert refusal(target=f"/raw/builds/a?{query}", mounts=MOUNTS) is None


@pytest.mark.parametrize(
    "headers",
    [
        [("transfer-encoding", "")],
        [("transfer-encoding", "gzip, chunked")],
        [("transfer-encoding", "chunked, chunked")],
        [("transfer-encoding", "identity")],
        [("transfer-encoding", "xchunked")],
        [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        [("transfer-encoding", "chunked"), ("content-length", "0")],
        [("transfer-encoding", "identity"), ("content-length", "5")],
        [("transfer-encoding", "chunked"), ("content-length", "x")],
        [("content-length", "5"), ("content-length", "5")],
        [("content-length", "5, 5")],
        [("content-length", "+5")],
        [("content-length", "-5")],
        [("content-length", "0x5")],
        [("content-length", "5 5")],
        [("content-length", "\u0665")],
        [("content-length", "")],
        [("content-length", "5"), ("upgrade", "websocket")],
        [("transfer-encoding", "chunked"), ("upgrade", "websocket")],
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_framing_below_a_mount(method: str, headers: list[tuple[str, str]]) -> None:
    """RFC 9112 §6.3: who cannot say where a body ends cannot find the next request, so the connection closes."""
    with pytest.raises(Refused) as caught:
        admit(method, "/raw/builds/a", (1, 1), CIMultiDict(headers), (), MOUNTS)
    assert caught.value.status == 400
    assert caught.value.headers == (("Connection", "close"),)


def test_chunks_of_http_1_0() -> None:
    """RFC 9112 §6.1: "MUST treat the message as if the framing is faulty"."""
    assert refusal("POST", "/raw/builds/a", (1, 0), {"transfer-encoding": "chunked"}, mounts=MOUNTS) == 400
    assert refusal("POST", "/admin/cache/purge", (1, 0), {"transfer-encoding": "chunked"}) == 400


@pytest.mark.parametrize(("method", "status"), [("GET", None), ("HEAD", None), ("POST", 400), ("OPTIONS", 400)])
def test_upgrades_below_a_mount(method: str, status: int | None) -> None:
    """RFC 9110 §7.8: nobody has to follow one; where a body may come it is refused."""
    assert refusal(method, "/raw/builds/a", headers={"upgrade": "websocket"}, mounts=MOUNTS) == status


@given(st.text(st.characters(), max_size=40))
def test_what_is_let_in_can_be_parsed(path: str) -> None:
    """Nothing but Refused leaves the gate, and what passes makes nothing behind it raise."""
    for target in (path, f"/{path}", f"/simple/{path}", f"/files/main/{path}", f"/raw/builds/{path}"):
        if refusal(target=target, mounts=MOUNTS) is None:
            parse_target(target.partition("?")[0], ("main",), "main", MOUNTS)
