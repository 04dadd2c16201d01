"""What the pipeline costs beside its work: imports of each stage, compilation, orchestration, MLflow.

A tiny pipeline run, cold; its own work counts, so its CPU time is an upper bound. Then once more with every process
noting its imports (Python's own PYTHONPROFILEIMPORTTIME: by the clock, so a busy machine makes them longer).
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.bench.rows import ROOT, Row, row, seconds

STAGES = ("validate", "manifest", "train", "evaluate", "export", "inference", "gen_trt_engine", "register")
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
KERNELS = """
import numpy as np
from reid.embeddings import Embeddings
from reid.scoring.ranking import score
from reid.scoring.verification import pair_counter
vectors = np.eye(9, dtype=np.float32)
person, camera = np.array([1, 2, 3, 1, 2, 3, 1, 2, 3]), np.array([1, 1, 1, 2, 2, 2, 2, 2, 2])
query, gallery = (Embeddings([""] * len(vectors[of]), person[of], camera[of], vectors[of])
                  for of in (slice(3), slice(3, None)))
score(query, gallery, k1=3, k2=2, lambda_value=0.3, max_rank=5, pairs=pair_counter(query, gallery),
      device="cpu", evaluate_device="cpu")
"""
"""Runs every kernel once."""


def measure() -> list[Row]:
    """The rows of this part."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tiny.yaml").write_text(SPEC.format(folder=folder), encoding="utf-8")
        cold, wall = _cpu_seconds(lambda: run(folder, NUMBA_CACHE_DIR=f"{folder}/numba"))
        subprocess.run(["rm", "-rf", f"{folder}/results", f"{folder}/mlflow.db"], check=True)
        run(folder, NUMBA_CACHE_DIR=f"{folder}/numba", PYTHONPROFILEIMPORTTIME="1")
        rows = [_imports(stage, folder / "results" / "latest" / stage / "log.txt") for stage in STAGES]
        kernels = [sys.executable, "-c", KERNELS]
        again = os.environ | {"NUMBA_CACHE_DIR": f"{folder}/kernels", "PYTHONPATH": str(ROOT)}
        first, later = (_cpu_seconds(lambda: subprocess.run(kernels, env=again, check=True))[0] for _ in range(2))
        return [
            row("start-up", "a tiny pipeline run, cold", cold, "s", limit=45.0, limit_is="the goal, less the work",
                note=f"CPU of all processes, the tiny work included; {wall:.0f} s by the clock"),
            row("start-up", "of it, compiling kernels", first - later, "s", note="CPU; once a machine"),
            *rows,
            *_logging(folder),
        ]  # fmt: skip


def _cpu_seconds(work: Callable[[], object]) -> tuple[float, float]:
    """User and system time of the processes that the work starts, and the time by the clock."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - began


def run(folder: Path, **environment: str) -> None:
    """The tiny pipeline of the folder's tiny.yaml, tracked in the folder."""
    command = [sys.executable, "-m", "pipelines.run", "--spec", str(folder / "tiny.yaml")]
    tracking = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | tracking | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def _imports(stage: str, log: Path) -> Row:
    """Seconds that a stage's process spent in import statements, and where most of them went."""
    spent: Counter[str] = Counter()
    for microseconds, module in IMPORT_LINE.findall(log.read_text(encoding="utf-8", errors="replace")):
        spent[module.split(".")[0]] += int(microseconds)
    most = ", ".join(f"{module} {microseconds / 1e6:.1f}" for module, microseconds in spent.most_common(4))
    return row("start-up", f"imports of {stage}", sum(spent.values()) / 1e6, "s", note=most)


def _logging(folder: Path) -> list[Row]:
    """One figure to MLflow on SQLite, waited for and not."""
    from reid.tracking.journal import Address
    from reid.tracking.outbox import Outbox
    from reid.tracking.stage_run import StageRun
    from reid.tracking.store import connect

    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    uri = f"sqlite:///{folder}/logging.db"
    client = connect(uri)
    experiment = client.create_experiment("bench", artifact_location=f"file://{folder}/artifacts")
    run_id = client.create_run(experiment).info.run_id
    run = StageRun(Outbox(folder / "outbox", Address(uri, "train", run_id)))
    waited = seconds(lambda: client.log_metric(run_id, "loss", 1.0), repeat=20)
    queued = seconds(lambda: run.log_metrics({f"loss{number}": 1.0 for number in range(10)}, 1), repeat=20)
    run.close()
    return [
        row("start-up", "MLflow: ten figures of an epoch, queued", 1000 * queued, "ms",
            textbook=10_000 * waited, textbook_is="ten calls that wait", note="what a training waits for logging")
    ]  # fmt: skip
