"""Who we are to the API server: every shape of a kubeconfig, and the words for those that cannot be used."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract.operator.harness import write_serving_pair
from windlass.shell import credentials as creds
from windlass.shell.credentials import Credentials, CredentialsError, find, from_kubeconfig, in_cluster

PLAIN: dict[str, Any] = {
    "current-context": "here",
    "contexts": [
        {"name": "here", "context": {"cluster": "k", "user": "me", "namespace": "team"}},
        {"name": "there", "context": {"cluster": "far", "user": "me"}},
    ],
    "clusters": [
        {"name": "k", "cluster": {"server": "https://127.0.0.1:6443/"}},
        {"name": "far", "cluster": {"server": "https://far:6443"}},
    ],
    "users": [{"name": "me", "user": {"token": "secret-token"}}],
}


def written(tmp_path: Path, config: Any) -> Path:
    path = tmp_path / "config"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return path


def with_user(user: dict[str, Any]) -> dict[str, Any]:
    return PLAIN | {"users": [{"name": "me", "user": user}]}


def with_cluster(cluster: Any) -> dict[str, Any]:
    return PLAIN | {"clusters": [{"name": "k", "cluster": cluster}]}


def test_context_gives_server_namespace_and_token(tmp_path: Path) -> None:
    made = from_kubeconfig(written(tmp_path, PLAIN))
    assert (made.server, made.namespace, made.bearer()) == ("https://127.0.0.1:6443", "team", "secret-token")
    other = from_kubeconfig(written(tmp_path, PLAIN), "there")
    assert (other.server, other.namespace) == ("https://far:6443", "default")


# What is wrong with a kubeconfig, and the whole text; PATH stands for its path.
WRONG: list[tuple[str, Any, str]] = [
    (
        "no context",
        PLAIN | {"current-context": None},
        "kubeconfig.contexts: no such entry (got None); allowed: here, there. hint: pass --context",
    ),
    (
        "unknown context",
        PLAIN | {"current-context": "elsewhere"},
        "kubeconfig.contexts: no such entry (got 'elsewhere'); allowed: here, there. hint: pass --context",
    ),
    (
        "unknown cluster",
        PLAIN | {"clusters": []},
        "kubeconfig.clusters: no such entry (got 'k'); allowed: none. hint: pass --context",
    ),
    (
        "unknown user",
        PLAIN | {"users": None},
        "kubeconfig.users: no such entry (got 'me'); allowed: none. hint: pass --context",
    ),
    (
        "exec plugin",
        with_user({"exec": {"command": "aws"}}),
        "kubeconfig.users: exec plugins are not supported (got user 'me'); allowed: token, tokenFile or client "
        "certificate. hint: make a token with kubectl create token",
    ),
    (
        "auth provider",
        with_user({"auth-provider": {"name": "gcp"}}),
        "kubeconfig.users: exec plugins are not supported (got user 'me'); allowed: token, tokenFile or client "
        "certificate. hint: make a token with kubectl create token",
    ),
    (
        "no server",
        with_cluster({}),
        "kubeconfig.clusters: has no server (got cluster 'k'); allowed: server: https://host:port. hint: write the "
        "kubeconfig anew",
    ),
    (
        "empty cluster",
        with_cluster(None),
        "kubeconfig.clusters: has no server (got cluster 'k'); allowed: server: https://host:port. hint: write the "
        "kubeconfig anew",
    ),
    (
        "not YAML",
        "a: [",
        "kubeconfig: is not YAML (got PATH); allowed: a kubeconfig. hint: set KUBECONFIG or pass --kubeconfig",
    ),
    (
        "a text",
        "hello",
        "kubeconfig: is not YAML (got PATH); allowed: a kubeconfig. hint: set KUBECONFIG or pass --kubeconfig",
    ),
    (
        "an empty file",
        "",
        "kubeconfig.contexts: no such entry (got None); allowed: none. hint: pass --context",
    ),
    (
        "certificate that is no base64",
        with_user({"client-certificate-data": "!!!"}),
        "kubeconfig: client-certificate-data is not base64; allowed: PEM text in base64. hint: write the "
        "kubeconfig anew",
    ),
    (
        "missing file",
        with_user({"client-key": "gone.pem"}),
        "kubeconfig: client-key cannot be read (got PARENT/gone.pem: No such file or directory); allowed: a "
        "readable PEM "
        "file. hint: write the kubeconfig anew",
    ),
]


@pytest.mark.parametrize(("name", "config", "text"), WRONG, ids=[row[0] for row in WRONG])
def test_kubeconfig_that_cannot_be_used_says_why(tmp_path: Path, name: str, config: Any, text: str) -> None:
    path = written(tmp_path, config)
    with pytest.raises(CredentialsError) as caught:
        from_kubeconfig(path)
    assert str(caught.value) == text.replace("PATH", str(path)).replace("PARENT", str(tmp_path)), name
    assert "secret" not in str(caught.value)


def test_inline_data_wins_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("FROM FILE")
    data = base64.b64encode(b"INLINE").decode()
    made = from_kubeconfig(
        written(
            tmp_path,
            with_cluster(
                {
                    "server": "https://x",
                    "certificate-authority": "ca.pem",
                    "certificate-authority-data": data,
                }
            ),
        )
    )
    assert made.ca_pem == "INLINE"


def test_inline_data_may_be_wrapped_into_lines(tmp_path: Path) -> None:
    data = base64.encodebytes(b"PEM" * 60).decode()
    assert "\n" in data.strip()
    made = from_kubeconfig(
        written(tmp_path, with_cluster({"server": "https://x", "certificate-authority-data": data}))
    )
    assert made.ca_pem == "PEM" * 60


def test_files_are_looked_for_beside_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("CA")
    (tmp_path / "token").write_text(" from-file\n")
    config = with_cluster({"server": "https://x", "certificate-authority": "ca.pem"})
    config |= {"users": [{"name": "me", "user": {"tokenFile": "token"}}]}
    made = from_kubeconfig(written(tmp_path, config))
    assert (made.ca_pem, made.bearer()) == ("CA", "from-file")


@pytest.mark.parametrize(("flag", "insecure"), [(True, True), (False, False), (None, False)])
def test_verification_is_off_only_if_asked(tmp_path: Path, flag: bool | None, insecure: bool) -> None:
    cluster: dict[str, Any] = {"server": "https://x"}
    if flag is not None:
        cluster["insecure-skip-tls-verify"] = flag
    made = from_kubeconfig(written(tmp_path, with_cluster(cluster)))
    assert made.insecure is insecure
    context = made.ssl_context()
    assert context is not None
    assert context.check_hostname is not insecure
    assert (context.verify_mode is ssl.CERT_NONE) is insecure


def test_plain_http_needs_no_context() -> None:
    assert Credentials(server="http://127.0.0.1:8001").ssl_context() is None


def test_client_certificate_is_loaded_and_leaves_no_file(tmp_path: Path) -> None:
    write_serving_pair(tmp_path, "client.svc")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    made = Credentials(
        server="https://x",
        ca_pem=(tmp_path / "ca.crt").read_text(),
        certificate_pem=(tmp_path / "tls.crt").read_text(),
        key_pem=(tmp_path / "tls.key").read_text(),
    )
    assert made.ssl_context(scratch=scratch) is not None
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("secret", ["t0ken-value", "key-value"])
def test_no_secret_is_ever_shown(secret: str) -> None:
    made = Credentials(server="https://x", token="t0ken-value", key_pem="key-value")
    assert secret not in repr(made) and secret not in str(made)


# --- token files -----------------------------------------------------------------------------------


def test_token_file_is_read_again_after_half_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(creds.time, "monotonic", lambda: now[0])
    path = tmp_path / "token"
    path.write_text("one")
    made = Credentials(server="https://x", token_path=path)
    assert made.bearer() == "one"
    path.write_text("two")
    now[0] += creds.TOKEN_REREAD_SECONDS - 1
    assert made.bearer() == "one"
    now[0] += 1
    assert made.bearer() == "two"
    path.write_text("three")
    assert made.bearer(fresh=True) == "three"


def test_fixed_token_stays() -> None:
    made = Credentials(server="https://x", token="t")
    assert (made.bearer(), made.bearer(fresh=True)) == ("t", "t")
    assert Credentials(server="https://x").bearer() is None


# --- in a pod --------------------------------------------------------------------------------------


def account(tmp_path: Path, *, namespace: bool = True) -> Path:
    (tmp_path / "token").write_text("one")
    (tmp_path / "ca.crt").write_text("CA")
    if namespace:
        (tmp_path / "namespace").write_text("windlass-system\n")
    return tmp_path


@pytest.mark.parametrize(
    ("host", "port", "server"),
    [
        ("10.0.0.1", "443", "https://10.0.0.1:443"),
        ("fd00::1", "6443", "https://[fd00::1]:6443"),
        ("kubernetes.default", None, "https://kubernetes.default:443"),
    ],
)
def test_address_of_the_server_comes_from_the_pods_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, port: str | None, server: str
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.delenv("KUBERNETES_SERVICE_PORT", raising=False)
    if port is not None:
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    made = in_cluster(account(tmp_path))
    assert made is not None
    assert (made.server, made.namespace, made.ca_pem) == (server, "windlass-system", "CA")


def test_pod_without_a_namespace_file_is_in_the_default_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    made = in_cluster(account(tmp_path, namespace=False))
    assert made is not None and made.namespace == "default"


@pytest.mark.parametrize(("host", "token"), [(None, True), ("10.0.0.1", False)])
def test_without_host_or_token_we_are_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str | None, token: bool
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if host is not None:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    account(tmp_path)
    if not token:
        (tmp_path / "token").unlink()
    assert in_cluster(tmp_path) is None


# --- which one -------------------------------------------------------------------------------------


def test_kubeconfig_that_was_asked_for_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    path = written(tmp_path, PLAIN)
    other = tmp_path / "other"
    other.write_text(yaml.safe_dump(PLAIN | {"current-context": "there"}))
    monkeypatch.setenv("KUBECONFIG", str(other))
    assert find(str(path)).server == "https://127.0.0.1:6443"
    assert find().server == "https://far:6443"
    assert find(str(path), "there").server == "https://far:6443"


def test_home_is_the_last_place_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with pytest.raises(CredentialsError) as caught:
        find()
    assert str(caught.value) == (
        f"kubeconfig: not found (got {tmp_path}/.kube/config); allowed: a kubeconfig, or a pod with a ServiceAccount "
        "token. hint: set KUBECONFIG, or run `windlass cluster up`"
    )
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube/config").write_text(yaml.safe_dump(PLAIN))
    assert find().server == "https://127.0.0.1:6443"
