"""Installing the chart and building images: what is called, and what a user reads when it cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from windlass.cli import images, release
from windlass.cli.errors import CliError
from windlass.cli.main import main


class FakeHelm(ModuleType):
    """helm_python with one release or none."""

    class HelmError(Exception):
        pass

    def __init__(self, present: list[str], *, broken: bool = False) -> None:
        super().__init__("helm_python")
        self.present, self.broken, self.calls = present, broken, []  # type: ignore[var-annotated]

    def Config(self, **_: Any) -> Any:
        return self

    def __enter__(self) -> FakeHelm:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def list(self, **_: Any) -> list[dict[str, str]]:
        return [{"name": name} for name in self.present]

    def install(self, *arguments: Any, **options: Any) -> None:
        if self.broken:
            raise self.HelmError("timed out")
        self.calls.append(("install", arguments, options))

    def upgrade(self, *arguments: Any, **options: Any) -> None:
        self.calls.append(("upgrade", arguments, options))


@pytest.mark.parametrize(
    ("present", "said", "call"), [([], "installed", "install"), (["windlass"], "upgraded", "upgrade")]
)
def test_a_release_is_installed_once_and_upgraded_after(
    monkeypatch: pytest.MonkeyPatch, present: list[str], said: str, call: str
) -> None:
    helm = FakeHelm(["other", *present])
    monkeypatch.setitem(sys.modules, "helm_python", helm)
    assert release.install(Path("/r/charts/windlass"), kubeconfig=Path("k"), values={"a": 1}) == said
    name, arguments, options = helm.calls[0]
    assert (name, arguments, options["namespace"]) == (
        call,
        ("/r/charts/windlass", "windlass", {"a": 1}),
        "windlass-system",
    )
    assert options.get("create_namespace", False) is (call == "install")
    assert options.get("reset_values", False) is (call == "upgrade")


def test_helms_refusal_is_one_sentence_with_a_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "helm_python", FakeHelm([], broken=True))
    with pytest.raises(CliError, match=r"helm: timed out\. hint: windlass cluster status"):
        release.install(Path("/r/charts/windlass"), kubeconfig=Path("k"), values={})


def test_without_helm_the_user_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "helm_python", None)
    with pytest.raises(CliError, match=r"helm_python: is not installed\. hint: `make setup`"):
        release.install(Path("/r/charts/windlass"), kubeconfig=Path("k"), values={})


def test_the_operator_restarts_when_its_source_changed_and_only_where_it_runs_from_it(tmp_path: Path) -> None:
    (tmp_path / "operator").mkdir()
    (tmp_path / "uv.lock").write_text("1")
    embedded = {"hostRoot": {"enabled": True}, "operator": {"image": "i"}}
    first = release.with_source(embedded, tmp_path)
    assert release.with_source(embedded, tmp_path) == first
    (tmp_path / "operator" / "a.py").write_text("")
    second = release.with_source(embedded, tmp_path)
    assert first["operator"]["podAnnotations"] != {} and second["operator"]["image"] == "i"
    (tmp_path / "operator" / "a.py").write_text("changed")
    assert release.with_source(embedded, tmp_path) != second
    elsewhere = {"operator": {"image": "i"}}
    assert release.with_source(elsewhere, tmp_path) == elsewhere


def test_annotations_of_the_user_stay_beside_the_sources_digest(tmp_path: Path) -> None:
    (tmp_path / "uv.lock").write_text("1")
    values = {"hostRoot": {"enabled": True}, "operator": {"podAnnotations": {"team": "search"}}}
    annotations = release.with_source(values, tmp_path)["operator"]["podAnnotations"]
    assert annotations["team"] == "search"
    assert set(annotations) == {"team", release.ANNOTATION}


def test_images_without_docker_point_to_the_embedded_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert main(["images"]) == 1
    assert capsys.readouterr().err.startswith(
        "error: docker: is not installed. hint: the embedded cluster needs no images"
    )


def test_both_images_are_built_from_recipes_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/docker")
    monkeypatch.setattr(images.kind, "available", lambda: False)
    monkeypatch.setattr(images, "run", ran.append)
    assert main(["images"]) == 0
    assert [command[command.index("--tag") + 1] for command in ran] == list(images.FILES)
    assert all(Path(command[command.index("--file") + 1]).is_file() for command in ran)


def test_a_failed_build_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=3))
    with pytest.raises(CliError, match="docker build: failed with status 3"):
        images.run(["docker", "build", "x"])


def test_recipes_keep_torch_out_of_the_operator_and_run_as_nobody_special() -> None:
    folder = Path(__file__).resolve().parents[3] / "workloads" / "images"
    operator, workload = (
        (folder / name).read_text() for name in ("operator.Dockerfile", "workload.Dockerfile")
    )
    assert "--extra operator" in operator and "--extra train" not in operator
    assert "--extra train" in workload
    assert all("USER 1000:1000" in text and "--frozen" in text for text in (operator, workload))


def test_programs_of_pods_come_compiled() -> None:
    """Pods cannot write beside them: what is missing is compiled anew at each start (torch: ten seconds)."""
    root = Path(__file__).resolve().parents[3]
    for recipe in (root / "workloads" / "images").iterdir():
        assert "--compile-bytecode" in recipe.read_text()
    show = ["make", "--silent", "--eval", "show: ; @printenv UV_COMPILE_BYTECODE", "show"]
    assert subprocess.run(show, cwd=root, capture_output=True, text=True, check=True).stdout == "1\n"
