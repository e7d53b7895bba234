"""A real kube-apiserver and etcd on free loopback ports, and a thin client of dictionaries for tests.

Fixtures of this layer start one per session. Programs come from KUBEBUILDER_ASSETS if that is set, else
from the embedded cluster's cache, where they are built once. Nothing runs here but these two processes.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import urllib3
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).resolve().parents[2]
ADMIN_TOKEN = "admin-of-this-test-run"
START_SECONDS = 60.0
Object = dict[str, Any]


@dataclass(frozen=True)
class Response:
    """Status code and decoded body of one request."""

    code: int
    body: Any
    warnings: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """The message of a Status; empty for anything else."""
        return str(self.body.get("message", "")) if isinstance(self.body, dict) else str(self.body)

    @property
    def causes(self) -> list[tuple[str, str]]:
        """(field, message) of every cause of a Status."""
        details = self.body.get("details", {}) if isinstance(self.body, dict) else {}
        return [(one.get("field", ""), one.get("message", "")) for one in details.get("causes", [])]

    def expect(self, *codes: int) -> Any:
        """The body, if the code is one of these."""
        assert self.code in codes, f"expected {codes}, got {self.code}: {self.message}"
        return self.body


@cache
def _connections(context: ssl.SSLContext) -> urllib3.PoolManager:
    """Connections that are kept: a handshake costs both sides more than most requests do."""
    return urllib3.PoolManager(ssl_context=context, retries=False, timeout=60)


@dataclass(frozen=True)
class Client:
    """Requests to one API server as one user; every write is checked with fieldValidation=Strict."""

    url: str
    context: ssl.SSLContext
    headers: dict[str, str] = field(default_factory=dict)

    def impersonating(self, user: str, *groups: str) -> Client:
        """The same client as another user."""
        extra = {"Impersonate-User": user}
        if groups:
            extra["Impersonate-Group"] = groups[0]
        return replace(self, headers={**self.headers, **extra})

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, str] | None = None,
        media: str = "json",
    ) -> Response:
        """One request; HTTP errors are responses, not exceptions."""
        url = f"{self.url}{path}"
        if query:
            url += "?" + urllib.parse.urlencode(query)
        data = None if body is None else (body if isinstance(body, bytes) else json.dumps(body).encode())
        headers = {**self.headers, "Content-Type": f"application/{media}", "Accept": "application/json"}
        answer = _connections(self.context).request(method, url, body=data, headers=headers)
        try:
            decoded = json.loads(answer.data) if answer.data else {}
        except json.JSONDecodeError:
            decoded = answer.data.decode(errors="replace")
        return Response(answer.status, decoded, tuple(answer.headers.getlist("Warning")))

    def get(self, path: str) -> Response:
        return self.request("GET", path)

    def table(self, path: str) -> Any:
        """The list at `path` as `kubectl get` is given it."""
        kind = "application/json;as=Table;v=v1;g=meta.k8s.io"
        headers = {**self.headers, "Accept": kind}
        answer = _connections(self.context).request("GET", f"{self.url}{path}", headers=headers)
        assert answer.status == 200, answer.data
        return json.loads(answer.data)

    def until(self, holds: Callable[[], bool], seconds: float = 20.0) -> None:
        """Ask again until `holds`; fail after `seconds`."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, "the server did not come to it"
            time.sleep(0.1)

    def create(self, path: str, body: Any, *, dry_run: bool = False, validation: str = "Strict") -> Response:
        query = {"fieldValidation": validation} | ({"dryRun": "All"} if dry_run else {})
        return self.request("POST", path, body, query=query)

    def replace(self, path: str, body: Any, *, dry_run: bool = False) -> Response:
        query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return self.request("PUT", path, body, query=query)

    def merge(self, path: str, body: Any, *, dry_run: bool = False) -> Response:
        query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return self.request("PATCH", path, body, query=query, media="merge-patch+json")

    def apply(self, path: str, body: Any, *, manager: str = "tests", force: bool = True) -> Response:
        query = {"fieldManager": manager, "force": str(force).lower(), "fieldValidation": "Strict"}
        return self.request("PATCH", path, body, query=query, media="apply-patch+yaml")

    def delete(self, path: str) -> Response:
        return self.request("DELETE", path)


def programs() -> dict[str, Path]:
    """Paths of etcd and kube-apiserver; builds or unpacks what is not there yet."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets:
        return {name: Path(assets) / name for name in ("etcd", "kube-apiserver")}
    from windlass.cli.cluster import binaries, debian
    from windlass.cli.cluster.paths import cache_directory

    cache = cache_directory()
    built = binaries.ensure(ROOT / "cluster", cache)
    return {"kube-apiserver": built["kube-apiserver"], "etcd": debian.ensure(cache).paths["etcd"]}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on right now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return found


def write_certificates(directory: Path) -> None:
    """serving.crt and serving.key for 127.0.0.1 (its own CA), and the key pair of service accounts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "windlass-tests")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "serving.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_key(directory / "serving.key", key)
    accounts = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    _write_key(directory / "accounts.key", accounts)


