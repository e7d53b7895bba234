"""The cluster's address plan and the one link that joins its network namespace with the host.

Used by `up` and `down`. On the host there are one link, two routes, one nft table of our own and, where
the machine does not forward yet, one setting of the outgoing link, recorded first. All else is inside.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass.cli.cluster import errors, sandbox
from windlass.cli.cluster.commands import CommandFailed, run
from windlass.cli.cluster.debian import Programs
from windlass.cli.cluster.paths import Layout
from windlass.cli.cluster.state import State, write

MAXIMUM_ALIAS = 255
BRIDGE = "windlass-pods"
DEFAULT_NETWORK = "198.18.0.0/15"
API_PORT = 6443
LONGEST_PREFIX = 20


@dataclass(frozen=True, slots=True)
class AddressPlan:
    """Who has which addresses; the first half is pods' and links', the second Services'."""

    whole: ipaddress.IPv4Network

    @property
    def near(self) -> ipaddress.IPv4Network:
        return next(self.whole.subnets(prefixlen_diff=1))

    @property
    def pods(self) -> ipaddress.IPv4Network:
        return next(self.near.subnets(prefixlen_diff=1))

    @property
    def services(self) -> ipaddress.IPv4Network:
        return list(self.whole.subnets(prefixlen_diff=1))[1]

    @property
    def host(self) -> str:
        """The host's end of the link."""
        return str(self.near[-3])

    @property
    def node(self) -> str:
        """The cluster's end of the link: the node's and the API server's address."""
        return str(self.near[-2])

    @property
    def gateway(self) -> str:
        """The bridge's address."""
        return str(self.pods[1])

    @property
    def api_service(self) -> str:
        return str(self.services[1])

    @property
    def dns_service(self) -> str:
        return str(self.services[10])

    @property
    def server(self) -> str:
        return f"https://{self.node}:{API_PORT}"


def parse(text: str) -> AddressPlan:
    """The address plan of `a.b.c.d/n`. Raises ClusterError for what is not such a range."""
    try:
        whole = ipaddress.IPv4Network(text)
    except ValueError as problem:
        raise errors.network_is_unusable(str(problem), LONGEST_PREFIX, DEFAULT_NETWORK) from problem
    if whole.prefixlen > LONGEST_PREFIX:
        raise errors.network_is_unusable(text, LONGEST_PREFIX, DEFAULT_NETWORK)
    return AddressPlan(whole)


def link_name(layout: Layout) -> str:
    """The host's end of this cluster's link; at most 15 characters by the kernel's rule."""
    return f"wl-{layout.identity}"


def check_free(plan: AddressPlan, layout: Layout, *, programs: Programs) -> None:
    """Refuse a range that a route of the host or another cluster uses. Raises ClusterError."""
    routes = json.loads(run([str(programs.paths["ip"]), "-json", "route", "show"]))
    conflict = find_conflict(plan, routes, own_link=link_name(layout))
    if conflict is None:
        return
    owner = link_owner(conflict["dev"])
    if owner:
        raise errors.other_cluster_is_up(str(plan.whole), owner)
    raise errors.network_in_use(str(plan.whole), f"route {conflict['dst']} of link {conflict['dev']}")


def find_conflict(plan: AddressPlan, routes: list[dict[str, Any]], *, own_link: str) -> dict[str, str] | None:
    """Destination and link of the first route that overlaps the plan; the default route does not count."""
    for route in routes:
        link, destination = str(route.get("dev", "none")), str(route.get("dst"))
        if link == own_link or destination == "default":
            continue
        if ipaddress.IPv4Network(destination, strict=False).overlaps(plan.whole):
            return {"dst": destination, "dev": link}
    return None


def link_owner(link: str) -> str | None:
    """The directory of the cluster that made the link; None when there is no such link."""
    try:
        return Path(f"/sys/class/net/{link}/ifalias").read_text().strip()
    except OSError:
        return None


def connect(plan: AddressPlan, layout: Layout, state: State, *, programs: Programs) -> None:
    """Join the supervisor's network namespace with the host. Raises ClusterError."""
    ip, pid = str(programs.paths["ip"]), state.supervisor_pid
    outgoing = default_link(json.loads(run([ip, "-json", "route", "show", "default"])))
    mtu = Path(f"/sys/class/net/{outgoing}/mtu").read_text().strip() if outgoing else "1500"
    try:
        _join(plan, layout, ip=ip, pid=pid, mtu=mtu)
        _configure_inside(plan, ip=ip, pid=pid, mtu=mtu)
        if outgoing:
            _permit_egress(plan, layout, state, outgoing=outgoing, programs=programs)
    except CommandFailed as failed:
        raise errors.kernel_refuses("the cluster's network", str(failed)) from failed


