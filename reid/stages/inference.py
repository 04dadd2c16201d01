"""The inference stage: embeddings of every query and gallery image as one JSON list.

Also where a model artifact becomes a network that can be called, for this stage and for evaluate.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.data.market1501 import JUNK, Manifest, Split
from reid.distributed.devices import choose_devices, share_the_cpu
from reid.distributed.processes import started
from reid.distributed.ranks import SINGLE_PROCESS, Ranks
from reid.embeddings import Embeddings, Network, OfPixels, embed, write_json
from reid.errors import ArtifactError, SpecError
from reid.files.writing import copy_file, require_writable
from reid.spec import Experiment
from reid.stages.agreement import require_agreement
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)

CHECKPOINT_NAMES = ("reid_model_best.pth", "reid_model_latest.pth")
"""In a model directory, the one to use first."""


@dataclass(frozen=True)
class OpenModel:
    """A model ready to embed, whatever file it came from."""

    file: Path
    network: Network | OfPixels
    contract: Contract
    settings: dict[str, str] = field(default_factory=dict)
    """What the report tells of it: backbone, device."""


def inference(spec: Experiment, *, dataset: Path, model: Path, embeddings: Path, run: StageRun) -> Outcome:
    """Writes {"img_path", "embedding"} of all query images, then all gallery images (junk too), sorted, un-normalised.

    spec.inference.output_file, where set, gets the same file; one that is there is replaced.
    """
    for file in (embeddings, spec.inference.output_file):
        require_writable(file)
    section = spec.inference
    devices = choose_devices(
        "inference", num_gpus=section.num_gpus, gpu_ids=section.gpu_ids, cpu_processes=section.cpu_processes
    )
    opened, parts, images_per_second = embed_on_devices(
        find_checkpoint(model),
        devices,
        dataset=dataset,
        batch_size=spec.dataset.val_batch_size,
        store=Path(spec.store_dir),
        with_junk=True,
        check=lambda opened: require_agreement(spec, opened.contract, opened.settings.get("backbone"), opened.file),
    )
    write_json(embeddings, *parts.values())
    if spec.inference.output_file:
        copy_file(embeddings, Path(spec.inference.output_file))
        logger.info("the same rows are in inference.output_file: %s", spec.inference.output_file)
    rows = sum(len(part) for part in parts.values())
    run.log_params({"checkpoint": opened.file.name, **opened.settings})
    return Outcome(
        metrics={
            "rows": float(rows),
            "embedding_width": float(opened.contract.embedding),
            "images_per_second": images_per_second,
        },
        lines=[f"{rows:,} embeddings of width {opened.contract.embedding} at {images_per_second:.0f} images/s"],
    )


def find_checkpoint(model: Path) -> Path:
    """The file to load: `model` itself, or the best, else the latest checkpoint of a model directory."""
    if model.is_file():
        return model
    for name in CHECKPOINT_NAMES:
        if (model / name).is_file():
            return model / name
    found = "an empty folder" if model.is_dir() else "nothing there"
    if model.is_dir() and (names := sorted(entry.name for entry in model.iterdir())):
        found = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    raise ArtifactError(
        f"{model}: no model\n  found: {found}\n  want:  a checkpoint, or a folder with {CHECKPOINT_NAMES[0]}"
    )


def open_model(file: Path, *, gpu_id: int, images: int) -> OpenModel:
    """The model of a file, by its ending, to embed so many images; ArtifactError for an ending that no opener knows."""
    opener = OPENERS.get(file.suffix.lower())
    if opener is None:
        raise ArtifactError(f"{file}: not a model this stage can run\n  want: one of {', '.join(sorted(OPENERS))}")
    return opener(file, gpu_id, images)


def _open_checkpoint(file: Path, gpu_id: int, images: int) -> OpenModel:
    import torch

    from reid.model.checkpoint import load_model

    device = _device(gpu_id, present=torch.cuda.device_count())
    torch.backends.cudnn.allow_tf32 = False  # whole float32 in convolutions: a GPU's embeddings are the CPU's
    loaded = load_model(file, device=device)
    backbone = str(loaded.settings.get("backbone", "unknown"))
    told = {"backbone": backbone, "device": device}
    if device == "cpu":
        from reid.deploy.onnx_in_memory import faster_on_the_cpu

        threads = torch.get_num_threads()
        if model := faster_on_the_cpu(loaded, images=images, threads=threads, name=file.name):
            return OpenModel(file, model, loaded.contract, told | {"runner": "ONNX Runtime, FP32"})
    return OpenModel(file, loaded.of_pixels(), loaded.contract, told)


def _device(gpu_id: int, *, present: int) -> str:
    """torch's name of the GPU, or of the CPU on a machine without any; SpecError where this one is not there."""
    if not present:
        return "cpu"
    if gpu_id >= present:
        raise SpecError(f"gpu_ids: GPU {gpu_id} is not there\n  found: {present} (0..{present - 1})")
    return f"cuda:{gpu_id}"


