"""A training on its devices: what every rank makes ready, and the steps that they do together."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from reid.contract import Contract
from reid.data.market1501 import Manifest, Split
from reid.data.module import TrainingData
from reid.data.sampler import rank_columns
from reid.distributed.devices import Device, choose_device, choose_devices, share_the_cpu
from reid.distributed.processes import started
from reid.distributed.ranks import Ranks
from reid.errors import DatasetError
from reid.model.backbones import is_convolutional
from reid.model.checkpoint import reid_entry
from reid.model.embedder import Embedder
from reid.spec import Experiment
from reid.spec.network import contract_of
from reid.spec.secret import open_values
from reid.tracking.stage_run import StageRun
from reid.training.callbacks import Record, StepMonitor
from reid.training.history import Row
from reid.training.recipe import (
    build_data,
    build_module,
    build_network,
    readable,
    validation_of,
    validator,
)
from reid.training.resume import LATEST, DurableCheckpoints, Start, read_training_checkpoint
from reid.training.stopping import Stopping
from reid.training.trainer import fit, seed_everything
from reid.training.validation import Validation

logger = logging.getLogger(__name__)


def train_on_devices(
    spec: Experiment,
    manifest: Manifest,
    *,
    settings: dict[str, Any],
    dataset: Path,
    model: Path,
    start: Start | None,
    run: StageRun,
) -> tuple[list[Row], list[str]]:
    """Trains, on all the devices that the spec asks for; returns the history and the weights report's lines."""
    options = spec.train
    names = choose_devices(
        "train", num_gpus=options.num_gpus, gpu_ids=options.gpu_ids, cpu_processes=options.cpu_processes
    )
    share_the_cpu(names)
    parts = _prepared(spec, manifest, start, names)
    run.log_metrics({"skipped_images": len(manifest.train.of_persons()) - len(parts.images)})
    request = {
        "spec": open_values(spec),
        "dataset": str(dataset),
        "model": str(model),
        "start": str(start.path) if start else None,
        "names": names,
    }
    try:
        with started(len(names), "reid.training.fitting:train_worker", request) as ranks:
            history = _fit(spec, parts, settings=settings, model=model, start=start, ranks=ranks, run=run)
    except KeyboardInterrupt:
        latest = model / LATEST
        logger.warning("interrupted; the next run %s", f"continues from {latest}" if latest.exists() else "starts anew")
        raise
    return history, parts.weights


def train_worker(
    *, spec: dict[str, Any], dataset: str, model: str, start: str | None, names: list[str], ranks: Ranks
) -> None:
    """What every rank but the first does of a training: the same steps, with its part of each batch; writes nothing."""
    experiment, manifest = Experiment.model_validate(spec), Manifest.load(Path(dataset))
    going_on = read_training_checkpoint(Path(start)) if start else None
    share_the_cpu(names)
    parts = _prepared(experiment, manifest, going_on, tuple(names))
    _fit(experiment, parts, settings={}, model=Path(model), start=going_on, ranks=ranks, run=StageRun.none())


@dataclass(frozen=True)
class Parts:
    """All that a training is made of, before its first step."""

    device: Device
    images: Split
    persons: list[int]
    network: Embedder
    weights: list[str]
    """Lines of the report on them."""
    contract: Contract
    data: TrainingData
    validation: Validation


def _prepared(spec: Experiment, manifest: Manifest, start: Start | None, names: tuple[str, ...]) -> Parts:
    """The same on every rank: decoded images, the network and its first weights."""
    images = readable(spec, manifest.train.of_persons(), manifest.fingerprint)
    persons, label = np.unique(images.person, return_inverse=True)
    _check_persons(spec, images, len(persons))
    rank_columns(
        batch_size=spec.dataset.batch_size,
        num_instances=spec.dataset.num_instances if spec.dataset.sampler != "softmax" else 1,
        world_size=len(names),
        rank=0,
    )
    torch.backends.cudnn.benchmark = spec.train.cudnn.benchmark
    torch.backends.cudnn.deterministic = spec.train.cudnn.deterministic
    torch.backends.cudnn.allow_tf32 = False  # precision 32 has 32 bits in convolutions too
    seed_everything(spec.train.seed)
    network, weights = build_network(spec, persons.tolist(), start)
    contract = contract_of(spec, network.embedding_size)
    device = choose_device(
        names,
        precision=spec.train.precision,
        channels_last=spec.train.channels_last,
        compile=spec.train.compile,
        augment_on=spec.dataset.augment_on,
        convolutional=is_convolutional(network.base),
        images=spec.train.num_epochs * len(images),
    )
    data = build_data(
        spec,
        images,
        label,
        contract=contract,
        fingerprint=manifest.fingerprint,
        on_device=device.augments,
        channels_last=device.channels_last,
    )
    validation = validation_of(spec, manifest, contract)
    return Parts(device, images, persons.tolist(), network, weights, contract, data, validation)


def _fit(
    spec: Experiment,
    parts: Parts,
    *,
    settings: dict[str, Any],
    model: Path,
    start: Start | None,
    ranks: Ranks,
    run: StageRun,
) -> list[Row]:
    """Trains as one of the ranks; returns the history."""
    options = spec.train
    steps = StepMonitor(
        model,
        epochs=options.num_epochs,
        steps=len(parts.data.steps()),
        batch_size=spec.dataset.batch_size,
        files=[image.file for image in parts.images.images],
        ranks=ranks,
        run=run,
    )
    before = start.checkpoint["training"] if start else {}
    if start and start.step:
        steps.restore(before["steps"])

    def save(trainer: pl.Trainer, epoch: int, steps_done: int) -> None:
        record.save_within(trainer, epoch, steps_done)

    checkpoints = DurableCheckpoints()
    stopping = Stopping(ranks, save=save, every_minutes=options.checkpoint_minutes)
    record = Record(
        model,
        steps=steps,
        validate=validator(
            parts.validation,
            model,
            channels_last=parts.device.channels_last,
            ranks=ranks,
            check=stopping.check,
        ),
        epochs=options.num_epochs,
        validation_interval=options.validation_interval,
        checkpoint_interval=options.checkpoint_interval,
        reid=reid_entry(model=parts.network.settings, contract=parts.contract, persons=parts.persons),
        training={"settings": settings, "weights": parts.weights},
        history=before.get("history", []),
        checkpoints=checkpoints,
        run=run,
    )
    fit(
        build_module(spec, parts.network),
        parts.data,
        callbacks=[steps, stopping, record],
        device=parts.device,
        checkpoints=checkpoints,
        epochs=options.num_epochs,
        start=start,
        folder=model,
    )
    return record.history


def _check_persons(spec: Experiment, images: Split, persons: int) -> None:
    wanted = spec.dataset.num_classes
    if wanted not in (None, persons):
        raise DatasetError(
            f"{images.root}: {persons} persons\n  dataset.num_classes: {wanted}\n"
            f"  want: dataset.num_classes={persons}, or null to count them"
        )
