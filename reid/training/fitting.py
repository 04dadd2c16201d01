"""A training on its devices: what every rank prepares, and the steps that all ranks do together.

On one device the train stage's own process does it; for several, `run_on_ranks` has every rank call `train_as_rank`.
All ranks prepare the same network and batches from the same spec, seed and checkpoint, so nothing but gradients,
figures and wishes to stop travels between them. Only rank 0 writes checkpoints, and tells the stage what to log.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from reid.contract import Contract
from reid.data.market1501 import Manifest
from reid.data.module import TrainingData
from reid.data.sampler import rank_columns
from reid.distributed.devices import ComputePlan, plan_training, share_the_cpu
from reid.distributed.group import StoppedTogether, Tell
from reid.distributed.launching import devices_here, run_on_ranks
from reid.distributed.ranks import Ranks
from reid.errors import DatasetError, SpecError
from reid.model.backbones import is_convolutional
from reid.model.checkpoint import reid_entry
from reid.model.embedder import Embedder
from reid.spec import Experiment
from reid.spec.network import contract_of
from reid.spec.secret import open_values
from reid.tracking.stage_run import StageRun
from reid.training.choosing import ImagesByRole, chosen_on, shares_of
from reid.training.history import Row
from reid.training.images import build_data, images_of, roles_of, test_images_of, validation_of
from reid.training.monitor import LogsMetrics, StepMonitor
from reid.training.recipe import build_module, build_network
from reid.training.record import Record, ToldMetrics, ignore_row
from reid.training.refusals import refuse_batch_of_one
from reid.training.resume import LATEST, DurableCheckpoints, Start, read_training_checkpoint
from reid.training.stopping import Stopping
from reid.training.trainer import fit, seed_everything
from reid.training.validating import build_validate
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
    epoch_ended: Callable[[Row], None] = ignore_row,
) -> tuple[list[Row], list[str]]:
    """Trains on all devices that the spec asks for; returns the history and the lines of the weights report.

    `epoch_ended` is called with each new row of the history, in this process only.
    """
    request = {
        "spec": open_values(spec),
        "settings": settings,
        "dataset": str(dataset),
        "model": str(model),
        "start": str(start.path) if start else None,
    }
    devices = devices_for_training(spec)
    function = "reid.training.fitting:train_as_rank"

    def hear_row(row: Row) -> None:  # told by name, whatever the caller's function names it
        epoch_ended(row)

    heard: dict[str, Callable[..., None]] = {"log_metrics": run.log_metrics, "epoch_ended": hear_row}
    try:
        history, weights = run_on_ranks(
            function,
            {**request, "devices": devices},
            local=len(devices),
            heard=heard,
            known={"known": (manifest, start)},
        )
    except KeyboardInterrupt:
        latest = model / LATEST
        logger.warning("interrupted; the next run %s", f"resumes from {latest}" if latest.exists() else "starts anew")
        raise
    return history, weights


def devices_for_training(spec: Experiment) -> tuple[str, ...]:
    """The device of each rank of this machine."""
    options = spec.train
    return devices_here(
        "train",
        num_gpus=options.num_gpus,
        gpu_ids=options.gpu_ids,
        cpu_processes=options.cpu_processes,
    )


def train_as_rank(
    *,
    spec: dict[str, Any],
    settings: dict[str, Any],
    dataset: str,
    model: str,
    start: str | None,
    devices: Sequence[str],
    ranks: Ranks,
    tell: Tell,
    known: tuple[Manifest, Start | None] | None = None,
) -> tuple[list[Row], list[str]]:
    """The part of one rank; returns the history and the lines of the weights report, the same on all ranks.

    Only rank 0 reads the manifest and the checkpoint, if they are not known, and sends them to the others: all start
    from the same point, also on a machine that does not have the results folder.
    """
    experiment = Experiment.model_validate(spec)
    share_the_cpu(devices)
    if not ranks.rank and not known:
        known = Manifest.load(Path(dataset)), read_training_checkpoint(Path(start)) if start else None
    manifest, resumed = ranks.share(known)
    parts = _prepare(experiment, manifest, resumed, tuple(devices), machines=ranks.machines)
    ranks.meet()  # another machine may have to decode its images first
    _require_agreement(parts.plan, ranks)
    run = ToldMetrics(tell)
    run.log_metrics({"skipped_images": parts.images.skipped})
    history = _fit(
        experiment, parts, settings=settings, model=Path(model), start=resumed, ranks=ranks, run=run, tell=tell
    )
    return history, parts.weights


def _require_agreement(plan: ComputePlan, ranks: Ranks) -> None:
    """Raises SpecError if this rank would compute otherwise than rank 0, because its machine has or lacks something."""
    own, first = plan.in_words(), ranks.share(plan.in_words())
    if own != first:
        raise SpecError(
            "train.precision, train.compile: auto gives another choice on rank "
            f"{ranks.rank}, whose machine differs from rank 0's\n"
            f"  found: {own}\n  want:  {first}; give train.precision and train.compile a fixed value"
        )


@dataclass(frozen=True)
class TrainingParts:
    """What a training needs before its first step."""

    plan: ComputePlan
    images: ImagesByRole
    persons: list[int]
    network: Embedder
    weights: list[str]
    """The lines of the report on the network's first weights."""
    contract: Contract
    data: TrainingData
    validation: Validation
    """The images on which the best checkpoint is chosen."""
    test_images: Validation
    """The images that the evaluate stage reports; the same object if no person is held out."""
    chosen_on: str
    """What the best checkpoint is chosen on, in words."""
    fingerprint: str
    """Fingerprint of the data set."""


