"""As much of a tracking server as a recorder asks for, in this process, with every way to misbehave.

Metrics are kept as the real store keeps them: the same key, step, time and value twice is one row.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = Callable[[BaseHTTPRequestHandler], None]
Row = tuple[str, int, int, float]


def plain(status: int, body: bytes = b"", kind: str = "text/html") -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def refusal(code: str, message: str = "no", status: int = 400) -> Answer:
    return plain(status, json.dumps({"error_code": code, "message": message}).encode(), "application/json")


def hang_up(request: BaseHTTPRequestHandler) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)
    request.close_connection = True


def half_an_answer(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(b'{"run": ')
    request.close_connection = True


def nonsense(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    request.close_connection = True


def slow(seconds: float) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        hang_up(request)

    return answer


class FakeMLflow:
    """Serves until close(). `trouble` answers instead of the server, for calls that `where` names."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.metrics: dict[str, dict[Row, None]] = {}
        self.calls: list[str] = []
        self.authorizations: set[str | None] = set()
        self.trouble: Answer | None = None
        self.where = ""
        self.lose_answers = 0
        """So many calls are carried out, and their answers lost."""
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.handle(
                    self, {key: found[0] for key, found in parse_qs(urlsplit(self.path).query).items()}
                )

            def do_POST(self) -> None:
                outer.handle(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that has given up."""

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def history(self, run_id: str, key: str = "loss") -> list[tuple[int, float]]:
        return sorted((step, value) for name, step, _, value in self.metrics[run_id] if name == key)

    def handle(self, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        call = urlsplit(request.path).path.partition("/api/2.0/mlflow/")[2]
        with self._lock:
            self.calls.append(call)
            self.authorizations.add(request.headers.get("Authorization"))
            if self.trouble is not None and self.where in call:
                trouble: Answer = self.trouble
            else:
                trouble = self.answer(call, body)
                if self.lose_answers:
                    self.lose_answers -= 1
                    trouble = hang_up
        trouble(request)

    def answer(self, call: str, body: dict[str, Any]) -> Answer:
        if call == "experiments/get-by-name":
            found = self.experiments.get(body["experiment_name"])
            if found is None:
                return refusal("RESOURCE_DOES_NOT_EXIST", status=404)
            return self.tell({"experiment": {"experiment_id": found}})
        if call == "experiments/create":
            if body["name"] in self.experiments:
                return refusal("RESOURCE_ALREADY_EXISTS")
            self.experiments[body["name"]] = str(len(self.experiments) + 1)
            return self.tell({"experiment_id": self.experiments[body["name"]]})
        if call == "runs/search":
            tag, _, value = body["filter"].partition(" = ")
            key, wanted = tag.removeprefix("tags.").strip("`"), value.strip("'")
            found = [run for run in self.runs.values() if run["tags"].get(key) == wanted]
            return self.tell({"runs": [self.wire(run) for run in found[: body["max_results"]]]})
        if call == "runs/create":
            run_id = f"run{len(self.runs) + 1}"
            tags = {tag["key"]: tag["value"] for tag in body["tags"]}
            self.runs[run_id] = {"id": run_id, "tags": tags, "params": {}, "status": "RUNNING"}
            self.metrics[run_id] = {}
            return self.tell({"run": self.wire(self.runs[run_id])})
        run = self.runs.get(body["run_id"])
        if run is None:
            return refusal("RESOURCE_DOES_NOT_EXIST", status=404)
        if call == "runs/log-batch":
            self.log(run, body)
        elif call == "runs/update":
            run["status"] = body["status"]
        return self.tell({"run": self.wire(run)})

    def log(self, run: dict[str, Any], body: dict[str, Any]) -> None:
        run["params"].update({each["key"]: each["value"] for each in body.get("params", [])})
        run["tags"].update({each["key"]: each["value"] for each in body.get("tags", [])})
        rows = self.metrics[run["id"]]
        for each in body.get("metrics", []):
            rows.setdefault((each["key"], each["step"], each["timestamp"], each["value"]))

    def wire(self, run: dict[str, Any]) -> dict[str, Any]:
        latest: dict[str, Row] = {}
        for row in self.metrics[run["id"]]:
            if row[0] not in latest or row[1:] > latest[row[0]][1:]:
                latest[row[0]] = row
        return {
            "info": {"run_id": run["id"], "status": run["status"]},
            "data": {
                "metrics": [
                    {"key": key, "step": step, "timestamp": at, "value": value}
                    for key, step, at, value in latest.values()
                ],
                "params": [{"key": key, "value": value} for key, value in run["params"].items()],
                "tags": [{"key": key, "value": value} for key, value in run["tags"].items()],
            },
        }

    def tell(self, answer: dict[str, Any]) -> Answer:
        return plain(200, json.dumps(answer).encode(), "application/json")


TROUBLES: list[tuple[str, Answer, str]] = [
    ("500", plain(500, b"<html>"), "answers with status 500"),
    ("502", plain(502), "answers with status 502"),
    ("503", plain(503, b"busy"), "answers with status 503"),
    ("404 of a proxy", plain(404, b"<html>not here</html>"), "answers with status 404"),
    ("401", plain(401), "answers with status 401"),
    ("403 in JSON", refusal("PERMISSION_DENIED", "go away", 403), "PERMISSION_DENIED: go away"),
    ("429", refusal("REQUEST_LIMIT_EXCEEDED", "slow down", 429), "REQUEST_LIMIT_EXCEEDED: slow down"),
    ("internal error", refusal("INTERNAL_ERROR", "db is locked", 500), "INTERNAL_ERROR: db is locked"),
    (
        "another form of error",
        plain(400, b'{"detail": "x"}', "application/json"),
        "answers with status 400",
    ),
    ("a page", plain(200, b"<html>login</html>"), "does not answer"),
    ("nothing", plain(200, b""), ""),
    ("null", plain(200, b"null", "application/json"), "does not answer"),
    ("a list", plain(200, b"[1]", "application/json"), "does not answer"),
    ("an empty object", plain(200, b"{}", "application/json"), ""),
    ("hangs up", hang_up, "does not answer"),
    ("half an answer", half_an_answer, "does not answer"),
    ("not HTTP", nonsense, "does not answer"),
]
"""Every kind of trouble by name, the answer that makes it, and what is said of it."""


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true result of `condition`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.002)
    return found
