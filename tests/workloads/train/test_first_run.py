"""The shortest path: prepare, train, save, be killed, resume, on one and two ranks."""

from __future__ import annotations

import pytest

LORA = {"type": "LoRA", "rank": 4, "dropout": "0.1"}


@pytest.mark.parametrize("world", [1, 2])
def test_a_killed_lora_run_resumes_bitwise(make_job, world):
    whole = make_job(adapter=LORA).train(world=world).ok()
    assert list(whole.losses()) == [1, 2, 3, 4, 5, 6]

    job = make_job(adapter=LORA)
    first = job.train(world=world, actions=[{"rank": 0, "type": "Step", "step": 5, "signal": "SIGKILL"}])
    assert first.codes[0] == -9
    assert first.saved == ["step-00000003.i2"]
    second = job.train(world=world, resume="step-00000003.i2").ok()
    assert second.losses() == {step: whole.losses()[step] for step in (4, 5, 6)}
    assert second.norms() == {step: whole.norms()[step] for step in (4, 5, 6)}
    assert [event.step for event in second.of("Forward")] == [4]
