"""Settings from the environment, and the text of each mistake."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from windlass.core.settings import HostRootMount
from windlass.shell import settings
from windlass.shell.settings import Settings, SettingsError, from_environment

GOOD = {
    "WINDLASS_NAMESPACE": "windlass-system",
    "POD_NAME": "operator-1",
    "POD_UID": "u1",
    "POD_IP": "10.0.0.7",
    "WINDLASS_WORKLOAD_IMAGE": "workload:1",
}


def test_defaults() -> None:
    made = from_environment(GOOD)
    assert made.watch_namespaces == ()
    assert made.tls_directory is None
    assert (made.watch_nodes, made.health_taints) == (False, ())
    assert (made.report_port, made.health_port) == (8443, 8081)
    assert made.identity == "operator-1_u1"
    assert made.report_host == "windlass-reports.windlass-system.svc"
    assert made.slice_name == "windlass-reports-leader"


def test_everything_set() -> None:
    made = from_environment(
        GOOD
        | {
            "WINDLASS_WATCH_NAMESPACES": "a, b,,c",
            "WINDLASS_WORKLOAD_PYTHON": "/venv/bin/python",
            "WINDLASS_IMAGE_PULL_POLICY": "Never",
            "WINDLASS_HOST_ROOT": '[{"claim": "usr", "mountPath": "/usr", "subPath": "x"}]',
            "WINDLASS_TLS_DIRECTORY": "/etc/windlass/tls",
            "WINDLASS_REPORT_SERVICE": "reports",
            "WINDLASS_REPORT_PORT": "9443",
            "WINDLASS_HEALTH_PORT": "9081",
            "WINDLASS_LEASE_NAME": "lease",
            "WINDLASS_WATCH_NODES": "true",
            "WINDLASS_HEALTH_TAINTS": "a/b, c*",
            "WINDLASS_KUEUE": "true",
            "WINDLASS_LOG_LEVEL": "DEBUG",
        }
    )
    assert made.watch_namespaces == ("a", "b", "c")
    assert (made.watch_nodes, made.health_taints, made.kueue) == (True, ("a/b", "c*"), True)
    assert made.host_root == (HostRootMount("usr", "/usr", "x"),)
    assert made.tls_directory == Path("/etc/windlass/tls")
    assert (made.report_port, made.health_port, made.lease_name) == (9443, 9081, "lease")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (
            "WINDLASS_NAMESPACE",
            "",
            "environment.WINDLASS_NAMESPACE: is not set (got ''); allowed: any non-empty text. hint: install the "
            "operator with its Helm chart, which sets it",
        ),
        (
            "WINDLASS_IMAGE_PULL_POLICY",
            "Sometimes",
            "environment.WINDLASS_IMAGE_PULL_POLICY: is not a known value (got 'Sometimes'); allowed: Always, "
            "IfNotPresent, Never. hint: correct the chart's values",
        ),
        (
            "WINDLASS_REPORT_PORT",
            "70000",
            "environment.WINDLASS_REPORT_PORT: is not a port (got '70000'); allowed: 0 to 65535. hint: correct the "
            "chart's values",
        ),
        ("WINDLASS_HOST_ROOT", "[", "environment.WINDLASS_HOST_ROOT: is not a list of mounts (got '[': "),
        (
            "WINDLASS_HOST_ROOT",
            '[{"claim": "a"}]',
            "environment.WINDLASS_HOST_ROOT: is not a list of mounts (got ",
        ),
    ],
)
def test_a_wrong_value_is_told(name: str, value: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_environment(GOOD | {name: value})
    assert str(caught.value).startswith(text)
    assert "allowed: " in str(caught.value) and "hint: " in str(caught.value)


def test_every_setting_is_documented_with_its_variable() -> None:
    source = Path(settings.__file__).read_text()
    documented = dict(re.findall(r"    (\w+): .*\n    \"\"\"(\w+):", source))
    assert set(documented) == {field.name for field in fields(Settings)}
    assert len(set(documented.values())) == len(documented)


@pytest.mark.parametrize("text", ["", "  ", '{"currency": "EUR", "perHour": {}}'])
def test_no_prices_is_no_list(text: str) -> None:
    assert from_environment(GOOD | {"WINDLASS_PRICES": text}).prices is None


def test_prices_keep_every_digit() -> None:
    text = '{"currency": "EUR", "perHour": {"cpu": "0.0300", "nvidia.com/gpu": "2.123456789012"}}'
    found = from_environment(GOOD | {"WINDLASS_PRICES": text}).prices
    assert found is not None and found.currency == "EUR"
    assert {name: str(value) for name, value in found.per_hour.items()} == {
        "cpu": "0.0300",
        "nvidia.com/gpu": "2.123456789012",
    }


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"currency": "EUR"}',
        '{"perHour": {"cpu": "1"}}',
        '{"currency": "EUR", "perHour": {"cpu": 0.1}}',
        '{"currency": "EUR", "perHour": {"cpu": "-1"}}',
        '{"currency": "EUR", "perHour": ["cpu"]}',
    ],
)
def test_a_price_list_that_is_none_names_itself_and_the_next_step(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_environment(GOOD | {"WINDLASS_PRICES": text})
    said = str(caught.value)
    assert said.startswith("environment.WINDLASS_PRICES: is not a price list (got ")
    assert "allowed: JSON like" in said and "hint: correct prices in the chart's values" in said
