"""status.json: TAO's lines, with figures that are numbers and an end that says how it ended."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from reid.cli.status import StatusFile, reported
from reid.errors import ArtifactError, DatasetError

UNTRAINED = {"epoch": -1, "step": 0, "mAP": 0.1, "rank1": 0.05}
FIRST = {"epoch": 0, "step": 8, "train_loss": 3.5, "seconds": 90.0, "accuracy": 0.25}
SECOND = {"epoch": 1, "step": 16, "train_loss": 1 / 3, "seconds": 100.0, "mAP": 2 / 3, "rank1": 0.7}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_task_that_ends_well_says_started_and_success_with_figures_unrounded(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    with reported(path, "evaluate") as status:
        status.succeeded({"mAP": 2 / 3, "rank1": 0.875, "bad": float("nan")}, "plain: mAP 66.7")
    started, success = lines_of(path)
    assert (started["status"], started["message"]) == ("STARTED", "Starting ReIdentification evaluate.")
    assert success["status"] == "SUCCESS"
    assert success["message"] == "Evaluate finished successfully. plain: mAP 66.7"
    assert success["kpi"] == {"mAP": 2 / 3, "rank1": 0.875, "cmc_rank_1": 0.875}
    assert "kpi" not in started


def test_a_line_has_taos_fields_and_an_iso_timestamp(tmp_path: Path) -> None:
    StatusFile(tmp_path / "status.json", "train").add("RUNNING", "half way")
    (line,) = lines_of(tmp_path / "status.json")
    moment = datetime.fromisoformat(line.pop("timestamp"))
    assert moment.tzinfo is not None
    assert line == {
        "date": f"{moment.month}/{moment.day}/{moment.year}",
        "time": f"{moment.hour}:{moment.minute}:{moment.second}",
        "status": "RUNNING",
        "verbosity": "INFO",
        "task": "train",
        "message": "half way",
    }


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DatasetError("the data set has 1 error\n  first: a.jpg"), "the data set has 1 error\n  first: a.jpg"),
        (KeyError("no such key"), "KeyError: 'no such key'"),
        (KeyboardInterrupt(), "User/System interruption: stopped by Ctrl-C or SIGTERM"),
    ],
    ids=["the user's", "ours", "interrupted"],
)
def test_every_failure_is_the_last_line_with_the_errors_text(
    tmp_path: Path, error: BaseException, message: str
) -> None:
    path = tmp_path / "status.json"
    with pytest.raises(type(error)), reported(path, "train"):
        raise error
    last = lines_of(path)[-1]
    assert (last["status"], last["verbosity"], last["message"]) == ("FAILURE", "ERROR", message)


def test_a_second_attempt_adds_to_the_first(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    with pytest.raises(ValueError), reported(path, "train"):
        raise ValueError
    with reported(path, "train") as status:
        status.succeeded({})
    assert [line["status"] for line in lines_of(path)] == ["STARTED", "FAILURE", "STARTED", "SUCCESS"]


def test_a_status_file_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "status.json").mkdir()
    with pytest.raises(ArtifactError) as caught, reported(tmp_path / "status.json", "train"):
        pass
    assert str(caught.value) == f"{tmp_path}/status.json: cannot be written\n  found: Is a directory"


def test_the_error_itself_is_raised_where_its_line_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "results" / "status.json"
    path.parent.mkdir()
    with pytest.raises(DatasetError, match="the first cause"), reported(path, "train"):
        path.unlink()
        path.parent.rmdir()
        raise DatasetError("the first cause")
    assert caplog.messages == [f"{path}: cannot be written\n  found: No such file or directory"]


def test_each_new_row_of_the_history_is_a_line(tmp_path: Path) -> None:
    status = StatusFile(tmp_path / "status.json", "train")
    for row in (UNTRAINED, FIRST, SECOND):
        status.epoch_ended(row, epochs=4)
    untrained, first, second = lines_of(status.path)
    assert untrained["message"] == "The untrained network was validated."
    assert untrained["kpi"] == {"mAP": 0.1, "rank1": 0.05, "cmc_rank_1": 0.05}
    assert "epoch" not in untrained
    # epochs from 0: 3 of 4 are left after the first, 3 x 90 s; 8 steps in 90 s
    assert first["kpi"] == {"train_loss": 3.5, "accuracy": 0.25, "train_acc": 0.25}
    shown = {
        name: first[name] for name in ("epoch", "max_epoch", "step", "max_step", "time_per_epoch", "time_per_step")
    }
    assert shown == {
        "epoch": 0,
        "max_epoch": 3,
        "step": 8,
        "max_step": 32,
        "time_per_epoch": "0:01:30",
        "time_per_step": "0:00:11.250000",
    }
    assert (first["eta"], first["message"]) == ("0:04:30", "Training loop in progress")
    assert (second["epoch"], second["eta"]) == (1, "0:03:20")
    assert second["kpi"] == {"train_loss": 1 / 3, "mAP": 2 / 3, "rank1": 0.7, "cmc_rank_1": 0.7}


def test_the_epochs_before_a_failure_are_reported_before_it(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    with pytest.raises(KeyboardInterrupt), reported(path, "train") as status:
        status.epoch_ended(FIRST, epochs=2)
        raise KeyboardInterrupt
    assert [line["status"] for line in lines_of(path)] == ["STARTED", "RUNNING", "FAILURE"]
