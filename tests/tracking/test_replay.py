"""The replay of a journal to a real SQLite store: a record that is replayed twice changes nothing."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reid.errors import TrackingError
from reid.tracking import outbox, sender
from reid.tracking.experiment import KIND, NOTE, VIEW, experiment_id, set_up_page
from reid.tracking.journal import ADDRESS, Address, now_ms
from reid.tracking.outbox import Outbox
from reid.tracking.pipeline_run import open_pipeline_run
from reid.tracking.stage_run import StageRun, described_dataset, send_what_is_left
from reid.tracking.store import connect


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def parent_id(store: str) -> str:
    client = connect(store)
    return str(client.create_run(experiment_id(client, store, "tests")).info.run_id)


def shown(store: str, run_id: str) -> Any:
    """Everything that MLflow shows of a run."""
    client = connect(store)
    run = client.get_run(run_id)
    curves = {
        name: [(row.step, row.value) for row in client.get_metric_history(run_id, name)] for name in run.data.metrics
    }
    files = [entry.path for entry in client.list_artifacts(run_id)]
    sets = [entry.dataset.name for entry in run.inputs.dataset_inputs]
    return curves, run.data.params, run.data.tags, run.info.status, run.info.end_time, files, sets


def test_a_journal_that_is_replayed_from_its_start_again_changes_nothing(
    store: str, parent_id: str, tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    report.write_text("<p>")
    box = Outbox(tmp_path / "stage", Address(store, "train", parent_id=parent_id))
    data = {"name": "drawn", "digest": "d", "source_type": "local", "source": "{}"}
    for record in (
        *({"metrics": {"loss": 1 / step}, "step": step, "time": now_ms()} for step in range(1, 1203)),
        {"params": {f"p{number}": "1" for number in range(95)}},
        {"tags": {"colour": "green"}},
        {"dataset": data},
        {"artifact": str(report), "folder": None},
        {"tags": {"of": "parent"}, "parent": True},
        {"experiment_page": True},
        {"end": "FINISHED", "time": now_ms()},
    ):
        box.journal.append(record)
    while box.waiting:
        assert box.send()
    run_id = box.address.run_id
    once = shown(store, run_id), shown(store, parent_id)
    (curves, params, tags, status, _, files, sets), (parent_curves, _, parent_tags, *_) = once
    assert curves == {"loss": [(step, 1 / step) for step in range(1, 1203)]}
    assert parent_curves == {"train/loss": curves["loss"]}
    assert len(params) == 95
    assert (tags["colour"], parent_tags["of"], status, files, sets) == (
        "green", "parent", "FINISHED", ["report.html"], ["drawn"],
    )  # fmt: skip
    box.journal.close()
    box.address.sent.clear()
    again = Outbox(box.folder, box.address)
    while again.waiting:
        assert again.send()
    again.journal.close()
    assert (shown(store, run_id), shown(store, parent_id)) == once


@pytest.mark.slow
def test_a_damaged_address_costs_nothing_the_whole_journal_is_sent_again(
    store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = open_pipeline_run(
        tracking_uri=store, experiment="e", run_name="r", tags={}, params={}, results_dir=tmp_path
    )
    folder = tmp_path / "stage"
    first = Outbox(folder, Address(store, "train", pipeline.start_stage("train", folder)))
    first.journal.append_metrics({"loss": 0.5}, 1)
    first.journal.close()
    (folder / ADDRESS).write_text('{"store": 5')
    run_id = pipeline.start_stage("train", folder, resumes=True)
    pipeline.finish_stage(folder, "FINISHED")
    pipeline.finish("FINISHED")
    assert run_id == first.address.run_id  # found by its tags
    assert shown(store, run_id)[0] == {"loss": [(1, 0.5)]}
    assert f"{ADDRESS}.damaged" in caplog.text


def test_a_run_is_found_by_its_tags_if_the_answer_to_its_creation_was_lost(
    store: str, parent_id: str, tmp_path: Path
) -> None:
    for number, address in enumerate((Address(store, "train", parent_id=parent_id), Address(store, key="k"))):
        forgotten = Address(store, address.stage, parent_id=address.parent_id, key=address.key)
        for folder, one in (("first", address), ("again", forgotten)):
            box = Outbox(tmp_path / f"{folder}{number}", one)
            box.settle()
            box.journal.close()
        assert forgotten.run_id == address.run_id


def test_of_an_earlier_attempt_whose_journal_is_gone_only_the_missing_steps_are_sent(
    store: str, parent_id: str, tmp_path: Path
) -> None:
    for folder, steps in (("first pod", 3), ("second pod", 5)):
        run = StageRun(Outbox(tmp_path / folder, Address(store, "train", parent_id=parent_id)))
        for step in range(1, steps + 1):
            run.log_metrics({"loss": 1.0}, step)
        assert run.close()
    client = connect(store)
    assert [row.step for row in client.get_metric_history(parent_id, "train/loss")] == [1, 2, 3, 4, 5]


class _Empty(BaseHTTPRequestHandler):
    """Answers `{}` to everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@pytest.fixture
