"""The cluster's certificate authority, certificates, service-account key and kubeconfig files.

Called by `up`. Files are made once and kept with mode 0600 below the cluster's directory.
It must never print a key or write one elsewhere.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from windlass.cli.cluster.paths import NODE_NAME

LIFETIME = datetime.timedelta(days=3650)
PROVISIONER_USER = "windlass:provisioner"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a certificate speaks for: file name, user name, group, and names it serves under."""

    file: str
    user: str
    group: str | None = None
    server_names: Sequence[str] = ()


def identities(server_names: Sequence[str], node_names: Sequence[str]) -> list[Identity]:
    """Every certificate of the cluster."""
    return [
        Identity("apiserver", "kube-apiserver", None, tuple(server_names)),
        Identity("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
        Identity("front-proxy-client", "front-proxy-client"),
        Identity("admin", "windlass:admin", "system:masters"),
        Identity("controller-manager", "system:kube-controller-manager"),
        Identity("scheduler", "system:kube-scheduler"),
        Identity("proxy", "system:kube-proxy"),
        Identity("provisioner", PROVISIONER_USER),
        Identity("kubelet", f"system:node:{NODE_NAME}", "system:nodes", tuple(node_names)),
    ]


def create(directory: Path, *, server_names: Sequence[str], node_names: Sequence[str]) -> None:
    """Make the authority, the service-account key and all certificates unless they are there."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (directory / "complete").exists():
        return
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _authority(authority_key)
    _write_key(directory / "ca.key", authority_key)
    _write(directory / "ca.crt", authority.public_bytes(serialization.Encoding.PEM))
    service_account = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    _write_key(directory / "service-account.key", service_account)
    public = service_account.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write(directory / "service-account.pub", public)
    for identity in identities(server_names, node_names):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(identity, key, authority=authority, authority_key=authority_key)
        _write_key(directory / f"{identity.file}.key", key)
        _write(directory / f"{identity.file}.crt", certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "complete").touch()


def kubeconfig(certificates: Path, *, server: str, identity: str) -> str:
    """A self-contained kubeconfig of one identity."""

    def encoded(name: str) -> str:
        return base64.b64encode((certificates / name).read_bytes()).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "windlass",
                "cluster": {"server": server, "certificate-authority-data": encoded("ca.crt")},
            }
        ],
        "users": [
            {
                "name": identity,
                "user": {
                    "client-certificate-data": encoded(f"{identity}.crt"),
                    "client-key-data": encoded(f"{identity}.key"),
                },
            }
        ],
        "contexts": [{"name": "windlass", "context": {"cluster": "windlass", "user": identity}}],
        "current-context": "windlass",
    }
    return yaml.safe_dump(document, sort_keys=False)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    _write(path, text.encode())


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "windlass-cluster")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _certificate(
    identity: Identity,
    key: ec.EllipticCurvePrivateKey,
    *,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, identity.user)]
    if identity.group is not None:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, identity.group))
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if identity.server_names:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    builder = (
        _builder(x509.Name(attributes), authority.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        # Python's strict verification wants the link to the issuing key.
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
    )
    if identity.server_names:
        names = [_general_name(name) for name in identity.server_names]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority_key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    _write(path, pem)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content)
