"""A page as bytes: one rendition per format and depth, compressed once per page version.

The JSON rendition below ``/simple/{project}/`` is the base: it is made when a page arrives, and every other one
is made from it when it is first asked for. A rendition is kept as the 32 hex digits that its ETags are made of,
followed by the gzip bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.core import simple
from proxy.core.messages import Entry
from proxy.core.negotiation import HTML, HTML_V1, JSON_V1

DIGEST = 32
GZIP_LEVEL = 6
BASE_UP = "../../"
_FORMATS = {JSON_V1: "json", HTML_V1: "html", HTML: "html"}


@dataclass(frozen=True, slots=True)
class View:
    """How one client wants to see a page: media type, way up to the root, and whether it takes gzip."""

    media_type: str
    up: str
    gzipped: bool = True

    def key(self, entry: Entry) -> str:
        """The store key of the rendition behind this view."""
        return f"{entry.key}|{entry.body}|{_FORMATS[self.media_type]}|{self.up.count('/')}"

    def content_type(self) -> str:
        """The Content-Type sent."""
        return f"{self.media_type}; charset=utf-8" if self.media_type == HTML else self.media_type

    def etag(self, rendition: bytes) -> str:
        """A strong ETag: it differs for every media type and coding of the same content (RFC 9110 §8.8.3)."""
        kind = {JSON_V1: "j", HTML_V1: "v", HTML: "h"}[self.media_type]
        return f'"{rendition[:DIGEST].decode("ascii")}-{kind}{"z" if self.gzipped else "i"}"'


BASE = View(JSON_V1, BASE_UP)


def all_keys(entry: Entry) -> list[str]:
    """The store keys of every rendition a page version can have."""
    depths = (BASE_UP, BASE_UP * 2)
    return [View(media_type, up).key(entry) for media_type in (JSON_V1, HTML) for up in depths]


def render(document: dict[str, Any], media_type: str) -> bytes:
    """The rendition of a relocated document."""
    plain = simple.render(document, media_type)
    digest = hashlib.sha256(plain).hexdigest()[:DIGEST]
    return digest.encode("ascii") + gzip.compress(plain, GZIP_LEVEL, mtime=0)


def derive(base: bytes, view: View) -> bytes:
    """Another rendition of the page whose base is given. Raises ValueError, OSError or EOFError on garbage."""
    try:
        document: dict[str, Any] = orjson.loads(gzip.decompress(base[DIGEST:]))
    except zlib.error as error:
        raise ValueError("not a rendition") from error
    document = simple.relocate(document, lambda url: view.up + url.removeprefix(BASE_UP))
    return render(document, view.media_type)


def body_of(rendition: bytes, view: View) -> bytes:
    """The bytes for the wire."""
    return rendition[DIGEST:] if view.gzipped else gzip.decompress(rendition[DIGEST:])
