"""A cluster made of dictionaries, for commands that only read."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from windlass.api.meta import LABEL_INDEX
from windlass.cli.errors import CliError


def pod(name: str, index: int, *, phase: str = "Running", leaving: bool = False) -> Any:
    return SimpleNamespace(
        metadata=SimpleNamespace(
            name=name, labels={LABEL_INDEX: str(index)}, deletion_timestamp="x" if leaving else None
        ),
        status=SimpleNamespace(phase=phase),
        spec=SimpleNamespace(containers=[SimpleNamespace(command=["/env/python", "-m", "agent"])]),
    )


class FakeAccess:
    """Answers with what it was given; remembers what was asked for."""

    namespace = "team"

    def __init__(
        self,
        *versions: dict[str, Any],
        pods: list[Any] | None = None,
        logs: dict[str, list[str]] | None = None,
    ):
        self.versions, self._pods, self._logs = list(versions), pods or [], logs or {}
        self.ran: list[tuple[str, list[str]]] = []
        self.deleted: list[str] = []
        self.said = "killed 42"
        self.core = SimpleNamespace(delete_namespaced_pod=lambda name, namespace: self.deleted.append(name))
        self.api = SimpleNamespace(configuration=SimpleNamespace(host="https://elsewhere:6443"))

    def job(self, name: str) -> dict[str, Any]:
        if not self.versions:
            raise CliError(f"{name}: there is no such job")
        return self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]

    def pods(self, name: str) -> list[Any]:
        return self._pods

    def log_lines(self, name: str, *, follow: bool, tail: int | None = None) -> Iterator[str]:
        yield from self._logs[name]

    def run_in(self, name: str, command: list[str]) -> str:
        self.ran.append((name, command))
        return self.said
