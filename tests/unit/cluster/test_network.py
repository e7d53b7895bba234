"""The address plan, and what the host is asked before its routes are touched."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest

from windlass.cli.cluster import errors, network
from windlass.cli.cluster.debian import Programs
from windlass.cli.cluster.paths import Layout

PROGRAMS = Programs({"ip": Path("ip"), "nft": Path("nft")}, Path("/cni"), "/usr/bin", "")
DEFAULT = network.parse(network.DEFAULT_NETWORK)


@pytest.mark.parametrize("text", ["198.18.0.0/15", "10.196.0.0/15", "10.4.0.0/16", "172.20.16.0/20"])
def test_plan_keeps_its_parts_apart(text: str) -> None:
    plan = network.parse(text)
    single = [ipaddress.IPv4Address(item) for item in (plan.host, plan.node, plan.gateway)]
    assert len(set(single)) == 3
    assert plan.pods.subnet_of(plan.whole) and plan.services.subnet_of(plan.whole)
    assert not plan.pods.overlaps(plan.services)
    assert single[2] in plan.pods
    assert single[0] not in plan.pods and single[1] not in plan.pods
    link = ipaddress.IPv4Network(f"{plan.host}/30", strict=False)
    assert single[1] in link and not link.overlaps(plan.pods) and not link.overlaps(plan.services)
    assert ipaddress.IPv4Address(plan.dns_service) in plan.services
    assert ipaddress.IPv4Address(plan.api_service) in plan.services


def test_default_plan_is_the_benchmarking_range() -> None:
    assert (str(DEFAULT.pods), str(DEFAULT.services)) == ("198.18.0.0/17", "198.19.0.0/16")
    assert DEFAULT.server == "https://198.18.255.254:6443"
    assert (DEFAULT.api_service, DEFAULT.dns_service) == ("198.19.0.1", "198.19.0.10")


@pytest.mark.parametrize("text", ["", "pods", "10.0.0.0/21", "10.0.0.1/16", "fd00::/8", "10.0.0.0/33"])
def test_unusable_range_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(errors.ClusterError, match=r"--network: not a usable.*198\.18\.0\.0/15"):
        network.parse(text)


@pytest.mark.parametrize(
    ("routes", "found"),
    [
        ([], None),
        ([{"dst": "default", "dev": "eth0"}, {"dst": "192.168.1.0/24", "dev": "eth0"}], None),
        ([{"dst": "198.18.0.0/16", "dev": "wl-own"}], None),
        ([{"dst": "198.18.7.0/24", "dev": "tun0"}], {"dst": "198.18.7.0/24", "dev": "tun0"}),
        ([{"dst": "198.19.0.1", "dev": "tun0"}], {"dst": "198.19.0.1", "dev": "tun0"}),
        ([{"type": "blackhole", "dst": "198.0.0.0/8"}], {"dst": "198.0.0.0/8", "dev": "none"}),
    ],
)
def test_conflict_is_the_first_overlapping_route(
    routes: list[dict[str, Any]], found: dict[str, str] | None
) -> None:
    assert network.find_conflict(DEFAULT, routes, own_link="wl-own") == found


def _host_with(monkeypatch: pytest.MonkeyPatch, routes: list[dict[str, Any]], owner: str | None) -> None:
    monkeypatch.setattr(network, "run", lambda arguments, **_options: json.dumps(routes))
    monkeypatch.setattr(network, "link_owner", lambda link: owner)


def test_range_of_another_cluster_names_its_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _host_with(monkeypatch, [{"dst": "198.18.0.0/16", "dev": "wl-12345678"}], "/srv/other")
    with pytest.raises(
        errors.ClusterError, match=r"another cluster.*got /srv/other.*down --directory /srv/other"
    ):
        network.check_free(DEFAULT, Layout(tmp_path), programs=PROGRAMS)


def test_range_of_something_else_names_route_and_link(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _host_with(monkeypatch, [{"dst": "198.18.4.0/24", "dev": "tun0"}], None)
    with pytest.raises(errors.ClusterError, match=r"in use.*got route 198\.18\.4\.0/24 of link tun0"):
        network.check_free(DEFAULT, Layout(tmp_path), programs=PROGRAMS)


def test_own_routes_are_no_conflict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    _host_with(monkeypatch, [{"dst": "198.18.0.0/16", "dev": network.link_name(layout)}], str(tmp_path))
    network.check_free(DEFAULT, layout, programs=PROGRAMS)


def test_link_name_fits_the_kernel_and_differs_by_directory(tmp_path: Path) -> None:
    names = {network.link_name(Layout(tmp_path / name)) for name in ("one", "two")}
    assert len(names) == 2 and all(len(name) <= 15 for name in names)


def test_default_link_is_absent_on_an_isolated_machine() -> None:
    assert network.default_link([]) is None
    assert network.default_link([{"dst": "default", "gateway": "10.0.0.1", "dev": "eth0"}]) == "eth0"


def test_no_link_means_no_owner() -> None:
    assert network.link_owner("wl-nothing") is None
