"""Small pure parts of training: precision, schedule, failures, meters, masks."""

from __future__ import annotations

import errno

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from windlass.api.meta import ExitCode, FailureClass, Reason
from windlass.api.training import Training
from windlass_workloads.checkpoint.errors import CheckpointUnusable, Fenced, SaveError
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.train.failures import LossSpiked, NotFinite, failure_of
from windlass_workloads.train.meters import Work, peak_of
from windlass_workloads.train.objectives.supervised import isolating_mask
from windlass_workloads.train.precision import Hardware, choose, hardware_of_cpu, processor_flags
from windlass_workloads.train.schedule import schedule_of

OLD_CPU = hardware_of_cpu(frozenset({"avx2", "fma"}))
NEW_CPU = hardware_of_cpu(frozenset({"avx2", "avx512_bf16", "amx_bf16"}))
OLD_GPU = Hardware("cuda", "Tesla V100", False)
NEW_GPU = Hardware("cuda", "NVIDIA H200", True)


@pytest.mark.parametrize(
    ("asked", "hardware", "precision", "reason"),
    [
        ("Auto", OLD_CPU, "FP32", "Auto: CPU has no bf16 hardware"),
        ("Auto", NEW_CPU, "BF16", "Auto: CPU with amx_bf16 and avx512_bf16 computes bf16 in hardware"),
        ("Auto", OLD_GPU, "FP32", "Auto: Tesla V100 has no bf16 hardware"),
        ("Auto", NEW_GPU, "BF16", "Auto: NVIDIA H200 computes bf16 in hardware"),
        ("FP32", NEW_GPU, "FP32", "asked for by training.precision"),
        ("BF16", NEW_CPU, "BF16", "asked for by training.precision"),
    ],
)
def test_precision_follows_the_hardware_and_says_why(asked, hardware, precision, reason):
    choice = choose(asked, hardware)
    assert (choice.precision, choice.reason, choice.warning) == (precision, reason, None)


@pytest.mark.bad_input("B63")
def test_slow_bf16_on_a_cpu_is_done_but_warned_of():
    choice = choose("BF16", OLD_CPU)
    assert choice.precision == "BF16"
    assert choice.warning == (
        "spec.training.precision: this processor emulates bf16, which can be many times slower than fp32 "
        "(got BF16; no amx_bf16 or avx512_bf16). hint: use Auto"
    )


@pytest.mark.bad_input("B63")
def test_bf16_on_an_accelerator_without_it_is_refused():
    with pytest.raises(WorkloadError) as caught:
        choose("BF16", OLD_GPU)
    assert caught.value.reason == Reason.PRECISION_UNSUPPORTED
    assert caught.value.message == (
        "spec.training.precision: Tesla V100 has no bf16 (got BF16); allowed Auto, FP32."
    )


@pytest.mark.parametrize(
    ("text", "flags"),
    [("processor : 0\nflags\t\t: avx2 fma\nflags : other\n", {"avx2", "fma"}), ("model name: x\n", set())],
)
def test_processor_flags_are_read_from_the_first_processor(tmp_path, text, flags):
    (tmp_path / "cpuinfo").write_text(text)
    assert processor_flags(tmp_path / "cpuinfo") == flags
    assert processor_flags(tmp_path / "missing") == frozenset()


@pytest.mark.parametrize("warmup", ["0", "3", "25%"])
@pytest.mark.parametrize(
    ("shape", "theirs"),
    [("Cosine", get_cosine_schedule_with_warmup), ("Linear", get_linear_schedule_with_warmup)],
)
def test_schedules_are_those_of_transformers(shape, theirs, warmup):
    training = Training(
        global_batch_size=1, learning_rate="2e-3", scheduler={"type": shape, "warmup": warmup}, max_steps=10
    )
    schedule = schedule_of(training, 10)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2e-3)
    reference = theirs(optimizer, {"0": 0, "3": 3, "25%": 3}[warmup], 10)
    for step in range(1, 11):
        assert schedule.rate(step) == pytest.approx(reference.get_last_lr()[0], rel=1e-12, abs=1e-15)
        optimizer.step()
        reference.step()


def test_a_constant_rate_stays():
    training = Training(global_batch_size=1, scheduler={"type": "Constant", "warmup": "2"}, max_steps=5)
    assert [schedule_of(training, 5).rate(step) for step in range(1, 6)] == [0.0, 1e-5, 2e-5, 2e-5, 2e-5]


