"""What a run of ``make bench`` is judged by, and how it is written down."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.bench.pressure import Loaded, check, script
from tests.bench.report import chart, markdown
from tests.bench.verdicts import NGINX, OURS, STATIC, Bound, Line, verdict


def line(ours: float, nginx: float | None, *, more: bool, limit: float = 1.0, against: str | None = NGINX) -> Line:
    values = {OURS: [ours, ours * 2, ours / 2], NGINX: [] if nginx is None else [nginx]}
    return Line("pages <fast>", "u", more, (Bound(limit, against),), (), values)


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (line(100, 100, more=True), "met"),
        (line(86, 100, more=True), "met with slack"),
        (line(84, 100, more=True), "missed"),
        (line(100, 100, more=False), "met"),
        (line(114, 100, more=False), "met with slack"),
        (line(116, 100, more=False), "missed"),
        (line(59, 100, more=False, limit=0.6), "met"),
        (line(2.4, None, more=False, limit=2.5, against=None), "met"),
        (line(3.0, None, more=False, limit=2.5, against=None), "missed"),
        (line(100, None, more=True), "not measured"),
    ],
)
def test_a_bound_is_met_up_to_the_slack_and_no_further(measured: Line, expected: str) -> None:
    assert verdict(measured, measured.must) == expected


def test_of_several_bounds_the_worst_counts() -> None:
    both = (Bound(1.0, NGINX), Bound(3.0, STATIC))
    values = {OURS: [100.0], NGINX: [50.0], STATIC: [90.0]}
    assert verdict(Line("a", "", True, both, (), values), both) == "missed"
    assert verdict(Line("a", "", True, both, (), {OURS: [100.0], NGINX: [50.0]}), both) == "not measured"
    assert verdict(Line("a", "", True, (), (), values), ()) == "no bound"


def test_the_page_holds_medians_spread_ratio_and_what_is_missing() -> None:
    text = markdown([line(100, 50, more=True)], {"machine": "2 cores"}, {"peer": "no wheel"})
    row = next(each for each in text.splitlines() if each.startswith("| pages"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:3] == [">= 1x nginx", ""]
    assert cells[3:] == ["100 u (50 to 200, n=3)", "50 u (50 to 50, n=1)", "2.00x", "met", "no bound"]
    assert "- machine: 2 cores" in text
    assert "- not measured: peer: no wheel" in text


def test_the_chart_is_svg_and_a_longer_bar_is_better() -> None:
    lines = [line(50, 100, more=False), line(50, 100, more=True), line(1, None, more=True)]
    drawn = ElementTree.fromstring(chart(lines))
    space = "{http://www.w3.org/2000/svg}"
    less, more = (float(bar.attrib["width"]) for bar in drawn.iter(f"{space}rect"))
    assert less == pytest.approx(4 * more, abs=0.5)
    words = [each.text for each in drawn.iter(f"{space}text")]
    assert {"2.00x", "0.50x", "pages <fast>"} <= set(words)


@pytest.mark.parametrize(
    ("received", "failed", "right"),
    [(105_000, 0, True), (99_999, 0, False), (105_000, 1, False), (9_000_000, 0, False)],
)
def test_a_load_with_a_wrong_answer_is_no_figure(received: float, failed: int, right: bool) -> None:
    loaded = Loaded(requests=100, seconds=1, received=received, failed=failed, p50=1, p99=2)
    if right:
        check(loaded, 1000, 16)
    else:
        with pytest.raises(AssertionError):
            check(loaded, 1000, 16)


def test_only_a_differing_client_writes_each_question_anew() -> None:
    assert "wrk.format" not in script({"Accept": 'a"b'})
    assert 'wrk.headers["Accept"] = "a\\"b"' in script({"Accept": 'a"b'})
    assert 'wrk.headers["X-Request-Id"]' in script({}, "id")
