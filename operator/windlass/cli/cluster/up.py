"""`up`: bring the local cluster to running, whatever state it is in.

Called by the command line. Each step looks first and does what is missing; what it changes on the host is
recorded in `state.json` before, so that `down` undoes it also after a crash.
It must never write outside the cluster's directory and the user's cache, apart from what state.json lists.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from windlass.cli.cluster import (
    addons,
    binaries,
    certificates,
    cgroups,
    components,
    debian,
    dns,
    errors,
    images,
    network,
    sandbox,
    values,
)
from windlass.cli.cluster.api import ApiError, Client, from_kubeconfig
from windlass.cli.cluster.commands import CommandFailed
from windlass.cli.cluster.console import phase, say
from windlass.cli.cluster.down import stop
from windlass.cli.cluster.paths import CONTAINERD_SOCKET, NODE_NAME, Layout, cache_directory
from windlass.cli.cluster.state import (
    State,
    check_directory,
    locked,
    read,
    start_ticks,
    supervisor_is_alive,
    write,
)

API_SECONDS = 120.0
NODE_SECONDS = 180.0
POLL_SECONDS = 0.2
API_NAME = "kubernetes.default.svc.cluster.local"
NODE_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


def up(layout: Layout, *, repository: Path, network_range: str | None) -> State:
    """Start the embedded cluster, or return at once when it runs and answers. Raises ClusterError.

    Without a range it has the one it was made with, and the usual one when it is new.
    """
    if os.geteuid() != 0:
        raise errors.not_root(os.geteuid())
    check_directory(layout)
    with locked(layout):
        before = read(layout)
        made_with = before.network if before is not None else ""
        plan = network.parse(network_range or made_with or network.DEFAULT_NETWORK)
        if before is not None and before.network != str(plan.whole):
            raise errors.network_differs(str(plan.whole), before.network)
        if before is not None and supervisor_is_alive(before) and before.ready:
            if _answers(layout):
                say(f"already running: {layout.directory}")
                return before
            say("the cluster runs but does not answer: starting it anew")
        if before is not None:
            stop(layout, before, programs=debian.ensure(cache_directory()))
        return _start(layout, repository=repository, plan=plan)


def _answers(layout: Layout) -> bool:
    try:
        client = from_kubeconfig(layout.kubeconfig)
    except OSError:
        return False
    return _api_is_ready(client) and _node_is_ready(client, "")


def _start(layout: Layout, *, repository: Path, plan: network.AddressPlan) -> State:
    begin = time.monotonic()
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    state = State("embedded", str(layout.directory), str(repository), str(plan.whole), server=plan.server)
    seconds = state.phases_seconds
    sandbox.check_permitted()
    with phase("packages", seconds):
        programs = debian.ensure(cache_directory())
    network.check_free(plan, layout, programs=programs)
    with phase("binaries", seconds):
        built = binaries.ensure(repository / "cluster", cache_directory())
    with phase("files", seconds):
        write(layout, state)
        made = images.build_all(built, layout.images)
        state.images = {role: image.reference for role, image in made.items()}
        inputs = _inputs(layout, plan, programs, built=built, pause=made["pause"].reference)
        _write_files(inputs, repository, state)
    with phase("sandbox", seconds):
        _open_sandbox(layout, repository, state)
        network.connect(plan, layout, state, programs=programs)
    with phase("control plane", seconds):
        _write_plan(inputs)
        client = from_kubeconfig(layout.kubeconfig)
        _wait("API server", API_SECONDS, lambda: _api_is_ready(client), layout=layout)
    with phase("images", seconds):
        _import_images(state, made, inputs)
    with phase("node", seconds):
        _apply_addons(client, plan, state)
        _wait("node", NODE_SECONDS, lambda: _node_is_ready(client, since), layout=layout)
        _wait("cluster DNS", NODE_SECONDS, lambda: _dns_answers(plan), layout=layout)
    state.ready, state.setup_seconds = True, round(time.monotonic() - begin, 2)
    write(layout, state)
    say(f"ready in {state.setup_seconds:.0f} s; export KUBECONFIG={layout.kubeconfig}")
    return state


def _inputs(
    layout: Layout,
    plan: network.AddressPlan,
    programs: debian.Programs,
    *,
    built: dict[str, Path],
    pause: str,
) -> components.Inputs:
    return components.Inputs(
        layout=layout,
        plan=plan,
        programs=programs,
        binaries=built,
        pause_image=pause,
        mtu=_mtu(),
        python=sys.executable,
    )


def _mtu() -> str:
    """The smallest of the machine's real links, so that pods' packets fit wherever they leave."""
    sizes = [
        int((link / "mtu").read_text())
        for link in Path("/sys/class/net").iterdir()
        if link.name != "lo" and (link / "operstate").read_text().strip() == "up"
    ]
    return str(min([1500, *sizes]))


def _write_files(inputs: components.Inputs, repository: Path, state: State) -> None:
    layout, plan = inputs.layout, inputs.plan
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", API_NAME]
    certificates.create(
        layout.certificates,
        server_names=[*names, "localhost", "127.0.0.1", plan.node, plan.api_service],
        node_names=[NODE_NAME, plan.node],
    )
    for name, text in components.files(inputs).items():
        path = layout.config / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for identity in ("controller-manager", "scheduler", "proxy", "kubelet", "provisioner"):
        text = certificates.kubeconfig(layout.certificates, server=plan.server, identity=identity)
        certificates.write_private(layout.config / f"{identity}.kubeconfig", text)
    admin = certificates.kubeconfig(layout.certificates, server=plan.server, identity="admin")
    certificates.write_private(layout.kubeconfig, admin)
    layout.values.write_text(values.render(values.embedded(repository, state.images["host"])))
    layout.volumes.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(layout.binaries, ignore_errors=True)
    layout.binaries.mkdir()
    for name, path in inputs.binaries.items():
        (layout.binaries / name).symlink_to(path)


def _open_sandbox(layout: Layout, repository: Path, state: State) -> None:
    layout.plan.unlink(missing_ok=True)
    layout.processes.unlink(missing_ok=True)
    mounts = Path("/proc/self/mounts").read_text()
    name = components.cgroup_name(layout)
    state.cgroups = [str(hierarchy / name) for hierarchy in cgroups.hierarchies(mounts)]
    write(layout, state)
    cgroups.create(name, mounts)
    state.supervisor_pid = sandbox.start(layout, repository)
    state.supervisor_start_ticks = start_ticks(state.supervisor_pid) or 0
    write(layout, state)


def _write_plan(inputs: components.Inputs) -> None:
    temporary = inputs.layout.plan.with_suffix(".new")
    temporary.write_text(components.plan_text(inputs))
    os.replace(temporary, inputs.layout.plan)


def _import_images(state: State, made: dict[str, images.Image], inputs: components.Inputs) -> None:
    command = [str(inputs.programs.paths["ctr"]), "--address", str(CONTAINERD_SOCKET), "-n", "k8s.io"]

    def containerd_answers() -> bool:
        try:
            sandbox.run_inside(
                state.supervisor_pid, [*command, "version"], environment=inputs.programs.environment()
            )
        except CommandFailed:
            return False
        return True

    _wait("containerd", API_SECONDS, containerd_answers, layout=inputs.layout)
    for image in made.values():
        sandbox.run_inside(
            state.supervisor_pid,
            [*command, "images", "import", str(image.archive)],
            environment=inputs.programs.environment(),
        )


def _apply_addons(client: Client, plan: network.AddressPlan, state: State) -> None:
    forwarders = addons.usable_forwarders(Path("/etc/resolv.conf").read_text())
    documents = addons.objects(
        dns_image=state.images["dns"], dns_address=plan.dns_service, forwarders=forwarders
    )
    addons.apply_all(client, documents)


def _api_is_ready(client: Client) -> bool:
    try:
        return bool(client.request("GET", "/readyz", timeout_seconds=2.0) == "ok") and bool(
            # Made by the API server after it says ready; addons need it.
            client.request("GET", "/api/v1/namespaces/kube-system", timeout_seconds=2.0)
        )
    except ApiError:
        return False


def _node_is_ready(client: Client, since: str) -> bool:
    """Ready, and renewed since then: what an earlier life of the cluster wrote does not count."""
    try:
        node = client.request("GET", f"/api/v1/nodes/{NODE_NAME}")
        lease = client.request("GET", f"{NODE_LEASES}/{NODE_NAME}")
    except ApiError:
        return False
    conditions: list[dict[str, Any]] = node["status"].get("conditions", [])
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return ready and str(lease["spec"].get("renewTime", "")) > since


def _dns_answers(plan: network.AddressPlan) -> bool:
    return bool(dns.answer_count(plan.dns_service, API_NAME, dns.ADDRESS_RECORD))


def _wait(what: str, limit_seconds: float, condition: Callable[[], bool], *, layout: Layout) -> None:
    deadline = time.monotonic() + limit_seconds
    while not condition():
        if time.monotonic() > deadline:
            evidence = layout.processes.read_text() if layout.processes.exists() else "no process was started"
            raise errors.not_ready(what, limit_seconds, evidence)
        time.sleep(POLL_SECONDS)
