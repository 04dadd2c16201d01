"""What is compared and refused; tests/e2e/test_pipeline.py runs a pipeline again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reid.errors import ArtifactError, PipelineError, SpecError
from reid.files.surroundings import THREADS, as_tags, from_tags, surroundings
from reid.stages.reproduce import (
    Fact,
    compare_numbers,
    differences_of_surroundings,
    require_reproducible,
    run_again,
    threads_of,
)
from reid.stages.reproduced_run import read_run


def write_run(folder: Path, **changes: str) -> Path:
    """The record of a run on no data, with its spec and a finished stage."""
    stage = folder / "pipeline" / "evaluate" / "key"
    stage.mkdir(parents=True)
    metrics = {"metadata": {"mAP": 0.1 + 0.2, "lines": ["a text"]}}
    (stage / "task.json").write_text(json.dumps({"artifacts": {"metrics": metrics}}))
    record = {"stages": {"evaluate": {"folder": str(stage)}}, "surroundings": surroundings() | changes}
    (folder / "runs" / "one").mkdir(parents=True)
    (folder / "runs" / "one.json").write_text(json.dumps(record))
    (folder / "runs" / "one" / "spec.yaml").write_text(f"results_dir: {folder}\n")
    return folder / "runs" / "one.json"


def test_the_surroundings_say_what_decides_a_number_and_travel_as_tags():
    found = surroundings()
    assert len(found["code_sha256"]) == len(found["lock_sha256"]) == 64
    assert "torch 2." in found["packages"]
    assert int(found["cores"]) >= 1
    assert from_tags({**as_tags(found), "another": "tag"}) == {name: value for name, value in found.items() if value}


def test_only_numbers_count_equal_means_to_the_last_bit_and_times_are_left_out():
    before = {"evaluate": {"mAP": 0.1 + 0.2, "rank1": 0.5, "rerank_seconds": 1.0, "images_per_second": 9.0, "old": 1.0}}
    now = {"evaluate": {"mAP": 0.3, "rank1": 0.5, "rerank_seconds": 2.0, "images_per_second": 8.0}}
    found = {one.name: one for one in compare_numbers(before, now)}
    assert sorted(found) == ["mAP", "old", "rank1"]
    assert [found[name].equal for name in ("mAP", "rank1", "old")] == [False, True, False]
    assert found["mAP"].relative == pytest.approx(1.85e-16, rel=0.01)


def test_a_record_has_its_numbers_its_spec_and_its_surroundings(tmp_path):
    run = read_run(str(write_run(tmp_path)), scratch=tmp_path)
    assert run.numbers == {"evaluate": {"mAP": 0.1 + 0.2}}
    facts, notes = differences_of_surroundings(run)
    assert facts == []
    assert "the run's data fingerprint is not known" in notes


def test_other_code_is_refused_and_another_machine_is_said(tmp_path):
    record = write_run(tmp_path, cpu="a VAX", code_sha256="0" * 64)
    run = read_run(str(record), scratch=tmp_path)
    facts, _ = differences_of_surroundings(run)
    assert {fact.name: fact.decides for fact in facts} == {"cpu": False, "code_sha256": True}
    with pytest.raises(ArtifactError) as caught:
        require_reproducible(run, facts, anyway=False)
    assert str(caught.value) == (
        f"{record}: cannot be reproduced here, for these differ: code_sha256\n"
        "  want: the same code, packages and data (git checkout, make setup); or --anyway, to see how much changes"
    )
    require_reproducible(run, facts, anyway=True)
    require_reproducible(run, [Fact("cpu", "a VAX", "another")], anyway=False)


def test_threads_are_those_of_the_run_and_nothing_else_is_taken_from_its_record(tmp_path, monkeypatch):
    record = write_run(tmp_path, threads="OMP_NUM_THREADS=3, LD_PRELOAD=/evil.so")
    run = read_run(str(record), scratch=tmp_path)
    assert threads_of(run) == {"OMP_NUM_THREADS": "3"}
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "5")
    facts, notes = differences_of_surroundings(run)
    assert facts == []
    assert notes[:2] == ["OMP_NUM_THREADS=3 is set as it was", "MKL_NUM_THREADS is not set, as it was"]


@pytest.mark.slow
def test_ctrl_c_lets_the_pipeline_end_its_run_first(tmp_path):
    pipeline = (
        "import pathlib, time\n"
        "try:\n  print('up', flush=True); time.sleep(60)\n"
        f"except KeyboardInterrupt:\n  time.sleep(1); pathlib.Path({str(tmp_path / 'ended')!r}).touch()"
    )
    code = (
        "import os, sys; from reid.stages.reproduce import _finish\n"
        f"try: _finish([sys.executable, '-c', {pipeline!r}], os.environ)\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 130
    assert (tmp_path / "ended").exists()


def test_an_encrypted_run_needs_a_key(tmp_path, monkeypatch):
    monkeypatch.delenv("REID_ENCRYPTION_KEY", raising=False)
    record = write_run(tmp_path, encrypted="yes")
    with pytest.raises(SpecError) as caught:
        require_reproducible(read_run(str(record), scratch=tmp_path), [], anyway=True)
    assert str(caught.value) == f"{record}: its checkpoints were encrypted\n  want: a key in REID_ENCRYPTION_KEY"


def test_what_is_no_run_and_where_none_can_run_is_said(tmp_path, monkeypatch):
    record = write_run(tmp_path)
    with pytest.raises(ArtifactError) as caught:
        read_run("nothing", scratch=tmp_path)
    assert str(caught.value) == (
        "nothing: no such file, and no id of a run\n"
        "  want: the id of a pipeline's MLflow run (32 characters), or its record, results_dir/runs/TIME.json"
    )
    run = read_run(str(record), scratch=tmp_path)
    with pytest.raises(ArtifactError, match="is not empty\n  want: a new folder"):
        run_again(run, tmp_path)
    monkeypatch.setattr("reid.stages.reproduce.ROOT", tmp_path)
    with pytest.raises(PipelineError) as said:
        run_again(run, tmp_path / "new")
    assert (
        str(said.value) == f"{tmp_path}: no checkout of this project, so no pipeline to run\n  want: reid of a checkout"
    )
    (tmp_path / "runs" / "one" / "spec.yaml").unlink()
    with pytest.raises(ArtifactError, match=r"spec\.yaml beside it"):
        read_run(str(record), scratch=tmp_path)
