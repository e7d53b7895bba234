"""Dashboard and alert rules: rendered on demand, and every expression speaks of metrics and labels that exist."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest

from chart.test_chart import CHART, ROOT, of_kind, render
from windlass.api.meta import ConditionType
from windlass.shell.run_metrics import PHASES

DOCS = "https://docs.example.com/windlass"
ALERTS = {
    "metrics": {"alerts": {"enabled": True, "runbooks": f"{DOCS}/", "labels": {"release": "prometheus"}}}
}
DASHBOARD = {"metrics": {"dashboard": {"enabled": True}}}

# --- a small reader of PromQL -----------------------------------------------------------------------

TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<range>\[\d+[smhd]\])|(?P<number>\d+(?:\.\d+)?)"""
    r"""|(?P<word>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<sign>==|!=|>=|<=|=~|!~|[-+*/=<>(){},]))"""
)
FUNCTIONS = {"sum", "max", "rate", "increase", "histogram_quantile", "absent"}
KEYWORDS = {"by", "on", "and", "or", "unless"}
CLOSES = {")": "(", "}": "{"}
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}


def tokens(text: str) -> list[tuple[str, str]]:
    """(kind, text) of each token; fails where the text is none, or brackets do not match."""
    found, position, opened = [], 0, []
    while position < len(text.rstrip()):
        match = TOKEN.match(text, position)
        assert match and match.lastgroup, f"no PromQL at {text[position : position + 20]!r}"
        kind, value = match.lastgroup, match[match.lastgroup]
        if kind == "sign" and value in "({":
            opened.append(value)
        if kind == "sign" and value in CLOSES:
            assert opened and opened.pop() == CLOSES[value], f"{value} closes nothing in {text!r}"
        found.append((kind, value))
        position = match.end()
    assert opened == [], f"left open in {text!r}"
    return found


def reading(text: str) -> tuple[dict[str, set[str]], set[str]]:
    """Metrics with the labels that select them, and labels named by `by` and `on`. Fails on an unknown function."""
    metrics: dict[str, set[str]] = {}
    grouped: set[str] = set()
    last, inside = "", ""
    row = tokens(text)
    for index, (kind, value) in enumerate(row):
        after = row[index + 1][1] if index + 1 < len(row) else ""
        if kind == "sign" and value in "{}":
            inside = "{" if value == "{" else ""
        elif kind == "sign" and value == ")" and inside == "group":
            inside = ""
        elif kind != "word":
            continue
        elif inside == "{":
            metrics[last].add(value)
        elif inside == "group":
            grouped.add(value)
        elif value in ("by", "on"):
            inside = "group"
        elif value in KEYWORDS:
            continue
        elif after in ("(", "by"):
            assert value in FUNCTIONS, f"unknown function {value}"
        else:
            last = value
            metrics.setdefault(value, set())
    return metrics, grouped


