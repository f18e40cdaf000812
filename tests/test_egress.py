"""Where a request may go: tables of addresses and URLs, and laws over generated ones."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import egress
from proxy.errors import UpstreamFailed

GLOBAL = frozenset({ip_address("93.184.215.14")})

FORBIDDEN_V4 = (
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "192.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
)
FORBIDDEN_V6 = (
    "::",
    "::1",
    "fe80::1",
    "febf::1",
    "fe80::1%1",
    "fec0::1",
    "fc00::1",
    "fd12:3456::1",
    "ff02::1",
    "ff0e::1",
    "2001:db8::1",
    "3fff::1",
    "100::1",
    "4000::1",
    "::2:0:0:1",
    "2001:0:5db8:d70e::ffff:ffff",  # Teredo, a global server but the client 0.0.0.0
)
ALLOWED = (
    "93.184.215.14",
    "1.1.1.1",
    "172.32.0.1",
    "100.128.0.1",
    "2606:2800:21f:cb07::1",
    "2a00:1450::1",
    "::ffff:1.1.1.1",
    "64:ff9b::1.1.1.1",
    "64:ff9b:1::1.1.1.1",
    "2002:101:101::1",
)
PRIVATE = ("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fc00::1", "fd12:3456::1", "fec0::1")
NEVER_PRIVATE = (
    "127.0.0.1",
    "0.0.0.0",
    "169.254.1.1",
    "224.0.0.1",
    "::",
    "::1",
    "fe80::1",
    "ff02::1",
    "4000::1",
)


def wrappings(address: IPv4Address) -> list[IPv6Address]:
    """Every IPv6 address that leads to this IPv4 one."""
    four = address.packed
    inverted = bytes(0xFF ^ byte for byte in four)
    server = IPv4Address("1.1.1.1").packed
    local = bytes.fromhex("0064ff9b0001")
    packed = [
        bytes(10) + b"\xff\xff" + four,
        bytes(8) + b"\xff\xff\0\0" + four,
        bytes(12) + four,
        bytes.fromhex("0064ff9b") + bytes(8) + four,
        b"\x20\x02" + four + bytes(10),
        bytes.fromhex("20010000") + server + bytes(4) + inverted,
        bytes.fromhex("20010000") + four + bytes(4) + bytes(0xFF ^ byte for byte in server),
    ]
    if four[0]:  # 0.0.0.0/8 cannot be told from a layout that is not used there, and leads nowhere
        packed += [
            local + bytes(6) + four,
            local + four[:2] + b"\0" + four[2:] + bytes(5),
            local + b"\0" + four[:1] + b"\0" + four[1:] + bytes(4),
            local + bytes(3) + four + bytes(3),
        ]
    return [IPv6Address(each) for each in packed]


def allowed(text: str, own: frozenset[egress.Address] = GLOBAL, private: bool = False) -> bool:
    return egress.permitted(egress.address_of(text), own=own, private=private)


@pytest.mark.parametrize("text", FORBIDDEN_V4 + FORBIDDEN_V6)
def test_a_named_host_is_not_at_a_special_address(text: str) -> None:
    """An index on the internet cannot make us connect to our own network."""
    assert not allowed(text)


@pytest.mark.parametrize("text", ALLOWED)
def test_a_named_host_is_anywhere_on_the_internet(text: str) -> None:
    """Global addresses pass, also those embedded in IPv6 ones."""
    assert allowed(text)


@pytest.mark.parametrize("text", PRIVATE)
def test_private_networks_when_the_operator_says_so(text: str) -> None:
    """``private = true`` opens private and shared networks, as such and embedded."""
    assert allowed(text, private=True)
    address = ip_address(text)
    if isinstance(address, IPv4Address):
        assert all(egress.permitted(each, own=GLOBAL, private=True) for each in wrappings(address))


@pytest.mark.parametrize("text", NEVER_PRIVATE)
def test_private_is_not_loopback(text: str) -> None:
    """``private = true`` opens neither this machine nor its link."""
    assert not allowed(text, private=True)


@pytest.mark.parametrize("own", ["127.0.0.1", "10.1.2.3", "fe80::7", "192.0.2.77", "::ffff:10.1.2.3", "4000::1"])
def test_the_addresses_of_the_index_itself(own: str) -> None:
    """A page may name another host at exactly the address of its index, whatever that is."""
    assert allowed(own, own=frozenset({ip_address(own)}))


@pytest.mark.parametrize(
    ("own", "same_kind", "other"),
    [
        (
            "127.0.0.1",
            ("127.0.0.2", "::1", "::ffff:127.9.9.9"),
            ("10.0.0.1", "fe80::1", "0.0.0.0", "224.0.0.1"),
        ),
        ("fe80::7", ("169.254.3.4", "fe80::8"), ("127.0.0.1", "::1", "10.0.0.1")),
        ("0.0.0.0", ("::",), ("127.0.0.1", "fe80::1")),
        ("10.0.0.1", (), ("10.0.0.2", "127.0.0.1")),
        ("::ffff:127.0.0.1", ("::1",), ("10.0.0.1",)),
    ],
)
def test_special_kinds_only_beside_an_index_of_that_kind(
    own: str, same_kind: tuple[str, ...], other: tuple[str, ...]
) -> None:
    """An index on loopback may name loopback hosts, and nothing else that is special."""
    owned = frozenset({ip_address(own)})
    assert all(allowed(each, own=owned) for each in same_kind)
    assert not any(allowed(each, own=owned) for each in other)


@given(st.sampled_from(FORBIDDEN_V4), st.booleans())
def test_a_forbidden_address_is_forbidden_in_every_wrapping(text: str, private: bool) -> None:
    """No IPv6 spelling of an IPv4 address says more than the address itself."""
    address = IPv4Address(text)
    if not egress.permitted(address, own=GLOBAL, private=private):
        for wrapped in wrappings(address):
            assert not egress.permitted(wrapped, own=GLOBAL, private=private), wrapped


@given(st.ip_addresses(v=4), st.booleans())
def test_a_wrapping_never_allows_more(address: IPv4Address, private: bool) -> None:
    """The same, for all IPv4 addresses."""
    if not egress.permitted(address, own=GLOBAL, private=private):
        assert not any(egress.permitted(each, own=GLOBAL, private=private) for each in wrappings(address))


@given(st.ip_addresses())
def test_what_is_permitted_is_global(address: IPv4Address | IPv6Address) -> None:
    """Without own addresses and without ``private`` only what Python calls global passes."""
    if egress.permitted(address, own=frozenset(), private=False):
        assert all(part.is_global and not part.is_multicast for part in egress.unwrapped(address))


@pytest.mark.parametrize(
    ("url", "sent", "origin"),
    [
        ("https://example.com", "https://example.com/", ("https", "example.com", 443)),
        ("HTTPS://Example.COM:443/A", "https://example.com:443/A", ("https", "example.com", 443)),
        ("http://example.com.:8080/x", "http://example.com.:8080/x", ("http", "example.com", 8080)),
        ("https://example.com:/x", "https://example.com:/x", ("https", "example.com", 443)),
        ("https://example.com?a=b#c", "https://example.com/?a=b", ("https", "example.com", 443)),
        ("http://[::1]:81/x#y", "http://[::1]:81/x", ("http", "::1", 81)),
        ("http://[0:0::0001]/", "http://[0:0::0001]/", ("http", "::1", 80)),
        ("https://h/a%2Fb/%7e;p?q=%20+%2B", "https://h/a%2Fb/%7e;p?q=%20+%2B", ("https", "h", 443)),
        ("https://h/a b\u00e9.whl", "https://h/a%20b%C3%A9.whl", ("https", "h", 443)),
        ("https://h/a/../b//c\\d", "https://h/a/../b//c\\d", ("https", "h", 443)),
    ],
)
def test_a_url_is_sent_as_it_is_spelled(url: str, sent: str, origin: tuple[str, str, int]) -> None:
    """Path and query stay; only what no request may hold is percent-encoded, and the fragment goes."""
    destination = egress.parse(url)
    assert destination.url == sent
    assert destination.origin == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/x",
        "//example.com/x",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript://example.com/",
        "https:example.com",
        "https:///x",
        "https://?x",
        " https://example.com/",
        "https://user@example.com/",
        "https://user:secret@example.com/",
        "https://@example.com/",
        "https://example.com\\@example.org/",
        "https://example.com\\.example.org/",
        "https://exa mple.com/",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:8o/",
        "https://example.com:80:80/",
        "https://a..example.com/",
        "https://.example.com/",
        "https://example.com../",
        "https://b\u00fccher.example/",
        "https://%31%32%37.0.0.1/",
        "https://[::1/",
        "https://[::1%25eth0]/",
        "https://[1.2.3.4]/",
        "https://[:::]/",
        "https://" + "a" * 64 + ".example/",
        "https://" + "a." * 130 + "example/",
        "https://example.com/\r\nX: y",
        "https://example.com/\tx",
        "https://exam\nple.com/",
        "https://example.com/\x7f",
        "https://example.com/" + "x" * 8000,
    ],
)
def test_a_url_that_could_be_read_in_two_ways_is_refused(url: str) -> None:
    """Refused with 502 and without a word of the URL."""
    with pytest.raises(UpstreamFailed) as caught:
        egress.parse(url)
    assert caught.value.status == 502
    assert "example" not in str(caught.value)
    assert "secret" not in str(caught.value)


@given(st.text(min_size=1, max_size=40))
def test_another_parser_reads_the_same_host(text: str) -> None:
    """What is accepted names, for urllib as well, the host that was checked."""
    for url in (f"https://{text}", f"https://{text}/x", f"https://example.com{text}"):
        try:
            destination = egress.parse(url)
        except UpstreamFailed:
            continue
        split = urlsplit(destination.url)
        host = (split.hostname or "").removesuffix(".")
        assert host == destination.host or str(ip_address(host)) == destination.host
        assert (split.port or 443) == destination.port
        assert split.username is None


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (b"/x", "https://example.com/x"),
        (b"x?y=%2F", "https://example.com/simple/x?y=%2F"),
        (b"?z", "https://example.com/simple/six?z"),
        (b"", "https://example.com/simple/six"),
        (b"//example.org/x", "https://example.org/x"),
        (b"https://example.org:8443/x#f", "https://example.org:8443/x"),
        (b"/a b\xc3\xa9", "https://example.com/a%20b%C3%A9"),
        (b"/\\example.org/", "https://example.com/\\example.org/"),
    ],
)
def test_where_a_location_leads(location: bytes, expected: str) -> None:
    """RFC 3986 §5 resolution, with the spelling of the Location kept."""
    assert egress.follow(egress.parse("https://example.com/simple/six"), location).url == expected


@pytest.mark.parametrize(
    "location", [b"http://[", b"https://[example.com/x", b"//[::1/x", b"https://]/", b"http://[x]/"]
)
def test_a_location_that_leads_nowhere(location: bytes) -> None:
    """Whatever an upstream writes there is its failure, never one of ours."""
    with pytest.raises(UpstreamFailed):
        egress.follow(egress.parse("https://example.com/simple/six"), location)


HTTPS = "https://index.example.com/simple/"
HTTP = "http://index.example.com/simple/"


@pytest.mark.parametrize(
    ("there", "configured", "here", "proxied", "passes"),
    [
        ("https://files.example.org/x", HTTPS, None, False, True),
        ("http://files.example.org/x", HTTPS, None, False, False),
        ("http://index.example.com/x", HTTPS, None, False, False),
        ("http://files.example.org/x", HTTP, None, False, True),
        ("https://files.example.org/x", HTTP, None, False, True),
        ("http://files.example.org/x", HTTP, HTTP, False, True),
        ("http://files.example.org/x", HTTP, HTTPS, False, False),
        ("https://10.0.0.1/x", HTTPS, None, False, True),  # the socket is looked at, not the URL
        ("https://10.0.0.1/x", HTTPS, None, True, False),
        ("https://1.1.1.1/x", HTTPS, None, True, False),
        ("https://[2606:2800::1]/x", HTTPS, None, True, False),
        ("https://2130706433/x", HTTPS, None, True, False),
        ("https://127.1/x", HTTPS, None, True, False),
        ("https://0x7f.1/x", HTTPS, None, True, False),
        ("https://127.0.0x1/x", HTTPS, None, True, False),
        ("https://127.0.0.1./x", HTTPS, None, True, False),
        ("https://localhost/x", HTTPS, None, True, False),
        ("https://intranet./x", HTTPS, None, True, False),
        ("https://files.example.org/x", HTTPS, None, True, True),
        ("https://INDEX.example.com.:8443/x", HTTPS, None, True, True),
        ("http://mirror/x", "http://mirror/simple/", None, True, True),
        ("http://10.0.0.1:81/x", "http://10.0.0.1/simple/", None, True, True),
    ],
)
def test_which_urls_an_index_may_name(
    there: str, configured: str, here: str | None, proxied: bool, passes: bool
) -> None:
    """Scheme rules always; rules on the spelling of the host where a forward proxy resolves it."""

    def admit() -> None:
        came_from = None if here is None else egress.parse(here)
        egress.admit(egress.parse(there), egress.parse(configured), proxied=proxied, here=came_from)

    if passes:
        admit()
    else:
        with pytest.raises(UpstreamFailed) as caught:
            admit()
        assert caught.value.status == 502
