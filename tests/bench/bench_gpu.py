"""`make bench-gpu`: training, embedding and re-ranking at Market-1501's size on one GPU.

    python -m tests.bench.bench_gpu               20 epochs, some 2,000 steps, and 6 with each switch off
    python -m tests.bench.bench_gpu --epochs 120  the whole recipe in its two precisions

Draws 751 persons once, trains ResNet-50 on them with `reid train`, batch 128, as a user would, and reads history.json.
What was not run to 120 epochs of 12,936 images is reckoned from the epochs that were, and its row says so.
"""
# ruff: noqa: T201

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.__main__ import machine, write
from tests.bench.bench_network import GFLOP_AN_IMAGE
from tests.bench.bench_retrieval import MARKET, RERANKING
from tests.bench.bench_retrieval import draw as draw_embeddings
from tests.bench.rows import ROOT, Row, row

EPOCHS, IMAGES, BATCH = 120, 12_936, 128
SETTLING = 2
"""Epochs at the start that compile and warm up: they count in the sum, not in the rate."""
SWITCHED_OFF = {
    "without torch.compile": ["train.compile=off"],
    "without bf16": ["train.precision=32"],
    "without channels_last": ["train.channels_last=false"],
    "without the fused optimizer": ["train.fused_optimizer=false"],
    "without augmentation on the GPU": ["dataset.augment_on=cpu"],
}
SPEC = """
results_dir: {folder}
model: {{backbone: resnet_50, last_stride: 1, pretrain_choice: "", input_width: 128, input_height: 256, feat_dim: 256}}
dataset:
  synthetic: {{root: {data}, train_persons: 751, test_persons: 750, images_per_camera: 4, distractors: 2793, junk: 0}}
  num_classes: 751
  batch_size: {batch}
  val_batch_size: 512
  num_instances: 4
train:
  seed: 1234
  optim: {{name: Adam, base_lr: 0.00035, lr_steps: [40, 70], warmup_iters: 10, weight_decay: 0.0005}}
"""


def main() -> None:
    """Measures, prints and writes; one sentence and exit status 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="of the run and of its fp32 twin (default 20)")
    parser.add_argument("--part", type=int, default=6, help="epochs with a switch off (default 6)")
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "bench")
    options = parser.parse_args()
    if min(options.epochs, options.part) <= SETTLING:
        parser.error(f"--epochs, --part: want more than {SETTLING}, as the first {SETTLING} only warm up")
    import torch

    if not torch.cuda.is_available():
        print("error: make bench-gpu needs an NVIDIA GPU, and torch sees none on this machine", file=sys.stderr)
        raise SystemExit(2)
    about = machine()
    about["gpu"] = torch.cuda.get_device_name(0)
    about["what"] = f"{about['gpu']}; {about['what']}"
    rows = [*_limits(), *_retrieval(), *_training(options.folder / "gpu", options.epochs, options.part)]
    write(options.folder, "bench-gpu", rows, about)


def _limits() -> list[Row]:
    return [
        row("limits", f"{label} product of 8192 x 8192 matrices", _product_tflops(kind), "TFLOP/s")
        for label, kind in (("float32", "float32"), ("bf16", "bfloat16"))
    ]


def _product_tflops(kind: str) -> float:
    import torch

    matrix = torch.ones(8192, 8192, device="cuda", dtype=getattr(torch, kind))
    return 2 * 8192**3 / _gpu_seconds(lambda: matrix @ matrix) / 1e12


def _gpu_seconds(work: Any, repeat: int = 5) -> float:
    """The best of some times, after two that warm up, each to the end of the GPU's work."""
    import torch

    taken = []
    for _ in range(repeat + 2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken[2:])


