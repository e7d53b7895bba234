"""The library in one process: what it tells the agent, what it asks of a script, and what it saves."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import windlass_workloads.custom as windlass
from windlass.api.contract import RankContext, RankEvent
from windlass.api.meta import FailureClass, Phase, Reason
from windlass_workloads.agent.channel import RankChannel
from windlass_workloads.agent.dumps import catches
from windlass_workloads.agent.executing import CONTEXT_VARIABLE, EVENTS_VARIABLE
from windlass_workloads.checkpoint import incarnations, reader
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.errors import CheckpointUnusable, Fenced, TooLittleMemory
from windlass_workloads.checkpoint.store import RunStore
from windlass_workloads.custom.run import Run, ScriptLossSpiked, ScriptNotFinite
from windlass_workloads.train.failures import failure_of
from workloads.agent.support import config
from workloads.checkpoint.support import Events, incarnation


class Words(Events):
    """A channel that can be asked to save."""

    def __init__(self) -> None:
        super().__init__()
        self.save_requested = False
        self.closed = False

    def close(self) -> None:
        self.closed = True

    @property
    def kinds(self) -> list[str]:
        return [event.type for event in self.sent]

    @property
    def phases(self) -> list[Phase]:
        return [event.phase for event in self.of("Phase") if event.phase is not None]


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., RankContext]:
    store = RunStore(str(tmp_path / "store"))

    def make(number: int = 1, *, resume: str | None = None, windows: Any = (), **changes: Any) -> RankContext:
        incarnations.claim(store, incarnation(number))
        return RankContext(
            task="train",
            config=config(tmp_path / "store", custom=["python"], ranks=1, **changes),
            incarnation=number,
            resume=resume,
            skipped_windows=list(windows),
        )

    return make


def opened(context: RankContext, **more: Any) -> tuple[Run, Words]:
    words = Words()
    return Run(context, words, **more), words  # type: ignore[arg-type]


def loaded(context: RankContext, **more: Any) -> tuple[Run, Words]:
    run, words = opened(context, **more)
    run.load()
    return run, words


STATE = {"w": torch.arange(6.0), "epoch": 3}


# --- what the agent hears -----------------------------------------------------------------------


def test_a_whole_life_is_told_in_order(context: Callable[..., RankContext]) -> None:
    run, words = opened(context(), total_steps=5)
    with run:
        assert run.load() is None
        for step in range(1, 6):
            run.report(step, loss=1.0 / step, tokens=8, learning_rate=0.1)
            if run.due(step):
                run.save(step, STATE)
    assert words.kinds == [
        *("Phase", "Plan", "Phase", "Forward"),
        *["Step"] * 5,
        *("Phase", "Checkpoint", "Phase", "Done"),
    ]
    step = words.of("Step")[1]
    assert (step.step, step.loss, step.tokens, step.learning_rate) == (2, 0.5, 8, 0.1)
    assert step.seconds is not None and step.seconds >= 0
    assert words.of("Plan")[0].plan.total_steps == 5  # type: ignore[union-attr]
    assert words.of("Forward")[0].step == 1 and words.of("Done")[0].step == 5
    assert words.closed


@pytest.mark.parametrize(
    ("every", "total", "expected"), [(5, None, [5, 10]), (5, 7, [5, 7]), (4, 12, [4, 8, 12])]
)
def test_saves_are_due_by_interval_and_at_the_end(
    context: Callable[..., RankContext], every: int, total: int | None, expected: list[int]
) -> None:
    run, _ = loaded(context(every=every), total_steps=total)
    assert [step for step in range(1, 13) if run.due(step)][: len(expected)] == expected


def test_a_validation_loss_is_told_and_kept(context: Callable[..., RankContext], tmp_path: Path) -> None:
    run, words = loaded(context())
    run.report(1, loss=1.0, validation_loss=0.75)
    run.save(1, STATE, validation_loss=0.75)
    assert words.of("Validation")[0].loss == 0.75
    store = RunStore(str(tmp_path / "store"))
    assert manifests.read(store, "step-00000001.i1").validation_loss == 0.75


@pytest.mark.parametrize("raises", [False, True])
def test_a_validation_is_a_phase_of_its_own(context: Callable[..., RankContext], raises: bool) -> None:
    run, words = loaded(context())
    run.report(1, loss=1.0)
    with suppress(ValueError), run.validating():
        assert words.phases[-1] is Phase.VALIDATE
        if raises:
            raise ValueError("no such split")
    assert words.phases[-1] is Phase.TRAIN
    run.report(2, loss=1.0)
    assert words.of("Step")[-1].seconds < 1.0  # type: ignore[operator]


def test_after_the_last_step_the_script_is_at_its_export(context: Callable[..., RankContext]) -> None:
    run, words = loaded(context(), total_steps=2)
    run.report(1, loss=1.0)
    run.save(1, STATE)
    assert words.phases[-1] is Phase.TRAIN
    run.report(2, loss=1.0)
    run.save(2, STATE)
    assert words.phases[-1] is Phase.EXPORT
    with run.validating():
        pass
    assert words.phases[-2:] == [Phase.VALIDATE, Phase.EXPORT]


def test_what_is_saved_is_not_held_until_the_next_save(context: Callable[..., RankContext]) -> None:
    """A state gathered from all ranks is as large as the model and its optimizer."""
    run, words = loaded(context(in_background=True))
    run.save(1, STATE)
    assert run._tree.saved == {}
    with pytest.raises(TypeError):
        run.save(2, {"w": object()})
    assert run._tree.saved == {}
    run.close()
    assert [event.step for event in words.of("Checkpoint")] == [1]


def test_after_an_error_nobody_says_that_the_script_is_done(context: Callable[..., RankContext]) -> None:
    run, words = loaded(context())
    with pytest.raises(RuntimeError, match="boom"), run:
        raise RuntimeError("boom")
    assert "Done" not in words.kinds and words.closed


@pytest.mark.parametrize("saves", [True, False])
def test_a_stopped_script_says_what_is_saved_and_not_that_it_is_done(
    context: Callable[..., RankContext], saves: bool
) -> None:
    run, words = loaded(context(in_background=True))
    with run:
        run.report(1, loss=1.0)
        assert not run.should_stop()
        run.report(2, loss=1.0)
        words.save_requested = True
        assert run.should_stop()
        words.save_requested = False
        assert run.should_stop(), "once asked, it stays so"
        if saves:
            run.save(2, STATE)
            assert words.of("Checkpoint")[0].message == "blocking", "there is no later to write in"
    assert words.of("Saved")[0].step == (2 if saves else 0)
    assert "Done" not in words.kinds


# --- save and load --------------------------------------------------------------------------------


@pytest.mark.parametrize("in_background", [True, False])
def test_what_was_saved_is_loaded_with_its_random_numbers(
    context: Callable[..., RankContext], in_background: bool
) -> None:
    run, words = loaded(context(in_background=in_background))
    torch.manual_seed(5)
    run.report(3, loss=0.5)
    run.save(3, {**STATE, "name": "x"})
    drawn = torch.rand(3)
    run.close()
    assert [event.step for event in words.of("Checkpoint")] == [3]
    other, told = opened(context(2, resume="step-00000003.i1"))
    state = other.load()
    assert torch.equal(state["w"], STATE["w"]) and (state["epoch"], state["name"]) == (3, "x")
    assert other.resumed_step == 3 and told.of("Forward")[0].step == 4
    assert torch.equal(torch.rand(3), drawn)


def test_a_save_in_the_background_is_of_the_moment_it_was_asked_for(
    context: Callable[..., RankContext],
) -> None:
    run, _ = loaded(context(in_background=True))
    weights = torch.zeros(1000)
    run.save(1, {"w": weights})
    weights.add_(1)
    run.close()
    other, _ = opened(context(2, resume="step-00000001.i1"))
    assert other.load()["w"].sum() == 0


def test_the_manifest_tells_of_a_script(context: Callable[..., RankContext], tmp_path: Path) -> None:
    run, _ = loaded(context(windows=[(3, 5)]))
    run.save(2, STATE)
    found = manifests.read(RunStore(str(tmp_path / "store")), "step-00000002.i1")
    assert (found.strategy, found.format, found.global_batch_size, found.seed) == ("Custom", "DCP", 1, 0)
    assert found.skipped_windows == [(3, 5)]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_told_of_and_nothing_of_it_is_used(
    context: Callable[..., RankContext], tmp_path: Path
) -> None:
    run, _ = loaded(context())
    run.save(1, {"w": torch.arange(5000.0)})
    flip(
        max((tmp_path / "store" / "step-00000001.i1").glob("*.distcp"), key=lambda each: each.stat().st_size)
    )
    other, words = opened(context(2, resume="step-00000001.i1"))
    with pytest.raises(CheckpointUnusable):
        other.load()
    (event,) = words.of("Failure")
    assert event.failure is not None and event.failure.reason == Reason.CHECKPOINT_UNUSABLE
    assert event.failure.failure_class is FailureClass.STORAGE
    assert any(".distcp" in line for line in event.failure.evidence), event.failure.evidence


def test_too_little_memory_for_a_load_is_told_as_that(
    context: Callable[..., RankContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(**_: Any) -> None:
        raise TooLittleMemory("loading step-00000005.i1", hint="raise it")

    monkeypatch.setattr(reader, "load", short)
    run, words = opened(context(2, resume="step-00000005.i1"))
    with pytest.raises(MemoryError):
        run.load()
    (told,) = words.of("Failure")
    assert told.failure is not None
    assert (told.failure.failure_class, told.failure.hint) == (FailureClass.OUT_OF_MEMORY, "raise it")


def test_a_newer_incarnation_ends_all_saving(context: Callable[..., RankContext], tmp_path: Path) -> None:
    run, words = loaded(context())
    run.save(1, STATE)
    incarnations.claim(RunStore(str(tmp_path / "store")), incarnation(2))
    with pytest.raises(Fenced):
        run.save(2, STATE)
    assert words.of("Failure")[0].failure is not None
    assert not (tmp_path / "store" / "step-00000002.i1" / "manifest.json").exists()


def test_a_save_that_fails_is_told_and_training_goes_on(context: Callable[..., RankContext]) -> None:
    run, words = loaded(context())
    run.save(1, STATE)

    def full(path: Path, mode: str) -> Any:
        raise OSError(28, "No space left on device")

    assert run._writer is not None
    run._writer.opener = full
    run.save(2, STATE)
    assert [event.step for event in words.of("SaveFailed")] == [2]
    run.report(3, loss=1.0)


# --- batches and guards ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([], [0, 1, 2, 3]),
        ([(1, 2)], [0, 2, 3, 4]),
        ([(0, 3)], [3, 4, 5, 6]),
        ([(1, 2), (3, 4)], [0, 2, 4, 5]),
    ],
)
def test_batches_pass_over_what_a_guard_has_skipped(
    context: Callable[..., RankContext], windows: list[Any], expected: list[int]
) -> None:
    run, _ = loaded(context(windows=windows))
    assert [run.batch(step) for step in range(1, 5)] == expected


def test_skipped_batches_of_a_checkpoint_stay_skipped(context: Callable[..., RankContext]) -> None:
    run, _ = loaded(context(windows=[(1, 2)]))
    run.save(3, STATE)
    other, _ = loaded(context(2, resume="step-00000003.i1", windows=[(4, 6)]))
    assert [other.batch(step) for step in range(1, 6)] == [0, 2, 3, 6, 7]


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_is_told_and_raised(
    context: Callable[..., RankContext], loss: float
) -> None:
    run, words = loaded(context())
    with pytest.raises(ScriptNotFinite):
        run.report(7, loss=loss)
    (event,) = words.of("Failure")
    assert event.failure is not None and event.step == 7
    assert (event.failure.reason, event.failure.failure_class) == (Reason.NON_FINITE, FailureClass.NUMERIC)
    assert "run.batch" in event.failure.hint and "training.learningRate" not in event.failure.hint
    assert "Step" not in words.kinds


SPIKE = {"windowSteps": 10, "patience": 2, "deviations": "5"}


def report_spike(run: Run) -> None:
    for step in range(1, 13):
        run.report(step, loss=1.0 + step % 3 * 0.01)
    run.report(13, loss=50.0)
    run.report(14, loss=51.0)


def test_a_loss_spike_is_told_by_default(context: Callable[..., RankContext]) -> None:
    run, words = loaded(context(guards={"lossSpike": SPIKE}))
    report_spike(run)
    (event,) = words.of("LossSpike")
    assert event.step == 14 and event.message is not None and "loss 51" in event.message


@pytest.mark.parametrize("action", ["Rollback", "Pause", "Fail"])
def test_a_loss_spike_is_raised_where_the_guard_acts(
    context: Callable[..., RankContext], action: str
) -> None:
    run, words = loaded(context(guards={"lossSpike": {**SPIKE, "action": action}}))
    with pytest.raises(ScriptLossSpiked) as caught:
        report_spike(run)
    assert failure_of(caught.value)[0].reason == Reason.LOSS_SPIKE
    assert words.of("Failure")[0].step == 14


def test_losses_before_a_restart_count_after_it(context: Callable[..., RankContext]) -> None:
    guards = {"lossSpike": {**SPIKE, "action": "Rollback"}}
    run, _ = loaded(context(guards=guards))
    for step in range(1, 13):
        run.report(step, loss=1.0)
    run.save(12, STATE)
    other, _ = loaded(context(2, resume="step-00000012.i1", guards=guards))
    other.report(13, loss=50.0)
    with pytest.raises(ScriptLossSpiked):
        other.report(14, loss=50.0)


# --- what is asked of a script ----------------------------------------------------------------------


@pytest.mark.parametrize("call", [lambda run: run.report(1), lambda run: run.save(1, STATE)])
def test_load_comes_first(context: Callable[..., RankContext], call: Callable[[Run], None]) -> None:
    run, _ = opened(context())
    with pytest.raises(RuntimeError, match="hint: call it also where there is nothing to load"):
        call(run)


def test_load_comes_once(context: Callable[..., RankContext]) -> None:
    run, _ = loaded(context())
    with pytest.raises(RuntimeError, match="called twice"):
        run.load()


def test_a_state_that_cannot_be_saved_names_its_place(context: Callable[..., RankContext]) -> None:
    run, _ = loaded(context())
    with pytest.raises(TypeError, match=r"state\.rng: cannot be saved \(got Generator\)"):
        run.save(1, {"rng": torch.Generator()})


# --- opening ---------------------------------------------------------------------------------------


@pytest.fixture
def managed(
    context: Callable[..., RankContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[int]:
    """The read end of the pipe to the agent; signals are as before afterwards."""
    reader, writer = os.pipe()
    before = signal.getsignal(signal.SIGTERM)
    (tmp_path / "context").write_text(context().model_dump_json(by_alias=True))
    monkeypatch.setenv(CONTEXT_VARIABLE, str(tmp_path / "context"))
    monkeypatch.setenv(EVENTS_VARIABLE, f"/proc/{os.getpid()}/fd/{writer}")
    yield reader
    os.close(reader)
    os.close(writer)
    signal.signal(signal.SIGTERM, before)
    faulthandler.unregister(signal.SIGUSR1)


def test_it_opens_by_what_the_agent_left_in_the_environment(managed: int) -> None:
    assert windlass.is_managed()
    with windlass.open(total_steps=3) as run:
        run.load()
        assert catches(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 30
        while not run.should_stop():
            assert time.monotonic() < deadline
    lines = os.read(managed, 1 << 16).splitlines()
    events = [RankEvent.model_validate_json(line) for line in lines]
    assert [event.type for event in events] == ["Phase", "Plan", "Phase", "Forward", "Saved"]


def test_outside_of_a_job_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONTEXT_VARIABLE, raising=False)
    assert not windlass.is_managed()
    with pytest.raises(windlass.NotManaged, match=r"hint: ask windlass\.is_managed"):
        windlass.open()


def test_the_process_group_comes_first(managed: int, tmp_path: Path) -> None:
    written = json.loads((tmp_path / "context").read_text()) | {"worldSize": 2, "rank": 1}
    (tmp_path / "context").write_text(json.dumps(written))
    with pytest.raises(RuntimeError, match=r"got rank 0 of 1\); allowed rank 1 of 2\. hint: call torch"):
        windlass.open()
    faulthandler.register(signal.SIGUSR1)


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_are_counted_from_one(managed: int, steps: int) -> None:
    with pytest.raises(ValueError, match=rf"total_steps: out of range \(got {steps}\)"):
        windlass.open(total_steps=steps)
    faulthandler.register(signal.SIGUSR1)


def test_only_the_main_thread_can_take_signals(managed: int) -> None:
    found: list[BaseException] = []

    def work() -> None:
        try:
            windlass.open()
        except ValueError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "main thread" in str(found[0])
    faulthandler.register(signal.SIGUSR1)


def test_a_channel_of_its_own_is_used_whoever_closes_the_inherited_pipe(managed: int) -> None:
    path = os.environ[EVENTS_VARIABLE]
    channel = RankChannel(os.open(path, os.O_WRONLY), 0)
    channel.done(4)
    channel.close()
    assert RankEvent.model_validate_json(os.read(managed, 4096)).step == 4
