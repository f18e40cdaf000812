"""``python -m tests.bench [start] [codings] [cold] [warm] [crowd] [listing] [inventory] [lists] [safety]
[scale]``: all when none is named, some 10 minutes; ``table`` and ``table-quick`` only by name."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.bench import codings, cold, crowd, everything, inventory, listing, lists, safety, scale, start, warm

MEASUREMENTS = {
    "start": start.run,
    "codings": codings.run,
    "cold": cold.run,
    "warm": warm.run,
    "crowd": crowd.run,
    "listing": listing.run,
    "inventory": inventory.run,
    "lists": lists.run,
    "safety": safety.run,
    "scale": scale.run,
}
NAMED = {"table": everything.full, "table-quick": everything.quick}


def main(names: list[str]) -> int:
    """Run them; 2 for a name that is none."""
    if unknown := set(names) - MEASUREMENTS.keys() - NAMED.keys():
        print(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join([*MEASUREMENTS, *NAMED])}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="pip-cache-proxy-bench-") as scratch:
        for name in names or MEASUREMENTS:
            directory = Path(scratch) / name
            directory.mkdir()
            (MEASUREMENTS | NAMED)[name](directory)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
