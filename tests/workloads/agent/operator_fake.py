"""An operator's report server for tests: HTTPS with a private authority, keeps what it is told."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from windlass.api.contract import Orders, Report, ReportTarget

SERVER_NAME = "windlass-reports.windlass-system.svc"


def certificates(directory: Path, server_name: str = SERVER_NAME) -> tuple[Path, Path, Path]:
    """Files of an authority's certificate, a server's certificate and its key."""
    now = dt.datetime.now(dt.UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "toy authority")])

    def builder(subject: x509.Name, public_key: Any) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(hours=1))
        )

    identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = (
        builder(authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(authority_key, hashes.SHA256())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "reports")])
    server = (
        builder(subject, key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(server_name)]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    directory.mkdir(parents=True, exist_ok=True)
    files = directory / "ca.crt", directory / "tls.crt", directory / "tls.key"
    files[0].write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(server.public_bytes(serialization.Encoding.PEM))
    files[2].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


class FakeOperator:
    """Serves until close(). `orders` is what it answers, `status` with which code."""

    def __init__(self, directory: Path, *, server_name: str = SERVER_NAME, port: int = 0) -> None:
        self.ca, certificate, key = certificates(directory, server_name)
        self.token = directory / "token"
        self.token.write_text("a-token")
        self.reports: list[Report] = []
        self.bearers: list[str] = []
        self.paths: list[str] = []
        self.orders = Orders()
        self.status = 200
        self.statuses: list[int] = []
        """Codes of the next answers, before `status` counts."""
        self.body: bytes | None = None
        """Answered instead of the orders."""
        self.headers: dict[str, str] = {}
        """Of each answer, beside its length."""
        self.connections: list[Any] = []
        """Sockets of all connections that there ever were."""
        self.hangs = threading.Event()
        """While it is set, nothing is answered."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                outer.connections.append(self.connection)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.bearers.append(self.headers["Authorization"])
                outer.paths.append(self.path)
                outer.reports.append(Report.model_validate_json(body))
                while outer.hangs.is_set():
                    time.sleep(0.01)
                answer = json.dumps(outer.orders.to_wire()).encode() if outer.body is None else outer.body
                self.send_response(outer.statuses.pop(0) if outer.statuses else outer.status)
                self.send_header("Content-Length", str(len(answer)))
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def last(self) -> Report:
        """The newest report. A leader that ends may send its last one beside one that is still on its way."""
        return max(self.reports, key=lambda each: each.sequence)

    @property
    def target(self) -> ReportTarget:
        return ReportTarget(
            url=f"https://127.0.0.1:{self.port}/v1/reports", server_name=SERVER_NAME, interval_seconds=0.3
        )

    @property
    def arguments(self) -> list[str]:
        return ["--ca-file", str(self.ca), "--token-file", str(self.token)]

    def hang_up(self) -> None:
        """Ends every connection, as a process does that ends."""
        for each in self.connections:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.hangs.clear()
        self.server.shutdown()
        self.server.server_close()
        self.hang_up()
