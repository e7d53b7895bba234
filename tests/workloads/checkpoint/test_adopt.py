"""A checkpoint of another run is taken over as it is, or refused with what could be named instead."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from windlass.api.contract import AcceptedCheckpoint, BudgetUse, Rollback, RunConfig
from windlass.core.failure.numeric import detour
from windlass_workloads.agent.claims import Claims
from windlass_workloads.agent.events import Claim, Claimed
from windlass_workloads.agent.identity import Identity
from windlass_workloads.checkpoint import adopt as adopting
from windlass_workloads.checkpoint import choose, incarnations, ledger
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.adopt import NotAdoptable, adopt, claim_root
from windlass_workloads.checkpoint.errors import Fenced
from windlass_workloads.checkpoint.recipe import recipe
from windlass_workloads.checkpoint.retention import purge
from windlass_workloads.checkpoint.store import RunStore
from windlass_workloads.checkpoint.trash import discard
from workloads.checkpoint.support import SPEC, commit, context, incarnation

OTHER = "team-a/team/elder/uid-of-elder"
ELDERS = recipe(context("/x").config.spec)
NO_RUN = "is not the directory of another run"


@pytest.fixture
def elder(tmp_path: Path) -> RunStore:
    """A run that made steps 10 and 20, was replaced, and made step 25 in its second life."""
    store = RunStore(tmp_path / OTHER)
    store.probe()
    assert incarnations.claim(store, incarnation(1))
    for step in (10, 20):
        commit(store, step, 1, skipped_windows=[(3, 4)], recent_losses=[0.5])
    rows = [
        AcceptedCheckpoint(
            name=f"step-{step:08d}.i1",
            step=step,
            incarnation=1,
            digest=manifests.read(store, f"step-{step:08d}.i1").files_digest,
        )
        for step in (20, 10)
    ]
    # The guard left out a window after the last checkpoint: only the incarnation's file tells of it.
    windows = [(3, 4), (70, 72)]
    assert incarnations.claim(store, incarnation(2, accepted=rows, skipped_windows=windows, details=ELDERS))
    commit(store, 25, 2)
    # A slower leader of the first life was too late with this one.
    commit_late(store, 30, 1)
    return store


def commit_late(store: RunStore, step: int, number: int) -> None:
    """A checkpoint whose incarnation had been replaced by the time its manifest was written."""
    commit(RunStore(store.root.parent / "late"), step, number)
    name = f"step-{step:08d}.i{number}"
    shutil.move(store.root.parent / "late" / name, store.root / name)


def heir(
    tmp_path: Path, source: str, store: str = "pvc://store/team-b", **changes: Any
) -> tuple[RunStore, RunConfig]:
    """A new run that names a checkpoint, and its empty store."""
    path = store.partition("://")[2].partition("/")[2]
    directory = "/".join(part for part in (str(tmp_path), path, "team", "heir", "uid-of-heir") if part)
    run = {"kind": "FineTuneJob", "namespace": "team", "name": "heir", "uid": "uid-of-heir"}
    spec = SPEC | {"checkpoint": {"store": store}, "resume": {"from": source}} | changes
    config = {"run": run, "attempt": 1, "spec": spec, "leaderHost": "run-0", "storePath": directory}
    own = RunStore(directory)
    own.probe()
    return own, RunConfig.model_validate(config)


def problem(tmp_path: Path, source: str) -> str:
    store, config = heir(tmp_path, source)
    with pytest.raises(NotAdoptable) as caught:
        adopt(store, config)
    assert store.list_checkpoints() == [] and temporary(store) == []
    return str(caught.value)


def temporary(store: RunStore) -> list[str]:
    return [name for name in os.listdir(store.root) if name.startswith(".tmp-")]


@pytest.mark.parametrize("store", ["pvc://store", "pvc://store/team-b", "pvc://store/a/b"])
@pytest.mark.parametrize(
    ("end", "name"),
    [
        ("", "step-00000025.i2"),
        ("/", "step-00000025.i2"),
        ("/step-00000020.i1", "step-00000020.i1"),
        ("/step-00000010.i1/", "step-00000010.i1"),
    ],
)
def test_what_is_named_is_taken_over_byte_for_byte(
    elder: RunStore, tmp_path: Path, store: str, end: str, name: str
) -> None:
    own, config = heir(tmp_path, f"pvc://store/{OTHER}{end}", store)
    assert claim_root(config) == tmp_path
    step = name.partition(".")[0]
    assert adopt(own, config) == f"{step}.i0"
    before, after = manifests.read(elder, name), manifests.read(own, f"{step}.i0")
    assert manifests.verify(own.path(f"{step}.i0"), after, deep=True) == []
    assert after.files_digest == before.files_digest
    assert (after.run_uid, after.incarnation) == ("uid-of-heir", 0)
    assert (after.parent, after.recent_losses) == (f"pvc://store/{OTHER}/{name}", before.recent_losses)
    assert after.created_at > before.created_at, "its age is this run's"
    for entry in after.files:
        mine, theirs = own.path(f"{step}.i0/{entry.path}"), elder.path(f"{name}/{entry.path}")
        assert mine.stat().st_ino == theirs.stat().st_ino, "linked, not copied"
    assert temporary(own) == []


def test_the_first_incarnation_goes_on_from_it_and_later_ones_from_what_follows(
    elder: RunStore, tmp_path: Path
) -> None:
    source = f"pvc://store/{OTHER}/step-00000020.i1"
    own, config = heir(tmp_path, source)
    name = adopt(own, config)
    first = choose.choose(own, None, source)
    assert (first.name, first.step, first.problem) == (name, 20, None)
    record = incarnation(1, accepted=list(first.accepted), details={choose.RESUME_FROM: source})
    assert incarnations.claim(own, record)
    commit(own, 27, 1)
    later = choose.choose(own, record, source)
    assert [each.step for each in later.accepted] == [27, 20]
    # Neither run takes anything from the other.
    assert discard(own, name, now=0.0)
    assert (
        manifests.verify(elder.path("step-00000020.i1"), manifests.read(elder, "step-00000020.i1"), deep=True)
        == []
    )


def test_a_run_that_asked_for_another_s_checkpoint_never_begins_at_nothing_instead(
    elder: RunStore, tmp_path: Path
) -> None:
    source = f"pvc://store/{OTHER}"
    own, config = heir(tmp_path, source)
    name = adopt(own, config)
    first = choose.choose(own, None, source)
    record = incarnation(1, accepted=list(first.accepted), details={choose.RESUME_FROM: source})
    assert incarnations.claim(own, record)
    choice = choose.choose(own, record, source, poisoned={name})
    assert choice.checkpoint is None and choice.accepted == ()
    assert choice.problem is not None and "poisoned: it failed to load before" in choice.problem
    assert "hint: create a job that names an older checkpoint" in choice.problem


@pytest.mark.parametrize("end", ["", "/step-00000025.i2"])
@pytest.mark.parametrize("fate", ["removed", "goes on", "goes back"])
def test_a_second_try_finds_the_first_one_s_work_whatever_became_of_the_other_run(
    elder: RunStore, tmp_path: Path, end: str, fate: str
) -> None:
    own, config = heir(tmp_path, f"pvc://store/{OTHER}{end}")
    name = adopt(own, config)
    made = own.read(f"{name}/manifest.json")
    if fate == "removed":
        shutil.rmtree(elder.root)
    elif fate == "goes on":
        commit(elder, 40, 2)
    else:
        shutil.rmtree(elder.path("step-00000025.i2"))
        commit(elder, 22, 2)
    assert adopt(own, config) == name == "step-00000025.i0"
    assert own.list_checkpoints() == [name]
    assert own.read(f"{name}/manifest.json") == made
    assert manifests.verify(own.path(name), manifests.read(own, name), deep=True) == []


def test_what_the_other_run_left_out_stays_left_out(elder: RunStore, tmp_path: Path) -> None:
    own, config = heir(tmp_path, f"pvc://store/{OTHER}/step-00000020.i1")
    assert manifests.read(elder, "step-00000020.i1").skipped_windows == [(3, 4)]
    assert manifests.read(own, adopt(own, config)).skipped_windows == [(3, 4), (70, 72)]


@pytest.mark.parametrize("source", ["pvc://store/" + OTHER, "Latest"])
def test_the_first_claim_takes_over_checkpoint_and_windows(
    elder: RunStore, tmp_path: Path, source: str
) -> None:
    """Also where the wish was taken back between the adoption and the first claim."""
    own, config = heir(tmp_path, f"pvc://store/{OTHER}")
    adopt(own, config)
    config = heir(tmp_path, source)[1]
    me = Identity(index=0, ticket=1, attempt=1, pod="heir-0-1", pod_uid="pod-a", pod_ip="127.0.0.1", node="n")
    wish = Claim(cause=None, budgets=BudgetUse(), prepared="p", poisoned=())
    claimed = Claims(own, config, me).claim(wish, 0)
    assert isinstance(claimed, Claimed), claimed
    record = claimed.record
    assert (record.incarnation, record.resume) == (1, "step-00000025.i0")
    assert record.skipped_windows == [(3, 4), (70, 72)]
    assert [row.step for row in ledger.rows(own, record)] == [25]
    # A rollback within this run counts positions as they were trained, with both windows.
    back = Rollback(step=30, skip_steps=2, checkpoints=1)
    way = detour(back, record.accepted, record.skipped_windows, 4)
    assert way.accepted[0].name == "step-00000025.i0" and way.skipped is not None
    assert set(way.windows) > {(3, 4), (70, 72)}
    assert way.skipped.first > 4 * 28


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"adapter": {"type": "LoRA", "rank": 8, "alpha": 64}},
            "spec.adapter: differs from the run whose checkpoint",
        ),
        (
            {"training": SPEC["training"] | {"optimizer": {"beta2": "0.95"}}},
            "spec.training.optimizer: differs from the run whose checkpoint",
        ),
        ({"training": SPEC["training"] | {"learningRate": "1e-5", "maxSteps": 400}}, None),
    ],
)
def test_what_no_shape_would_tell_is_compared_and_named(
    elder: RunStore, tmp_path: Path, changes: dict[str, Any], said: str | None
) -> None:
    own, config = heir(tmp_path, f"pvc://store/{OTHER}", **changes)
    if said is None:
        assert adopt(own, config) == "step-00000025.i0"
        return
    with pytest.raises(NotAdoptable) as caught:
        adopt(own, config)
    assert str(caught.value).startswith(said) and "; allowed {" in str(caught.value)
    assert own.list_checkpoints() == []


def test_a_checkpoint_that_goes_while_it_is_looked_at_is_chosen_anew(
    elder: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, config = heir(tmp_path, f"pvc://store/{OTHER}")
    real = manifests.read

    def read(store: RunStore, name: str) -> Any:
        found = real(store, name)
        if store.root == elder.root and name == "step-00000025.i2" and elder.exists(name):
            discard(elder, name, now=1.0)
        return found

    monkeypatch.setattr(adopting.manifests, "read", read)
    assert adopt(own, config) == "step-00000020.i0"
    assert temporary(own) == []


def test_what_another_agent_may_still_be_at_is_cleared_behind_the_fence_only(
    elder: RunStore, tmp_path: Path
) -> None:
    own, config = heir(tmp_path, f"pvc://store/{OTHER}")
    own.write(".tmp-adopted-1/weights.bin", b"x")
    adopt(own, config)
    assert temporary(own) == [".tmp-adopted-1"], "before the first incarnation nobody knows whose it is"
    assert incarnations.claim(own, incarnation(1)) and incarnations.claim(own, incarnation(2))
    with pytest.raises(Fenced):
        purge(own, incarnation=1)
    assert temporary(own) == [".tmp-adopted-1"]
    purge(own, incarnation=2)
    assert temporary(own) == []


@pytest.mark.parametrize(
    ("mine", "same"),
    [
        ({"adapter": {"type": "LoRA"}}, True),
        ({"adapter": {"rank": 16, "alpha": 32, "targetModules": ["all-linear"], "dropout": "0.1"}}, True),
        ({"adapter": {"type": "LoRA", "rank": 8}}, False),
        ({"adapter": {"type": "LoRA", "targetModules": ["q_proj"]}}, False),
        ({"adapter": {"type": "IA3"}}, False),
        ({}, False),
        (
            {"adapter": {"type": "LoRA"}, "training": SPEC["training"] | {"optimizer": {"beta1": "0.90"}}},
            True,
        ),
        (
            {
                "adapter": {"type": "LoRA"},
                "training": SPEC["training"] | {"optimizer": {"epsilon": "0.00000001"}},
            },
            True,
        ),
        (
            {"adapter": {"type": "LoRA"}, "training": SPEC["training"] | {"optimizer": {"epsilon": "1e-6"}}},
            False,
        ),
    ],
)
@pytest.mark.parametrize("older", [False, True])
def test_equal_settings_are_equal_however_they_are_written(
    elder: RunStore, tmp_path: Path, mine: dict[str, Any], same: bool, older: bool
) -> None:
    """Also where the other run's release knew a setting that this one does not, or fewer."""
    told = recipe(heir(tmp_path, "Latest", adapter={"type": "LoRA"})[1].spec)
    if older:
        adapter, optimizer = (json.loads(text) for text in told.values())
        del optimizer["weightDecay"]
        told = {"adapter": json.dumps(adapter | {"new": 1}), "training.optimizer": json.dumps(optimizer)}
    record = incarnations.newest(elder)
    assert record is not None
    last = record.model_copy(update={"incarnation": 3, "details": told})
    assert incarnations.claim(elder, last)
    own, config = heir(tmp_path, f"pvc://store/{OTHER}", **mine)
    if same:
        assert adopt(own, config) == "step-00000020.i0"
    else:
        with pytest.raises(NotAdoptable, match="differs from the run whose checkpoint is taken over"):
            adopt(own, config)


