"""What the tests of clients buy: wheels, a source distribution, an extra, and releases that must not be chosen."""

from __future__ import annotations

from functools import cache
from typing import Any

from tests.harness.packages import Distribution, sdist, wheel

RELEASES = 1000
WANTED = ("alpha[fast]>=1", "many>=1")
"""What a client is told to install."""
TAKEN = {"alpha": "1.0", "beta": "1.5", "delta": "1.0", "many": "998.0"}
"""What it has to end with. beta is what alpha needs, as source only; delta is its extra; the newest alpha and many
are yanked, or are for a Python to come."""


@cache
def assortment() -> tuple[Distribution, ...]:
    """Everything on offer, 1,000 releases of one project among it."""
    many = [
        wheel("many", f"{number}.0", **_OBSTACLES.get(number, {}))
        for number in range(1, RELEASES + 1)
    ]
    alpha = wheel("alpha", "1.0", requires=["beta>=1"], extras={"fast": ["delta"]}, requires_python=">=3.8")
    return (
        alpha,
        wheel("alpha", "2.0", yanked="broken"),
        wheel("alpha", "9.0", requires_python=">=99"),
        sdist("beta", "1.5"),
        wheel("delta", "1.0"),
        *many,
    )


_OBSTACLES: dict[int, dict[str, Any]] = {
    RELEASES: {"yanked": True},
    RELEASES - 1: {"requires_python": ">=99"},
}


def taken() -> list[Distribution]:
    """The files of TAKEN."""
    return [each for each in assortment() if TAKEN[each.project] == each.version]
