"""Loopback servers of Kubeflow Pipelines, with no setting of this machine's own."""

from collections.abc import Callable, Iterator, Mapping

import pytest

from pipelines.cluster import following
from tests.pipelines.cluster.kfp_requests import now
from tests.pipelines.cluster.kfp_server import KfpServer, Moment


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[KfpServer]]:
    """The servers of a test; they must have seen no wrong call."""
    for name in ("TOKEN", "TOKEN_FILE", "COOKIES", "CA_CERT", "NAMESPACE", "SERVICE_ACCOUNT", "UI", "MLFLOW_PLUGIN"):
        monkeypatch.delenv(f"KFP_{name}", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(following, "POLL_S", 0.01)
    started: list[KfpServer] = []
    yield started
    for server in started:
        server.close()
        assert server.faults == []


@pytest.fixture
def serve(servers: list[KfpServer], monkeypatch: pytest.MonkeyPatch) -> Callable[..., KfpServer]:
    """Starts a server with a script and runs that were submitted before, and names it in KFP_ENDPOINT."""

    def start(script: list[Moment], *run_ids: str, headers: Mapping[str, str] | None = None) -> KfpServer:
        server = KfpServer(script, headers=headers)
        for run_id in run_ids:
            server.runs[run_id] = {"run_id": run_id, "display_name": f"demo {run_id}", "created_at": now()}
        servers.append(server)
        monkeypatch.setenv("KFP_ENDPOINT", server.url)
        return server

    return start
