"""``make conformance``: runs the suite, writes docs/conformance.md, and prints it with what is not counted."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.conformance.expected import failing, reasons
from tests.conformance.suite import conformance, lacking
from tests.conformance.table import PAGE, disagreements, page


def main() -> int:
    """0 when exactly the listed cases fail. The page is written in any case: a diff then shows what changed."""
    what = lacking()
    if what is not None:
        print(what, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="conformance") as directory:
        outcome = conformance(Path(directory), failing())
    text = page(outcome, reasons())
    PAGE.write_text(text, encoding="utf-8")
    checks = (f"{case.mark} {case.id}" for case in outcome.of_kind("check"))
    print(text, "Not counted, what the proxy does:", *checks, sep="\n")
    if outcome.again:
        print("Run twice:", *outcome.again)
    wrong = disagreements(outcome, failing())
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
