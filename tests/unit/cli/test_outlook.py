"""windlass plan about time, money and claims: what is known, and for the rest that it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from unit.cli.test_offline import EXAMPLE, job, write, write_text
from windlass.cli.main import main

PRICES = {"currency": "EUR", "perHour": {"cpu": "0.5", "memoryGiB": "0.25", "nvidia.com/gpu": "2"}}
SIZE = {"nodes": 2, "perNode": {"cpu": "2", "memory": "4Gi"}}
STEPS = {"globalBatchSize": 16, "maxSteps": 3600}


def plan(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["plan", *options]) == 0
    return capsys.readouterr().out


def line(said: str, name: str) -> str:
    return next(text.strip() for text in said.splitlines() if text.split()[:1] == [name])


def sized(path: Path, **spec: Any) -> str:
    return write(path / "job.yaml", job(**{"resources": SIZE, "training": STEPS, **spec}))


def priced(path: Path, document: Any = None) -> str:
    return write_text(path / "prices.yaml", yaml.safe_dump(document or {"prices": PRICES}))


def test_a_spec_has_no_speed_and_the_plan_says_where_to_find_it(capsys: pytest.CaptureFixture[str]) -> None:
    said = plan(capsys, "-f", str(EXAMPLE))
    assert line(said, "duration").startswith("duration       not known before steps are measured; ")
    assert "etaLowSeconds and etaHighSeconds" in said and "--step-seconds" in said
    assert "cost" not in said


@pytest.mark.parametrize(
    ("option", "band"),
    [
        ("1", "1 h 00 min"),
        ("2", "2 h 00 min"),
        ("0.5", "30 min 00 s"),
        ("1.5-2", "1 h 30 min to 2 h 00 min"),
        ("0.01-0.02", "36 s to 1 min 12 s"),
    ],
)
def test_measured_steps_give_a_duration_with_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, band: str
) -> None:
    said = line(plan(capsys, "-f", sized(tmp_path), "--step-seconds", option), "duration")
    assert (
        said == f"duration       {band} for the steps; starting, saves, validation and failures come on top"
    )


def test_without_steps_there_is_no_duration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sized(tmp_path, training={"globalBatchSize": 16, "epochs": 2})
    told = plan(capsys, "-f", path, "--step-seconds", "1", "--prices", priced(tmp_path))
    assert line(told, "duration") == "duration       not known while the steps are not"
    assert line(told, "cost") == "cost           4 EUR per hour; in all not known while the duration is not"
    told = plan(capsys, "-f", path, "--step-seconds", "1", "--rows", "28800")
    assert line(told, "duration").startswith("duration       1 h 00 min for the steps")


@pytest.mark.parametrize("text", ["", "0", "fast", "-1", "2-1", "1-", "1s", "1,5", "0-1", "1-2-3"])
def test_a_wrong_time_is_refused_with_what_is_allowed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", str(EXAMPLE), f"--step-seconds={text}"]) != 0
    error = capsys.readouterr().err
    assert f"--step-seconds: is not a time or a band of times (got {text})" in error
    assert "allowed: " in error and "hint: " in error


@pytest.mark.parametrize("document", [{"prices": PRICES}, PRICES], ids=["values of the chart", "alone"])
@pytest.mark.parametrize(
    ("option", "cost"),
    [
        ([], "4 EUR per hour; in all not known while the duration is not"),
        (["--step-seconds", "1"], "4 EUR for the steps, at 4 EUR per hour"),
        (["--step-seconds", "1-1.5"], "4 to 6 EUR for the steps, at 4 EUR per hour"),
    ],
)
def test_prices_and_seconds_give_a_band_of_money(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], document: Any, option: list[str], cost: str
) -> None:
    said = plan(capsys, "-f", sized(tmp_path), "--prices", priced(tmp_path, document), *option)
    assert line(said, "cost") == f"cost           {cost}"


def test_devices_are_priced_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sized(tmp_path, resources={**SIZE, "accelerator": {"count": 1}})
    assert "8 EUR per hour" in line(plan(capsys, "-f", path, "--prices", priced(tmp_path)), "cost")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "",
        "prices: {}",
        "currency: EUR",
        "{currency: EUR, perHour: {cpu: 0.5}}",
        "{perHour: {cpu: '1'}}",
    ],
)
def test_what_is_no_price_list_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = write_text(tmp_path / "prices.yaml", text)
    assert main(["plan", "-f", str(EXAMPLE), "--prices", path]) != 0
    error = capsys.readouterr().err
    assert f"--prices: is not a price list (got {path}: " in error
    assert "allowed: " in error and "hint: " in error


def test_a_missing_price_list_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", str(EXAMPLE), "--prices", "/nowhere.yaml"]) != 0
    assert "--prices: is not a price list (got /nowhere.yaml: " in capsys.readouterr().err


# --- claims beside the job -------------------------------------------------------------------------


def claim(name: str, *modes: str, **metadata: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, **metadata},
        "spec": {"accessModes": list(modes)},
    }


@pytest.mark.parametrize(
    ("nodes", "name", "modes", "warned"),
    [
        (2, "checkpoints", ["ReadWriteOnce"], True),
        (2, "checkpoints", ["ReadOnlyMany"], True),
        (2, "checkpoints", ["ReadWriteOnce", "ReadWriteMany"], False),
        (1, "checkpoints", ["ReadWriteOnce"], False),
        (2, "data", ["ReadWriteOnce"], True),
        (2, "data", ["ReadOnlyMany"], False),
        (2, "unused", ["ReadWriteOnce"], False),
    ],
)
def test_a_claim_in_the_same_manifests_that_not_all_nodes_can_mount_is_warned_of(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    nodes: int,
    name: str,
    modes: list[str],
    warned: bool,
) -> None:
    document = job(
        resources={**SIZE, "nodes": nodes},
        checkpoint={"store": "pvc://checkpoints"},
        data={"sources": [{"uri": "pvc://data/train.jsonl"}]},
    )
    document["metadata"].pop("namespace", None)
    said = plan(capsys, "-f", write(tmp_path / "all.yaml", document, claim(name, *modes)))
    text = f"warning: PersistentVolumeClaim {name} cannot be mounted by 2 nodes (got {', '.join(modes)})"
    assert (text in said) == warned
    assert ("use a claim with ReadWriteMany" in said) == warned


@pytest.mark.parametrize(("namespace", "warned"), [("team", True), ("other", False)])
def test_claims_of_another_namespace_are_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], namespace: str, warned: bool
) -> None:
    document = job(resources=SIZE, checkpoint={"store": "pvc://checkpoints"})
    document["metadata"]["namespace"] = "team"
    store = claim("checkpoints", "ReadWriteOnce", namespace=namespace)
    said = plan(capsys, "-f", write(tmp_path / "all.yaml", store, document))
    assert ("PersistentVolumeClaim checkpoints cannot be mounted" in said) == warned


@pytest.mark.parametrize(
    "broken",
    [
        {"kind": "PersistentVolumeClaim"},
        {"kind": "PersistentVolumeClaim", "metadata": {"name": "checkpoints"}, "spec": {}},
        {"kind": "PersistentVolumeClaim", "metadata": None, "spec": {"accessModes": ["ReadWriteOnce"]}},
    ],
)
def test_a_claim_that_says_nothing_is_left_to_the_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: dict[str, Any]
) -> None:
    document = job(resources=SIZE, checkpoint={"store": "pvc://checkpoints"})
    broken = {"apiVersion": "v1", **broken}
    assert "mounted" not in plan(capsys, "-f", write(tmp_path / "all.yaml", document, broken))
