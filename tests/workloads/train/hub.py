"""A hub on loopback that speaks the few calls of a download: one repository, whose branch main can be pushed to."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REPOSITORY = "org/tiny"


class Hub:
    """The server; `requests` are the paths it was asked for."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.main = ""
        self.requests: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def push(self, directory: Path) -> str:
        """A new commit of main with the files of a directory."""
        files = {path.name: path.read_bytes() for path in directory.iterdir()}
        text = repr(sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items()))
        self.main = hashlib.sha1(text.encode()).hexdigest()
        self.commits[self.main] = files
        return self.main

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, path: str) -> tuple[Any, dict[str, str]]:
        """Content and headers: JSON below /api, else a file."""
        parts = path.strip("/").split("/")
        if parts[0] != "api":
            commit, name = parts[3], "/".join(parts[4:])
            data = self.commits[commit][name]
            return data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}
        commit = self.main if len(parts) < 6 or parts[5] == "main" else parts[5]
        files = self.commits[commit]
        if parts[4:5] == ["tree"]:
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            return rows, {}
        return {"id": REPOSITORY, "sha": commit, "siblings": [{"rfilename": name} for name in files]}, {}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                hub.requests.append(path)
                content, headers = hub.answer(path)
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(200)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                """Nothing."""

        return Handler