def _write_key(path: Path, key: Any) -> None:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    path.chmod(0o600)


def _etcd(program: Path, directory: Path, *, client: int, peer: int) -> list[str]:
    return [
        str(program),
        f"--data-dir={directory}/etcd",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
        "--unsafe-no-fsync",
    ]


def _api_server(program: Path, directory: Path, *, etcd: int, port: int, flags: Sequence[str]) -> list[str]:
    return [
        str(program),
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={directory}/serving.crt",
        f"--tls-private-key-file={directory}/serving.key",
        f"--cert-dir={directory}",
        f"--token-auth-file={directory}/tokens.csv",
        "--authorization-mode=RBAC",
        "--endpoint-reconciler-type=none",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={directory}/accounts.key",
        f"--service-account-signing-key-file={directory}/accounts.key",
        "--profiling=false",
        *flags,
    ]


# Without a controller manager nobody makes the default ServiceAccount that this plugin asks for.
ALONE = ("--disable-admission-plugins=ServiceAccount",)


@contextmanager
def running(
    directory: Path, *, flags: Sequence[str] = ALONE, environment: Mapping[str, str] | None = None
) -> Iterator[Client]:
    """Start etcd and kube-apiserver below `directory`; stop both at the end, whatever happened.

    `flags` are the API server's own besides those that every one of these tests needs. A port may be taken by somebody
    else between our looking for it and our use of it: then others are tried.
    """
    with ExitStack() as stack:
        for others in (2, 1, 0):
            try:
                client = stack.enter_context(_on_free_ports(directory, flags, environment))
                break
            except AssertionError as error:
                if not others or "address already in use" not in str(error):
                    raise
        yield client


@contextmanager
def _on_free_ports(
    directory: Path, flags: Sequence[str], environment: Mapping[str, str] | None
) -> Iterator[Client]:
    found = programs()
    client_port, peer_port, port = free_ports(3)
    write_certificates(directory)
    (directory / "tokens.csv").write_text(f'{ADMIN_TOKEN},admin,admin,"system:masters"\n')
    commands = [
        _etcd(found["etcd"], directory, client=client_port, peer=peer_port),
        _api_server(found["kube-apiserver"], directory, etcd=client_port, port=port, flags=flags),
    ]
    context = ssl.create_default_context(cafile=str(directory / "serving.crt"))
    client = Client(f"https://127.0.0.1:{port}", context, {"Authorization": f"Bearer {ADMIN_TOKEN}"})
    try:
        with started(commands, directory, environment) as processes:
            _await_ready(client, processes, directory)
            yield client
    finally:
        _connections(context).clear()
        shutil.rmtree(directory / "etcd", ignore_errors=True)


@contextmanager
def started(
    commands: Sequence[Sequence[str]], directory: Path, environment: Mapping[str, str] | None = None
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start programs that log below `directory`; kill them at the end, the last one first.

    `environment` is laid over this process's own.
    """
    variables = {**os.environ, **(environment or {})}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (directory / f"{Path(command[0]).name}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        command, stdout=log, stderr=subprocess.STDOUT, cwd=directory, env=variables
                    )
                )
        yield processes
    finally:
        # An API server that is asked to end takes ten seconds, and what it would put in order is thrown away.
        for process in reversed(processes):
            process.kill()
        for process in processes:
            process.wait()


def _await_ready(client: Client, processes: list[subprocess.Popen[bytes]], directory: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        for process in processes:
            name = Path(str(process.args[0])).name  # type: ignore[index]
            assert process.poll() is None, f"{name} exited: {(directory / f'{name}.log').read_text()[-2000:]}"
        try:
            if client.get("/readyz").code == 200:
                return
        except urllib3.exceptions.HTTPError:
            pass
        time.sleep(0.05)
    raise AssertionError(
        f"kube-apiserver not ready: {(directory / 'kube-apiserver.log').read_text()[-2000:]}"
    )


CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def install(client: Client, crd: Object) -> None:
    """Apply a CRD and wait until the server serves it (its Established condition, then its discovery)."""
    name = crd["metadata"]["name"]
    client.apply(f"{CRD_PATH}/{name}", crd).expect(200, 201)
    spec = crd["spec"]
    path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        conditions = client.get(f"{CRD_PATH}/{name}").expect(200).get("status", {}).get("conditions") or []
        established = any(one["type"] == "Established" and one["status"] == "True" for one in conditions)
        if established and client.get(path).code == 200:
            return
        time.sleep(0.05)
    raise AssertionError(f"{name} is not served: {conditions}")


def shipped_crds() -> list[Object]:
    """The CRDs of this repository."""
    return [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
