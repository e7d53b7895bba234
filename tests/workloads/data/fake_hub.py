"""A model hub on loopback that speaks what huggingface_hub needs: revisions, listings, files with etags and ranges.

It counts what was asked, wants a token where told so, and can break a download in the middle.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

RESOLVE = re.compile(r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
INFO = re.compile(r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?")
TREE = re.compile(r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)")


@dataclass
class Repository:
    """Files by commit, and names (branches, tags) of commits."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False

    def push(self, files: dict[str, bytes], *names: str) -> str:
        """A commit with these files; `main` and the given names point to it."""
        text = json.dumps({path: data.hex() for path, data in files.items()}, sort_keys=True)
        commit = hashlib.sha1(f"{len(self.commits)}{text}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        for name in ("main", *names):
            self.names[name] = commit
        return commit

    def commit_of(self, revision: str | None) -> str | None:
        revision = unquote(revision or "main")
        found = self.names.get(revision, revision)
        return found if found in self.commits else None


class FakeHub:
    """Serves until close(). `repositories` by `models/org/name` or `datasets/org/name`."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[tuple[str, str]] = []
        self.ranges: list[str | None] = []
        self.tokens: set[str | None] = set()
        self.break_after: dict[str, int] = {}
        """Bytes after which a download of a path is cut off, once."""
        self.status: int | None = None
        """Answered to everything, if set."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.handle(self)

            def do_HEAD(self) -> None:
                outer.handle(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def model(self, name: str) -> Repository:
        return self.repositories.setdefault(f"models/{name}", Repository())

    def dataset(self, name: str) -> Repository:
        return self.repositories.setdefault(f"datasets/{name}", Repository())

    def count(self, method: str, part: str = "") -> int:
        return sum(asked == method and part in path for asked, path in self.asked)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    # --- answers -------------------------------------------------------------------------------

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path
        self.asked.append((request.command, path))
        self.tokens.add(request.headers.get("Authorization"))
        if self.status is not None:
            self.refuse(request, self.status)
        elif match := TREE.fullmatch(path):
            self.with_files(request, match, self.tree)
        elif match := INFO.fullmatch(path):
            self.with_files(request, match, self.info)
        elif match := RESOLVE.fullmatch(path):
            self.with_files(request, match, self.file)
        else:
            self.refuse(request, 404, "EntryNotFound")

    def with_files(self, request: BaseHTTPRequestHandler, match: re.Match[str], answer: Any) -> None:
        """Checks repository, token and revision before anything is told."""
        fields = match.groupdict()
        kind = "datasets" if (fields["kind"] or "models").startswith("datasets") else "models"
        found = self.repositories.get(f"{kind}/{fields['repo']}")
        if found is None:
            self.refuse(request, 401 if request.headers.get("Authorization") is None else 404, "RepoNotFound")
            return
        if found.token is not None and request.headers.get("Authorization") != f"Bearer {found.token}":
            self.refuse(request, 401, "GatedRepo" if found.gated else "RepoNotFound")
            return
        if found.gated and found.token is None:
            self.refuse(request, 403, "GatedRepo")
            return
        commit = found.commit_of(fields["revision"])
        if commit is None:
            self.refuse(request, 404, "RevisionNotFound")
            return
        answer(request, fields, commit, found.commits[commit])

    def info(
        self, request: BaseHTTPRequestHandler, fields: dict[str, str], commit: str, files: dict[str, bytes]
    ) -> None:
        siblings = [{"rfilename": path} for path in files]
        self.tell(request, {"id": fields["repo"], "sha": commit, "siblings": siblings, "tags": []})

    def tree(
        self, request: BaseHTTPRequestHandler, fields: dict[str, str], commit: str, files: dict[str, bytes]
    ) -> None:
        self.tell(
            request,
            [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in files.items()
            ],
        )

    def file(
        self, request: BaseHTTPRequestHandler, fields: dict[str, str], commit: str, files: dict[str, bytes]
    ) -> None:
        path = unquote(fields["path"])
        data = files.get(path)
        if data is None:
            self.refuse(request, 404, "EntryNotFound")
            return
        asked = request.headers.get("Range")
        first = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        if request.command == "GET":
            self.ranges.append(asked)
        body = data[first:]
        request.send_response(206 if asked else 200)
        request.send_header("X-Repo-Commit", commit)
        request.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Accept-Ranges", "bytes")
        if asked:
            request.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        if request.command == "HEAD":
            return
        cut = self.break_after.pop(path, None)
        request.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            request.wfile.flush()
            request.close_connection = True

    def tell(self, request: BaseHTTPRequestHandler, answer: Any) -> None:
        body = json.dumps(answer).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)

    def refuse(self, request: BaseHTTPRequestHandler, status: int, code: str = "") -> None:
        request.send_response(status)
        if code:
            request.send_header("X-Error-Code", code)
            request.send_header("X-Error-Message", code)
        request.send_header("Content-Length", "0")
        request.end_headers()
