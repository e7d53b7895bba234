"""The command line's access to a cluster: jobs, their pods, logs and programs run in them.

Every online command goes through `Access`. Failures become sentences (`CliError`). It must never read a
Secret, and never print a token.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass.api.kinds import KINDS, Kind
from windlass.api.meta import GROUP, LABEL_INDEX, LABEL_KIND, LABEL_RUN, VERSION
from windlass.cli.cluster.paths import default_directory
from windlass.cli.errors import CliError

CONTAINER = "agent"
NO_KIND = "page not found"
"""What the API server answers where it does not know the kind, rather than the object."""
Manifest = dict[str, Any]


def kubeconfig_path(chosen: str | None) -> str | None:
    """The file to use: the chosen one, the usual ones (None), or the local cluster's where there is no other."""
    if chosen or os.environ.get("KUBECONFIG") or (Path.home() / ".kube" / "config").exists():
        return chosen
    local = default_directory() / "kubeconfig"
    return str(local) if local.exists() else None


@dataclass(frozen=True, slots=True)
class Access:
    """One cluster and namespace; `api` is a kubernetes.client.ApiClient."""

    api: Any
    namespace: str

    @property
    def core(self) -> Any:
        """Core API."""
        from kubernetes import client

        return client.CoreV1Api(self.api)

    @property
    def custom(self) -> Any:
        """API of custom resources."""
        from kubernetes import client

        return client.CustomObjectsApi(self.api)

    def job(self, name: str) -> Manifest:
        """The job of a name, or of a kind and a name as `ftj/support-bot`. Raises CliError."""
        found, missing = [], []
        for kind in kinds_of(name):
            try:
                found.append(self._one(kind, bare(name)))
            except (
                Exception
            ) as problem:  # the client has many error types; `explain` raises what it does not know
                if getattr(problem, "status", None) != 404:
                    raise self.explain(problem, name) from problem
                missing.append(problem)
        if len(found) > 1:
            spelled = " or ".join(f"{KINDS[job['kind']].short}/{bare(name)}" for job in found)
            raise CliError(
                f"{name}: is the name of several jobs (got {spelled}). hint: write {spelled}", status=2
            )
        if not found:
            # That a known kind has no such job says more than that another kind is not known.
            told = min(missing, key=lambda problem: NO_KIND in body_of(problem))
            raise self.explain(told, name) from told
        return found[0]

    def jobs(self) -> list[Manifest]:
        """Jobs of the namespace, of all kinds that the cluster knows, by name. Raises CliError where it knows none."""
        found, missing = [], None
        for kind in KINDS.values():
            try:
                listed = self.custom.list_namespaced_custom_object(
                    GROUP, VERSION, self.namespace, kind.plural
                )
            except Exception as problem:  # see above
                if getattr(problem, "status", None) != 404:
                    raise self.explain(problem, kind.name) from problem
                missing = problem
                continue
            found.append([item | {"kind": kind.name} for item in listed["items"]])
        if not found and missing is not None:
            raise self.explain(missing, "jobs") from missing
        return sorted((job for jobs in found for job in jobs), key=lambda job: str(job["metadata"]["name"]))

    def _one(self, kind: Kind, name: str) -> Manifest:
        found: Manifest = self.custom.get_namespaced_custom_object(
            GROUP, VERSION, self.namespace, kind.plural, name
        )
        return found | {"kind": kind.name}

    def pods(self, name: str) -> list[Any]:
        """Pods of a run by index, those that are being deleted last; of one kind where the name says it."""
        chosen = kinds_of(name)
        selector = f"{LABEL_RUN}={bare(name)}"
        if len(chosen) < len(KINDS):
            selector += f",{LABEL_KIND} in ({','.join(kind.name for kind in chosen)})"
        listed = self.core.list_namespaced_pod(self.namespace, label_selector=selector).items
        return sorted(listed, key=lambda pod: (pod.metadata.deletion_timestamp is not None, index_of(pod)))

    def run_in(self, pod: str, command: Sequence[str]) -> str:
        """Run a program in the agent's container to its end and return what it printed. Raises CliError."""
        from kubernetes.stream import stream

        # A client of its own: the stream helper replaces the request function of the one it is given.
        try:
            said = stream(
                self._own_core().connect_get_namespaced_pod_exec,
                pod,
                self.namespace,
                container=CONTAINER,
                command=list(command),
                stdout=True,
                stderr=True,
            )
        except Exception as problem:  # see above
            raise self.explain(problem, pod) from problem
        return str(said)

    def open_stream(self, pod: str, command: Sequence[str], *, stdin: bool = False) -> Any:
        """A running program to talk with piece by piece (kubernetes.stream.ws_client.WSClient)."""
        from kubernetes.stream import stream

        return stream(
            self._own_core().connect_get_namespaced_pod_exec,
            pod,
            self.namespace,
            container=CONTAINER,
            command=list(command),
            stdin=stdin,
            stdout=True,
            stderr=True,
            _preload_content=False,
        )

    def log_lines(self, pod: str, *, follow: bool, tail: int | None = None) -> Iterator[str]:
        """Lines of a pod's log, to its end."""
        options: dict[str, Any] = {} if tail is None else {"tail_lines": tail}
        response = self.core.read_namespaced_pod_log(
            pod, self.namespace, container=CONTAINER, follow=follow, _preload_content=False, **options
        )
        rest = b""
        for chunk in response.stream(amt=None, decode_content=False):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")
        if rest:
            yield rest.decode(errors="replace")

    def explain(self, problem: Exception, name: str) -> CliError:
        """A client's error as a sentence; what is not about the cluster is raised again."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        if isinstance(problem, ApiException):
            if problem.status == 404:
                return CliError(self._not_found(name, body_of(problem)))
            return CliError(
                f"{name}: the API server refused ({problem.status} {problem.reason}). hint: check your rights"
            )
        if isinstance(problem, HTTPError | OSError):
            return CliError(
                f"cluster: cannot be reached ({type(problem).__name__}). hint: check `kubectl cluster-info`, "
                "--kubeconfig and --context; `windlass cluster up` starts a local one"
            )
        raise problem

    def _not_found(self, name: str, body: str) -> str:
        if NO_KIND in body:
            unknown = [kind.name for kind in kinds_of(name)]
            these = "this kind" if len(unknown) == 1 else "these kinds"
            hint = "install or upgrade the chart, charts/windlass"
            return f"{', '.join(unknown)}: the cluster does not know {these}. hint: {hint}"
        try:
            kinds = {kind.name for kind in kinds_of(name)}
            names = [job["metadata"]["name"] for job in self.jobs() if job["kind"] in kinds]
        except Exception:  # only to make the sentence better
            names = []
        return (
            f"{name}: there is no such job in namespace {self.namespace} "
            f"(there: {', '.join(names) or 'none'}). hint: choose another namespace with -n"
        )

    def _own_core(self) -> Any:
        from kubernetes import client

        return client.CoreV1Api(client.ApiClient(self.api.configuration))


def body_of(problem: Exception) -> str:
    """What the API server answered, as text."""
    return str(getattr(problem, "body", None) or "")


def bare(name: str) -> str:
    """A job's name without the kind that may stand before it."""
    return name.rpartition("/")[2]


