"""Serving on this machine: latency and throughput of torch, ONNX Runtime and Triton, by batch and by clients.

    python -m tests.bench serving
    python -m tests.bench.bench_serving --backbone resnet_18 --height 256 --width 128 --rounds 5

From decoded images (uint8, of the network's size) to vectors. "4 x 16 clients": 16 clients, 4 images a call. They call
again as soon as their answer has come. All lines take turns, `--rounds` times, so that a busy machine slows them alike:
ratios are medians over the rounds. The clients of Triton run on the same processors as the server. Weights are random,
which does not matter to the speed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.deploy.onnx import INPUT, OUTPUT, open_session
from tests.bench.rows import Row, row
from tests.bench.serving_load import Cell, Connect, Found, load, times_as_fast
from tests.bench.serving_triton import BATCHING, served

TORCH, ORT = "torch", "ONNX Runtime, {}"
BATCHES, CLIENTS = (1, 4, 16, 64), (4, 16)
"""Images of a call by one client, and clients with one image a call."""
OFF, ON, *DELAYED = BATCHING
SERVED = {"outside": list(BATCHING), "inside": [OFF, ON]}
"""Where images are prepared -> the kinds of batching that are tried."""
LIMIT_S = 200.0
"""Nothing more is measured after so many seconds."""


def measure(
    *,
    backbone: str = "resnet_50",
    height: int = 128,
    width: int = 64,
    rounds: int = 3,
    seconds: float = 0.7,
    protocol: str = "grpc",
    limit_s: float = LIMIT_S,
) -> list[Row]:
    """The rows of this part; a runner that is missing here has one row that says why."""
    began = time.monotonic()
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        runners = _in_this_process(Path(name), backbone=backbone, height=height, width=width)
        cells = [Cell(runner, batch, 1) for batch in BATCHES for runner in runners]
        cells += [Cell(runner, 1, clients) for clients in CLIENTS for runner in runners]
        models = _models_to_serve(Path(name))
        batching = {kind: SERVED[kind] for kind in models}
        try:
            triton = stack.enter_context(served(models, batching, folder=Path(name), protocol=protocol))
        except RuntimeError as error:
            missing["Triton"], triton = str(error), {}
        for (kind, how), connect in triton.items():
            runners[_served_name(kind, how)] = connect
        cells += [
            Cell(_served_name(*key), batch, clients)
            for batch, clients in ((1, 1), *((1, clients) for clients in CLIENTS), (16, 4))
            for key in triton
        ]
        found = {cell: Found() for cell in cells}
        for cell in cells * rounds:
            if time.monotonic() < began + limit_s:
                _measure(cell, found[cell], runners[cell.runner], (height, width, 3), seconds=seconds)
    size = f"{backbone} at {height} x {width}"
    rows = [_row(cell, found, size) for cell in cells if found[cell].rates]
    if len(rows) < len(cells):
        missing["what comes after this"] = f"{limit_s:.0f} s were over"
    return rows + [row("serving", what, None, "", note=f"not measured: {why}") for what, why in missing.items()]


def _measure(cell: Cell, found: Found, connect: Connect, shape: tuple[int, ...], *, seconds: float) -> None:
    """One round of a cell."""
    images = np.random.default_rng(0).integers(0, 256, (cell.batch, *shape), np.uint8)
    latencies, rate = load(connect, images=images, clients=cell.clients, seconds=seconds)
    found.latencies_ms += latencies
    found.rates.append(rate)


def _served_name(kind: str, how: str) -> str:
    return f"Triton, {how}" + (", prepares inside" if kind == "inside" else "")


def _row(cell: Cell, found: dict[Cell, Found], size: str) -> Row:
    """Beside each figure the same call to torch; for Triton, to Triton without dynamic batching."""
    results = found[cell]
    if cell.runner.startswith("Triton"):
        other = replace(cell, runner=_served_name("outside", OFF))
    else:
        other = replace(cell, runner=TORCH)
    beside = {}
    if other != cell and other in found and found[other].rates:
        beside = {
            "textbook": results.rate / times_as_fast(results, found[other]),
            "textbook_is": "torch in this process; for Triton, Triton with batching off",
        }
    p50, p99 = results.percentile(50), results.percentile(99)
    calls = f"{cell.batch} x {cell.clients} client{'s' if cell.clients > 1 else ''}"
    return row(
        f"serving {size}", f"{cell.runner}, {calls}", results.rate, "images/s", **beside,
        note=f"p50 {p50:.1f} ms, p99 {p99:.1f} ms ({len(results.latencies_ms)} calls)",
        runner=cell.runner, batch=cell.batch, clients=cell.clients, p50_ms=p50, p99_ms=p99, rates=results.rates,
    )  # fmt: skip


def _in_this_process(folder: Path, *, backbone: str, height: int, width: int) -> dict[str, Connect]:
    """What runs without a server, by name; the ONNX files for Triton are left in the folder."""
    import torch

    from reid.deploy.half import to_half
    from reid.deploy.onnx import read_onnx
    from reid.deploy.onnx_export import export_onnx
    from reid.model.checkpoint import load_model, save_model
    from reid.model.embedder import build_embedder
    from tests.exporting import contract_of
    from tests.networks import network_settings

    settings = network_settings(backbone=backbone, height=height, width=width, feat_dim=256, reduce_feat_dim=True)
    torch.manual_seed(0)
    network = build_embedder(**settings).eval().requires_grad_(False)
    contract = contract_of(settings)
    export_onnx(network, folder / "m.onnx", contract=contract, settings=settings, opset=18, overwrite=False)
    save_model(folder / "m.pth", network, contract=contract, persons=range(network.num_classes))
    start = load_model(folder / "m.pth", device="cpu").of_pixels().start
    runners: dict[str, Connect] = {TORCH: lambda: nullcontext(lambda images: start(images)())}
    model, contract = read_onnx(folder / "m.onnx")
    runners[ORT.format("FP32")] = _session(model, contract.preprocess)
    runners[ORT.format("FP16")] = _session(to_half(model), contract.preprocess)
    runners[ORT.format("INT8")] = _session(_quantized(model, contract), contract.preprocess)
    inside = _inside(model, contract, folder / "inside.onnx")
    runners[ORT.format("FP32, prepares inside")] = _session(inside, lambda images: images)
    return runners


def _session(model: Any, prepare: Callable[[NDArray[np.uint8]], NDArray[Any]]) -> Connect:
    """One session of ONNX Runtime, which all clients call."""
    session = open_session(model.SerializeToString(), threads=None)
    return lambda: nullcontext(lambda images: session.run([OUTPUT], {INPUT: prepare(images)}))


def _quantized(model: Any, contract: Contract) -> Any:
    from reid.deploy.quantization import quantize

    noise = np.random.default_rng(0).standard_normal(
        (8, contract.channels, contract.height, contract.width), np.float32
    )
    return quantize(model, [noise], keep=())


def _inside(model: Any, contract: Contract, file: Path) -> Any:
    from reid.deploy.onnx_ends import PixelPort, with_preprocessing

    port = PixelPort("uint8", "NHWC", "RGB", 255.0, contract.height, contract.width, None)
    prepared = with_preprocessing(model, contract, port, mirror=False, unit_length=False)
    file.write_bytes(prepared.SerializeToString())
    return prepared


def _models_to_serve(folder: Path) -> dict[str, tuple[Path, Contract]]:
    from reid.deploy.onnx import read_onnx

    contract = read_onnx(folder / "m.onnx")[1]
    files = {"outside": folder / "m.onnx", "inside": folder / "inside.onnx"}
    return {kind: (file, contract) for kind, file in files.items() if file.exists()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures with other settings than `make bench`, and writes bench_serving.txt, .json and .png."""
    from tests.bench.__main__ import machine, write
    from tests.bench.rows import ROOT

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet_50")
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.7, help="for which a line is measured in each round")
    parser.add_argument("--protocol", choices=("http", "grpc"), default="grpc", help="by which clients ask Triton")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="nothing more is measured after so many seconds")
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "bench")
    options = vars(parser.parse_args(arguments))
    folder, about = options.pop("folder"), machine()
    write(folder, "bench_serving", measure(**options), about)


if __name__ == "__main__":
    main()
