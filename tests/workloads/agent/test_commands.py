"""How a rank that runs a command begins: its environment, its words when there is no such program, its two paths."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass.api.contract import RankContext, RankEvent
from windlass_workloads.agent.commands import Commands, environment_for
from windlass_workloads.agent.executing import CONTEXT_VARIABLE, EVENTS_VARIABLE, FIELD, describe
from windlass_workloads.agent.messages import Exited, Said, Upward
from windlass_workloads.agent.ranks import RankHost
from windlass_workloads.agent.reaper import Reaper
from workloads.agent.lone_leader import until
from workloads.agent.support import ROOT, config, state_of


def context(rank: int = 3, *, incarnation: int = 2, **fields: Any) -> RankContext:
    return RankContext(
        task="train",
        config=config(Path("/store"), custom=["python"], nodes=2, ranks=2),
        incarnation=incarnation,
        rank=rank,
        world_size=4,
        local_rank=rank % 2,
        local_world_size=2,
        master_address="10.0.0.1",
        master_port=4242,
        threads=3,
        **fields,
    )


EXPECTED = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "ROLE_RANK": "3",
    "ROLE_WORLD_SIZE": "4",
    "ROLE_NAME": "default",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "4242",
    "TORCHELASTIC_RUN_ID": "uid-1",
    "TORCHELASTIC_RESTART_COUNT": "1",
    "TORCHELASTIC_MAX_RESTARTS": "5",
    "OMP_NUM_THREADS": "3",
    "PYTHONUNBUFFERED": "1",
}


def test_the_environment_is_what_torchrun_gives() -> None:
    found = environment_for(context(), {})
    assert {name: found[name] for name in EXPECTED} == EXPECTED


@pytest.mark.parametrize(("incarnation", "restarts"), [(1, "0"), (2, "1"), (9, "8")])
def test_restarts_are_counted_from_zero(incarnation: int, restarts: str) -> None:
    assert environment_for(context(incarnation=incarnation), {})["TORCHELASTIC_RESTART_COUNT"] == restarts


def test_the_pods_variables_are_there_and_ranks_win() -> None:
    found = environment_for(context(), {"HF_HUB_OFFLINE": "1", "RANK": "77", "MASTER_ADDR": "evil"})
    assert (found["HF_HUB_OFFLINE"], found["RANK"], found["MASTER_ADDR"]) == ("1", "3", "10.0.0.1")


@pytest.mark.parametrize("path", ["/usr/bin:/bin", "", None])
def test_python_is_the_interpreter_that_has_the_library(path: str | None) -> None:
    found = environment_for(context(), {} if path is None else {"PATH": path})["PATH"].split(":")
    assert found[0] == str(Path(sys.executable).parent)
    assert "" not in found, "an empty part would mean the working directory"


DESCRIBED: list[tuple[OSError | ValueError, str]] = [
    (FileNotFoundError(errno.ENOENT, "gone"), "the program is not there (got 'trian')"),
    (PermissionError(errno.EACCES, "no"), "may not be executed (got 'trian')"),
    (PermissionError(errno.EPERM, "no"), "may not be executed (got 'trian')"),
    (OSError(errno.ENOEXEC, "Exec format error"), "is no program (got 'trian')"),
    (OSError(errno.E2BIG, "Argument list too long"), "Argument list too long"),
    (ValueError("embedded null byte"), "embedded null byte"),
]


@pytest.mark.parametrize(
    ("error", "text"), DESCRIBED, ids=[type(row[0]).__name__ + row[1][:8] for row in DESCRIBED]
)
def test_a_program_that_cannot_run_is_described(error: OSError | ValueError, text: str) -> None:
    message, hint = describe("trian", error)
    assert message.startswith(FIELD) and text in message and "allowed" in message and hint


# --- real processes ------------------------------------------------------------------------------


class Pod:
    """The ranks of one pod, started by a command."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.told: list[Upward] = []
        self.lines: list[bytes] = []
        reaper = Reaper()
        reaper.install(asyncio.get_running_loop())
        self.readiness: list[bool] = []
        self.commands = Commands(command, on_ready=self.readiness.append, environment=environment)
        self.host = RankHost(self.commands, reaper, self.told.append, self.lines.append)

    async def run(self, *contexts: RankContext, seconds: float = 300.0) -> list[Exited]:
        self.commands.start()
        self.host.start(contexts[0].incarnation, contexts)
        await until(lambda: not self.host.incarnation, seconds)
        return [each for each in self.told if isinstance(each, Exited)]

    def events(self) -> list[RankEvent]:
        return [each.event for each in self.told if isinstance(each, Said)]


