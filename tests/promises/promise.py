"""The words that all promises share: what is promised, how much of it is tried, and what came of it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

Size = Literal["ci", "long"]


@dataclass(frozen=True, slots=True)
class Promise:
    """``name`` is "G1"; ``goal`` says in one line what is at least reached, in the numbers of the long size."""

    name: str
    what: str
    goal: str


@dataclass(frozen=True, slots=True)
class Measured:
    """``figure`` is one line of numbers; each of ``shortfalls`` says what was promised and what came instead."""

    figure: str
    shortfalls: tuple[str, ...] = ()


class Kept(Protocol):
    """A module of this package whose name begins with ``g`` and two digits."""

    PROMISE: Promise

    def measure(self, size: Size, directory: Path) -> Measured:
        """Try it, with all that is written below the directory. Raises AssertionError where the fault itself did not
        happen, or cannot be made here: that says nothing about the promise."""
        ...


def promises() -> Iterator[Kept]:
    """All of them, by their numbers."""
    for path in sorted(Path(__file__).parent.glob("g[0-9][0-9]_*.py")):
        yield cast(Kept, importlib.import_module(f"{__package__}.{path.stem}"))


def told(promise: Promise, measured: Measured) -> str:
    """One line for the table."""
    verdict = "kept" if not measured.shortfalls else f"NOT KEPT: {'; '.join(measured.shortfalls)}"
    return f"{promise.name:>4}  {promise.what} | {promise.goal} | {measured.figure} | {verdict}"
