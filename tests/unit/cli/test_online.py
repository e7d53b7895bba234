"""status, logs and fetch against a cluster of dictionaries; access errors as sentences."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import MaxRetryError

from unit.cli.fakes import FakeAccess, pod
from windlass.cli import fetch, logs, status
from windlass.cli.access import Access, kubeconfig_path
from windlass.cli.chat import require_whole_model
from windlass.cli.errors import CliError
from windlass.cli.main import main


def job(version: str = "1", **parts: Any) -> dict[str, Any]:
    return {
        "kind": "FineTuneJob",
        "metadata": {"name": "a", "namespace": "team", "resourceVersion": version, "uid": "u"},
        "spec": {"resources": {"nodes": 2, "ranksPerNode": 2}},
        "status": parts,
    }


def condition(kind: str) -> dict[str, Any]:
    moment = "2026-01-01T00:00:00Z"
    return {"type": kind, "status": "True", "reason": "Completed", "lastTransitionTime": moment}


def options(**values: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{
            "name": "a",
            "watch": False,
            "json": False,
            "rank": None,
            "follow": False,
            "failed": False,
            "tail": None,
        }
        | values
    )


def test_watch_prints_each_change_once_and_ends_with_the_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status, "POLL_SECONDS", 0)
    one, two = job("1", progress={"step": 1}), job("2", progress={"step": 2})
    done = job("3", progress={"step": 3}, conditions=[condition("Complete")])
    access = FakeAccess(one, one, two, done)
    assert status.status_command(options(watch=True), access) == 0  # type: ignore[arg-type]
    said = capsys.readouterr().out.splitlines()
    assert [line.split("step ")[1] for line in said] == ["1", "2", "3"]


def test_each_recovery_is_printed_once_when_it_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    show = status.line_printer()
    first = {"incarnation": 2, "rung": "InPlace", "class": "Crash", "seconds": {"total": 0}}
    whole = {**first, "seconds": {"total": 2.5}}
    second = {**whole, "incarnation": 3, "rung": "RecreatePod"}
    for rows in ([first], [whole], [whole], [whole, second]):
        show(job(recoveries=rows))
    said = capsys.readouterr().out
    assert (said.count("  InPlace "), said.count("  RecreatePod ")) == (1, 1)


def test_the_heading_gives_the_message_unless_training_goes_on() -> None:
    waiting = {**condition("Ready"), "reason": "Unschedulable", "message": "no node has 8 GPUs"}
    assert status.line(job(conditions=[waiting])).startswith("team/a  Unschedulable: no node has 8 GPUs  [")


def test_watch_ends_with_one_when_the_job_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "POLL_SECONDS", 0)
    access = FakeAccess(job(conditions=[condition("Failed")]))
    assert status.status_command(options(watch=True), access) == 1  # type: ignore[arg-type]


def test_status_as_json_is_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    status.status_command(options(json=True), FakeAccess(job(progress={"step": 7})))  # type: ignore[arg-type]
    assert json.loads(capsys.readouterr().out) == {"progress": {"step": 7}}


def test_logs_of_all_pods_carry_the_pod_and_of_one_rank_only_its_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = {
        "p0": ["agent up", "[rank 0] a", "[rank 1] b"],
        "p1": ["[rank 2] c", "[rank 3] d", "[rank 30] e"],
    }
    access = FakeAccess(job(), pods=[pod("p0", 0), pod("p1", 1)], logs=lines)
    logs.logs_command(options(), access)  # type: ignore[arg-type]
    assert "p1: [rank 3] d" in capsys.readouterr().out.splitlines()
    logs.logs_command(options(rank=3), access)  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == ["[rank 3] d"]


def test_following_joins_pods_until_all_end(capsys: pytest.CaptureFixture[str]) -> None:
    access = FakeAccess(job(), pods=[pod("p0", 0), pod("p1", 1)], logs={"p0": ["a"], "p1": ["b", "c"]})
    logs.logs_command(options(follow=True), access)  # type: ignore[arg-type]
    assert sorted(capsys.readouterr().out.splitlines()) == ["p0: a", "p1: b", "p1: c"]


@pytest.mark.parametrize("rank", [-1, 4])
def test_a_rank_that_does_not_exist_is_refused_with_the_range(rank: int) -> None:
    access = FakeAccess(job(), pods=[pod("p0", 0)])
    with pytest.raises(CliError, match=rf"--rank: there is no such rank \(got {rank}\); allowed: 0 to 3"):
        logs.logs_command(options(rank=rank), access)  # type: ignore[arg-type]


def test_a_rank_whose_pod_is_away_and_a_job_without_pods_say_what_to_do() -> None:
    with pytest.raises(CliError, match="its pod is not there now"):
        logs.logs_command(options(rank=2), FakeAccess(job(), pods=[pod("p0", 0)]))  # type: ignore[arg-type]
    with pytest.raises(CliError, match=r"has no pods now\. hint: `windlass status a`"):
        logs.logs_command(options(), FakeAccess(job()))  # type: ignore[arg-type]


def output(directory: Path, text: str = "weights") -> None:
    (directory / "merged").mkdir(parents=True)
    (directory / "merged" / "model.safetensors").write_text(text)
    digest = hashlib.sha256(b"weights").hexdigest()
    files = {"merged/model.safetensors": {"size": 7, "sha256": digest}}
    (directory / "digests.json").write_text(json.dumps({"files": files}))


def with_output() -> FakeAccess:
    return FakeAccess(job(output={"uri": "pvc://checkpoints/team/a/u/output/merged"}))


def test_fetch_copies_the_part_and_checks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output(tmp_path / "volume" / "team" / "a" / "u" / "output")
    monkeypatch.setattr(fetch, "local_volume", lambda access, claim: tmp_path / "volume")
    assert fetch.fetch(with_output(), "a", tmp_path / "here") == "merged"  # type: ignore[arg-type]
    assert (tmp_path / "here" / "merged" / "model.safetensors").read_text() == "weights"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "volume"], "no scratch is left"


def test_a_damaged_file_is_refused_and_the_old_copy_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output(tmp_path / "volume" / "team" / "a" / "u" / "output", text="wEights")
    (tmp_path / "here" / "merged").mkdir(parents=True)
    monkeypatch.setattr(fetch, "local_volume", lambda access, claim: tmp_path / "volume")
    with pytest.raises(
        CliError, match=r"merged/model.safetensors: was damaged on the way .* hint: fetch again"
    ):
        fetch.fetch(with_output(), "a", tmp_path / "here")  # type: ignore[arg-type]
    assert list((tmp_path / "here" / "merged").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "volume"]


def test_without_output_fetch_says_what_to_wait_for(tmp_path: Path) -> None:
    with pytest.raises(
        CliError, match=r"a: has no output yet. hint: wait with `kubectl wait --for=condition=Ready ftj/a`"
    ):
        fetch.fetch(FakeAccess(job()), "a", tmp_path / "x")  # type: ignore[arg-type]


def test_the_stream_of_the_pod_is_a_readable_archive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program that runs in the pod, run here: its text decodes to the files."""
    import base64
    import subprocess
    import sys

    output(tmp_path / "out")
    (tmp_path / "out" / "merged" / "big").write_bytes(bytes(range(256)) * 1000)
    command = [sys.executable, "-c", fetch.STREAM, str(tmp_path / "out"), "merged", "digests.json"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    *lines, last = said.split("\n")
    assert last == "."
    archive = io.BytesIO(b"".join(base64.b64decode(line) for line in lines))
    fetch.unpack(archive, tmp_path / "back")
    assert (tmp_path / "back" / "merged" / "big").read_bytes() == bytes(range(256)) * 1000


def test_an_archive_cannot_write_outside(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../outside"), io.BytesIO())
    buffer.seek(0)
    with pytest.raises(CliError, match=r"\.\./outside: has no place in an output"):
        fetch.unpack(buffer, tmp_path / "in")
    assert not (tmp_path / "outside").exists()


def test_the_reader_pod_is_read_only_and_keeps_the_security_context() -> None:
    model = {
        "metadata": {"labels": {"windlass.dev/run": "a"}, "ownerReferences": [{"uid": "u"}]},
        "spec": {
            "volumes": [{"name": "claim-0"}],
            "securityContext": {"runAsNonRoot": True},
            "hostname": "a-0",
            "containers": [
                {
                    "image": "i",
                    "imagePullPolicy": "Never",
                    "command": ["/env/python", "-m", "x"],
                    "securityContext": {"readOnlyRootFilesystem": True},
                    "volumeMounts": [{"name": "claim-0", "mountPath": "/windlass/store"}],
                }
            ],
        },
    }
    made = fetch.reader_manifest(model, "a-fetch-1")
    container = made["spec"]["containers"][0]
    assert "labels" not in made["metadata"], "the operator must not take it for a member of the gang"
    assert container["command"][0] == "/env/python"
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    assert made["spec"]["securityContext"] == {"runAsNonRoot": True} and "hostname" not in made["spec"]


def test_without_pods_the_reader_is_made_from_the_operators_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from kubernetes import client

    mounts = [{"claim": "usr", "mountPath": "/usr"}, {"claim": "usr", "mountPath": "/x", "subPath": "s"}]
    settings = {
        "WINDLASS_WORKLOAD_IMAGE": "i",
        "WINDLASS_WORKLOAD_PYTHON": "/p",
        "WINDLASS_HOST_ROOT": json.dumps(mounts),
    }
    container = SimpleNamespace(
        env=[SimpleNamespace(name=key, value=value) for key, value in settings.items()]
    )
    spec = SimpleNamespace(template=SimpleNamespace(spec=SimpleNamespace(containers=[container])))
    found = SimpleNamespace(items=[SimpleNamespace(spec=spec)])
    api = SimpleNamespace(list_deployment_for_all_namespaces=lambda label_selector: found)
    monkeypatch.setattr(client, "AppsV1Api", lambda _: api)
    made = fetch.reader_manifest(fetch.without_pods(FakeAccess(), "checkpoints"), "a-fetch-1")["spec"]  # type: ignore[arg-type]
    assert [volume["persistentVolumeClaim"]["claimName"] for volume in made["volumes"]] == [
        "checkpoints",
        "usr",
    ]
    assert made["containers"][0]["volumeMounts"][0] == {
        "name": "store",
        "mountPath": "/windlass/store",
        "readOnly": True,
    }
    assert made["containers"][0]["command"][0] == "/p"
    found.items.clear()
    with pytest.raises(CliError, match=r"none of the job's pods is left .* hint: mount the claim"):
        fetch.without_pods(FakeAccess(), "checkpoints")  # type: ignore[arg-type]


class Refusing:
    """A client that always answers with one error."""

    def __init__(self, problem: Exception) -> None:
        self.problem = problem

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: Any, **__: Any) -> Any:
            raise self.problem

        return refuse


def api_error(code: int, body: str = "") -> ApiException:
    error = ApiException(status=code, reason="Because")
    error.body = body
    return error


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (
            api_error(404, "404 page not found"),
            "FineTuneJob, PretrainJob: the cluster does not know these kinds. hint: install or upgrade the chart",
        ),
        (api_error(404), "a: there is no such job in namespace team"),
        (api_error(403), r"a: the API server refused \(403 Because\). hint: check your rights"),
        (MaxRetryError(None, "/", None), "cluster: cannot be reached"),  # type: ignore[arg-type]
        (ConnectionRefusedError(), "cluster: cannot be reached"),
    ],
)
def test_errors_of_the_cluster_are_sentences(
    monkeypatch: pytest.MonkeyPatch, problem: Exception, said: str
) -> None:
    monkeypatch.setattr(Access, "custom", property(lambda self: Refusing(problem)))
    with pytest.raises(CliError, match=said):
        Access(None, "team").job("a")


def test_a_defect_is_not_dressed_up_as_a_cluster_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Access, "custom", property(lambda self: Refusing(ZeroDivisionError())))
    with pytest.raises(ZeroDivisionError):
        Access(None, "team").job("a")


def test_the_local_cluster_is_used_only_where_there_is_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WINDLASS_CLUSTER_DIRECTORY", str(tmp_path / "cluster"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert kubeconfig_path(None) is None
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "kubeconfig").touch()
    assert kubeconfig_path(None) == str(tmp_path / "cluster" / "kubeconfig")
    assert kubeconfig_path("mine") == "mine"
    monkeypatch.setenv("KUBECONFIG", "theirs")
    assert kubeconfig_path(None) is None


def test_an_unusable_kubeconfig_names_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--kubeconfig", "/nowhere/config"]) == 2
    assert "error: kubeconfig: is not usable" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("adapter_config.json", "holds an adapter only. hint: set checkpoint.mergeAdapter"),
        ("x.txt", "holds no model"),
    ],
)
def test_chat_refuses_what_it_cannot_load(tmp_path: Path, file: str, said: str) -> None:
    (tmp_path / file).touch()
    with pytest.raises(CliError, match=said):
        require_whole_model(tmp_path)
