"""The front gate: what is refused before anything looks at a request (the walls of the house).

Every rule works on what the client sent, not on what a URL library made of it: a proxy and its neighbours must
never read one request in two ways.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from multidict import MultiMapping

from proxy.core.urls import dotted
from proxy.errors import Refused

# RFC 3986 §2: a URL is visible ASCII. aiohttp hands over raw bytes beyond it as surrogates, which cannot be quoted.
_HAZARD = re.compile(r"%(?:2f|5c|00|0a|0d)|\\|//|[^\x21-\x7e]", re.IGNORECASE)
_INVISIBLE = re.compile(r"[^\x21-\x7e]")
# Bytes of all fields: they are looked at again and again, and each alone may be long.
_HEAD_MOST = 64 * 1024
_METHODS = ("GET", "HEAD")
_NEVER = ("CONNECT", "TRACE")
_MANY = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
# Where nobody knows for sure where a request ends, the next one cannot be found.
_CLOSE = (("Connection", "close"),)


def admit(
    method: str,
    raw_target: str,
    version: tuple[int, int],
    headers: MultiMapping[str],
    hosts: Collection[str],
    mounts: Collection[str] = (),
) -> None:
    """Return if the request may be looked at; else raise Refused. ``headers`` is case-insensitive, ``hosts`` are
    the allowed Host values in lower case: with a port for just that one, without for any (empty: any host). Below one
    of the ``mounts`` every method is let in, and a body with any of them."""
    if version not in ((1, 0), (1, 1)):
        raise Refused("only HTTP/1.0 and HTTP/1.1 are spoken here", status=505)
    if sum(len(name) + len(value) for name, value in headers.items()) > _HEAD_MOST:
        raise Refused("the fields of the request are too long together", status=431, headers=_CLOSE)
    if not raw_target.startswith("/"):
        # RFC 9112 §3.2: absolute-form and authority-form are for forward proxies, which this is not.
        raise Refused("the request target must begin with a slash", status=400)
    path, _, query = raw_target.partition("?")
    if _HAZARD.search(path) or any(dotted(segment) for segment in path.split("/")):
        raise Refused("the path holds an escape or a segment that is not allowed", status=400)
    mounted = _mounted(path, mounts)
    # RFC 9112 §3.2.1: a fragment never leaves a client; below a mount it would be sent on.
    if _INVISIBLE.search(query) or (mounted and ("#" in path or "#" in query)):
        raise Refused("the request target holds what no URL may hold", status=400)
    admin = path == "/admin" or path.startswith("/admin/")
    if method in _NEVER and mounted:
        raise Refused("CONNECT and TRACE are not served", status=405, headers=(("Allow", _MANY),))
    if method not in _METHODS and not mounted and (not admin or method in _NEVER):
        raise Refused("only GET and HEAD are served", status=405, headers=(("Allow", "GET, HEAD"),))
    _bounded(method, version, headers, bare=method in _METHODS and not mounted)
    host = headers.get("Host", "").strip().lower()
    if hosts and host not in hosts and _without_port(host) not in hosts:
        raise Refused("this host name is not served here", status=421)


def _mounted(path: str, mounts: Collection[str]) -> bool:
    """Whether the path lies below ``/raw/{mount}/``."""
    match path.split("/", 3):
        case ["", "raw", name, _]:
            return name in mounts
    return False


def _bounded(method: str, version: tuple[int, int], headers: MultiMapping[str], *, bare: bool) -> None:
    """Where a body ends is told in one way only: by its length, or by chunks. Where it must be ``bare`` there is
    none."""
    codings = [each.strip().lower() for each in headers.getall("Transfer-Encoding", [])]
    lengths = [each.strip() for each in headers.getall("Content-Length", [])]
    if bare:
        if codings or lengths not in ([], ["0"]):
            raise Refused("a GET or HEAD must not have a body", status=400, headers=_CLOSE)
        return
    chunked = codings == ["chunked"] and not lengths and version == (1, 1)
    sized = len(lengths) == 1 and not codings and re.fullmatch(r"[0-9]+", lengths[0]) is not None
    if (codings or lengths) and not chunked and not sized:
        raise Refused("the length of the body is told in a way that is not understood", status=400, headers=_CLOSE)
    if headers.get("Upgrade") is not None and (method not in _METHODS or chunked or sized):
        # RFC 9110 §7.8: what follows the request would be another protocol's, and not its body.
        raise Refused("no other protocol is spoken here", status=400, headers=_CLOSE)


def _without_port(host: str) -> str:
    """The host of a Host field without its port; an IPv6 literal keeps its brackets."""
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::[0-9]*)?", host)
    return found[1] if found else ""
