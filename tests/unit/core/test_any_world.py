"""What holds of every decision, in whatever world it is made."""

from __future__ import annotations

import json
from datetime import timedelta

from hypothesis import HealthCheck, given, settings

from unit.core.builders import UID
from unit.core.worlds import World, worlds
from windlass.api.meta import Exclusion, Reason
from windlass.api.status import JobStatus
from windlass.core import names
from windlass.core.decision import Decision
from windlass.core.observed import PodView, names_in
from windlass.core.status.events import EVENTS_PER_WRITE


def stored(world: World) -> JobStatus:
    return world.job.build().status


def written(world: World, decision: Decision) -> JobStatus:
    """The status after the decision, whether it writes one or not."""
    if decision.status is None:
        return stored(world)
    return JobStatus.model_validate(decision.status)


def is_ended(status: JobStatus) -> bool:
    return any(each.type in ("Complete", "Failed") and each.status == "True" for each in status.conditions)


def same_answer_again(world: World, decision: Decision) -> None:
    """The same arguments always lead to the same decision."""
    assert decision == world.decided()
    # Another look at once is for what a write has changed: with nothing written it would be the last look, for ever.
    soonest = 0 if decision.status is not None else 1e-6
    assert decision.requeue_after_seconds is None or decision.requeue_after_seconds >= soonest


def what_is_written_can_be_stored_and_read_again(world: World, decision: Decision) -> None:
    if decision.status is None:
        return
    assert json.loads(json.dumps(decision.status)) == decision.status
    again = JobStatus.model_validate(decision.status)
    assert again.to_wire() == decision.status
    types = [each.type for each in again.conditions]
    assert len(types) == len(set(types))
    assert again.observed_generation == world.job.build().generation
    assert len(json.dumps(decision.status)) < 60_000


def numbers_that_fence_never_go_back(world: World, decision: Decision) -> None:
    before, after = stored(world), written(world, decision)
    assert after.gang.attempt >= before.gang.attempt
    assert after.gang.last_ticket >= before.gang.last_ticket
    assert after.incarnation >= before.incarnation
    assert after.counters.restarts >= before.counters.restarts
    assert after.counters.back_off_seconds >= before.counters.back_off_seconds
    assert after.counters.suspended_seconds >= before.counters.suspended_seconds
    tickets = [member.ticket for member in after.gang.members]
    assert len(tickets) == len(set(tickets))
    known = {(member.index, member.ticket) for member in before.gang.members}
    fresh = [member.ticket for member in after.gang.members if (member.index, member.ticket) not in known]
    assert all(before.gang.last_ticket < ticket <= after.gang.last_ticket for ticket in fresh)


def pods_are_made_of_stored_tickets_only_and_never_beside_new_ones(world: World, decision: Decision) -> None:
    members = {names.pod_name("triage", each.index, each.ticket) for each in stored(world).gang.members}
    there = {pod.name for pod in world.seen.pods if pod.owner_uid == UID}
    for item in decision.creates:
        assert item["metadata"]["name"] in members - there
        assert item["metadata"]["ownerReferences"][0]["uid"] == UID
    if decision.status is not None:
        after = written(world, decision).gang.members
        renewed = [(each.index, each.ticket) for each in after] != [
            (each.index, each.ticket) for each in stored(world).gang.members
        ]
        assert not (renewed and decision.creates)


def only_what_is_ours_is_deleted_and_no_working_member(world: World, decision: Decision) -> None:
    job = world.job.build()
    owned = {pod.uid: pod for pod in world.seen.pods if pod.owner_uid == UID}
    configs = {item.uid for item in world.seen.objects if item.owner_uid == UID and item.kind == "ConfigMap"}
    members = {
        names.pod_name("triage", each.index, each.ticket): each.pod_uid for each in job.status.gang.members
    }
    resting = job.deleting or is_ended(job.status) or (job.spec is not None and job.spec.suspend)
    for delete in decision.deletes:
        if delete.kind == "FineTuneJob":
            assert delete.uid == UID and is_ended(job.status)
        elif delete.kind == "ConfigMap":
            assert delete.uid in configs
        elif delete.force:
            asked = job.spec.recovery.force_delete_after_seconds if job.spec is not None else None
            ends = owned[delete.uid].deletion_timestamp
            assert asked is not None and ends is not None
            assert world.now >= ends + timedelta(seconds=asked)
        else:
            pod = owned[delete.uid]
            assert pod.deletion_timestamp is None
            # A member's pod by name and UID may only go when the whole run rests, or its node is unhealthy.
            stays = members.get(pod.name, pod.uid) in (None, pod.uid) and pod.name in members
            assert resting or not stays or is_on_tainted_node(world, pod)


