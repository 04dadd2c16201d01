"""A pipeline whose MLflow server is not up yet."""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from reid.errors import TrackingError
from reid.tracking import bounded_answers, first_contact
from reid.tracking.stage_run import stage_run
from reid.tracking.store import PARENT, connect
from tests.hostile_server import HostileServer, http
from tests.mlflow_server import MlflowServer, free_port


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_contact, "WAIT_S", 0.3)
    monkeypatch.setattr(first_contact, "PAUSE_S", (0.05, 0.1))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)


@contextmanager
def answering(*statuses: int) -> Iterator[tuple[str, list[str]]]:
    """A server that answers with these statuses in turn, the last one for ever: its address, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(statuses[min(len(asked), len(statuses)) - 1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def validate(uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Begins the first stage, which fails; the text of its error."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError) as caught, stage_run("validate", folder, first=True):
        pass
    return re.sub(r"waited \d+ s", "waited N s", str(caught.value))


def test_a_server_that_stays_away_is_waited_for_and_then_the_stage_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    refused = f"MLflow at {uri}: does not answer: [Errno 111] Connection refused"
    wanted = f"{refused}\n  waited N s for it\n  want: a server that answers, or no MLFLOW_TRACKING_URI"
    assert validate(uri, tmp_path, monkeypatch) == wanted
    assert caplog.messages == [f"{refused}; waiting for it, at most 0 s"]


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (
            b"<html>log in",
            "found an answer that is not MLflow's ('<html>log in'), want the address of an MLflow server",
        ),
        (b" " * 2000, "its answer is refused: found an answer of more than 1,000 bytes, want one of at most that"),
    ],
)
def test_an_answer_that_is_not_mlflows_is_not_waited_for(
    body: bytes, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_answers, "LARGEST_ANSWER", 1000)
    with HostileServer(lambda *_: http(body)) as server:
        uri = f"http://{server.address}"
        assert validate(uri, tmp_path, monkeypatch) == f"MLflow at {uri}: {wanted}"


def test_a_server_that_fails_is_asked_again_and_one_that_refuses_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for status in (401, 403, 404):
        with answering(500, 503, status) as (uri, asked):
            assert "waited" not in validate(uri, tmp_path / str(status), monkeypatch)
            assert len(asked) == 3


def test_what_a_server_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with answering(500) as (uri, asked):
        text = validate(uri, tmp_path, monkeypatch)
        question = asked[0].partition("?")[0]
        assert text.startswith(f"MLflow at {uri}: answers {question} with status 500 each time; its log says why\n")


def test_a_name_that_does_not_resolve_yet_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = validate("http://mlflow.invalid:5000", tmp_path, monkeypatch)
    assert text.startswith("MLflow at http://mlflow.invalid:5000: does not answer: [Errno -")
    assert "\n  waited N s for it\n" in text


@pytest.mark.slow
def test_a_server_that_starts_late_gets_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(first_contact, "WAIT_S", 120.0)
    server = MlflowServer(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    timer = threading.Timer(0.5, server.start)
    timer.start()
    try:
        with stage_run("validate", tmp_path / "pod", first=True) as run:
            run.log_outcome({"mAP": 0.7})
        client = connect(server.uri)
        runs = client.search_runs([client.get_experiment_by_name("reid").experiment_id])
        assert sorted((PARENT in run.data.tags, run.info.status) for run in runs) == [
            (False, "FINISHED"),
            (True, "FINISHED"),
        ]
        assert [text for text in caplog.messages if "waiting for it" in text] == [
            f"MLflow at {server.uri}: does not answer: [Errno 111] Connection refused; waiting for it, at most 120 s"
        ]
    finally:
        timer.join()
        server.kill()
