"""The closing summary in 80 and 120 columns, and in a file."""

import io
from pathlib import Path

import pytest

from pipelines.local.run_report import RunReport, TaskReport
from pipelines.local.task_files import Artifact, Outputs
from pipelines.summary import print_summary, retrieval_table

FIGURES = {
    "mAP": 0.5712,
    "rank1": 0.8,
    "rank5": 0.9,
    "rank10": 1.0,
    "untrained_mAP": 0.0951,
    "untrained_rank1": 0.2,
    "reranked_mAP": 0.66,
    "reranked_rank1": 0.82,
}


def outputs(metrics: dict[str, float], *lines: str) -> Outputs:
    artifacts = {
        "data": Artifact(Path("/x"), "system.Artifact", {"lines": list(lines)}),
        "metrics": Artifact(Path("/x"), "system.Metrics", metrics),
    }
    return Outputs({}, artifacts)


def report() -> RunReport:
    tasks = [
        TaskReport("validate", "ran", 2.2, Path("/x"), outputs({"train_images": 1455.0})),
        TaskReport("train", "continued", 185.0, Path("/x"), outputs({}, "best mAP 57.1 after epoch 25 of 25, " * 3)),
        TaskReport("evaluate", "cached", 0.0, Path("/x"), outputs(FIGURES, "mAP 57.1")),
        TaskReport("export", "ran", 9.0, Path("/x"), outputs({"parity_worst_cosine": 0.9999998})),
        TaskReport(
            "gen_trt_engine", "ran", 4.0, Path("/x"), outputs({"engine_built": 0.0}, "not built: no TensorRT here")
        ),
        TaskReport("inference", "failed", 1.0),
        TaskReport("register", "not run"),
    ]
    return RunReport({task.stage: task for task in tasks}, 200.0, 1)


def summary(columns: int, results: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = io.StringIO()
    print_summary(report(), results_dir=results, mlflow="make mlflow-ui", stream=stream)
    return stream.getvalue()


@pytest.mark.parametrize("columns", [80, 120])
def test_a_piped_summary_is_plain_text_that_fits(columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = summary(columns, tmp_path / "results", monkeypatch)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= columns


def test_every_stage_has_its_state_its_time_and_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        line.split()[0]: " ".join(line.split()) for line in summary(120, tmp_path, monkeypatch).splitlines() if line
    }
    assert rows["validate"] == "validate ran 2s train_images 1455"
    assert rows["train"].startswith("train continued 3m05s best mAP 57.1 after epoch 25 of 25")
    assert rows["evaluate"] == "evaluate cached mAP 57.1"
    assert rows["inference"] == "inference failed 1s"
    assert rows["register"] == "register not run"


def test_retrieval_is_shown_in_percent_before_and_after_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [" ".join(line.split()) for line in summary(80, tmp_path, monkeypatch).splitlines()]
    start = lines.index("retrieval, % mAP rank-1 rank-5 rank-10")
    assert lines[start + 2 : start + 7] == [
        "before training 9.5 20.0",
        "after training 57.1 80.0 90.0 100.0",
        "after training, re-ranked 66.0 82.0",
        "",
        "ONNX parity worst cosine to torch 0.9999998",
    ]
    assert "TensorRT engine not built: no TensorRT here" in lines


def test_further_test_sets_have_rows_of_their_own_names() -> None:
    figures = {"mAP": 0.5, "rank1": 0.6, "mAP_shop": 0.25, "rank1_shop": 0.125, "reranked_mAP_shop": 0.75}
    rows = retrieval_table(figures)
    names, mAPs, rank1s = (list(column.cells) for column in rows.columns[:3])
    assert names == ["after training", "shop", "shop, re-ranked"]
    assert (mAPs, rank1s) == (["50.0", "25.0", "75.0"], ["60.0", "12.5", ""])


def test_intervals_stand_below_their_figures_and_are_no_test_sets() -> None:
    ends = {"mAP_low": 0.4, "mAP_high": 0.6, "mAP_low_shop": 0.125, "mAP_high_shop": 0.375}
    rows = retrieval_table({"mAP": 0.5, "rank1": 0.75, "mAP_shop": 0.25, **ends})
    names, mAPs = (list(column.cells) for column in rows.columns[:2])
    assert names == ["after training", "shop", "shop, re-ranked"]
    assert mAPs == ["50.0\n40.0\u201360.0", "25.0\n12.5\u201337.5", ""]


def test_only_what_is_there_is_named_with_the_command_that_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "latest" / "train" / "model").mkdir(parents=True)
    (tmp_path / "results" / "latest" / "inference").mkdir(parents=True)
    (tmp_path / "results" / "latest" / "inference" / "embeddings.json").write_text("[]")  # of an earlier run
    lines = summary(80, tmp_path / "results", monkeypatch).splitlines()
    assert lines[-4:] == [
        "model        ls -lh results/latest/train/model",
        "logs         less results/latest/STAGE/log.txt",
        "MLflow runs  make mlflow-ui",
        "",
    ]
