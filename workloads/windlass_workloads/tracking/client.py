"""The few calls of MLflow's REST interface that a run needs, by the standard library.

Importing mlflow costs seconds, which every restart of a rank would pay; the library itself is used once, at the end,
in a process of its own (publish). Every call has a time limit. Credentials never appear in an error.
"""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

ALREADY_EXISTS = "RESOURCE_ALREADY_EXISTS"
MISSING = "RESOURCE_DOES_NOT_EXIST"


class Unreachable(Exception):
    """The server did not answer, or not in its own words; worth another try later."""


class Refused(Exception):
    """The server understood and said no. `code` is MLflow's error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Client:
    """One server. `credential` is a bearer token, or user:password."""

    uri: str
    credential: str | None = None
    timeout_seconds: float = 5.0

    def call(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One request; Unreachable or Refused when it fails."""
        url = f"{self.uri.rstrip('/')}/api/2.0/mlflow/{path}"
        data = None
        if method == "GET":
            url += "?" + urllib.parse.urlencode(body)
        else:
            data = json.dumps(body).encode()
        # The spec's pattern admits http and https only.
        request = urllib.request.Request(url, data=data, method=method, headers=self._headers())  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_seconds) as response:  # noqa: S310
                answer = json.loads(response.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            # What http.client says of a header that it refuses holds the header.
            words = "" if isinstance(error, ValueError) else f": {reason}"
            raise Unreachable(f"{self.uri} does not answer ({type(reason).__name__}{words})") from None
        if not isinstance(answer, dict):
            raise Unreachable(f"{self.uri} does not answer (with an object, got {type(answer).__name__})")
        return answer

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self.credential and ":" in self.credential:
            headers["Authorization"] = "Basic " + base64.b64encode(self.credential.encode()).decode()
        elif self.credential:
            headers["Authorization"] = f"Bearer {self.credential}"
        return headers

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        try:
            answer = json.loads(error.read())
            return Refused(str(answer["error_code"]), str(answer.get("message", ""))[:300])
        except (OSError, ValueError, KeyError, TypeError, RecursionError, http.client.HTTPException):
            return Unreachable(f"{self.uri} answers with status {error.code}")

    def experiment(self, name: str) -> str:
        """Id of an experiment, made if missing."""
        try:
            found = self.call("GET", "experiments/get-by-name", {"experiment_name": name})
            return str(found["experiment"]["experiment_id"])
        except Refused as error:
            if error.code != MISSING:
                raise
        try:
            return str(self.call("POST", "experiments/create", {"name": name})["experiment_id"])
        except Refused as error:
            if error.code != ALREADY_EXISTS:
                raise
        return self.experiment(name)

    def find_run(self, experiment: str, tag: str, value: str) -> str | None:
        """Id of the oldest run with this tag, None if there is none."""
        body = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{tag}` = '{value}'",
            "max_results": 1,
            "order_by": ["attributes.start_time ASC"],
        }
        runs = self.call("POST", "runs/search", body).get("runs", [])
        return str(runs[0]["info"]["run_id"]) if runs else None
