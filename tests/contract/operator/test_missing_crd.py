"""An operator that comes before its CRD, on an API server of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.operator.harness import Cluster, job, prepare, start, until
from contract.server import install, running, shipped_crds

pytestmark = pytest.mark.contract


@pytest.mark.fault("F13")
def test_an_operator_that_comes_before_its_crd_serves_once_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with running(tmp_path / "server") as api:
        prepare(api, tmp_path / "tls")
        one = start(api, tmp_path / "one", "operator-1")
        try:
            until(lambda: one.get("/readyz")[0] == 503, "it answers that it is not ready")
            status, text = one.get("/readyz")
            assert (status, one.get("/healthz")) == (503, (200, "ok\n"))
            assert (
                "finetunejobs.windlass.dev: is not installed" in text
                and "hint: kubectl apply -f crds/" in text
            )
            said = [line for line in one.log() if line["level"] == "error"]
            assert said and all(line["problem"] == text.strip() for line in said)
            for crd in shipped_crds():
                install(api, crd)
            one.await_ready().await_leading()
            api.create("/api/v1/namespaces", {"metadata": {"name": "team"}}).expect(201)
            cluster = Cluster(api, "team")
            cluster.claims()
            cluster.submit(job("ft"))
            cluster.await_pods("ft-0-1", "ft-1-2")
        finally:
            assert one.stop() == 0, "the same process from the beginning to the end"
