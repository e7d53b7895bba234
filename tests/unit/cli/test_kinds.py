"""Two kinds on the command line: which job a name means, what is said where it means none or several, and manifests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kubernetes.client.exceptions import ApiException

from contract.crd.specs import NEW_LLAMA, PASSES, VALID, VALID_PRETRAIN, change
from unit.cli.fakes import FakeAccess
from unit.cli.test_timeline import a_run
from windlass.api.kinds import KINDS
from windlass.cli import page, report, status
from windlass.cli.access import Access, kinds_of
from windlass.cli.errors import CliError
from windlass.cli.main import main

# --- names ------------------------------------------------------------------------------------------


class Cluster:
    """Jobs by plural and name; a plural that is not there is a kind that the cluster does not know."""

    def __init__(self, **jobs: list[str]) -> None:
        self.jobs = jobs

    def get_namespaced_custom_object(self, *place: str) -> dict[str, Any]:
        *_, plural, name = place
        if name not in self._known(plural):
            raise answer(f'{plural} "{name}" not found')
        return {"metadata": {"name": name, "uid": f"{plural}-{name}"}}

    def list_namespaced_custom_object(self, *place: str) -> dict[str, Any]:
        return {"items": [{"metadata": {"name": name}} for name in self._known(place[-1])]}

    def _known(self, plural: str) -> list[str]:
        if plural not in self.jobs:
            raise answer("404 page not found")
        return self.jobs[plural]


def answer(body: str, code: int = 404) -> ApiException:
    problem = ApiException(status=code, reason="Because")
    problem.body = body
    return problem


@pytest.fixture
def access(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes an access to a cluster with these jobs."""

    def made(**jobs: list[str]) -> Access:
        monkeypatch.setattr(Access, "custom", property(lambda _: Cluster(**jobs)))
        return Access(None, "team")

    return made


BOTH = {"finetunejobs": ["a", "both"], "pretrainjobs": ["b", "both"]}
OLD = {"finetunejobs": ["a", "both"]}


@pytest.mark.parametrize(
    ("jobs", "name", "kind"),
    [
        (BOTH, "a", "FineTuneJob"),
        (BOTH, "b", "PretrainJob"),
        *((BOTH, f"{written}/both", "FineTuneJob") for written in ("ftj", "finetunejob", "finetunejobs")),
        *((BOTH, f"{written}/both", "PretrainJob") for written in ("ptj", "pretrainjob", "pretrainjobs")),
        (BOTH, "PretrainJob/both", "PretrainJob"),
        (BOTH, "pretrainjob.windlass.dev/both", "PretrainJob"),
        (OLD, "both", "FineTuneJob"),
    ],
)
def test_a_name_means_the_one_job_that_has_it(access: Any, jobs: Any, name: str, kind: str) -> None:
    found = access(**jobs).job(name)
    assert (found["kind"], found["metadata"]["uid"]) == (kind, f"{KINDS[kind].plural}-{name.split('/')[-1]}")


THERE = "(there: a, b, both, both)"


@pytest.mark.parametrize(
    ("jobs", "name", "said"),
    [
        (
            BOTH,
            "both",
            "both: is the name of several jobs (got ftj/both or ptj/both). hint: write ftj/both or ptj/both",
        ),
        (
            BOTH,
            "x",
            f"x: there is no such job in namespace team {THERE}. hint: choose another namespace with -n",
        ),
        (
            BOTH,
            "ptj/a",
            "ptj/a: there is no such job in namespace team (there: b, both). hint: choose another",
        ),
        (OLD, "x", "x: there is no such job in namespace team (there: a, both). hint: choose another"),
        ({"pretrainjobs": ["b"]}, "x", "x: there is no such job in namespace team (there: b). hint: choose"),
        (
            OLD,
            "ptj/both",
            "PretrainJob: the cluster does not know this kind. hint: install or upgrade the chart, charts/windlass",
        ),
        (
            {},
            "a",
            "FineTuneJob, PretrainJob: the cluster does not know these kinds. hint: install or upgrade",
        ),
        (
            BOTH,
            "pods/a",
            "pods/a: there is no such kind (got pods); allowed: ftj, ptj. hint: leave the kind out",
        ),
        (BOTH, "a/ptj/b", "a/ptj/b: there is no such kind (got a/ptj); allowed: ftj, ptj. hint: leave"),
    ],
)
def test_a_name_that_means_no_job_or_several_is_told_with_the_way_out(
    access: Any, jobs: Any, name: str, said: str
) -> None:
    with pytest.raises(CliError) as caught:
        access(**jobs).job(name)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_spelling_of_a_kind_means_it(kind: Any) -> None:
    for written in (kind.name, kind.plural, kind.short, f"{kind.plural}.windlass.dev"):
        assert kinds_of(f"{written}/a") == [kind]
    assert kind in kinds_of("a")


def test_jobs_of_all_kinds_are_listed_by_name(access: Any) -> None:
    found = [(job["kind"], job["metadata"]["name"]) for job in access(**BOTH).jobs()]
    assert found == [
        ("FineTuneJob", "a"),
        ("PretrainJob", "b"),
        ("FineTuneJob", "both"),
        ("PretrainJob", "both"),
    ]
    assert [job["metadata"]["name"] for job in access(**OLD).jobs()] == ["a", "both"]
    assert access(finetunejobs=[], pretrainjobs=[]).jobs() == []
    with pytest.raises(CliError, match="the cluster does not know these kinds"):
        access().jobs()