def _prepare(
    spec: Experiment, manifest: Manifest, start: Start | None, devices: tuple[str, ...], *, machines: int
) -> TrainingParts:
    """Decoded images, the network and its first weights; the same on every rank."""
    roles = roles_of(spec, manifest)
    images = images_of(spec, manifest, roles)
    persons, label = np.unique(images.train.person, return_inverse=True)
    _check_persons(spec, images)
    rank_columns(
        batch_size=spec.dataset.batch_size,
        num_instances=spec.dataset.num_instances if spec.dataset.sampler != "softmax" else 1,
        world_size=len(devices) * machines,
        rank=0,
    )
    torch.backends.cudnn.allow_tf32 = False  # precision 32 has 32 bits in convolutions too
    seed_everything(spec.train.seed)
    network, weights = build_network(spec, persons.tolist(), start)
    contract = contract_of(spec, network.embedding_size)
    refuse_batch_of_one(network, batch_size=spec.dataset.batch_size, contract=contract)
    plan = plan_training(
        devices,
        precision=spec.train.precision,
        channels_last=spec.train.channels_last,
        compile=spec.train.compile,
        compile_mode=spec.train.compile_mode,
        compile_above_images=spec.train.compile_above_images,
        benchmark=spec.train.cudnn.benchmark,
        deterministic=spec.train.cudnn.deterministic,
        augment_on=spec.dataset.augment_on,
        convolutional=is_convolutional(network.base),
        images=spec.train.num_epochs * len(images.train),
        machines=machines,
    )
    data = build_data(
        spec,
        images.train,
        label,
        contract=contract,
        fingerprint=manifest.fingerprint,
        pixels=images.train_pixels,
        shares=shares_of(manifest, images.train),
        on_device=plan.augments,
        channels_last=plan.channels_last,
    )
    validation = validation_of(spec, images, contract, in_words=chosen_on(roles))
    return TrainingParts(
        plan,
        images,
        persons.tolist(),
        network,
        weights,
        contract,
        data,
        validation,
        test_images=test_images_of(spec, manifest, validation),
        chosen_on=chosen_on(roles),
        fingerprint=manifest.fingerprint,
    )


def _fit(
    spec: Experiment,
    parts: TrainingParts,
    *,
    settings: dict[str, Any],
    model: Path,
    start: Start | None,
    ranks: Ranks,
    run: LogsMetrics,
    tell: Tell,
) -> list[Row]:
    """Trains as one of the ranks; returns the history."""

    def save(trainer: pl.Trainer, epoch: int, steps_done: int) -> None:
        record.save_within(trainer, epoch, steps_done)

    checkpoints = DurableCheckpoints()
    steps = _step_monitor(spec, parts, model=model, start=start, ranks=ranks, run=run)
    stopping = Stopping(ranks, save=save, every_minutes=spec.train.checkpoint_minutes)
    record = Record(
        model,
        steps=steps,
        validate=build_validate(
            parts.validation,
            parts.test_images,
            model,
            channels_last=parts.plan.channels_last,
            ranks=ranks,
            check=stopping.check,
        ),
        epochs=spec.train.num_epochs,
        validation_interval=spec.train.validation_interval,
        checkpoint_interval=spec.train.checkpoint_interval,
        reid=reid_entry(
            model=parts.network.settings,
            contract=parts.contract,
            persons=parts.persons,
            chosen_on=parts.chosen_on,
            chosen_fingerprint=parts.fingerprint,
        ),
        training={"settings": settings, "weights": parts.weights},
        history=start.checkpoint["training"].get("history", []) if start else [],
        checkpoints=checkpoints,
        run=run,
        epoch_ended=lambda row: tell("epoch_ended", row=row),
    )
    try:
        fit(
            build_module(spec, parts.network),
            parts.data,
            callbacks=[steps, stopping, record],
            plan=parts.plan,
            checkpoints=checkpoints,
            epochs=spec.train.num_epochs,
            start=start,
            folder=model,
        )
    except KeyboardInterrupt:
        if stopping.together:
            raise StoppedTogether from None
        raise
    return record.history


def _step_monitor(
    spec: Experiment, parts: TrainingParts, *, model: Path, start: Start | None, ranks: Ranks, run: LogsMetrics
) -> StepMonitor:
    """The monitor of the training's steps, with what a checkpoint within an epoch knows of that epoch so far."""
    steps = StepMonitor(
        model,
        epochs=spec.train.num_epochs,
        steps=len(parts.data.steps()),
        batch_size=spec.dataset.batch_size,
        files=[image.file for image in parts.images.train.images],
        ranks=ranks,
        run=run,
    )
    if start and start.step:
        steps.restore(start.checkpoint["training"]["steps"])
    return steps


def _check_persons(spec: Experiment, images: ImagesByRole) -> None:
    """Raises DatasetError if the images, held-out ones included, are not of as many persons as the spec says."""
    wanted, persons = spec.dataset.num_classes, images.all_persons
    if wanted not in (None, persons):
        raise DatasetError(
            f"{images.train.root}: {persons} persons\n  dataset.num_classes: {wanted}\n"
            f"  want: dataset.num_classes={persons}, or null to count them"
        )