FAILURES = [
    (
        WorkloadError(Reason.DATA_EMPTY, "m", hint="h"),
        Reason.DATA_EMPTY,
        FailureClass.CONFIGURATION,
        ExitCode.CONFIGURATION,
    ),
    (MemoryError(), Reason.OUT_OF_MEMORY, FailureClass.OUT_OF_MEMORY, ExitCode.OUT_OF_MEMORY),
    (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1"),
        Reason.OUT_OF_MEMORY,
        FailureClass.OUT_OF_MEMORY,
        ExitCode.OUT_OF_MEMORY,
    ),
    (OSError(errno.ENOSPC, "x"), Reason.STORAGE_FULL, FailureClass.STORAGE, ExitCode.STORAGE),
    (SaveError("x", full=True), Reason.STORAGE_FULL, FailureClass.STORAGE, ExitCode.STORAGE),
    (OSError(errno.EIO, "x"), Reason.STORAGE, FailureClass.STORAGE, ExitCode.STORAGE),
    (
        CheckpointUnusable("n", "m", hint="h"),
        Reason.CHECKPOINT_UNUSABLE,
        FailureClass.STORAGE,
        ExitCode.STORAGE,
    ),
    (
        RuntimeError("[gloo/pair.cc] Connection closed by peer [127.0.0.1]:1"),
        Reason.INFRASTRUCTURE,
        FailureClass.INFRASTRUCTURE,
        ExitCode.CRASH,
    ),
    (
        RuntimeError("Failed to recv, got 0 bytes. Connection was likely closed."),
        Reason.INFRASTRUCTURE,
        FailureClass.INFRASTRUCTURE,
        ExitCode.CRASH,
    ),
    (
        Fenced(mine=1, newest=2, action="save"),
        Reason.INFRASTRUCTURE,
        FailureClass.INFRASTRUCTURE,
        ExitCode.FENCED,
    ),
    (NotFinite("step 3: loss nan"), Reason.NON_FINITE, FailureClass.NUMERIC, ExitCode.NUMERIC),
    (LossSpiked("step 3: loss 9"), Reason.LOSS_SPIKE, FailureClass.NUMERIC, ExitCode.NUMERIC),
    (ZeroDivisionError("x"), Reason.CRASH, FailureClass.CRASH, ExitCode.CRASH),
]


@pytest.mark.parametrize(
    ("error", "reason", "failure_class", "code"), FAILURES, ids=[str(row[0])[:40] for row in FAILURES]
)
def test_errors_become_failures_with_class_hint_and_code(error, reason, failure_class, code):
    failure, exit_code = failure_of(error)
    assert (failure.reason, failure.failure_class, exit_code) == (reason, failure_class, code)
    assert failure.hint
    assert failure.at is not None


@pytest.mark.parametrize("field", ["learningRate", "gradientClip", "precision", "samples"])
def test_numbers_that_run_away_are_told_with_the_fields_to_change(field):
    assert field in failure_of(NotFinite("step 3: loss nan"))[0].hint


def test_a_guard_s_evidence_is_what_it_saw_and_no_traceback():
    failure, _ = failure_of(NotFinite("step 3: loss nan", step=3, samples="4, 1"))
    assert failure.evidence == ["step 3: loss nan", "samples of step 3 in the prepared data: 4, 1"]
    assert failure_of(NotFinite("step 3: loss nan"))[0].evidence == ["step 3: loss nan"]


def test_evidence_is_the_end_of_the_traceback():
    try:
        raise ZeroDivisionError("what happened")
    except ZeroDivisionError as error:
        failure, _ = failure_of(error)
    assert failure.evidence[-1] == "ZeroDivisionError: what happened"
    assert len(failure.evidence) <= 8


def test_flops_are_those_of_the_published_formula():
    # 6 N per token and 12 L d s per token of a sequence of length s.
    work = Work(weights=1000, trained=1000, layers=2, width=8, recomputed=False)
    assert work.flops(100, 100 * 100) == 6 * 1000 * 100 + 12 * 2 * 8 * 100 * 100
    assert work.hardware_flops(10, 100) == work.flops(10, 100)
    again = Work(weights=1000, trained=1000, layers=2, width=8, recomputed=True)
    assert again.hardware_flops(100, 10_000) == pytest.approx(4 / 3 * again.flops(100, 10_000))


def test_an_adapter_saves_the_gradients_of_frozen_weights():
    assert Work(1000, 0, 0, 0, False).flops(1, 0) == 4 * 1000


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA H200", 989e12), ("NVIDIA H100 PCIe", 756e12), ("x", None)]
)
def test_peaks_are_known_by_device_name(name, peak):
    assert peak_of(name) == peak


def test_the_mask_lets_tokens_look_back_within_their_sample_only():
    mask = isolating_mask(torch.tensor([[0, 0, 1, 1, -1]]))[0, 0].int().tolist()
    assert mask == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
