"""What front proxies say: who asked, and under which name; believed only from those who are trusted."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.web.forwarded import Front, authority_of, scheme_of

NETWORKS = tuple(map(ip_network, ("127.0.0.1/32", "10.0.0.0/8", "fd00::/8")))
FRONT = Front(trusted=NETWORKS)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        # Nobody forwarded anything.
        ("127.0.0.1", [], "127.0.0.1"),
        ("192.0.2.1", [], "192.0.2.1"),
        # A peer that is not trusted may say what it likes.
        ("192.0.2.1", ["127.0.0.1"], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.1, 10.0.0.1"], "192.0.2.1"),
        # One trusted proxy: the address it saw, whatever its client sent along.
        ("127.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("127.0.0.1", ["198.51.100.1, 192.0.2.1"], "192.0.2.1"),
        ("127.0.0.1", ["198.51.100.1", "192.0.2.1"], "192.0.2.1"),
        ("127.0.0.1", ["127.0.0.1, 192.0.2.1"], "192.0.2.1"),
        # A chain of them.
        ("127.0.0.1", ["192.0.2.1, 10.1.2.3"], "192.0.2.1"),
        ("127.0.0.1", ["192.0.2.1", "10.1.2.3, fd00::1"], "192.0.2.1"),
        ("127.0.0.1", ["198.51.100.1, 192.0.2.1, 10.1.2.3"], "192.0.2.1"),
        # Trusted hops alone: the first of them.
        ("127.0.0.1", ["10.0.0.1,10.0.0.2"], "10.0.0.1"),
        # IPv6, ports, IPv4 in IPv6.
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("fd00::1%eth0", ["2001:DB8:0::1"], "2001:db8::1"),
        ("127.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1"),
        ("127.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("127.0.0.1", ["192.0.2.1:50000"], "192.0.2.1"),
        ("127.0.0.1", ["192.0.2.1, ::ffff:10.0.0.1"], "192.0.2.1"),
        ("::ffff:127.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        # What is no address ends the walk at the last hop that was one.
        ("127.0.0.1", ["unknown"], "127.0.0.1"),
        ("127.0.0.1", [""], "127.0.0.1"),
        ("127.0.0.1", ["192.0.2.1, , 10.0.0.1"], "10.0.0.1"),
        ("127.0.0.1", ["192.0.2.1, 10.0.0.1/8"], "127.0.0.1"),
        ("127.0.0.1", ["192.0.2.1, _hidden, 10.0.0.1"], "10.0.0.1"),
        ("127.0.0.1", ["192.0.2.1\x1b[2J"], "127.0.0.1"),
        ("127.0.0.1", ["192.0.2.1 10.0.0.1"], "127.0.0.1"),
        ("127.0.0.1", ["example.com"], "127.0.0.1"),
        ("127.0.0.1", ["010.0.0.1"], "127.0.0.1"),
        # A connection that was gone before anybody looked, and the local socket, which is not trusted here.
        ("", ["192.0.2.1"], ""),
        ("unix", ["192.0.2.1"], "unix"),
    ],
)
def test_the_client(peer: str, forwarded: list[str], client: str) -> None:
    """From the right, over trusted hops only."""
    assert FRONT.walked(peer, forwarded) == client


class Unread(str):
    """A line of a field that nobody should take apart."""

    def split(self, *how: object) -> list[str]:
        raise AssertionError("it was taken apart")


def test_what_a_stranger_forwards_is_not_even_taken_apart() -> None:
    """A hundred lines of commas cost more than an answer; they end where the trust ends."""
    assert FRONT.walked("192.0.2.1", [Unread(",")]) == "192.0.2.1"
    assert FRONT.walked("127.0.0.1", [Unread(","), "192.0.2.1"]) == "192.0.2.1"


def test_the_local_socket_when_it_is_trusted() -> None:
    """Whoever may open it is a front proxy; what it forwards is then judged as ever."""
    front = Front(trusted=NETWORKS, unix=True)
    assert front.walked("unix", []) == "unix"
    assert front.walked("unix", ["198.51.100.1, 192.0.2.1, 10.0.0.1"]) == "192.0.2.1"
    assert front.walked("unix", ["unix"]) == "unix"


@given(st.lists(st.text(max_size=30) | st.sampled_from(["10.0.0.1", "192.0.2.1", "unix"]), max_size=4))
def test_nobody_trusted_nobody_believed(forwarded: Sequence[str]) -> None:
    """By default the client is the peer, whatever it sends."""
    assert Front().walked("127.0.0.1", forwarded) == "127.0.0.1"
    assert Front().walked("unix", forwarded) == "unix"


@given(st.lists(st.text(max_size=30), max_size=4), st.text(max_size=60))
def test_what_stands_left_of_an_untrusted_hop_changes_nothing(invented: Sequence[str], more: str) -> None:
    """A client can only add at the left of what the proxy adds."""
    assert FRONT.walked("127.0.0.1", [*invented, f"{more}, 192.0.2.1", "10.0.0.1"]) == "192.0.2.1"


@pytest.mark.parametrize(
    ("lines", "scheme"),
    [([], None), (["https"], "https"), (["HTTP"], "http"), (["http, https"], "https"), (["https", "http"], "http"),
     (["ftp"], None), (["https://"], None), ([""], None)],
)  # fmt: skip
def test_the_forwarded_scheme(lines: list[str], scheme: str | None) -> None:
    """The nearest proxy's word; nothing but http and https."""
    assert scheme_of(lines) == scheme


