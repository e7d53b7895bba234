"""Preparing a PretrainJob may end anywhere: nothing half made ever counts, and the next try ends with equal bytes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_model, write_texts
from tests.workloads.train.support import NEW_BERT, NEW_LLAMA, PRETRAINING, Job, merge
from windlass.api.contract import RunConfig
from windlass.api.pretrain import PretrainJobSpec
from windlass_workloads.checkpoint.store import CORPORA
from windlass_workloads.corpus import stages
from windlass_workloads.data import arrays
from windlass_workloads.data.errors import StopRequested
from windlass_workloads.data.sources import Finder, Roots
from windlass_workloads.train import newmodel, pretraining
from windlass_workloads.train.pretraining import Work, prepare

pytestmark = pytest.mark.workloads

Make = Callable[..., Job]
SMALL = {"corpus": {"sequenceLength": 16, "heldOut": {"fraction": "0.2"}}}
BERT = merge(merge(PRETRAINING, NEW_BERT), SMALL)
LLAMA = merge(merge(PRETRAINING, NEW_LLAMA), SMALL)


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes of their own, with few texts."""
    root = tmp_path_factory.mktemp("claims")
    write_texts(root / "texts", count=12)
    write_model(root / "models" / "tiny", hidden=16, layers=1)
    return root


def work(
    root: Path,
    claims: Path,
    spec: dict[str, Any],
    *,
    uid: str = "uid-1",
    check: Callable[[], None] = lambda: None,
) -> Work:
    """The preparation of a run whose store is below `root`."""
    store = root / "team" / "job" / uid
    store.mkdir(parents=True, exist_ok=True)
    config = RunConfig.model_validate(
        {
            "run": {"kind": "PretrainJob", "namespace": "team", "name": "job", "uid": uid},
            "attempt": 1,
            "spec": spec,
            "leaderHost": "127.0.0.1",
            "storePath": str(store),
        }
    )
    assert isinstance(config.spec, PretrainJobSpec)
    return Work(config, config.spec, Finder(Roots(claims), store / "cache"), check)


