"""The result of the suite as Markdown: the same for the same result, with no dates, times or paths."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tests.conformance.expected import OPTIMAL, REQUIRED, Reason
from tests.conformance.suite import HERE, Case, Outcome

PAGE = HERE.parents[1] / "docs" / "conformance.md"
_VERSION = json.loads((HERE / "package.json").read_text())["dependencies"]["http-cache-tests"]
_INTRODUCTION = f"""\
# HTTP caching, by the public test suite

`make conformance` runs the npm package `http-cache-tests` {_VERSION} against the real server and writes this page. The
settings of the `[[mount]]` it goes through add nothing to RFC 9111 (`default_ttl` and `min_reload_interval` 0,
`reload = "honour"`) but `stale_if_error`, 60 s. Passes are counted absolutely: a case that could not be judged, because
its setup or a case it depends on failed, is not passed. CI asks for {REQUIRED} required and {OPTIMAL} optimal passes,
and that exactly the cases below fail. A hundred cases run at a time and some have windows of a second: what disagrees
with the list is run once more, alone, and that result counts. Cases that only ask what a cache does are not counted.
"""


def page(outcome: Outcome, reasons: Sequence[Reason]) -> str:
    """docs/conformance.md: a line for each group of cases, totals, and the failing cases with their reasons."""
    lines = ["| cases | required | optimal |", "|---|---|---|"]
    for suite in dict.fromkeys(case.suite for case in outcome.cases if case.kind != "check"):
        lines.append(_line(suite, [case for case in outcome.cases if case.suite == suite]))
    lines.append(_line("**all**", outcome.cases))
    return "\n".join([_INTRODUCTION, *lines, "", *failures(reasons), ""])


def failures(reasons: Iterable[Reason]) -> list[str]:
    """The part of the page about what fails, line by line."""
    rows = (f"| {_ids(each.cases)} | {each.clause} | {each.because} |" for each in reasons)
    return ["## What fails, and why", "", "| cases | decided by | why |", "|---|---|---|", *rows]


def disagreements(outcome: Outcome, failing: frozenset[str]) -> list[str]:
    """Failures that are not listed, and what is listed but passes or is no case; empty when all is as expected."""
    counted = [case for case in outcome.cases if case.kind != "check"]
    failed = [case for case in counted if not case.passed]
    wrong = [f"{each.id} ({each.kind}) fails: {each.mark} {each.detail}" for each in failed if each.id not in failing]
    wrong += [f"{each.id} is listed and passes" for each in counted if each.passed and each.id in failing]
    return wrong + [f"{each} is listed and no case" for each in sorted(failing - {case.id for case in counted})]


def _ids(cases: Iterable[str]) -> str:
    return "<br>".join(f"`{case}`" for case in cases)


def _line(title: str, cases: Sequence[Case]) -> str:
    return f"| {title} | {_share(cases, 'required')} | {_share(cases, 'optimal')} |"


def _share(cases: Iterable[Case], kind: str) -> str:
    passed = [case.passed for case in cases if case.kind == kind]
    return f"{sum(passed)} of {len(passed)}" if passed else "-"
