"""The pure parts of training: plans, rates, words for failures, and the way to the agent."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.contract import RankEvent, RunConfig
from windlass.api.meta import ExitCode, FailureClass, Phase, Reason
from windlass.api.status import Failure, Output, Plan, TrackingStatus
from windlass.api.training import Training
from windlass_workloads.checkpoint.errors import CheckpointUnusable, Fenced, SaveError, StoreUnusable
from windlass_workloads.data.arrays import Index
from windlass_workloads.data.errors import EVIDENCE_LINES, StopRequested, WorkloadError
from windlass_workloads.train import tasks
from windlass_workloads.train.failures import MESSAGE_LENGTH, failure_of
from windlass_workloads.train.meters import StepTimer, Work, peak_of
from windlass_workloads.train.plan import WARNINGS, make_plan, shape_of
from windlass_workloads.train.ports import Reporter
from windlass_workloads.train.precision import Choice, choose, hardware_of_cpu, processor_flags
from windlass_workloads.train.schedule import Schedule, schedule_of
from windlass_workloads.train.tracking import NoTracker
from workloads.checkpoint.support import Events, context

INDEX = Index(
    name="n",
    digest="sha256:d",
    train_units=13,
    validation_units=2,
    train_samples=26,
    validation_samples=3,
    train_tokens=999,
    dropped_samples=1,
    sequence_length=64,
    packed=True,
    sizes={},
    warnings=["from the data"],
)


def run_config(**training: Any) -> RunConfig:
    plain = context("/nowhere").config
    wire = json.loads(plain.model_dump_json(by_alias=True))
    wire["spec"]["training"] = {"globalBatchSize": 4, "maxSteps": 10, **training}
    if training.get("epochs") is not None:
        wire["spec"]["training"].pop("maxSteps")
    return RunConfig.model_validate(wire)


# --- the plan -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "micro", "world", "accumulation"),
    [
        (4, 4, 1, 1),
        (4, 1, 1, 4),
        (4, 1, 2, 2),
        (4, 1, 3, 2),
        (4, 1, 4, 1),
        (4, 1, 8, 1),
        (5, 2, 2, 2),
        (6, 4, 1, 2),
    ],
)
def test_accumulation_follows_from_the_global_batch(
    batch: int, micro: int, world: int, accumulation: int
) -> None:
    shape = shape_of(run_config(globalBatchSize=batch, microBatchSize=micro), INDEX, world)
    assert (shape.accumulation, shape.world_size, shape.total_steps) == (accumulation, world, 10)
    assert shape.accumulation * micro * world >= batch, "the whole batch is done"


@pytest.mark.parametrize(("epochs", "batch", "steps"), [(1, 4, 4), (2, 4, 7), (3, 13, 3), (1, 100, 1)])
def test_steps_of_whole_passes(epochs: int, batch: int, steps: int) -> None:
    assert shape_of(run_config(epochs=epochs, globalBatchSize=batch), INDEX, 1).total_steps == steps


def test_a_plan_says_everything_and_warns_of_everything() -> None:
    shape = shape_of(run_config(), INDEX, 2)
    choice = Choice("BF16", "asked for", "it will be slow")
    plan = make_plan(shape, INDEX, choice, parameters=100, trained=7, warnings=("from the model",))
    assert (plan.total_steps, plan.world_size, plan.parameters, plan.trainable_parameters) == (10, 2, 100, 7)
    assert (plan.train_samples, plan.validation_samples, plan.dropped_samples) == (26, 3, 1)
    assert (plan.train_tokens, plan.data_digest) == (999, "sha256:d")
    assert (plan.precision, plan.precision_reason) == ("BF16", "asked for")
    assert plan.warnings == ["from the data", "from the model", "it will be slow"]
    many = make_plan(shape, INDEX, choice, parameters=1, trained=1, warnings=tuple(map(str, range(99))))
    assert len(many.warnings) == WARNINGS


# --- rates ---------------------------------------------------------------------------------------------------


def rates(schedule: Schedule) -> list[float]:
    return [schedule.rate(step) for step in range(1, schedule.total_steps + 1)]


@given(
    shape=st.sampled_from(["Cosine", "Linear", "Constant", "WSD"]),
    total=st.integers(1, 200),
    warmup=st.integers(0, 250),
    decay=st.integers(0, 250),
    peak=st.floats(1e-8, 1.0),
)
@settings(max_examples=80, deadline=None)
def test_rates_rise_to_the_peak_and_never_beyond_or_below_zero(
    shape: Any, total: int, warmup: int, decay: int, peak: float
) -> None:
    warmup = min(warmup, total)
    schedule = Schedule(peak, shape, warmup, total, min(decay, total - warmup))
    found = rates(schedule)
    assert all(0.0 <= rate <= peak * (1 + 1e-12) for rate in found)
    rising, falling = found[: schedule.warmup_steps], found[schedule.warmup_steps :]
    assert rising == sorted(rising) and falling == sorted(falling, reverse=True)
    if falling:
        assert falling[0] == pytest.approx(peak)


@pytest.mark.parametrize("shape", ["Cosine", "Linear", "WSD"])
def test_the_rate_beyond_the_end_is_zero(shape: Any) -> None:
    schedule = Schedule(1.0, shape, 2, 10, 3)
    assert schedule.rate(11) == pytest.approx(0.0)
    assert schedule.rate(500) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("warmup", "total", "steps"),
    [
        ("0", 100, 0),
        ("10", 100, 10),
        ("500", 100, 100),
        ("0%", 100, 0),
        ("3%", 100, 3),
        ("3%", 101, 4),
        ("100%", 7, 7),
        ("50%", 1, 1),
        ("1%", 1, 1),
    ],
)
def test_warm_up_in_steps_or_in_hundredths_rounded_up(warmup: str, total: int, steps: int) -> None:
    training = Training.model_validate(
        {"globalBatchSize": 4, "maxSteps": total, "learningRate": "2e-4", "scheduler": {"warmup": warmup}}
    )
    schedule = schedule_of(training, total)
    assert (schedule.warmup_steps, schedule.peak, schedule.total_steps) == (steps, 2e-4, total)


@pytest.mark.parametrize(
    ("decay", "warmup", "total", "steps"),
    [
        (None, "0", 100, 10),
        ("20%", "0", 100, 20),
        ("7", "0", 100, 7),
        ("0", "0", 100, 0),
        ("80%", "50%", 10, 5),
    ],
)
def test_the_decay_of_wsd_in_steps_or_in_hundredths(
    decay: str | None, warmup: str, total: int, steps: int
) -> None:
    scheduler = {"type": "WSD", "warmup": warmup} | ({"decay": decay} if decay else {})
    training = Training.model_validate({"globalBatchSize": 4, "maxSteps": total, "scheduler": scheduler})
    assert schedule_of(training, total).decay_steps == steps


@pytest.mark.parametrize(("warmup", "decay"), [(0, 10), (5, 8), (4, 1), (20, 20)])
def test_wsd_is_the_schedule_of_that_name_in_transformers(warmup: int, decay: int) -> None:
    from transformers import get_wsd_schedule

    total, weight = 40, torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=3e-4)
    theirs = get_wsd_schedule(
        optimizer, warmup, decay, num_training_steps=total, min_lr_ratio=0.0, decay_type="linear"
    )
    found = []
    for _ in range(total):
        found.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    assert rates(Schedule(3e-4, "WSD", warmup, total, decay)) == pytest.approx(found)


def test_a_resumed_run_takes_the_rates_where_it_left_them() -> None:
    schedule = Schedule(1e-3, "Cosine", 5, 40)
    whole = rates(schedule)
    assert whole[:17] + [Schedule(1e-3, "Cosine", 5, 40).rate(step) for step in range(18, 41)] == whole


# --- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GB200", 2.5e15),
        ("NVIDIA B200", 2.25e15),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Tesla T4", None),
        ("", None),
        ("Intel(R) Xeon(R)", None),
    ],
)
def test_the_more_special_name_wins(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


@given(
    weights=st.integers(1, 10**12),
    share=st.floats(0, 1),
    tokens=st.integers(0, 10**6),
    squares=st.integers(0, 10**9),
)
@settings(max_examples=50, deadline=None)
def test_flops_grow_with_what_is_trained_and_recomputed(
    weights: int, share: float, tokens: int, squares: int
) -> None:
    trained = int(weights * share)
    plain = Work(weights, trained, 2, 64, recomputed=False)
    again = Work(weights, trained, 2, 64, recomputed=True)
    whole = Work(weights, weights, 2, 64, recomputed=False)
    assert plain.flops(tokens, squares) <= whole.flops(tokens, squares)
    assert whole.flops(tokens, 0) == pytest.approx(6.0 * weights * tokens)
    assert plain.hardware_flops(tokens, squares) == plain.flops(tokens, squares)
    assert (
        again.hardware_flops(tokens, squares) >= again.flops(tokens, squares) == plain.flops(tokens, squares)
    )


def test_waiting_for_data_is_part_of_a_step() -> None:
    timer = StepTimer()
    timer.wait_over(timer.started)
    first = timer.data_wait
    timer.wait_over(timer.started)
    assert timer.data_wait >= 2 * first >= 0
    assert timer.elapsed() >= 0


# --- precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "fast", "name"),
    [
        (frozenset(), False, "CPU"),
        (frozenset({"avx2", "sse4_2"}), False, "CPU"),
        (frozenset({"avx512_bf16"}), True, "CPU with avx512_bf16"),
        (frozenset({"amx_bf16", "avx512_bf16"}), True, "CPU with amx_bf16 and avx512_bf16"),
    ],
)
def test_a_processor_is_judged_by_its_flags(flags: frozenset[str], fast: bool, name: str) -> None:
    hardware = hardware_of_cpu(flags)
    assert (hardware.kind, hardware.name, hardware.fast_bf16) == ("cpu", name, fast)
    choice = choose("Auto", hardware)
    assert choice.precision == ("BF16" if fast else "FP32") and name in choice.reason
    assert choice.warning is None
    assert choose("FP32", hardware).precision == "FP32"
    assert (choose("BF16", hardware).warning is None) is fast


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("", set()),
        ("nothing here", set()),
        ("flags\t\t: a b\nflags : c\n", {"a", "b"}),
        ("Features : x y", {"x", "y"}),
    ],
)
def test_flags_come_from_the_first_processor(tmp_path: Path, text: str, flags: set[str]) -> None:
    path = tmp_path / "cpuinfo"
    path.write_bytes(text.encode() + b"\nmodel: \xff\n")
    assert processor_flags(path) == flags
    assert processor_flags(tmp_path / "none") == frozenset()


# --- failures ----------------------------------------------------------------------------------------------------

FAILURES: list[tuple[BaseException, Reason, FailureClass, ExitCode]] = [
    (MemoryError(), Reason.OUT_OF_MEMORY, FailureClass.OUT_OF_MEMORY, ExitCode.OUT_OF_MEMORY),
    (
        RuntimeError("CUDA out of memory. Tried"),
        Reason.OUT_OF_MEMORY,
        FailureClass.OUT_OF_MEMORY,
        ExitCode.OUT_OF_MEMORY,
    ),
    (
        RuntimeError("can't allocate memory: you tried"),
        Reason.OUT_OF_MEMORY,
        FailureClass.OUT_OF_MEMORY,
        ExitCode.OUT_OF_MEMORY,
    ),
    (OSError(errno.ENOSPC, "x"), Reason.STORAGE_FULL, FailureClass.STORAGE, ExitCode.STORAGE),
    (OSError(errno.EDQUOT, "x"), Reason.STORAGE_FULL, FailureClass.STORAGE, ExitCode.STORAGE),
    (OSError(errno.EIO, "x"), Reason.STORAGE, FailureClass.STORAGE, ExitCode.STORAGE),
    (OSError(errno.ESTALE, "x"), Reason.STORAGE, FailureClass.STORAGE, ExitCode.STORAGE),
    (OSError(errno.EROFS, "x"), Reason.STORAGE, FailureClass.STORAGE, ExitCode.STORAGE),
    (OSError(errno.ENOENT, "x"), Reason.CRASH, FailureClass.CRASH, ExitCode.CRASH),
    (SaveError("x", full=True), Reason.STORAGE_FULL, FailureClass.STORAGE, ExitCode.STORAGE),
    (SaveError("x"), Reason.STORAGE, FailureClass.STORAGE, ExitCode.STORAGE),
    (StoreUnusable("x"), Reason.STORAGE, FailureClass.STORAGE, ExitCode.STORAGE),
    (
        CheckpointUnusable("n", "m", hint="h"),
        Reason.CHECKPOINT_UNUSABLE,
        FailureClass.STORAGE,
        ExitCode.STORAGE,
    ),
    (
        Fenced(mine=1, newest=2, action="x"),
        Reason.INFRASTRUCTURE,
        FailureClass.INFRASTRUCTURE,
        ExitCode.FENCED,
    ),
    (
        RuntimeError("Connection closed by peer"),
        Reason.INFRASTRUCTURE,
        FailureClass.INFRASTRUCTURE,
        ExitCode.CRASH,
    ),
    (
        ConnectionResetError("Connection reset by peer"),
        Reason.INFRASTRUCTURE,
        FailureClass.INFRASTRUCTURE,
        ExitCode.CRASH,
    ),
    (ValueError("x"), Reason.CRASH, FailureClass.CRASH, ExitCode.CRASH),
    (KeyError("x"), Reason.CRASH, FailureClass.CRASH, ExitCode.CRASH),
    (AssertionError(), Reason.CRASH, FailureClass.CRASH, ExitCode.CRASH),
]


@pytest.mark.parametrize(
    ("error", "reason", "failure_class", "code"), FAILURES, ids=[repr(row[0])[:50] for row in FAILURES]
)
def test_each_error_has_its_reason_class_hint_and_code(
    error: BaseException, reason: Reason, failure_class: FailureClass, code: ExitCode
) -> None:
    failure, exit_code = failure_of(error)
    assert (failure.reason, failure.failure_class, exit_code) == (reason, failure_class, code)
    assert failure.hint and failure.message.startswith(type(error).__name__)
    assert failure.at is not None


def test_the_users_own_mistakes_keep_their_words_and_evidence() -> None:
    error = WorkloadError(Reason.DATA_UNREADABLE, "m", hint="h", evidence=tuple(map(str, range(20))))
    failure, code = failure_of(error)
    assert (failure.message, failure.hint, code) == ("m", "h", ExitCode.CONFIGURATION)
    assert failure.evidence == [str(number) for number in range(EVIDENCE_LINES)]


@pytest.mark.parametrize("failure_class", list(FailureClass))
def test_every_class_that_a_task_can_tell_has_a_code(failure_class: FailureClass) -> None:
    error = WorkloadError(Reason.DATA_NOT_FOUND, "m", hint="h", failure_class=failure_class)
    _, code = failure_of(error)
    assert code != ExitCode.SUCCESS


def test_a_long_message_and_a_deep_traceback_are_cut() -> None:
    def deeper(depth: int) -> None:
        if depth:
            deeper(depth - 1)
        raise ValueError("x" * 10_000)

    with pytest.raises(ValueError, match="x") as caught:
        deeper(30)
    failure, _ = failure_of(caught.value)
    assert len(failure.message) == MESSAGE_LENGTH
    assert len(failure.evidence) == EVIDENCE_LINES and all(len(line) <= 300 for line in failure.evidence)
    assert failure.evidence[-1].startswith("ValueError: x")


# --- the door for agents -----------------------------------------------------------------------------------------


def guarded(error: BaseException | None) -> tuple[int | None, Events]:
    events = Events()

    def task() -> None:
        if error is not None:
            raise error

    try:
        tasks._guard(context("/nowhere", rank=3), events, task)  # type: ignore[arg-type]
    except SystemExit as end:
        return end.code, events  # type: ignore[return-value]
    return None, events


def test_a_task_that_ends_well_says_nothing() -> None:
    code, events = guarded(None)
    assert (code, events.sent) == (None, [])


def test_a_stop_that_was_asked_for_is_a_success() -> None:
    code, events = guarded(StopRequested())
    assert (code, events.sent) == (0, [])


@pytest.mark.parametrize("row", FAILURES, ids=[repr(row[0])[:50] for row in FAILURES])
def test_whatever_goes_wrong_becomes_one_event_and_a_code(row: tuple[Any, ...]) -> None:
    code, events = guarded(row[0])
    (event,) = events.sent
    assert code == int(row[3])
    assert (event.type, event.rank, event.failure.reason) == ("Failure", 3, row[1])


# --- events ------------------------------------------------------------------------------------------------------


def test_a_reporter_makes_every_event_of_the_contract() -> None:
    events = Events()
    report = Reporter(events, 2)  # type: ignore[arg-type]
    failure = Failure(reason="Crash", failure_class=FailureClass.CRASH)
    report.phase(Phase.LOAD)
    report.forward(6)
    report.step(6, loss=0.5, tokens=9, seconds=0.1)
    report.validation(6, 0.25)
    report.plan(Plan(total_steps=9))
    report.prepared("p")
    report.tracking(TrackingStatus(run_id="r"), None)
    report.output(Output(uri="pvc://x"))
    report.loss_spike(6, 9.0, "far above")
    report.failure(failure)
    report.saved(6)
    report.done(9)
    kinds = [event.type for event in events.sent]
    missing = set(RankEvent.model_fields["type"].annotation.__args__) - set(kinds)
    assert missing == {"Checkpoint", "SaveFailed"}, "those are the checkpoint writer's"
    assert {event.rank for event in events.sent} == {2}
    assert events.sent[2].loss == 0.5 and events.sent[9].failure == failure


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_figure_that_is_no_number_still_is_an_event(value: float) -> None:
    events = Events()
    Reporter(events, 0).step(1, loss=value)  # type: ignore[arg-type]
    line = events.sent[0].model_dump_json(by_alias=True, exclude_none=True)
    assert RankEvent.model_validate_json(line).step == 1


def test_no_tracker_does_nothing_and_returns_what_it_got() -> None:
    none, output = NoTracker(), Output(uri="pvc://x")
    none.metrics(1, {"loss": 1.0})
    none.keep()
    none.close("KILLED")
    assert none.finish(output, "d") is output
    assert none.finish(None, None) is None


# --- libraries without words -------------------------------------------------------------------------------------


def test_a_tokenizer_that_breaks_without_a_word_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    from windlass_workloads.train.model import LocalModel, load_tokenizer

    def silent(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", silent)
    with pytest.raises(WorkloadError) as caught:
        load_tokenizer(LocalModel("pvc://models/x", tmp_path, {}, "d"))
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
    assert caught.value.message.endswith("cannot be loaded (got pvc://models/x): AssertionError.")
