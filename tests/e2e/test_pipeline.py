"""The whole pipeline on drawn data, run as a user runs it: one tiny run, what a second one uses again, and a kill."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from reid.cli.commands import main
from reid.cli.tasks import make_servable
from reid.spec import load_spec
from reid.stages.adopt import adopted_name
from reid.tracking.store import CONTINUED, PARENT, connect

SPEC = """
results_dir: {folder}/results
model: {{backbone: timm/test_resnet, pretrain_choice: "", input_width: 32, input_height: 64, feat_dim: null}}
dataset:
  synthetic: {{root: {folder}/data, train_persons: 12, test_persons: 8, distractors: 4, junk: 3, images_per_camera: 2}}
  num_classes: 12
  batch_size: 16
  padding: 4
re_ranking: {{k1: 8, k2: 3}}
train: {{num_epochs: 2, optim: {{name: AdamW, base_lr: 0.002}}}}
mlflow: {{experiment: e2e, registered_model: reid-e2e}}
"""
STAGES = ["validate", "manifest", "train", "evaluate", "export", "inference", "gen_trt_engine", "register"]


@dataclass
class Workplace:
    """A folder with a spec, its results and an MLflow store."""

    folder: Path

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def environment(self) -> dict[str, str]:
        return {"MLFLOW_TRACKING_URI": self.tracking_uri, "COLUMNS": "100", "OMP_NUM_THREADS": "1"}

    def newest_record(self) -> Path:
        return max((self.folder / "results" / "runs").glob("*.json"))

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pipelines.run", "--spec", str(self.folder / "tiny.yaml"), *overrides]
        command += ["--runner", "process"]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **self.environment},
            start_new_session=True,
        )

    def run(self, *overrides: str) -> str:
        process = self.start(*overrides)
        text, _ = process.communicate(timeout=500)
        assert process.returncode == 0, text
        return text

    def latest(self, stage: str, name: str) -> Path:
        return self.folder / "results" / "latest" / stage / name


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("pipeline"))
    (place.folder / "tiny.yaml").write_text(SPEC.format(folder=place.folder), encoding="utf-8")
    return place


def states(text: str) -> dict[str, str]:
    """stage -> state, out of the closing table."""
    table = text.split("\nstage ", 1)[1]
    rows = (re.match(r"(\w+) +(ran|cached|continued|failed|stopped|not run) ", line) for line in table.splitlines())
    return {row[1]: row[2] for row in rows if row}


def check_that_a_task_finds_the_model(workplace: Workplace) -> None:
    """The run after it shows that this leaves the pipeline's results as they are."""
    command = [sys.executable, "-m", "reid", "triton", "-e", str(workplace.folder / "tiny.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    onnx = workplace.latest("export", "model.onnx")
    assert f"the ONNX is that of the pipeline, {onnx.resolve()}" in done.stderr
    served = workplace.folder / "results/triton/model_repository/re_identification_tao/1/model.onnx"
    assert served.read_bytes() == onnx.read_bytes()


def test_the_pipeline_runs_and_a_second_run_takes_all_but_the_validation_from_the_first(workplace: Workplace) -> None:
    first = workplace.run()
    assert states(first) == dict.fromkeys(STAGES, "ran")
    check_what_is_printed(first)
    check_results(workplace)
    check_mlflow(workplace)
    check_that_a_task_finds_the_model(workplace)
    started = time.monotonic()
    assert states(workplace.run()) == {stage: "ran" if stage == "validate" else "cached" for stage in STAGES}
    assert time.monotonic() - started < 30


def check_what_is_printed(text: str) -> None:
    for wanted in (
        "before training, re-ranked",
        "after training, re-ranked",
        "rank-10",
        "ONNX parity",
        "TensorRT engine",
    ):
        assert wanted in text
    for wanted in ("report.html", "model.onnx", "embeddings.json", "log.txt", "mlflow ui"):
        assert wanted in text


def check_results(workplace: Workplace) -> None:
    figures = json.loads(workplace.latest("evaluate", "metrics.json").read_text())
    for name in ("mAP", "rank1", "reranked_mAP", "untrained_mAP", "untrained_reranked_rank10", "mINP"):
        assert 0 <= figures[name] <= 1
    rows = json.loads(workplace.latest("inference", "embeddings.json").read_text())
    data = workplace.folder / "data"
    files = [path for split in ("query", "bounding_box_test") for path in sorted((data / split).iterdir())]
    assert [row["img_path"] for row in rows] == [str(path) for path in files]
    assert {len(row["embedding"]) for row in rows} == {96}
    build = json.loads((workplace.latest("gen_trt_engine", "engine") / "build.json").read_text())
    assert build["built"] or build["reason"]
    assert workplace.latest("export", "model.onnx").stat().st_size > 100_000
    checkpoints = {path.name for path in workplace.latest("train", "model").glob("*.pth")}
    assert checkpoints == {
        "model_epoch_000.pth", "model_epoch_001.pth", "reid_model_latest.pth", "reid_model_best.pth"
    }  # fmt: skip


def check_mlflow(workplace: Workplace) -> None:
    client = connect(workplace.tracking_uri)
    experiment = client.get_experiment_by_name("e2e")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if PARENT not in run.data.tags]
    nested = {run.info.run_name: run for run in runs if PARENT in run.data.tags}
    assert sorted(nested) == sorted(STAGES)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent.data.params["re_ranking.k1"] == "8"
    assert [entry.dataset.name for entry in parent.inputs.dataset_inputs] == ["data"]
    assert parent.data.metrics["mAP"] == nested["evaluate"].data.metrics["mAP"]
    losses = client.get_metric_history(nested["train"].info.run_id, "train_loss")
    assert sorted(row.step for row in losses if row.step) == [1, 2]
    artifacts = [entry.path for entry in client.list_artifacts(nested["evaluate"].info.run_id, "evaluate")]
    assert {"evaluate/report.html", "evaluate/cmc_curve.png"} <= set(artifacts)
    version = client.get_model_version_by_alias("reid-e2e", "champion")
    assert version.tags["fingerprint"]


@pytest.mark.slow
def test_a_changed_setting_runs_what_depends_on_it(workplace: Workplace) -> None:
    workplace.run()
    again = {"validate", "evaluate", "register"}
    assert states(workplace.run("re_ranking.k1=9")) == {
        stage: "ran" if stage in again else "cached" for stage in STAGES
    }


@pytest.mark.slow
def test_no_task_writes_into_the_results_of_the_pipeline(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Export, what start_server does first, and adopt, of the pipeline's checkpoint, by the spec and by its path."""
    workplace.run()
    spec, before = workplace.folder / "tiny.yaml", contents(workplace.folder / "results/pipeline")
    checkpoint = workplace.latest("train", "model").resolve() / "reid_model_best.pth"
    assert main(["export", "-e", str(spec)]) == 0
    assert main(["export", "-e", str(spec), f"export.checkpoint={checkpoint}"]) == 0
    elsewhere = f"results_dir={workplace.folder}/served"
    make_servable(load_spec(spec, overrides=[elsewhere, f"export.checkpoint={checkpoint}", "triton.backend=python"]))
    for file in (checkpoint, workplace.latest("export", "model.onnx").resolve()):
        assert main(["adopt", "-e", str(spec), str(file)]) == 2  # it is this project's own
        assert not adopted_name(file).exists()
    capsys.readouterr()
    assert contents(workplace.folder / "results/pipeline") == before


def contents(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file below the folder, its size and its time."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@pytest.mark.slow
def test_a_run_is_reproduced_to_the_last_bit(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    workplace.run()
    run_id = json.loads(workplace.newest_record().read_text())["mlflow_run_id"]
    for name, value in workplace.environment.items():
        monkeypatch.setenv(name, value)
    assert main(["reproduce", run_id, "--check"]) == 0
    said = capfd.readouterr().out
    assert "  nothing is known to differ\n  note: OMP_NUM_THREADS=1 is set as it was\n" in said
    assert main(["reproduce", run_id, "--results", str(workplace.folder / "again")]) == 0
    assert re.search(r"\nreproduced: \d\d+ numbers of 7 stages are equal to the last bit\n", capfd.readouterr().out)


@pytest.mark.slow
def test_a_changed_image_runs_everything_again_and_forbids_to_reproduce_the_run_before(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    workplace.run()
    record = workplace.newest_record()
    image = sorted((workplace.folder / "data" / "query").iterdir())[0]
    Image.open(image).rotate(3).save(image, quality=90)
    assert main(["reproduce", str(record)]) == 2
    refused = f"error: {record}: cannot be reproduced here, for these differ: data_fingerprint\n"
    assert refused in capsys.readouterr().err
    assert states(workplace.run()) == dict.fromkeys(STAGES, "ran")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_training_that_was_cut_short_is_continued(workplace: Workplace, number: signal.Signals) -> None:
    results = workplace.folder / f"results-{int(number)}"
    overrides = ["train.num_epochs=30", f"results_dir={results}"]
    process = workplace.start(*overrides)
    log = results / "latest" / "train" / "log.txt"
    deadline = time.monotonic() + 240
    done = 0
    while time.monotonic() < deadline and done < 3:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
        done = len(re.findall(r"epoch \d+/30: loss", log.read_text())) if log.exists() else 0
    os.kill(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
    text = workplace.run(*overrides)
    assert "continuing an interrupted train" in text
    assert states(text)["train"] == "continued"
    continued = re.search(r"continuing from epoch (\d+) of 30", log.read_text())
    assert continued is not None
    # an epoch's checkpoint is written while the next one runs; Ctrl-C waits for it
    assert int(continued[1]) >= (done - 1 if number == signal.SIGKILL else done) >= 2
    client = connect(workplace.tracking_uri)
    places = [client.get_experiment_by_name("e2e").experiment_id]
    parent = json.loads(sorted((results / "runs").glob("*.json"))[-1].read_text())["mlflow_run_id"]
    (run,) = client.search_runs(places, f"tags.`{PARENT}` = '{parent}' and tags.stage = 'train'")
    assert run.data.tags[CONTINUED]
    for run_id, name in ((run.info.run_id, "train_loss"), (parent, "train/train_loss")):
        assert sorted(row.step for row in client.get_metric_history(run_id, name)) == list(range(1, 31))


@pytest.mark.slow
def test_the_demo_learns_within_five_minutes(tmp_path: Path) -> None:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    overrides = [f"results_dir={tmp_path}/results", f"dataset.synthetic.root={tmp_path}/data"]
    options = ["--spec", "demo", "--runner", "process"]
    command: Sequence[str] = [sys.executable, "-m", "pipelines.run", *options, *overrides]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "results/latest/evaluate/metrics.json").read_text())
    assert figures["mAP"] >= 0.50  # the goal; seen: 0.65 plain and 0.84 re-ranked
    assert figures["mAP"] - figures["untrained_mAP"] >= 0.30
    print(done.stdout[-400:])  # noqa: T201 - how long it took is this machine's; pytest shows it with -rA
