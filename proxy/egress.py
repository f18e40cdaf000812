"""Where a request may go: rules on URLs and on socket addresses. Pure: nothing here resolves or connects.

The host an operator configured may be anywhere. A host that a page or a redirect names must be global, or an
address of the index's own host; ``private`` also allows private networks. An address is judged by what it
embeds: ``::ffff:127.0.0.1`` is a loopback address, however it is spelled. Every refusal is an UpstreamFailed
with status 502 and a constant phrase.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urljoin

from proxy.errors import UpstreamFailed

Address = IPv4Address | IPv6Address

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LONGEST_URL = 8000
_LONGEST_HOST = 253

# RFC 3986 §3, with less freedom: what is not matched here cannot be read differently by another URL parser.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^#]*)(?:#.*)?")
_LABEL = r"[A-Za-z0-9_-]{1,63}"
_AUTHORITY = re.compile(rf"(?:\[([0-9A-Fa-f:.]{{2,45}})\]|((?:{_LABEL}\.)*{_LABEL}\.?))(?::([0-9]{{0,5}}))?")
# The last label of every spelling of an IPv4 address that getaddrinfo understands: 127.1, 0x7f.1, 2130706433.
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")

_THIS_NETWORK = IPv4Network("0.0.0.0/8")  # RFC 1122 §3.2.1.3; Linux connects 0.0.0.0 to itself
_SHARED = IPv4Network("100.64.0.0/10")  # RFC 6598: neither private nor global
_UNICAST = IPv6Network("2000::/3")  # RFC 4291 §2.4: all that IANA has given out as global unicast
_DOCUMENTATION = IPv6Network("3fff::/20")  # RFC 9637, unknown to older Pythons
_LOCAL = (IPv6Network("fc00::/7"), IPv6Network("fec0::/10"))

_LAST_FOUR = (12, 13, 14, 15)
# Prefix -> where an IPv4 address may sit in the 16 bytes.
_EMBEDDING: tuple[tuple[IPv6Network, tuple[tuple[int, int, int, int], ...]], ...] = (
    (IPv6Network("::ffff:0:0/96"), (_LAST_FOUR,)),  # mapped, RFC 4291 §2.5.5.2
    (IPv6Network("::ffff:0:0:0/96"), (_LAST_FOUR,)),  # translated, RFC 2765 §2.1
    (IPv6Network("::/96"), (_LAST_FOUR,)),  # compatible, RFC 4291 §2.5.5.1
    (IPv6Network("64:ff9b::/96"), (_LAST_FOUR,)),  # NAT64, RFC 6052 §2.1
    # Local NAT64, RFC 8215: the prefix length is the site's own choice, so every layout of RFC 6052 §2.2.
    (IPv6Network("64:ff9b:1::/48"), ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12), _LAST_FOUR)),
    (IPv6Network("2002::/16"), ((2, 3, 4, 5),)),  # 6to4, RFC 3056 §2
)
_TEREDO = IPv6Network("2001::/32")  # RFC 4380 §4: server as it is, client with every bit inverted


@dataclass(frozen=True, slots=True)
class Destination:
    """A URL taken apart. ``url`` is ready to send: path and query as they were spelled, no fragment; ``host``
    is for comparing: lower case, without brackets and without the dot at the end."""

    url: str = field(repr=False)  # its query may be signed
    scheme: str
    host: str
    port: int

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port (RFC 6454 §4)."""
        return self.scheme, self.host, self.port


def parse(url: str) -> Destination:
    """An absolute http or https URL; raises UpstreamFailed for anything else, and for one with credentials.

    Spaces and non-ASCII characters of path and query are percent-encoded (as browsers and pip do); every
    other character stays as it is spelled.
    """
    matched = _URL.fullmatch(_in_ascii(url.encode("utf-8", "surrogatepass")))
    if matched is None:
        raise UpstreamFailed("not an absolute URL")
    scheme, authority, rest = matched[1].lower(), matched[2], matched[3]
    if scheme not in _DEFAULT_PORTS:
        raise UpstreamFailed("neither http nor https")
    if "@" in authority:
        raise UpstreamFailed("credentials in a URL")
    place = _AUTHORITY.fullmatch(authority)
    if place is None or len(authority) > _LONGEST_HOST:
        raise UpstreamFailed("no valid host in a URL")
    literal, name, port = place[1], place[2], int(place[3] or _DEFAULT_PORTS[scheme])
    if not 0 < port < 65536:
        raise UpstreamFailed("no valid port in a URL")
    host = name.lower().removesuffix(".") if literal is None else str(_literal(literal))
    if not rest.startswith("/"):
        rest = "/" + rest
    return Destination(f"{scheme}://{authority.lower()}{rest}", scheme, host, port)


