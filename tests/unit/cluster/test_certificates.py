"""Certificates that strict verification accepts, made once, readable by their owner only."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from windlass.cli.cluster import api, certificates

SERVER_NAMES = ["kubernetes.default.svc", "198.18.255.254", "198.19.0.1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cluster") / "certificates"
    certificates.create(made, server_names=SERVER_NAMES, node_names=["windlass", "198.18.255.254"])
    return made


def load(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())


def all_identities() -> list[certificates.Identity]:
    return certificates.identities(SERVER_NAMES, ["windlass"])


@pytest.mark.parametrize("identity", all_identities(), ids=lambda identity: identity.file)
def test_certificate_is_the_authority_s_and_names_its_user(
    folder: Path, identity: certificates.Identity
) -> None:
    authority, certificate = load(folder, "ca"), load(folder, identity.file)
    certificate.verify_directly_issued_by(authority)
    assert f"CN={identity.user}" in certificate.subject.rfc4514_string()
    assert (f"O={identity.group}" in certificate.subject.rfc4514_string()) == (identity.group is not None)
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert ExtendedKeyUsageOID.CLIENT_AUTH in usages
    assert (ExtendedKeyUsageOID.SERVER_AUTH in usages) == bool(identity.server_names)
    public = authority.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)


def test_only_administrators_are_masters() -> None:
    masters = [identity.file for identity in all_identities() if identity.group == "system:masters"]
    assert masters == ["apiserver-kubelet-client", "admin"]


def test_server_certificate_serves_the_names_and_addresses(folder: Path) -> None:
    names = load(folder, "apiserver").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["kubernetes.default.svc"]
    assert [str(item) for item in names.get_values_for_type(x509.IPAddress)] == SERVER_NAMES[1:]


def test_keys_are_for_their_owner_only(folder: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir() if path.suffix == ".key"}
    assert len(modes) == len(all_identities()) + 2
    assert set(modes.values()) == {0o600}


def test_second_call_keeps_what_is_there(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    certificates.create(folder, server_names=["other"], node_names=["other"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_interrupted_first_call_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("half")
    certificates.create(tmp_path, server_names=SERVER_NAMES, node_names=["windlass"])
    load(tmp_path, "admin").verify_directly_issued_by(load(tmp_path, "ca"))


def test_kubeconfig_is_complete_and_loads_into_a_client(folder: Path, tmp_path: Path) -> None:
    text = certificates.kubeconfig(folder, server="https://198.18.255.254:6443", identity="admin")
    document = yaml.safe_load(text)
    embedded = document["users"][0]["user"]["client-certificate-data"]
    assert base64.b64decode(embedded) == (folder / "admin.crt").read_bytes()
    path = tmp_path / "kubeconfig"
    certificates.write_private(path, text)
    assert path.stat().st_mode & 0o777 == 0o600
    client = api.from_kubeconfig(path)
    assert client.server == "https://198.18.255.254:6443"
    assert client.context.verify_mode == ssl.CERT_REQUIRED
    assert len(client.context.get_ca_certs()) == 1
