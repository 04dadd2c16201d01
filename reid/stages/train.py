"""The train stage: from the data set's manifest to a model directory with checkpoints, curves and a report.

If the model directory holds a training already, the stage resumes it from its newest checkpoint. That is only sound if
everything that decides the result is as it was, so the deciding settings are stored in each checkpoint and compared. A
checkpoint that the spec names may differ in them, as long as its network and optimizer fit: then other settings are
what is wanted.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reid.data.market1501 import Manifest
from reid.data.selection import Roles
from reid.distributed.launching import require_machines
from reid.embeddings import UNTRAINED_EMBEDDINGS
from reid.errors import TrainingError
from reid.files.writing import copy_file, replacing
from reid.model.checkpoint import AVERAGE
from reid.reports.plots import training_curves
from reid.reports.training import training_page
from reid.spec import Experiment
from reid.spec.facts import DecidesTraining
from reid.spec.fields import fields_with, value_of
from reid.spec.names import trains_as_taos_swin
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun
from reid.training.choosing import chosen_on
from reid.training.fitting import train_on_devices
from reid.training.history import Row, best_row, write_history
from reid.training.images import roles_of
from reid.training.record import ignore_row
from reid.training.refusals import refuse_other_network, way_on
from reid.training.resume import (
    BEST,
    Start,
    bring_checkpoints,
    newest_checkpoint,
    read_training_checkpoint,
)

logger = logging.getLogger(__name__)


def train(
    spec: Experiment,
    *,
    dataset: Path,
    model: Path,
    report: Path,
    run: StageRun,
    epoch_ended: Callable[[Row], None] = ignore_row,
) -> Outcome:
    """Trains the network of the spec; `model` becomes the model directory, `report` an HTML page.

    Resumes the training that is in `model` already; if that is finished, only its figures are returned. `epoch_ended`
    is called with each new row of the history as soon as its epoch ends. Raises TrainingError if that training had
    other settings or a loss is not finite, ArtifactError if a checkpoint that the spec names is of another network,
    KeyboardInterrupt if the training is interrupted.
    """
    gpus = max(spec.train.num_gpus, len(set(spec.train.gpu_ids)))
    require_machines("train", num_nodes=spec.train.num_nodes, num_gpus=gpus)
    manifest = Manifest.load(dataset)
    roles = roles_of(spec, manifest)
    settings = _settings(spec, manifest)
    model.mkdir(parents=True, exist_ok=True)
    start = _starting_point(spec, manifest, model, settings)
    if start and start.epochs_done >= spec.train.num_epochs:
        history, weights = start.checkpoint["training"]["history"], start.checkpoint["training"]["weights"]
    else:
        history, weights = train_on_devices(
            spec,
            manifest,
            settings=settings,
            dataset=dataset,
            model=model,
            start=start,
            run=run,
            epoch_ended=epoch_ended,
        )
    return _conclude(
        history,
        weights=weights,
        settings=settings,
        roles=roles,
        model=model,
        report=report,
        run=run,
    )


def _settings(spec: Experiment, manifest: Manifest) -> dict[str, Any]:
    """The fields that decide what a training gives, by their dotted names, the data set's fingerprint and shares."""
    shares = {f"dataset.train_sets.{part.name}.share": part.share for part in manifest.train_sets if part.share}
    return {"fingerprint": manifest.fingerprint, **shares, **_deciding_fields(spec)}


def _deciding_fields(spec: Experiment) -> dict[str, Any]:
    """The fields that decide what a training gives, by their dotted names."""
    return {name: value_of(spec, name) for name, fact in fields_with(DecidesTraining).items() if fact.decides}


def _settings_of(start: Start) -> dict[str, Any]:
    """The settings of the training of a checkpoint. Those that are newer than it have the value that was the rule then.

    For nearly all that is today's default.
    """
    settings: dict[str, Any] = start.checkpoint["training"]["settings"]
    formerly: dict[str, Any] = {}
    if settings.get("train.optim.warmup_method") == "cosine":
        formerly["train.optim.cosine_first_epoch"] = 1
    if trains_as_taos_swin(settings.get("model.backbone", "")):
        formerly |= {"dataset.erasing": "mean", "dataset.train_resize": "bilinear"}
    return _deciding_fields(Experiment()) | formerly | settings


def _starting_point(spec: Experiment, manifest: Manifest, model: Path, settings: dict[str, Any]) -> Start | None:
    """The checkpoint to resume from, which is logged; None to begin.

    If the spec names a checkpoint in another folder, its best checkpoint and its untrained embeddings are copied to
    `model`; if no epoch is left to train, the checkpoint itself too.
    """
    named = spec.train.resume_training_checkpoint_path
    start = read_training_checkpoint(Path(named)) if named else newest_checkpoint(model)
    if not start:
        return None
    finished = start.epochs_done >= spec.train.num_epochs
    _compare_settings(spec, manifest, settings, start)
    if finished:
        done = f"all {start.epochs_done}" if start.epochs_done == spec.train.num_epochs else str(start.epochs_done)
        logger.info("%s: %s epochs are done already", start.path, done)
    else:
        step = f", step {start.step} of the next" if start.step else ""
        logger.info("continuing from epoch %d of %d%s: %s", start.epochs_done, spec.train.num_epochs, step, start.path)
    if start.path.resolve().parent != model.resolve():
        best = best_row(start.checkpoint["training"]["history"])
        bring_checkpoints(start, model, best_epoch=int(best["epoch"]) if best else None, latest_too=finished)
        untrained = start.path.with_name(UNTRAINED_EMBEDDINGS)
        if untrained.exists():
            copy_file(untrained, model / UNTRAINED_EMBEDDINGS)
    return start


