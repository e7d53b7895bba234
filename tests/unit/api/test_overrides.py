"""URIs and overrides of pods: what is taken, what is refused, and that no credential is repeated."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.crd.specs import VALID, change
from windlass.api.pods import CREDENTIAL, ODD_SEGMENT, RESERVED_ENV, RESERVED_PATH
from windlass.api.rules import matches
from windlass.api.validation import validate


def told(path: str, value: Any, base: dict[str, Any] = VALID) -> list[str]:
    return [str(problem) for problem in validate(change(f"spec.{path}", value, base))]


# --- URIs ------------------------------------------------------------------------------------------

GOOD_URIS = [
    "pvc://models/m",
    "pvc://models/a/b/c.jsonl",
    "pvc://models/a..b",
    "pvc://a.b-c/x",
    "hf://org/name",
    "hf://org/name@main",
    "hf://HuggingFaceTB/SmolLM2-135M-Instruct@0123abcd",
    "mlflow://models:/support-bot@candidate",
    "mlflow://models:/support-bot/12",
]
BAD_URIS = [
    ("", "is "),
    (
        "models/m",
        "scheme is not supported (got models/m); allowed: hf://, pvc:// and mlflow://. hint: put the files on",
    ),
    ("file:///etc/shadow", "scheme is not supported (got file:///etc/shadow)"),
    ("s3://bucket/x", "scheme is not supported (got s3://bucket/x)"),
    ("http://169.254.169.254/", "scheme is not supported (got http://169.254.169.254/)"),
    ("PVC://models/m", "scheme is not supported (got PVC://models/m)"),
    (
        "pvc://models/../x",
        "path must not contain '..' (got pvc://models/../x); allowed: a path below the root",
    ),
    ("pvc://models/..", "path must not contain '..' (got pvc://models/..)"),
    ("pvc://models", "is not a pvc URI (got pvc://models); allowed: pvc://claim/path, where claim is a"),
    ("pvc://Models/x", "is not a pvc URI (got pvc://Models/x)"),
    ("pvc:///x", "is not a pvc URI (got pvc:///x)"),
    (
        "pvc://a/b c",
        "holds a character that a URI here may not hold (got pvc://a/b c); allowed: letters, digits and",
    ),
    ("pvc://a/ä", "holds a character that a URI here may not hold (got pvc://a/ä)"),
    ("pvc://a/b\n", "holds a character that a URI here may not hold (got pvc://a/b\n)"),
    ("pvc://a/\u0000", "holds a character that a URI here may not hold"),
    (
        "hf://name",
        "is not a hf URI (got hf://name); allowed: hf://organisation/name or hf://organisation/name@revision",
    ),
    (
        "mlflow://models:/m",
        "is not a mlflow URI (got mlflow://models:/m); allowed: mlflow://models:/name@alias or",
    ),
    ("mlflow://m/3", "is not a mlflow URI (got mlflow://m/3)"),
    ("mlflow://models:/m/0", "is not a mlflow URI (got mlflow://models:/m/0)"),
    (
        "s3://user:pass@bucket",
        "credentials in a URI are not allowed (got s3://***@bucket); allowed: a URI without user",
    ),
    ("hf://token@org/name", "credentials in a URI are not allowed (got hf://***@org/name)"),
    ("hf://user:pass@org/../x", "credentials in a URI are not allowed (got hf://***@org/../x)"),
]


@pytest.mark.parametrize("uri", GOOD_URIS)
def test_uris_that_are_taken(uri: str) -> None:
    assert told("model.uri", uri) == []


@pytest.mark.bad_input("B33")
@pytest.mark.bad_input("B34")
@pytest.mark.bad_input("B36")
@pytest.mark.bad_input("B37")
@pytest.mark.parametrize(("uri", "said"), BAD_URIS, ids=[repr(row[0]) for row in BAD_URIS])
def test_uris_that_are_refused(uri: str, said: str) -> None:
    found = told("model.uri", uri)
    assert any(one.startswith(f"spec.model.uri: {said}") for one in found), found
    assert all("pass" not in one.split("; allowed")[0] for one in found), "a password is never repeated"


@settings(max_examples=60, deadline=None)
@given(st.from_regex(r"[a-z]{2,6}://[a-z0-9]{1,8}(:[A-Za-z0-9!]{4,12})?@[a-z]{1,8}/x", fullmatch=True))
def test_what_stands_before_an_at_is_never_shown(uri: str) -> None:
    secret = uri.split("://")[1].split("@")[0]
    for one in told("model.uri", uri):
        assert f"{secret}@" not in one


# --- overrides of pods -----------------------------------------------------------------------------

RESERVED = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_X", "MASTER_ADDR", "PET_X", "LD_PRELOAD", "PYTHONPATH"]
RESERVED += [
    "NVIDIA_VISIBLE_DEVICES",
    "CUDA_VISIBLE_DEVICES",
    "WINDLASS_INDEX",
    "POD_NAME",
    "NODE_NAME",
    "HOME",
]
FREE = [
    "RANKING",
    "MY_RANK",
    "CUDA_LAUNCH_BLOCKING",
    "OMP_NUM_THREADS",
    "HOMEPAGE",
    "NODE",
    "WINDLASS",
    "PATH",
]


@pytest.mark.bad_input("B25")
@pytest.mark.parametrize("name", RESERVED)
def test_reserved_variables_are_refused(name: str) -> None:
    assert matches(RESERVED_ENV, name)
    (found,) = told("pod.env", [{"name": name, "value": "x"}])
    assert found.startswith(
        f"spec.pod.env[0].name: is a reserved name, set by the operator (got {name}); allowed: names "
    )


@pytest.mark.parametrize("name", FREE)
def test_other_variables_are_free(name: str) -> None:
    assert told("pod.env", [{"name": name, "value": "x"}]) == []


CREDENTIALS = [
    "hf_" + "a" * 16,
    "sk-" + "A1" * 8,
    "sk-proj_" + "a" * 16,
    "ghp_" + "a" * 16,
    "gho_" + "0" * 20,
]
CREDENTIALS += ["AKIA" + "A" * 12]
PLAIN = ["hf_", "hf_short", "sk-1", "x hf_" + "a" * 16, "false", "", "AKIAx", "ghq_" + "a" * 16]


@pytest.mark.bad_input("B26")
@pytest.mark.parametrize("value", CREDENTIALS)
def test_credentials_are_known_and_not_repeated(value: str) -> None:
    assert matches(CREDENTIAL, value)
    (found,) = told("pod.env", [{"name": "A", "value": value}])
    assert "value looks like a credential (got A=***)" in found and value not in found


@pytest.mark.parametrize("value", PLAIN)
def test_plain_values_are_taken(value: str) -> None:
    assert told("pod.env", [{"name": "A", "value": value}]) == []


PATHS = [
    *[
        (path, False)
        for path in ("/windlass", "/windlass/store", "/etc", "/etc/windlass/run", "/usr", "/usr/lib")
    ],
    *[
        (path, False)
        for path in ("/var", "/var/run", "/var/run/x", "/run/x", "/tmp", "/tmp/x", "/proc/1", "/sys")
    ],
    *[
        (path, False)
        for path in ("/dev/shm", "/bin", "/sbin/x", "/lib", "/lib64", "/a/../b", "/a/./b", "/a//b", "/a/")
    ],
    *[
        (path, True)
        for path in (
            "/data",
            "/etc/ssl",
            "/var/lib/x",
            "/usrdata",
            "/home/me",
            "/a.b/c-d_e",
            "/tmpx",
            "/libs",
        )
    ],
]


@pytest.mark.parametrize(("path", "free"), PATHS, ids=[row[0] for row in PATHS])
def test_paths_that_a_volume_may_be_mounted_at(path: str, free: bool) -> None:
    assert (not matches(RESERVED_PATH, path) and not matches(ODD_SEGMENT, path)) is free
    found = told("pod.volumes", [{"name": "a", "claim": "c", "mountPath": path}])
    assert (found == []) is free
    if not free:
        assert found[0].startswith(
            f"spec.pod.volumes[0].mountPath: is reserved, or is not a plain path (got {path}); allowed"
        )


KEYS = [
    *[(key, True) for key in ("a", "A-b_c.d", "example.com/team", "a.b.c/x", "1", "x" * 63)],
    *[(key, False) for key in ("", "-a", "a-", "a b", "a/b/c", "/a", "a/", "Example.com/a", "x" * 64, "ä")],
]


@pytest.mark.parametrize(("key", "good"), KEYS, ids=[repr(row[0])[:20] for row in KEYS])
def test_keys_of_labels(key: str, good: bool) -> None:
    for field in ("labels", "annotations", "nodeSelector"):
        assert (told(f"pod.{field}", {key: "x"}) == []) is good, field
