"""Who this agent is, what it was started with, and the limits that it keeps.

Read once by `__main__`; everything else is handed the parts it needs. Must never be changed later:
what may change during a run comes by orders and through the store.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from windlass.api import meta
from windlass.api.contract import RunConfig

GRACE_RESERVE_SECONDS = 5.0
"""What is kept of the pod's grace period for writing the verdict and ending."""


class StartError(Exception):
    """The pod was given something unusable; the text is for the user."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One pod of the gang, from the downward API and the literals that the operator rendered."""

    pod: str
    pod_uid: str
    pod_ip: str
    node: str
    index: int
    ticket: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that the agents of a gang wait for each other and for ranks."""

    heartbeat_seconds: float = 1.0
    silence_seconds: float = 10.0
    retry_seconds: float = 0.25
    stop_seconds: float = 30.0
    straggler_seconds: float = 120.0
    pace_window_seconds: float = 10.0
    farewell_seconds: float = 3.0
    import_seconds: float = 300.0
    # Longer than any sign of life is late, shorter than the imports that go on meanwhile.
    quiet_seconds: float = 5.0
    silent_command_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """Where things are; the defaults are the mounts of a rendered pod."""

    run_config: Path
    bind: str
    port: int
    termination_log: Path
    ca_file: Path
    token_file: Path
    limits: Limits


def identity_from(environment: Mapping[str, str]) -> Identity:
    """The pod's identity; StartError names the variable that is missing or no number."""
    return Identity(
        pod=_text(environment, "POD_NAME"),
        pod_uid=_text(environment, "POD_UID"),
        pod_ip=_text(environment, "POD_IP"),
        node=environment.get("NODE_NAME", ""),
        index=_number(environment, "WINDLASS_INDEX"),
        ticket=_number(environment, "WINDLASS_TICKET"),
        attempt=_number(environment, "WINDLASS_ATTEMPT"),
    )


def options_from(arguments: Sequence[str]) -> Options:
    """Options of the command line; only tests and benchmarks give any."""
    parser = argparse.ArgumentParser(prog="windlass-agent", description="Runs the ranks of one pod.")
    default = Limits()
    parser.add_argument("--run-config", type=Path, default=Path(meta.RUN_CONFIG_MOUNT) / meta.RUN_CONFIG_FILE)
    parser.add_argument("--bind", default="")
    parser.add_argument("--port", type=int, default=meta.AGENT_PORT)
    parser.add_argument("--termination-log", type=Path, default=Path(meta.TERMINATION_LOG))
    parser.add_argument("--ca-file", type=Path, default=Path(meta.CA_MOUNT) / meta.CA_FILE)
    parser.add_argument("--token-file", type=Path, default=Path(meta.TOKEN_MOUNT) / meta.TOKEN_FILE)
    parser.add_argument("--heartbeat-seconds", type=float, default=default.heartbeat_seconds)
    parser.add_argument("--silence-seconds", type=float, default=default.silence_seconds)
    parser.add_argument("--stop-seconds", type=float, default=default.stop_seconds)
    parser.add_argument("--import-seconds", type=float, default=default.import_seconds)
    parser.add_argument("--quiet-seconds", type=float, default=default.quiet_seconds)
    parser.add_argument("--silent-command-seconds", type=float, default=default.silent_command_seconds)
    parser.add_argument("--pace-window-seconds", type=float, default=default.pace_window_seconds)
    given = parser.parse_args(arguments)
    limits = Limits(
        heartbeat_seconds=given.heartbeat_seconds,
        silence_seconds=given.silence_seconds,
        stop_seconds=given.stop_seconds,
        import_seconds=given.import_seconds,
        quiet_seconds=given.quiet_seconds,
        silent_command_seconds=given.silent_command_seconds,
        pace_window_seconds=given.pace_window_seconds,
    )
    return Options(
        run_config=given.run_config,
        bind=given.bind,
        port=given.port,
        termination_log=given.termination_log,
        ca_file=given.ca_file,
        token_file=given.token_file,
        limits=limits,
    )


def load_run_config(path: Path) -> RunConfig:
    """The run's configuration; StartError says what is wrong with the file."""
    try:
        return RunConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StartError(
            f"{path.name}: cannot be read (got {error.strerror}); allowed the mounted run configuration. "
            "hint: check that the run's ConfigMap exists and is mounted."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "(root)"
        raise StartError(
            f"{path.name}: {where}: {first['msg']} (got {str(first.get('input'))[:80]!r}); allowed what this "
            "version of the contract knows. hint: the workload image must not be older than the operator."
        ) from error


def rank_threads(config: RunConfig, available: int) -> int:
    """Threads of one rank: the pod's CPU request, as far as the node has it, shared by its ranks."""
    cpu = config.spec.resources.per_node.cpu
    asked = float(cpu[:-1]) / 1000 if cpu.endswith("m") else _plain(cpu, available)
    return max(1, min(available, math.ceil(asked)) // config.spec.resources.ranks_per_node)


def available_processors() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0))


def _plain(cpu: str, available: int) -> float:
    try:
        return float(cpu)
    except ValueError:
        return float(available)


def _text(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise StartError(
            f"env.{name}: is missing (got nothing); allowed a non-empty text. hint: pods of a run are made "
            "by the operator, which sets it."
        )
    return value


def _number(environment: Mapping[str, str], name: str) -> int:
    value = _text(environment, name)
    if not (value.isascii() and value.isdigit()):
        raise StartError(
            f"env.{name}: is no number (got {value!r}); allowed 0 or more. hint: pods of a run are made by "
            "the operator, which sets it."
        )
    return int(value)
