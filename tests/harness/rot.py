"""What happens to files at rest: a bit is flipped, an end is lost, two files take each other's names."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path


def seen_to_change(path: Path, change: Callable[[Path], None]) -> None:
    """Make the change at a moment when the filesystem's clock has moved on: before that nothing tells two changes of
    one file apart, and no two of them come that soon but in a test."""
    before = path.stat().st_ctime_ns
    probe = path.with_name("clock")
    while True:
        probe.touch()
        now = probe.stat().st_ctime_ns
        probe.unlink()
        if now > before:
            change(path)
            return


def flip(path: Path, at: int, bit: int = 4) -> None:
    """One bit of the byte at that place is another one."""
    with path.open("r+b") as file:
        file.seek(at)
        (found,) = file.read(1)
        file.seek(at)
        file.write(bytes([found ^ 1 << bit]))


def cut(path: Path, size: int) -> None:
    """All behind so many bytes is lost."""
    os.truncate(path, size)


def swap(one: Path, other: Path) -> None:
    """Each has the other's name."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def scribble(database: Path, chance: random.Random) -> str:
    """Damage a database in one of the ways in which they are found damaged; in a word, which."""
    size = database.stat().st_size
    page = 4096
    pages = max(2, size // page)
    match chance.choice(["bit", "bytes", "page", "swap", "end"]):
        case "bit":
            flip(database, chance.randrange(size), chance.randrange(8))
            return "bit"
        case "bytes":
            _write(database, chance.randrange(size), chance.randbytes(chance.randrange(1, 64)))
            return "bytes"
        case "page":
            _write(database, chance.randrange(pages) * page, chance.choice([bytes(page), chance.randbytes(page)]))
            return "page"
        case "swap":
            one, other = (place * page for place in chance.sample(range(pages), 2))
            data = database.read_bytes()
            _write(database, one, data[other : other + page])
            _write(database, other, data[one : one + page])
            return "swap"
        case _:
            cut(database, chance.randrange(size))
            return "end"


def _write(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