@pytest.fixture
def pod(tmp_path: Path) -> Callable[..., Pod]:
    paths = os.pathsep.join(str(ROOT / name) for name in ("operator", "workloads"))

    def make(*command: str, **environment: str) -> Pod:
        return Pod(list(command), {"PATH": os.environ["PATH"], "PYTHONPATH": paths, **environment})

    return make


async def test_words_reach_the_program_as_they_are(pod: Callable[..., Pod]) -> None:
    words = ["$HOME", "`id`", "a b", "; false", "*", "'"]
    made = pod("printf", "%s\n", *words)
    (ended,) = await made.run(context())
    assert (ended.code, ended.tail) == (0, words)
    assert made.lines == [f"[rank 3] {word}\n".encode() for word in words]
    assert made.readiness == [True] and made.events() == []


async def test_ranks_see_their_own_places(pod: Callable[..., Pod]) -> None:
    made = pod("sh", "-c", 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MINE"', MINE="yes")
    ended = await made.run(context(2), context(3))
    assert sorted(each.tail[0] for each in ended) == ["2 0 4 yes", "3 1 4 yes"]


@pytest.mark.parametrize(
    ("program", "code", "text"),
    [
        ("no-such-program", 127, "the program is not there (got 'no-such-program')"),
        ("/etc/passwd", 126, "may not be executed (got '/etc/passwd')"),
    ],
)
async def test_a_program_that_cannot_run_says_so_to_the_agent(
    pod: Callable[..., Pod], program: str, code: int, text: str
) -> None:
    made = pod(program, "x")
    (ended,) = await made.run(context())
    (event,) = made.events()
    assert ended.code == code and event.failure is not None
    assert text in event.failure.message and event.rank == 3
    assert str(event.failure.failure_class) == "Configuration"
    assert any(text in line and "hint: " in line for line in ended.tail)


async def test_a_word_that_no_process_can_be_given_ends_the_rank(pod: Callable[..., Pod]) -> None:
    made = pod("printf", "a\0b")
    (ended,) = await made.run(context())
    assert ended.code == 1 and "spec.custom.command: cannot be run (embedded null byte)" in ended.tail[0]


READS = """
import json, os, subprocess, sys
if sys.argv[3:] != ["child"]:
    subprocess.run([sys.executable, *sys.orig_argv[1:], "child"], check=True)
context, events = (os.environ[name] for name in sys.argv[1:3])
read = json.load(open(context))
print(read["rank"], read["incarnation"], read["config"]["spec"]["custom"]["command"], os.path.exists(events))
"""


async def test_context_and_pipe_are_found_by_what_the_command_starts_too(pod: Callable[..., Pod]) -> None:
    (ended,) = await pod("python", "-c", READS, CONTEXT_VARIABLE, EVENTS_VARIABLE).run(context())
    assert (ended.code, ended.tail) == (0, ["3 2 ['python'] True"] * 2)


async def test_a_program_begins_with_the_signals_of_a_fresh_process(pod: Callable[..., Pod]) -> None:
    (ended,) = await pod("sh", "-c", "grep SigIgn /proc/self/status; exit 3").run(context())
    ignored = int(ended.tail[0].split()[1], 16)
    assert ended.code == 3 and ignored & 1 << 12 == 0, "SIGPIPE ends it"


async def test_children_of_a_command_end_with_it(pod: Callable[..., Pod]) -> None:
    made = pod("sh", "-c", "sleep 600 & echo $!; exit 0")
    (ended,) = await made.run(context())
    process = int(ended.tail[0])
    await until(lambda: state_of(process) in ("gone", "Z"), 60.0)


async def test_a_killed_host_leaves_no_command(pod: Callable[..., Pod]) -> None:
    made = pod("sleep", "600")
    made.commands.start()
    made.host.start(2, [context()])
    await until(lambda: made.host._ranks, 120.0)
    assert await made.host.kill_and_wait(60.0)
    (ended,) = [each for each in made.told if isinstance(each, Exited)]
    assert (ended.signal, ended.ordered) == (9, True)


async def test_asked_to_save_a_command_gets_sigterm(pod: Callable[..., Pod]) -> None:
    made = pod("sh", "-c", "trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    made.commands.start()
    made.host.start(2, [context()])
    await until(lambda: made.lines, 120.0)
    made.host.stop("Save")
    await until(lambda: not made.host.incarnation, 120.0)
    (ended,) = [each for each in made.told if isinstance(each, Exited)]
    assert (ended.code, ended.tail) == (0, ["up", "saved"])
