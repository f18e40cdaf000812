"""Requests with everything in them that ever poisoned a cache, and the one thing they are about unchanged."""

from __future__ import annotations

import random
from collections.abc import Sequence

MARK = "qz7mark"
"""Is in most of what is made up here: where it turns up, something of a request was believed, kept or told."""

_NAMES = (
    "Authorization", "Cookie", "Proxy-Authorization", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
    "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded-Scheme", "X-Forwarded-SSL",
    "X-Host", "X-HTTP-Host-Override", "X-Original-Host", "X-Original-URL", "X-Rewrite-URL", "X-Real-IP",
    "X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method", "X-Wap-Profile", "X-Backend-Host", "X-Amz-Website",
    "True-Client-IP", "CF-Connecting-IP", "Fastly-Client-IP", "Front-End-Https", "Via", "Forwarded", "Origin",
    "Referer", "DNT", "From", "Max-Forwards", "Warning", "Trailer", "TE", "Keep-Alive", "Proxy-Connection", "Upgrade",
    "Sec-Fetch-Site", "Sec-Fetch-Mode", "Accept-Charset", "Accept-Language", "Accept-Datetime", "Content-Type",
    "Content-Encoding", "Content-Language", "Content-MD5", "Purpose", "Save-Data", "Surrogate-Capability", "X-Cache",
    "X-Cache-Key", "X-Cache-Hash", "Host", "If-Match", "If-Unmodified-Since", "User-Agent",
)  # fmt: skip
_MEANT = (
    ("Accept", "text/html"),
    ("Accept", "application/vnd.pypi.simple.v1+json"),
    ("Accept", "application/vnd.pypi.simple.v1+html;q=0.2, */*;q=0.1"),
    ("Accept", f"application/{MARK}"),
    ("Accept-Encoding", "gzip"),
    ("Accept-Encoding", "zstd, gzip;q=0.5"),
    ("Accept-Encoding", f"{MARK}, br, identity;q=0"),
    ("Cache-Control", "no-cache"),
    ("Cache-Control", "no-store"),
    ("Cache-Control", "max-age=0"),
    ("Cache-Control", f"max-stale, min-fresh=1, x={MARK}"),
    ("Pragma", "no-cache"),
    ("Range", "bytes=0-3"),
    ("Range", "bytes=-5"),
    ("Range", f"{MARK}=0-1"),
    ("If-Range", f'"{MARK}"'),
    ("If-None-Match", f'"{MARK}"'),
    ("If-None-Match", "*"),
    ("If-Modified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT"),
    ("Connection", f"keep-alive, Accept, Host, {MARK}"),
    ("Connection", "close"),
    ("Expect", "100-continue"),
    ("Content-Length", "0"),
    ("User-Agent", f"pip/23.2 {MARK}"),
    ("User-Agent", ""),
)
_VALUES = (
    MARK, f"{MARK}.example.com", f"https://{MARK}.example.com/", f"/simple/{MARK}/", f"127.0.0.1, {MARK}", "POST",
    f"Basic {MARK}", f"a={MARK}; b={MARK}", f"for={MARK};host={MARK};proto=https", f"<script>{MARK}</script>", "1", "",
    f"{MARK}\xe9\xff", f"{MARK}\t{MARK}", f'"{MARK}', "0", "https", "localhost", MARK * 200, f"../../{MARK}",
)  # fmt: skip
_QUERIES = (
    "?", f"?{MARK}", f"?{MARK}={MARK}", f"?cb={MARK}&cb=2", "?format=application/vnd.pypi.simple.v1%2Bjson",
    f"?format=text/html&x={MARK}", f"?format={MARK}", f"?a=1&&b=%00{MARK}", f"?x=https://{MARK}.example.com",
    f"??{MARK}", f"?{MARK}#{MARK}", f"?q=%0d%0aX-{MARK}:1", f"?utm_content={MARK}", f"?a[]={MARK};b={MARK}",
)  # fmt: skip
# Most of these are refused, and so are requests with one of those; hence they are rare.
_REFUSED = (
    "Content-Length: 4", "Transfer-Encoding : chunked", "Transfer-Encoding: chunked", f"Host: {MARK}", f" {MARK}: 1",
)  # fmt: skip
_TAILS = (
    f";{MARK}=1", f"/{MARK}", f"%3b{MARK}", "%00", "%0d%0a", f"/..;/{MARK}", f"%3f{MARK}", "//", "/.", "%20",
    f"\\{MARK}",
)  # fmt: skip


def spelled(path: str, chance: random.Random) -> str:
    """The same path, some of its letters escaped (RFC 3986 §6.2.2.2)."""
    odds = chance.choice((0.0,) * 6 + (0.1, 0.5))
    return "".join(
        chance.choice((f"%{ord(each):02x}", f"%{ord(each):02X}")) if each.isalnum() and chance.random() < odds else each
        for each in path
    )


def fields(chance: random.Random) -> list[str]:
    """Up to eight lines."""
    lines = []
    for _ in range(chance.randrange(9)):
        name, value = chance.choice(_NAMES), chance.choice(_VALUES)
        if chance.random() < 0.4:
            name, value = chance.choice(_MEANT)
        name = chance.choice((name, name, name, name.lower(), name.upper(), name.replace("-", "_")))
        lines += [f"{name}:{chance.choice((' ', ' ', '', '  '))}{value}"] * chance.choice((1, 1, 1, 2))
    return lines + ([chance.choice(_REFUSED)] if chance.random() < 0.05 else [])


def request(head: str, tails: Sequence[str], odds: float, chance: random.Random) -> tuple[bytes, str]:
    """A request for the path ``head`` + one of ``tails`` (which name one thing in many ways), with a query at these
    odds, and its method."""
    path = head + spelled(chance.choice(tails), chance)
    path += chance.choice(_TAILS) if chance.random() < 0.05 else ""
    method = chance.choice(("GET",) * 18 + ("HEAD", "POST"))
    version = chance.choice(("1.1",) * 9 + ("1.0",))
    said = fields(chance)
    if not any(line.lower().startswith("host:") for line in said):
        said.append("Host: proxy.example.com")
    chance.shuffle(said)
    target = path + (chance.choice(_QUERIES) if chance.random() < odds else "")
    lines = "".join(f"{line}\r\n" for line in said)
    return f"{method} {target} HTTP/{version}\r\n{lines}\r\n".encode("latin-1"), method
