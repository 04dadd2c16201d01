"""The network on the CPU: embedding with ResNet-50 and training it (last stride 1, 256 x 128, 8.1 GFLOP an image).

    python -m tests.bench network
    python -m tests.bench.bench_network '{"what": "step", "way": "compile", "batch": 32}'

Each way in a process of its own. torch.compile is measured where a C++ compiler is.
"""
# ruff: noqa: T201

import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.bench.rows import Row, in_a_process, row, seconds

MODULE = "tests.bench.bench_network"
FORWARD_BATCH, STEP_BATCH = 16, 16
PERSONS = 751
GFLOP_AN_IMAGE = 8.1
SETTINGS = {
    **{"backbone": "resnet_50", "last_stride": 1, "stem_relu": True, "neck": "bnneck", "neck_feat": "after"},
    **{"feat_dim": 256, "with_flip_feature": False, "input_channels": 3, "height": 256, "width": 128},
    **{"num_classes": PERSONS, "drop_path": 0.0, "drop_out": 0.0, "att_drop_rate": 0.0, "dropout_rate": 0.0},
    **{"reduce_feat_dim": False, "semantic_weight": 1.0, "stem_pool": "padded"},
}


def measure() -> list[Row]:
    """The rows of this part."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    product = in_a_process(MODULE, {"what": "limits"})
    rows = [
        row("limits", "float32 product of 2048 x 2048 matrices", product["gflops"], "GFLOP/s"),
        row("limits", "copying memory", product["copied"], "GB/s", note="bytes read and written"),
    ]
    for what, label, batch, ways in (
        ("forward", "embedding", FORWARD_BATCH, ("eager", "channels_last", "compile", "onnxruntime")),
        ("step", "training step", STEP_BATCH, ("eager", "channels_last", "compile")),
    ):
        eager = None
        for way in ways:
            if way == "compile" and not compiler:
                continue
            found = in_a_process(MODULE, {"what": what, "way": way, "batch": batch})
            eager = eager or found["rate"]
            limit = found["gflops"] / GFLOP_AN_IMAGE / (3 if what == "step" else 1)
            rows.append(
                row("network", f"{label}, batch {batch}, {way}", found["rate"], "images/s",
                    textbook=eager, textbook_is="eager",
                    limit=limit, limit_is="the product's rate in the same process, which a convolution may beat",
                    peak_gb=found["peak_gb"], note=f"first call {found['first_s']:.0f} s")
            )  # fmt: skip
    return rows


def _limits() -> dict[str, float]:
    import numpy as np

    big = np.ones(1 << 26, np.float32)
    copy = np.empty_like(big)
    copied = 2 * big.nbytes / seconds(lambda: np.copyto(copy, big), repeat=5) / 1e9
    return {"gflops": _product_rate(), "copied": copied}


def _product_rate(size: int = 2048) -> float:
    """GFLOP/s, as fast as this machine is right now."""
    import numpy as np

    one = np.ones((size, size), np.float32)
    target = np.empty_like(one)
    return 2 * size**3 / seconds(lambda: np.dot(one, one, out=target), repeat=5) / 1e9


def _measured(what: str, *, way: str = "eager", batch: int = 16) -> dict[str, float]:
    """Images per second of one way, in this process."""
    import time

    import torch

    from reid.model.embedder import build_embedder
    from tests.bench.rows import peak_gb

    if what == "limits":
        return _limits()
    torch.manual_seed(0)
    network = build_embedder(**SETTINGS)
    images = torch.rand(batch, 3, SETTINGS["height"], SETTINGS["width"])
    if way in ("channels_last", "compile"):
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    work = _forward(network, images, way) if what == "forward" else _step(network, images, way)
    began = time.perf_counter()
    work()
    first, before = time.perf_counter() - began, _product_rate()
    rate = batch / seconds(work, repeat=2, warm=0)
    return {"rate": rate, "first_s": first, "gflops": max(before, _product_rate()), "peak_gb": peak_gb()}


def _forward(network, images, way: str):
    import torch

    network.eval()
    if way == "onnxruntime":
        return _onnx(network, images)
    call = torch.compile(network) if way == "compile" else network

    def work() -> None:
        with torch.inference_mode():
            call(images)

    return work


def _onnx(network, images):
    from reid.contract import Contract
    from reid.deploy.onnx import OnnxModel
    from reid.deploy.onnx_export import export_onnx

    contract = Contract(256, 128, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), SETTINGS["feat_dim"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_onnx(network, path, contract=contract, settings=SETTINGS, opset=18, overwrite=False)
        model = OnnxModel(path)
    batch = images.numpy()
    return lambda: model(batch)


def _step(network, images, way: str):
    """Forward, cross-entropy and triplet loss, backward, Adam: the recipe's step."""
    import torch

    from reid.training.losses import BatchHardTriplet, LabelSmoothedCrossEntropy

    network.train()
    call = torch.compile(network) if way == "compile" else network
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    entropy, triplet = LabelSmoothedCrossEntropy(epsilon=0.1), BatchHardTriplet(margin=0.3)
    label = torch.arange(len(images)) // 4

    def work() -> None:
        features, logits = call(images)
        loss = entropy(logits, label) + triplet(features, label)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return work


if __name__ == "__main__":
    print(json.dumps(_measured(**json.loads(sys.argv[1]))))
