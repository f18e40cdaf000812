"""One line per figure: the ratio first, then what it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Series:
    """The values of one side, in one unit, one for each repetition."""

    name: str
    values: Sequence[float]
    unit: str

    @property
    def median(self) -> float:
        """The middle value: one repetition that a neighbour disturbed does not move it."""
        return median(self.values)

    def __str__(self) -> str:
        spread = f" ({_short(min(self.values))}..{_short(max(self.values))}, n={len(self.values)})"
        return f"{self.name} {_short(self.median)} {self.unit}{spread if len(self.values) > 1 else ''}"


def report(what: str, ours: Series, beside: Series, note: str = "") -> None:
    """``what: ours over beside, both with their spread; note``."""
    ratio = ours.median / beside.median if beside.median else float("inf")
    show(f"{what:<34} {ratio:7.3g}x  {ours}; {beside}", note)


def show(line: str, note: str = "") -> None:
    """One line, at once: the next figure may take a while."""
    print(f"{line}; {note}" if note else line, flush=True)


def bound(value: float, most: float, unit: str) -> str:
    """Whether a value keeps below what it must keep below."""
    return f"{'ok' if value < most else 'OVER'}: {_short(value)} of at most {_short(most)} {unit}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
