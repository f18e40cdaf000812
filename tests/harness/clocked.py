"""A server whose wall clock a test moves while it runs: jumps of years, and days that take a second.

Only ``time.time`` is moved, which says what day it is. What measures how long something takes (``time.monotonic``, the
event loop's timers) goes on as it is, as it does when somebody sets a machine's clock.

``python -m tests.harness.clocked FILE serve ...`` is the command, and looks into that file whenever it asks for the
time; ``ProxyServer(clock=Clock(FILE))`` runs it so.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path

_SECONDS = struct.Struct("d")


class Clock:
    """How far a server's wall clock is ahead of this machine's (behind, below 0), kept in a file of its own."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_SECONDS.pack(0.0))
        self.path = path

    @property
    def ahead(self) -> float:
        """In seconds."""
        return float(_SECONDS.unpack(self.path.read_bytes())[0])

    @ahead.setter
    def ahead(self, seconds: float) -> None:
        with self.path.open("r+b") as file:  # in place: who has it mapped sees this
            file.write(_SECONDS.pack(seconds))

    @property
    def now(self) -> float:
        """What the server takes for the time of day, in seconds since the epoch."""
        return time.time() + self.ahead

    def move(self, seconds: float) -> None:
        """So much further, or back; the server sees it at once."""
        self.ahead += seconds


def follow(path: Path) -> None:
    """From here on ``time.time`` of this process is ahead by what the file says."""
    with path.open("rb") as file:
        seconds = mmap.mmap(file.fileno(), _SECONDS.size, access=mmap.ACCESS_READ)
    unmoved = time.time

    def moved() -> float:
        return unmoved() + float(_SECONDS.unpack_from(seconds)[0])

    time.time = moved


if __name__ == "__main__":
    follow(Path(sys.argv[1]))
    from proxy.cli import main

    sys.exit(main(sys.argv[2:]))
