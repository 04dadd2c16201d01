"""Trainings of `make gpu-check`, by reid.training.trainer: each step's loss, the rate, where the GPU's time goes.

S steps, B images of a batch.
"""

import cProfile
import json
import math
import pstats
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from reid.data.market1501 import Manifest
from reid.training.fitting import _prepare
from reid.training.recipe import build_module
from reid.training.resume import DurableCheckpoints
from reid.training.trainer import fit
from tests.bench.check_place import Place

PROFILED_STEPS = 10
KINDS = {
    "copies": r"memcpy|memset",
    "optimizer": r"multi_tensor|fused_adam|foreach",
    "normalization": r"bn_|batch_?norm|layer_?norm",
    "convolutions and products": r"cudnn|xmma|gemm|conv|cutlass|wgmma|cublas|nvjet|sm\d\d_|[fdw](prop|grad)|flash",
    "element by element": r"elementwise|vectorized|triton_poi|pointwise",
    "reductions": r"reduce|triton_(red|per)|softmax|pool",
}  # fmt: skip
"""Kernels by their names; what fits none is "other"."""


class Seen(Callback):
    """Every step's figures, on the device until the end, and when each epoch began.

    Of the last epoch the first steps are profiled on the GPU, as many again on the host.
    """

    def __init__(self, trace: Path, *, epochs: int, profiled: int, most: int) -> None:
        """most: steps after which all ends."""
        self._trace, self._epochs, self._profiled, self._most = trace, epochs, profiled, most
        self.host = cProfile.Profile()
        self._profiler: Any = None
        self._figures: list[dict[str, torch.Tensor]] = []
        self.began: list[float] = []

    def on_train_epoch_start(self, _trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Lightning calls it."""
        wait(module.device)
        self.began.append(time.perf_counter())

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, _batch: Any, index: int) -> None:
        """Lightning calls it."""
        if trainer.current_epoch + 1 == self._epochs and index == 1:
            wait(module.device)
            on_gpu = module.device.type == "cuda"
            kind = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
            self._profiler = torch.profiler.profile(activities=[kind])
            self._profiler.start()
        if trainer.current_epoch + 1 == self._epochs and index == self._profiled + 1:
            self.host.enable()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, _batch: Any, index: int
    ) -> None:
        """Lightning calls it."""
        self._figures.append(dict(outputs))
        if len(self._figures) == self._most:
            trainer.should_stop = True
        if trainer.current_epoch + 1 == self._epochs and index == 2 * self._profiled:
            self.host.disable()
        if self._profiler and index == self._profiled:
            wait(module.device)
            self._profiler.stop()
            self._profiler.export_chrome_trace(str(self._trace))
            self._profiler = None

    def figures(self, name: str) -> list[float]:
        """(S,) of one figure."""
        return torch.stack([figures[name] for figures in self._figures]).tolist()


def wait(device: torch.device) -> None:
    """Until the GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def some_first_steps(place: Place, *overrides: str, steps: int) -> dict[str, list[float]]:
    """Exactly so many steps: losses (S,) and the norms of their gradients (S,)."""
    spec, manifest = place.spec(*overrides), Manifest.load(place.dataset)
    parts = _prepare(spec, manifest, None, (place.device,), machines=1)
    seen = Seen(place.folder, epochs=0, profiled=0, most=steps)
    fit(
        build_module(spec, parts.network), parts.data, callbacks=[seen], plan=parts.plan,
        checkpoints=DurableCheckpoints(), epochs=1, start=None, folder=place.folder,
    )  # fmt: skip
    return {"losses": seen.figures("loss"), "gradient_norms": seen.figures("gradient_norm")}


def some_steps(place: Place, *overrides: str, steps: int, name: str) -> dict[str, Any]:
    """At least so many steps: losses (S,), images/s of the epochs between the first and the last, peak memory."""
    spec, manifest = place.spec(*overrides), Manifest.load(place.dataset)
    parts = _prepare(spec, manifest, None, (place.device,), machines=1)
    in_an_epoch, batch = len(parts.data.steps()), spec.dataset.batch_size
    epochs = max(3, math.ceil(steps / in_an_epoch))
    trace, profiled = place.folder / f"{name}-{place.side}.trace.json", min(PROFILED_STEPS, (in_an_epoch - 1) // 2)
    seen = Seen(trace, epochs=epochs, profiled=profiled, most=0)
    module = build_module(spec, parts.network)
    if place.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    fit(
        module, parts.data, callbacks=[seen], plan=parts.plan, checkpoints=DurableCheckpoints(),
        epochs=epochs, start=None, folder=place.folder,
    )  # fmt: skip
    settled_s = seen.began[-1] - seen.began[1]
    found = {
        "losses": seen.figures("loss"),
        "gradient_norms": seen.figures("gradient_norm"),
        "images_per_second": (epochs - 2) * in_an_epoch * batch / settled_s,
        "step_ms": 1e3 * settled_s / ((epochs - 2) * in_an_epoch),
        "first_epoch_s": seen.began[1] - seen.began[0],
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if place.device != "cpu" else None,
        "precision": parts.plan.precision,
        "compiled": parts.plan.compiled,
    }
    return found | kernels(trace, steps=profiled) | {"host": busiest(seen.host, steps=profiled)}


def kernels(trace: Path, *, steps: int) -> dict[str, Any]:
    """What a step's kernels take, by kind, and how many they are; from a profile of some steps."""
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    ran = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    kinds: Counter[str] = Counter()
    for event in ran:
        kinds[kind_of(event["name"])] += event["dur"]
    names: Counter[str] = Counter()
    for event in ran:
        names[event["name"][:90]] += event["dur"]
    return {
        "kernel_ms": sum(kinds.values()) / 1e3 / steps,
        "kernels": len(ran) / steps,
        "launches": sum("Launch" in event["name"] for event in events if "name" in event) / steps,
        "kinds": {kind: spent / 1e3 / steps for kind, spent in kinds.most_common()},
        "longest": {name: spent / 1e3 / steps for name, spent in names.most_common(15)},
    }


def busiest(host: cProfile.Profile, *, steps: int) -> dict[str, float]:
    """Milliseconds a step in the Python functions that take most themselves; measuring makes them slower."""
    spent = {
        f"{Path(file).name}:{line} {function}": own_s
        for (file, line, function), (_, _, own_s, _, _) in pstats.Stats(host).stats.items()  # type: ignore[attr-defined]
    }
    most = sorted(spent.items(), key=lambda entry: -entry[1])[:40]
    return {what: 1e3 * own_s / steps for what, own_s in most}


def kind_of(kernel: str) -> str:
    """Of KINDS, the first that a kernel's name fits."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, kernel, re.IGNORECASE)), "other")