def _retrieval() -> list[Row]:
    """Re-ranking on the GPU, beside the CPU's of the same run, and how far apart they are."""
    import torch

    from reid.retrieval.on_device import both_rows as to_the_host
    from reid.retrieval.tensors.rerank import both_rows
    from tests.reranked import matrices

    on_gpu = {"device": "cuda:0", "own": "cuda:0"}
    rows = []
    for width in (256, 2048):
        query, gallery, _ = draw_embeddings(MARKET["queries"], MARKET["gallery"], width)
        vectors = np.concatenate([query, gallery])
        known = {"queries": len(query), **RERANKING}
        moved = torch.from_numpy(vectors).cuda()
        torch.cuda.reset_peak_memory_stats()
        found = _gpu_seconds(lambda at=moved, k=known: deque(both_rows(at, **k), maxlen=0))
        peak = torch.cuda.max_memory_allocated() / 1e9
        began = time.perf_counter()
        wanted = matrices(query, gallery, **RERANKING)[1]
        on_cpu_seconds = time.perf_counter() - began
        apart = float(np.abs(matrices(query, gallery, to_the_host, **RERANKING, **on_gpu)[1] - wanted).max())
        copied = _gpu_seconds(lambda at=vectors, k=known: deque(to_the_host(at, **k, **on_gpu), maxlen=0))
        rows.append(
            row("retrieval", f"re-ranking on the GPU, Market-1501, {width}-d", found, "s", peak_gb=peak,
                textbook=on_cpu_seconds, textbook_is="ours on this CPU, compiling included",
                limit=0.3, limit_is="the goal", note=f"at most {apart:.1e} from the CPU's")
        )  # fmt: skip
        rows.append(row("retrieval", f"with both distances copied to the host, {width}-d", copied, "s"))
    query, gallery, _ = draw_embeddings(MARKET["queries"], 100_000, 256)
    moved = torch.from_numpy(np.concatenate([query, gallery])).cuda()
    torch.cuda.reset_peak_memory_stats()
    found = _gpu_seconds(lambda: deque(both_rows(moved, queries=len(query), **RERANKING), maxlen=0), repeat=2)
    peak = torch.cuda.max_memory_allocated() / 1e9
    return [
        *rows,
        row("retrieval", "re-ranking on the GPU in blocks, gallery 100,000, 256-d", found, "s", peak_gb=peak),
    ]


def _training(folder: Path, epochs: int, part: int) -> list[Row]:
    """The recipe, its fp32 twin, and the recipe with each switch off."""
    whole = _trained(folder, "as chosen", epochs, [])
    twin = _trained(folder, "fp32", epochs, ["train.precision=32", "train.compile=off"])
    peak_tflops = _product_tflops("bfloat16")
    rows = [_training_row("as chosen by auto", whole, epochs, peak_tflops)]
    rows[0]["note"] += f"; GPU busy {whole['busy']:.0f} %; cudnn {whole['cudnn']}"
    rows.append(row("training", "peak GPU memory", whole["memory_gb"], "GB"))
    rows.append(_training_row("fp32, eager", twin, epochs, peak_tflops))
    rows += _beside(whole["history"], twin["history"])
    for label, overrides in SWITCHED_OFF.items():
        rows.append(_training_row(label, _trained(folder, label, part, overrides), part, peak_tflops))
    return [*rows, *_embedding(folder)]


def _trained(folder: Path, label: str, epochs: int, overrides: list[str]) -> dict[str, Any]:
    """One `reid train`: its history, time, and what the GPU did meanwhile."""
    place = folder / label.replace(" ", "-")
    spec = folder / "spec.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    spec.write_text(SPEC.format(folder=folder, data=folder / "data", batch=BATCH), encoding="utf-8")
    always = [f"train.results_dir={place}", f"train.num_epochs={epochs}", f"train.validation_interval={epochs}"]
    always += [f"train.checkpoint_interval={epochs}", "train.resume_training_checkpoint_path=null"]
    print(f"training {epochs} epochs, {label} …", file=sys.stderr, flush=True)
    subprocess.run(["rm", "-rf", str(place)], check=True)
    with _Watched() as gpu:
        began = time.monotonic()
        _reid("train", spec, [*always, *overrides])
        seconds = time.monotonic() - began
    history = json.loads((place / "history.json").read_text(encoding="utf-8"))
    return {
        "history": history,
        "seconds": seconds,
        "busy": gpu.busy(),
        "memory_gb": gpu.memory_gb,
        "cudnn": _cudnn(spec),
    }


