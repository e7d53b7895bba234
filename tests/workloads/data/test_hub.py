"""Downloads from a hub: one revision, once, safe files only, resumed when cut off, with words for each refusal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from windlass.api.meta import FailureClass, Reason
from windlass.api.training import SecretReference
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.data.sources import Finder, Request, Roots
from workloads.data.fake_hub import FakeHub

MODEL_FIELD, DATA_FIELD = "spec.model.uri", "spec.data.sources[0].uri"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"s" * 5000,
    "tokenizer.json": b"{}",
    "README.md": b"# words",
    "pytorch_model.bin": b"pickle" * 100,
    "nested/generation_config.json": b'{"n": 1}',
}
WANTED = {"config.json", "model.safetensors", "tokenizer.json", "nested/generation_config.json"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    running = FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    yield running
    running.close()


@pytest.fixture
def finder(tmp_path: Path) -> Finder:
    return Finder(Roots(tmp_path / "volumes", tmp_path / "secrets"), tmp_path / "cache")


def model(uri: str = "hf://org/name", secret: SecretReference | None = None) -> Request:
    return Request(uri, MODEL_FIELD, "model", secret)


def data(uri: str, secret: SecretReference | None = None) -> Request:
    return Request(uri, DATA_FIELD, "data", secret)


def refused(finder: Finder, request: Request) -> WorkloadError:
    with pytest.raises(WorkloadError) as caught:
        finder.find(request)
    return caught.value


def files_below(path: Path) -> set[str]:
    return {each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()}


# --- what is fetched --------------------------------------------------------------------------------------------


def test_a_model_is_fetched_whole_but_for_what_runs_code_or_is_not_needed(
    hub: FakeHub, finder: Finder
) -> None:
    hub.model("org/name").push(FILES)
    path = finder.find(model())
    assert files_below(path) == WANTED
    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert hub.count("GET", "pytorch_model.bin") == 0 and hub.count("GET", "README") == 0


def test_progress_is_told(hub: FakeHub, tmp_path: Path) -> None:
    said: list[str] = []
    hub.model("org/name").push(FILES)
    Finder(Roots(tmp_path, tmp_path), tmp_path / "cache", progress=said.append).find(model())
    assert said[0] == "looking up hf://org/name"
    assert said[1] == "downloading 1 weight files of hf://org/name"
    assert said[2].startswith("downloaded hf://org/name")


@pytest.mark.parametrize("revision", ["main", "v1", "commit"])
def test_a_revision_is_what_it_says(hub: FakeHub, finder: Finder, revision: str) -> None:
    repository = hub.model("org/name")
    first = repository.push(FILES, "v1")
    second = repository.push({**FILES, "config.json": b'{"model_type": "gpt2"}'})
    asked = first if revision == "commit" else revision
    found = finder.look_up(model(f"hf://org/name@{asked}"))
    wanted = second if revision == "main" else first
    assert found.revision == wanted
    assert (found.path / "config.json").read_bytes() == repository.commits[wanted]["config.json"]


def test_a_push_in_the_middle_of_a_download_mixes_nothing(hub: FakeHub, finder: Finder) -> None:
    repository = hub.model("org/name")
    first = repository.push(FILES)
    asked = hub.info

    def push_after_the_look_up(*arguments: object) -> None:
        asked(*arguments)
        if len(repository.commits) == 1:
            repository.push({**FILES, "config.json": b"other", "model.safetensors": b"t" * 10})

    hub.info = push_after_the_look_up  # type: ignore[method-assign]
    found = finder.look_up(model())
    assert found.revision == first
    assert (found.path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert (found.path / "config.json").read_bytes() == FILES["config.json"]


def test_the_second_time_nothing_is_fetched_again(hub: FakeHub, finder: Finder) -> None:
    hub.model("org/name").push(FILES)
    first = finder.find(model())
    before = hub.count("GET", "/resolve/")
    assert before == len(WANTED)
    assert finder.find(model()) == first
    assert hub.count("GET", "/resolve/") == before


def test_only_what_changed_is_fetched_after_a_push(hub: FakeHub, finder: Finder) -> None:
    repository = hub.model("org/name")
    repository.push(FILES)
    finder.find(model())
    hub.asked.clear()
    repository.push({**FILES, "config.json": b"changed"})
    path = finder.find(model())
    assert (path / "config.json").read_bytes() == b"changed"
    assert [name for method, name in hub.asked if method == "GET" and "/resolve/" in name] == [
        f"/org/name/resolve/{repository.names['main']}/config.json"
    ]


def test_a_data_file_is_fetched_alone_from_a_dataset(hub: FakeHub, finder: Finder) -> None:
    hub.dataset("org/set").push({"sft/train.jsonl": b'{"a": 1}\n', "sft/huge.parquet": b"x" * 10_000})
    path = finder.find(data("hf://datasets/org/set@main/sft/train.jsonl"))
    assert path.read_bytes() == b'{"a": 1}\n'
    assert hub.count("GET", "huge") == 0
    before = hub.count("GET", "/resolve/")
    assert finder.find(data("hf://org/set/sft/train.jsonl")) == path
    assert hub.count("GET", "/resolve/") == before


def test_models_and_data_of_one_name_are_two_things(hub: FakeHub, finder: Finder) -> None:
    hub.model("org/name").push(FILES)
    hub.dataset("org/name").push({"train.jsonl": b"{}\n"})
    assert (finder.find(model()) / "config.json").is_file()
    assert finder.find(data("hf://org/name/train.jsonl")).read_bytes() == b"{}\n"


# --- interruptions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 2500, 4999])
def test_a_download_that_is_cut_off_goes_on_where_it_was(
    hub: FakeHub, finder: Finder, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)
    hub.model("org/name").push(FILES)
    hub.break_after["model.safetensors"] = cut
    for _ in range(3):
        try:
            path = finder.find(model())
            break
        except WorkloadError as error:
            assert error.failure_class is FailureClass.INFRASTRUCTURE
    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert files_below(path) == WANTED
    kept = cut // 500 * 500
    if kept:
        assert any(asked and asked.startswith(f"bytes={kept}-") for asked in hub.ranges), hub.ranges


def test_what_is_left_of_a_broken_download_is_never_taken_for_the_file(hub: FakeHub, finder: Finder) -> None:
    hub.model("org/name").push(FILES)
    answer, broken = hub.file, []

    def break_always(request: Any, fields: dict[str, str], commit: str, files: dict[str, bytes]) -> None:
        if request.command == "GET" and fields["path"] == "model.safetensors":
            broken.append(hub.break_after.setdefault("model.safetensors", 100))
        answer(request, fields, commit, files)

    hub.file = break_always  # type: ignore[method-assign]
    error = refused(finder, model())
    assert error.failure_class is FailureClass.INFRASTRUCTURE and broken
    hub.file = answer  # type: ignore[method-assign]
    hub.break_after.clear()
    assert (finder.find(model()) / "model.safetensors").read_bytes() == FILES["model.safetensors"]


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.bad_input("B42")
def test_a_model_of_pickle_files_is_refused_before_a_byte_of_it_moves(hub: FakeHub, finder: Finder) -> None:
    hub.model("org/name").push({"config.json": b"{}", "pytorch_model.bin": b"pickle", "extra.pt": b"pickle"})
    error = refused(finder, model())
    assert error.reason is Reason.MODEL_FORMAT_UNSAFE
    assert error.message == (
        "spec.model.uri: weights are only there as pickle files, which run code when loaded "
        "(got hf://org/name with extra.pt, pytorch_model.bin); allowed *.safetensors."
    )
    assert error.evidence == ("extra.pt", "pytorch_model.bin")
    assert hub.count("GET", "/resolve/") == 0


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_of_a_tokenizer_no_weights_are_fetched_whatever_their_form(
    hub: FakeHub, finder: Finder, weights: str
) -> None:
    hub.model("org/name").push({"config.json": b"{}", "tokenizer.json": b"{}", weights: b"w" * 5000})
    found = finder.find(Request("hf://org/name", "spec.tokenizer.uri", "tokenizer"))
    assert files_below(found) == {"config.json", "tokenizer.json"}
    assert hub.count("GET", weights) == 0
    error = refused(finder, Request("hf://org/absent", "spec.tokenizer.uri", "tokenizer"))
    assert error.reason is Reason.MODEL_NOT_FOUND and error.message.startswith("spec.tokenizer.uri: ")


NOT_FOUND = "check organisation, name and revision; a private one needs a secretRef."
NO_ACCESS = "accept its licence on the hub and name a token by secretRef."


@pytest.mark.parametrize(
    ("uri", "said", "hint"),
    [
        ("hf://org/absent", "not found on the hub", NOT_FOUND),
        ("hf://org/name@v9", "not found on the hub", NOT_FOUND),
        ("hf://org/private", "not found on the hub", NOT_FOUND),
        ("hf://org/gated", "the hub refuses access", NO_ACCESS),
        ("hf://or..g/name", "not a valid hub name", "write hf://org/name@revision."),
        ("hf://org/-name", "not a valid hub name", "write hf://org/name@revision."),
    ],
)
def test_each_refusal_has_its_words_and_a_next_step(
    hub: FakeHub, finder: Finder, uri: str, said: str, hint: str
) -> None:
    hub.model("org/name").push(FILES)
    hub.model("org/private").push(FILES)
    hub.model("org/private").token = "secret"
    hub.model("org/gated").push(FILES)
    hub.model("org/gated").gated = True
    error = refused(finder, model(uri))
    assert error.reason is Reason.MODEL_NOT_FOUND
    assert error.failure_class is FailureClass.CONFIGURATION
    assert (error.message, error.hint) == (f"{MODEL_FIELD}: {said} (got {uri}).", hint)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("hf://org/absent/train.jsonl", "not found on the hub"),
        ("hf://org/set/absent.jsonl", "not found on the hub"),
        ("hf://org/set@v9/train.jsonl", "not found on the hub"),
        ("hf://org/set", "a data source names one file"),
        ("hf://org/set@main", "a data source names one file"),
    ],
)
def test_data_that_is_not_there_is_the_users_to_correct(
    hub: FakeHub, finder: Finder, uri: str, said: str
) -> None:
    hub.dataset("org/set").push({"train.jsonl": b"{}\n"})
    error = refused(finder, data(uri))
    assert (error.reason, error.failure_class) == (Reason.DATA_NOT_FOUND, FailureClass.CONFIGURATION)
    assert error.message.startswith(f"{DATA_FIELD}: {said} (got {uri})")


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_hub_that_is_not_well_is_worth_a_retry(hub: FakeHub, finder: Finder, status: int) -> None:
    hub.status = status
    error = refused(finder, model())
    assert error.failure_class is FailureClass.INFRASTRUCTURE
    assert "the hub does not answer (" in error.message
    assert error.hint == "check the cluster's egress, or copy the files onto a claim and use pvc://."


# --- tokens ---------------------------------------------------------------------------------------------------


def with_secret(finder: Finder, token: str) -> SecretReference:
    folder = finder.roots.secrets / "hub"
    folder.mkdir(parents=True)
    (folder / "token").write_text(f"{token}\n")
    return SecretReference(name="hub")


def test_a_private_model_needs_its_token_and_gets_it_from_the_mount(hub: FakeHub, finder: Finder) -> None:
    hub.model("org/private").push(FILES)
    hub.model("org/private").token = "correct-horse"
    path = finder.find(model("hf://org/private", with_secret(finder, "correct-horse")))
    assert files_below(path) == WANTED
    assert hub.tokens == {"Bearer correct-horse"}


def test_a_wrong_token_is_refused_and_never_told(hub: FakeHub, finder: Finder) -> None:
    hub.model("org/private").push(FILES)
    hub.model("org/private").token = "correct-horse"
    error = refused(finder, model("hf://org/private", with_secret(finder, "wrong-donkey")))
    assert "secretRef" in error.hint
    assert "wrong-donkey" not in f"{error} {error.message} {error.hint} {error.evidence}"


def test_no_token_of_the_surroundings_is_used(
    hub: FakeHub, finder: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, "from-the-environment")
    hub.model("org/name").push(FILES)
    hub.dataset("org/set").push({"train.jsonl": b"{}\n"})
    finder.find(model())
    finder.find(data("hf://org/set/train.jsonl"))
    assert hub.tokens == {None}
