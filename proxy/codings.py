"""Content codings: bytes in, coded bytes out, and back. Which one a client gets is decided in ``negotiation``."""

from __future__ import annotations

import sys
from typing import Protocol

from isal import isal_zlib

from proxy.core.negotiation import Coding

# No later than anybody else: aiohttp imports the same module when it starts.
if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP_LEVEL = 1
"""ISA-L's levels are not those of zlib: of pages, which are mostly digests, its first leaves the least. 2.9 MB of JSON
(10 KB of it): ISA-L 1 makes 649 KB in 6 ms (2.5 KB in 0.02 ms), ISA-L 3 658 KB in 15 ms, zlib 6 655 KB in 76 ms
(2.6 KB in 0.08 ms)."""
ZSTD_LEVEL = 3
"""Of 12 MB of project names zstd 3 makes 2.9 MB in 90 ms, zlib's gzip 6 3.1 MB in 320 ms, zstd 6 2.6 MB in 270 ms.

No level above 19 may be used: RFC 9659 §3 allows windows of 8 MB at most."""
_GZIP = 31  # zlib's word, and ISA-L's, for "a gzip wrapper and the largest window"; it writes no time stamp


class Compressor(Protocol):
    """Codes a body piece by piece."""

    def compress(self, data: bytes, /) -> bytes:
        """Coded bytes, as far as they are ready."""

    def flush(self) -> bytes:
        """The rest; nothing can be added any more."""


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def compressor(coding: Coding, *, zstd_level: int = ZSTD_LEVEL) -> Compressor:
    """A new compressor; that of ``""`` hands on what it gets. Equal pieces give equal bytes."""
    if coding == "gzip":
        return isal_zlib.compressobj(GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP)
    if coding == "zstd":
        return zstd.ZstdCompressor(options=_options(zstd_level))
    return _Plain()


def compress(data: bytes, coding: Coding, *, zstd_level: int = ZSTD_LEVEL) -> bytes:
    """The data in that coding; ``""`` leaves it as it is. The same data gives the same bytes."""
    if coding == "gzip":
        return isal_zlib.compress(data, GZIP_LEVEL, _GZIP)
    if coding == "zstd":
        return zstd.compress(data, options=_options(zstd_level))
    return data


def decompress(data: bytes, coding: Coding) -> bytes:
    """What was compressed. Raises ValueError on anything else: damaged, cut short, or with something behind its end.

    For our own bytes only: nothing bounds what comes out.
    """
    try:
        if coding == "gzip":
            return _to_its_end(isal_zlib.decompressobj(_GZIP), data)
        if coding == "zstd":
            return _to_its_end(zstd.ZstdDecompressor(), data)
    except (isal_zlib.error, zstd.ZstdError) as error:  # type: ignore[misc] # its stub has an instance for a class
        raise ValueError("not in that coding") from error
    return data


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _to_its_end(decompressor: _Decompressor, data: bytes) -> bytes:
    plain = decompressor.decompress(data)
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("not in that coding: it does not end where it should")
    return plain


def _options(level: int) -> dict[int, int]:
    # With a checksum, as gzip has one: rows are read back after years.
    parameter = zstd.CompressionParameter
    return {parameter.compression_level: level, parameter.checksum_flag: 1}
