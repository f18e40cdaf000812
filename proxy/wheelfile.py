"""Core metadata out of a wheel: one small member of a zip archive that somebody else has made, and may have made to
hurt."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Sequence

from proxy.answer import Piece
from proxy.core.wheels import is_metadata_of
from proxy.replies import CHUNK, passing

METADATA_MAX = 16 * 2**20
"""Bytes of metadata that are taken out of a wheel: a hundred times the longest there is."""
_READ_MAX = 8 * 2**20
"""Bytes read at once: zipfile reads a directory whole, and makes ten times as much of it. Of the wheels with the
most files it is 4 MB."""
# Older members may be packed otherwise, too; those of wheels are not, and LZMA asks for as much memory as it likes.
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# All that zipfile raises for what is no good archive (RuntimeError: encrypted), and the disk below it.
_MALFORMED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,  # and NotImplementedError
    ValueError,
)


def metadata_in(pieces: Sequence[Piece], filename: str) -> bytes:
    """The METADATA of the wheel of that name, whose whole body lies in these pieces. Blocks: for a thread.

    Raises UpstreamFailed (503) for what is no zip archive, has none or more than one, or a larger one than allowed.
    """
    try:
        with zipfile.ZipFile(_Body(pieces)) as archive:
            found = [member for member in archive.infolist() if is_metadata_of(member.filename, filename)]
            if len(found) != 1:
                raise passing("the wheel has not exactly one METADATA of its own")
            return _content(archive, found[0])
    except _MALFORMED:
        raise passing("the wheel is no archive that its METADATA could be taken from") from None


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The member, unpacked and as its checksum says."""
    if member.file_size > METADATA_MAX:
        raise passing("the METADATA in the wheel is larger than allowed")
    if member.compress_type not in _PACKED:
        raise zipfile.BadZipFile
    taken = bytearray()
    with archive.open(member) as opened:
        # Small steps, each of which unpacks no more than it is asked for. All of them give no more than the member
        # says that it has; its checksum is compared at the end.
        while part := opened.read(CHUNK):
            taken += part
    if len(taken) != member.file_size:
        raise zipfile.BadZipFile
    return bytes(taken)


class _Body(io.RawIOBase):
    """The pieces as one file, read by position: their files are read by others at the same time."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._starts = [0]
        for piece in pieces:
            self._starts.append(self._starts[-1] + piece.count)
        self._at = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._starts[-1]}[whence]
        if at < 0:
            raise OSError("before the beginning")
        self._at = at
        return at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._starts[-1] - self._at)
        count = left if count < 0 else min(count, left)
        if count > _READ_MAX:
            raise ValueError("more than is read at once")
        parts: list[bytes] = []
        while count:
            number = bisect_right(self._starts, self._at) - 1
            piece, within = self._pieces[number], self._at - self._starts[number]
            part = os.pread(piece.file.fileno(), min(count, piece.count - within), piece.position + within)
            if not part:
                raise OSError("a file that has become shorter")
            parts.append(part)
            self._at += len(part)
            count -= len(part)
        return b"".join(parts)
