"""Bodies that are small on the way and huge where they arrive, or that never end: of every kind that an index sends."""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.harness.behaviours import Behaviour
from tests.harness.bodies import as_body
from tests.harness.exchange import Exchange
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution

HTML = "text/html"
KINDS = ("page", "document", "list")
MIB = 2**20
PAGE_MOST = 64 * MIB
_BLOCK = 16 * MIB
_BEGIN = b'{"meta":{"api-version":"1.0"},"name":"bomb","files":[],"more":'


@dataclass(frozen=True, slots=True)
class Bomb:
    """``pieces`` are sent as the body of a 200 with these fields, to whoever asks for ``path`` at the proxy. ``kind``
    says which answer of the index it stands in for."""

    name: str
    kind: str
    pieces: Callable[[], Iterator[bytes]]
    media_type: str = JSON_V1
    coding: str = "gzip"


def blown(begin: bytes, filling: bytes, size: int) -> Iterator[bytes]:
    """A gzip body of ``begin`` and then ``filling`` until there are so many bytes: 10 GB in 10 MB, made at once. It has
    no end: who waits for that is lost anyway."""
    block = zlib.compressobj(9, zlib.DEFLATED, -15)
    filled = block.compress(filling * (_BLOCK // len(filling))) + block.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers to what was before: the same bytes can follow again and again.
    first = zlib.compressobj(9, zlib.DEFLATED, -15)
    yield b"\x1f\x8b\x08\0\0\0\0\0\2\xff" + first.compress(begin) + first.flush(zlib.Z_FULL_FLUSH)
    for _ in range(size // _BLOCK):
        yield filled


def unblown(pieces: Iterator[bytes], enough: int) -> int:
    """How many bytes those pieces become where nobody stops them, but that there are ``enough``."""
    plain, made = zlib.decompressobj(wbits=31), 0
    for piece in pieces:
        while piece and made < enough:
            made += len(plain.decompress(piece, MIB))
            piece = plain.unconsumed_tail
    return made


def _endless(data: bytes) -> Iterator[bytes]:
    while True:
        yield data


def sending(bomb: Bomb) -> Behaviour:
    """An upstream's answer that is this bomb, chunked; it goes on until nobody listens."""

    def answer(exchange: Exchange) -> None:
        fields = [f"Content-Type: {bomb.media_type}", "Transfer-Encoding: chunked", "Cache-Control: max-age=600"]
        if bomb.coding:
            fields.append(f"Content-Encoding: {bomb.coding}")
        exchange.ending = "close"
        exchange.send("\r\n".join(["HTTP/1.1 200 OK", *fields, "\r\n"]).encode())
        for piece in bomb.pieces():
            if exchange.stopping.is_set():
                return
            exchange.body(piece, "chunked")
        exchange.send(b"0\r\n\r\n")

    return answer


def huge(size: int) -> list[Bomb]:
    """Bodies that become so many bytes where nobody stops them, in a few on the way."""
    projects = b'{"meta":{"api-version":"1.0"},"projects":[{"name":"'
    return [
        *(Bomb(f"a huge {kind}", kind, lambda: blown(_BEGIN, b" ", size)) for kind in KINDS),
        Bomb("a huge page of HTML", "page", lambda: blown(b"<h1>Links for bomb</h1>", b"<p>", size), HTML),
        Bomb("a huge list of HTML", "list", lambda: blown(b"<h1>Simple index</h1>", b"<p>", size), HTML),
        Bomb("a list of one entry", "list", lambda: blown(projects, b"x", size)),
        Bomb("a list of depth", "list", lambda: blown(projects + b'x","y":', b"[", size)),
        Bomb("members without end", "page", lambda: _endless(gzip.compress(b"") * 1000)),
        Bomb("zstd that nobody asked for", "page", lambda: _endless(b"\x28\xb5\x2f\xfd" * 100), coding="zstd"),
        Bomb("gzip in gzip", "page", lambda: _endless(gzip.compress(bytes(MIB))), coding="gzip, gzip"),
    ]


def endless() -> list[Bomb]:
    """Bodies of which as much comes as is allowed: how long that takes is the network's affair."""
    return [Bomb(f"a {kind} without end", kind, lambda: _endless(b" " * 65536), coding="") for kind in KINDS]


def crowded() -> list[Bomb]:
    """As large as a page may be, within the ratio; but what is in there takes many times as much in memory."""
    fillings = {"objects": b"{},", "arrays": b"[],", "numbers": b"9,", "texts": b'"a",', "depth": b"["}
    tags = {"<a>": b"<a href=bomb-1.zip>", "<meta>": b"<meta>", "<div>": b"<div>"}
    tags["attributes"] = b"<a a=b c=d e=f g=h i=j k=l m=n o=p q=r s=t u=v href=bomb-1.zip>"
    return [
        *(_sized(f"a page of {name}", "page", _BEGIN + b"[", each) for name, each in fillings.items()),
        *(_sized(f"a page of {name}", "page", b"", each, HTML) for name, each in tags.items()),
        *(_sized(f"a document of {name}", "document", _BEGIN + b"[", each) for name, each in fillings.items()),
    ]


def _sized(name: str, kind: str, begin: bytes, filling: bytes, media_type: str = JSON_V1) -> Bomb:
    """As much as a page may have, whole, in a gzip body that stays within the ratio."""

    def pieces() -> Iterator[bytes]:
        packing = zlib.compressobj(1, zlib.DEFLATED, 31)
        yield packing.compress(begin)
        part = filling * (100 * 1024 // len(filling))
        for _ in range((PAGE_MOST - len(begin)) // len(part) - 1):
            # Empty blocks (RFC 1951 §3.2.4): bytes on the way that become nothing.
            yield packing.compress(part) + packing.flush(zlib.Z_FULL_FLUSH) + b"\0\0\0\xff\xff" * 150
        yield packing.flush()

    return Bomb(name, kind, pieces, media_type)


def swollen_wheel(size: int) -> Distribution:
    """A good wheel by its hash, whose METADATA becomes so many bytes."""
    packed = io.BytesIO()
    name = "bomb-1.0.dist-info"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(f"{name}/WHEEL", "Wheel-Version: 1.0\n")
        with archive.open(f"{name}/METADATA", "w", force_zip64=True) as member:
            member.write(b"Metadata-Version: 2.1\nName: bomb\nVersion: 1.0\n\n")
            for _ in range(size // MIB):
                member.write(bytes(MIB))
    data = packed.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    return Distribution("bomb", "1.0", "bomb-1.0-py3-none-any.whl", as_body(data), len(data), digest)
