"""What is reached for, and whether it was: pure functions over the figures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

SLACK = 0.15
"""Runs on a shared machine differ: so much beyond a bound still meets it, and the verdict says that it was beyond."""

OURS, NGINX, STATIC = "proxy", "nginx", "aiohttp"
Verdict = Literal["met", "met with slack", "missed", "not measured", "no bound"]


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit: ``limit`` times the median of ``against``, or, when that is None, ``limit`` itself in the line's
    unit."""

    limit: float
    against: str | None = NGINX

    def __str__(self) -> str:
        return f"{self.limit:g}" if self.against is None else f"{self.limit:g}x {self.against}"


@dataclass(frozen=True, slots=True)
class Line:
    """One metric: the values of each side, one for each repetition, in one unit.

    ``more``: more is better. ``per_cpu`` holds requests (or MB) per second of the server's CPU, where that was taken.
    """

    name: str
    unit: str
    more: bool
    must: tuple[Bound, ...]
    reach: tuple[Bound, ...]
    values: Mapping[str, Sequence[float]]
    per_cpu: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def median(self, side: str) -> float | None:
        """None for a side that was not measured."""
        return median(self.values[side]) if self.values.get(side) else None

    def ratio(self, side: str) -> float | None:
        """Ours over theirs; None where either is missing or theirs is nothing."""
        ours, theirs = self.median(OURS), self.median(side)
        return ours / theirs if ours is not None and theirs else None


def verdict(line: Line, bounds: Sequence[Bound]) -> Verdict:
    """Of all bounds the worst: one that was not measured hides none that was missed."""
    each = [_one(line, bound) for bound in bounds]
    order: tuple[Verdict, ...] = ("missed", "not measured", "met with slack", "met")
    return next((word for word in order if word in each), "no bound")


def _one(line: Line, bound: Bound) -> Verdict:
    ours = line.median(OURS)
    beside = 1.0 if bound.against is None else line.median(bound.against)
    if ours is None or beside is None:
        return "not measured"
    limit = bound.limit * beside
    if ours >= limit if line.more else ours <= limit:
        return "met"
    slack = limit * (1 - SLACK) if line.more else limit * (1 + SLACK)
    return "met with slack" if (ours >= slack if line.more else ours <= slack) else "missed"
