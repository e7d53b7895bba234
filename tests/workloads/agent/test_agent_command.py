"""Real agents that run commands of the user's own, which use no library: the ladder without a word from the ranks."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

import pytest

from windlass.api.meta import ExitCode
from windlass_workloads.agent.commands import MODULE
from workloads.agent.support import Agent, MakeRun, Run, session_of, state_of, wait_for

pytestmark = pytest.mark.workloads

PATIENCE = 300.0
STARTER = MODULE.encode()
# One life in a file, so that the next one knows that it is not the first.
LIVES = 'echo "$RANK $TORCHELASTIC_RESTART_COUNT $WORLD_SIZE" >> "$HOME_OF_TEST/lives"; '
# A shell is there before it has run its first line: a signal may come only once it says so.
READY = 'touch "$HOME_OF_TEST/ready-$RANK"; '


def commanded(make_run: MakeRun, tmp_path: Path, script: str, **changes: object) -> Run:
    environment = {"HOME_OF_TEST": str(tmp_path)}
    run: Run = make_run(custom=["sh", "-c", LIVES + script], environment=environment, **changes)
    return run


def lives(tmp_path: Path) -> list[str]:
    path = tmp_path / "lives"
    return sorted(path.read_text().splitlines()) if path.exists() else []


def ranks_of(agent: Agent, count: int) -> list[int]:
    """Ranks once they are the command, by number."""

    def found() -> list[int]:
        running = [
            pid
            for pid in agent.ranks()
            if session_of(pid) == pid and STARTER not in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        return sorted(running) if len(running) == count else []

    return wait_for(f"{count} ranks of the command", found, PATIENCE)


def wait_until_ready(tmp_path: Path, *ranks: int) -> None:
    def ready() -> bool:
        return all((tmp_path / f"ready-{rank}").exists() for rank in ranks)

    wait_for(f"ranks {ranks} that can be signalled", ready, PATIENCE)


def test_all_ranks_at_zero_complete_the_run(make_run: MakeRun, tmp_path: Path) -> None:
    run = commanded(make_run, tmp_path, 'echo "hello from $RANK"')
    agent = run.start()
    assert agent.wait(PATIENCE) == 0, agent.log
    assert (agent.verdict.result, agent.verdict.step) == ("Succeeded", 0)
    assert lives(tmp_path) == ["0 0 2", "1 0 2"]
    for rank in (0, 1):
        assert f"[rank {rank}] hello from {rank}\n" in agent.log
    assert run.recoveries() == []


def test_a_killed_rank_restarts_all_in_their_pods(make_run: MakeRun, tmp_path: Path) -> None:
    script = READY + 'test "$TORCHELASTIC_RESTART_COUNT" = 1 || exec sleep 600'
    run = commanded(make_run, tmp_path, script, nodes=2, ranks=1)
    leader, follower = run.start_all()
    ranks_of(leader, 1)
    (victim,) = ranks_of(follower, 1)
    wait_until_ready(tmp_path, 0, 1)
    os.kill(victim, signal.SIGKILL)
    assert leader.wait(PATIENCE) == 0, leader.log
    assert follower.wait(PATIENCE) == 0, follower.log
    assert lives(tmp_path) == ["0 0 2", "0 1 2", "1 0 2", "1 1 2"]
    (row,) = run.recoveries()
    assert (row["rung"], row["class"], row["signal"]) == ("InPlace", "Crash", 9)
    assert row["firstFailed"] == {"rank": 1, "pod": "toy-1-2", "node": "node-1"}


def test_a_lost_pod_is_waited_for(make_run: MakeRun, tmp_path: Path) -> None:
    script = 'test "$TORCHELASTIC_RESTART_COUNT" = 1 || exec sleep 600'
    arguments = ["--silence-seconds", "10"]
    run = commanded(make_run, tmp_path, script, nodes=2, ranks=1, arguments=arguments)
    leader, follower = run.start_all()
    for agent in (leader, follower):
        ranks_of(agent, 1)
    follower.send(signal.SIGKILL)
    follower.wait(PATIENCE)
    successor = run.start(1)
    assert leader.wait(PATIENCE) == 0, leader.log
    assert successor.wait(PATIENCE) == 0, successor.log
    (row,) = run.recoveries()
    assert (row["rung"], row["class"]) == ("RecreatePod", "Infrastructure")


@pytest.mark.parametrize(
    ("command", "says", "hint"),
    [
        (["no-such-program"], "the program is not there (got 'no-such-program')", "custom.image"),
        (["sh", "-c", "exec /etc/passwd"], "exit code 126", "check custom.command"),
        (
            ["sh", "-c", "echo 'ModuleNotFoundError: No module named x' >&2; exit 1"],
            "exit code 1",
            "windlass logs",
        ),
        (["sh", "-c", "echo 'error: bad learning rate' >&2; exit 11"], "exit code 11", "windlass logs"),
    ],
)
def test_a_setting_that_cannot_work_gets_one_retry_and_its_evidence(
    make_run: MakeRun, command: list[str], says: str, hint: str
) -> None:
    run = make_run(custom=command, ranks=1)
    agent = run.start()
    assert agent.wait(PATIENCE) == ExitCode.CONFIGURATION, agent.log
    failure = agent.verdict.failure
    assert failure is not None and agent.verdict.result == "Failed"
    assert (str(failure.failure_class), failure.reason) == ("Configuration", "Configuration")
    assert says in (failure.message or "") and hint in (failure.hint or "")
    assert failure.first_failed.rank == 0
    assert run.incarnation() == 2


def test_a_crash_that_comes_again_and_again_ends_the_run(make_run: MakeRun, tmp_path: Path) -> None:
    run = commanded(make_run, tmp_path, "echo 'ValueError: the weights caught fire' >&2; exit 3", ranks=1)
    agent = run.start()
    assert agent.wait(PATIENCE) != 0
    failure = agent.verdict.failure
    assert failure is not None and failure.reason == "NoProgress", failure
    assert any("the weights caught fire" in line for line in failure.evidence)
    assert 3 <= len(lives(tmp_path)) <= 4


def test_told_to_leave_the_ranks_get_sigterm_and_the_next_pod_goes_on(
    make_run: MakeRun, tmp_path: Path
) -> None:
    waits = 'test "$TORCHELASTIC_RESTART_COUNT" = 1 || while :; do sleep 0.1; done'
    script = 'trap "echo bye; exit 0" TERM; ' + READY + waits
    run = commanded(make_run, tmp_path, script, grace=300)
    agent = run.start()
    ranks_of(agent, 2)
    wait_until_ready(tmp_path, 0, 1)
    agent.send(signal.SIGTERM)
    assert agent.wait(PATIENCE) == ExitCode.PREEMPTED, agent.log
    assert (agent.verdict.result, agent.verdict.lost_steps) == ("Preempted", 0)
    assert agent.log.count("bye\n") == 2
    successor = run.start()
    assert successor.wait(PATIENCE) == 0, successor.log
    assert run.newest().budgets.used == {}


def test_a_rank_that_ignores_sigterm_is_killed_when_its_time_is_up(make_run: MakeRun, tmp_path: Path) -> None:
    script = 'trap "" TERM; ' + READY + "while :; do sleep 0.1; done"
    run = commanded(make_run, tmp_path, script, ranks=1, grace=8)
    agent = run.start()
    (rank,) = ranks_of(agent, 1)
    wait_until_ready(tmp_path, 0)
    agent.send(signal.SIGTERM)
    assert agent.wait(PATIENCE) == ExitCode.PREEMPTED, agent.log
    assert state_of(rank) in ("gone", "Z")


TELLS = 'echo $$ > "$HOME_OF_TEST/last"; exec sleep 600'


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_what_a_command_starts_does_not_outlive_it(make_run: MakeRun, tmp_path: Path, depth: int) -> None:
    """A child becomes the agent's own only once what started it is gone: each life of the command ends whole."""
    script = TELLS
    for _ in range(depth):
        script = f"sh -c {shlex.quote(script)} & wait"
    again = f'test "$TORCHELASTIC_RESTART_COUNT" = 1 || {{ {script}; }}'
    run = commanded(make_run, tmp_path, again, ranks=1)
    agent = run.start()
    (rank,) = ranks_of(agent, 1)
    last = tmp_path / "last"
    wait_for("the last of them", lambda: last.exists() and last.read_text().strip(), PATIENCE)
    os.kill(rank, signal.SIGKILL)
    wait_for("the next life", lambda: len(lives(tmp_path)) == 2, PATIENCE)
    assert state_of(int(last.read_text())) in ("gone", "Z")
    assert agent.wait(PATIENCE) == 0, agent.log


def test_a_dead_agent_takes_its_ranks_with_it(make_run: MakeRun, tmp_path: Path) -> None:
    run = commanded(make_run, tmp_path, "exec sleep 600")
    agent = run.start()
    ranks = ranks_of(agent, 2)
    agent.send(signal.SIGKILL)
    agent.wait(PATIENCE)
    wait_for("no rank left", lambda: all(state_of(rank) in ("gone", "Z") for rank in ranks), PATIENCE)


def test_silence_is_written_down_as_training(make_run: MakeRun, tmp_path: Path) -> None:
    script = 'while ! test -e "$HOME_OF_TEST/enough"; do sleep 0.1; done'
    arguments = ["--silent-command-seconds", "0.5"]
    run = commanded(make_run, tmp_path, script, ranks=1, arguments=arguments)
    agent = run.start()
    wait_for("training", lambda: any(row.get("state") == "Training" for row in run.rows()), PATIENCE)
    (tmp_path / "enough").touch()
    assert agent.wait(PATIENCE) == 0, agent.log
