"""The serving certificate of the report server, read from a mounted directory and read again when it changes.

The chart makes the Secret and mounts it; the operator has no right to read Secrets. Replacing the files takes
effect for new connections without a restart.
"""

from __future__ import annotations

import ssl
from asyncio import sslproto
from pathlib import Path
from typing import Final

CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"
AUTHORITY: Final = "ca.crt"
READ_BYTES: Final = 16 * 1024
"""The largest record of TLS."""


def read_in_small_pieces() -> None:
    """Have asyncio keep a read buffer of READ_BYTES for each TLS connection.

    Its own 256 KB are there as long as the connection is: leaders of 1,000 gangs kept 218 MB of the operator's memory.
    """
    sslproto.SSLProtocol.max_size = READ_BYTES


class ServingCertificate:
    """One TLS context whose certificate follows the files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._seen = self._stamp()
        self._load()

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        # Kubernetes swaps a link, so the files' own identity changes even within one clock tick.
        return tuple(
            (status.st_mtime_ns, status.st_ino)
            for status in ((self._directory / name).stat() for name in (CERTIFICATE, KEY, AUTHORITY))
        )

    def _load(self) -> None:
        self.context.load_cert_chain(self._directory / CERTIFICATE, self._directory / KEY)

    def authority_pem(self) -> str:
        """The CA that agents check the certificate against."""
        return (self._directory / AUTHORITY).read_text(encoding="utf-8")

    def refresh(self) -> bool:
        """Load the files again if they changed; whether they did. A half-written pair is tried again later."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return False
            self._load()
        except (OSError, ssl.SSLError):
            return False
        self._seen = stamp
        return True
