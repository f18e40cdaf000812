"""Who asked, and under which name: what front proxies say of it, as far as they may be believed.

X-Forwarded-* (no standard, but what every front proxy writes) can be sent by anybody: it counts from peers that the
operator trusts, and only as far to the left as the chain of trusted hops reaches.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiohttp import web

UNIX = "unix"
"""The name of a peer at the local socket, which has no address."""

# RFC 3986 §3.2.2 without percent-encoding and sub-delims; RFC 9110 §7.2 forbids userinfo.
_AUTHORITY = re.compile(r"(?:[0-9A-Za-z](?:[0-9A-Za-z._-]{0,253})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Front:
    """What stands in front of us. ``public_url`` has no final slash; ``unix``: whoever may open the local socket is
    trusted as the ``trusted`` networks are."""

    public_url: str | None = None
    trusted: tuple[IPv4Network | IPv6Network, ...] = ()
    unix: bool = False

    def client(self, incoming: web.BaseRequest) -> str:
        """The address of the client, as far as trusted proxies tell; ``"unix"`` for the local socket, "" when the
        connection was gone before anybody looked."""
        return self.walked(_peer(incoming), incoming.headers.getall("X-Forwarded-For", ()))

    def root(self, incoming: web.BaseRequest) -> str:
        """``scheme://authority`` under which the client reaches ``/``, with the path of ``public_url`` where that is
        set; no final slash."""
        if self.public_url is not None:
            return self.public_url
        scheme, authority = incoming.scheme, incoming.headers.get("Host", "")
        if self.trusts(_peer(incoming)):
            scheme = scheme_of(incoming.headers.getall("X-Forwarded-Proto", ())) or scheme
            authority = authority_of(incoming.headers.getall("X-Forwarded-Host", ())) or authority
        return f"{scheme}://{authority_of([authority]) or _own(incoming)}"

    def walked(self, peer: str, forwarded: Sequence[str]) -> str:
        """The first address from the right that no trusted proxy has. ``forwarded`` are the field's lines: each proxy
        adds at the right what it saw, so whatever stands left of an untrusted hop, or of something that is no
        address, may be anybody's invention."""
        for line in reversed(forwarded):
            # Nothing is taken apart for a stranger: a hundred lines of commas cost more than any answer.
            for hop in reversed(line.split(",")) if self.trusts(peer) else ():
                address = _address(hop.strip()) if self.trusts(peer) else None
                if address is None:
                    return peer
                peer = str(address)
        return peer

    def trusts(self, peer: str) -> bool:
        """Whether what this peer forwards is believed."""
        if peer == UNIX:
            return self.unix
        address = _address(peer)
        return address is not None and any(address in network for network in self.trusted)


def scheme_of(forwarded: Sequence[str]) -> str | None:
    """The scheme that the nearest proxy names, None for none and for a strange one."""
    scheme = _last(forwarded).lower()
    return scheme if scheme in ("http", "https") else None


def authority_of(forwarded: Sequence[str]) -> str | None:
    """The host, with its port if it has one, that was named last, lower-case; None for none and for one that could
    not stand in a URL."""
    authority = _last(forwarded)
    return authority.lower() if _AUTHORITY.fullmatch(authority) else None


def _last(lines: Sequence[str]) -> str:
    return lines[-1].rpartition(",")[2].strip() if lines else ""


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address, also with a port (some load balancers add it); IPv4 in IPv6 is IPv4."""
    if found := _WITH_PORT.fullmatch(text):
        text = found[1] or found[2]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _peer(incoming: web.BaseRequest) -> str:
    return peer_of(incoming.protocol.peername)


def peer_of(name: object) -> str:
    """The address at the other end of a connection, whose name the system gives; "" where it is gone."""
    if name is None:
        return ""
    # The name of a local socket's other end is empty, or the path it chose: it may look like an address.
    return str(name[0]) if isinstance(name, tuple) else UNIX


def _own(incoming: web.BaseRequest) -> str:
    """Our end of the connection: where a client without a Host (HTTP/1.0) has just reached us."""
    name = None if incoming.transport is None else incoming.transport.get_extra_info("sockname")
    if not isinstance(name, tuple):
        return "localhost"
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
