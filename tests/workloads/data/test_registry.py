"""Models of an MLflow registry: one version of them, whole, with the token of the mount and words for each refusal.

The library itself is stood in for: what matters here is what is asked of it and what is made of its answers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from windlass.api.meta import Reason
from windlass.api.training import SecretReference
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.data.sources import Finder, Request, Roots

FIELD = "spec.model.uri"
URI = "http://mlflow.example:5000"


class Library:
    """As much of mlflow as is used."""

    def __init__(self) -> None:
        self.versions = {("model", "champion"): "3", ("a.model", "best one"): "12"}
        self.asked: list[str] = []
        self.tracking: list[str] = []
        self.tokens: list[str | None] = []
        self.write: Callable[[Path], Path] = self.flavor
        self.artifacts = SimpleNamespace(download_artifacts=self.download)

    def set_tracking_uri(self, uri: str) -> None:
        self.tracking.append(uri)

    def MlflowClient(self) -> Any:
        return self

    def get_model_version_by_alias(self, name: str, alias: str) -> Any:
        found = self.versions.get((name, alias))
        if found is None:
            raise RuntimeError(f"INVALID_PARAMETER_VALUE: Registered model alias {alias} not found.\nmore")
        return SimpleNamespace(version=found)

    def download(self, *, artifact_uri: str, dst_path: str) -> str:
        self.asked.append(artifact_uri)
        self.tokens.append(os.environ.get("MLFLOW_TRACKING_TOKEN"))
        return str(self.write(Path(dst_path)))

    @staticmethod
    def flavor(folder: Path) -> Path:
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
        (folder / "MLmodel").write_text("flavors: {}")
        return folder


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setitem(sys.modules, "mlflow", made)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of the surroundings")
    return made


@pytest.fixture
def finder(tmp_path: Path) -> Finder:
    return Finder(Roots(tmp_path / "volumes", tmp_path / "secrets"), tmp_path / "cache", tracking_uri=URI)


def request(rest: str, kind: Any = "model", secret: SecretReference | None = None) -> Request:
    return Request(f"mlflow://{rest}", FIELD, kind, secret)


def refused(finder: Finder, asked: Request) -> WorkloadError:
    with pytest.raises(WorkloadError) as caught:
        finder.find(asked)
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
    return caught.value


@pytest.mark.parametrize(
    ("rest", "exact"),
    [
        ("models:/model@champion", "models:/model/3"),
        ("models:/a.model@best one", "models:/a.model/12"),
        ("models:/model/7", "models:/model/7"),
        ("runs:/abc@def/model", "runs:/abc@def/model"),
    ],
)
def test_a_moving_name_becomes_the_version_that_it_stands_for(
    library: Library, finder: Finder, rest: str, exact: str
) -> None:
    found = finder.look_up(request(rest))
    assert (found.revision, library.asked, library.tracking) == (exact, [exact], [URI])
    assert (found.path / "config.json").is_file()
    assert finder.cache in found.path.parents


@pytest.mark.parametrize(
    ("holders", "chosen"),
    [
        ([""], ""),
        (["model"], "model"),
        (["b/c", "a"], "a"),
        (["components/tokenizer", "model"], "components/tokenizer"),
    ],
)
def test_the_model_is_where_its_configuration_is(
    library: Library, finder: Finder, holders: list[str], chosen: str
) -> None:
    def write(folder: Path) -> Path:
        for holder in holders:
            (folder / holder).mkdir(parents=True, exist_ok=True)
            (folder / holder / "config.json").write_text("{}")
        return folder

    library.write = write
    path = finder.find(request("models:/model/7"))
    assert path.relative_to(finder.cache / "mlflow" / "models__model_7").as_posix() == (chosen or ".")


def test_without_a_configuration_the_folder_is_the_model(library: Library, finder: Finder) -> None:
    library.write = lambda folder: folder
    assert finder.find(request("models:/model/7")).name == "models__model_7"


def test_two_versions_lie_beside_each_other(library: Library, finder: Finder) -> None:
    first = finder.find(request("models:/model@champion"))
    library.versions["model", "champion"] = "4"
    second = finder.find(request("models:/model@champion"))
    assert first != second and first.is_dir() and second.is_dir()


def test_what_a_killed_download_left_does_not_count(library: Library, finder: Finder) -> None:
    left = finder.cache / "mlflow" / "models__model_7" / "old"
    left.mkdir(parents=True)
    (left / "config.json").write_text("half")
    finder.find(request("models:/model/7"))
    assert not left.exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("RESOURCE_DOES_NOT_EXIST: gone\nand a traceback"), "RESOURCE_DOES_NOT_EXIST: gone"),
        (ConnectionError("x" * 1000), "x" * 200),
        (TimeoutError(), "TimeoutError"),
        (ValueError("\n"), "ValueError"),
    ],
    ids=["of the server", "long", "without words", "an empty line"],
)
def test_whatever_the_library_says_is_told_in_one_line(
    library: Library, finder: Finder, error: Exception, said: str
) -> None:
    def fail(_: Path) -> Path:
        raise error

    library.write = fail
    refusal = refused(finder, request("models:/model/7"))
    assert refusal.message == (
        f"{FIELD}: MLflow does not give models:/model/7 (got mlflow://models:/model/7): {said}."
    )
    assert refusal.hint.startswith("check the model's name and alias")


def test_an_alias_that_is_not_there_is_told(library: Library, finder: Finder) -> None:
    refusal = refused(finder, request("models:/model@challenger"))
    assert "alias challenger not found" in refusal.message and "more" not in refusal.message
    assert library.asked == []


def test_the_token_comes_from_the_mount(
    library: Library, finder: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finder.roots.secrets / "tracking"
    folder.mkdir(parents=True)
    (folder / "token").write_text("correct-horse\n")
    finder.find(request("models:/model/7", secret=SecretReference(name="tracking")))
    assert library.tokens == ["correct-horse"]


def test_data_of_a_registry_is_the_file_itself(library: Library, finder: Finder) -> None:
    def write(folder: Path) -> Path:
        (folder / "train.jsonl").write_text("{}\n")
        return folder / "train.jsonl"

    library.write = write
    found = finder.find(request("runs:/abc/train.jsonl", kind="data"))
    assert found.read_text() == "{}\n"