def disconnect(layout: Layout, state: State, *, programs: Programs) -> None:
    """Remove link, routes, table and restore settings; what is gone already is no error."""
    link = link_name(layout)
    if link_owner(link) is not None:
        try:
            run([str(programs.paths["ip"]), "link", "delete", link])
        except CommandFailed:
            # It goes with the network namespace, which the kernel may have ended meanwhile.
            if link_owner(link) is not None:
                raise
    nft, environment = str(programs.paths["nft"]), programs.environment()
    tables = run([nft, "list", "tables", "ip"], environment=environment)
    if f"table ip {table_name(layout)}" in tables.splitlines():
        run([nft, "delete", "table", "ip", table_name(layout)], environment=environment)
    for name, value in state.sysctls.items():
        setting = Path("/proc/sys") / name
        if setting.exists():
            setting.write_text(f"{value}\n")


def table_name(layout: Layout) -> str:
    """The nft table that holds this cluster's only rule on the host."""
    return f"windlass_{layout.identity}"


def default_link(routes: list[dict[str, Any]]) -> str | None:
    """The link through which this machine reaches others; None on an isolated machine."""
    return next((str(route["dev"]) for route in routes if "dev" in route), None)


def _join(plan: AddressPlan, layout: Layout, *, ip: str, pid: int, mtu: str) -> None:
    link = link_name(layout)
    if link_owner(link) is not None:
        run([ip, "link", "delete", link])
    run(
        [
            ip,
            "link",
            "add",
            link,
            "mtu",
            mtu,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "mtu",
            mtu,
            "netns",
            str(pid),
        ]
    )
    # The owner's mark: `check_free` of another cluster names this directory.
    run([ip, "link", "set", link, "alias", str(layout.directory)[:MAXIMUM_ALIAS]])
    run([ip, "address", "add", f"{plan.host}/30", "dev", link])
    run([ip, "link", "set", link, "up"])
    for destination in (plan.near, plan.services):
        run([ip, "route", "add", str(destination), "via", plan.node, "dev", link])


def _configure_inside(plan: AddressPlan, *, ip: str, pid: int, mtu: str) -> None:
    steps = [
        ["link", "set", "lo", "up"],
        ["address", "add", f"{plan.node}/30", "dev", "eth0"],
        ["link", "set", "eth0", "up"],
        ["route", "add", "default", "via", plan.host],
        ["link", "add", BRIDGE, "mtu", mtu, "type", "bridge"],
        ["address", "add", f"{plan.gateway}/{plan.pods.prefixlen}", "dev", BRIDGE],
        ["link", "set", BRIDGE, "up"],
        # A Service nobody backs, a pod that is gone: the packet ends here, not on the host's default route.
        ["route", "add", str(plan.services), "dev", BRIDGE],
        ["route", "add", "unreachable", str(plan.near)],
    ]
    batch = "".join(" ".join(step) + "\n" for step in steps)
    # Only the network namespace: the programs and their libraries lie on the host's paths.
    command = ["nsenter", "--target", str(pid), "--net", ip, "-batch", "-"]
    run(command, text_input=batch)
    sandbox.run_inside(pid, ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])


def _permit_egress(
    plan: AddressPlan, layout: Layout, state: State, *, outgoing: str, programs: Programs
) -> None:
    own = link_name(layout)
    for link in (own, outgoing):
        name = f"net/ipv4/conf/{link}/forwarding"
        setting = Path("/proc/sys") / name
        before = setting.read_text().strip()
        if before != "1":
            # Ours goes with the link; the outgoing link's value is the machine's own and is given back.
            if link != own:
                state.sysctls.setdefault(name, before)
                write(layout, state)
            setting.write_text("1\n")
    table = table_name(layout)
    rule = f'ip saddr {plan.whole} oifname != "{own}" masquerade'
    chain = f"chain postrouting {{ type nat hook postrouting priority 100; {rule}; }}"
    script = f"table ip {table} {{}}\ndelete table ip {table}\ntable ip {table} {{\n{chain}\n}}\n"
    run([str(programs.paths["nft"]), "-f", "-"], environment=programs.environment(), text_input=script)
