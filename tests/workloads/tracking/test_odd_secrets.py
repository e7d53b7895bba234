"""Secrets that hold no plain line: training goes on or says which Secret it is, and nobody is shown what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from windlass.api.meta import Reason
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.data.sources import Request, Roots, read_token, secret_text
from windlass_workloads.tracking.client import Client, Unreachable
from workloads.tracking.fake_mlflow import FakeMLflow

ODD = [
    ("two lines", b"correct\nhorse\n"),
    ("wrapped", b"Y29ycmVjdGhvcnNl\r\nY29ycmVjdGhvcnNl"),
    ("utf-16", "correct-horse".encode("utf-16")),
    ("latin-1", b"correct-h\xf6rse"),
    ("another script", "correct-hörse".encode()),
    ("nul", b"correct\0horse"),
]


@pytest.mark.parametrize("held", [row[1] for row in ODD], ids=[row[0] for row in ODD])
def test_a_secret_that_is_no_token_is_refused_without_being_shown(tmp_path: Path, held: bytes) -> None:
    path = tmp_path / "hub" / "token"
    path.parent.mkdir()
    path.write_bytes(held)
    with pytest.raises(ValueError, match=r"^(is not UTF-8|has line breaks)") as plain:
        secret_text(path)
    request = Request(uri="hf://org/name", kind="model", field="spec.model.uri", secret=reference())
    with pytest.raises(WorkloadError, match="key token of Secret hub ") as caught:
        read_token(request, Roots(tmp_path, tmp_path))
    assert caught.value.reason == Reason.SECRET_KEY_NOT_FOUND
    for shown in (str(plain.value), str(caught.value), repr(caught.value.__cause__)):
        assert "correct" not in shown and "horse" not in shown and "Y29y" not in shown


def reference():
    from windlass.api.training import SecretReference

    return SecretReference(name="hub")


@pytest.mark.parametrize(
    ("held", "text"),
    [
        (b"hf_abc\n", "hf_abc"),
        (b"\xef\xbb\xbfhf_abc\r\n", "hf_abc"),
        (b"  hf_abc  ", "hf_abc"),
        ("user:pässword".encode(), "user:pässword"),
        (b"", ""),
    ],
    ids=["line", "byte order mark", "spaces", "a user's password", "nothing"],
)
def test_a_plain_line_is_taken_as_it_is_meant(tmp_path: Path, held: bytes, text: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(held)
    assert secret_text(path) == text


@pytest.mark.parametrize("credential", ["correct\nhorse", "correct\r\nhorse", "corréct-hörse-€"])
def test_a_header_that_cannot_be_sent_is_not_shown(fake_server: FakeMLflow, credential: str) -> None:
    with pytest.raises(Unreachable) as caught:
        Client(fake_server.uri, credential).experiment("exp")
    assert "horse" not in str(caught.value) and "corr" not in str(caught.value)
    assert fake_server.uri in str(caught.value)
