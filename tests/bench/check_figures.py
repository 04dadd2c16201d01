"""What `make gpu-check` holds to the CPU's figures: images, losses, embeddings, rankings, the exported network."""

import time
from pathlib import Path

import numpy as np
import torch
from lightning_fabric.utilities import move_data_to_device

from reid.data.augment import augment, draw
from reid.data.colours import Colours
from reid.data.device_augment import augment_batch, packed
from reid.deploy.parity import parity
from reid.distributed.ranks import SINGLE_PROCESS
from reid.embeddings import Embeddings
from tests.bench import check_ranks, gpu_kernels
from tests.bench.check_case import Facts, Line, line
from tests.bench.check_place import Place, apart
from tests.bench.check_steps import some_first_steps

MEAN, STD = (0.485, 0.456, 0.406), (0.226, 0.226, 0.226)


def data(place: Place) -> Facts:
    began = time.monotonic()
    manifest = place.draw()
    return {"s": time.monotonic() - began, "images": len(manifest.train) + len(manifest.query) + len(manifest.gallery)}


def data_lines(here: Facts, _: Facts) -> list[Line]:
    return [line(f"{here['images']:,} images drawn, looked at and decoded", here["s"], "s", ok=True)]


def augmentation(place: Place) -> Facts:
    count, height, width = (64, 64, 32) if place.dry else (512, 256, 128)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, height, width, 3), np.uint8)
    size = {"height": height, "width": width, "padding": 10}
    colours = Colours(jitter=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1, grey=0.2, autoaugment=0.5)
    plan = draw(rng, count, **size, flip_probability=0.5, erasing_probability=0.5, colours=colours)
    wanted = augment(pixels, plan, mean=MEAN, std=STD)
    ready = torch.from_numpy(pixels), packed(plan, height=height, width=width)
    there = move_data_to_device(ready, torch.device(place.device))
    found = augment_batch(*there, mean=MEAN, std=STD)
    taken = gpu_kernels.seconds_on_gpu(lambda: augment_batch(*there, mean=MEAN, std=STD))
    return {"differ": int((found.cpu() != wanted).sum()), "images_per_second": count / taken}


def augmentation_lines(here: Facts, _: Facts) -> list[Line]:
    equal = here["differ"] == 0
    what = "values unlike those made image by image on the CPU"
    return [
        line(what, here["differ"], twin=0, twin_is="to the bit", ok=equal),
        line("augmented in batches of 512", here["images_per_second"], "images/s"),
    ]


SMALL_TRAININGS = [(sampler, name) for sampler in ("softmax_triplet", "triplet", "softmax") for name in ("Adam",)]
SMALL_TRAININGS += [("softmax_triplet", "SGD"), ("softmax_triplet", "AdamW"), ("softmax_triplet", "RMSprop")]


def losses(place: Place) -> Facts:
    found: Facts = {}
    for sampler, optimizer in SMALL_TRAININGS:
        folder = place.own("losses")
        check_ranks.train(
            folder=str(folder), device=place.device, precision="32-true", sampler=sampler, optimizer=optimizer,
            backbone="timm/test_resnet", ranks=SINGLE_PROCESS,
        )  # fmt: skip
        kept = torch.load(folder / "of_1.pth", weights_only=True)
        norm = float(kept["gradient"].double().norm())
        found[f"{sampler}, {optimizer}"] = {"losses": [step["loss"] for step in kept["figures"]], "norm": norm}
    return found


def losses_lines(here: Facts, there: Facts) -> list[Line]:
    lines = []
    for name, ours in here.items():
        first = apart([ours["losses"][0], ours["norm"]], [there[name]["losses"][0], there[name]["norm"]])
        last = abs(ours["losses"][-1] - there[name]["losses"][-1]) / abs(there[name]["losses"][-1])
        note = f"first loss and gradient at most {first:.1e} apart, last loss {last:.1e}"
        lines.append(line(f"small network, fp32, {name}: loss after {len(ours['losses'])} steps", ours["losses"][-1],
                          twin=there[name]["losses"][-1], ok=first < 1e-4 and last < 0.2, note=note))  # fmt: skip
    return lines


def first_steps(place: Place) -> Facts:
    overrides = ("train.precision=32", "dataset.batch_size=32", "dataset.augment_on=device")
    return dict(some_first_steps(place, *overrides, steps=5))


def first_steps_lines(here: Facts, there: Facts) -> list[Line]:
    first = apart([here["losses"][0], here["gradient_norms"][0]], [there["losses"][0], there["gradient_norms"][0]])
    last = apart(here["losses"], there["losses"])
    note = f"first loss and gradient norm at most {first:.1e} apart, the first five losses {last:.1e}"
    return [line("the default network, fp32, batch 32: loss of the fifth step", here["losses"][-1],
                 twin=there["losses"][-1], ok=first < 1e-3 and last < 0.05, note=note)]  # fmt: skip


