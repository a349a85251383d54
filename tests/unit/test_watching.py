"""The dashboard, the alert rules and the page about watching name the figures that there are, and no others."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from door_support import Doors
from prometheus_client.parser import text_string_to_metric_families
from worker_rows import worker_row

from inference_server.tasks.figures import Figure
from inference_server.tasks.record import Problem
from inference_server.tasks.workers import Workers, WorkerState

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS = ROOT / "tests" / "alerts" / "alerts_test.yaml"
PREFIX = "inference_server_"
OF_PROMETHEUS = {"instance", "job"}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, set[str]]]:
    """The labels of every figure of a server on which everything has happened once."""
    doors = Doors(tmp_path_factory.mktemp("doors"))
    doors.finished(report={"timings_s": {"predicting": 1.0}})
    doors.failed(Problem("prediction", "It failed."))
    doors.client.get("/api/v1/tasks/unknown")
    now = doors.store._clock()
    Workers(doors.database).beat(worker_row(beat_at=now), [Figure("warm", "one", "hit")])
    labels: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(doors.client.get("/metrics").text):
        for sample in family.samples:
            labels[sample.name] |= set(sample.labels)
    yield labels
    doors.close()


def expressions() -> dict[str, str]:
    """Return every expression of the dashboard and of the rules, by what it is for."""
    board = json.loads((ROOT / "deploy" / "grafana" / "inference-server.json").read_text())
    shown = {
        f"panel {panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel.get("targets", ())
    }
    groups = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
    return {**shown, **{f"alert {rule['alert']}": rule["expr"] for group in groups for rule in group["rules"]}}


EXPRESSIONS = expressions()


def test_there_are_many() -> None:
    assert len(EXPRESSIONS) > 30


@pytest.mark.parametrize("name", sorted(EXPRESSIONS))
def test_an_expression_names_figures_and_labels_that_there_are(name: str, told: dict[str, set[str]]) -> None:
    expression = EXPRESSIONS[name]
    named = set(re.findall(rf"\b{PREFIX}\w+", expression))
    assert named <= set(told)
    assert named or expression.startswith("up{")
    allowed = set().union(*(told[one] for one in named)) | OF_PROMETHEUS
    grouped = {label for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(", ")}
    assert grouped | set(re.findall(r"[{,]\s*(\w+)\s*[=!]", expression)) <= allowed


def test_the_texts_of_alerts_name_labels_that_their_expressions_keep(told: dict[str, set[str]]) -> None:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        named = set(re.findall(rf"\b{PREFIX}\w+", rule["expr"]))
        grouped = re.findall(r"\bby \(([^)]*)\)", rule["expr"])
        kept = set(grouped[0].split(", ")) if grouped else set().union(*(told[one] for one in named), set())
        assert used <= kept, rule["alert"]
        assert {"summary", "action"} == set(rule["annotations"])


def test_values_of_labels_are_such_as_there_are() -> None:
    from inference_server.errors import all_errors

    codes, states = {error.code for error in all_errors()}, {state.value for state in WorkerState}
    for expression in EXPRESSIONS.values():
        for label, value in re.findall(r'(\w+)=~?"([^"]+)"', expression):
            known = {"code": codes, "state": states, "status": {"finished", "failed", "cancelled"}}.get(label)
            assert known is None or set(value.split("|")) <= known, expression


def test_every_figure_is_described_and_no_other(told: dict[str, set[str]]) -> None:
    page = (ROOT / "docs" / "watching.md").read_text()
    section = page[page.index("## Figures") : page.index("## Dashboard")]
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", section, re.MULTILINE)
    described = {
        name: set(re.findall(r"`(\w+)`", labels)) for names, labels in rows for name in re.findall(r"`(\w+)`", names)
    }
    families = {
        re.sub("_(bucket|count|sum)$", "", name.removeprefix(PREFIX)): labels - {"le"} for name, labels in told.items()
    }
    assert described == families


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    panels: list[dict[str, Any]] = json.loads((ROOT / "deploy" / "grafana" / "inference-server.json").read_text())[
        "panels"
    ]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_promtool_takes_the_rules_and_has_them_fire_when_they_should() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, of the package prometheus, is not installed")
    for words in (
        ("check", "rules", PROMETHEUS / "alerts.yaml"),
        ("check", "config", "--syntax-only", PROMETHEUS / "prometheus.yaml"),
        ("test", "rules", ALERTS),
    ):
        done = subprocess.run([promtool, *words], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_rule_is_shown_to_fire() -> None:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
    shown = yaml.safe_load(ALERTS.read_text())["tests"]
    fired = {test["alertname"] for one in shown for test in one["alert_rule_test"] if test["exp_alerts"]}
    assert fired == {rule["alert"] for group in groups for rule in group["rules"]}


def test_flower_talks_to_the_broker_of_the_server_and_is_in_its_image() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    flower, api = services["flower"], services["api"]
    assert flower["environment"]["CELERY_BROKER_URL"] == api["environment"][f"{PREFIX.upper()}BROKER_URL"]
    assert (flower["image"], flower["profiles"], flower["networks"]) == (api["image"], ["flower"], ["inside"])
    assert "flower" in re.findall(r"\.whl\[([a-z,0-9]+)\]", (ROOT / "api.Dockerfile").read_text())[0].split(",")
    assert "ports" not in flower
