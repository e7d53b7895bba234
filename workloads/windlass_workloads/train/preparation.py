"""The prepare task: resolves and checks model and data, writes the prepared arrays, sends the plan.

Runs on one rank in the leader's pod before any other rank starts, so that bad input is known within seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from windlass.api.contract import RankContext, RunConfig
from windlass.api.finetune import FineTuneJobSpec
from windlass.api.meta import Phase
from windlass.api.pretrain import PretrainJobSpec
from windlass_workloads.checkpoint.store import PREPARED
from windlass_workloads.data.arrays import Index, open_split
from windlass_workloads.data.errors import StopRequested
from windlass_workloads.data.prepare import Preparation, prepare
from windlass_workloads.data.sources import Finder, Roots
from windlass_workloads.train import pretraining
from windlass_workloads.train.adapters import add_adapter
from windlass_workloads.train.assembly import finder_of
from windlass_workloads.train.meters import count_parameters
from windlass_workloads.train.model import (
    LocalModel,
    check_length,
    check_vocabulary,
    load_tokenizer,
    make_shapes,
    tokenizer_digest,
)
from windlass_workloads.train.pin import pin_model
from windlass_workloads.train.plan import make_plan, shape_of, with_sizes
from windlass_workloads.train.ports import Channel, Reporter
from windlass_workloads.train.precision import choose
from windlass_workloads.train.runtime import hardware_of, pick_device


def run(context: RankContext, channel: Channel, roots: Roots) -> None:
    """Prepares, then sends Plan and Prepared; after SIGTERM it stops between rows, and begins anew next time."""
    report = Reporter(channel, context.rank)
    spec = context.config.spec
    report.phase(Phase.PREPARE)

    def check() -> None:
        if channel.save_requested:
            report.saved(0)
            raise StopRequested

    finder = finder_of(context.config, roots)
    choice = choose(spec.training.precision, hardware_of(pick_device(context)))
    check()
    if isinstance(spec, PretrainJobSpec):
        local, index = pretraining.prepare(pretraining.Work(context.config, spec, finder, check))
    else:
        local, index = prepare_samples(context.config, finder, check)
    model = make_shapes(local, spec.objective)
    if spec.adapter is not None:
        model = add_adapter(model, spec.adapter, base=spec.origin)
    parameters, trained = count_parameters(model)
    world = spec.resources.nodes * spec.resources.ranks_per_node
    shape = shape_of(context.config, index, world)
    plan = make_plan(shape, index, choice, parameters=parameters, trained=trained)
    train = open_split(Path(context.config.store_path) / PREPARED / index.name / "train")
    report.plan(with_sizes(plan, spec, local.config, train))
    report.prepared(index.name)
    report.done(0)


def prepare_samples(config: RunConfig, finder: Finder, check: Callable[[], None]) -> tuple[LocalModel, Index]:
    """Model and rows of a FineTuneJob."""
    spec = config.spec
    if not isinstance(spec, FineTuneJobSpec):
        raise TypeError(f"run.kind: has no samples (got {config.run.kind})")
    local = pin_model(config, finder)
    check_length(local, spec)
    tokenizer, warnings = load_tokenizer(local)
    make_shapes(local, spec.objective)
    check_vocabulary(local, tokenizer)
    index = prepare(
        Preparation(
            data=spec.data,
            seed=spec.training.seed,
            tokenizer=tokenizer,
            tokenizer_digest=tokenizer_digest(tokenizer),
            finder=finder,
            directory=Path(config.store_path) / PREPARED,
            check=check,
            warnings=tuple(warnings),
        )
    )
    return local, index
