"""An MLflow server whose files lie in an S3 store that its clients cannot reach."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reid.tracking.store import load_mlflow, reaching

FILE = "/api/2.0/mlflow-artifacts/artifacts/1/per_query.csv"


class Server(ThreadingHTTPServer):
    """Answers as MLflow 3.17 with --artifacts-destination=s3://…: /server-info offers downloads from the S3 store."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.taken: dict[str, bytes] = {}

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        if path.endswith("/server-info"):
            self._answer({"multipart_uploads_enabled": True, "multipart_downloads_enabled": True})
        elif "/mlflow-artifacts/presigned/" in path:
            self._answer({"url": "http://artifact-store.invalid:8333/mlflow/f", "headers": {}, "file_size": 6})
        elif path == FILE:
            self._answer(b"a,b\n1\n")
        else:
            self._answer({"files": []})

    def do_PUT(self) -> None:
        self.server.taken[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({})

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        self.send_error(500)

    def _answer(self, content: object) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"):
        monkeypatch.setenv(name, "")  # put back afterwards
        monkeypatch.delenv(name)
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        load_mlflow(server.uri)
        yield server
        server.shutdown()


def test_files_are_read_through_the_server(server: Server, tmp_path: Path) -> None:
    from mlflow.artifacts import download_artifacts

    with reaching(server.uri):
        found = download_artifacts(
            artifact_uri="mlflow-artifacts:/1/per_query.csv", tracking_uri=server.uri, dst_path=str(tmp_path)
        )
    assert Path(found).read_bytes() == b"a,b\n1\n"
    assert FILE in server.asked
    assert not [path for path in server.asked if "presigned" in path]


def test_files_of_any_size_are_written_through_the_server(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", "1")  # instead of 500 MB
    (tmp_path / "per_query.csv").write_bytes(b"a,b\n2\n")
    with reaching(server.uri):
        MlflowArtifactsRepository("mlflow-artifacts:/1", server.uri).log_artifact(str(tmp_path / "per_query.csv"))
    assert server.taken == {FILE: b"a,b\n2\n"}