def test_a_store_that_a_newer_release_wrote_is_no_fault_of_this_run_s(
    elder: RunStore, tmp_path: Path
) -> None:
    assert elder.create("incarnations/00000003.json", b'{"incarnation": 3, "unheard": true}')
    text = problem(tmp_path, f"pvc://store/{OTHER}")
    assert (
        text.startswith("spec.resume.from: cannot be resumed from") and "not a readable incarnation" in text
    )


def test_a_directory_that_may_not_be_read_is_no_fault_of_this_run_s_store(
    elder: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: RunStore, relative: str) -> bytes | None:
        if self.root == elder.root:
            raise PermissionError(errno.EACCES, "Permission denied", relative)
        return real(self, relative)

    real = RunStore.read
    monkeypatch.setattr(RunStore, "read", read)
    text = problem(tmp_path, f"pvc://store/{OTHER}")
    assert "cannot be read by this pod" in text and "fsGroup" in text


def test_a_link_that_was_made_and_not_answered_is_no_error(
    elder: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system repeats requests whose answer was lost."""
    real = os.link

    def twice(source: Any, target: Any, **named: Any) -> None:
        real(source, target, **named)
        real(source, target, **named)

    own, config = heir(tmp_path, f"pvc://store/{OTHER}")
    with monkeypatch.context() as patched:
        patched.setattr(adopting.os, "link", twice)
        assert adopt(own, config) == "step-00000025.i0"


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3, 4])
def test_an_agent_that_dies_while_it_adopts_leaves_nothing_that_counts(
    elder: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    class Died(BaseException):
        pass

    calls = 0

    def counted(real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > stop_after:
                raise Died
            return real(*arguments, **named)

        return call

    own, config = heir(tmp_path, f"pvc://store/{OTHER}")
    with monkeypatch.context() as patched:
        patched.setattr(os, "link", counted(os.link))
        patched.setattr(RunStore, "move", counted(RunStore.move))
        patched.setattr(RunStore, "remove", lambda *_: None)  # a dead process clears nothing up
        try:
            adopt(own, config)
            finished = True
        except Died:
            finished = False
    assert finished == (stop_after >= 3), calls
    assert (own.list_checkpoints() == ["step-00000025.i0"]) == finished
    assert adopt(own, config) == "step-00000025.i0"
    record = incarnation(1, accepted=list(choose.choose(own, None, config.spec.resume.source).accepted))
    assert [each.step for each in record.accepted] == [25]
    assert incarnations.claim(own, record)
    purge(own, incarnation=1)
    assert temporary(own) == [], "what the dead one left is gone"


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EXDEV, errno.EMLINK])
def test_where_links_are_refused_files_are_copied(
    elder: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    own, config = heir(tmp_path, f"pvc://store/{OTHER}/step-00000010.i1")
    real = os.link

    def link(source: Any, target: Any, **named: Any) -> None:
        if "manifest" not in str(target) and Path(source).parent.name != Path(target).parent.name:
            raise OSError(refusal, os.strerror(refusal))
        real(source, target, **named)

    monkeypatch.setattr(adopting.os, "link", link)
    name = adopt(own, config)
    manifest = manifests.read(own, name)
    assert manifests.verify(own.path(name), manifest, deep=True) == []
    weights = [own.path(f"{name}/weights.bin"), elder.path("step-00000010.i1/weights.bin")]
    assert weights[0].stat().st_ino != weights[1].stat().st_ino


def test_a_volume_that_fails_is_no_fault_of_the_wish(
    elder: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, config = heir(tmp_path, f"pvc://store/{OTHER}")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(adopting.os, "link", fail)
        with pytest.raises(OSError, match="Input/output error"):
            adopt(own, config)
    assert temporary(own) == [] and own.list_checkpoints() == []
    assert adopt(own, config) == "step-00000025.i0"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("team-a/team/elder/uid-of-nobody", NO_RUN),
        ("team-a/team/elder", NO_RUN),
        ("step-00000010.i1", NO_RUN),
        ("./step-00000010.i1", NO_RUN),
        ("team-b/team/heir/uid-of-heir", NO_RUN),
        ("inside/team/heir/uid-of-heir", NO_RUN),
        ("outside/elder", NO_RUN),
        (f"{OTHER}/step-00000025.i2/manifest.json", NO_RUN),
        (f"{OTHER}/step-00000050.i2", "step-00000050.i2: is a symbolic link"),
        (f"{OTHER}/step-00000099.i1", "step-00000099.i1: is not there"),
        (f"{OTHER}/step-00000030.i1", "step-00000030.i1: incarnation 2 did not accept it"),
    ],
)
def test_what_cannot_be_taken_over_is_refused_with_what_can(
    elder: RunStore, tmp_path: Path, path: str, said: str
) -> None:
    shutil.copytree(elder.root, tmp_path.parent / f"{tmp_path.name}-outside" / "elder")
    (tmp_path / "outside").symlink_to(tmp_path.parent / f"{tmp_path.name}-outside")
    (tmp_path / "inside").symlink_to(tmp_path / "team-b")
    commit(RunStore(tmp_path / "loose"), 50, 2)
    elder.path("step-00000050.i2").symlink_to(tmp_path / "loose" / "step-00000050.i2")
    text = problem(tmp_path, f"pvc://store/{path}")
    assert text.startswith(f"spec.resume.from: {said}") or said in text
    assert f'(got "pvc://store/{path}"' in text and "allowed" in text and ". hint: " in text
    if OTHER in path and said != NO_RUN:
        assert "step-00000025.i2, step-00000020.i1, step-00000010.i1" in text


def test_a_damaged_checkpoint_is_named_with_what_is_wrong(elder: RunStore, tmp_path: Path) -> None:
    elder.path("step-00000025.i2/weights.bin").unlink()
    text = problem(tmp_path, f"pvc://store/{OTHER}/step-00000025.i2")
    assert "weights.bin: is missing" in text and "allowed: step-00000020.i1, step-00000010.i1." in text
    own, config = heir(tmp_path, f"pvc://store/{OTHER}")
    assert adopt(own, config) == "step-00000020.i0", "the newest that is sound"


def test_a_run_without_checkpoints_says_so(tmp_path: Path) -> None:
    store = RunStore(tmp_path / OTHER)
    store.probe()
    assert incarnations.claim(store, incarnation(1))
    text = problem(tmp_path, f"pvc://store/{OTHER}")
    assert "allowed: none, that run has no verified checkpoint." in text


def test_the_other_run_s_directory_is_only_read(elder: RunStore, tmp_path: Path) -> None:
    assert discard(elder, "step-00000025.i2", now=1.0)

    def seen() -> list[tuple[str, int]]:
        return sorted((str(each), each.lstat().st_mtime_ns) for each in elder.root.rglob("*"))

    before = seen()
    own, config = heir(tmp_path, f"pvc://store/{OTHER}")
    assert adopt(own, config) == "step-00000020.i0"
    assert seen() == before


def test_another_claim_is_refused_even_where_the_api_let_it_through(tmp_path: Path) -> None:
    assert "is not in the claim of checkpoint.store" in problem(tmp_path, f"pvc://elsewhere/{OTHER}")


def test_a_run_whose_directory_is_elsewhere_says_so(elder: RunStore, tmp_path: Path) -> None:
    own, config = heir(tmp_path, f"pvc://store/{OTHER}")
    with pytest.raises(NotAdoptable, match="not where its claim is mounted"):
        adopt(own, config.model_copy(update={"store_path": "/somewhere/else"}))
