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
    if method not in _METHODS:
        raise Refused("only GET and HEAD are served", status=405)
    if headers.get("Transfer-Encoding") is not None or headers.get("Content-Length", "0").strip() != "0":
        raise Refused("a GET or HEAD must not have a body", status=400)
    host = headers.get("Host", "").strip().lower()
    if hosts and host not in hosts and _without_port(host) not in hosts:
        raise Refused("this host name is not served here", status=421)


def _without_port(host: str) -> str:
    """The host of a Host field without its port; an IPv6 literal keeps its brackets."""
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::[0-9]*)?", host)
    return found[1] if found else ""
