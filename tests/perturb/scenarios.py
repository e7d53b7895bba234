"""The stories that a run can live through, each with the end it must reach whatever happens to the operator."""

from __future__ import annotations

from perturb.actions import (
    GONE,
    Scenario,
    all_pods_ended,
    always,
    at_attempt,
    at_incarnation,
    at_step,
    both,
    claims_appear,
    delete_job,
    gang_fails,
    gang_may_stay,
    gang_moves,
    gang_stands,
    gang_wants_recreation,
    guard_pauses,
    is_given_back,
    is_paused,
    is_told,
    leader_is_fenced,
    node_becomes_unhealthy,
    node_dies,
    node_goes_silent,
    nothing_is_left_on_dead_nodes,
    object_vanishes,
    only_nodes,
    operator_goes,
    operator_returns,
    pod_is_deleted,
    pod_is_killed,
    pod_leaves_its_node,
    pod_vanishes,
    pods_exist,
    pods_run,
    quota,
    rank_dies,
    resume,
    spec_changes,
    suspend,
    when,
)
from perturb.queue_scenarios import QUEUE_SCENARIOS
from windlass.api.meta import Exclusion

SCENARIOS = (
    *QUEUE_SCENARIOS,
    Scenario("create-and-succeed", "Completed"),
    Scenario("rank-dies", "Completed", ((at_step(30), rank_dies),)),
    Scenario(
        "rank-dies-and-run-ends-unheard",
        "Completed",
        ((at_step(30), operator_goes), (at_step(50), rank_dies), (all_pods_ended, operator_returns)),
    ),
    Scenario("pod-vanishes", "Completed", ((at_step(30), pod_vanishes(1)),)),
    Scenario("pod-is-deleted", "Completed", ((at_step(30), pod_is_deleted(1)),)),
    Scenario("pod-is-killed-for-memory", "Completed", ((at_step(30), pod_is_killed(1)),)),
    Scenario("leader-vanishes", "Completed", ((at_step(30), pod_vanishes(0)),)),
    Scenario("leader-is-deleted", "Completed", ((at_step(30), pod_is_deleted(0)),)),
    Scenario("leader-vanishes-before-the-first-step", "Completed", ((pods_run, pod_vanishes(0)),)),
    Scenario("leader-is-fenced", "Completed", ((at_step(30), leader_is_fenced),)),
    Scenario("node-of-pod-dies", "Completed", ((at_step(30), node_dies(1)),)),
    Scenario("node-of-leader-dies", "Completed", ((at_step(30), node_dies(0)),)),
    Scenario("node-goes-silent", "Completed", ((at_step(30), node_goes_silent(1)),)),
    Scenario("node-of-leader-goes-silent", "Completed", ((at_step(30), node_goes_silent(0)),)),
    Scenario(
        "stuck-pod-is-removed-by-force",
        "Completed",
        ((at_step(30), node_goes_silent(1)), (nothing_is_left_on_dead_nodes, gang_may_stay)),
        spec=(("recovery.forceDeleteAfterSeconds", 0), ("training.maxSteps", 200)),
    ),
    Scenario("node-becomes-unhealthy", "Completed", ((at_step(30), node_becomes_unhealthy(1)),)),
    Scenario("node-of-leader-becomes-unhealthy", "Completed", ((at_step(30), node_becomes_unhealthy(0)),)),
    Scenario(
        "all-nodes-become-unhealthy",
        "Completed",
        ((at_step(30), both(node_becomes_unhealthy(0), node_becomes_unhealthy(1))),),
    ),
    Scenario(
        "pod-leaves-a-broken-node",
        "Completed",
        (
            (always, only_nodes("node-a", "node-b", "node-c")),
            (at_step(30), pod_leaves_its_node(1, Exclusion.REQUIRED)),
        ),
    ),
    Scenario(
        "leader-leaves-a-broken-node",
        "Completed",
        (
            (always, only_nodes("node-a", "node-b", "node-c")),
            (at_step(30), pod_leaves_its_node(0, Exclusion.REQUIRED)),
        ),
    ),
    Scenario(
        "no-other-node-until-the-suspicion-ends",
        "Completed",
        (
            (always, only_nodes("node-a", "node-b")),
            (at_step(30), pod_leaves_its_node(1, Exclusion.REQUIRED)),
            (when("Unschedulable"), gang_may_stay),
        ),
        spec=(("recovery.suspectNodeSeconds", 60),),
    ),
    Scenario(
        "avoided-node-is-used-where-there-is-no-other",
        "Completed",
        (
            (always, only_nodes("node-a", "node-b")),
            (at_step(30), pod_leaves_its_node(1, Exclusion.PREFERRED)),
        ),
    ),
    Scenario(
        "delete-while-no-other-node-fits",
        GONE,
        (
            (always, only_nodes("node-a", "node-b")),
            (at_step(30), pod_leaves_its_node(1, Exclusion.REQUIRED)),
            (when("Unschedulable"), delete_job),
        ),
    ),
    Scenario("gang-is-recreated", "Completed", ((at_step(30), gang_wants_recreation),)),
    Scenario(
        "gang-stands-still-for-a-while",
        "Completed",
        ((at_step(30), gang_stands), (is_told("ProgressDegraded"), gang_moves)),
    ),
    Scenario(
        "leader-vanishes-while-the-gang-stands-still",
        "Completed",
        (
            (at_step(30), gang_stands),
            (is_told("ProgressDegraded"), pod_vanishes(0)),
            (at_incarnation(2), gang_moves),
        ),
    ),
    Scenario("suspend", "Suspended", ((at_step(30), suspend),)),
    Scenario("suspend-before-pods", "Suspended", ((always, suspend),)),
    Scenario("suspend-and-resume", "Completed", ((at_step(30), suspend), (when("Suspended"), resume))),
    Scenario("suspend-taken-back-at-once", "Completed", ((at_step(30), suspend), (always, resume))),
    Scenario(
        "suspend-twice",
        "Completed",
        (
            (at_step(20), suspend),
            (when("Suspended"), resume),
            (at_step(40), suspend),
            (when("Suspended"), resume),
        ),
    ),
    Scenario("fail", "DataNotFound", ((at_step(20), gang_fails),)),
    Scenario("guard-pauses", "NonFinite", ((at_step(20), guard_pauses),)),
    Scenario(
        "guard-pauses-until-the-spec-changes",
        "Completed",
        ((at_step(20), guard_pauses), (is_paused, spec_changes)),
    ),
    Scenario(
        "spec-changes-as-soon-as-a-guard-pauses",
        "Completed",
        ((at_step(20), guard_pauses), (when("NonFinite"), spec_changes)),
    ),
    Scenario(
        "suspend-what-a-guard-paused",
        "Completed",
        ((at_step(20), guard_pauses), (is_paused, suspend), (when("Suspended"), resume)),
    ),
    Scenario(
        "delete-what-a-guard-paused", GONE, ((at_step(20), guard_pauses), (when("NonFinite"), delete_job))
    ),
    Scenario("ttl", GONE, spec=(("ttlSecondsAfterFinished", 6),)),
    Scenario(
        "deadline", "DeadlineExceeded", spec=(("activeDeadlineSeconds", 60), ("training.maxSteps", 10_000))
    ),
    Scenario(
        "claims-appear-later", "Completed", ((when("ClaimNotFound"), claims_appear),), claims_at_start=False
    ),
    Scenario("delete-when-created", GONE, ((always, delete_job),)),
    Scenario("delete-while-starting", GONE, ((pods_exist, delete_job),)),
    Scenario("delete-while-waiting", GONE, ((pods_run, delete_job),)),
    Scenario("delete-while-training", GONE, ((at_step(30), delete_job),)),
    Scenario(
        "delete-while-recovering", GONE, ((at_step(30), pod_vanishes(1)), (when("Recovering"), delete_job))
    ),
    Scenario("delete-while-suspending", GONE, ((at_step(30), suspend), (when("Suspending"), delete_job))),
    Scenario("delete-while-suspended", GONE, ((at_step(30), suspend), (when("Suspended"), delete_job))),
    Scenario("delete-when-finished", GONE, ((when("Completed"), delete_job),)),
    # --- more of the same, in pairs: what happens while something else is still being dealt with
    Scenario("delete-when-failed", GONE, ((at_step(20), gang_fails), (when("DataNotFound"), delete_job))),
    Scenario(
        "delete-while-leader-is-lost",
        GONE,
        ((at_step(30), pod_vanishes(0)), (when("Recovering"), delete_job)),
    ),
    Scenario(
        "delete-while-gang-is-recreated",
        GONE,
        ((at_step(30), gang_wants_recreation), (at_attempt(2), delete_job)),
    ),
    Scenario(
        "delete-while-resuming",
        GONE,
        ((at_step(30), suspend), (when("Suspended"), resume), (at_attempt(2), delete_job)),
    ),
    Scenario(
        "delete-while-claims-are-missing",
        GONE,
        ((when("ClaimNotFound"), delete_job),),
        claims_at_start=False,
    ),
    Scenario(
        "delete-while-backing-off",
        GONE,
        (
            (at_step(30), pod_is_killed(1)),
            (at_incarnation(2), pod_is_killed(1)),
            (when("BackingOff"), delete_job),
        ),
    ),
    Scenario(
        "delete-before-ttl", GONE, ((when("Completed"), delete_job),), (("ttlSecondsAfterFinished", 60),)
    ),
    Scenario("fail-and-ttl", GONE, ((at_step(20), gang_fails),), spec=(("ttlSecondsAfterFinished", 6),)),
    Scenario(
        "killed-for-memory-twice",
        "Completed",
        ((at_step(30), pod_is_killed(1)), (at_incarnation(2), pod_is_killed(1))),
    ),
    Scenario(
        "killed-for-memory-too-often",
        "BudgetExhausted",
        (
            (at_step(30), pod_is_killed(1)),
            (at_incarnation(2), pod_is_killed(1)),
            (at_incarnation(3), pod_is_killed(1)),
        ),
    ),
    Scenario("all-nodes-die", "Completed", ((at_step(30), both(node_dies(0), node_dies(1))),)),
    Scenario("all-pods-vanish", "Completed", ((at_step(30), both(pod_vanishes(1), pod_vanishes(0))),)),
    Scenario(
        "leader-vanishes-twice",
        "Completed",
        ((at_step(30), pod_vanishes(0)), (at_incarnation(2), pod_vanishes(0))),
    ),
    Scenario(
        "pod-vanishes-while-leader-recovers",
        "Completed",
        ((at_step(30), pod_vanishes(0)), (when("Recovering"), pod_vanishes(1))),
    ),
    Scenario(
        "pod-vanishes-while-gang-is-recreated",
        "Completed",
        ((at_step(30), gang_wants_recreation), (at_attempt(2), gang_may_stay), (pods_run, pod_vanishes(1))),
    ),
    Scenario(
        "suspend-while-recovering",
        "Suspended",
        ((at_step(30), pod_vanishes(1)), (when("Recovering"), suspend)),
    ),
    Scenario(
        "suspend-while-gang-is-recreated",
        "Suspended",
        ((at_step(30), gang_wants_recreation), (at_attempt(2), suspend)),
    ),
    Scenario(
        "leader-vanishes-while-suspending",
        "Suspended",
        ((at_step(30), suspend), (when("Suspending"), pod_vanishes(0))),
    ),
    Scenario(
        "pod-vanishes-after-resuming",
        "Completed",
        (
            (at_step(30), suspend),
            (when("Suspended"), resume),
            (at_incarnation(2), pod_vanishes(1)),
        ),
    ),
    Scenario(
        "quota-admits-a-part",
        "Completed",
        ((always, quota(1)), (pods_exist, gang_may_stay), (is_given_back, quota(None))),
    ),
    Scenario(
        "delete-while-quota-admits-a-part",
        GONE,
        ((always, quota(1)), (when("QuotaExceeded"), delete_job)),
    ),
    Scenario("service-vanishes", "Completed", ((at_step(30), object_vanishes("Service")),)),
    Scenario("configuration-vanishes", "Completed", ((at_step(30), object_vanishes("ConfigMap")),)),
    Scenario("policy-vanishes", "Completed", ((at_step(30), object_vanishes("NetworkPolicy")),)),
    Scenario(
        "start-deadline",
        "StartDeadlineExceeded",
        spec=(("startDeadlineSeconds", 20),),
        claims_at_start=False,
    ),
    Scenario(
        "deadline-while-suspended-does-not-count",
        "Completed",
        ((at_step(20), suspend), (when("Suspended"), resume)),
        spec=(("activeDeadlineSeconds", 600),),
    ),
)
