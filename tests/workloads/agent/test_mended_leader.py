"""What a leader tells of a run, and what it does about a store that fails."""

from __future__ import annotations

from pathlib import Path

from workloads.agent.lone_leader import LonePod, until


async def test_a_new_incarnation_is_reported_from_the_step_that_it_resumes_at(tmp_path: Path) -> None:
    """An operator takes no report that goes back within an incarnation, so the first must not be ahead."""
    pod = LonePod(tmp_path)
    async with pod.leading():
        await pod.train()
        pod.work(20)
        pod.save()
        pod.work(17)
        pod.exit(1)
        await until(lambda: pod.incarnation == 2)
        report = pod.leader._report()
        assert (report.incarnation, report.resume.step, report.progress.step) == (2, 20, 20)
        pod.begin()
        pod.work(1)
        await until(lambda: pod.leader._report().progress.step == 21)
