"""A page as bytes: one rendition per format, depth and coding, compressed once per page version.

The gzip-coded JSON rendition below ``/simple/{project}/`` is the base: it is made when a page arrives, and every
other one is made when it is first asked for, a zstd one from the gzip one of its format and depth, and that from
the base. A rendition is kept as the 32 hex digits that its ETags are made of, followed by the coded bytes.
Identity is not kept: it is decoded from gzip each time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import orjson

from proxy.codings import compress, decompress
from proxy.core import simple
from proxy.core.messages import Entry
from proxy.core.negotiation import HTML, HTML_V1, JSON_V1, Coding

DIGEST = 32
BASE_UP = "../../"
ZSTD_LEVEL = 1
"""Pages are mostly digests, in which higher levels only find matches that do not pay. 2.9 MB of JSON (10 KB of it):
zlib's gzip 6 makes 657 KB in 66 ms (2.7 KB in 0.18 ms), zstd 1 566 KB in 8 ms (2.5 KB in 0.05 ms), zstd 3 620 KB in 17
ms, zstd 9 616 KB in 50 ms; less than zstd 1 makes only level 17, in 1.5 s."""
_FORMATS = {JSON_V1: "json", HTML_V1: "html", HTML: "html"}
_KINDS = {JSON_V1: "j", HTML_V1: "v", HTML: "h"}
_MARKS: dict[Coding, str] = {"gzip": "g", "zstd": "z", "": "i"}


@dataclass(frozen=True, slots=True)
class View:
    """How one client wants to see a page: media type, way up to the root, and content coding."""

    media_type: str
    up: str
    coding: Coding = "gzip"

    @property
    def source(self) -> View:
        """The view whose rendition this one's is made from, whatever the base is: the same page in gzip."""
        return replace(self, coding="gzip")

    def key(self, entry: Entry) -> str:
        """The store key of the rendition behind this view."""
        key = f"{entry.key}|{entry.body}|{_FORMATS[self.media_type]}|{self.up.count('/')}"
        return f"{key}|zstd" if self.coding == "zstd" else key

    def content_type(self) -> str:
        """The Content-Type sent."""
        return f"{self.media_type}; charset=utf-8" if self.media_type == HTML else self.media_type

    def etag(self, rendition: bytes) -> str:
        """A strong ETag: it differs for every media type and coding of the same content (RFC 9110 §8.8.3)."""
        return f'"{rendition[:DIGEST].decode("ascii")}-{_KINDS[self.media_type]}{_MARKS[self.coding]}"'


BASE = View(JSON_V1, BASE_UP)


def all_keys(entry: Entry) -> list[str]:
    """The store keys of every rendition a page version can have."""
    depths: tuple[str, ...] = (BASE_UP, BASE_UP * 2)
    codings: tuple[Coding, ...] = ("gzip", "zstd")
    return [View(kind, up, coding).key(entry) for kind in (JSON_V1, HTML) for up in depths for coding in codings]


def packed(plain: bytes) -> bytes:
    """The gzip rendition of a page's bytes."""
    digest = hashlib.sha256(plain).hexdigest()[:DIGEST]
    return digest.encode("ascii") + compress(plain, "gzip")


def derive(base: bytes, view: View) -> bytes:
    """The gzip rendition behind a view of the page whose base is given. Raises ValueError on garbage."""
    document: dict[str, Any] = orjson.loads(decompress(base[DIGEST:], "gzip"))
    document = simple.relocate(document, lambda url: view.up + url.removeprefix(BASE_UP))
    return packed(simple.render(document, view.media_type))


def recode(rendition: bytes) -> bytes:
    """The zstd rendition of what is given in gzip. Raises ValueError on garbage."""
    return rendition[:DIGEST] + compress(decompress(rendition[DIGEST:], "gzip"), "zstd", zstd_level=ZSTD_LEVEL)


def body_of(rendition: bytes, view: View) -> bytes:
    """The bytes for the wire."""
    return rendition[DIGEST:] if view.coding else decompress(rendition[DIGEST:], "gzip")
