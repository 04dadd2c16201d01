"""An MLflow server that answers anything at all: an error or a warning that names it, soon, and the journal is kept."""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reid.errors import TrackingError
from reid.tracking import bounded_answers, sender, store
from reid.tracking.journal import JOURNAL, Address, Journal
from reid.tracking.outbox import Outbox
from reid.tracking.recorded import fetch_artifact
from reid.tracking.stage_run import stage_run
from tests.hostile_server import Answer, HostileServer, as_json, dripping, http

WANT = ", want the address of an MLflow server"
STOP = threading.Event()


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    store.load_mlflow("http://")  # takes some seconds, once
    monkeypatch.setattr(bounded_answers, "REQUEST_S", 0.3)
    monkeypatch.setattr(bounded_answers, "LARGEST_ANSWER", 2**20)
    monkeypatch.setattr(sender, "BACK_OFF_S", (0.05, 0.1))
    monkeypatch.setattr(sender, "GIVE_UP_S", 0.2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    STOP.clear()
    yield
    STOP.set()


def without_end() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while not STOP.is_set():
        yield b"10000\r\n" + b" " * 2**16 + b"\r\n"


def experiment(**more: object) -> Callable[[], Answer]:
    """An experiment that is right, and more that is not."""
    return lambda: as_json({"experiment": {"experiment_id": "1", "name": "reid"}, **more})


LATE = "its answer is refused: found no whole answer in 0.3 s, want one within that"
ANSWERS: dict[str, tuple[Callable[[], Answer], str]] = {
    "{}": (lambda: as_json({}), "found an answer without a run's id, want the parent run"),
    "a number for an experiment": (
        lambda: as_json({"experiment": 5}),
        "found an answer that is not MLflow's (ParseError: Failed to parse experiment field: 'int' object is not "
        f"iterable.){WANT}",
    ),
    "odd tags": (
        lambda: as_json({"experiment": {"experiment_id": "1", "tags": "x"}}),
        "found an answer that is not MLflow's (ParseError: Failed to parse experiment field: Failed to parse tags "
        f"field: repeated field tags must be in [] which is x at Response.experiment..){WANT}",
    ),
    "an odd run": (
        experiment(runs=[{"info": 5}]),
        "found an answer that is not MLflow's (ParseError: Failed to parse runs field: Failed to parse info field: "
        f"'int' object is not iterable..){WANT}",
    ),
    "a list": (lambda: as_json([]), f"found an answer that is not MLflow's ('[]'){WANT}"),
    "a page of HTML": (
        lambda: http(b"<html>\x1b[2Jplease log in", Content_Type="text/html; charset=utf-8"),
        f"found an answer that is not MLflow's ('<html> [2Jplease log in'){WANT}",
    ),
    "a refusal in odd words": (
        lambda: as_json({"error_code": ["x"]}, status="400 Bad Request"),
        f"found an answer that is not MLflow's (TypeError: unhashable type: 'list'){WANT}",
    ),
    "a login": (
        lambda: http(b"", status="401 Unauthorized"),
        "API request to endpoint /api/2.0/mlflow/experiments/search failed with error code 401 != 200. "
        "Response body: ''",
    ),
    "a body without an end": (
        without_end,
        "its answer is refused: found an answer of more than 1,048,576 bytes, want one of at most that",
    ),
    "a byte at a time, head": (lambda: dripping(http(b""), STOP), LATE),
    "a byte at a time, body": (
        lambda: itertools.chain([http(b"", Content_Length=9999)], dripping(b"", STOP)),
        LATE,
    ),
    "a byte at a time, no length": (
        lambda: itertools.chain([b"HTTP/1.1 200 OK\r\n\r\n{"], dripping(b"", STOP)),
        LATE,
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_none_is_an_error_with_what_was_found_and_wanted(name: str, tmp_path: Path) -> None:
    answer, wanted = ANSWERS[name]
    with HostileServer(lambda *_: answer()) as server:
        uri = f"http://{server.address}"
        box = Outbox(tmp_path, Address(uri, stage="train", kfp_run_id="k"))
        box.journal.append({"tags": {"a": "b"}})
        started = time.monotonic()
        with pytest.raises(TrackingError) as caught:
            box.settle()
        assert time.monotonic() - started < 2
        assert str(caught.value) == f"MLflow at {uri}: {wanted}"
        assert box.waiting
        box.journal.close()


def test_pages_without_an_end_are_ended_by_the_time_of_the_contact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CONTACT_S", 0.4)
    run = {"info": {"run_id": "r"}, "data": {"metrics": [{"key": "a", "value": 1, "step": 1, "timestamp": 1}]}}
    page = experiment(runs=[run], run=run, metrics=run["data"]["metrics"], next_page_token="again")
    with HostileServer(lambda *_: page()) as server:
        box = Outbox(tmp_path, Address(f"http://{server.address}", stage="train", kfp_run_id="k"))
        with pytest.raises(TrackingError) as caught:
            box.settle()
        box.journal.close()
    assert str(caught.value) == (
        f"MLflow at http://{server.address}: its answer is refused: found no end of the answers in 0.4 s, want all of "
        "them within that"
    )


def test_a_download_that_drips_is_ended_by_its_time(tmp_path: Path) -> None:
    def answer(_: str, path: str) -> Answer:
        if path.endswith("/a.csv"):
            return itertools.chain([http(b"", Content_Length=9999)], dripping(b"", STOP))
        if "artifacts" in path:
            return as_json({"files": [{"path": "a.csv", "is_dir": False, "file_size": 9}]})
        return as_json({"run": {"info": {"run_id": "r", "artifact_uri": "mlflow-artifacts:/1/r"}}})

    with HostileServer(answer) as server:
        uri = f"http://{server.address}"
        with pytest.raises(TrackingError) as caught:
            fetch_artifact(uri, "r", "a.csv", tmp_path)
    assert str(caught.value) == (
        f"MLflow at {uri}: Failed to download artifacts from path 'a.csv', please ensure that the path is correct."
    )


@pytest.mark.parametrize(
    "answer", [lambda: as_json({}), lambda: http(b"", status="404 Not Found"), lambda: dripping(b"", STOP)]
)
def test_a_stage_ends_soon_and_its_figures_stay_in_the_journal(
    answer: Callable[[], Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sender, "HANG_S", 0.4)
    caplog.set_level(logging.WARNING, "reid")
    with HostileServer(lambda *_: answer()) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server.address}")
        monkeypatch.setenv("MLFLOW_RUN_ID", "r" * 32)
        started = time.monotonic()
        with stage_run("train", tmp_path) as run:
            run.log_metrics({"loss": 1.0}, 1)
        assert time.monotonic() - started < 2
        time.sleep(0.1)
    journal = Journal(tmp_path)
    assert [record for record in journal.after(0)[0] if "metrics" in record]
    journal.close()
    address = Address.load(tmp_path)
    assert address is not None
    assert not any(address.sent.values())
    assert any("kept in" in message and JOURNAL in message for message in caplog.messages)
    assert len([message for message in caplog.messages if f"MLflow at http://{server.address}: " in message]) <= 1