def _open_onnx(file: Path, _gpu_id: int, _images: int) -> OpenModel:
    from reid.deploy.onnx import OnnxModel

    opened = OnnxModel(file)
    logger.info("%s: ONNX Runtime runs it on the CPU", file.name)
    backbone = str(opened.settings.get("backbone", "unknown"))
    told = {"backbone": backbone, "device": "cpu", "runner": f"ONNX Runtime, {opened.data_type}"}
    return OpenModel(file, opened, opened.contract, told)


def _open_engine(file: Path, gpu_id: int, _images: int) -> OpenModel:
    from reid.deploy.engine import EngineModel

    opened = EngineModel(file, gpu_id=gpu_id)
    record = opened.record
    runner = f"{record.package} {record.version}, {record.data_type}"
    return OpenModel(file, opened, opened.contract, {"device": opened.gpu.name, "runner": runner})


OPENERS: dict[str, Callable[[Path, int, int], OpenModel]] = {
    ".pth": _open_checkpoint,
    ".tlt": _open_checkpoint,
    ".onnx": _open_onnx,
    ".engine": _open_engine,
    ".plan": _open_engine,
}
"""File ending -> (file, gpu_id, images) -> model."""


def embed_on_devices(
    file: Path,
    devices: Sequence[str],
    *,
    dataset: Path,
    batch_size: int,
    store: Path,
    with_junk: bool,
    check: Callable[[OpenModel], None],
) -> tuple[OpenModel, dict[str, Embeddings], float]:
    """The model, the embeddings of query and gallery, and images per second; each device has a process and takes turns
    at the batches, so that the result is that of one. `check` may refuse the model before it embeds anything.
    """
    request: dict[str, Any] = {
        "file": str(file),
        "devices": list(devices),
        "dataset": str(dataset),
        "batch_size": batch_size,
        "store": str(store),
        "with_junk": with_junk,
    }
    with started(len(devices), "reid.stages.inference:embed_along", request) as ranks:
        return _embed_as(ranks, check=check, **request)


def embed_along(*, ranks: Ranks, **request: Any) -> None:
    """What every rank but the first does of embed_on_devices."""
    _embed_as(ranks, check=lambda _: None, **request)


def _embed_as(
    ranks: Ranks,
    *,
    file: str,
    devices: list[str],
    dataset: str,
    batch_size: int,
    store: str,
    with_junk: bool,
    check: Callable[[OpenModel], None],
) -> tuple[OpenModel, dict[str, Embeddings], float]:
    share_the_cpu(devices)
    manifest = Manifest.load(Path(dataset))
    gpu_id = int(devices[ranks.rank].removeprefix("cpu").removeprefix("cuda:") or 0)
    images = (len(manifest.query) + len(manifest.gallery)) // ranks.size
    model = open_model(Path(file), gpu_id=gpu_id, images=images)
    check(model)
    parts, images_per_second = embed_splits(
        model,
        {"query": manifest.query, "gallery": manifest.gallery},
        batch_size=batch_size,
        store=Path(store),
        key=manifest.fingerprint,
        keep=None if with_junk else {"gallery": manifest.gallery.person != JUNK},
        ranks=ranks,
    )
    return model, parts, images_per_second


def embed_splits(
    model: OpenModel,
    splits: dict[str, Split],
    *,
    batch_size: int,
    store: Path,
    key: str,
    keep: dict[str, NDArray[np.bool_]] | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> tuple[dict[str, Embeddings], float]:
    """Embeddings of each split, and the images per second that the network and its preprocessing reached.

    Images come from the decode-once store in folder `store`; with `keep`, only some images (N,) of a split. Several
    ranks share the batches, and rank 0 has all rows then.
    """
    from reid.data.store import open_store

    parts: dict[str, Embeddings] = {}
    seconds = 0.0
    size = {"height": model.contract.height, "width": model.contract.width, "channels": model.contract.channels}
    for name, split in splits.items():
        pixels = open_store(split, **size, folder=store, key=key)
        started = time.perf_counter()
        wanted = keep.get(name) if keep else None
        parts[name] = embed(
            split,
            pixels,
            model.network,
            contract=model.contract,
            batch_size=batch_size,
            what=f"embedding {name}",
            keep=wanted,
            ranks=ranks,
        )
        seconds += time.perf_counter() - started
    images = sum(len(part) for part in parts.values())
    return parts, images / max(seconds, 1e-9)
