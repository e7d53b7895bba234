"""The demo's own judgement: when accidents happen, what counts as the same run, what the numbers must show."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unit.cli.fakes import FakeAccess, pod
from windlass.api.meta import Rung
from windlass.cli.demo import samples, scoring, summary, training, volumes
from windlass.cli.demo.command import provider, rolled_out
from windlass.cli.demo.faults import Saboteur, due
from windlass.cli.errors import CliError
from windlass.core.observed import parse_status

ROOT = Path(__file__).resolve().parents[3]
CHECKPOINT = {"step": 8, "incarnation": 1, "name": "step-8", "digest": "d"}


def status(step: int, *rungs: str, phase: str = "Train", checkpoints: int = 1) -> dict[str, Any]:
    rows = [{"incarnation": 2, "rung": rung, "class": "Crash"} for rung in rungs]
    return {
        "progress": {"step": step, "totalSteps": 64, "phase": phase},
        "checkpoints": [CHECKPOINT] * checkpoints,
        "recoveries": rows,
    }


def test_root_gets_the_cluster_that_the_demo_is_run_on() -> None:
    assert (provider(0), provider(1000)) == ("embedded", "auto")


@pytest.mark.parametrize(
    ("seen", "killed", "deleted", "expected"),
    [
        (status(8), False, False, None),
        (status(20), False, False, Rung.IN_PLACE),
        (status(20, checkpoints=0), False, False, None),
        (status(20, phase="Load"), False, False, None),
        (status(20), True, False, None),
        (status(60), True, False, None),
        (status(30, "InPlace"), True, False, None),
        (status(40, "InPlace"), True, False, Rung.RECREATE_POD),
        (status(40, "InPlace"), False, False, Rung.RECREATE_POD),
        (status(50, "InPlace"), True, True, None),
        (status(50, "RecreatePod", "InPlace"), True, True, None),
        ({}, False, False, None),
    ],
    ids=range(12),
)
def test_accidents_come_one_after_the_other_and_once(
    seen: dict[str, Any], killed: bool, deleted: bool, expected: Rung | None
) -> None:
    assert due(parse_status(seen), killed=killed, deleted=deleted) == expected


def look(access: FakeAccess, saboteur: Saboteur, seen: dict[str, Any]) -> None:
    saboteur.look({"metadata": {"namespace": "team"}}, parse_status(seen))


def test_the_rank_of_the_second_pod_is_killed_once() -> None:
    access = FakeAccess(pods=[pod("a-0-1", 0), pod("a-1-2", 1)])
    saboteur = Saboteur(access, "a")  # type: ignore[arg-type]
    for _ in range(3):
        look(access, saboteur, status(20))
    assert [(name, command[0]) for name, command in access.ran] == [("a-1-2", "/env/python")]


def test_a_kill_that_found_no_rank_is_tried_again() -> None:
    access = FakeAccess(pods=[pod("a-1-2", 1)])
    access.said = ""
    saboteur = Saboteur(access, "a")  # type: ignore[arg-type]
    look(access, saboteur, status(20))
    access.said = "killed 7"
    look(access, saboteur, status(20))
    look(access, saboteur, status(20))
    assert len(access.ran) == 2


def test_only_a_running_pod_that_is_not_leaving_is_deleted() -> None:
    pods = [pod("a-1-2", 1, leaving=True), pod("a-1-3", 1, phase="Pending")]
    access = FakeAccess(pods=pods)
    saboteur = Saboteur(access, "a")  # type: ignore[arg-type]
    look(access, saboteur, status(45, "InPlace"))
    assert access.deleted == []
    access._pods = [*pods, pod("a-1-4", 1)]
    look(access, saboteur, status(45, "InPlace"))
    assert access.deleted == ["a-1-4"]


@pytest.mark.parametrize(
    ("whole", "part", "expected"),
    [
        ({"a": 1, "default": True}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": {"b": [1, {"c": 2, "d": 3}]}}, {"a": {"b": [1, {"c": 2}]}}, True),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": "1"}, {"a": 1}, False),
    ],
)
def test_the_same_spec_with_defaults_is_the_same_run(whole: Any, part: Any, expected: bool) -> None:
    assert training.contains(whole, part) is expected


def test_a_finished_or_leaving_job_is_not_followed_on() -> None:
    wanted = {"spec": {"a": 1}}
    moment = "2026-01-01T00:00:00Z"
    done = {"type": "Complete", "status": "True", "reason": "Completed", "lastTransitionTime": moment}
    assert training.same_run({"metadata": {}, "spec": {"a": 1}}, wanted)
    assert not training.same_run({"metadata": {}, "spec": {"a": 1}, "status": {"conditions": [done]}}, wanted)
    assert not training.same_run({"metadata": {"deletionTimestamp": "x"}, "spec": {"a": 1}}, wanted)


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def test_own_rows_of_both_forms_become_chat(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", CHAT, "", {"instruction": "do", "input": "this", "output": "done"})
    assert samples.read(path) == [
        CHAT,
        {"messages": [{"role": "user", "content": "do\n\nthis"}, {"role": "assistant", "content": "done"}]},
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{not json", "x.jsonl:2: is not JSON"),
        ({"text": "x"}, "x.jsonl:2: is neither a chat nor an instruction"),
        ({"messages": [{"role": "user", "content": "q"}]}, "is neither"),
        ({"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": "a"}]}, "is neither"),
        ([1], "is neither"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(CliError, match=said):
        samples.read(jsonl(tmp_path / "x.jsonl", CHAT, row))


def test_own_data_is_split_without_overlap_and_in_the_same_way_twice(tmp_path: Path) -> None:
    rows = [{"instruction": f"q{number}", "output": "a"} for number in range(100)]
    path = jsonl(tmp_path / "x.jsonl", *rows)
    first, second = samples.own(path, tmp_path / "one"), samples.own(path, tmp_path / "two")
    train, held_out = samples.read(first.train), samples.read(first.held_out)
    assert (len(train), len(held_out)) == (80, 20)
    assert not {json.dumps(row) for row in train} & {json.dumps(row) for row in held_out}
    assert first.train.read_text() == second.train.read_text()


def test_too_few_own_rows_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"--data: too few rows \(got 1 in .*\); allowed: 50 or more"):
        samples.own(jsonl(tmp_path / "x.jsonl", CHAT), tmp_path / "out")
    with pytest.raises(CliError, match="--data: cannot be read"):
        samples.read(tmp_path / "nowhere.jsonl")


def test_equal_inputs_are_scored_once_and_others_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[bool] = []

    def run(script: Path, model: Path, found: samples.Samples, *, out: Path, shots: bool, limit: int) -> None:
        runs.append(shots)
        out.write_text('{"whole": {}}')

    monkeypatch.setattr(scoring, "run", run)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "score.py").write_text("")
    found = samples.Samples(jsonl(tmp_path / "t", CHAT), jsonl(tmp_path / "h", CHAT))

    def score(shots: bool = True) -> None:
        scoring.score(
            tmp_path / "score.py", tmp_path / "model", found, keep=tmp_path / "kept", shots=shots, limit=8
        )

    score()
    score()
    assert runs == [True]
    score(shots=False)
    (tmp_path / "model" / "config.json").write_text('{"a": 1}')
    score()
    jsonl(found.held_out, CHAT, CHAT)
    score()
    assert runs == [True, False, True, True]


def test_copy_writes_what_differs_and_leaves_the_rest(tmp_path: Path) -> None:
    source, target = tmp_path / "from", tmp_path / "to"
    (source / "sub").mkdir(parents=True)
    (source / "same").write_text("1")
    (source / "sub" / "other").write_text("22")
    volumes.copy(source, target)
    before = (target / "same").stat().st_ino
    (source / "sub" / "other").write_text("33")
    volumes.copy(source, target)
    assert (target / "same").stat().st_ino == before
    assert (target / "sub" / "other").read_text() == "33"
    assert (target / "sub" / "other").stat().st_mode & 0o777 == 0o644


def test_the_loader_pod_passes_restricted_and_mounts_the_claim_writable() -> None:
    mounts = [{"claim": "usr", "mountPath": "/usr"}, {"claim": "usr", "mountPath": "/x", "subPath": "s"}]
    loader = {"image": "i", "python": "/p", "pullPolicy": "Never", "mounts": mounts}
    spec = volumes.loader_manifest("loader-1", "models", loader)["spec"]
    container = spec["containers"][0]
    assert spec["securityContext"]["runAsNonRoot"] and container["securityContext"]["capabilities"] == {
        "drop": ["ALL"]
    }
    assert [volume["name"] for volume in spec["volumes"]] == ["target", "usr"]
    assert [mount.get("readOnly", False) for mount in container["volumeMounts"]] == [False, True, True]
    assert container["volumeMounts"][2]["subPath"] == "s"


def score(correct: int, low: float, high: float) -> dict[str, Any]:
    whole = {"correct": correct, "total": 240, "accuracy": correct / 240, "low": low, "high": high}
    return {"whole": whole, "fields": {"category": whole}, "majority": {"category": 0.2}}


def finished_job() -> dict[str, Any]:
    moment = "2026-01-01T00:0%d:00Z"
    seconds = {"detect": 0.1, "total": 2.0}
    row = {
        "incarnation": 2,
        "class": "Crash",
        "fromStep": 20,
        "resumedStep": 16,
        "lostSteps": 4,
        "seconds": seconds,
    }
    return {
        "metadata": {"name": "a"},
        "spec": {"checkpoint": {"everySteps": 8}},
        "status": {
            "startedAt": moment % 1,
            "finishedAt": moment % 6,
            "progress": {"step": 64, "loss": 0.01},
            "checkpoints": [CHECKPOINT],
            "recoveries": [{**row, "rung": "InPlace"}, {**row, "rung": "RecreatePod", "lostSteps": 0}],
            "goodput": {"ratio": 0.9, "lostSteps": 4},
            "output": {"uri": "pvc://c/x", "registeredModel": "triage", "modelVersion": "2"},
            "tracking": {"runId": "r1", "url": "http://mlflow/r1"},
        },
    }


def measured(**changes: Any) -> summary.Measured:
    values: dict[str, Any] = {
        "base": score(6, 0.01, 0.05),
        "tuned": score(180, 0.69, 0.8),
        "losses": [1.9, 0.01],
        "seconds": {"training": 300.0},
        "setup_seconds": 60.04,
        "faults": True,
    }
    return summary.Measured(**values | changes)


PROMISED_KEYS = (
    "baseAccuracy",
    "tunedAccuracy",
    "recoveries",
    "goodput",
    "mlflowRunId",
    "registeredModel",
    "checkpointDigest",
    "setupSeconds",
    "trainSeconds",
)


def test_the_document_has_every_promised_key_measured() -> None:
    made = summary.document(finished_job(), measured())
    assert all(made[key] is not None for key in PROMISED_KEYS)
    parts = {"detect", "decide", "stop", "place", "rendezvous", "load", "firstStep", "total"}
    assert all(parts <= set(row["seconds"]) for row in made["recoveries"])
    assert {"rung", "fromStep", "resumedStep", "lostSteps"} <= set(made["recoveries"][0])
    assert made["trainSeconds"] == 300.0 and made["registeredModel"] == "triage/2"
    assert summary.shortcomings(made, faults=True) == []
    json.dumps(made)


def test_what_was_not_measured_is_null_and_not_invented() -> None:
    made = summary.document(
        {"metadata": {"name": "a"}, "spec": {"checkpoint": {}}, "status": {}}, measured(losses=[])
    )
    assert [
        made[key] for key in ("mlflowRunId", "registeredModel", "checkpointDigest", "trainSeconds", "goodput")
    ] == [None] * 5
    assert "MLflow run      -" in summary.table(made)


def test_each_shortcoming_is_told() -> None:
    made = summary.document(finished_job(), measured(tuned=score(10, 0.02, 0.08)))
    made["recoveries"][0]["lostSteps"] = 10
    made["recoveries"].pop()
    made["mlflowRunId"] = None
    assert summary.shortcomings(made, faults=True) == [
        "the tuned model's interval is not above the base model's",
        "mlflowRunId was not measured",
        "expected an InPlace and a RecreatePod recovery (got InPlace)",
        "InPlace lost 10 steps (allowed: one checkpoint interval + 1 = 9)",
    ]


def test_the_table_shows_the_numbers_a_reader_looks_for() -> None:
    said = summary.table(summary.document(finished_job(), measured()))
    assert "tuned            75.0% of 240 held-out answers right (95 %: 69.0% to 80.0%)" in said
    assert "loss            1.900 -> 0.010" in said
    assert "RecreatePod     step 20 -> 16, 0 lost, 2.0 s (detect 0.1" in said
    assert "training        5 min 00 s, set up in 1 min 00 s" in said


@pytest.mark.parametrize(
    ("counts", "generation", "expected"),
    [
        ((2, 2, 2), 3, True),
        ((1, 2, 3), 3, False),
        ((2, 1, 2), 3, False),
        ((2, 2, 3), 3, False),
        ((None, None, None), 3, False),
        ((2, 2, 2), 4, False),
    ],
)
def test_a_deployment_is_ready_when_only_new_pods_are_left(
    counts: tuple[int | None, ...], generation: int, expected: bool
) -> None:
    status = SimpleNamespace(
        observed_generation=3, updated_replicas=counts[0], ready_replicas=counts[1], replicas=counts[2]
    )
    metadata = SimpleNamespace(generation=generation)
    deployment = SimpleNamespace(metadata=metadata, spec=SimpleNamespace(replicas=2), status=status)
    assert rolled_out(deployment) is expected