def test_a_refused_list_is_no_missing_kind(access: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = access(**BOTH)

    def refuse(*_: str) -> Any:
        raise answer("forbidden", 403)

    monkeypatch.setattr(Cluster, "list_namespaced_custom_object", refuse)
    with pytest.raises(CliError, match=r"FineTuneJob: the API server refused \(403 Because\)"):
        made.jobs()


@pytest.mark.parametrize(
    ("name", "selector"),
    [
        ("a", "windlass.dev/run=a"),
        ("ptj/a", "windlass.dev/run=a,windlass.dev/kind in (PretrainJob)"),
        ("finetunejobs/a", "windlass.dev/run=a,windlass.dev/kind in (FineTuneJob)"),
    ],
)
def test_pods_of_a_named_kind_are_its_own(monkeypatch: pytest.MonkeyPatch, name: str, selector: str) -> None:
    asked: list[tuple[str, str]] = []

    def listed(namespace: str, label_selector: str) -> Any:
        asked.append((namespace, label_selector))
        return SimpleNamespace(items=[])

    monkeypatch.setattr(Access, "core", property(lambda _: SimpleNamespace(list_namespaced_pod=listed)))
    assert Access(None, "team").pods(name) == []
    assert asked == [("team", selector)]


def test_the_list_of_several_kinds_says_which(access: Any, capsys: pytest.CaptureFixture[str]) -> None:
    options: Any = SimpleNamespace(name=None)
    for jobs, starts in ((BOTH, ["ftj", "ptj", "ftj", "ptj"]), (OLD, ["team/a", "team/both"])):
        made = access(**jobs)
        found = [job | {"metadata": job["metadata"] | {"namespace": "team"}} for job in made.jobs()]
        assert status.status_command(options, SimpleNamespace(jobs=lambda found=found: found)) == 0  # type: ignore[arg-type]
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == starts


# --- manifests --------------------------------------------------------------------------------------


def write(path: Path, *documents: Any) -> str:
    path.write_text(yaml.safe_dump_all(documents))
    return str(path)


def test_a_manifest_of_both_kinds_is_validated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = change("spec.tokenizer", {}, VALID_PRETRAIN)
    path = write(tmp_path / "jobs.yaml", VALID, NEW_LLAMA, wrong)
    assert main(["validate", "-f", path]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"{path}[0]: FineTuneJob/job is valid",
        f"{path}[1]: PretrainJob/job is valid",
    ]
    assert said.err.startswith(
        f"{path}[2]: spec.tokenizer: exactly one of uri and train must be set (got uri=nothing"
    )


@pytest.mark.parametrize("kind", ["pretrainjob", "PretrainJobs", "PreTrainJob"])
def test_a_misspelt_kind_is_a_problem_and_not_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    document = {**VALID_PRETRAIN, "kind": kind}
    del document["apiVersion"]
    assert main(["validate", "-f", write(tmp_path / "x.yaml", document)]) == 1
    assert f'(got "{kind}"); allowed: FineTuneJob, PretrainJob. hint: did you mean PretrainJob?' in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("document", "arguments", "steps"),
    [
        # 1,000,000 tokens by steps of 16 rows x 1024 tokens.
        (NEW_LLAMA, [], "62"),
        (change("spec.corpus.sequenceLength", 2048, NEW_LLAMA), [], "31"),
        (PASSES, [], "known after preflight (packing)"),
        (PASSES, ["--rows", "100"], "known after preflight (packing)"),
    ],
)
def test_the_plan_knows_the_steps_of_a_budget_of_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], document: Any, arguments: list[str], steps: str
) -> None:
    assert main(["plan", "-f", write(tmp_path / "x.yaml", document), *arguments]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "PretrainJob/job"
    assert f"  {'steps':<14} {steps}" in said


def test_what_is_rendered_belongs_to_the_job_of_its_kind(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["render", "-f", write(tmp_path / "x.yaml", NEW_LLAMA)]) == 0
    made = list(yaml.safe_load_all(capsys.readouterr().out))
    assert sorted(item["kind"] for item in made) == [
        "ConfigMap",
        "ConfigMap",
        "NetworkPolicy",
        "Pod",
        "Service",
    ]
    for item in made:
        (owner,) = item["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["controller"]) == ("PretrainJob", "job", True)
        assert item["metadata"]["labels"]["windlass.dev/kind"] == "PretrainJob"
    (pod,) = [item for item in made if item["kind"] == "Pod"]
    claims = {
        one["persistentVolumeClaim"]["claimName"]
        for one in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in one
    }
    assert claims == {"checkpoints", "data"}, "a new model is read from nowhere"


# --- report -----------------------------------------------------------------------------------------


def pretrained(name: str = "triage") -> dict[str, Any]:
    run = a_run()
    return {
        **run,
        "kind": "PretrainJob",
        "metadata": run["metadata"] | {"name": name},
        "spec": NEW_LLAMA["spec"],
    }


def test_a_report_of_a_file_tells_of_a_pretrain_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "run.yaml", pretrained("web"))
    assert main(["report", "-f", path, "-o", "-"]) == 0
    said = capsys.readouterr().out
    assert said == page.render(pretrained("web")) and "web" in said


def test_of_two_jobs_of_one_name_the_kind_says_which(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.yaml", a_run(), pretrained())
    for name, kind in (("ftj/triage", "FineTuneJob"), ("pretrainjob/triage", "PretrainJob")):
        assert report.from_file(path, name)["kind"] == kind
    with pytest.raises(CliError, match=r"one job named triage \(there: ftj/triage, ptj/triage\)"):
        report.from_file(path, "triage")
    with pytest.raises(CliError, match="pods/triage: there is no such kind"):
        report.from_file(path, "pods/triage")


def test_a_report_from_the_cluster_is_written_under_the_bare_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options: Any = SimpleNamespace(name="ptj/triage", file=None, output=None)
    cluster: Any = FakeAccess(pretrained())
    assert report.report_command(options, lambda: cluster) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["triage.html"]
