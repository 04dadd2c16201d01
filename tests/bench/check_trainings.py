"""The trainings of `make gpu-check`: how fast they are, and whether they stop, go on and run out of memory well."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from reid.errors import SpecError
from reid.training.resume import LATEST
from tests.bench.check_case import Facts, Line, line
from tests.bench.check_place import Place
from tests.bench.check_steps import some_steps
from tests.bench.rows import ROOT

ALLOWED_GB = 2.5
"""Of the GPU's memory, to what is to run out of it."""


def steps(*overrides: str) -> Callable[[Place], Facts]:
    def measure(place: Place) -> Facts:
        name = "-".join(override.rpartition("=")[2] for override in overrides)
        return some_steps(place, *overrides, steps=place.sizes["steps"], name=name)

    return measure


def half(place: Place) -> Facts:
    """In fp16 with a scaled loss; a dry run takes bf16, because a CPU needs a minute for some steps in fp16."""
    return steps("train.precision=bf16" if place.dry else "train.precision=fp16")(place)


def steps_lines(here: Facts, fp32: Facts) -> list[Line]:
    """Of a training of some steps, its loss beside that of fp32 where there is one (in place of a CPU's)."""
    last = _mean_of_the_last(here["losses"])
    more: Line = {"ok": math.isfinite(last)}
    if fp32:
        twin = _mean_of_the_last(fp32["losses"])
        more = {"twin": twin, "twin_is": "fp32, eager", "ok": abs(last - twin) < 0.1 * twin}
    told = f"{here['precision']}, {'compiled' if here['compiled'] else 'eager'}"
    limit = f"{here['kernel_ms']:.1f} ms of kernels ({here['kernels']:.0f}, launched {here['launches']:.0f} times) "
    limit += f"in a step of {here['step_ms']:.1f} ms; "
    limit += ", ".join(f"{kind} {spent:.1f}" for kind, spent in here["kinds"].items())
    return [
        line(f"{told}: mean loss of the last quarter of {len(here['losses'])} steps", last, **more),
        line("  its rate", here["images_per_second"], "images/s", note=limit,
             twin=fp32["images_per_second"] if fp32 else None, twin_is="fp32, eager"),
        line("  the GPU's share of a step", 100 * here["kernel_ms"] / here["step_ms"], "%",
             note=f"first epoch {here['first_epoch_s']:.1f} s, peak {here['peak_gb'] or math.nan:.1f} GB"),
    ]  # fmt: skip


