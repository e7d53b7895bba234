"""Where URIs lead: into the claim they name, or to an error that says what is there instead."""

from __future__ import annotations

import pytest

from windlass.api.meta import FailureClass, Reason
from windlass.api.training import SecretReference
from windlass_workloads.data import remote
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.data.sources import Finder, Request, Roots

FIELD = "spec.data.sources[0].uri"


@pytest.fixture
def finder(tmp_path):
    (tmp_path / "volumes" / "data" / "sft").mkdir(parents=True)
    (tmp_path / "volumes" / "data" / "sft" / "train.jsonl").write_text("{}\n")
    return Finder(Roots(tmp_path / "volumes", tmp_path / "secrets"), tmp_path / "cache")


def refused(finder, uri, kind="data", secret=None):
    with pytest.raises(WorkloadError) as caught:
        finder.find(Request(uri, FIELD, kind, secret))
    return caught.value


def test_a_file_on_a_claim_is_found(finder, tmp_path):
    found = finder.find(Request("pvc://data/sft/train.jsonl", FIELD, "data"))
    assert found == tmp_path / "volumes" / "data" / "sft" / "train.jsonl"


def test_links_inside_the_claim_may_be_followed(finder):
    folder = finder.roots.volumes / "data"
    (folder / "link.jsonl").symlink_to("sft/train.jsonl")
    assert finder.find(Request("pvc://data/link.jsonl", FIELD, "data")).name == "train.jsonl"


@pytest.mark.bad_input("B38")
@pytest.mark.parametrize("target", ["../../secret.jsonl", "../other/x.jsonl"])
def test_a_link_out_of_the_claim_is_refused(finder, tmp_path, target):
    (tmp_path / "secret.jsonl").write_text("{}")
    (finder.roots.volumes / "other").mkdir()
    (finder.roots.volumes / "other" / "x.jsonl").write_text("{}")
    (finder.roots.volumes / "data" / "out.jsonl").symlink_to(target)
    error = refused(finder, "pvc://data/out.jsonl")
    assert error.reason == Reason.DATA_NOT_FOUND
    assert error.message == (
        f"{FIELD}: the path leaves its claim through a symbolic link (got pvc://data/out.jsonl); "
        "allowed are links inside claim data."
    )


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (
            "pvc://data/sft/trian.jsonl",
            "nothing at sft/trian.jsonl on claim data (got pvc://data/sft/trian.jsonl); /sft/ holds train.jsonl.",
        ),
        ("pvc://data/nope/x", "nothing at nope/x on claim data (got pvc://data/nope/x); / holds sft."),
    ],
)
def test_a_missing_file_is_told_with_what_is_there(finder, uri, said):
    error = refused(finder, uri)
    assert error.message == f"{FIELD}: {said}"
    assert error.hint == "correct the path, or copy the files onto the claim first."


def test_a_claim_that_is_not_mounted_is_named(finder):
    error = refused(finder, "pvc://models/tiny", "model")
    assert error.reason == Reason.MODEL_NOT_FOUND
    assert error.message.startswith(f"{FIELD}: claim models is not mounted at ")
    assert error.hint == "check that the claim models exists in the job's namespace and is bound."


def test_a_loop_of_links_is_an_error_of_the_path(finder):
    folder = finder.roots.volumes / "data"
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    assert "a on claim data cannot be read (got pvc://data/a)" in refused(finder, "pvc://data/a").message


def test_an_unknown_scheme_names_the_allowed_ones(finder):
    assert refused(finder, "s3://bucket/x").message.endswith("allowed pvc://, hf://, mlflow://.")


@pytest.mark.parametrize(
    ("made", "reason", "said"),
    [
        (False, Reason.SECRET_NOT_FOUND, "Secret hub is not mounted."),
        (True, Reason.SECRET_KEY_NOT_FOUND, "Secret hub has no key token."),
    ],
)
@pytest.mark.bad_input("B48")
def test_a_missing_token_is_told_before_any_download(finder, made, reason, said):
    if made:
        (finder.roots.secrets / "hub").mkdir(parents=True)
    error = refused(finder, "hf://org/name", "model", SecretReference(name="hub"))
    assert (error.reason, error.message) == (reason, f"{FIELD}: {said}")


@pytest.mark.parametrize(
    ("rest", "parts"),
    [
        ("org/name", ("org/name", None, "")),
        ("org/name@v1.0", ("org/name", "v1.0", "")),
        ("datasets/org/name@main/a/b.jsonl", ("org/name", "main", "a/b.jsonl")),
        ("org/name/train.jsonl", ("org/name", None, "train.jsonl")),
    ],
)
def test_hub_names_are_taken_apart(rest, parts):
    name = remote.parse_hub_name(Request(f"hf://{rest}", FIELD, "data"), rest)
    assert (name.repository, name.revision, name.path) == parts


def test_a_hub_name_needs_an_organisation(finder):
    assert "not a hub repository (got hf://name)" in refused(finder, "hf://name").message


def test_a_hub_that_does_not_answer_is_worth_a_retry(finder, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error = refused(finder, "hf://org/name", "model")
    assert error.failure_class == FailureClass.INFRASTRUCTURE
    assert "the hub does not answer" in error.message
    assert error.hint == "check the cluster's egress, or copy the files onto a claim and use pvc://."


def test_a_registry_uri_needs_a_server(finder, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    error = refused(finder, "mlflow://models:/name@alias", "model")
    assert error.message == f"{FIELD}: no MLflow server is known (got mlflow://models:/name@alias)."


def test_pickled_weights_are_refused_by_name():
    request = Request("hf://org/name", "spec.model.uri", "model")
    with pytest.raises(WorkloadError) as caught:
        remote.check_safe(request, ["config.json", "pytorch_model.bin"])
    assert caught.value.reason == Reason.MODEL_FORMAT_UNSAFE
    assert caught.value.message == (
        "spec.model.uri: weights are only there as pickle files, which run code when loaded "
        "(got hf://org/name with pytorch_model.bin); allowed *.safetensors."
    )
    remote.check_safe(request, ["pytorch_model.bin", "model.safetensors"])
