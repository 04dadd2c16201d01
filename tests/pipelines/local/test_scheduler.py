"""The local runner over a real compiled pipeline, real processes, a real store."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.local.run_report import RunReport, shown
from reid.errors import FolderInUse
from reid.files.locks import locked
from reid.tracking.pipeline_run import open_pipeline_run
from tests.pipelines.mini import MiniRepository

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def repository(tmp_path: Path) -> MiniRepository:
    return MiniRepository(tmp_path / "repo", tmp_path / "results").write()


def states(report: RunReport) -> dict[str, str]:
    return {stage: task.state for stage, task in report.tasks.items()}


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_parameters_and_artifacts_flow_through_the_graph(repository: MiniRepository) -> None:
    report = repository.run(make={"text": "a"}, left={"text": "b"}, right={"text": "c"}, join={"text": "d"})
    assert report.exit_status == 0
    assert states(report) == {"make": "ran", "left": "ran", "right": "ran", "join": "ran"}
    joined = report.tasks["join"].outputs
    assert (joined.artifacts["data"].path / "text").read_text() == "a b a c d"
    assert joined.metrics == {"score": 9.0}  # "a b a c d" has 9 characters
    assert joined.lines == ["join says hello"]
    assert report.tasks["make"].outputs.parameters == {"score": 1.0}
    given = json.loads((report.tasks["left"].folder or Path()).joinpath("task.json").read_text())
    assert set(given["key_parts"]) == {"component", "spec", "score", "source", "code", "packages"}


def test_a_second_run_takes_everything_from_the_store(repository: MiniRepository) -> None:
    repository.run()
    assert repository.diary() == ["make", "left", "right", "join"]
    report = repository.run()
    assert repository.diary() == []
    assert set(states(report).values()) == {"cached"}
    assert report.tasks["join"].outputs.metrics == {"score": 25.0}  # 21 letters of five words, 4 spaces
    assert (repository.results / "latest" / "join" / "data" / "text").read_text() == "make left make right join"


def test_a_changed_spec_runs_its_stage_and_what_needs_it(repository: MiniRepository) -> None:
    repository.run()
    report = repository.run(left={"text": "new"})
    assert states(report) == {"make": "cached", "left": "ran", "right": "cached", "join": "ran"}
    assert "left   started (changed: spec)" in repository.said
    assert "join   started (changed: one)" in repository.said
    assert states(repository.run()) == {"make": "cached", "left": "cached", "right": "cached", "join": "cached"}


def test_a_stage_that_gives_the_same_again_runs_nothing_after_it(repository: MiniRepository) -> None:
    repository.run(left={"text": "left"})
    report = repository.run(left={"text": "left", "unread": 1})
    assert states(report) == {"make": "cached", "left": "ran", "right": "cached", "join": "cached"}


def test_an_edit_of_code_that_a_stage_can_reach_runs_it_again(repository: MiniRepository) -> None:
    repository.run()
    (repository.root / "reid" / "stages" / "right.py").write_text(
        (repository.root / "reid" / "stages" / "right.py").read_text() + "# edited\n"
    )
    assert states(repository.run()) == {"make": "cached", "left": "cached", "right": "ran", "join": "cached"}
    assert "right  started (changed: code)" in repository.said
    (repository.root / "reid" / "unused.py").write_text("# edited\n")
    assert set(states(repository.run()).values()) == {"cached"}
    (repository.root / "reid" / "words.py").write_text('GREETING = "edited"\n')
    assert set(states(repository.run()).values()) == {"ran"}


def test_a_changed_lock_runs_everything_again(repository: MiniRepository) -> None:
    repository.run()
    (repository.root / "requirements.lock").write_text("kfp==2.18.0\n")
    assert set(states(repository.run()).values()) == {"ran"}
    assert "make   started (changed: packages)" in repository.said


@pytest.mark.parametrize("damage", ["delete", "alter"])
def test_a_damaged_output_is_made_again(repository: MiniRepository, damage: str) -> None:
    report = repository.run()
    file = report.tasks["left"].outputs.artifacts["data"].path / "text"
    file.unlink() if damage == "delete" else file.write_text("other")
    assert states(repository.run()) == {"make": "cached", "left": "ran", "right": "cached", "join": "cached"}
    assert "left   started (its outputs were changed or deleted)" in repository.said
    assert file.read_text() == "make left"
    folder = report.tasks["left"].folder
    assert folder is not None
    (aside,) = folder.glob("set-aside-*")
    kept = f"left   its outputs as they were found are kept in {shown(aside)}"
    assert f"{kept} (0.0 MB); delete that folder if you do not need them\n" in repository.said
    found = [path.name for path in sorted((aside / "data").iterdir())]
    assert found == ([] if damage == "delete" else ["text"])


def test_a_file_added_to_an_output_runs_nothing_again(repository: MiniRepository) -> None:
    report = repository.run()
    (report.tasks["left"].outputs.artifacts["data"].path / "model.onnx").write_text("exported later")
    assert set(states(repository.run()).values()) == {"cached"}


def test_a_task_json_that_names_a_foreign_folder_is_reported_and_nothing_is_deleted(
    repository: MiniRepository, tmp_path: Path
) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis").write_text("years")
    folder = repository.run().tasks["left"].folder
    assert folder is not None
    record = json.loads((folder / "task.json").read_text())
    record["artifacts"]["data"]["path"] = str(tmp_path / "foreign")
    (folder / "task.json").write_text(json.dumps(record))
    report = repository.run()
    assert states(report)["left"] == "continued"
    assert (tmp_path / "foreign" / "thesis").read_text() == "years"
    (aside,) = folder.glob("set-aside-*")
    assert (
        f"left   {shown(folder / 'task.json')} is no record of a finished task: artifacts.data.path: found "
        f"'{tmp_path}/foreign', want a plain name; it is kept in {shown(aside)}\n"
    ) in repository.said
    assert json.loads((aside / "task.json").read_text()) == record
    assert set(states(repository.run()).values()) == {"cached"}


def test_a_touched_output_is_the_same_output(repository: MiniRepository) -> None:
    report = repository.run()
    os.utime(report.tasks["left"].outputs.artifacts["data"].path / "text", (1, 1))
    assert set(states(repository.run()).values()) == {"cached"}


def test_a_failed_stage_shows_its_last_words_and_stops_only_what_needs_it(repository: MiniRepository) -> None:
    report = repository.run(left={"exit": 3, "last_words": "the disk is full"})
    assert report.exit_status == 1
    assert states(report) == {"make": "ran", "left": "failed", "right": "ran", "join": "not run"}
    said = repository.said.splitlines()
    failed = next(number for number, line in enumerate(said) if line.startswith("left   failed after"))
    assert said[failed].endswith(": exit status 3")
    assert "       | the disk is full" in said[failed:]
    log = report.tasks["left"].folder
    assert log is not None
    assert any(line.strip() == f"whole log: {os.path.relpath(log / 'log.txt')}" or str(log) in line for line in said)
    assert said[-1] == "join   not run: needs left"
    assert states(repository.run()) == {"make": "cached", "left": "ran", "right": "cached", "join": "ran"}


def test_exit_status_2_of_a_stage_is_that_of_the_run(repository: MiniRepository) -> None:
    assert repository.run(make={"exit": 2}).exit_status == 2


def test_an_output_parameter_that_was_not_written_fails_the_task(repository: MiniRepository) -> None:
    report = repository.run(make={"forget": True})
    assert states(report)["make"] == "failed"
    assert "make: ended well, but did not write its output parameter 'score'" in repository.said


def test_independent_tasks_run_at_once_with_two_jobs(repository: MiniRepository) -> None:
    slow = {"steps": 1, "step_s": 0.7}
    repository.run(jobs=2, left=slow, right=slow)
    said = repository.said.splitlines()
    events = [line.split()[:2] for line in said if line.startswith(("left", "right"))]
    assert events[:2] == [["left", "started"], ["right", "started"]]


def drive(repository: MiniRepository, **specs: object) -> "subprocess.Popen[str]":
    given = json.dumps({f"{stage}_spec": json.dumps(spec) for stage, spec in specs.items()})
    return subprocess.Popen(
        [sys.executable, "-m", "tests.pipelines.mini", str(repository.root), str(repository.results), given],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def diary_lines(repository: MiniRepository) -> list[str]:
    file = repository.root / "diary.txt"
    return file.read_text().splitlines() if file.exists() else []


def steps_done(repository: MiniRepository) -> int:
    found = list(repository.results.glob("pipeline/left/*/data/step"))
    return int(found[0].read_text() or 0) if found else 0


@pytest.mark.slow
def test_a_killed_runner_leaves_no_task_and_the_next_run_continues(repository: MiniRepository) -> None:
    spec = {"steps": 100, "step_s": 0.05, "child": True}
    runner = drive(repository, left=spec)
    wait_for(lambda: steps_done(repository) >= 3)
    runner.kill()
    runner.communicate()
    processes = [int(line.split()[-1]) for line in diary_lines(repository) if line.startswith(("left", "child"))]
    assert len(processes) == 2
    wait_for(lambda: not any(alive(pid) for pid in processes))
    done = steps_done(repository)
    assert 3 <= done < 100

    again = drive(repository, left=spec)
    said, _ = again.communicate(timeout=60)
    assert again.returncode == 0
    assert "make   cached" in said
    assert "left   continuing an interrupted left" in said
    assert any(line.startswith(f"left starts at step {done},") for line in diary_lines(repository))
    records = [json.loads(path.read_text()) for path in sorted((repository.results / "runs").glob("*.json"))]
    assert [record["state"] for record in records] == ["killed", "done"]
    assert records[0]["stages"]["left"]["state"] == "killed"
    assert records[1]["stages"]["left"]["state"] == "continued"


@pytest.mark.slow
def test_an_interrupted_attempt_stays_when_the_spec_changes_and_is_continued_when_it_changes_back(
    repository: MiniRepository,
) -> None:
    spec = {"steps": 3, "exit": 3}
    folder = repository.run(left=spec).tasks["left"].folder
    assert folder is not None
    (folder / ".DS_Store").touch()
    assert states(repository.run(left={"steps": 2}))["left"] == "ran"
    stays = f"left   an interrupted attempt with other inputs stays in {shown(folder)}"
    assert f"{stays}; a run with those inputs continues it\n" in repository.said
    repository.run(left=spec)
    assert "left   continuing an interrupted left" in repository.said
    assert any(line.startswith("left starts at step 3,") for line in diary_lines(repository))


def test_a_second_runner_is_refused_by_name(repository: MiniRepository) -> None:
    root = repository.results / "pipeline"
    with locked(root, user="a pipeline run"):
        started = json.loads((root / ".lock").read_text())["since"]
        with pytest.raises(FolderInUse) as caught:
            repository.run()
    assert str(caught.value) == (
        f"{root}: another process is using this results folder\n"
        f"  found: a pipeline run, process {os.getpid()} on {socket.gethostname()}, since {started}\n"
        "  want:  wait until it ends, stop it, or choose another folder with results_dir"
    )
    assert repository.run().exit_status == 0


@pytest.mark.slow
def test_every_stage_that_ran_has_a_nested_mlflow_run(repository: MiniRepository, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def run(**specs: dict[str, object]) -> RunReport:
        tracking = open_pipeline_run(
            tracking_uri=uri,
            experiment="mini",
            run_name="mini",
            tags={},
            params={"k": 1},
            results_dir=repository.results,
        )
        report = repository.run(tracking=tracking, **specs)  # type: ignore[arg-type]
        tracking.finish("FINISHED" if report.exit_status == 0 else "FAILED")
        return report

    run()
    run(right={"exit": 1})

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("mini").experiment_id], order_by=["start_time ASC"])
    first, second = (run for run in found if "mlflow.parentRunId" not in run.data.tags)

    def nested(parent: object) -> dict[str, str]:
        ours = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]  # type: ignore[attr-defined]
        return {run.info.run_name: run.info.status for run in ours}

    assert nested(first) == dict.fromkeys(["make", "left", "right", "join"], "FINISHED")
    assert nested(second) == {"right": "FAILED"}
    assert {key for key in second.data.tags if key.startswith("cached.")} == {"cached.make", "cached.left"}
