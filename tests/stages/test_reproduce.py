"""What is compared and refused; tests/e2e/test_reproduce.py runs a pipeline again."""

import json
from pathlib import Path

import pytest

from reid.errors import ArtifactError, PipelineError, SpecError
from reid.files.surroundings import as_tags, from_tags, surroundings
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


def test_threads_are_those_of_the_run_and_nothing_else_is_taken_from_its_record(tmp_path):
    record = write_run(tmp_path, threads="OMP_NUM_THREADS=3, LD_PRELOAD=/evil.so")
    assert threads_of(read_run(str(record), scratch=tmp_path)) == {"OMP_NUM_THREADS": "3"}


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
