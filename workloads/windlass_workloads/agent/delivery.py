"""One connection to the operator that takes reports, kept from report to report.

HTTPS with the pod's projected token; token and authority are read anew, since both rotate. `reports` decides when to
send and what an undelivered report means. Blocks for seconds: calls belong into a thread.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from windlass.api.contract import Orders, Report, ReportTarget

TIMEOUT_SECONDS: Final = 5.0
ANSWER_BYTES: Final = 1 << 20


class Undelivered(Exception):
    """A report did not arrive; the text says why."""


class Connection(http.client.HTTPSConnection):
    """HTTPS to an address whose certificate carries another, fixed name."""

    def __init__(self, address: SplitResult, server_name: str, context: ssl.SSLContext) -> None:
        super().__init__(address.hostname or "", address.port or 443, timeout=TIMEOUT_SECONDS)
        self._server_name = server_name
        self._secure = context

    def connect(self) -> None:
        """Connects and checks the certificate against the server's name."""
        plain = socket.create_connection((self.host, self.port), TIMEOUT_SECONDS)
        # Head and body are two writes: the second would wait for the other end's delayed acknowledgement.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._secure.wrap_socket(plain, server_hostname=self._server_name)


class Courier:
    """Delivers reports. Its connection is kept while answers are good: a handshake costs an operator of many runs
    more than a report does.

    Anything but a good answer ends the connection, since another replica may lead by now.
    """

    def __init__(self, target: ReportTarget, *, token_file: Path, ca_file: Path) -> None:
        self._target = target
        self._address = urlsplit(target.url)
        self._token_file = token_file
        self._ca_file = ca_file
        self._busy = threading.Lock()
        self._kept: Connection | None = None

    def deliver(self, report: Report) -> Orders:
        """Sends one report and returns the answer; Undelivered when there is none."""
        if not self._busy.acquire(blocking=False):
            # The last report does not wait for one that hangs.
            return self._orders(report, keep=False)
        try:
            return self._orders(report, keep=True)
        finally:
            self._busy.release()

    def close(self) -> None:
        """Ends the kept connection; the next report makes another one."""
        with self._busy:
            if self._kept is not None:
                self._kept.close()
                self._kept = None

    def _orders(self, report: Report, *, keep: bool) -> Orders:
        # As bytes: http.client would write text as Latin-1.
        body = report.model_dump_json(by_alias=True, exclude_none=True).encode()
        try:
            status, answer = self._exchange(body, keep=keep)
        except (OSError, http.client.HTTPException) as error:
            raise Undelivered(str(error) or type(error).__name__) from error
        if status != http.client.OK:
            raise Undelivered(f"status {status}: {answer[:200].decode(errors='replace')}")
        try:
            return Orders.model_validate(json.loads(answer))
        except (ValueError, RecursionError) as error:
            raise Undelivered("the answer is no order") from error

    def _exchange(self, body: bytes, *, keep: bool) -> tuple[int, bytes]:
        """Status and body of the answer, over the kept connection where there is one."""
        kept = None
        if keep:
            kept, self._kept = self._kept, None
        if kept is not None:
            try:
                status, answer = self._ask(kept, body, keep=True)
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException):
                # The other end may have closed it long ago, which says nothing of who listens now.
                pass
            else:
                # Whoever does not lead any more says so as well, and another may by now.
                if status != http.client.SERVICE_UNAVAILABLE:
                    return status, answer
        context = ssl.create_default_context(cafile=str(self._ca_file))
        return self._ask(Connection(self._address, self._target.server_name, context), body, keep=keep)

    def _ask(self, connection: Connection, body: bytes, *, keep: bool) -> tuple[int, bytes]:
        is_kept = False
        try:
            token = self._token_file.read_text().strip()
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            connection.request("POST", self._address.path or "/", body=body, headers=headers)
            answer = connection.getresponse()
            data = answer.read(ANSWER_BYTES)
            is_kept = keep and answer.status == http.client.OK and answer.isclosed() and not answer.will_close
            if is_kept:
                self._kept = connection
            return answer.status, data
        finally:
            if not is_kept:
                connection.close()
