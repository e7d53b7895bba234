"""The connections over which played leaders report: plain HTTP/1.1 over TLS, one kept open for each, as agents do.

A general client costs more than this, on the two cores that what is measured runs on as well. Like an agent's, a
request is two writes, head and body, with the fields that the operator reads.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from windlass.api.meta import REPORT_PATH

ANSWER_SECONDS = 30.0
TROUBLE = (OSError, EOFError, TimeoutError)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes

    @property
    def retry_after_seconds(self) -> float:
        """What the operator asks a leader to wait before its next report without news."""
        return float(json.loads(self.body).get("retryAfterSeconds", 0.0))


@dataclass
class Connection:
    """One leader's. Requests of one leader go one after another."""

    port: int
    host: str
    context: ssl.SSLContext
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, token: str, body: bytes) -> Answer:
        """Send one report; raises one of TROUBLE, after which the next one opens anew."""
        async with self._turn:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    reader, writer = await self._open()
                    writer.write(head(self.host, token, len(body)))
                    writer.write(body)
                    return await read(reader)
            except BaseException:
                # Also of one that is cancelled: its answer would be taken for the next one's.
                self.close()
                raise

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=self.context, server_hostname=self.host
            )
        return self._streams

    def close(self) -> None:
        """Let go of it."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


def head(host: str, token: str, length: int) -> bytes:
    """The request's first lines."""
    return (
        f"POST {REPORT_PATH} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def read(reader: asyncio.StreamReader) -> Answer:
    """One answer with a known length, which is what the operator sends."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines if line)
    return Answer(int(first.split(" ", 2)[1]), await reader.readexactly(int(fields["content-length"])))


def context(authority: Path) -> ssl.SSLContext:
    """Trusts the operator's certificate alone."""
    return ssl.create_default_context(cafile=str(authority))
