"""Content codings: every byte comes back, equal input gives equal bytes, and nothing else is taken for a coded body."""

from __future__ import annotations

import gzip
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.codings import compress, compressor, decompress
from proxy.core.negotiation import Coding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODINGS: tuple[Coding, ...] = ("", "gzip", "zstd")
every_coding = pytest.mark.parametrize("coding", CODINGS)
real_codings = pytest.mark.parametrize("coding", CODINGS[1:])
TEXT = b"".join(b"Requires-Dist: project-%d\n" % number for number in range(2000))


@every_coding
@given(data=st.binary(max_size=2000), level=st.integers(1, 19))
def test_every_byte_comes_back(coding: Coding, data: bytes, level: int) -> None:
    """Also of nothing, and at each level; the same data gives the same bytes, which an ETag promises."""
    coded = compress(data, coding, zstd_level=level)
    assert decompress(coded, coding) == data
    assert compress(data, coding, zstd_level=level) == coded


@every_coding
@given(pieces=st.lists(st.binary(max_size=500), max_size=8))
def test_piece_by_piece(coding: Coding, pieces: list[bytes]) -> None:
    """A body that is coded as it comes is the same body."""

    def coded() -> bytes:
        stream = compressor(coding)
        return b"".join([*(stream.compress(piece) for piece in pieces), stream.flush()])

    assert decompress(coded(), coding) == b"".join(pieces)
    assert coded() == coded()


def test_others_can_read_it() -> None:
    """One gzip member without a time stamp, one zstd frame with a checksum and a window that RFC 9659 allows."""
    packed = compress(TEXT, "gzip")
    assert gzip.decompress(packed) == TEXT
    assert packed[4:8] == b"\0\0\0\0"
    frame = compress(TEXT, "zstd")
    assert zstd.decompress(frame) == TEXT
    assert frame[4] & 0b100  # RFC 8878 §3.1.1.1.1.5: Content_Checksum_flag
    window_log_max: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
    large = compressor("zstd", zstd_level=19)
    frame = large.compress(TEXT * 300) + large.flush()
    assert zstd.decompress(frame, options=window_log_max) == TEXT * 300


@real_codings
def test_it_is_smaller(coding: Coding) -> None:
    """Which is what it is for."""
    assert len(compress(TEXT, coding)) < len(TEXT) / 4


@real_codings
@given(garbage=st.binary(max_size=200))
def test_garbage_is_a_known_error(coding: Coding, garbage: bytes) -> None:
    """No foreign error leaves the module; nothing is no coded body, either."""
    with pytest.raises(ValueError, match="not in that coding"):
        decompress(garbage, coding)


@real_codings
@given(data=st.data())
def test_a_part_is_a_known_error(coding: Coding, data: st.DataObject) -> None:
    """Nor is one that was cut, or has something behind its end."""
    whole = compress(TEXT, coding)
    with pytest.raises(ValueError, match="not in that coding"):
        decompress(whole[: data.draw(st.integers(0, len(whole) - 1))], coding)
    with pytest.raises(ValueError, match="not in that coding"):
        decompress(whole + data.draw(st.binary(min_size=1, max_size=20)), coding)


@real_codings
@given(position=st.integers(0, 10_000), bits=st.integers(1, 255))
def test_a_flipped_bit_is_found(coding: Coding, position: int, bits: int) -> None:
    """Both have a checksum; a change in a header alone does not matter."""
    whole = compress(TEXT, coding)
    position %= len(whole)
    damaged = whole[:position] + bytes([whole[position] ^ bits]) + whole[position + 1 :]
    try:
        assert decompress(damaged, coding) == TEXT
    except ValueError:
        return


def test_no_coding_is_the_bytes_themselves() -> None:
    """Identity costs nothing."""
    assert compress(TEXT, "") is TEXT
    assert decompress(TEXT, "") is TEXT
