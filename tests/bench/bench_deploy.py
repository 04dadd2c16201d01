"""The network's speed through torch, torch.compile, ONNX Runtime and a TensorRT engine: a table, preprocessing apart.

    python -m tests.bench.bench_deploy                              ResNet-50 at 256 x 128, batches of 1, 16 and 64
    python -m tests.bench.bench_deploy --backbone swin_tiny_patch4_window7_224
    python -m tests.bench.bench_deploy --json figures.json

The runners take turns, `--rounds` times, and the fastest round of each counts: a busy machine then slows them alike.
A call goes from host memory to host memory; weights are random, which does not matter to the speed.
"""
# ruff: noqa: T201

import argparse
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reid.contract import Contract

BATCH_SIZES = (1, 16, 64)
PREPROCESSING = "preprocessing alone"


def measure(
    *,
    backbone: str = "resnet_50",
    height: int = 256,
    width: int = 128,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    rounds: int = 3,
    seconds: float = 1.0,
) -> list[dict[str, Any]]:
    """A row for each runner and batch size: what, batch_size, images_per_second, latency_ms; or what and why not."""
    import torch

    from reid.deploy.speed import measure_speed
    from reid.model.embedder import build_embedder
    from tests.exporting import contract_of
    from tests.networks import network_settings

    settings = network_settings(backbone=backbone, height=height, width=width, feat_dim=256, reduce_feat_dim=True)
    torch.manual_seed(0)
    network = build_embedder(**settings).eval().requires_grad_(False)
    contract = contract_of(settings)
    with tempfile.TemporaryDirectory() as folder:
        runners, missing = _runners(network, contract, Path(folder), max(batch_sizes))
        best: dict[tuple[str, int], dict[str, Any]] = {}
        for _ in range(rounds):
            for what, runner in runners.items():
                for speed in measure_speed(runner, batch_sizes, contract=contract, seconds=seconds):
                    row = {
                        "what": what,
                        "batch_size": speed.batch_size,
                        "images_per_second": speed.images_per_second,
                        "latency_ms": speed.latency_ms,
                    }
                    kept = best.setdefault((what, speed.batch_size), row)
                    best[what, speed.batch_size] = min(kept, row, key=lambda entry: entry["latency_ms"])
    return [*best.values(), *_preprocessing(contract, batch_sizes), *missing]


def _runners(network: Any, contract: Contract, folder: Path, largest: int) -> tuple[dict[str, Callable], list[dict]]:
    """What can run here by name, and a row with the reason for what cannot."""
    import torch

    from reid.deploy.onnx import OnnxModel
    from reid.deploy.onnx_export import export_onnx
    from reid.model.checkpoint import load_model, save_model

    missing: list[dict[str, Any]] = []
    export_onnx(network, folder / "m.onnx", contract=contract, settings=network.settings, opset=18, overwrite=False)
    save_model(folder / "m.pth", network, contract=contract, persons=range(network.num_classes))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    runners: dict[str, Callable] = {
        f"torch eager, {device}": load_model(folder / "m.pth", device=device).embed,
        "ONNX Runtime, cpu": OnnxModel(folder / "m.onnx"),
    }
    if device == "cuda" or shutil.which("c++") or shutil.which("g++") or shutil.which("cl"):
        runners[f"torch.compile, {device}"] = _compiled(load_model(folder / "m.pth", device=device).network, device)
    else:
        missing.append({"what": "torch.compile", "why_not": "no C++ compiler"})
    engine, why_not = _engine(folder, largest)
    if engine:
        runners["TensorRT engine"] = engine
    else:
        missing.append({"what": "TensorRT engine", "why_not": why_not})
    return runners, missing


def _compiled(network: Any, device: str) -> Callable:
    import torch

    logging.getLogger("torch").setLevel(logging.ERROR)
    # frozen: weights become constants, laid out for their kernels; BatchNorms go into the convolutions
    compiled = torch.compile(network, dynamic=False, options={"freezing": True})

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return compiled(torch.from_numpy(images).to(device)).float().cpu().numpy()

    return run


def _engine(folder: Path, largest: int) -> tuple[Callable | None, str]:
    from reid.deploy.build_record import RUNNABLE, Profile
    from reid.deploy.engine import EngineModel
    from reid.deploy.gpu import use_gpu
    from reid.deploy.tensorrt import build_engine

    if use_gpu(0) is None:
        return None, "no GPU"
    record = build_engine(
        folder / "m.onnx",
        folder / "m.engine",
        data_type="FP16",
        profile=Profile(1, min(16, largest), largest),
        workspace_mib=4096,
        compute_capabilities=None,
        timing_cache=None,
        gpu_id=0,
        verbose=False,
    )
    if record.measured != RUNNABLE:
        return None, record.reason or record.measured
    return EngineModel(folder / "m.engine", gpu_id=0, record=record), ""


def _preprocessing(contract: Contract, batch_sizes: Sequence[int]) -> list[dict[str, Any]]:
    """From uint8 pixels to the network's input."""
    rows = []
    for size in batch_sizes:
        pixels = np.random.default_rng(0).integers(
            0, 256, (size, contract.height, contract.width, contract.channels), np.uint8
        )
        taken = []
        for _ in range(20):
            started = time.perf_counter()
            contract.preprocess(pixels)
            taken.append(time.perf_counter() - started)
        best = min(taken)
        rows.append(
            {
                "what": PREPROCESSING,
                "batch_size": size,
                "images_per_second": size / best,
                "latency_ms": 1000 * best,
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text; of each batch size also how many times ONNX Runtime's rate it is."""
    base = {
        row["batch_size"]: row["images_per_second"] for row in rows if row["what"].startswith("ONNX") and len(row) > 2
    }
    lines = [f"{'':24}{'batch':>7}{'images/s':>12}{'ms a call':>12}{'x ONNX Runtime':>17}"]
    for row in rows:
        if "why_not" in row:
            lines.append(f"{row['what']:24}  not measured: {row['why_not']}")
            continue
        ratio = row["images_per_second"] / base[row["batch_size"]]
        lines.append(
            f"{row['what']:24}{row['batch_size']:7}{row['images_per_second']:12,.1f}{row['latency_ms']:12,.2f}"
            f"{'' if row['what'] == PREPROCESSING else f'{ratio:17.2f}'}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet_50")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=list(BATCH_SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="for which a runner is timed, per batch size")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    arguments = vars(parser.parse_args())
    target = arguments.pop("json")
    rows = measure(**arguments)
    print(f"{arguments['backbone']}, {arguments['width']} x {arguments['height']} pixels")
    print(table(rows))
    if target:
        target.write_text(json.dumps({"arguments": arguments, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
