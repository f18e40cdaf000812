"""The dashboard and the alerts in deploy/, as far as they can be judged without Grafana and without a Prometheus.

That they name only metrics which exist is tested where there are some: tests/e2e/test_metrics.py.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
BOARD = ROOT / "deploy" / "grafana.json"
ALERTS = ROOT / "deploy" / "alerts.yaml"


def board() -> dict[str, Any]:
    loaded = json.loads(BOARD.read_text())
    assert isinstance(loaded, dict)
    return loaded


def panels() -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in board()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    """Every alert."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def promtool(*words: str) -> str:
    """What it says; fails when it objects, skips where there is none."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(["promtool", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_accepts_the_rules() -> None:
    """Expressions and templates are well-formed, and none is there twice."""
    assert f"SUCCESS: {len(rules())} rules found" in promtool("check", "rules", str(ALERTS))


def test_alerts_fire_when_they_should_and_no_sooner() -> None:
    """A bad day and a good day, played by promtool."""
    assert "SUCCESS" in promtool("test", "rules", "tests/alerts.yaml")
    named = set(re.findall(r'alertname="(\w+)"', (ROOT / "tests/alerts.yaml").read_text()))
    assert named == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """Whom it is about in one line, what it means and what helps in another; and how urgent it is."""
    assert rule["labels"]["severity"] in ("critical", "warning")
    summary, description = rule["annotations"]["summary"], rule["annotations"]["description"]
    assert "$labels.instance" in summary or "$labels.index" in summary
    assert len(description) > 100
    assert "\n" not in summary.strip()


def test_settings_that_alerts_name_exist() -> None:
    """Whoever is told to raise a limit finds it."""
    from proxy.config import SECTIONS

    text = ALERTS.read_text()
    named = set(re.findall(r"\b(server|cache|limits)\.([a-z_]+)\b", text))
    assert named
    assert all(key in SECTIONS[section].model_fields for section, key in named)


def test_prometheus_accepts_what_the_dashboard_asks(tmp_path: Path) -> None:
    """Every expression, once Grafana has filled in its variables."""
    filled = {"$__rate_interval": "5m", "$__range": "6h"}
    found = []
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in filled.items():
                expression = expression.replace(name, value)
            found.append({"record": f"panel_{panel['id']}_{target['refId']}", "expr": expression})
    path = tmp_path / "dashboard.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": found}]}))
    assert f"SUCCESS: {len(found)} rules found" in promtool("check", "rules", str(path))


def test_the_dashboard_asks_the_data_source_that_is_chosen() -> None:
    """It is a variable, so the file can be imported anywhere; each panel follows it, the job and the instance."""
    variables = {each["name"]: each for each in board()["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["job"]["datasource"] == variables["instance"]["datasource"] == chosen
    for panel in panels():
        assert panel["datasource"] == chosen
        for target in panel["targets"]:
            assert target["datasource"] == chosen
            names = re.findall(r"\b(?:pipcacheproxy|process)_\w+", target["expr"])
            assert names
            assert target["expr"].count('{job=~"$job", instance=~"$instance"') == len(names)


def test_the_dashboard_is_in_order() -> None:
    """Every panel says what it shows, has a number of its own, and lies on no other; within 24 columns."""
    places = []
    numbers = [panel["id"] for panel in board()["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in board()["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        places.append((at["x"], at["y"], at["x"] + at["w"], at["y"] + at["h"]))
    for one, two in combinations(places, 2):
        assert one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1], (one, two)
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_a_legend_names_labels_that_its_expression_keeps() -> None:
    """Grafana shows an empty name for any other."""
    kept_anyway = {"job", "instance"}
    for panel in panels():
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = re.search(r"\bby \(([^)]*)\)", target["expr"])
            summed = re.match(r"(sum|min|max)\(", target["expr"]) is not None
            kept = set(re.findall(r"\w+", grouped[1])) if grouped else set() if summed else None
            if kept is not None:
                assert shown <= kept, (panel["title"], shown - kept)
            else:
                assert shown <= kept_anyway | {"room", "reason", "limit"}, panel["title"]