def kinds_of(name: str) -> list[Kind]:
    """The kinds that a name may be of. Raises CliError for one that is not ours."""
    written = name.rpartition("/")[0].lower().removesuffix(f".{GROUP}")
    found = [kind for kind in KINDS.values() if written in ("", kind.name.lower(), kind.plural, kind.short)]
    if not found:
        allowed = ", ".join(kind.short for kind in KINDS.values())
        raise CliError(
            f"{name}: there is no such kind (got {written}); allowed: {allowed}. hint: leave the kind out",
            status=2,
        )
    return found


def index_of(pod: Any) -> int:
    """The member's index, from the pod's label."""
    return int((pod.metadata.labels or {}).get(LABEL_INDEX, "0"))


def connect(*, kubeconfig: str | None, context: str | None, namespace: str | None) -> Access:
    """Access by a kubeconfig, or from inside a pod. Raises CliError."""
    try:
        from kubernetes import config
    except ImportError as problem:
        raise CliError(
            "kubernetes: the package is not installed. hint: install windlass[operator]", status=2
        ) from problem
    path = kubeconfig_path(kubeconfig)
    try:
        contexts, active = config.list_kube_config_contexts(path)
        chosen = next((item for item in contexts if item["name"] == context), active) if context else active
        api = config.new_client_from_config(path, context=context)
    except config.ConfigException as problem:
        raise CliError(
            f"kubeconfig: is not usable ({problem}). hint: set KUBECONFIG or --kubeconfig; "
            "`windlass cluster up` starts a local cluster",
            status=2,
        ) from problem
    return Access(api, namespace or (chosen or {}).get("context", {}).get("namespace") or "default")