@cache
def served() -> dict[str, set[str]]:
    """Every name that can be asked for, with its labels, from the page that the metrics' own test holds true."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "docs" / "reference" / "metrics.md").read_text().splitlines():
        if line.startswith("| `"):
            name, kind, labels, _ = (cell.strip() for cell in line.strip("|").split("|", 3))
            own = set() if labels == "—" else set(labels.split(", "))
            for suffix in SUFFIXES.get(kind, ("",)):
                found[name.strip("`") + suffix] = own | ({"le"} if suffix == "_bucket" else set())
    return found


def check(text: str) -> None:
    metrics, grouped = reading(text)
    known = served()
    assert metrics, f"{text!r} asks for nothing"
    for name, labels in metrics.items():
        assert name in known, f"{name} is not served"
        assert labels <= known[name], f"{name} has no {labels - known[name]}"
    assert grouped <= set().union(*(known[name] for name in metrics)), f"unknown labels in {text!r}"


@pytest.mark.parametrize(
    "wrong",
    [
        "sum(windlass_job_step",
        "windlass_job_step)",
        "windlass_job_steps",
        'windlass_job_step{pod="a"}',
        "sum by (colour) (windlass_job_step)",
        "averageish(windlass_job_step)",
        "windlass_recovery_seconds",
        "windlass_job_step ; drop",
        "1 > 0",
        'windlass_job_step{name="a)',
    ],
)
def test_the_reader_refuses(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check(wrong)


# --- alert rules ------------------------------------------------------------------------------------


@cache
def alerts() -> list[dict[str, Any]]:
    rule = of_kind(render(ALERTS), "PrometheusRule")[0]
    return [alert for group in rule["spec"]["groups"] for alert in group["rules"]]


def test_nothing_of_it_is_there_by_default() -> None:
    kinds = {row["kind"] for row in render()}
    assert kinds.isdisjoint({"PrometheusRule", "PodMonitor"})
    assert of_kind(render(), "ConfigMap", "dashboard") == []


def test_rules_carry_the_labels_that_prometheus_selects() -> None:
    labels = of_kind(render(ALERTS), "PrometheusRule")[0]["metadata"]["labels"]
    assert labels["release"] == "prometheus" and labels["app.kubernetes.io/name"] == "windlass"


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_alert_asks_for_what_is_served_and_tells_people_enough(alert: dict[str, Any]) -> None:
    check(alert["expr"])
    assert alert["labels"]["severity"] in {"info", "warning", "critical"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert all(len(text) > 20 for text in alert["annotations"].values())
    assert re.fullmatch(r"\d+[mh]", alert.get("for", "1m"))


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_labels_in_texts_are_there_when_the_alert_fires(alert: dict[str, Any]) -> None:
    metrics, grouped = reading(alert["expr"])
    first = served()[next(iter(metrics))]
    used = {label for text in alert["annotations"].values() for label in re.findall(r"\$labels\.(\w+)", text)}
    plain = not re.search(r"\b(sum|max|absent)\b", alert["expr"].split(" and ")[0])
    assert used <= (first if plain else grouped)


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_runbooks_are_pages_of_this_repository(alert: dict[str, Any]) -> None:
    url = alert["annotations"]["runbook_url"]
    assert url.startswith(f"{DOCS}/")
    page = url.removeprefix(f"{DOCS}/")
    if not page.startswith("failures/"):
        # An alert about the operator has no failure page: the guide says by its name what to look at.
        assert page == "guides/monitoring.md"
        assert f"| {alert['alert']} |" in (ROOT / "docs" / page).read_text()
        return
    if "$labels" not in page:
        assert (ROOT / "docs" / page).is_file()
        return
    assert page == "failures/{{ $labels.reason }}.md"
    selected = re.findall(r'type=~?"([^"]+)"', alert["expr"])
    types = {str(kind) for kind in ConditionType for pattern in selected if re.fullmatch(pattern, kind)}
    assert types, "the alert is about no condition that there is"


def test_names_of_alerts_are_unique() -> None:
    names = [alert["alert"] for alert in alerts()]
    assert len(names) == len(set(names)) >= 9


def test_rules_without_a_place_for_runbooks_are_refused() -> None:
    with pytest.raises(helm.HelmError, match=r"metrics\.alerts\.runbooks"):
        render({"metrics": {"alerts": {"enabled": True}}})
    with pytest.raises(helm.HelmError, match="runbooks"):
        helm.Chart.load(CHART).validate_schema({"metrics": {"alerts": {"runbooks": "our wiki"}}})


# --- dashboard --------------------------------------------------------------------------------------


@cache
def dashboard() -> dict[str, Any]:
    return json.loads(of_kind(render(DASHBOARD), "ConfigMap", "dashboard")[0]["data"]["windlass.json"])


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def test_the_dashboard_arrives_whole_under_the_sidecars_label() -> None:
    found = of_kind(render(DASHBOARD), "ConfigMap", "dashboard")[0]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboard() == json.loads((CHART / "files" / "dashboard.json").read_text())
    other = {"metrics": {"dashboard": {"enabled": True, "labels": {"find-me": "yes"}}}}
    assert of_kind(render(other), "ConfigMap", "dashboard")[0]["metadata"]["labels"]["find-me"] == "yes"


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_panel_asks_for_what_is_served(panel: dict[str, Any]) -> None:
    assert panel["description"] and panel["targets"]
    for target in panel["targets"]:
        check(target["expr"])
        metrics, grouped = reading(target["expr"])
        labels = set().union(*(served()[name] for name in metrics))
        shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert shown <= (grouped or labels), target["legendFormat"]


def test_variables_ask_for_what_is_served() -> None:
    for one in dashboard()["templating"]["list"]:
        if one["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", one["definition"]).groups()
            check(selector)
            assert label in served()[next(iter(reading(selector)[0]))]
            assert one["query"]["query"] == one["definition"]


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    every = dashboard()["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_metric_of_a_job_is_on_the_dashboard_or_in_a_rule() -> None:
    texts = [target["expr"] for panel in panels() for target in panel["targets"]]
    asked = {name for text in (*texts, *(alert["expr"] for alert in alerts())) for name in reading(text)[0]}
    assert {name for name in served() if name.startswith("windlass_job_")} - asked == set()


def test_phases_that_rules_name_are_phases() -> None:
    named = {found for alert in alerts() for found in re.findall(r'phase="(\w+)"', alert["expr"])}
    assert named and named <= set(PHASES.values())


def test_the_files_are_small_enough_for_their_objects() -> None:
    assert Path(CHART / "files" / "dashboard.json").stat().st_size < 200_000