def follow(here: Destination, location: bytes) -> Destination:
    """Where a Location field leads from here (RFC 9110 §10.2.2); raises as ``parse`` does."""
    try:
        there = urljoin(here.url, _in_ascii(location))
    except ValueError:  # a bracket without its other one
        raise UpstreamFailed("no valid host in a URL") from None
    return parse(there)


def admit(there: Destination, configured: Destination, *, proxied: bool, here: Destination | None = None) -> None:
    """Raise UpstreamFailed when a URL of this shape may not be asked for.

    ``configured`` is the index's own URL, ``here`` the URL that redirected, ``proxied`` is true when a
    forward proxy resolves the names: then our look at the socket sees only the proxy, so what would be an
    inner address must be recognised by its spelling.
    """
    if there.scheme == "http" and configured.scheme != "http":
        raise UpstreamFailed("plain http for an index configured as https")
    if there.scheme == "http" and here is not None and here.scheme != "http":
        raise UpstreamFailed("a redirect from https to http")
    if proxied and there.host != configured.host and _names_no_public_host(there.host):
        raise UpstreamFailed("an address or a single-label name behind a forward proxy")


def permitted(address: Address, *, own: Iterable[Address], private: bool) -> bool:
    """May a host that a page or a redirect named be at this address?

    ``own`` are the addresses of the index's own host. Loopback, link-local, multicast and unspecified
    addresses are allowed only when one of those is of that very kind; ``private`` does not change it.
    """
    owned = {plain(each) for each in own}
    if plain(address) in owned:
        return True
    kinds = {_kind(part) for each in owned for part in unwrapped(each)}
    return all(_part_permitted(part, kinds, private) for part in unwrapped(address))


def address_of(text: str) -> Address:
    """The first item of a socket address (a numeric host, perhaps with a zone) as a value."""
    return plain(ip_address(text))


def plain(address: Address) -> Address:
    """For comparing: without its zone (RFC 4007 §11), and IPv4 where it is IPv4-mapped."""
    if isinstance(address, IPv6Address):
        address = IPv6Address(int(address))
        return address.ipv4_mapped or address
    return address


def unwrapped(address: Address) -> tuple[Address, ...]:
    """The addresses a packet sent there may end up at: the embedded IPv4 ones, else the address itself."""
    if isinstance(address, IPv4Address) or address.is_loopback or address.is_unspecified:
        return (address,)
    packed = address.packed
    if address in _TEREDO:
        return IPv4Address(packed[4:8]), IPv4Address(bytes(0xFF ^ byte for byte in packed[12:16]))
    for network, layouts in _EMBEDDING:
        if IPv6Address(packed) in network:
            found = tuple(IPv4Address(bytes(packed[at] for at in layout)) for layout in layouts)
            # Of several layouts only one is meant; 0.0.0.0/8 is never a destination, so it is none of them.
            return tuple(each for each in found if each not in _THIS_NETWORK) or found
    return (address,)


def _part_permitted(part: Address, kinds: set[str], private: bool) -> bool:
    kind = _kind(part)
    if kind not in ("private", "global", "unknown"):
        return kind in kinds
    return kind == "global" or (private and kind == "private")


def _kind(part: Address) -> str:
    """One word for an address. Order matters: Python calls loopback private and some multicast global."""
    if part.is_unspecified or (isinstance(part, IPv4Address) and part in _THIS_NETWORK):
        return "unspecified"
    if part.is_loopback:
        return "loopback"
    if part.is_link_local:
        return "link-local"
    if part.is_multicast:
        return "multicast"
    if isinstance(part, IPv4Address):
        if part.is_private or part in _SHARED:
            return "private"
    elif part.is_private or part in _DOCUMENTATION or any(part in network for network in _LOCAL):
        return "private"
    elif part not in _UNICAST:
        return "unknown"
    return "global" if part.is_global else "unknown"


def _names_no_public_host(host: str) -> bool:
    if ":" in host or "." not in host:
        return True
    return _NUMBER.fullmatch(host.rpartition(".")[2]) is not None


def _literal(text: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except ValueError:
        raise UpstreamFailed("no valid host in a URL") from None


def _in_ascii(raw: bytes) -> str:
    """RFC 3986 §2.1: what no URL may hold is percent-encoded; control characters are refused, never removed
    (a parser that drops tabs and line ends reads another URL than the one that was checked)."""
    if len(raw) > _LONGEST_URL:
        raise UpstreamFailed("a URL that is too long")
    if any(byte < 0x20 or byte == 0x7F for byte in raw):
        raise UpstreamFailed("control characters in a URL")
    return "".join(chr(byte) if 0x20 < byte < 0x7F else f"%{byte:02X}" for byte in raw)
