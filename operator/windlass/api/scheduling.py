"""Spec block about placing the pods: scheduler, priority, queue, and how long a gang may be half there.

`running` re-exports `Scheduling`. A kind of queue is in the enum only if the operator honours all of it.
"""

from typing import Annotated, Literal

from pydantic import Field

from windlass.api.base import Model
from windlass.api.pods import ShortText
from windlass.api.rules import Hint, Rule

QUEUE_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


class Queue(Model):
    """A queue that has to admit the pods before they are placed."""

    name: Annotated[
        str,
        Field(pattern=QUEUE_NAME, min_length=1, max_length=63),
        Hint(
            "see `kubectl get localqueues` in the job's namespace",
            allowed="lower-case letters, digits and '-', beginning and ending with a letter or digit",
        ),
    ]
    """Name of the queue: with kind Kueue a LocalQueue of the job's namespace. Example: team-a."""
    kind: Literal["Kueue"] = "Kueue"
    """Who keeps the queue. Kueue: the pods are a plain pod group of Kueue. Example: Kueue."""


class Scheduling(Model):
    """How the pods are placed."""

    scheduler_name: ShortText | None = None
    """Scheduler of the pods; the cluster's own if left out. Example: volcano."""
    priority_class_name: (
        Annotated[
            ShortText,
            Rule(
                cel="!self.startsWith('system-')",
                holds=lambda value, _: not value.startswith("system-"),
                wrong="system priority classes are reserved for the cluster itself",
                got="{self}",
                allowed="a PriorityClass whose name does not begin with system-",
                hint="see `kubectl get priorityclasses`",
            ),
        ]
        | None
    ) = None
    """PriorityClass of the pods; the cluster's default if left out. Example: batch-low."""
    queue: Queue | None = None
    """Queue that admits the whole gang at once, or none of it; pods are placed without one if left out. Cannot change
    after creation. Example: {kind: Kueue, name: team-a}."""
    gang_start_seconds: (
        Annotated[
            int,
            Field(ge=30, le=86_400),
            Hint("allow for pulling the image, 600 is usual; leave it out to wait"),
        ]
        | None
    ) = None
    """Seconds in which all pods have to run once they are made, a wait in a queue not counted. A gang that is not whole
    by then gives back all that it holds and is tried again later, at the cost of budgets.infrastructure; it waits for
    ever if left out. Unit: seconds. Example: 600."""
