"""What the operator's benchmark puts into the cluster: jobs that are valid, bare pods, leaders that count on."""

from __future__ import annotations

import asyncio
import json

import pytest

from bench.operator import finished, load
from bench.operator.leaders import SAVE_STEPS, Leader
from windlass.api.contract import MemberReport, Report
from windlass.api.meta import ConditionType
from windlass.api.status import JobStatus
from windlass.api.validation import validate
from windlass.core.settings import RenderSettings
from windlass.core.status.conditions import is_true

SETTINGS = RenderSettings(workload_image="workload:test", report_url="https://h.ns.svc:8443/v1", ca_pem="CA")


@pytest.mark.parametrize("nodes", [1, 8])
def test_jobs_of_the_benchmark_are_valid(nodes: int) -> None:
    assert list(validate(load.job_body("job-00001", nodes))) == []


def test_bare_pods_are_those_of_the_operator_but_nobodys() -> None:
    pods = [json.loads(body) for body in load.bare_pods("job-00001", "bare", 8, SETTINGS)]
    assert [pod["metadata"]["name"] for pod in pods] == [
        f"job-00001-{index}-{index + 1}" for index in range(8)
    ]
    for pod in pods:
        assert pod["kind"] == "Pod" and "ownerReferences" not in pod["metadata"]
        assert pod["metadata"]["namespace"] == "bare"
        assert pod["metadata"]["labels"]["windlass.dev/run"] == "job-00001"
        assert {volume["name"] for volume in pod["spec"]["volumes"]} >= {"config", "claim-0"}


def test_names_are_unique_and_sort_by_number() -> None:
    names = load.job_names(1200)
    assert sorted(set(names)) == names and len(names) == 1200


async def test_each_keeps_order_and_its_limit() -> None:
    at_once = [0, 0]

    async def work(number: int) -> int:
        at_once[0] += 1
        at_once[1] = max(at_once)
        for _ in range(number % 3):
            await asyncio.sleep(0)
        at_once[0] -= 1
        return number * 2

    assert await load.each(range(50), work, at_once=4) == [number * 2 for number in range(50)]
    assert at_once[1] == 4
    assert await load.each([], work) == []


async def test_waiting_takes_plain_and_asynchronous_looks() -> None:
    looks: list[int] = []

    def plain() -> int:
        looks.append(1)
        return len(looks) // 3

    async def slow() -> str:
        return "yes"

    assert await load.wait_for(plain, "three looks", 5, every=0) == 1
    assert await load.wait_for(slow, "an answer", 5, every=0) == "yes"
    with pytest.raises(AssertionError, match="never: not within 0 s"):
        await load.wait_for(lambda: False, "never", 0, every=0)


def leader() -> Leader:
    member = MemberReport(index=0, pod="job-0-1", pod_uid="p", ready=True)
    return Leader("job", "u", "job-0-1", "token", [member], 1, 1, "p", "bench")


def test_a_leader_counts_its_reports_and_keeps_its_newest_checkpoints() -> None:
    played = leader()
    first = Report.model_validate_json(played.report())
    for number in range(1, 6):
        assert played.save() == number * SAVE_STEPS
    last = Report.model_validate_json(played.report(wanted="RecreateGang"))
    assert (first.sequence, last.sequence) == (1, 2)
    assert first.checkpoints == [] and first.wanted == "Nothing"
    assert [row.step for row in last.checkpoints] == [30, 40, 50]
    assert (last.wanted, last.progress.step, last.incarnation) == ("RecreateGang", 50, 1)


def test_an_ended_job_reads_as_one_that_came_to_its_success() -> None:
    status = JobStatus.model_validate(finished.ended_status(8))
    assert is_true(status.conditions, ConditionType.COMPLETE)
    assert status.finished_at is not None and len(status.gang.members) == 8
    assert finished.ended_status(8).keys() <= status.to_wire().keys(), "nothing of it is unknown to the kind"
    assert [row.step for row in status.checkpoints] == [20, 30, 40]
