"""What the train stage's objects are for a given spec: contract, network, batches, LightningModule, validation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import nn

from reid.callbacks import UNTRAINED, Row
from reid.contract import Contract
from reid.data.market1501 import Manifest, Split
from reid.data.module import TrainingData
from reid.data.store import open_store
from reid.embeddings import Embeddings
from reid.errors import ArtifactError
from reid.lightning import Plateau, Training, build_losses
from reid.model.embedder import Embedder, build_embedder
from reid.model.weights import load_pretrained, resolve_stem_relu
from reid.resume import Start
from reid.schedule import build_optimizer, epoch_factor, parameter_groups
from reid.spec import Experiment
from reid.training import evaluating, network_of
from reid.validation import Validation

UNTRAINED_EMBEDDINGS = "untrained_embeddings.npz"
NETWORK_FIELDS = {
    "backbone", "last_stride", "neck", "neck_feat", "feat_dim", "with_flip_feature", "input_channels",
    "drop_path", "drop_out", "att_drop_rate", "dropout_rate", "reduce_feat_dim", "semantic_weight",
}  # fmt: skip
"""Of the spec's model section: those that build_embedder takes under the same name."""


def build_network(spec: Experiment, persons: list[int], start: Start | None) -> tuple[Embedder, list[str]]:
    """The network with its first weights (a checkpoint to continue from brings its own), and the account of them."""
    section = spec.model
    values = section.model_dump(include=NETWORK_FIELDS)
    values |= {"height": section.input_height, "width": section.input_width, "num_classes": len(persons)}
    if start:
        before = start.checkpoint["reid"]["model"]
        other = [name for name, value in values.items() if before.get(name) != value]
        if other or start.checkpoint["reid"]["persons"] != persons:
            what = f"{other[0]} {before.get(other[0])!r}, not {values[other[0]]!r}" if other else "other persons"
            raise ArtifactError(
                f"{start.path}: a checkpoint of another network: {what}\n  want: one of the spec's network and persons"
            )
        return build_embedder(**values, stem_relu=before["stem_relu"]), start.checkpoint["training"]["weights"]
    choice, path_name = section.pretrain_choice, section.pretrained_model_path
    weights_file = Path(path_name) if path_name else None
    setting = section.stem_relu if section.stem_relu == "auto" else section.stem_relu == "on"
    network = build_embedder(**values, stem_relu=resolve_stem_relu(setting, choice=choice, path=weights_file))
    loaded = load_pretrained(network, weights_file, choice=choice, min_share=section.min_matched_share)
    return network, loaded.lines() if loaded else []


def contract_of(spec: Experiment, embedding_size: int) -> Contract:
    channels = spec.model.input_channels

    def per_channel(values: list[float]) -> tuple[float, ...]:
        return tuple(values) if len(values) == channels else (sum(values) / len(values),)  # grey from RGB's figures

    return Contract(
        height=spec.model.input_height,
        width=spec.model.input_width,
        channels=channels,
        mean=per_channel(spec.dataset.pixel_mean),
        std=per_channel(spec.dataset.pixel_std),
        embedding=embedding_size,
        flip=spec.model.with_flip_feature,
    )


def decoded(spec: Experiment, split: Split, fingerprint: str) -> NDArray[np.uint8]:
    return open_store(
        split,
        height=spec.model.input_height,
        width=spec.model.input_width,
        channels=spec.model.input_channels,
        folder=Path(spec.store_dir),
        key=fingerprint,
    )


def build_data(
    spec: Experiment, images: Split, label: NDArray[np.int64], *, contract: Contract, fingerprint: str
) -> TrainingData:
    """The batches of the training images; label (N,) is each one's row of the classifier."""
    section = spec.dataset
    return TrainingData(
        decoded(spec, images, fingerprint),
        label,
        contract=contract,
        batch_size=section.batch_size,
        num_instances=None if section.sampler == "softmax" else section.num_instances,
        num_workers=section.num_workers,
        seed=spec.train.seed,
        padding=section.padding,
        flip_probability=section.prob,
        erasing_probability=section.re_prob,
    )


def build_module(spec: Experiment, network: Embedder) -> Training:
    section, optim = spec.model, spec.train.optim
    losses = build_losses(
        sampler=spec.dataset.sampler,
        metric_loss_type=section.metric_loss_type,
        with_center_loss=section.with_center_loss,
        label_smooth=section.label_smooth,
        triplet_loss_margin=optim.triplet_loss_margin,
        num_classes=network.num_classes,
        embedding_size=network.embedding_size,
    )

    def optimizer(module: nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(
            module,
            base_lr=optim.base_lr,
            weight_decay=optim.weight_decay,
            bias_lr_factor=optim.bias_lr_factor,
            weight_decay_bias=optim.weight_decay_bias,
        )
        return build_optimizer(optim.name, groups, optim.momentum)

    auto_reduce = optim.lr_scheduler == "AutoReduce"
    return Training(
        network,
        losses,
        optimizer=optimizer,
        epoch_factor=epoch_factor(
            warmup_method=optim.warmup_method,
            warmup_factor=optim.warmup_factor,
            warmup_iters=optim.warmup_iters,
            warmup_epochs=optim.warmup_epochs,
            lr_steps=[] if auto_reduce else optim.lr_steps,
            gamma=optim.gamma,
            num_epochs=spec.train.num_epochs,
        ),
        plateau=Plateau(gamma=optim.gamma) if auto_reduce else None,
        plateau_watches=optim.lr_monitor,
        clip_grad_norm=spec.train.clip_grad_norm,
        center_loss_weight=optim.center_loss_weight,
        center_lr=optim.center_lr,
    )


def validator(
    spec: Experiment, manifest: Manifest, contract: Contract, model: Path
) -> Callable[[pl.Trainer, Training, int], Row]:
    """A function that embeds query and gallery and gives the figures; the untrained network's embeddings are kept."""
    validation = Validation(
        manifest.query,
        manifest.gallery,
        decoded(spec, manifest.query, manifest.fingerprint),
        decoded(spec, manifest.gallery, manifest.fingerprint),
        contract=contract,
        batch_size=spec.dataset.val_batch_size,
        triplet_loss_margin=spec.train.optim.triplet_loss_margin,
    )

    def validate(trainer: pl.Trainer, module: Training, epoch: int) -> Row:
        what = "untrained network" if epoch == UNTRAINED else f"validation after epoch {epoch + 1}"
        with evaluating(module):
            query, gallery = validation.embed(network_of(trainer, module), what=what)
        if epoch == UNTRAINED:
            Embeddings.joined(query, gallery).save_npz(model / UNTRAINED_EMBEDDINGS)
        return validation.figures(query, gallery)

    return validate
