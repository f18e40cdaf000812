"""G14: whatever comes in, at the admin API, on raw connections, into store, gateway and parsers: no fault of ours."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.harness.server import ROOT, clean_environment
from tests.promises import adminrequests, rawrequests
from tests.promises.promise import Measured, Promise, Size
from tests.test_gateway_laws import GatewayAgainstModel
from tests.test_store_laws import PHASES, StoreAgainstModel

PROMISE = Promise(
    "G14",
    "bad input",
    "20,000 made-up admin requests, 100,000 mutated raw ones, state machines 2,000 x 50, parsers fuzzed 10 M:"
    " 0 faults of ours (5xx), 0 hangs, 0 uncaught",
)
STEPS = 50
ADMIN = {"ci": 0.4, "long": 4.0}
RAW = {"ci": 2_500, "long": 100_000}
SEQUENCES = {"ci": 10, "long": 2_000}
MACHINES = {"the store": StoreAgainstModel, "the gateway": GatewayAgainstModel}
"""Against a model each; so many sequences of each."""
INPUTS = {"ci": 2_000, "long": 460_000}
"""For each parser."""
WITHIN = {"ci": 400.0, "long": 7200.0}


def measure(size: Size, directory: Path) -> Measured:
    """One after the other: each takes all the processors there are."""
    admin, shortfalls = adminrequests.sent(directory / "admin", ADMIN[size], WITHIN[size])
    statuses, faults = rawrequests.sent(directory / "raw", RAW[size])
    # The good ones were changed so that many, but not all, are no good ones any more.
    assert min(statuses[200], statuses[400]) > RAW[size] / 50, statuses
    shortfalls += faults
    shortfalls += disagreements(SEQUENCES[size])
    tried, said = fuzzed(INPUTS[size], WITHIN[size])
    shortfalls += said
    figure = (
        f"{admin:,} admin, {RAW[size]:,} raw ({statuses.total():,} answers),"
        f" {SEQUENCES[size]:,} x {STEPS} steps of each of {' and '.join(MACHINES)},"
        f" {tried:,} inputs of parsers: {len(shortfalls)} faults"
    )
    return Measured(figure, tuple(shortfalls))


def disagreements(number: int) -> list[str]:
    """What each machine did otherwise than its model, in so many sequences."""
    asked = settings(max_examples=number, stateful_step_count=STEPS, deadline=None, phases=PHASES, database=None)
    found = []
    for name, machine in MACHINES.items():
        try:
            run_state_machine_as_test(machine, settings=asked)
        except Exception as error:
            # Hypothesis puts the steps that led there into the notes.
            steps = "\n".join(getattr(error, "__notes__", ()))
            found.append(f"{name} against its model: {error!r}\n{steps[-3000:]}")
    return found


def fuzzed(runs: int, within: float) -> tuple[int, list[str]]:
    """So many inputs for each parser, in a process of their own (its modules are instrumented): how many they were, and
    what they broke."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--runs", str(runs)],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )
    tried = re.search(r"^([0-9]+)\Z", done.stdout.strip(), re.MULTILINE)
    assert tried is not None, f"the fuzzer itself failed: {done.stderr[-3000:]}"
    return int(tried[1]), [unspoken(done.stderr)[-6000:]] if done.returncode else []


def unspoken(said: str) -> str:
    """Without what atheris and libFuzzer say of themselves."""
    return "\n".join(line for line in said.splitlines() if not line.startswith("INFO: "))
