"""``python -m tests.promises [--long] [G1 G17 ...]``: the table of promise, goal and what was measured, a line each as
it comes. Exits 1 when one is not kept."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

from tests.promises.promise import Size, promises, told


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.promises", description=__doc__)
    parser.add_argument("--long", action="store_true", help="the size that does not fit a run of the tests")
    parser.add_argument("names", nargs="*", metavar="G1", help="these alone; all when none is named")
    asked = parser.parse_args()
    size: Size = "long" if asked.long else "ci"
    chosen = [each for each in promises() if not asked.names or each.PROMISE.name in asked.names]
    if unknown := set(asked.names) - {each.PROMISE.name for each in chosen}:
        parser.error(f"no such promise: {', '.join(sorted(unknown))}")
    broken = 0
    print("promise | goal | measured | verdict")
    for each in chosen:
        since = time.monotonic()
        # What servers said is printed at their end: it is no part of the table.
        with tempfile.TemporaryDirectory(prefix="promise") as directory, redirect_stdout(sys.stderr):
            measured = each.measure(size, Path(directory))
        print(f"{told(each.PROMISE, measured)} ({time.monotonic() - since:.0f} s)", flush=True)
        broken += bool(measured.shortfalls)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