def _reid(task: str, spec: Path, overrides: list[str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "reid", task, "-e", str(spec), *overrides],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )


def _cudnn(spec: Path) -> str:
    from reid.spec import load_spec

    cudnn = load_spec(spec).train.cudnn
    return f"deterministic {cudnn.deterministic}, benchmark {cudnn.benchmark}"


def _training_row(label: str, done: dict[str, Any], epochs: int, peak_tflops: float) -> Row:
    """Seconds of 120 epochs of 12,936 images: measured, or reckoned from the epochs after the first."""
    trained = [entry for entry in done["history"] if entry["epoch"] >= 0]
    rate = statistics.median(entry["images_per_second"] for entry in trained[SETTLING:])
    used = 3 * GFLOP_AN_IMAGE * rate / 1e3 / peak_tflops
    first = sum(entry["seconds"] for entry in trained[:SETTLING])
    told = (
        f"{rate:,.0f} images/s, {100 * used:.0f} % of the bf16 product's rate; the process took {done['seconds']:.0f} s"
    )
    if epochs == EPOCHS:
        seconds, how = sum(entry["seconds"] for entry in trained), "measured"
    else:
        seconds = first + (EPOCHS - SETTLING) * IMAGES / rate
        how = f"reckoned from {epochs} epochs"
    what = f"120 epochs of 12,936 images, {label}"
    return row("training", what, seconds, "s", limit=300.0, limit_is="the goal", note=f"{how}; {told}")


def _beside(ours: list[dict[str, float]], twin: list[dict[str, float]]) -> list[Row]:
    """The loss curve, epoch by epoch, and the mAP against those of the fp32 twin."""
    pairs = [(a["train_loss"], b["train_loss"]) for a, b in zip(ours, twin) if a["epoch"] >= 0]
    apart = max(abs(a - b) / b for a, b in pairs)
    curve = " ".join(f"{a:.3f}/{b:.3f}" for a, b in pairs[:: max(1, len(pairs) // 8)])
    steps = int(ours[-1]["step"])
    return [
        row("training", f"loss of {steps:,} steps against fp32, farthest epoch", 100 * apart, "%", note=curve),
        row("training", "mAP of query and gallery after it", 100 * ours[-1]["mAP"], "%",
            textbook=100 * twin[-1]["mAP"], textbook_is="fp32, the same seed"),
    ]  # fmt: skip


def _embedding(folder: Path) -> list[Row]:
    """`reid evaluate` of what was trained."""
    checkpoint = folder / "as-chosen" / "reid_model_latest.pth"
    place = folder / "evaluate"
    _reid("evaluate", folder / "spec.yaml", [f"evaluate.checkpoint={checkpoint}", f"evaluate.results_dir={place}"])
    figures = json.loads((place / "metrics.json").read_text(encoding="utf-8"))
    images = f"{figures['queries'] + figures['gallery']:,.0f} images"
    return [
        row("embedding", f"evaluate, {images}", figures["images_per_second"], "images/s"),
        row("embedding", "its re-ranking", figures["rerank_seconds"], "s", note="as the stage chose the device"),
    ]


class _Watched:
    """Asks nvidia-smi five times a second how busy the GPU is and what memory it has given."""

    def __enter__(self) -> "_Watched":
        query = ["nvidia-smi", "-i", "0", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
        self._process = subprocess.Popen([*query, "-lms", "200"], stdout=subprocess.PIPE, text=True)
        self._busy: list[float] = []
        self.memory_gb = 0.0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            busy, memory_mib = (float(cell) for cell in line.split(","))
            self._busy.append(busy)
            self.memory_gb = max(self.memory_gb, memory_mib * 2**20 / 1e9)

    def busy(self) -> float:
        """Percent, the median over the middle half of the time: neither start-up nor the last validation."""
        quarter = len(self._busy) // 4
        return statistics.median(self._busy[quarter : -quarter or None] or [0.0])


if __name__ == "__main__":
    main()