def files_of(root: Path) -> dict[str, str]:
    """Everything below a directory, by name and digest."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def whole(root: Path) -> None:
    """Whatever has a name that counts is as it was written down to be."""
    for prepared in root.glob("team/job/*/prepared/[!.]*"):
        index = arrays.read_index(prepared)
        assert index is not None and arrays.digest_of(prepared)[0] == index.digest
    for corpus in root.glob(f"{CORPORA}/[!.]*"):
        for shard in json.loads((corpus / stages.INDEX).read_text())["shards"]:
            assert hashlib.sha256((corpus / shard["name"]).read_bytes()).hexdigest() == shard["sha256"]


class Counting:
    """A check that asks for a stop the n-th time."""

    def __init__(self, stop_at: int = 0) -> None:
        self.calls, self.stop_at = 0, stop_at

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.stop_at:
            raise StopRequested


# --- stops -----------------------------------------------------------------------------------------


@pytest.mark.fault("F53")
def test_a_stop_at_any_moment_of_a_preparation_changes_no_byte(tmp_path: Path, claims: Path) -> None:
    counting = Counting()
    local, index = prepare(work(tmp_path / "whole", claims, BERT, check=counting))
    wanted = files_of(tmp_path / "whole")
    assert counting.calls >= 15
    assert index.train_units > 20 and index.validation_units > 2
    for number in range(1, counting.calls + 1):
        root = tmp_path / f"stopped-{number}"
        stopping = Counting(number)
        with pytest.raises(StopRequested):
            prepare(work(root, claims, BERT, check=stopping))
        assert stopping.calls == number
        whole(root)
        again, found = prepare(work(root, claims, BERT))
        assert (found, again.digest) == (index, local.digest)
        assert files_of(root) == wanted, f"after a stop at check {number}"
        shutil.rmtree(root)


def test_a_preparation_that_is_stopped_again_and_again_comes_to_its_end(tmp_path: Path, claims: Path) -> None:
    index, turns = None, 0
    while index is None:
        try:
            _, index = prepare(work(tmp_path / "often", claims, LLAMA, check=Counting(6)))
        except StopRequested:
            turns += 1
            assert turns < 30, "each turn gets further"
    assert turns >= 3
    assert prepare(work(tmp_path / "once", claims, LLAMA))[1] == index
    assert files_of(tmp_path / "often") == files_of(tmp_path / "once")


# --- kills -----------------------------------------------------------------------------------------

OPERATIONS = ("fsync", "rename", "mkdir", "rmdir", "unlink")
PLACES = {
    "within a piece": r"fsync .*/\.new-sign-",
    "before a piece has its name": r"rename .*/\.new-sign-",
    "before a shard has its name": r"rename .*/\.new-shard-",
    "within the corpus": r"fsync .*/corpora\.windlass/\.new-.*/corpus\.json",
    "before the corpus has its name": r"rename .*/corpora\.windlass/\.new-\w+\.\w+ ",
    "within the first model": r"fsync .*/\.new-initial",
    "before the first model has its name": r"rename .*/\.new-initial",
    "within the tokens of a shard": r"fsync .*/\.new-tokens-",
    "before the tokens have their name": r"rename .*/\.new-tokens-",
    "within the rows": r"fsync .*/train/tokens\.bin",
    "before the rows are marked as whole": r"rename .*/index\.json\.tmp ",
    "before the rows have their name": r"rename .*/prepared/\.new-\w+\.\w+ ",
    "before tokens are thrown away": r"rename .*/prepared/\.\w+\.stages ",
    "while tokens are thrown away": r"unlink (train|held-out)\.bin",
}
"""Where a preparation is killed, as its operations on the disk are called."""


def prepare_until_killed(context: Any, directory: Path) -> None:
    """Runs in a forked rank: prepares, and dies by SIGKILL before the n-th of its operations on the disk."""
    from tests.workloads.train.forkserver import FileChannel
    from windlass_workloads.train import tasks

    done, kill_at = [], int(os.environ["KILL_AT"])

    def counted(name: str) -> Callable[..., Any]:
        plain = getattr(os, name)

        def operation(*arguments: Any, **named: Any) -> Any:
            places = (
                [os.readlink(f"/proc/self/fd/{arguments[0]}")] if name == "fsync" else map(str, arguments)
            )
            done.append(" ".join([name, *places]))
            if len(done) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*arguments, **named)

        return operation

    for name in OPERATIONS:
        setattr(os, name, counted(name))
    tasks.prepare(
        context, FileChannel(directory / "events-0.jsonl", 0, []), Roots(Path(os.environ["VOLUMES"]))
    )
    (directory / "done").write_text("\n".join(done))


def start(job: Job, claims: Path, kill_at: int = 0) -> Any:
    return job.start(
        "prepare",
        function=f"{__name__}.prepare_until_killed",
        environment={"VOLUMES": str(claims), "KILL_AT": str(kill_at)},
    )


def left_by(job: Job) -> dict[str, str]:
    """What a preparation leaves, without what starts of the gang wrote beside it."""
    return {
        name: digest for name, digest in files_of(job.root / "store").items() if "/incarnations/" not in name
    }


@dataclass(frozen=True)
class Undisturbed:
    """A preparation that nobody disturbed: its operations, what it left, and the name of the rows."""

    done: list[str]
    left: dict[str, str]
    prepared: str


@pytest.fixture(scope="module")
def undisturbed(fork_server: Any, claims: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    job = Job(fork_server, claims, tmp_path_factory.mktemp("undisturbed"), BERT, kind="PretrainJob")
    name = start(job, claims).ok().of("Prepared")[0].name
    return Undisturbed((job.root / "start-1" / "done").read_text().splitlines(), left_by(job), name)


def test_nothing_is_left_but_what_counts(undisturbed: Undisturbed) -> None:
    corpora = {Path(name).parts[1] for name in undisturbed.left if name.startswith(CORPORA)}
    [corpus] = (name for name in corpora if not name.startswith("."))
    assert corpora == {corpus, f".{corpus}.lock"}
    run = "team/job/uid-1/"
    ours = {tuple(name.removeprefix(run).split("/")[:2]) for name in undisturbed.left if name.startswith(run)}
    assert {name for name in ours if name[0] == "prepared"} == {("prepared", undisturbed.prepared)}
    assert {name[0] for name in ours} == {"prepared", "initial"}


@pytest.mark.fault("F53")
@pytest.mark.parametrize("place", PLACES)
def test_a_preparation_that_is_killed_leaves_nothing_half_written_that_counts(
    fork_server: Any, claims: Path, tmp_path: Path, undisturbed: Undisturbed, place: str
) -> None:
    job = Job(fork_server, claims, tmp_path, BERT, kind="PretrainJob")
    found = [
        number for number, name in enumerate(undisturbed.done, start=1) if re.search(PLACES[place], name)
    ]
    assert found, sorted(set(undisturbed.done))
    killed = start(job, claims, kill_at=found[len(found) // 2])
    assert killed.codes == [-signal.SIGKILL]
    whole(job.root / "store")
    again = start(job, claims).ok()
    assert again.of("Prepared")[0].name == undisturbed.prepared
    assert left_by(job) == undisturbed.left
    whole(job.root / "store")


# --- what is made once -----------------------------------------------------------------------------


def test_two_jobs_of_one_store_share_a_corpus(
    tmp_path: Path, claims: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, one = prepare(work(tmp_path, claims, LLAMA))
    made = files_of(tmp_path / CORPORA)
    monkeypatch.setattr(stages, "Run", None)
    longer = merge(LLAMA, {"corpus": {"sequenceLength": 24}, "training": {"seed": 3}})
    _, other = prepare(work(tmp_path, claims, longer, uid="uid-2"))
    assert files_of(tmp_path / CORPORA) == made and len(list((tmp_path / CORPORA).glob("[!.]*"))) == 1
    assert other.name != one.name and other.sequence_length == 24


def test_a_changed_text_makes_another_corpus_and_other_rows(tmp_path: Path, claims: Path) -> None:
    mine = tmp_path / "claims"
    shutil.copytree(claims, mine)
    spec = merge(PRETRAINING, SMALL)
    _, one = prepare(work(tmp_path / "store", mine, spec))
    with (mine / "texts" / "a.jsonl").open("a") as file:
        file.write(
            json.dumps({"text": "one more text about the weather in the north and what it does"}) + "\n"
        )
    _, other = prepare(work(tmp_path / "store", mine, spec))
    assert len(list((tmp_path / "store" / CORPORA).glob("[!.]*"))) == 2
    assert other.name != one.name and other.digest != one.digest


def test_what_is_prepared_is_found_and_not_made_again(
    tmp_path: Path, claims: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, index = prepare(work(tmp_path, claims, BERT))
    before = files_of(tmp_path)
    for module, name in (
        (newmodel, "weights_of"),
        (pretraining, "train_tokenizer"),
        (pretraining, "tasks_of"),
    ):
        monkeypatch.setattr(module, name, None)
    again, found = prepare(work(tmp_path, claims, BERT))
    assert (again.digest, found) == (local.digest, index)
    assert files_of(tmp_path) == before


def test_a_new_model_keeps_its_tokenizer_when_the_named_one_changes(tmp_path: Path, claims: Path) -> None:
    mine = tmp_path / "claims"
    shutil.copytree(claims, mine)
    named = {**merge(LLAMA, {}), "tokenizer": {"uri": "pvc://models/tiny"}}
    local, index = prepare(work(tmp_path / "store", mine, named))
    path = mine / "models" / "tiny" / "tokenizer.json"
    described = json.loads(path.read_text())
    described["model"]["merges"] = described["model"]["merges"][:10]
    path.write_text(json.dumps(described))
    again, found = prepare(work(tmp_path / "store", mine, named))
    assert (again.digest, found) == (local.digest, index)
    shutil.rmtree(mine / "models")
    assert prepare(work(tmp_path / "store", mine, named))[1] == index, "and needs it no more"


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"training": {"maxSteps": 9, "seed": 4}}, True),
        ({"corpus": {"sequenceLength": 24}}, False),
        ({"corpus": {"heldOut": {"fraction": "0.3"}}}, False),
        ({"corpus": {"prepare": {"duplicates": "Exact"}}}, True),
        ({"corpus": {"sources": [{"uri": "pvc://texts/b"}]}}, False),
        ({"maskedShare": "0.4"}, False),
    ],
    ids=str,
)
def test_the_rows_name_follows_from_what_they_depend_on(
    tmp_path: Path, claims: Path, changes: dict[str, Any], same: bool
) -> None:
    named = {**BERT, "tokenizer": {"uri": "pvc://tokenizer"}}
    mine = tmp_path / "claims"
    mine.mkdir()
    (mine / "texts").symlink_to(claims / "texts")
    corpus = prepare(work(tmp_path / "first", claims, BERT))[0]
    shutil.copytree(corpus.directory, mine / "tokenizer")
    one = prepare(work(tmp_path / "one", mine, named))[1]
    other = prepare(work(tmp_path / "other", mine, merge(named, changes)))[1]
    assert (one.name == other.name, one.digest == other.digest) == (same, same)