def is_on_tainted_node(world: World, pod: PodView) -> bool:
    return any(
        node.name == pod.node and any(t.key == "sick" for t in node.taints) for node in world.seen.nodes
    )


def nodes_are_avoided_for_a_while_and_by_every_new_pod(world: World, decision: Decision) -> None:
    job, after = world.job.build(), written(world, decision)
    if decision.status is not None:
        assert all(item.until > world.now for item in after.suspect_nodes)
        assert len(after.suspect_nodes) <= 16
    if job.spec is not None and "OtherNode" not in job.spec.recovery.ladder:
        known = {item.name for item in job.status.suspect_nodes}
        assert {item.name for item in after.suspect_nodes} <= known
    closed = {
        item.name
        for item in job.status.suspect_nodes
        if item.until > world.now and item.exclusion is Exclusion.REQUIRED
    }
    for item in decision.creates:
        assert set(names_in(item["metadata"]["annotations"].get("windlass.dev/avoids-nodes"))) == closed


def a_run_that_rests_makes_nothing(world: World, decision: Decision) -> None:
    job = world.job.build()
    if job.deleting or is_ended(job.status) or job.spec is None or job.spec.suspend:
        assert not decision.creates and not decision.applies
    if job.deleting:
        assert decision.is_idle
    if is_ended(job.status):
        told = {event.reason for event in decision.events}
        assert decision.status is None and told <= {Reason.POD_FORCE_DELETED}


def conditions_tell_one_story(world: World, decision: Decision) -> None:
    if decision.status is None:
        return
    truth = {each["type"]: each["status"] == "True" for each in decision.status["conditions"]}
    if truth.get("Complete") or truth.get("Failed"):
        assert truth["Ready"] is bool(truth.get("Complete"))
        assert decision.status["finishedAt"]
        assert decision.orders.action == "Stop"
    assert not (truth.get("Ready") and truth.get("Stalled"))
    for each in decision.status["conditions"]:
        if each["type"] == "Stalled" and each["status"] == "True":
            assert each["message"], each


def events_are_few_short_and_come_with_a_write(world: World, decision: Decision) -> None:
    assert len(decision.events) <= EVENTS_PER_WRITE
    # By force goes what leaves no other trace: the pod was replaced, and its status written, long before.
    quiet = {event.reason for event in decision.events} <= {Reason.POD_FORCE_DELETED}
    assert decision.status is not None or quiet
    assert decision.status is not None or decision.confirm_absent == ()
    for event in decision.events:
        assert event.message and len(event.message) <= 1024


def every_second_of_a_status_is_accounted_for(world: World, decision: Decision) -> None:
    if decision.status is None:
        return
    good = decision.status["goodput"]
    assert abs(sum(good["seconds"].values()) - good["sinceCreation"]) < 1e-6
    assert good.get("ratio") is None or 0 <= good["ratio"] <= 1


def no_credential_and_no_environment_reaches_the_status(world: World, decision: Decision) -> None:
    text = json.dumps(decision.status)
    assert "BEGIN CERTIFICATE" not in text and "token" not in text.lower()


CHECKS = (
    same_answer_again,
    what_is_written_can_be_stored_and_read_again,
    numbers_that_fence_never_go_back,
    pods_are_made_of_stored_tickets_only_and_never_beside_new_ones,
    only_what_is_ours_is_deleted_and_no_working_member,
    a_run_that_rests_makes_nothing,
    nodes_are_avoided_for_a_while_and_by_every_new_pod,
    conditions_tell_one_story,
    events_are_few_short_and_come_with_a_write,
    every_second_of_a_status_is_accounted_for,
    no_credential_and_no_environment_reaches_the_status,
)


@settings(max_examples=90, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_every_decision_holds_what_all_of_them_must(world: World) -> None:
    decision = world.decided()
    for check in CHECKS:
        check(world, decision)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_a_world_that_stands_still_comes_to_rest(world: World) -> None:
    """Each status write must bring the next round closer to none: no two judges may undo each other."""
    seen = []
    for _ in range(8):
        decision = world.decided()
        if decision.status is None:
            return
        seen.append(decision.status)
        world = world.after(decision)
    raise AssertionError([status["conditions"][0] for status in seen])
