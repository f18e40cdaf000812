"""Laws of what is packed, what is kept, and what an operator asks: gzip, wheels, rows of the store, cursors, bodies."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterable

import orjson

from proxy.answer import Piece
from proxy.core.simple import dump_listing, load_listing
from proxy.core.variants import dumped, loaded
from proxy.entries import MARK, dump_entry, facts_of, load_entry
from proxy.errors import Refused, UpstreamFailed
from proxy.replies import CHUNK
from proxy.unpacking import Gunzip
from proxy.web.facts import cursor_of, cursor_text
from proxy.web.models import ExplainQuery, ListQuery, PurgeRequest, RefreshRequest, RemoveRequest
from proxy.web.questions import checked
from proxy.wheelfile import METADATA_MAX, metadata_in
from tests.fuzz.parser import Parser, in_pieces

LIMIT, RATIO = 1 << 20, 50
WHEEL = "six-1.0-py3-none-any.whl"


def gunzip(data: bytes) -> None:
    """The same bytes however they come, as many as are allowed, in small parts; and what zlib says of them."""
    whole = _unpacked([data])
    assert _unpacked(in_pieces(data)) == whole
    if whole is not None:
        assert whole == b"".join(_members(data))


def _unpacked(pieces: Iterable[bytes]) -> bytes | None:
    decoder = Gunzip(LIMIT, RATIO)
    made = bytearray()
    try:
        for piece in pieces:
            for part in decoder.parts(piece):
                assert len(part) <= CHUNK
                made += part
                assert len(made) <= LIMIT
        decoder.finish()
    except UpstreamFailed as error:
        assert error.status in (502, 503)
        return None
    return bytes(made)


def _members(data: bytes) -> Iterable[bytes]:
    while data:
        member = zlib.decompressobj(wbits=31)
        yield member.decompress(data)
        assert member.eof
        data = member.unused_data


def wheel(data: bytes) -> None:
    """Metadata of a bounded size, or one error; the same when the archive lies in several files."""
    whole = _metadata([data])
    assert _metadata(list(in_pieces(data))) == whole
    assert whole is None or len(whole) <= METADATA_MAX


def _metadata(parts: list[bytes]) -> bytes | None:
    pieces = []
    try:
        for part in parts:
            file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed below
            file.write(part)
            pieces.append(Piece(file, 0, len(part)))
        return metadata_in(pieces, WHEEL)
    except UpstreamFailed as error:
        assert (error.status, error.retry_after) == (503, 2)
        return None
    finally:
        for piece in pieces:
            piece.file.close()


def entry(data: bytes) -> None:
    """A row is an entry that is written as it was read, or it is none; a shorter look at it says no other thing."""
    try:
        found = load_entry(data)
    except ValueError:
        return
    written = dump_entry(found)
    assert load_entry(written) == found
    assert data.startswith(MARK)
    assert facts_of(written, found.key.encode()) == (found.url, found.sha256)
    try:
        assert facts_of(data, found.key.encode()) == (found.url, found.sha256)
    except ValueError:
        # Spaces where we write none.
        assert written != data


def listing(data: bytes) -> None:
    """What a page listed, as it is kept."""
    try:
        found = load_listing(data)
    except ValueError:
        return
    assert load_listing(dump_listing(found)) == found


def variants(data: bytes) -> None:
    """The list of a URL's variants: text, whatever lay there."""
    found = loaded(data)
    assert all(isinstance(each.mark, str) and all(isinstance(name, str) for name in each.names) for each in found)
    assert loaded(dumped(found)) == found


def cursor(data: bytes) -> None:
    """Only what we wrote is a cursor."""
    text = data.decode("utf-8", "replace")
    try:
        found = cursor_of(text)
    except ValueError:
        return
    assert cursor_text(found) == text


def question(data: bytes) -> None:
    """What an operator asks in a body: understood, or refused in words that repeat nothing of it."""
    try:
        asked = orjson.loads(data)
    except ValueError:
        return
    for model in (ListQuery, RemoveRequest, PurgeRequest, RefreshRequest, ExplainQuery):
        try:
            found = checked(model, asked)
        except Refused as error:
            assert error.status == 400
            assert error.because.isascii()
            continue
        assert checked(model, found.model_dump()) == found
        if isinstance(found, (ListQuery, RemoveRequest, PurgeRequest)):
            found.selection().covers("wheel", "test", "six", WHEEL)


_GZIP = (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff", b"\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00", b"\x00" * 16)
_ZIP = (
    *(b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"\xff" * 8),
    b"six-1.0.dist-info/METADATA",
)
_ROWS = (MARK, b'","', b"null", b"true", b"[[", b"]]", b'"sha256"', b"1.0", b"\\u00e9", b'["vary",', b"[[1]]")
_ASKED = (
    *(b'{"pattern":', b'"*"', b'"kind":', b'"wheel"', b'["mount"]', b'"dry_run":', b'"project":'),
    *(b'"version":', b'"index":'),
    *(b'"path":"/simple/six/"', b'"header":["Accept: x"]', b'"method":"GET"', b'"limit":', b'"cursor":'),
    *(b"1e400", b"null"),
)

PARSERS = (
    Parser("gunzip", gunzip, _GZIP, seconds=20.0),
    Parser("wheel", wheel, _ZIP),
    Parser("entry", entry, _ROWS),
    Parser("listing", listing, _ROWS),
    Parser("variants", variants, _ROWS, 1024),
    Parser("cursor", cursor, (b"WyJ3aGVlbHMi",), 256, 2048),
    Parser("question", question, _ASKED, 1024, 64 * 1024),
)