def _compare_settings(spec: Experiment, manifest: Manifest, settings: dict[str, Any], start: Start) -> None:
    """Raises TrainingError or ArtifactError if the training of a checkpoint cannot be resumed under the spec.

    The newest checkpoint of the model directory needs equal settings. One that the spec names may have others, if the
    network, the persons and the optimizer are the same and there is an epoch left to train.
    """
    named = spec.train.resume_training_checkpoint_path
    before = _settings_of(start)
    differing = sorted(name for name in before | settings if before.get(name) != settings.get(name))
    first = (
        f"{differing[0]}: then {before.get(differing[0])!r}, now {settings.get(differing[0])!r}" if differing else ""
    )
    roles = roles_of(spec, manifest)
    persons = np.unique((roles.train if roles else manifest.train.of_persons()).person).tolist()
    if differing and not named:
        raise TrainingError(
            f"{start.path}: a training with other settings: {len(differing)} differ\n  first: {first}\n"
            f"  want: the earlier settings; or another train.results_dir for the new ones{way_on(spec, persons, start)}"
        )
    refuse_other_network(spec, persons, start)
    if differing and start.epochs_done >= spec.train.num_epochs:
        raise TrainingError(
            f"{start.path}: finished, after {start.epochs_done} epochs, with other settings: {len(differing)} differ\n"
            f"  first: {first}\n"
            f"  want: the earlier settings; or more epochs, train.num_epochs={start.epochs_done + 1} or above"
        )
    if differing:
        logger.warning("%s: continuing with other settings: %d differ, first %s", start.path, len(differing), first)
    if AVERAGE in start.checkpoint and not spec.train.ema_decay:
        logger.warning("%s: its averaged weights are left behind, because train.ema_decay is 0", start.path)
    if AVERAGE not in start.checkpoint and spec.train.ema_decay:
        logger.warning("%s: has no averaged weights; the average begins with its weights", start.path)


def _conclude(
    history: list[Row],
    *,
    weights: list[str],
    settings: dict[str, Any],
    roles: Roles | None,
    model: Path,
    report: Path,
    run: StageRun,
) -> Outcome:
    """Writes the curves and the report; returns the figures of the best checkpoint."""
    write_history(model, history)
    chosen = chosen_on(roles)
    curves = model / "training_curves.png"
    training_curves(history, curves)
    best, last, epochs = best_row(history), history[-1], len(history) - 1
    page = training_page(
        history,
        best=best,
        subtitle=f"{settings['model.backbone']}, {epochs} epochs; the best is {BEST}, chosen on {chosen}",
        ranked_on=chosen,
        weights=weights,
        settings=[(name, str(value)) for name, value in settings.items()],
    )
    with replacing(report) as partial:
        partial.write_text(page, encoding="utf-8")
    for file in (curves, report, model / "history.json"):
        run.log_artifact(file)
    run.log_params({"weights": "\n".join(weights) or "random", "validated_on": chosen})
    metrics = _metrics(history, best)
    lines = [f"{epochs} epochs, {metrics['images_per_second']:.0f} images/s, training loss {last['train_loss']:.3f}"]
    if best and "untrained_mAP" in metrics:
        lines.insert(
            0,
            f"plain mAP {100 * metrics['untrained_mAP']:.1f} -> {100 * best['mAP']:.1f}, "
            f"rank-1 {100 * metrics['untrained_rank1']:.1f} -> {100 * best['rank1']:.1f} "
            f"(best after epoch {int(best['epoch']) + 1}{f'; of {chosen}' if roles else ''})",
        )
    return Outcome(metrics, lines=lines)


def _metrics(history: list[Row], best: Row) -> dict[str, float]:
    """The stage's metrics: best_epoch counts from 1, as the curves' axis; mAP and rank-k are the best checkpoint's."""
    untrained, epochs = history[0], history[1:]
    images = sum(row["images_per_second"] * row["seconds"] for row in epochs)
    metrics = {
        "epochs": float(len(epochs)),
        "train_loss": epochs[-1]["train_loss"],
        "images_per_second": images / sum(row["seconds"] for row in epochs),
    }
    metrics |= {f"untrained_{name}": untrained[name] for name in ("mAP", "rank1") if name in untrained}
    if best:
        metrics |= {"best_mAP": best["mAP"], "best_epoch": best["epoch"] + 1}
        metrics |= {name: best[name] for name in ("rank1", "rank5", "rank10", "mINP")}
    return metrics
