"""PretrainJob as its ranks run it: from texts to a model, the same whoever computes it and however often it begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.workloads.train.support import NEW_BERT, NEW_LLAMA, Job

Make = Callable[..., Job]
STARTS: dict[str, dict[str, Any]] = {"continued": {}, "new": NEW_LLAMA, "masked": NEW_BERT}


@pytest.mark.parametrize("start", STARTS)
def test_texts_become_a_model_that_knows_more_of_them(make_pretraining: Make, start: str) -> None:
    job = make_pretraining(**STARTS[start], training={"maxSteps": 12})
    outcome = job.train().ok()
    losses = outcome.losses()
    print(losses)
    assert losses[12] < losses[1] - 0.5
