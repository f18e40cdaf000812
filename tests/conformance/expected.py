"""What the proxy fails of the suite and why, read from expected.toml; and how much it has to pass."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

# Absolute passes: a case that was not judged is not passed.
REQUIRED = 138
OPTIMAL = 76
_LIST = Path(__file__).resolve().parent / "expected.toml"


@dataclass(frozen=True, slots=True)
class Reason:
    """Cases that fail for one reason: the clause that decides them, and why in a sentence or two."""

    clause: str
    because: str
    cases: tuple[str, ...]


def reasons() -> tuple[Reason, ...]:
    """The committed list, in its order. Raises TypeError where an entry lacks something or has more."""
    entries = tomllib.loads(_LIST.read_text(encoding="utf-8"))["failing"]
    return tuple(Reason(**{**entry, "cases": tuple(entry["cases"])}) for entry in entries)


def failing() -> frozenset[str]:
    """The ids of all cases that are expected to fail."""
    return frozenset(case for reason in reasons() for case in reason.cases)
