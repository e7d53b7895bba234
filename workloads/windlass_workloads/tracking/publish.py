"""Logs the result of a run with the mlflow library: loss plot, model, registered version with alias.

Started by tracking/mlflow.py as a process of its own with a request on stdin and an answer on stdout, so that mlflow's
imports never weigh on a rank. A whole model of moderate size goes by the transformers flavor, which has to load it;
a larger one, and an adapter without its base, goes as artifacts. Both are registered.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel

MODEL_NAME = "model"
FLAVOR_BYTES = 2 * 2**30
REQUIREMENTS = ["torch", "transformers", "safetensors", "accelerate"]


class Request(BaseModel):
    """What to publish. `parts` are directories by name; the credential comes by the environment."""

    uri: str
    run_id: str
    parts: dict[str, str]
    main: str | None
    objective: str = ""
    datasheet: list[str] = []
    """Files that tell what the run was trained on."""
    register_as: str | None
    alias: str | None
    resumed_steps: list[int]
    tags: dict[str, str]


class Answer(BaseModel):
    """What was registered; `flavor` says how the model was logged."""

    flavor: str | None = None
    version: str | None = None


def publish(request: Request) -> Answer:
    """Does everything the request asks for, in an order that leaves nothing half registered."""
    import mlflow

    mlflow.set_tracking_uri(request.uri)
    mlflow.set_registry_uri(request.uri)
    client = mlflow.MlflowClient()
    plot_losses(client, request)
    for key, value in request.tags.items():
        client.set_tag(request.run_id, key, value)
    answer = log_model(client, request)
    # Last: a server that takes no files still has the model.
    for path in request.datasheet:
        client.log_artifact(request.run_id, path, "datasheet")
    return answer


def log_model(client: Any, request: Request) -> Answer:
    """The model, logged and registered; nothing where there is none."""
    if request.main is None:
        return Answer()
    directory = Path(request.parts[request.main])
    flavor = flavor_of(request, directory)
    if flavor == "artifacts":
        client.log_artifacts(request.run_id, str(directory), MODEL_NAME)
        source = f"runs:/{request.run_id}/{MODEL_NAME}"
    else:
        source = log_transformers_model(request, directory)
    client.set_tag(request.run_id, "windlass.model_flavor", flavor)
    return Answer(flavor=flavor, version=register(client, request, source))


def flavor_of(request: Request, directory: Path) -> str:
    """How to log a directory: by flavor if it is a whole model of moderate size, else as artifacts."""
    size = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    return "artifacts" if request.main == "adapter" or size > FLAVOR_BYTES else "transformers"


def log_transformers_model(request: Request, directory: Path) -> str:
    """Logs a model directory by the transformers flavor and returns its model URI.

    The flavor also takes a path, but looks up the task in a table whose form transformers 5 has changed; so the
    pipeline is made here, in the number format of the files.
    """
    import mlflow
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, pipeline

    masked = request.objective == "MaskedLM"
    made: Any = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    task: Any = "fill-mask" if masked else "text-generation"
    model = made.from_pretrained(directory, dtype="auto", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    with mlflow.start_run(run_id=request.run_id, log_system_metrics=False):
        info = mlflow.transformers.log_model(
            transformers_model=pipeline(task, model=model, tokenizer=tokenizer),
            name=MODEL_NAME,
            task=task,
            pip_requirements=REQUIREMENTS,
            metadata=request.tags,
        )
    return str(info.model_uri)


def register(client: Any, request: Request, source: str) -> str | None:
    """The version of the registered model, with its alias; a version of this run that exists already is kept."""
    if request.register_as is None:
        return None
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(request.register_as)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # A logged model has an id of its own, and the server wants to hear it beside the source.
    model_id = source.removeprefix("models:/") if source.startswith("models:/") else None
    found = client.search_model_versions(f"name='{request.register_as}'")
    mine = [version for version in found if version.run_id == request.run_id]
    version = (
        mine[0]
        if mine
        else client.create_model_version(
            request.register_as, source, run_id=request.run_id, tags=request.tags, model_id=model_id
        )
    )
    if request.alias is not None:
        client.set_registered_model_alias(request.register_as, request.alias, str(version.version))
    return str(version.version)


def plot_losses(client: Any, request: Request) -> None:
    """Training and validation loss over steps, with a line where a restart went on."""
    histories = {key: client.get_metric_history(request.run_id, key) for key in ("loss", "validation_loss")}
    if not histories["loss"]:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for key, history in histories.items():
        points = sorted((metric.step, metric.value) for metric in history)
        if points:
            axes.plot(*zip(*points, strict=True), label=key.replace("_", " "))
    for place, step in enumerate(request.resumed_steps):
        axes.axvline(step, linestyle=":", color="grey", label="restart" if place == 0 else None)
    axes.set_xlabel("step")
    axes.set_ylabel("loss per token")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    pyplot.close(figure)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loss.png"
        path.write_bytes(buffer.getvalue())
        client.log_artifact(request.run_id, str(path))


def main() -> int:
    """Reads the request, publishes, prints the answer as the last line."""
    answer = publish(Request.model_validate_json(sys.stdin.read()))
    sys.stdout.write("\n" + json.dumps(answer.model_dump()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
