"""The front gate: what is refused before anything looks at a request (the walls of the house).

Every rule works on what the client sent, not on what a URL library made of it: a proxy and its neighbours must
never read one request in two ways.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from urllib.parse import unquote

from proxy.errors import Refused

# RFC 3986 §2: a URL is visible ASCII. aiohttp hands over raw bytes beyond it as surrogates, which cannot be quoted.
_HAZARD = re.compile(r"%(?:2f|5c|00|0a|0d)|\\|//|[^\x21-\x7e]", re.IGNORECASE)
_METHODS = ("GET", "HEAD")
_NEVER = ("CONNECT", "TRACE")
# Where nobody knows for sure where a request ends, the next one cannot be found.
_CLOSE = (("Connection", "close"),)


def admit(
    method: str, raw_target: str, version: tuple[int, int], headers: Mapping[str, str], hosts: Collection[str]
) -> None:
    """Return if the request may be looked at; else raise Refused. ``headers`` is case-insensitive, ``hosts`` are
    the allowed Host values in lower case: with a port for just that one, without for any (empty: any host)."""
    if version not in ((1, 0), (1, 1)):
        raise Refused("only HTTP/1.0 and HTTP/1.1 are spoken here", status=505)
    if not raw_target.startswith("/"):
        # RFC 9112 §3.2: absolute-form and authority-form are for forward proxies, which this is not.
        raise Refused("the request target must begin with a slash", status=400)
    path = raw_target.partition("?")[0]
    if _HAZARD.search(path) or any(unquote(segment) in (".", "..") for segment in path.split("/")):
        raise Refused("the path holds an escape or a segment that is not allowed", status=400)
    admin = path == "/admin" or path.startswith("/admin/")
    if method not in _METHODS and (not admin or method in _NEVER):
        raise Refused("only GET and HEAD are served", status=405, headers=(("Allow", "GET, HEAD"),))
    _bounded(method, headers)
    host = headers.get("Host", "").strip().lower()
    if hosts and host not in hosts and _without_port(host) not in hosts:
        raise Refused("this host name is not served here", status=421)


def _bounded(method: str, headers: Mapping[str, str]) -> None:
    """A body is for changes, and where it ends is told in one way only: by its length, or by chunks."""
    coding = headers.get("Transfer-Encoding")
    if method in _METHODS:
        if coding is not None or headers.get("Content-Length", "0").strip() != "0":
            raise Refused("a GET or HEAD must not have a body", status=400)
    elif coding is not None and (coding.strip().lower() != "chunked" or "Content-Length" in headers):
        raise Refused("the length of the body is told in a way that is not understood", status=400, headers=_CLOSE)
    elif headers.get("Upgrade") is not None:
        # RFC 9110 §7.8: what follows the request would be another protocol's, and not its body.
        raise Refused("no other protocol is spoken here", status=400, headers=_CLOSE)


def _without_port(host: str) -> str:
    """The host of a Host field without its port; an IPv6 literal keeps its brackets."""
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::[0-9]*)?", host)
    return found[1] if found else ""
