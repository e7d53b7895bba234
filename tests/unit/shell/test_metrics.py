"""Metrics: their names and page, numbers of jobs, and recoveries counted once."""

from __future__ import annotations

from typing import Any

from contract.server import ROOT
from windlass.shell.metrics import DOCUMENT, Metrics, document


def job(**status: Any) -> dict[str, Any]:
    return {
        "kind": "FineTuneJob",
        "metadata": {"name": "ft", "namespace": "team", "uid": "u"},
        "status": status,
    }


def sample(metrics: Metrics, start: str) -> list[str]:
    return [line for line in metrics.render().decode().splitlines() if line.startswith(start)]


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / DOCUMENT).read_text() == document(), "run python -m windlass.shell.metrics"


def test_the_page_has_every_name_that_is_served() -> None:
    metrics = Metrics()
    metrics.show_jobs(list, lambda: True)
    page = document()
    for line in metrics.render().decode().splitlines():
        if line.startswith("# TYPE ") and not line.split()[2].endswith("_created"):
            name = line.split()[2]
            assert f"`{name}`" in page or name.startswith("process_"), name


def test_numbers_of_jobs_come_from_status_on_the_leader_only() -> None:
    metrics, leading = Metrics(), [True]
    body = job(
        progress={"step": 7, "loss": 1.5, "tokensPerSecond": 100.0},
        goodput={"ratio": 0.9, "lostSteps": 3},
        counters={"restarts": 2},
        conditions=[
            {"type": "Ready", "status": "True", "reason": "Training"},
            {"type": "Stalled", "status": "False", "reason": "AsExpected"},
        ],
    )
    metrics.show_jobs(lambda: [body], lambda: leading[0])
    labels = '{kind="FineTuneJob",name="ft",namespace="team"}'
    text = metrics.render().decode()
    for name, value in [
        ("windlass_job_step", "7.0"),
        ("windlass_job_loss", "1.5"),
        ("windlass_job_goodput_ratio", "0.9"),
        ("windlass_job_lost_steps_total", "3.0"),
        ("windlass_job_restarts_total", "2.0"),
        ("windlass_job_tokens_per_second", "100.0"),
    ]:
        assert f"{name}{labels} {value}" in text
    assert len(sample(metrics, "windlass_job_condition{")) == 1
    leading[0] = False
    assert sample(metrics, "windlass_job_step{") == []


def test_a_job_without_numbers_has_no_samples() -> None:
    metrics = Metrics()
    metrics.show_jobs(lambda: [job()], lambda: True)
    assert sample(metrics, "windlass_job_") == []


def test_recoveries_are_counted_once_and_not_those_before_our_time() -> None:
    metrics = Metrics()
    row = {"incarnation": 2, "rung": "InPlace", "class": "Crash"}
    metrics.count_recoveries(job(recoveries=[row]))
    assert sample(metrics, "windlass_job_recoveries_total") == []
    rows = [row, row | {"incarnation": 3}, row | {"incarnation": 4, "rung": "RecreatePod"}]
    for _ in range(3):
        metrics.count_recoveries(job(recoveries=rows))
    start = (
        'windlass_job_recoveries_total{failure_class="Crash",kind="FineTuneJob",name="ft",namespace="team"'
    )
    assert sorted(sample(metrics, "windlass_job_recoveries_total")) == [
        f'{start},rung="InPlace"}} 1.0',
        f'{start},rung="RecreatePod"}} 1.0',
    ]
    metrics.forget(job())
    assert sample(metrics, "windlass_job_recoveries_total") == []


def test_no_label_carries_a_uid() -> None:
    assert "uid" not in document().lower()


def test_money_is_shown_with_its_currency_and_only_where_there_is_a_price_list() -> None:
    metrics = Metrics()
    cost = {"currency": "EUR", "total": "12.345678", "wasted": "0.5", "wastedAcceleratorSeconds": 400.0}
    priced, free = job(cost=cost), job(progress={"step": 1})
    free["metadata"]["name"] = "free"
    metrics.show_jobs(lambda: [priced, free], lambda: True)
    assert sample(metrics, "windlass_job_cost") == [
        'windlass_job_cost{currency="EUR",kind="FineTuneJob",name="ft",namespace="team"} 12.345678',
        'windlass_job_cost_wasted{currency="EUR",kind="FineTuneJob",name="ft",namespace="team"} 0.5',
    ]
