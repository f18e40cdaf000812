"""Who may use the admin API: bearer tokens of two scopes, and no page of another site.

There is no other way in: no cookie, no token in a URL, no address that is trusted (behind a front proxy every peer is
loopback), and no CORS header that would let a foreign page read an answer.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Sequence
from typing import Literal

from multidict import MultiMapping

from proxy.errors import ProxyError, Refused

Scope = Literal["read", "write"]

# RFC 6750 §2.1, and any other visible ASCII: what stands in our settings is a token, too.
_BEARER = re.compile(r"bearer +([\x21-\x7e]+)", re.IGNORECASE)
_PORTS = {"http": ":80", "https": ":443"}


class Access:
    """Judges requests by two tokens; ``read`` is None where none is configured. Each tells what its token is now, for
    a file may change."""

    def __init__(self, write: Callable[[], str], read: Callable[[], str] | None) -> None:
        self._write = write
        self._read = read

    def scope(self, headers: MultiMapping[str], root: str) -> Scope:
        """What the request may do: "write" is everything, "read" changes nothing. ``root`` is what this server is
        called, ``scheme://authority``. Raises Refused: 403 for another site's page, whatever its token, 401 without
        a token, 403 with another than ours."""
        if is_cross_site(headers.getall("Origin", ()), headers.getall("Sec-Fetch-Site", ()), root):
            raise Refused("a page of another site must not ask this", status=403)
        token = token_of(headers.getall("Authorization", ()))
        if token is None:
            raise Refused("a token is needed here", status=401, headers=(("WWW-Authenticate", "Bearer"),))
        # Both are compared, whichever fits: the time tells nothing.
        writes, reads = _same(token, self._write), self._read is not None and _same(token, self._read)
        if not writes and not reads:
            raise Refused("this token is not known here", status=403)
        return "write" if writes else "read"


def token_of(fields: Sequence[str]) -> bytes | None:
    """The token in the Authorization fields of a request; None for no field, several, and one of another scheme."""
    found = _BEARER.fullmatch(fields[0]) if len(fields) == 1 else None
    return found[1].encode("ascii") if found else None


def is_cross_site(origins: Sequence[str], fetched_from: Sequence[str], root: str) -> bool:
    """Whether a browser says that a page of another site asks: by Origin (RFC 6454 §7), or by Sec-Fetch-Site (Fetch
    Metadata), which no script can set. Other programs send neither."""
    own = _origin("/".join(root.split("/")[:3]))
    return any(_origin(each) != own for each in origins) or any(
        each.strip().lower() not in ("same-origin", "none") for each in fetched_from
    )


def _origin(text: str) -> str:
    """An origin as it can be compared: lower-case, without the port that its scheme has anyway."""
    origin = text.strip().lower()
    return origin.removesuffix(_PORTS.get(origin.partition(":")[0], " "))


def _same(given: bytes, configured: Callable[[], str]) -> bool:
    try:
        token = configured().encode("ascii")
    except ProxyError:
        return False  # its file has never been read: nobody knows it
    return hmac.compare_digest(given, token)
