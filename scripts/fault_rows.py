"""The faults that runs and the operator are held to: what happens, how it is caused here, what is expected.

The one reviewed table behind docs/faults.md. A row is proved by tests that carry its mark, or says why it cannot be
caused here; never both.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Row(NamedTuple):
    """One fault. `why_not` is set only while no test causes it."""

    id: str
    title: str
    caused: str
    expected: str
    why_not: str = ""


GROUPS: Final = {
    "Operator": (1, 13),
    "API server": (14, 22),
    "Nodes and scheduling": (23, 35),
    "Ranks": (36, 52),
    "Checkpoints and volumes": (53, 62),
}
"""Sections of the page: first and last number of each."""

ROWS: Final = (
    Row(
        "F1",
        "The operator dies after any of its writes",
        "it is stopped after write number k of a life, for every k, and started again",
        "the next pass ends at the same objects; nothing is made twice and nothing is left over",
    ),
    Row(
        "F2",
        "A job is edited twice while the operator is down",
        "two changes of the spec between two passes",
        "only the last one counts",
    ),
    Row(
        "F3",
        "A job is deleted while the operator is down",
        "a job with a deletion time and children",
        "owner references remove the children; there is no finalizer that could hang",
    ),
    Row(
        "F4",
        "Two operators are active at once",
        "two that contend for one Lease, with pauses, lost answers and clocks that differ",
        "one acts, the other stands by with warm caches; they never act together",
    ),
    Row(
        "F5",
        "An event never arrives, or a watch stands still",
        "each event of a life left out in turn; a watch that is open and silent",
        "the change is found by the next look; the silence is noticed and ended",
    ),
    Row(
        "F6",
        "A watch is answered 410 Gone",
        "the API server forgets the version that a watch wants to go on from",
        "a new list, and no restart of anything that has not changed",
    ),
    Row(
        "F7",
        "One job makes the operator raise",
        "a defect that one job alone meets",
        "that job waits longer each time; all others are served",
    ),
    Row(
        "F8",
        "The operator's loop is blocked",
        "a pass that holds the loop for longer than the liveness limit",
        "the liveness probe fails, and the kubelet restarts it",
    ),
    Row(
        "F9",
        "Thousands of jobs at once",
        "the caches of one operator hold 5000 live jobs with all that belongs to them",
        "memory stays within the container's limit",
    ),
    Row(
        "F10",
        "The operator is upgraded while jobs run",
        "a newer operator takes over a live gang",
        "no pod and no configuration of it is touched",
    ),
    Row(
        "F11",
        "The operator is downgraded",
        "status that holds fields of a later version",
        "what is unknown is left out, what is known is read, nothing restarts",
    ),
    Row(
        "F12",
        "The clock jumps by ten minutes",
        "passes with times that go forwards and backwards",
        "no deadline passes and no run is judged dead",
    ),
    Row(
        "F13",
        "The operator starts before its CRD is there",
        "the API server does not know the resource and is taught it later",
        "it says which resource is missing, tries again, and serves as soon as it appears",
    ),
    Row(
        "F14",
        "Somebody else writes status at the same time",
        "each status write of a life meets a conflict in turn",
        "a fresh read and another try; no condition is lost",
    ),
    Row(
        "F15",
        "The API server throttles",
        "429 with and without Retry-After",
        "the pause that was asked for, with jitter, and no storm",
    ),
    Row(
        "F16",
        "A write is done but its answer is lost",
        "an error after the commit of each write of a life in turn",
        "the object that is there by its name and owner is taken for the answer",
    ),
    Row(
        "F17",
        "A list is older than the last write",
        "each read of a life replaced by an older one in turn",
        "nothing is deleted or made on the strength of it: UID and version are preconditions",
    ),
    Row(
        "F18",
        "A quota admits a part of the gang",
        "refusals from the third of eight pods on",
        "a condition with used and limit, the admitted part is given back, tries become rarer",
    ),
    Row(
        "F19",
        "Pod security refuses a pod",
        "an admission refusal",
        "a condition that names the fields; no other try before something changes",
    ),
    Row(
        "F20",
        "A LimitRange changes what pods ask for",
        "a real API server admits pods with other limits than were sent",
        "the pods are taken as they are: no second write, no replacement",
    ),
    Row(
        "F21",
        "A spec is larger than the store of the API server likes",
        "a job of two megabytes sent to a real API server",
        "refused by the bounds of the schema, before the operator hears of it",
    ),
    Row(
        "F22",
        "The API server or the operator is away for long",
        "reports are refused or unanswered while a run trains, fails and ends",
        "training goes on, recoveries in place too; afterwards nothing is judged wrongly",
    ),
    Row(
        "F23",
        "A node freezes",
        "rendered tolerations and a kubelet that no longer answers",
        "pods leave it after half a minute, and the gang goes on elsewhere",
    ),
    Row(
        "F24",
        "A node loses power",
        "a pod that is gone without a word, or stays Terminating",
        "the replacement is made at once and joins; what is stuck does not hold it up",
    ),
    Row(
        "F25",
        "A node comes back with the old leader on it",
        "the leader's agent and rank are frozen, replaced, and woken",
        "nothing of theirs counts any more, and they end as fenced",
    ),
    Row(
        "F26",
        "A node is drained",
        "SIGTERM to one agent or to all of them",
        "saved at a step that all ranks agree on, lost 0, nothing charged",
    ),
    Row(
        "F27",
        "A pod is preempted by a more important one",
        "the same with the condition that the scheduler sets",
        "as for a drain",
    ),
    Row(
        "F28",
        "A spot node is reclaimed with little notice",
        "a pod of the gang that is being deleted, as the operator sees it; how a save ends is F26's",
        "a new ticket and no charge; a save if the time allows it, else the newest verified checkpoint",
    ),
    Row(
        "F29",
        "A pod is evicted for the scratch space it used",
        "an eviction with the kubelet's message",
        "its own class, with the path and the limit",
    ),
    Row(
        "F30",
        "A device reports an error and its node is tainted",
        "a node with a taint or a condition of device health",
        "the node is avoided by the next pods of the run, which restarts once",
    ),
    Row(
        "F31",
        "A node has fewer devices than before",
        "the scheduler's words about devices that are missing",
        "the job waits with the counts in its condition; nothing is charged",
    ),
    Row(
        "F32",
        "Two gangs hold half of a cluster each",
        "gangs that are admitted in part",
        "each gives back what it holds and tries again after a pause of its own",
    ),
    Row(
        "F33",
        "An image cannot be pulled",
        "the kubelet's waiting reasons",
        "said with the image's name, budgets untouched",
    ),
    Row(
        "F34",
        "A node accepts a pod and cannot run it",
        "a pod that failed as UnexpectedAdmissionError",
        "a new pod, charged to the infrastructure",
    ),
    Row(
        "F35",
        "A claim is never bound",
        "a pod that waits for a volume",
        "the claim and the scheduler's words, and an end at the start deadline",
    ),
    Row(
        "F36",
        "A rank raises",
        "an exception in one rank's step",
        "the whole gang is stopped and restarts in place; the traceback is kept and the followers are listed",
    ),
    Row(
        "F37",
        "A rank is killed",
        "SIGKILL to one rank of a gang that trains",
        "noticed at once, restarted in place from the newest verified checkpoint",
    ),
    Row(
        "F38",
        "The kernel kills for memory",
        "the kubelet's reason, and the counter of the control group",
        "its own class, a small budget, and advice about the fields to change",
    ),
    Row(
        "F39",
        "A device runs out of memory",
        "the library's error in the log",
        "the same class and advice",
    ),
    Row(
        "F40",
        "A rank stands still",
        "SIGSTOP to one rank",
        "noticed after the limit of its phase, the stacks of all ranks are kept, the gang restarts",
    ),
    Row(
        "F41",
        "Ranks call different collectives",
        "one rank leaves out a sum",
        "taken for a stall, with the ranks that wait listed",
    ),
    Row(
        "F42",
        "One rank is slow",
        "a rank with a pause in each step",
        "said in an event; nothing is killed",
    ),
    Row(
        "F43",
        "The loss is no number",
        "a loss that is made infinite at a step",
        "stopped before the optimiser's step, with its own class and the policy that the job asks for",
    ),
    Row(
        "F44",
        "A bit of a gradient flips",
        "a bit of a gradient that flips so that it is no number",
        "applied on no rank, as F43; a flip that leaves it finite is bounded by clipping and not found",
    ),
    Row(
        "F45",
        "Some ranks end well and others go on",
        "a rank that never ends after the others have",
        "no success before all have ended; who does not is stopped",
    ),
    Row(
        "F46",
        "A pod comes late",
        "the follower's pod starts long after the leader's",
        "the gang waits for it, and nothing is charged; the start deadline bounds the wait",
    ),
    Row(
        "F47",
        "Pods of one gang run different images",
        "gangs of all shapes are rendered",
        "impossible: all pods of an attempt have one image, and its configuration is rendered once",
    ),
    Row(
        "F48",
        "Shared memory is used up",
        "the errors that a full /dev/shm gives",
        "memory's class, naming /dev/shm",
    ),
    Row(
        "F49",
        "A rank ignores SIGTERM",
        "a rank that hangs while a save is asked for",
        "killed at the end of the grace period; the newest verified checkpoint counts",
    ),
    Row(
        "F50",
        "It fails again and again",
        "a rank that always raises",
        "an end with the budget, the evidence and the next step",
    ),
    Row(
        "F51",
        "The port is still held",
        "a leftover listener on the leader's port",
        "waited for, and nothing is charged; ranks of each incarnation meet on a port of their own",
    ),
    Row(
        "F52",
        "It fails in the same way without progress",
        "the same failure at the same step",
        "longer pauses, and an end after the third",
    ),
    Row(
        "F53",
        "A rank dies in the middle of a save",
        "a kill at every operation of a save, by turns and in real gangs",
        "what is not complete does not exist; it is cleared later",
    ),
    Row(
        "F54",
        "A checkpoint that was accepted is not there",
        "its directory is removed",
        "the newest that is there and whole is taken",
    ),
    Row(
        "F55",
        "A file of a checkpoint is empty, torn or changed",
        "truncated, flipped, emptied and removed files and manifests",
        "seen by size or digest; the one before is taken",
    ),
    Row(
        "F56",
        "The volume is full or fails",
        "ENOSPC and EIO at every operation, and a volume without a free byte",
        "the save fails with a condition, the last good one stays, training goes on",
    ),
    Row(
        "F57",
        "The volume does not answer",
        "reads and writes that fail as a network volume's do",
        "no checkpoint is blamed for it; tried again with pauses",
    ),
    Row(
        "F58",
        "An object store answers 503",
        "a server that refuses for a while",
        "tried again with jitter, training goes on",
        "the checkpoint store is a mounted volume in this version; no object store is spoken to while a run trains",
    ),
    Row(
        "F59",
        "A volume for one node is wanted by two",
        "a claim with ReadWriteOnce and a job of two nodes",
        "refused before any pod is made",
    ),
    Row(
        "F60",
        "The number of ranks changes between two attempts",
        "a checkpoint of two ranks is resumed by one, and one of one by two",
        "loaded in the new shape, converted for it first under DeepSpeed; what cannot be is refused with both numbers",
    ),
    Row(
        "F61",
        "Retention meets a checkpoint in use",
        "clearing while one is resumed from or being written",
        "what is in use is never deleted",
    ),
    Row(
        "F62",
        "Two leaders at once",
        "racing claims, and commits of a replaced leader",
        "one wins the incarnation; the other's commits are refused or do not count",
    ),
)
