"""A real `mlflow server` on loopback with a SQLite file, stoppable; one for all tests of a session."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import cache
from pathlib import Path

from tests.workloads.train.support import free_port


class Server:
    """An MLflow server that can be taken down and brought up again on its port."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        if self.process is not None:
            return
        log = (self.root / "server.log").open("ab")
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.root / 'mlflow.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.root / "artifacts")]
        self.process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=self.root,
            env={
                **os.environ,
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLFLOW_DISABLE_TELEMETRY": "true",
            },
        )
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                assert self.process.poll() is None, (self.root / "server.log").read_text()[-2000:]
                time.sleep(0.2)
        raise AssertionError("the MLflow server did not come up")

    def down(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
            self.process = None


@cache
def shared() -> Server:
    """The session's server, running; ended with the process."""
    server = Server(Path(tempfile.mkdtemp(prefix="windlass-mlflow-")))
    atexit.register(server.down)
    server.up()
    return server
