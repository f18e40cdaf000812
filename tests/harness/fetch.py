"""One HTTP request, with everything that came back, also when it ended too early."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Fetched:
    """Header names are lower-case. ``complete`` is false when the connection ended before the body did, or
    before a status line came (then ``status`` is 0)."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True

    @property
    def sha256(self) -> str:
        """Of the body, lower-case hex."""
        return hashlib.sha256(self.body).hexdigest()

    @property
    def decoded(self) -> bytes:
        """The body with its Content-Encoding undone, by other code than the proxy's."""
        undo: Mapping[str, Callable[[bytes], bytes]] = {
            "": bytes,
            "gzip": gzip.decompress,
            "zstd": zstd.decompress,
        }
        return undo[self.headers.get("content-encoding", "")](self.body)

    @property
    def hit(self) -> bool:
        """Whether Cache-Status (RFC 9211) says that no upstream was needed."""
        return "hit" in [part.strip() for part in self.headers.get("cache-status", "").split(";")]


def fetch(
    url: str,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    *,
    timeout: float = 60.0,
    progress: Callable[[int], None] | None = None,
    trust: ssl.SSLContext | None = None,
    body: bytes | None = None,
) -> Fetched:
    """A request on a connection of its own; redirects are not followed, codings not undone. ``progress`` is
    told the bytes received so far. ``trust`` is for https; ``body`` is what is sent."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=timeout, context=trust
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    received = bytearray()
    status, fields = 0, dict[str, str]()
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, target, body, headers={"Accept-Encoding": "identity"} | dict(headers or {}))
        answer = connection.getresponse()
        status = answer.status
        for name, value in answer.getheaders():
            known = fields.get(name.lower())
            fields[name.lower()] = value if known is None else f"{known}, {value}"
        # read1 says b"" both at the end and at a cut: only the length that is left tells one from the other.
        while piece := answer.read1(PIECE):
            received += piece
            if progress is not None:
                progress(len(received))
        return Fetched(status, fields, bytes(received), answer.length in (0, None) or method == "HEAD")
    except (http.client.HTTPException, ConnectionError):
        return Fetched(status, fields, bytes(received), False)
    finally:
        connection.close()
