"""What the pipeline costs beside its work: imports of each stage, compilation, orchestration, MLflow.

A tiny pipeline run, cold, in which every process notes its imports (Python's own PYTHONPROFILEIMPORTTIME); then once
more without. The work of the tiny stages themselves counts, so the sum is an upper bound.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.bench.rows import ROOT, Row, row, seconds

STAGES = ("validate", "train", "evaluate", "export", "inference", "gen_trt_engine", "register")
IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)")
SPEC = """
results_dir: {folder}/results
model: {{backbone: timm/test_resnet, pretrain_choice: "", input_width: 32, input_height: 64, feat_dim: null}}
dataset:
  synthetic: {{root: {folder}/data, train_persons: 12, test_persons: 8, distractors: 4, junk: 3, images_per_camera: 2}}
  num_classes: 12
  batch_size: 16
  padding: 4
re_ranking: {{k1: 8, k2: 3}}
train: {{num_epochs: 1, optim: {{name: AdamW, base_lr: 0.002}}}}
mlflow: {{experiment: bench, registered_model: reid-bench}}
"""


def measure() -> list[Row]:
    """The rows of this part."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tiny.yaml").write_text(SPEC.format(folder=folder), encoding="utf-8")
        run(folder, PYTHONPROFILEIMPORTTIME="1", NUMBA_CACHE_DIR=f"{folder}/numba")
        rows = [_imports(stage, folder / "results" / "latest" / stage / "log.txt") for stage in STAGES]
        total = sum(found["value"] for found in rows)
        rows.append(row("start-up", "imports, all stages", total, "s"))
        cold = _again(folder, f"{folder}/numba-cold")
        warm = _again(folder, f"{folder}/numba")
        rows.append(
            row("start-up", "a tiny pipeline run, cold", cold["cpu"], "s", limit=45.0, limit_is="the goal",
                note=f"CPU seconds of all processes, the tiny work included; {cold['wall']:.0f} s")
        )  # fmt: skip
        rows.append(row("start-up", "of it, compiling kernels", max(cold["cpu"] - warm["cpu"], 0.0), "s"))
        rows += _logging(folder)
    return rows


def run(folder: Path, **environment: str) -> None:
    """The tiny pipeline of the folder's tiny.yaml, tracked in the folder."""
    command = [sys.executable, "-m", "pipelines.run", "--spec", str(folder / "tiny.yaml")]
    tracking = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | tracking | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def _again(folder: Path, kernels: str) -> dict[str, float]:
    """Wall and CPU seconds of a run that finds nothing but the data set and, if anything, compiled kernels."""
    subprocess.run(["rm", "-rf", f"{folder}/results", f"{folder}/mlflow.db"], check=True)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run(folder, NUMBA_CACHE_DIR=kernels)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.perf_counter() - began, "cpu": cpu}


def _imports(stage: str, log: Path) -> Row:
    """Seconds that a stage's process spent in import statements, and where most of them went."""
    spent: Counter[str] = Counter()
    for microseconds, module in IMPORT_LINE.findall(log.read_text(encoding="utf-8", errors="replace")):
        spent[module.split(".")[0]] += int(microseconds)
    most = ", ".join(f"{module} {microseconds / 1e6:.1f}" for module, microseconds in spent.most_common(4))
    return row("start-up", f"imports of {stage}", sum(spent.values()) / 1e6, "s", note=most)


def _logging(folder: Path) -> list[Row]:
    """One figure to MLflow on SQLite, waited for and not."""
    from reid.tracking import StageRun, connect

    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    uri = f"sqlite:///{folder}/logging.db"
    client = connect(uri)
    experiment = client.create_experiment("bench", artifact_location=f"file://{folder}/artifacts")
    run = StageRun("train", client, client.create_run(experiment).info.run_id, uri)
    waited = seconds(lambda: run.log_outcome({"loss": 1.0}), repeat=20)
    queued = seconds(lambda: run.log_metrics({f"loss{number}": 1.0 for number in range(10)}, 1), repeat=20)
    run.flush()
    return [
        row("start-up", "MLflow: ten figures of an epoch, queued", 1000 * queued, "ms",
            textbook=10_000 * waited, textbook_is="ten calls that wait", note="what a training waits for logging")
    ]  # fmt: skip
