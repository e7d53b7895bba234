"""Stories of runs that wait for a queue, and of gangs that never become whole."""

from __future__ import annotations

from perturb.actions import (
    GONE,
    Scenario,
    always,
    at_attempt,
    at_incarnation,
    at_step,
    both,
    delete_job,
    gang_may_stay,
    gang_wants_recreation,
    is_queued_again,
    kueue_is_away,
    leader_is_fenced,
    node_dies,
    node_goes_silent,
    only_nodes,
    pod_is_deleted,
    pod_is_killed,
    pod_leaves_its_node,
    pods_exist,
    queue_admits,
    queue_closes,
    queue_evicts,
    rank_dies,
    resume,
    suspend,
    when,
)
from windlass.api.meta import Exclusion

QUEUED = (("scheduling.queue", {"kind": "Kueue", "name": "team"}),)
ALONE = (*QUEUED, ("resources.nodes", 1))
WHOLE = (("scheduling.gangStartSeconds", 30),)
ADMITTED = (when("Queued"), queue_admits)

QUEUE_SCENARIOS = (
    Scenario("queue-admits", "Completed", (ADMITTED,), QUEUED),
    Scenario("queue-is-open", "Completed", ((always, queue_admits),), QUEUED),
    Scenario(
        "queue-evicts-and-admits-again",
        "Completed",
        (ADMITTED, (at_step(30), queue_evicts), (is_queued_again, queue_admits)),
        QUEUED,
    ),
    Scenario("queue-evicts-for-good", "Queued", (ADMITTED, (at_step(30), queue_evicts)), QUEUED),
    Scenario("queue-evicts-before-the-first-step", "Queued", (ADMITTED, (pods_exist, queue_evicts)), QUEUED),
    Scenario(
        "queue-admits-one-pod-twice",
        "Completed",
        (ADMITTED, (at_step(30), pod_is_deleted(0))),
        ALONE,
    ),
    Scenario("queued-pod-is-deleted", "Completed", (ADMITTED, (at_step(30), pod_is_deleted(1))), QUEUED),
    Scenario("queued-leader-is-deleted", "Completed", (ADMITTED, (at_step(30), pod_is_deleted(0))), QUEUED),
    Scenario("queued-pod-is-killed", "Completed", (ADMITTED, (at_step(30), pod_is_killed(1))), QUEUED),
    Scenario("queued-leader-is-fenced", "Completed", (ADMITTED, (at_step(30), leader_is_fenced)), QUEUED),
    Scenario(
        "queued-pods-are-all-deleted",
        "Completed",
        (ADMITTED, (at_step(30), both(pod_is_deleted(0), pod_is_deleted(1)))),
        QUEUED,
    ),
    Scenario(
        "queued-pod-is-deleted-and-its-replacement-too",
        "Completed",
        (ADMITTED, (at_step(30), pod_is_deleted(1)), (when("Recovering"), pod_is_deleted(0))),
        QUEUED,
    ),
    Scenario(
        "replacement-needs-no-new-quota",
        "Completed",
        (ADMITTED, (at_step(30), both(queue_closes, pod_is_killed(1)))),
        QUEUED,
    ),
    Scenario(
        "replacement-that-avoids-a-node-is-admitted",
        "Completed",
        (
            (always, only_nodes("node-a", "node-b", "node-c")),
            ADMITTED,
            (at_step(30), pod_leaves_its_node(1, Exclusion.REQUIRED)),
        ),
        QUEUED,
    ),
    Scenario("queued-rank-dies", "Completed", (ADMITTED, (at_step(30), rank_dies)), QUEUED),
    Scenario(
        "queued-gang-is-recreated", "Completed", (ADMITTED, (at_step(30), gang_wants_recreation)), QUEUED
    ),
    Scenario(
        "pod-is-deleted-at-its-gate", "Completed", ((when("Queued"), pod_is_deleted(1)), ADMITTED), QUEUED
    ),
    Scenario("suspend-while-queued", "Suspended", ((when("Queued"), suspend),), QUEUED),
    Scenario(
        "suspend-while-queued-and-resume",
        "Completed",
        ((when("Queued"), suspend), (when("Suspended"), resume), ADMITTED),
        QUEUED,
    ),
    Scenario(
        "suspend-what-a-queue-admitted",
        "Completed",
        (ADMITTED, (at_step(30), suspend), (when("Suspended"), resume)),
        QUEUED,
    ),
    Scenario("delete-while-queued", GONE, ((when("Queued"), delete_job),), QUEUED),
    Scenario(
        "delete-what-a-queue-evicted",
        GONE,
        (ADMITTED, (at_step(30), queue_evicts), (is_queued_again, delete_job)),
        QUEUED,
    ),
    Scenario(
        "start-deadline-while-queued",
        "StartDeadlineExceeded",
        spec=(*QUEUED, ("startDeadlineSeconds", 60)),
    ),
    Scenario(
        "wait-in-a-queue-is-no-late-start",
        "Queued",
        (*((when("Queued"), gang_may_stay),) * 15,),
        (*QUEUED, *WHOLE),
    ),
    Scenario("kueue-is-not-there", "QueueUnavailable", ((always, kueue_is_away),), QUEUED),
    Scenario(
        "gang-never-whole-is-given-back",
        "Completed",
        ((always, only_nodes("node-a")), (at_attempt(2), only_nodes("node-a", "node-b"))),
        WHOLE,
    ),
    Scenario(
        "queued-gang-never-whole-is-given-back",
        "Completed",
        ((always, only_nodes("node-a")), ADMITTED, (at_attempt(2), only_nodes("node-a", "node-b"))),
        (*QUEUED, *WHOLE),
    ),
    Scenario(
        "gang-never-whole-ends-by-its-budget",
        "BudgetExhausted",
        ((always, only_nodes("node-a")),),
        (*WHOLE, ("recovery.budgets.infrastructure", 2)),
    ),
    Scenario("queued-node-goes-silent", "Completed", (ADMITTED, (at_step(30), node_goes_silent(1))), QUEUED),
    Scenario("queued-node-dies", "Completed", (ADMITTED, (at_step(30), node_dies(1))), QUEUED),
    Scenario("queued-node-of-leader-dies", "Completed", (ADMITTED, (at_step(30), node_dies(0))), QUEUED),
    Scenario(
        "queued-gang-ends-while-a-place-is-empty",
        "Completed",
        (
            ADMITTED,
            (at_step(30), pod_is_killed(1)),
            (at_incarnation(2), pod_is_killed(1)),
            (when("BackingOff"), pod_is_killed(0)),
        ),
        (*QUEUED, ("recovery.budgets.outOfMemory", 9), ("recovery.ladder", ["InPlace", "RecreatePod"])),
    ),
)