def empty_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_that_answers_without_a_runs_id_is_an_error_at_the_start_and_hangs_no_end(
    empty_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrackingError) as caught:
        open_pipeline_run(
            tracking_uri=empty_server, experiment="e", run_name="r", tags={}, params={}, results_dir=tmp_path
        )
    assert str(caught.value) == f"MLflow at {empty_server}: found an answer without a run's id, want the run"
    assert list((tmp_path / "runs" / "mlflow").iterdir()) == []
    monkeypatch.setattr(sender, "GIVE_UP_S", 0.5)
    run = StageRun(Outbox(tmp_path / "train", Address(empty_server, "train", parent_id="p")))
    run.log_metrics({"loss": 1.0}, 1)
    started = time.monotonic()
    assert not run.close()
    assert time.monotonic() - started < 30


def test_a_store_that_takes_nothing_and_says_nothing_ends_the_wait(
    store: str, parent_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "GIVE_UP_S", 0.5)
    monkeypatch.setattr(outbox, "replay", lambda *_: None)
    run = StageRun(Outbox(tmp_path / "train", Address(store, "train", parent_id=parent_id)))
    run.log_metrics({"loss": 1.0}, 1)
    started = time.monotonic()
    assert not run.close()
    assert time.monotonic() - started < 30


def test_the_experiments_page_shows_map_and_rank1_and_what_a_user_set_stays(store: str, parent_id: str) -> None:
    client = connect(store)
    experiment = client.get_run(parent_id).info.experiment_id
    client.set_experiment_tag(experiment, NOTE, "mine")
    for _ in ("once", "again"):
        set_up_page(client, experiment)
    tags = client.get_experiment(experiment).tags
    assert (tags[KIND], tags[NOTE]) == ("custom_model_development", "mine")
    assert '"name": "mAP and rank-1"' in tags[VIEW]
    assert "metrics.`mAP`" in tags[VIEW]


OUTCOME = {"mAP": 0.5, "mAP_low": 0.4, "mAP_shop": 0.25}


def bound(run: StageRun) -> None:
    """What the evaluate stage logs of a model that is scored on a data set and a further one."""
    sets = [described_dataset(name, fingerprint=name[0] * 64, source=f"/data/{name}") for name in ("market", "shop")]
    run.bind_outcome("best", kind="reid", params={"backbone": "swin"}, tags={"chosen_on_test": "no"}, datasets=sets)
    run.log_outcome(OUTCOME)


def model_page(store: str, experiment: str) -> Any:
    """Everything that the page of the only logged model shows."""
    (model,) = connect(store).search_logged_models([experiment])
    rows = [(row.key, row.value, row.dataset_name, row.dataset_digest, row.run_id) for row in model.metrics]
    return model.name, str(model.status), model.params, model.tags["chosen_on_test"], sorted(rows)


def test_figures_stand_on_the_models_page_beside_the_data_set_that_they_are_of(
    store: str, parent_id: str, tmp_path: Path
) -> None:
    box = Outbox(tmp_path / "stage", Address(store, "evaluate", parent_id=parent_id))
    run = StageRun(box)
    bound(run)
    assert run.close()
    run_id, client = box.address.run_id, connect(store)
    experiment = client.get_run(run_id).info.experiment_id
    market, shop = ("market", "m" * 8, run_id), ("shop", "s" * 8, run_id)
    page = (
        "best", "READY", {"backbone": "swin"}, "no",
        [("mAP", 0.5, *market), ("mAP_low", 0.4, *market), ("mAP_shop", 0.25, *shop)],
    )  # fmt: skip
    assert model_page(store, experiment) == page
    assert client.get_run(run_id).data.metrics == client.get_run(parent_id).data.metrics == OUTCOME
    assert len(client.get_run(run_id).inputs.dataset_inputs) == 2
    # sent once more from its start, as after a lost answer, by a process that knows only the folder
    box.address.sent.clear()
    box.address.save(box.folder)
    assert send_what_is_left(box.folder)
    assert model_page(store, experiment) == page
    assert [len(client.get_metric_history(run_id, name)) for name in OUTCOME] == [1, 1, 1]


class OldServer:
    """Answers as a tracking server of MLflow 2: it takes runs and metrics, and has no page for logged models."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self._answer()

            def _answer(self) -> None:
                asked.append(self.path.split("?")[0].removeprefix("/api/2.0/mlflow/"))
                known = "logged-models" not in self.path
                info = {"run_id": "r", "experiment_id": "1", "lifecycle_stage": "active", "status": "RUNNING"}
                text = json.dumps({"run": {"info": info, "data": {}}}) if known else "<title>404 Not Found</title>"
                self.send_response(200 if known else 404)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.uri = f"http://127.0.0.1:{self.server.server_port}"


def test_a_server_that_knows_no_logged_models_gets_the_figures_of_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = OldServer()
    try:
        run = StageRun(Outbox(tmp_path / "stage", Address(old.uri, "evaluate", run_id="r", settled=True)))
        bound(run)
        assert run.close()
    finally:
        old.server.shutdown()
        old.server.server_close()
    assert old.asked == ["runs/log-batch", "runs/get", "logged-models/search"]
    assert caplog.messages == [
        "this MLflow server knows no logged models, which MLflow 3 has: the figures stand on run r alone"
    ]