def _mean_of_the_last(losses: list[float]) -> float:
    part = losses[-max(1, len(losses) // 4) :]
    return sum(part) / len(part)


SWITCHES = {
    "as chosen, eager": (),
    "without channels_last": ("train.channels_last=off",),
    "without the fused optimizer": ("train.fused_optimizer=off",),
    "augmented on the CPU": ("dataset.augment_on=cpu",),
    "without cudnn.benchmark": ("train.cudnn.benchmark=off",),
    "cudnn.deterministic": ("train.cudnn.deterministic=on",),
    "cudnn.deterministic, without benchmark": ("train.cudnn.benchmark=off", "train.cudnn.deterministic=on"),
}


def switches(place: Place) -> Facts:
    steps = place.sizes["steps"] // 3
    return {name: some_steps(place, *overrides, steps=steps, name="switch") for name, overrides in SWITCHES.items()}


def switches_lines(here: Facts, _: Facts) -> list[Line]:
    chosen = here["as chosen, eager"]["images_per_second"]
    return [
        line(name, found["images_per_second"], "images/s", twin=chosen, twin_is="as chosen",
             note=f"{found['kernel_ms']:.1f} ms of kernels in a step of {found['step_ms']:.1f} ms")
        for name, found in here.items()
    ]  # fmt: skip


def swin(place: Place) -> Facts:
    if place.dry:
        return some_steps(place, steps=3, name="swin")
    return some_steps(
        place, "model.backbone=swin_tiny_patch4_window7_224", "train.optim.name=AdamW", steps=60, name="swin"
    )


def trained(place: Place) -> Facts:
    epochs = 2 if place.dry else 8
    outcome = place.train("trained", f"train.num_epochs={epochs}", "train.optim.base_lr=0.001")
    return dict(outcome.metrics)


def trained_lines(here: Facts, _: Facts) -> list[Line]:
    note = f"{here['epochs']:.0f} epochs, {here['images_per_second']:.0f} images/s"
    return [line("train as a user runs it: mAP", 100 * here["best_mAP"], "%", twin=100 * here["untrained_mAP"],
                 twin_is="untrained", ok=here["best_mAP"] > here["untrained_mAP"], note=note)]  # fmt: skip


def repeated(place: Place) -> Facts:
    """Two trainings without a stop, and one that SIGTERM stopped within an epoch and that went on."""
    epochs = ("train.num_epochs=4", "model.with_center_loss=true", "train.cudnn.deterministic=on")
    epochs += ("train.cudnn.benchmark=off",)
    for name in ("straight", "again"):
        place.train(name, *epochs)
    model = place.model("stopped")
    command = [sys.executable, "-c", STOPPED, str(place.folder), place.device, str(int(place.dry)), *epochs]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # on the CPU the bits depend on their number
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | threads)
    while not (model / "model_epoch_000.pth").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    status = process.wait(timeout=60)
    begun = torch.load(model / LATEST, weights_only=True)["training"]["position"]
    place.train("stopped", *epochs)
    return {
        "again": _differing(place.model("again"), place.model("straight")),
        "stopped": _differing(model, place.model("straight")),
        "status": status,
        "position": begun,
    }


STOPPED = """
import sys
from pathlib import Path
from tests.bench.check_place import Place
folder, device, dry, *overrides = sys.argv[1:]
try:
    Place(Path(folder), device, bool(int(dry))).train("stopped", *overrides)
except KeyboardInterrupt:
    sys.exit(130)
"""


def _differing(one: Path, other: Path) -> list[str]:
    """Tensors of weights and optimizer that are not equal to the bit in the latest checkpoints."""
    ours, theirs = (torch.load(model / LATEST, weights_only=True) for model in (one, other))
    found = [name for name, tensor in ours["state_dict"].items() if not torch.equal(tensor, theirs["state_dict"][name])]
    states = theirs["optimizer_states"][0]["state"]
    for index, state in ours["optimizer_states"][0]["state"].items():
        found += [f"{index}.{name}" for name, value in state.items() if not torch.equal(value, states[index][name])]
    return found


def repeated_lines(here: Facts, _: Facts) -> list[Line]:
    epoch, step = here["position"]
    stopped = f"stopped in epoch {epoch + 1}, step {step} (status {here['status']}), and gone on"
    return [
        line(what, len(here[name]), twin=0, twin_is="to the bit", ok=not here[name], note=", ".join(here[name][:3]))
        for what, name in (
            ("tensors unlike a training of the same seed", "again"),
            (f"tensors unlike it in one {stopped}", "stopped"),
        )
    ]


def memory(place: Place) -> Facts:
    if place.device == "cpu":
        return {"training": "no GPU", "embedding": "no GPU", "after": None}
    place.train("memory", "train.num_epochs=1")
    torch.cuda.set_per_process_memory_fraction(ALLOWED_GB * 1e9 / torch.cuda.mem_get_info()[1])
    said = {}
    for what, work in (
        ("training", lambda: place.train("too-large", "dataset.batch_size=512", "train.num_epochs=1")),
        ("embedding", lambda: place.evaluate("memory", "dataset.val_batch_size=2000")),
    ):
        try:
            work()
            said[what] = "there was room"
        except Exception as error:
            said[what] = f"{type(error).__name__}: {error}"
    torch.cuda.set_per_process_memory_fraction(1.0)
    after = place.train("memory", "train.num_epochs=2").metrics["train_loss"]
    return said | {"after": after}


def memory_lines(here: Facts, _: Facts) -> list[Line]:
    fields = {"training": "dataset.batch_size", "embedding": "dataset.val_batch_size"}
    lines = [
        line(f"out of memory in {what}: a sentence that names {field}", None, note=here[what].replace("\n", " | "),
             ok=here[what].startswith(f"{SpecError.__name__}: {field}: ") if here["after"] else None)
        for what, field in fields.items()
    ]  # fmt: skip
    return [*lines, line("  and a training of the same process after it: loss", here["after"])]