@pytest.mark.parametrize(
    ("line", "authority"),
    [
        ("example.com", "example.com"),
        ("Example.COM:3143", "example.com:3143"),
        ("192.0.2.1:80", "192.0.2.1:80"),
        ("[::1]:3143", "[::1]:3143"),
        ("[2001:DB8::1]", "[2001:db8::1]"),
        ("a, example.org", "example.org"),
        ("my_host", "my_host"),
        ("", None),
        ("user@example.com", None),
        ("example.com:80:90", None),
        ("example.com:123456", None),
        ("example.com/path", None),
        ("example.com?", None),
        ("example.com#", None),
        ('"><script>', None),
        ("exa mple.com", None),
        ("example.com\\", None),
        ("-example.com", None),
        ("::1", None),
        ("[::1", None),
        ("ex%61mple.com", None),
        ("a" * 300, None),
    ],
)
def test_authorities(line: str, authority: str | None) -> None:
    """What may stand in a URL that others will follow: host and port, nothing else."""
    assert authority_of([line]) == authority


def request(
    peer: object, scheme: str = "http", sockname: object = ("192.0.2.9", 3143), **fields: str
) -> web.BaseRequest:
    """As much of aiohttp's request as is looked at; the tests of the listener use real ones."""
    headers = CIMultiDict({name.replace("_", "-"): value for name, value in fields.items()})
    transport = None if sockname is None else SimpleNamespace(get_extra_info={"sockname": sockname}.get)
    protocol = SimpleNamespace(peername=peer)
    made = SimpleNamespace(headers=headers, scheme=scheme, transport=transport, protocol=protocol)
    return cast(web.BaseRequest, made)


PEER, STRANGER = ("127.0.0.1", 5), ("192.0.2.1", 5)
SAYS = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "pypi.example.com"}


@pytest.mark.parametrize(
    ("asked", "root"),
    [
        (request(STRANGER, Host="Example.com:3143"), "http://example.com:3143"),
        (request(STRANGER, "https", Host="example.com"), "https://example.com"),
        (request(STRANGER, Host="example.com", **SAYS), "http://example.com"),
        (request(PEER, Host="127.0.0.1:3143", **SAYS), "https://pypi.example.com"),
        (request(PEER, Host="example.com", X_Forwarded_Proto="https"), "https://example.com"),
        (request(PEER, "https", Host="example.com", X_Forwarded_Proto="http"), "http://example.com"),
        (request(PEER, Host="example.com", X_Forwarded_Host="a/b", X_Forwarded_Proto="x"), "http://example.com"),
        (request(STRANGER), "http://192.0.2.9:3143"),
        (request(STRANGER, Host="a@b"), "http://192.0.2.9:3143"),
        (request(STRANGER, sockname=("::1", 80, 0, 0)), "http://[::1]:80"),
        (request("", sockname="/run/socket"), "http://localhost"),
        (request("", sockname="/run/socket", Host="example.com", **SAYS), "http://example.com"),
        (request("127.0.0.1", Host="example.com", **SAYS), "http://example.com"),
        (request(None, sockname=None), "http://localhost"),
    ],
)
def test_the_root(asked: web.BaseRequest, root: str) -> None:
    """The request's own scheme and Host, or the trusted proxy's; our own address where a client says none. A local
    client whose socket is a file called 127.0.0.1 is no trusted address."""
    assert FRONT.root(asked) == root


def test_the_public_url_comes_before_all() -> None:
    """It is what the operator says; requests say nothing more."""
    front = Front("https://example.com/pypi", NETWORKS)
    assert front.root(request(PEER, Host="a", **SAYS)) == "https://example.com/pypi"


def test_the_client_of_a_request() -> None:
    """The peer, the header's lines, and the local socket by its name."""
    assert FRONT.client(request(PEER, X_Forwarded_For="192.0.2.7")) == "192.0.2.7"
    assert FRONT.client(request(STRANGER, X_Forwarded_For="192.0.2.7")) == "192.0.2.1"
    assert FRONT.client(request(("::1", 5, 0, 0))) == "::1"
    assert FRONT.client(request("")) == "unix"
    assert FRONT.client(request("127.0.0.1", X_Forwarded_For="192.0.2.7")) == "unix"
    assert FRONT.client(request(None, X_Forwarded_For="192.0.2.7")) == ""
