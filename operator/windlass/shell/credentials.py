"""How the operator and the CLI prove who they are to the API server.

In a pod: the projected ServiceAccount token, re-read when it changes. Outside: a kubeconfig, read by the
official client. Never logs, prints or returns a token in an error.
"""

from __future__ import annotations

import base64
import os
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_REREAD_SECONDS: Final = 30.0


class CredentialsError(Exception):
    """No usable way to reach an API server; the text says what was looked for."""


@dataclass(slots=True)
class Credentials:
    """Server address, trust and identity. Identity is a token file, a fixed token, or a client certificate."""

    server: str
    ca_pem: str | None = None
    token_path: Path | None = None
    token: str | None = field(default=None, repr=False)
    certificate_pem: str | None = None
    key_pem: str | None = field(default=None, repr=False)
    insecure: bool = False
    namespace: str = "default"
    _read_at: float = field(default=-1e9, repr=False)

    def bearer(self, *, fresh: bool = False) -> str | None:
        """The token to send, re-read at most every 30 s, or now when `fresh` (after a 401)."""
        if self.token_path is None:
            return self.token
        now = time.monotonic()
        if fresh or now - self._read_at >= TOKEN_REREAD_SECONDS:
            self.token = self.token_path.read_text(encoding="utf-8").strip()
            self._read_at = now
        return self.token

    def ssl_context(self, scratch: Path | None = None) -> ssl.SSLContext | None:
        """TLS settings for the server, or None for plain http. A client certificate passes through `scratch`."""
        if not self.server.startswith("https"):
            return None
        context = ssl.create_default_context(cadata=self.ca_pem)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate_pem and self.key_pem:
            load_pair(context, self.certificate_pem, self.key_pem, scratch)
        return context


def load_pair(context: ssl.SSLContext, certificate_pem: str, key_pem: str, scratch: Path | None) -> None:
    """Load a pair from memory: the ssl module takes files only, so a private file lives for a moment."""
    import tempfile

    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        path = Path(directory) / "pair.pem"
        path.touch(mode=0o600)
        path.write_text(certificate_pem + "\n" + key_pem, encoding="utf-8")
        context.load_cert_chain(path)


def in_cluster(directory: Path = SERVICE_ACCOUNT) -> Credentials | None:
    """Credentials of this pod's ServiceAccount, or None outside of a pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (directory / "token").exists():
        return None
    host = f"[{host}]" if ":" in host else host
    return Credentials(
        server=f"https://{host}:{port}",
        ca_pem=(directory / "ca.crt").read_text(encoding="utf-8"),
        token_path=directory / "token",
        namespace=read_optional(directory / "namespace") or "default",
    )


def read_optional(path: Path) -> str | None:
    """A file's text without surrounding white space, or None where there is no such file."""
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def from_kubeconfig(path: Path, context: str | None = None) -> Credentials:
    """Credentials of a context (default: the current one). Exec plugins are refused with a hint."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise CredentialsError(
            f"kubeconfig: cannot be read (got {path}: {error.strerror}); allowed: a readable file. "
            "hint: set KUBECONFIG or pass --kubeconfig"
        ) from error
    except yaml.YAMLError:
        # Its own text would quote the line, which may be a token's.
        config = None
    if not isinstance(config, dict):
        raise CredentialsError(
            f"kubeconfig: is not YAML (got {path}); allowed: a kubeconfig. hint: set KUBECONFIG or pass --kubeconfig"
        )
    wanted = context or config.get("current-context")
    chosen = pick(config, "contexts", wanted).get("context") or {}
    cluster = pick(config, "clusters", chosen.get("cluster")).get("cluster") or {}
    user = pick(config, "users", chosen.get("user")).get("user") or {}
    if not cluster.get("server"):
        raise CredentialsError(
            f"kubeconfig.clusters: has no server (got cluster {chosen.get('cluster')!r}); allowed: server: "
            "https://host:port. hint: write the kubeconfig anew"
        )
    if "exec" in user or "auth-provider" in user:
        raise CredentialsError(
            f"kubeconfig.users: exec plugins are not supported (got user {chosen.get('user')!r}); allowed: token, "
            "tokenFile or client certificate. hint: make a token with kubectl create token"
        )
    token_file = user.get("tokenFile")
    return Credentials(
        server=str(cluster["server"]).rstrip("/"),
        ca_pem=inline(cluster, "certificate-authority", path.parent),
        token=user.get("token"),
        token_path=path.parent / token_file if token_file else None,
        certificate_pem=inline(user, "client-certificate", path.parent),
        key_pem=inline(user, "client-key", path.parent),
        insecure=bool(cluster.get("insecure-skip-tls-verify", False)),
        namespace=str(chosen.get("namespace") or "default"),
    )


def pick(config: dict[str, Any], section: str, name: str | None) -> dict[str, Any]:
    """The entry of a section by name; a CredentialsError lists the names there are."""
    entries = {entry.get("name"): entry for entry in config.get(section) or []}
    if name not in entries:
        known = ", ".join(sorted(str(entry) for entry in entries)) or "none"
        raise CredentialsError(
            f"kubeconfig.{section}: no such entry (got {name!r}); allowed: {known}. hint: pass --context"
        )
    entry: dict[str, Any] = entries[name]
    return entry


def inline(entry: dict[str, Any], key: str, base: Path) -> str | None:
    """PEM text given either inside the kubeconfig (base64) or as a path beside it."""
    data, file = entry.get(f"{key}-data"), entry.get(key)
    if data:
        try:
            return base64.b64decode("".join(str(data).split()), validate=True).decode()
        except ValueError:
            raise CredentialsError(
                f"kubeconfig: {key}-data is not base64; allowed: PEM text in base64. hint: write the kubeconfig anew"
            ) from None
    if not file:
        return None
    path = base / str(file)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CredentialsError(
            f"kubeconfig: {key} cannot be read (got {path}: {error.strerror}); allowed: a readable PEM file. "
            "hint: write the kubeconfig anew"
        ) from error


def find(kubeconfig: str | None = None, context: str | None = None) -> Credentials:
    """In-cluster credentials, else the kubeconfig given, $KUBECONFIG, or ~/.kube/config."""
    if kubeconfig is None:
        inside = in_cluster()
        if inside is not None:
            return inside
    path = Path(kubeconfig or os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    if not path.exists():
        raise CredentialsError(
            f"kubeconfig: not found (got {path}); allowed: a kubeconfig, or a pod with a ServiceAccount token. "
            "hint: set KUBECONFIG, or run `windlass cluster up`"
        )
    return from_kubeconfig(path, context)
