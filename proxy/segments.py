"""Where the bytes of a body on its way lie: in the cache's spool; when its disk fails, where temporary files go; when
there is no place either, in memory. Of that each body has so much: what every follower has had makes room."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from proxy.answer import Piece

IN_MEMORY = 8 * 2**20
"""Bytes of one body that may lie in memory."""
_STEP = 2**19


class Segments:
    """Files one behind the other, by the offset of their first byte. Offsets are of the part that is fetched."""

    def __init__(self) -> None:
        self.files: list[tuple[int, BinaryIO]] = []
        self.gone = 0
        """Bytes at the beginning that cannot be had any more."""
        self._end = 0
        self._memory: int | None = None

    def begin(self, spool: int | None, directory: Path) -> None:
        """In a copy of that descriptor; without one in a nameless file: in ``directory`` while that works, for where
        temporary files go may be memory. Raises OSError."""
        if spool is not None:
            self.files.append((0, os.fdopen(os.dup(spool), "r+b", buffering=0)))
            return
        try:
            self.files.append((0, tempfile.TemporaryFile(buffering=0, dir=directory)))  # noqa: SIM115 - see close
        except OSError:
            self._elsewhere(0)

    @property
    def one(self) -> bool:
        """Whether all of it lies where it began."""
        return len(self.files) == 1 and self._memory is None

    @property
    def full(self) -> bool:
        """Whether no more of it may lie in memory now."""
        return self._memory is not None and self._end - max(self._memory, self.gone) >= IN_MEMORY

    def write(self, data: bytes, at: int) -> None:
        """Blocks. Raises OSError when there is no place at all."""
        view = memoryview(data)
        while view:
            start, file = self.files[-1]
            inside = self._memory is not None
            try:
                if inside and at - start >= _STEP:
                    self._in_memory(at)
                    continue
                written = os.pwrite(file.fileno(), view[: start + _STEP - at] if inside else view, at - start)
            except OSError:
                if inside and at == start:
                    raise
                self._elsewhere(at)
                continue
            view = view[written:]
            at += written
        self._end = at

    def piece(self, offset: int, end: int) -> Piece | None:
        """The bytes from ``offset`` up to ``end`` at most, as far as one file has them; None when they are gone."""
        for number in reversed(range(len(self.files))):
            start, file = self.files[number]
            if offset >= start:
                last = number == len(self.files) - 1
                return Piece(file, offset - start, (end if last else min(end, self.files[number + 1][0])) - offset)
        return None

    def let_go(self, upto: int) -> None:
        """Nobody will ask for what is before that offset: what of it lies in memory goes."""
        while self._memory is not None and len(self.files) > 1 and self.files[1][0] <= upto:
            _, file = self.files.pop(0)
            file.close()
            self.gone = self.files[0][0]

    def close(self) -> None:
        """All of it goes; pieces must not be read any more."""
        for _, file in self.files:
            file.close()
        self.files.clear()

    def _elsewhere(self, at: int) -> None:
        if len(self.files) < 2 and self._memory is None:
            with suppress(OSError):
                self.files.append((at, tempfile.TemporaryFile(buffering=0)))  # noqa: SIM115 - see close
                return
        self._in_memory(at)

    def _in_memory(self, at: int) -> None:
        if not hasattr(os, "memfd_create"):
            raise OSError("there is no place for the body")
        self.files.append((at, os.fdopen(os.memfd_create("body", os.MFD_CLOEXEC), "r+b", buffering=0)))
        if self._memory is None:
            self._memory = at
