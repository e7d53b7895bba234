"""validate, plan and render: verdicts, places and texts, without a cluster."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from windlass.cli.main import main

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "01-finetune" / "finetunejob.yaml"


def job(**spec: Any) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    document["spec"].update(spec)
    return document


def write(path: Path, *documents: Any) -> str:
    path.write_text(yaml.safe_dump_all(documents))
    return str(path)


def test_a_valid_job_is_named_and_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "-f", str(EXAMPLE)]) == 0
    assert capsys.readouterr().out == f"{EXAMPLE}: FineTuneJob/support-triage is valid\n"


def test_every_problem_names_place_field_value_and_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "job.yaml", job(adapter={"rnk": 8}), job(suspend="yes"))
    assert main(["validate", "-f", path]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"{path}[0]: spec.adapter.rnk: unknown field (got rnk); allowed: ")
    assert lines[0].endswith("hint: did you mean rank?")
    assert lines[1].startswith(f"{path}[1]: spec.suspend: ")


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(EXAMPLE.read_text()))
    assert main(["validate", "-f", "-"]) == 0
    assert "-: FineTuneJob/support-triage" in capsys.readouterr().out


def own_script(tmp_path: Path) -> str:
    document = job(custom={"command": ["python", "/scripts/train.py", "--name", "a b"]})
    for name in ("model", "data", "training", "adapter", "tracking"):
        document["spec"].pop(name, None)
    document["spec"]["checkpoint"].pop("mergeAdapter", None)
    return write(tmp_path / "own.yaml", document)


def test_the_plan_of_a_command_shows_it_as_a_shell_would_need_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "-f", own_script(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "python /scripts/train.py --name 'a b'" in out
    assert "known once the script tells" in out and "rows per step" not in out


def test_a_command_has_no_model_to_tell_sizes_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", own_script(tmp_path), "--model-config", "config.json"]) != 0
    assert "--model-config: the job has no model" in capsys.readouterr().err


def test_a_directory_means_its_yaml_files_and_other_kinds_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.yaml", job())
    write(tmp_path / "b.yml", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}, job())
    (tmp_path / "notes.txt").write_text("not yaml: [")
    assert main(["validate", "-f", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("is valid") == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "is not YAML"),
        ("", "-f: holds no document"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n",
            "-f: holds no job of Windlass (got Pod); allowed: FineTuneJob, PretrainJob",
        ),
    ],
)
def test_files_that_hold_no_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert main(["validate", "-f", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", "/nowhere/job.yaml"]) == 2
    assert "error: -f: cannot be read (got /nowhere/job.yaml" in capsys.readouterr().err


def test_a_wrong_kind_of_ours_is_a_problem_and_not_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = job() | {"kind": "FinetuneJob"}
    assert main(["validate", "-f", write(tmp_path / "x.yaml", document)]) == 1
    assert "kind: no matches for this kind" in capsys.readouterr().err


def test_plan_says_ranks_accumulation_steps_and_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", str(EXAMPLE)]) == 0
    said = capsys.readouterr().out
    assert "2 (2 nodes x 1)" in said
    assert "2 passes of 4 rows per rank" in said
    assert "8 in all, one every 8 steps, written while training goes on, 3 kept" in said


def test_plan_needs_rows_for_epochs_and_takes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "x.yaml", job(training={"globalBatchSize": 16, "epochs": 2}))
    assert main(["plan", "-f", path]) == 0
    assert "say --rows N" in capsys.readouterr().out
    assert main(["plan", "-f", path, "--rows", "960"]) == 0
    assert "steps          120" in capsys.readouterr().out


def test_plan_refuses_what_validate_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x.yaml", job(training={"globalBatchSize": 3, "maxSteps": 5}))
    assert main(["plan", "-f", path]) == 1
    assert "spec.training.globalBatchSize: is not divisible" in capsys.readouterr().err


def test_render_prints_every_object_the_operator_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "-f", str(EXAMPLE), "-n", "team"]) == 0
    made = list(yaml.safe_load_all(capsys.readouterr().out))
    kinds = sorted(item["kind"] for item in made)
    assert kinds == ["ConfigMap", "ConfigMap", "NetworkPolicy", "Pod", "Pod", "Service"]
    assert {item["metadata"]["namespace"] for item in made} == {"team"}


def test_render_is_the_same_twice(capsys: pytest.CaptureFixture[str]) -> None:
    main(["render", "-f", str(EXAMPLE)])
    first = capsys.readouterr().out
    main(["render", "-f", str(EXAMPLE)])
    assert capsys.readouterr().out == first


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trane"])
    assert ended.value.code == 2
    assert "invalid choice: 'trane'" in capsys.readouterr().err


SMOL = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def config(path: Path, **changes: Any) -> str:
    path.write_text(json.dumps(SMOL | changes))
    return str(path)


def test_with_the_models_config_the_plan_tells_memory_and_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "-f", str(EXAMPLE), "--model-config", config(tmp_path / "config.json")]) == 0
    said = capsys.readouterr().out
    assert "model          4,884,480 of 139,399,488 parameters trained, in fp32" in said
    assert " GiB per rank in its pod, at rows of 128 tokens" in said
    assert "weights 531.8 MiB, gradients 18.6 MiB, optimizer 37.3 MiB" in said
    assert "checkpoint     55.9 MiB each" in said
    assert "warning" not in said


def test_without_the_config_nothing_is_said_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", str(EXAMPLE)]) == 0
    assert "memory" not in capsys.readouterr().out


def test_a_pod_too_small_for_its_ranks_is_a_warning_with_ways_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = job(resources={"nodes": 2, "perNode": {"cpu": "1", "memory": "512Mi"}})
    small["spec"]["training"]["microBatchSize"] = 4
    path = write(tmp_path / "job.yaml", small)
    assert main(["plan", "-f", path, "--model-config", config(tmp_path / "config.json")]) == 0
    said = capsys.readouterr().out
    assert (
        "warning: resources.perNode.memory: less than the ranks of a pod will need (got 512Mi; 1 ranks x"
        in said
    )
    for way in ("microBatchSize: 2", "activationCheckpointing: true", "parallelism.strategy: FSDP"):
        assert way in said


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: str(path / "missing.json"), "--model-config: cannot be read (got "),
        (lambda path: write_text(path / "x.json", "{"), "--model-config: is not JSON (got "),
        (
            lambda path: config(path / "x.json", model_type="gpt2"),
            "sizes cannot be derived (got model_type gpt2",
        ),
        (lambda path: write_text(path / "x.json", "[]"), "sizes cannot be derived (got model_type list"),
    ],
)
def test_a_config_that_says_nothing_is_told_with_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, said: str
) -> None:
    assert main(["plan", "-f", str(EXAMPLE), "--model-config", make(tmp_path)]) != 0
    error = capsys.readouterr().err
    assert said in error and "allowed: " in error and "hint: " in error


def write_text(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)
