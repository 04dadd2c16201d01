"""Sides are folders, files and MLflow runs; the store is MLflow's own, on SQLite."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reid.errors import ArtifactError, DatasetError, TrackingError
from reid.scoring.per_query import PER_QUERY
from reid.stages.compare import add_to_mlflow, as_json, compare, write_page
from reid.stages.compare_sides import local_store
from reid.tracking.pipeline_run import open_pipeline_run
from reid.tracking.stage_run import stage_run
from reid.tracking.store import connect
from tests.per_query_files import write_per_query
from tests.small_market import write_image

BEFORE = np.linspace(0.2, 0.7, 40)
IMAGES = {"evaluated_images": "e" * 64, "gallery": 900.0, "headline": "plain"}


def sides(folder: Path, change: float = 0.03, **about: object) -> tuple[str, str]:
    first = write_per_query(folder / "a" / PER_QUERY, BEFORE, root="/there", **IMAGES)
    second = write_per_query(folder / "b" / PER_QUERY, BEFORE + change, **(IMAGES | about))
    return str(first.parent), str(second.parent)


def test_a_folder_that_is_better_is_said_to_be_and_which_queries_it_won(tmp_path):
    found = compare(*sides(tmp_path))
    assert found.verdict.in_words() == "B is better: mAP +3.00 (+3.00 to +3.00)"
    assert (found.queries, found.persons, found.won, found.lost) == (40, 40, 40, 0)
    assert len(found.moved) == 12
    assert [row.camera for row in found.cameras] == [1, 2]
    assert found.notes == ["the spec of A and B is not known, so no fields are compared"]
    said = json.loads(as_json(found))
    assert said["b_is_better"]
    assert said["figures"]["mAP"]["low"] == pytest.approx(0.03)
    assert len(said["largest_changes"]) == 12


def test_the_headline_of_b_decides_unless_a_figure_is_asked_for(tmp_path):
    first, second = sides(tmp_path, headline="reranked")
    assert compare(first, second).headline == "reranked_mAP"
    assert compare(first, second, figure="rank1").headline == "rank1"


def test_other_images_are_refused(tmp_path):
    for about, said in (
        ({"evaluated_images": "f" * 64, "gallery": 901.0}, f"  B: 901 gallery images, hash {'f' * 12}\n"),
        ({"evaluated_images": "", "gallery": 901.0}, "A was measured on 900 gallery images and B on 901\n"),
    ):
        with pytest.raises(DatasetError) as caught:
            compare(*sides(tmp_path, **about))
        assert said in str(caught.value)
    first, _ = sides(tmp_path)
    fewer = write_per_query(tmp_path / "c" / PER_QUERY, BEFORE[:30])
    with pytest.raises(DatasetError, match="10 of A's 40 are not in B, 0 of B's 30 are not in A"):
        compare(first, str(fewer))


def test_a_table_alone_is_compared_by_its_names_and_the_result_says_so(tmp_path):
    first, second = sides(tmp_path)
    found = compare(f"{first}/{PER_QUERY}", second)
    assert found.notes[0] == "which images were evaluated is not known of A: only the queries' names were compared"


def test_few_persons_and_equal_values_are_noted(tmp_path):
    first = write_per_query(tmp_path / "a" / PER_QUERY, BEFORE, persons=5, **IMAGES)
    second = write_per_query(tmp_path / "b" / PER_QUERY, BEFORE, persons=5, **IMAGES)
    found = compare(str(first), str(second))
    assert found.verdict.standing == 0
    assert "only 5 persons: with fewer than 6 no difference can be shown" in found.notes
    assert "every query has the same value in A and in B" in found.notes


def test_one_person_gives_no_interval_and_no_verdict(tmp_path):
    files = [
        str(write_per_query(tmp_path / name / PER_QUERY, BEFORE + add, persons=1, **IMAGES))
        for name, add in (("a", 0), ("b", 0.1))
    ]
    found = compare(*files)
    assert found.verdict.in_words() == "no difference shown: mAP +10.00 (one person, so no interval)"
    assert json.loads(as_json(found))["figures"]["mAP"]["low"] is None
    write_page(found, tmp_path / "page.html")
    assert "nan" not in (tmp_path / "page.html").read_text()


def test_a_side_that_is_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    first, _ = sides(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "two" / "latest").mkdir(parents=True)
    write_per_query(tmp_path / "two" / "evaluate" / PER_QUERY, BEFORE)
    write_per_query(tmp_path / "two" / "latest" / "evaluate" / "results" / PER_QUERY, BEFORE)
    for given, kind, said in (
        (first, ArtifactError, f"{first} and {first}: A and B are the same\n  want: two evaluations"),
        (
            str(tmp_path / "empty"),
            ArtifactError,
            f"{tmp_path / 'empty'}: no per_query.csv in it\n"
            "  want: a folder of evaluate's results, of a pipeline's latest/evaluate, or a results_dir with one "
            "of them",
        ),
        (
            str(tmp_path / "two"),
            ArtifactError,
            f"{tmp_path / 'two'}: evaluations in {tmp_path / 'two/latest/evaluate/results'} and in "
            f"{tmp_path / 'two/evaluate'}\n  want: one of these folders",
        ),
        (
            "nothing",
            ArtifactError,
            "nothing: no such folder or file, and no id of a run\n"
            "  want: a folder of results with a per_query.csv, such a file, or the id of an MLflow run (32 characters)",
        ),
    ):
        with pytest.raises(kind) as caught:
            compare(first, given)
        assert str(caught.value) == said


def test_without_a_store_a_run_cannot_be_looked_up(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("reid.stages.compare_sides.ROOT", tmp_path)
    with pytest.raises(TrackingError) as caught:
        local_store()
    assert str(caught.value) == (
        f"no MLflow store: MLFLOW_TRACKING_URI is not set, and there is no {tmp_path}/results/mlflow.db\n"
        "  want: the address of the store that knows the run, or folders of results in place of run ids"
    )


def test_the_results_of_a_pipeline_know_their_spec_and_their_surroundings(tmp_path):
    def pipeline(name: str, k1: int, cpu: str) -> str:
        results = tmp_path / name
        stage = results / "pipeline" / "evaluate" / "key"
        write_per_query(stage / "results" / PER_QUERY, BEFORE + k1 / 1000, **IMAGES)
        (results / "latest").mkdir()
        (results / "latest" / "evaluate").symlink_to(stage)
        record = {"stages": {"evaluate": {"folder": str(stage)}}, "surroundings": {"cpu": cpu, "python": "3.11"}}
        (results / "runs" / "one").mkdir(parents=True)
        (results / "runs" / "one.json").write_text(json.dumps(record))
        (results / "runs" / "zero.json").write_text("{cut")
        (results / "runs" / "one" / "spec.yaml").write_text(f"results_dir: {results}\nre_ranking: {{k1: {k1}}}\n")
        return str(results)

    found = compare(pipeline("one", 20, "this"), pipeline("two", 25, "that"))
    assert found.spec == [("re_ranking.k1", "20", "25")]
    assert found.lineage == [("cpu", "this", "that")]
    assert found.notes == []


def test_the_page_shows_pictures_if_the_images_are_here_and_escapes_what_it_names(tmp_path):
    first, _ = sides(tmp_path)
    second = write_per_query(tmp_path / "b" / PER_QUERY, BEFORE + 0.03, root=str(tmp_path / "<i>data"), **IMAGES)
    for line in second.read_text().splitlines()[-3:]:
        write_image(Path(line.split(",")[0]))
        write_image(Path(line.split(",")[5]))
    write_page(compare(first, str(second)), tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "<h1>B is better</h1>" in html
    assert 2 <= html.count("data:image/jpeg") <= 6
    assert "<i>data" not in html
    assert "mAP +3.00 (+3.00 to +3.00) points, 95 % interval." in html


class Runs:
    """Pipeline runs in an MLflow store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, f"sqlite:///{folder}/mlflow.db"

    def add(self, name: str, precision: np.ndarray, *, monkeypatch: pytest.MonkeyPatch, k1: int = 20) -> str:
        results = self.folder / name
        pipeline = open_pipeline_run(
            tracking_uri=self.uri,
            experiment="e",
            run_name=name,
            tags={"reid.surroundings.cpu": name},
            params={"re_ranking": {"k1": k1, "re_ranking": False}},
            results_dir=results,
        )
        monkeypatch.setenv("MLFLOW_TRACKING_URI", self.uri)
        if len(precision):
            run_id = pipeline.start_stage("evaluate", results / "evaluate")
            monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
            with stage_run("evaluate", results / "evaluate") as run:
                run.log_params({"evaluated_images": "e"})
                run.log_artifact(write_per_query(results / "evaluate" / PER_QUERY, precision), "evaluate")
            pipeline.finish_stage(results / "evaluate", "FINISHED")
        else:  # the result of the run before is used again
            pipeline.copy_cached("evaluate", {"mAP": 0.5}, self.folder / "one" / "evaluate")
        pipeline.finish("FINISHED")
        return pipeline.run_id


