"""``python -m tests.fuzz [--runs N] [--keep] [NAME ...]``: so many made-up inputs for each parser (all, if none is
named). The last line is how many were tried; exits 1 when a law was broken, and says by what."""

from __future__ import annotations

import argparse
import os
import sys

from tests.fuzz.machine import made_up


def main() -> int:
    asked = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    asked.add_argument("--runs", type=int, default=100_000, help="inputs for each parser")
    asked.add_argument("--keep", action="store_true", help="put what reaches something new into the corpus")
    asked.add_argument("names", nargs="*", metavar="NAME")
    given = asked.parse_args()
    tried, broken = made_up(given.names, given.runs, at_once=len(os.sched_getaffinity(0)), keep=given.keep)
    print("\n".join(broken), file=sys.stderr)
    print(tried)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
