"""Metadata out of wheels: the right bytes from any layout of them, and one error for everything else."""

from __future__ import annotations

import io
import random
import struct
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import wheelfile
from proxy.answer import Piece
from proxy.errors import UpstreamFailed
from proxy.wheelfile import METADATA_MAX, metadata_in
from tests.harness.packages import wheel

SIX = wheel("six", requires=["seven", "eight"], padding=2000)
MEMBER = "six-1.0.dist-info/METADATA"


def lying(data: bytes, cuts: Sequence[int] = ()) -> list[Piece]:
    """The bytes in as many files as the cuts make of them, none at the beginning of its file."""
    borders = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    pieces = []
    for start, stop in pairwise(borders):
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - ends with its piece
        file.write(b"PK\5\6" + data[start:stop] + b"PK\5\6")
        pieces.append(Piece(file, 4, stop - start))
    return pieces


def taken(data: bytes, cuts: Sequence[int] = (), filename: str = SIX.filename) -> bytes:
    """What is in there, by way of files."""
    pieces = lying(data, cuts)
    try:
        return metadata_in(pieces, filename)
    finally:
        for piece in pieces:
            piece.file.close()


def refused(data: bytes) -> str:
    """Why nothing can be taken from it: always 503, and something to try again."""
    with pytest.raises(UpstreamFailed) as caught:
        taken(data)
    assert (caught.value.status, caught.value.retry_after) == (503, 2)
    return caught.value.because


def packed(content: bytes, method: int = zipfile.ZIP_DEFLATED, name: str = MEMBER, comment: bytes = b"") -> bytes:
    """A wheel with only that in it."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as opened:
        opened.writestr(name, content)
        opened.comment = comment
    return archive.getvalue()


@given(st.lists(st.integers(0, SIX.size), max_size=6))
@settings(max_examples=50)
def test_wherever_it_lies(cuts: list[int]) -> None:
    """In one file or in several, as a body does when the disk failed half-way."""
    assert taken(SIX.data, cuts) == SIX.metadata


@pytest.mark.parametrize("content", [b"", b"Name: six\r\n\xff\0", random.Random(1).randbytes(1_000_000)])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_any_bytes(content: bytes, method: int) -> None:
    """No line end is touched and nothing is decoded."""
    assert taken(packed(content, method, comment=b"signed")) == content
    assert taken(b"#!/bin/sh\n" + packed(content, method)) == content


@pytest.mark.parametrize("size", [METADATA_MAX, METADATA_MAX + 1])
def test_how_large_it_may_be(size: int) -> None:
    """A bomb is known by what it says it is."""
    data = packed(bytes(size))
    if size == METADATA_MAX:
        assert taken(data) == bytes(size)
    else:
        assert "larger" in refused(data)


@pytest.mark.parametrize("said", [10, 100_000])
def test_a_size_that_is_a_lie(said: int) -> None:
    """Less or more than there is: neither is served."""
    data = packed(bytes(50_000))
    assert data.count(struct.pack("<L", 50_000)) == 2
    refused(data.replace(struct.pack("<L", 50_000), struct.pack("<L", said)))


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_packed_as_no_wheel_is(method: int) -> None:
    """Not unpacked at all."""
    refused(packed(b"Name: six", method))


def test_encrypted() -> None:
    """Nobody has told us a password."""
    data = bytearray(packed(b"Name: six"))
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + at] |= 1
    refused(bytes(data))


def test_a_directory_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read, for zipfile would make ten times as much of it."""
    monkeypatch.setattr(wheelfile, "_READ_MAX", 100_000)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(MEMBER, b"Name: six")
        for number in range(1000):
            opened.writestr(f"{number:0100}", b"")
    refused(archive.getvalue())
    assert taken(packed(b"Name: six", comment=bytes(60_000))) == b"Name: six"


def test_a_file_that_ends_early() -> None:
    """A disk that has lost the end of it is no reason to wait for ever."""
    (piece,) = lying(SIX.data)
    with piece.file:
        piece.file.truncate(100)
        with pytest.raises(UpstreamFailed):
            metadata_in([piece], SIX.filename)


@given(st.lists(st.tuples(st.integers(0, SIX.size - 1), st.integers(1, 255)), min_size=1, max_size=8), st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_in_any_way(flips: list[tuple[int, int]], data: st.DataObject) -> None:
    """What is not refused is what was there: nothing else gets out, no other error does."""
    damaged = bytearray(packed(SIX.metadata or b"", data.draw(st.sampled_from([0, 8]))))
    for at, bits in flips:
        damaged[at % len(damaged)] ^= bits
    damaged = damaged[: data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))]
    with suppress(UpstreamFailed):
        assert taken(bytes(damaged)) == SIX.metadata


@given(st.binary(max_size=200))
def test_no_archive_at_all(data: bytes) -> None:
    """A login page, or nothing."""
    refused(data + b"PK\5\6" + data)