def ranks(place: Place) -> Facts:
    backbone = "timm/test_resnet" if place.dry else "resnet_50"
    found: Facts = {"nccl": check_ranks.by_nccl(place)["said"]}
    for precision in ("32-true", "bf16-mixed"):
        found[precision] = check_ranks.of_one_and_two(place, precision=precision, backbone=backbone)
    return found


def ranks_lines(here: Facts, _: Facts) -> list[Line]:
    lines = [line("NCCL between two ranks on one GPU", None, note=here["nccl"])]
    for precision in ("32-true", "bf16-mixed"):
        found = here[precision]
        most = max(1e-3, 1.5 * found["gradient_off"])  # the halves round independently of the whole
        note = f"first gradient {found['gradient_apart']:.1e} apart, weights at the end {found['weights_apart']:.1e}"
        lines.append(
            line(f"two ranks through gloo, shared statistics, {precision}: last loss", found["losses_of_two"][-1],
                 twin=found["losses"][-1], twin_is="one rank", ok=found["gradient_apart"] < most, note=note)
        )  # fmt: skip
    return lines


def evaluation(place: Place) -> Facts:
    return place.evaluate("trained")


FIGURES = ("mAP", "rank1", "reranked_mAP", "reranked_rank1")


def evaluation_lines(here: Facts, there: Facts) -> list[Line]:
    lines = [line(name, 100 * here[name], "%", twin=100 * there[name], ok=abs(here[name] - there[name]) < 1e-4)
             for name in FIGURES]  # fmt: skip
    ours, theirs = (Embeddings.load_npz(Path(facts["embeddings"])).vectors for facts in (here, there))
    close = parity(theirs, ours)
    return [
        line("least cosine between embeddings, less 1", close.worst_cosine - 1, ok=close.worst_cosine > 1 - 1e-5,
             note=f"{close.images} images, largest difference of a coordinate {close.max_abs:.1e}"),
        *lines,
        line("its embedding", here["images_per_second"], "images/s", twin=there["images_per_second"]),
        line("its re-ranking", here["rerank_seconds"], "s", twin=there["rerank_seconds"]),
    ]  # fmt: skip


def re_ranking(place: Place) -> Facts:
    sizes = {"gallery": 600, "device": "cpu"} if place.dry else {"device": place.device}
    return {str(width): gpu_kernels._re_ranking(width, **sizes) for width in ((8,) if place.dry else (256, 2048))}


def re_ranking_lines(here: Facts, _: Facts) -> list[Line]:
    return [
        line(f"Market-1501's size, {width}-d", found["s"], "s", twin=found["cpu_s"], ok=found["apart"] < 1e-6,
             note=f"at most {found['apart']:.1e} from the CPU's; copied to the host, too: {found['copied_s']:.2f} s; "
             f"peak {found['peak_gb']:.1f} GB")
        for width, found in here.items()
    ]  # fmt: skip


def export(place: Place) -> Facts:
    from reid.data.market1501 import Manifest
    from reid.deploy.onnx import OnnxModel
    from reid.deploy.opening import find_checkpoint
    from reid.model.checkpoint import load_model
    from reid.stages.export import export
    from reid.tracking.stage_run import StageRun
    from reid.training.images import decoded

    torch.backends.cudnn.allow_tf32 = False
    onnx, files = place.folder / "model.onnx", {"parity": place.folder / "parity.json"}
    spec = place.spec("export.parity_images=100", "export.overwrite=true")
    model = place.model("trained")
    outcome = export(spec, dataset=place.dataset, model=model, onnx=onnx, **files, run=StageRun.none())
    manifest, loaded = Manifest.load(place.dataset), load_model(find_checkpoint(model), device=place.device)
    pixels = np.array(decoded(spec, manifest.query, manifest.fingerprint)[:64])
    close = parity(OnnxModel(onnx)(loaded.contract.preprocess(pixels)), loaded.of_pixels().start(pixels)())
    return {"cpu": outcome.metrics["parity_worst_cosine"], "gpu": close.worst_cosine}


def export_lines(here: Facts, _: Facts) -> list[Line]:
    return [line("ONNX Runtime's embeddings against torch's on the GPU: least cosine, less 1", here["gpu"] - 1,
                 twin=here["cpu"] - 1, twin_is="torch's on the CPU", ok=here["gpu"] > 0.9999)]  # fmt: skip
