"""Leaders of gangs, played: they report over the real report server with tokens of their real pods.

Like an agent each leader keeps one connection. What a leader says is made up; who says it is not.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.operator import line
from bench.operator.load import ALL_JOBS, Api, each
from contract.operator.harness import SERVICE, SYSTEM
from windlass.api.contract import MemberReport, Report, RunIdentity
from windlass.api.meta import REPORT_AUDIENCE, Phase
from windlass.api.status import CheckpointRecord, Progress
from windlass.core.pace import REPORT_SECONDS

Json = dict[str, Any]
HOST = f"{SERVICE}.{SYSTEM}.svc"
SAVE_STEPS = 10
RENEWED = 4
"""One leader in so many gets a new token in the minute that is measured, for the operator to have it reviewed: as many
as would otherwise come up for review in a minute, of tokens that count for some five."""
RENEWAL_SECONDS = 50.0


@dataclass
class Leader:
    """The leader of one job's gang."""

    job: str
    uid: str
    pod: str
    token: str
    members: list[MemberReport]
    attempt: int
    ticket: int
    pod_uid: str
    namespace: str
    incarnation: int = 1
    sequence: int = 0
    step: int = 0
    # What the kubelet writes into the pod later; empty where it does not within the time measured.
    next_token: str = ""
    # Steps since the last checkpoint.
    moved: int = 0
    saves: list[CheckpointRecord] = field(default_factory=list)

    def save(self) -> int:
        """A checkpoint was verified; its step."""
        self.step, self.moved = self.step + SAVE_STEPS, 0
        name = f"step-{self.step:09d}"
        record = CheckpointRecord(
            step=self.step,
            incarnation=self.incarnation,
            name=name,
            digest="sha256:" + "0" * 64,
            bytes=1 << 30,
            committed_at=datetime.now(UTC),
        )
        self.saves = [*self.saves, record][-3:]
        return self.step

    def report(self, **said: Any) -> bytes:
        """The next report."""
        self.sequence += 1
        report = Report(
            run=RunIdentity(kind="FineTuneJob", namespace=self.namespace, name=self.job, uid=self.uid),
            pod=self.pod,
            pod_uid=self.pod_uid,
            attempt=self.attempt,
            ticket=self.ticket,
            sequence=self.sequence,
            sent_at=datetime.now(UTC),
            incarnation=self.incarnation,
            phase=Phase.TRAIN,
            progress=Progress(
                step=self.step + self.moved, total_steps=1_000_000, loss=2.0, tokens_per_second=1000.0
            ),
            checkpoints=list(self.saves),
            members=self.members,
            **said,
        )
        return report.model_dump_json(by_alias=True, exclude_none=True).encode()


async def find(api: Api, names: Sequence[str]) -> list[Leader]:
    """The leaders of some jobs, each with a token of its pod."""
    jobs = await api.send("GET", ALL_JOBS)
    known = {item["metadata"]["name"]: item for item in jobs["items"]}
    renewed = set(names[::RENEWED])
    return await each(names, lambda name: _leader(api, known[name], renewed=name in renewed), at_once=16)


async def _leader(api: Api, job: Json, *, renewed: bool) -> Leader:
    name, gang = job["metadata"]["name"], job["status"]["gang"]
    namespace = job["metadata"]["namespace"]
    members = [
        MemberReport(
            index=one["index"],
            pod=f"{name}-{one['index']}-{one['ticket']}",
            pod_uid=one.get("podUid") or "",
            ready=True,
        )
        for one in gang["members"]
    ]
    leader = members[0]
    return Leader(
        job=name,
        uid=job["metadata"]["uid"],
        pod=leader.pod,
        token=await token(api, namespace, leader),
        next_token=await token(api, namespace, leader) if renewed else "",
        members=members,
        attempt=gang["attempt"],
        ticket=gang["members"][0]["ticket"],
        pod_uid=leader.pod_uid,
        namespace=namespace,
    )


async def token(api: Api, namespace: str, member: MemberReport) -> str:
    """What the kubelet would mount into the pod."""
    bound = {"kind": "Pod", "apiVersion": "v1", "name": member.pod, "uid": member.pod_uid}
    spec = {"audiences": [REPORT_AUDIENCE], "expirationSeconds": 7200, "boundObjectRef": bound}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/trainer/token"
    answer = await api.send(
        "POST", path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    )
    return str(answer["status"]["token"])


class Line:
    """Where reports go."""

    def __init__(self, ports: list[int], authority: Path) -> None:
        self.ports = ports
        self.refused: list[str] = []
        self.routine = 0
        self._context = line.context(authority)
        self._connections: dict[str, line.Connection] = {}

    async def __aenter__(self) -> Line:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._connections.values():
            connection.close()

    def _connection(self, leader: Leader) -> line.Connection:
        """The leader's own."""
        if leader.pod_uid not in self._connections:
            self._connections[leader.pod_uid] = line.Connection(self.ports[0], HOST, self._context)
        return self._connections[leader.pod_uid]

    async def send(self, leader: Leader, body: bytes) -> float:
        """One report; a refusal is noted. Seconds that the operator asks to wait before the next."""
        try:
            answer = await self._connection(leader).post(leader.token, body)
        except line.TROUBLE as error:
            self.refused.append(f"{leader.job}: {type(error).__name__}")
            return 0.0
        if answer.status == 200:
            return answer.retry_after_seconds
        self.refused.append(f"{leader.job}: {answer.status} {answer.body[:200]!r}")
        return 0.0

    async def all_train(self, leaders: list[Leader]) -> None:
        """First reports of all: their gangs train, and have a checkpoint, as all but young runs have."""
        for leader in leaders:
            leader.save()
        await each(leaders, lambda leader: self.send(leader, leader.report()), at_once=16)

    async def steady(self, leaders: list[Leader]) -> None:
        """What every leader sends besides news: its numbers, as often as an agent would. Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number, leader in enumerate(leaders):
                share = number / len(leaders)
                group.create_task(self._steady(leader, REPORT_SECONDS * share, RENEWAL_SECONDS * share))

    async def _steady(self, leader: Leader, offset: float, renewal: float) -> None:
        await asyncio.sleep(offset)
        began = time.monotonic()
        while True:
            if leader.next_token and time.monotonic() - began >= renewal:
                leader.token, leader.next_token = leader.next_token, ""
            leader.moved = min(leader.moved + 1, SAVE_STEPS - 1)
            asked = await self.send(leader, leader.report())
            self.routine += 1
            await asyncio.sleep(max(REPORT_SECONDS, asked))

    async def changes(
        self, leaders: list[Leader], per_second: float, seconds: float
    ) -> dict[tuple[str, int], float]:
        """So many new checkpoints a second, of all jobs in turn; when each was told, by job and step.

        The pace is kept whether or not the operator answers in time.
        """
        told: dict[tuple[str, int], float] = {}
        began = time.monotonic()
        turns = itertools.cycle(leaders)
        async with asyncio.TaskGroup() as group:
            for number in range(int(per_second * seconds)):
                await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
                leader = next(turns)
                step = leader.save()
                told[leader.job, step] = time.time()
                group.create_task(self.send(leader, leader.report()))
        return told
