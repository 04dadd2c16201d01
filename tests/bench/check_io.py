"""What `make gpu-check` tries of a training's surroundings: its checkpoints leave the GPU, its validation scores there.

Q queries, G gallery images, D values a vector.
"""

import time

import numpy as np
import torch

from reid.embeddings import Embeddings
from reid.model.safe_files import read_file
from reid.retrieval.protocol import market_protocol
from reid.training.resume import DurableCheckpoints
from reid.training.validation import scores_by_torch, scores_on_cpu
from tests.bench.check_case import Facts, Line, line
from tests.bench.check_place import Place
from tests.bench.check_steps import wait


def validation(place: Place) -> Facts:
    """Market-1501's sizes: both computations of the same figures, each timed at its second call."""
    queries, gallery, persons, width = (40, 200, 12, 8) if place.dry else (3368, 15913, 750, 256)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((persons + 1, width))
    query, other = (
        Embeddings(
            [""] * count,
            person := rng.integers(low, persons + 1, count),
            rng.integers(1, 7, count),
            (centres[person] + 1.5 * rng.standard_normal((count, width))).astype(np.float32),
        )
        for count, low in ((queries, 1), (gallery, 0))
    )
    protocol = market_protocol(
        query_person=query.person, query_camera=query.camera, gallery_person=other.person, gallery_camera=other.camera
    )
    device = torch.device(place.device)

    def there() -> dict[str, float]:
        scores, loss = scores_by_torch(query, other, protocol, margin=0.3, device=device)
        return {"mAP": scores.mAP, "rank1": float(scores.cmc[0]), "mINP": scores.mINP, "loss": loss}

    def here() -> dict[str, float]:
        scores, loss = scores_on_cpu(query, other, protocol, margin=0.3)
        return {"mAP": scores.mAP, "rank1": float(scores.cmc[0]), "mINP": scores.mINP, "loss": loss}

    found: Facts = {}
    for name, compute in (("there", there), ("here", here)):
        compute()
        began = time.perf_counter()
        found[name] = compute()
        found[f"{name}_s"] = time.perf_counter() - began
    return found


def validation_lines(here: Facts, _: Facts) -> list[Line]:
    ours, theirs = here["there"], here["here"]
    lines = [
        line(f"validation's {name}", ours[name], twin=theirs[name], ok=abs(ours[name] - theirs[name]) < most)
        for name, most in (("mAP", 1e-5), ("rank1", 1e-3), ("mINP", 1e-5), ("loss", 1e-3 * max(1, theirs["loss"])))
    ]
    return [*lines, line("  its time", here["there_s"], "s", twin=here["here_s"])]


def checkpoint(place: Place) -> Facts:
    """Twice a checkpoint like ResNet-50's with Adam, whose tensors are overwritten at once after the call."""
    megabytes = 1 if place.dry else 300
    device = torch.device(place.device)
    weights = [torch.empty(250_000, device=device) for _ in range(megabytes)]
    checkpoints, path = DurableCheckpoints(), place.own("checkpoint") / "a.pth"
    found: Facts = {"call_s": [], "written_s": [], "wrong": 0, "peak_gb": None}
    for number in range(3):
        for tensor in weights:
            tensor.fill_(number)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        wait(device)
        began = time.perf_counter()
        checkpoints.save_checkpoint({"weights": weights}, path)
        found["call_s"].append(time.perf_counter() - began)
        for tensor in weights:
            tensor.fill_(-1)
        checkpoints.wait()
        found["written_s"].append(time.perf_counter() - began)
        found["wrong"] += sum(bool((tensor != number).any()) for tensor in read_file(path)["weights"])
        if device.type == "cuda":
            found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def checkpoint_lines(here: Facts, _: Facts) -> list[Line]:
    peak = f"; peak {here['peak_gb']:.2f} GB" if here["peak_gb"] else ""
    note = (
        f"on the disk after {here['written_s'][-1]:.2f} s; the first call took {1e3 * here['call_s'][0]:.0f} ms{peak}"
    )
    return [
        line("tensors of a checkpoint that hold what came after it", here["wrong"], twin=0, twin_is="to the bit",
             ok=not here["wrong"]),
        line("  how long the training waits for it", 1e3 * min(here["call_s"]), "ms", note=note),
    ]  # fmt: skip
