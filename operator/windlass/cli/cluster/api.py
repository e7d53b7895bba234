"""A small client of the Kubernetes API for the local cluster's own needs.

Used by `up`, `status` and the provisioner. JSON over HTTPS with the certificates of a kubeconfig file.
It must never be used by the operator, which has its own client.
"""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FIELD_MANAGER = "windlass-cluster"


class ApiError(Exception):
    """The API server refused or could not be reached; `status` is 0 for the latter."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Client:
    """Requests to one API server."""

    server: str
    context: ssl.SSLContext

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content_type: str = "application/json",
        timeout_seconds: float = 10.0,
    ) -> Any:
        """One request; the decoded answer, or its text where it is not JSON. Raises ApiError."""
        with self._open(
            method, path, body, content_type=content_type, timeout_seconds=timeout_seconds
        ) as answer:
            text = answer.read().decode()
        return json.loads(text) if text.startswith("{") else text

    def apply(self, path: str, document: dict[str, Any]) -> Any:
        """Server-side apply of one object at its own path. Raises ApiError."""
        query = f"?fieldManager={FIELD_MANAGER}&force=true"
        return self.request("PATCH", path + query, body=document, content_type="application/apply-patch+yaml")

    def watch(self, path: str, *, resource_version: str, seconds: int) -> Iterator[dict[str, Any]]:
        """Events of a collection until the server ends the watch. Raises ApiError."""
        query = f"?watch=1&resourceVersion={resource_version}&timeoutSeconds={seconds}"
        with self._open("GET", path + query, None, content_type="", timeout_seconds=seconds + 10.0) as answer:
            try:
                for line in answer:
                    yield json.loads(line)
            except (OSError, ValueError) as problem:
                raise ApiError(0, f"watch {path}: {problem}") from problem

    def _open(self, method: str, path: str, body: Any, *, content_type: str, timeout_seconds: float) -> Any:
        request = urllib.request.Request(  # noqa: S310 the server is our own kubeconfig's
            self.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": content_type} if body is not None else {},
        )
        try:
            return self._opener().open(request, timeout=timeout_seconds)
        except urllib.error.HTTPError as refused:
            detail = refused.read().decode(errors="replace")[:500]
            raise ApiError(refused.code, f"{method} {path}: {refused.code} {detail}") from refused
        except (OSError, ValueError) as problem:
            raise ApiError(0, f"{method} {path}: {problem}") from problem

    def _opener(self) -> urllib.request.OpenerDirector:
        # An empty proxy table: the API server is on this machine whatever the environment says.
        return urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.context)
        )


def from_kubeconfig(path: Path) -> Client:
    """The client of a kubeconfig's first cluster and user."""
    document = yaml.safe_load(path.read_text())
    cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    # The standard library reads client certificates from files only.
    with tempfile.NamedTemporaryFile(mode="wb", suffix=".pem") as pair:
        pair.write(base64.b64decode(user["client-certificate-data"]) + b"\n")
        pair.write(base64.b64decode(user["client-key-data"]))
        pair.flush()
        context.load_cert_chain(pair.name)
    return Client(cluster["server"], context)
