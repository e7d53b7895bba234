"""The door for agents: preload and build_ahead in the warm parent, prepare and train in forked ranks.

Whatever goes wrong becomes one Failure event and an exit code; nothing is raised but SystemExit. Importing this
module imports torch, and nothing here may start a thread before the fork.
"""

from __future__ import annotations

import importlib
import json
import logging
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from windlass.api.contract import RankContext
from windlass.api.meta import RUN_CONFIG_FILE, RUN_CONFIG_MOUNT, ExitCode
from windlass_workloads.data.errors import StopRequested, WorkloadError
from windlass_workloads.data.sources import Roots
from windlass_workloads.train.failures import GuardTripped, failure_of
from windlass_workloads.train.ports import Channel, Reporter

log = logging.getLogger(__name__)

WARM: Final = (
    "torch",
    "torch.distributed.checkpoint",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.nn.parallel",
    "torch._dynamo",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "peft",
    "peft.utils.transformers_weight_conversion",
    "torch.utils.serialization.config",
    "windlass_workloads.train.loop",
    "windlass_workloads.train.preparation",
    "windlass_workloads.train.strategies.ddp",
    "windlass_workloads.train.strategies.fsdp",
)
LLAMA_LIKE: Final = ("llama",)


def preload(run_config: Path = Path(RUN_CONFIG_MOUNT) / RUN_CONFIG_FILE) -> None:
    """Imports what ranks will need; deepspeed only if the run uses it. One thread before and after."""
    for name in WARM:
        importlib.import_module(name)
    _quieten()
    spec: dict[str, object] = {}
    with suppress(OSError, ValueError):
        spec = json.loads(run_config.read_text(encoding="utf-8")).get("spec", {})
    for model_type in LLAMA_LIKE:
        importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    _compile_names()
    parallelism = spec.get("parallelism")
    if isinstance(parallelism, dict) and parallelism.get("strategy") == "DeepSpeed":
        from windlass_workloads.train.strategies.deepspeed import load_library

        load_library()


def _compile_names() -> None:
    """Compiles the patterns by which transformers renames weights, hundreds of them; else each rank does."""
    mapping = importlib.import_module("transformers.conversion_mapping")
    # Not promised by transformers; without it ranks start a little later, and nothing else.
    with suppress(AttributeError, TypeError):
        mapping.get_checkpoint_conversion_mapping(LLAMA_LIKE[0])


def _quieten() -> None:
    """Progress bars, and warnings between libraries, fill logs and evidence with lines that help nobody."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    # peft asks transformers for an attribute by its old name.
    warnings.filterwarnings(
        "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
    )


def build_ahead(context: RankContext, roots: Roots | None = None) -> bool:
    """Builds in the warm parent what its ranks begin with; False when they will do it themselves."""
    from windlass_workloads.train import ahead
    from windlass_workloads.train.assembly import finder_of

    return ahead.build_ahead(context, finder_of(context.config, roots or Roots()))


def prepare(context: RankContext, channel: Channel, roots: Roots | None = None) -> None:
    """Makes the prepared data; sends Plan and Prepared. SystemExit with an ExitCode on failure."""
    from windlass_workloads.train.preparation import run

    _guard(context, channel, lambda: run(context, channel, roots or Roots()))


def train(context: RankContext, channel: Channel, roots: Roots | None = None) -> None:
    """Trains as one rank of the gang. SystemExit with an ExitCode on failure."""
    from windlass_workloads.train import loop
    from windlass_workloads.train.runtime import end

    with ExitStack() as after:
        _guard(context, channel, lambda: loop.run(context, channel, roots or Roots(), after))
    end()


def _guard(context: RankContext, channel: Channel, task: Callable[[], None]) -> None:
    """Runs a task and turns any exception into an event and an exit code."""
    try:
        task()
    except StopRequested:
        raise SystemExit(int(ExitCode.SUCCESS)) from None
    except Exception as error:  # whatever went wrong becomes a Failure
        failure, code = failure_of(error)
        if not isinstance(error, WorkloadError | GuardTripped):
            traceback.print_exc()
        log.error("task failed", extra={"reason": failure.reason, "message_text": failure.message})
        Reporter(channel, context.rank).failure(failure, getattr(error, "step", None))
        raise SystemExit(int(code)) from error