@pytest.mark.slow
def test_runs_are_compared_by_their_ids_and_the_page_is_added_to_b(tmp_path, monkeypatch):
    runs = Runs(tmp_path)
    one = runs.add("one", BEFORE, monkeypatch=monkeypatch)
    two = runs.add("two", BEFORE + 0.02, monkeypatch=monkeypatch, k1=25)
    again = runs.add("again", BEFORE[:0], monkeypatch=monkeypatch)
    found = compare(one, two)
    assert found.verdict.in_words() == "B is better: mAP +2.00 (+2.00 to +2.00)"
    assert found.first.title == f"one, run {one}"
    assert found.spec == [("re_ranking.k1", "20", "25")]
    assert found.lineage == [("cpu", "one", "two")]
    write_page(found, tmp_path / "page.html")
    assert add_to_mlflow(found, tmp_path / "page.html") == f"in MLflow: run {two}, artifact compare/page.html"
    assert [file.path for file in connect(runs.uri).list_artifacts(two, "compare")] == ["compare/page.html"]
    assert "every query has the same value in A and in B" in compare(one, again).notes  # of the cached evaluation
    with pytest.raises(ArtifactError, match="A and B are the same"):
        compare(one, one)
    with pytest.raises(TrackingError) as caught:
        compare(one, "0" * 32)
    assert str(caught.value) == (
        f"run {'0' * 32}: not known to MLflow at {runs.uri}\n"
        "  want: the id of a run there, or another store in MLFLOW_TRACKING_URI"
    )
    gone = replace(found, second=replace(found.second, run_id="0" * 32))
    assert add_to_mlflow(gone, tmp_path / "page.html").startswith(f"not added to MLflow: MLflow at {runs.uri}: ")


@pytest.mark.slow
def test_a_server_that_is_away_is_an_error_and_no_traceback(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with pytest.raises(TrackingError) as caught:
        compare("0" * 32, "1" * 32)
    assert str(caught.value).startswith("MLflow at http://user:***@127.0.0.1:9: does not answer: ")
