"""Records of earlier runs, as a killed runner or a person leaves them."""

import json
from pathlib import Path

import pytest

from pipelines.local.run_record import RunRecord, close_killed_runs


def test_a_run_that_never_ended_is_marked_as_killed_and_one_that_ended_stays(tmp_path: Path) -> None:
    killed, done = RunRecord(tmp_path / "runs"), RunRecord(tmp_path / "runs")
    for record in (killed, done):
        record.stage("validate", state="ran")
        record.stage("train", state="running")
    done.end("done", 1.0)
    before = done.path.read_text()
    close_killed_runs(tmp_path / "runs")
    found = json.loads(killed.path.read_text())
    assert found["state"] == "killed"
    assert {name: facts["state"] for name, facts in found["stages"].items()} == {"validate": "ran", "train": "killed"}
    assert done.path.read_text() == before


@pytest.mark.parametrize(
    "text",
    ['{"state": "runn', "[]", "{}", '{"state": "running", "stages": []}', '{"state": "running", "stages": {"a": 1}}'],
)
def test_a_file_that_is_no_record_of_a_run_is_set_aside(tmp_path: Path, text: str) -> None:
    (tmp_path / "2026.json").write_text(text)
    close_killed_runs(tmp_path)
    assert (tmp_path / "2026.json.damaged").read_text() == text
    assert not (tmp_path / "2026.json").exists()
    close_killed_runs(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
