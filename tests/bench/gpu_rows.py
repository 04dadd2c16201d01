"""Rows of the GPU bench's table, from the facts that its measurements left; nothing is measured here.

Facts are plain dicts by the measurement's name, as bench-gpu.json keeps them. A training's: epochs, history (that of
history.json), images (of the drawn training set), batch_size, seconds (its process), busy (percent, or None), ran_as.
"""

import math
import statistics
from dataclasses import dataclass
from typing import Any

from tests.bench.bench_network import GFLOP_AN_IMAGE
from tests.bench.gpu_task import SETTLING
from tests.bench.rows import Row, row

EPOCHS, IMAGES = 120, 12_936
WHOLE = f"{EPOCHS} epochs of {IMAGES:,} images"
UTILISATION = "the bf16 product's rate at 3 x 8.1 GFLOP an image, so a share is the model FLOP utilisation"
Facts = dict[str, Any]


@dataclass(frozen=True)
class Reckoned:
    """What the settled epochs of a training foretell."""

    rate: float
    """Images per second, the median of the settled epochs; images that the sampler gives twice count twice."""
    steps: int
    """Of an epoch of IMAGES, as many for each image as the sampler made of the drawn ones."""
    seconds: float
    """EPOCHS times those steps at that rate: neither compiling nor validation nor checkpoints."""
    settling_s: float
    """What the first epochs took beyond that rate."""


def reckoned(training: Facts) -> Reckoned:
    """The figures of the recipe, from fewer epochs of fewer images."""
    trained = [entry for entry in training["history"] if entry["epoch"] >= 0]
    rate = statistics.median(entry["images_per_second"] for entry in trained[SETTLING:])
    usual = statistics.median(entry["seconds"] for entry in trained[SETTLING:])
    steps = math.ceil(trained[-1]["step"] / len(trained) * IMAGES / training["images"])
    settling_s = sum(entry["seconds"] - usual for entry in trained[:SETTLING])
    return Reckoned(rate, steps, EPOCHS * steps * training["batch_size"] / rate, max(0.0, settling_s))


def training_row(label: str, training: Facts, facts: Facts) -> Row:
    """The rate of the settled epochs, beside that of the training as chosen."""
    done, chosen = reckoned(training), facts.get("chosen", {})
    more: Row = {"peak_gb": peak_gb(training)}
    if product := facts.get("products", {}).get("bfloat16"):
        more |= {"limit": product * 1e3 / (3 * GFLOP_AN_IMAGE), "limit_is": UTILISATION}
    if training is not chosen and "history" in chosen:
        more |= {"textbook": reckoned(chosen).rate, "textbook_is": "as chosen"}
    told = [f"{done.seconds:.0f} s for {WHOLE}, reckoned", f"GPU busy {_percent(training['busy'])}"]
    told += [f"its process {training['seconds']:.0f} s", training["ran_as"]]
    what = f"{label}, {training['epochs']} epochs"
    return row("training", what, done.rate, "images/s", note="; ".join(told), **more)


def whole_rows(training: Facts) -> list[Row]:
    """The whole recipe, reckoned, and what that leaves out; and how busy the GPU was."""
    done, busy, goal = reckoned(training), training["busy"], {"limit_is": "the goal"}
    steps = f"reckoned: {EPOCHS} x {done.steps} steps of {training['batch_size']} images at {done.rate:,.0f} images/s"
    left_out = f"without start, validation, checkpoints; the first {SETTLING} epochs took {done.settling_s:.0f} s more"
    validated = training["history"][-1].get("validation_seconds")
    return [
        row("training", WHOLE, done.seconds, "s", note=f"{steps}; {left_out}", limit=300.0, **goal),
        row("training", "one validation", validated, "s" if validated else "",
            note="" if validated else "not known: history.json has no validation_seconds"),
        row("training", f"the whole process of {training['epochs']} epochs", training["seconds"], "s",
            note="imports, compiling, two validations and the checkpoint included"),
        row("training", "GPU busy in the settled epochs", busy, "" if busy is None else "%", limit=95.0, **goal,
            note="not known: nvidia-smi gave no utilization" if busy is None else ""),
    ]  # fmt: skip


def beside_fp32(chosen: Facts, twin: Facts) -> list[Row]:
    """Each epoch's loss, and the mAP at the end, against those of the fp32 twin of equally many epochs."""
    curve = loss_curve(chosen, twin)
    apart = max(abs(ours - other) / other for ours, other in zip(curve["chosen"], curve["fp32"]))
    ours, other = chosen["history"][-1], twin["history"][-1]
    return [
        row("training", f"loss of {curve['step'][-1]:,} steps against fp32, farthest epoch", 100 * apart, "%"),
        row("training", "mAP of query and gallery after it", 100 * ours["mAP"], "%",
            textbook=100 * other["mAP"], textbook_is="fp32, the same seed"),
    ]  # fmt: skip


def loss_curve(chosen: Facts, twin: Facts) -> dict[str, list[float]]:
    """Each epoch's mean loss of both, at its last step."""
    ours, other = ([entry for entry in one["history"] if entry["epoch"] >= 0] for one in (chosen, twin))
    return {
        "step": [int(entry["step"]) for entry in ours],
        "chosen": [entry["train_loss"] for entry in ours],
        "fp32": [entry["train_loss"] for entry in other],
    }


def product_rows(found: Facts) -> list[Row]:
    """What the GPU can do at the most."""
    labels = {"float32": "IEEE float32", "bfloat16": "bf16"}
    what = "{} product of 8192 x 8192 random matrices"
    return [row("limits", what.format(label), found[kind], "TFLOP/s") for kind, label in labels.items()]


def retrieval_rows(found: Facts) -> list[Row]:
    """Re-ranking, with and without its copies to the host, and of a gallery of 100,000."""
    rows = []
    for width in (256, 2048):
        case = found[str(width)]
        rows.append(
            row("retrieval", f"re-ranking on the GPU, Market-1501's size, {width}-d", case["s"], "s",
                textbook=case["cpu_s"], textbook_is="ours on this machine's CPU", limit=0.3, limit_is="the goal",
                peak_gb=case["peak_gb"], note=f"at most {case['apart']:.1e} from the CPU's")
        )  # fmt: skip
        rows.append(row("retrieval", f"with both distances copied to the host, {width}-d", case["copied_s"], "s"))
    blocks, what = found["blocks"], "re-ranking on the GPU in blocks, gallery 100,000, 256-d"
    return [*rows, row("retrieval", what, blocks["s"], "s", peak_gb=blocks["peak_gb"])]


def embedding_rows(figures: Facts) -> list[Row]:
    """What `reid evaluate` wrote into metrics.json."""
    images = f"{figures['queries'] + figures['gallery']:,.0f} images"
    return [
        row("embedding", f"evaluate, {images}", figures["images_per_second"], "images/s"),
        row("embedding", "its re-ranking", figures["rerank_seconds"], "s", note="as the stage chose the device"),
    ]


def peak_gb(training: Facts) -> float | None:
    """Of torch's memory on the GPU; None where the history does not tell."""
    return max((entry["gpu_memory_gb"] for entry in training["history"] if "gpu_memory_gb" in entry), default=None)


def _percent(busy: float | None) -> str:
    return "not known" if busy is None else f"{busy:.0f} %"
