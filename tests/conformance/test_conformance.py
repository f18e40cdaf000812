"""The public HTTP cache suite as a gate: so many absolute passes, and no failure but those that are argued."""

from __future__ import annotations

from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

from tests.conformance.expected import OPTIMAL, REQUIRED, failing, reasons
from tests.conformance.suite import SECOND_LOOKS, Case, Outcome, conformance, lacking, origin, run, to_run_again
from tests.conformance.table import PAGE, disagreements, failures, page
from tests.conftest import missing

NOT_PASSED = ("⛔️", "⚠️", "🔹", "⁉️", "⚪️", "↻", "-", "N")


@pytest.fixture(scope="module")
def installed() -> None:
    """Skips (fails in CI) where the suite cannot be run."""
    what = lacking()
    if what is not None:
        missing(what)


@pytest.fixture(scope="module")
def outcome(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The suite's result."""
    return conformance(tmp_path_factory.mktemp("conformance"), failing())


@pytest.mark.slow
def test_enough_cases_pass(outcome: Outcome) -> None:
    """Absolute passes; what was not judged does not count."""
    assert sum(case.passed for case in outcome.of_kind("required")) >= REQUIRED
    assert sum(case.passed for case in outcome.of_kind("optimal")) >= OPTIMAL


@pytest.mark.slow
def test_exactly_the_listed_cases_fail(outcome: Outcome) -> None:
    """A new failure is an error, and so is a reason that has become untrue."""
    assert disagreements(outcome, failing()) == []


@pytest.mark.slow
def test_the_page_is_the_result(outcome: Outcome) -> None:
    """docs/conformance.md says what this tree does: make conformance writes it."""
    assert PAGE.read_text(encoding="utf-8") == page(outcome, reasons())


def test_the_page_lists_what_is_expected_to_fail() -> None:
    """Also without Node: the committed page has the cases and reasons of the committed list."""
    assert PAGE.read_text(encoding="utf-8").endswith("\n".join(["", *failures(reasons()), ""]))


def test_every_case_is_listed_once_with_a_clause() -> None:
    """The list argues: a section of an RFC for each case, a whole sentence, and no case under two of them."""
    cases = [case for reason in reasons() for case in reason.cases]
    assert len(cases) == len(set(cases))
    for reason in reasons():
        assert reason.cases
        assert reason.clause.startswith("RFC ")
        assert "§" in reason.clause
        assert reason.because.endswith(".")


def _case(id: str, mark: str, kind: str = "required") -> Case:
    return Case(id, "some", kind, mark, "")


@pytest.mark.parametrize("mark", NOT_PASSED)
def test_a_case_without_a_pass_must_be_listed(mark: str) -> None:
    """Also one whose setup failed, that depends on a failed one, that was retried, or that has no result."""
    outcome = Outcome((_case("a", mark), _case("b", "✅", "optimal")))
    assert disagreements(outcome, frozenset()) != []
    assert disagreements(outcome, frozenset({"a"})) == []
    assert "| **all** | 0 of 1 | 1 of 1 |" in page(outcome, ())


def test_a_list_that_is_wrong_is_told() -> None:
    """A listed case that passes, and a listed id that is no case."""
    outcome = Outcome((_case("a", "✅"), _case("b", "N", "check")))
    assert disagreements(outcome, frozenset({"a", "c"})) == ["a is listed and passes", "c is listed and no case"]


def test_what_disagrees_is_run_again() -> None:
    """An unlisted failure and a listed pass; not what agrees, not what only asks."""
    cases = [_case("a", "✅"), _case("b", "⛔️"), _case("c", "↻"), _case("d", "✅", "optimal"), _case("e", "N", "check")]
    assert to_run_again(cases, {"b", "d"}) == ("c", "d")


def test_what_is_broken_is_not_run_again() -> None:
    """With very many disagreements the first result stands."""
    assert to_run_again([_case(str(number), "⛔️") for number in range(SECOND_LOOKS + 1)], ()) == ()


def test_the_second_result_counts_and_the_others_stand(installed: None) -> None:
    """Named cases replace what was known of them; the suite's judge then sees all results, also for dependencies."""
    known = {
        "cc-resp-no-store": ["Assertion", "missed its moment"],
        "cc-resp-no-store-fresh": True,
        "cc-resp-no-cache": ["Setup", "retry"],
        "cc-resp-no-cache-revalidate": True,
    }
    with origin() as url:
        cases, results = run(url.rstrip("/"), ["cc-resp-no-store"], known)
    marks = {case.id: case.mark for case in cases}
    assert results == {**known, "cc-resp-no-store": True}
    assert [marks[each] for each in known] == ["✅", "✅", "↻", "⚪️"]


def test_the_origin_leaves_nothing_behind(installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with the context, with all it wrote."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with origin() as url, pytest.raises(HTTPError):
        urlopen(f"{url}no-such-file", timeout=20)
    with pytest.raises(URLError):
        urlopen(url, timeout=20)
    assert list(tmp_path.iterdir()) == []
