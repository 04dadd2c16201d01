"""Builds the objects of a training from the spec: network, batches, LightningModule, validation."""

import copy
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import nn

from reid.contract import Contract
from reid.data.colours import Colours
from reid.data.file_index import read_image
from reid.data.market1501 import Manifest, Split
from reid.data.module import TrainingData
from reid.data.picked import DecodedImages
from reid.data.selection import Roles
from reid.data.set_shares import SetShares
from reid.data.store import open_store
from reid.distributed.ranks import Ranks
from reid.embeddings import UNTRAINED_EMBEDDINGS, Embeddings
from reid.errors import ArtifactError, SpecError, UnreadableImage
from reid.model.checkpoint import ADDED_SETTINGS
from reid.model.embedder import Embedder, build_embedder
from reid.model.vit import is_vit
from reid.model.weights import load_pretrained, resolve_stem_relu
from reid.spec import Experiment, names
from reid.spec.network import network_values
from reid.training.choosing import ImagesByRole, choose_roles, images_by_role
from reid.training.chosen_losses import build_losses
from reid.training.history import UNTRAINED, Row
from reid.training.layer_decay import split_by_layer
from reid.training.lightning import Training
from reid.training.plateau import Plateau
from reid.training.resume import Start
from reid.training.schedule import build_optimizer, epoch_factor, flat_then_cosine, parameter_groups
from reid.training.trainer import evaluating, network_of
from reid.training.validation import Validation

logger = logging.getLogger(__name__)


def build_network(spec: Experiment, persons: list[int], start: Start | None) -> tuple[Embedder, list[str]]:
    """The network with its first weights, and the report's lines on them; a checkpoint to resume from brings both."""
    section, values = spec.model, network_values(spec)
    if start:
        before = ADDED_SETTINGS | start.checkpoint["reid"]["model"]
        values["pooling"], values["stride_size"] = before["pooling"], before["stride_size"]
        network = build_embedder(**values, stem_relu=before["stem_relu"], num_classes=len(persons))
        return network, start.checkpoint["training"]["weights"]
    choice, path_name = section.pretrain_choice, section.pretrained_model_path
    weights_file = Path(path_name) if path_name else None
    setting = section.stem_relu if section.stem_relu == "auto" else section.stem_relu == "on"
    stem_relu = resolve_stem_relu(setting, choice=choice, path=weights_file)
    network = build_embedder(**values, stem_relu=stem_relu, num_classes=len(persons))
    loaded = load_pretrained(network, weights_file, choice=choice, min_share=section.min_matched_share)
    return network, loaded.lines() if loaded else []


def refuse_other_network(spec: Experiment, persons: list[int], start: Start) -> None:
    """Raises ArtifactError if a checkpoint to resume from is not of the spec's network, persons and optimizer."""
    before = ADDED_SETTINGS | start.checkpoint["reid"]["model"]
    wanted: dict[str, object] = {**network_values(spec), "num_classes": len(persons)}
    if spec.model.stem_relu != "auto":
        wanted["stem_relu"] = spec.model.stem_relu == "on"
    if spec.model.pooling == "auto":
        wanted["pooling"] = before["pooling"]
    if before["stride_size"] is None:
        del wanted["stride_size"]
    other = [
        f"{name} {before.get(name)!r}, not {value!r}" for name, value in wanted.items() if before.get(name) != value
    ]
    if start.checkpoint["reid"]["persons"] != persons:
        other.append("other persons")
    if other:
        raise ArtifactError(
            f"{start.path}: a checkpoint of another network: {other[0]}\n  want: one of the spec's network and persons"
        )
    settings = start.checkpoint["training"]["settings"]
    layered = [decay != 1 for decay in (settings.get("train.optim.layer_decay", 1.0), spec.train.optim.layer_decay)]
    if layered[0] != layered[1] and names.is_vit(spec.model.backbone):
        raise ArtifactError(
            f"{start.path}: a checkpoint of a training {'with' if layered[0] else 'without'} train.optim.layer_decay\n"
            f"  want: {'a value below 1' if layered[0] else 'train.optim.layer_decay=1'}, so that its optimizer's "
            "groups are the same"
        )
    centres, optimizer = "losses.center.centers" in start.checkpoint["state_dict"], settings["train.optim.name"]
    wants_centres = spec.model.with_center_loss and spec.dataset.sampler != "softmax"
    large_fc_lr = "train.optim.large_fc_lr"
    then = (optimizer, centres, settings.get(large_fc_lr, False))
    now = (spec.train.optim.name, wants_centres, spec.train.optim.large_fc_lr)
    if then != now:
        described = [
            f"{name}, {'with' if centred else 'without'} centre loss"
            + (f", {large_fc_lr} = {str(doubled).lower()}" if then[2] != now[2] else "")
            for name, centred, doubled in (then, now)
        ]
        raise ArtifactError(
            f"{start.path}: a checkpoint of another kind of training: {described[0]}; not {described[1]}\n"
            "  want: the same optimizer and losses; or its weights alone, for a new training:\n"
            f"  model.pretrain_choice=self model.pretrained_model_path={start.path}"
        )


def refuse_batch_of_one(network: Embedder, *, batch_size: int, contract: Contract) -> None:
    """Raises SpecError if a batch of one image leaves a batch normalisation with one value per channel.

    That is so after the pooling (the BNNeck), and for a feature map of 1 x 1 pixels. More images in the batch suffice,
    also if each rank has only one of them, because the ranks share the statistics.
    """
    if batch_size > 1:
        return
    image = torch.zeros(1, contract.channels, contract.height, contract.width)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            copy.deepcopy(network).train()(image)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise SpecError(
            "dataset.batch_size: 1: the network's batch normalisation has one value per channel then\n"
            f"  found: {error}\n  want:  dataset.batch_size=2 or more"
        ) from None


def decoded(spec: Experiment, split: Split, fingerprint: str) -> NDArray[np.uint8]:
    """The images of a split (N, H, W, C), from the store of decoded images."""
    return open_store(
        split,
        height=spec.model.input_height,
        width=spec.model.input_width,
        channels=spec.model.input_channels,
        folder=Path(spec.store_dir),
        key=fingerprint,
    )


def readable_images(spec: Experiment, split: Split, fingerprint: str) -> Split:
    """The training images, all decoded; if the spec says so, without those that became unreadable since validate."""
    try:
        decoded(spec, split, fingerprint)
    except UnreadableImage:
        if spec.dataset.corrupt_images != "skip":
            raise
    else:
        return split
    with ThreadPoolExecutor(max_workers=min(32, os.cpu_count() or 1)) as pool:
        errors = list(pool.map(lambda path: read_image(path).error, split.paths))
    bad = [f"{path}: {error}" for path, error in zip(split.paths, errors) if error]
    logger.warning(
        "%s: %d of %d training images cannot be read and are left out\n  first: %s",
        split.root,
        len(bad),
        len(split),
        bad[0] if bad else "",
    )
    return Split(split.root, tuple(image for image, error in zip(split.images, errors) if not error))


def build_data(
    spec: Experiment,
    images: Split,
    label: NDArray[np.int64],
    *,
    contract: Contract,
    fingerprint: str,
    pixels: DecodedImages | None = None,
    shares: SetShares | None = None,
    on_device: bool = False,
    channels_last: bool = True,
) -> TrainingData:
    """The batches of the training images; label (N,): each image's row of the classifier.

    pixels (N, H, W, C): the decoded images; None if they have a store of their own. shares: see
    reid.data.set_shares.
    """
    section, jitter = spec.dataset, spec.dataset.color_jitter
    return TrainingData(
        decoded(spec, images, fingerprint) if pixels is None else pixels,
        label,
        contract=contract,
        batch_size=section.batch_size,
        num_instances=None if section.sampler == "softmax" else section.num_instances,
        num_workers=section.num_workers,
        seed=spec.train.seed,
        padding=section.padding,
        flip_probability=section.prob,
        erasing_probability=section.re_prob,
        colours=Colours(
            jitter=jitter.prob,
            brightness=jitter.brightness,
            contrast=jitter.contrast,
            saturation=jitter.saturation,
            hue=jitter.hue,
            grey=section.grey_prob,
            autoaugment=section.autoaugment_prob,
        ),
        shares=shares,
        on_device=on_device,
        channels_last=channels_last,
    )


def build_module(spec: Experiment, network: Embedder) -> Training:
    """The LightningModule with the losses, the optimizer and the learning rates of the spec."""
    section, optim = spec.model, spec.train.optim
    _refuse_head_that_cannot_learn(spec, network)
    losses = build_losses(
        sampler=spec.dataset.sampler,
        metric_loss_type=section.metric_loss_type,
        with_center_loss=section.with_center_loss,
        label_smooth=section.label_smooth,
        id_loss_type=section.id_loss_type,
        cosine_margin=optim.cosine_margin,
        cosine_scale=optim.cosine_scale,
        triplet_loss_margin=None if optim.soft_margin else optim.triplet_loss_margin,
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
            large_fc_lr=optim.large_fc_lr,
        )
        if optim.layer_decay != 1 and is_vit(network.base):
            groups = split_by_layer(groups, module, layer_decay=optim.layer_decay)
        fused = {"auto": None, "on": True, "off": False}[spec.train.fused_optimizer]
        return build_optimizer(optim.name, groups, optim.momentum, fused=fused)

    return Training(
        network,
        losses,
        optimizer=optimizer,
        epoch_factor=_epoch_factor(spec),
        plateau=Plateau(gamma=optim.gamma) if optim.lr_scheduler == "AutoReduce" else None,
        plateau_watches=optim.lr_monitor,
        clip_grad_norm=spec.train.clip_grad_norm,
        loss_weights={
            "cross_entropy": section.id_loss_weight,
            "triplet": section.triplet_loss_weight,
            "center": optim.center_loss_weight,
        },
        unit_triplet=optim.trp_l2,
        center_lr=optim.center_lr,
        ema_decay=spec.train.ema_decay,
        freeze_epochs=spec.train.freeze_epochs,
        seed=spec.train.seed,
    )


def _epoch_factor(spec: Experiment) -> Callable[[int], float]:
    """epoch (from 0) -> the factor on the base learning rate that the spec's schedule gives."""
    optim, epochs = spec.train.optim, spec.train.num_epochs
    if optim.lr_scheduler == "Cosine":
        return partial(
            flat_then_cosine,
            warmup_factor=optim.warmup_factor,
            warmup_iters=optim.warmup_iters,
            warmup_method=optim.warmup_method,
            flat_epochs=optim.flat_epochs,
            lr_floor=optim.lr_floor,
            num_epochs=epochs,
        )
    return epoch_factor(
        warmup_method=optim.warmup_method,
        warmup_factor=optim.warmup_factor,
        warmup_iters=optim.warmup_iters,
        warmup_epochs=optim.warmup_epochs,
        lr_steps=[] if optim.lr_scheduler == "AutoReduce" else optim.lr_steps,
        gamma=optim.gamma,
        num_epochs=epochs,
    )


def _refuse_head_that_cannot_learn(spec: Experiment, network: Embedder) -> None:
    """Raises SpecError if the backbone is frozen and no other parameter decides the features of the metric loss."""
    learns = any(
        parameter.requires_grad and not name.startswith(("base.", "bottleneck.", "classifier."))
        for name, parameter in network.named_parameters()
    )
    if spec.train.freeze_epochs and spec.dataset.sampler == "triplet" and not learns:
        raise SpecError(
            f"train.freeze_epochs: {spec.train.freeze_epochs}: dataset.sampler = triplet teaches the backbone only\n"
            "  want: 0; or dataset.sampler=softmax_triplet, or model.feat_dim other than the backbone's width"
        )


def roles_of(spec: Experiment, manifest: Manifest) -> Roles | None:
    """What each training image is used for; None if no person is held out."""
    section = spec.dataset
    if section.validation_persons is None:
        return None
    return choose_roles(
        manifest.train.of_persons(),
        persons=section.validation_persons,
        seed=spec.train.seed,
        persons_in_a_batch=1 if section.sampler == "softmax" else section.batch_size // section.num_instances,
    )


def images_of(spec: Experiment, manifest: Manifest, roles: Roles | None) -> ImagesByRole:
    """All images of the training, decoded; see reid.training.choosing."""
    return images_by_role(
        manifest,
        roles,
        decoded=lambda split: decoded(spec, split, manifest.fingerprint),
        readable=lambda split: readable_images(spec, split, manifest.fingerprint),
    )


def validation_of(spec: Experiment, images: ImagesByRole, contract: Contract) -> Validation:
    """The images on which the best checkpoint is chosen."""
    return Validation(
        images.query,
        images.gallery,
        images.query_pixels,
        images.gallery_pixels,
        contract=contract,
        batch_size=spec.dataset.val_batch_size,
        triplet_loss_margin=spec.train.optim.triplet_loss_margin,
        unit_triplet=spec.train.optim.trp_l2,
    )


def test_images_of(spec: Experiment, manifest: Manifest, validation: Validation) -> Validation:
    """The test set's query and gallery images; the validation's own if it uses them."""
    if spec.dataset.validation_persons is None:
        return validation
    return replace(
        validation,
        query=manifest.query,
        gallery=manifest.gallery,
        query_pixels=decoded(spec, manifest.query, manifest.fingerprint),
        gallery_pixels=decoded(spec, manifest.gallery, manifest.fingerprint),
    )


def build_validate(
    validation: Validation,
    test_images: Validation,
    model: Path,
    *,
    channels_last: bool,
    ranks: Ranks,
    check: Callable[[], None],
) -> Callable[[pl.Trainer, Training, int], Row]:
    """A function that embeds query and gallery and returns the figures.

    It also saves the untrained network's embeddings of the test images, which the evaluate stage compares with. If
    persons are held out, these are other images than the validation's. The ranks share the batches, rank 0 computes the
    figures, and all ranks get them. `check` may raise between batches.
    """

    def validate(trainer: pl.Trainer, module: Training, epoch: int) -> Row:
        began = time.perf_counter()
        what = "untrained network" if epoch == UNTRAINED else f"validation after epoch {epoch + 1}"
        with evaluating(module):
            network = network_of(trainer, module, contract=validation.contract, channels_last=channels_last)
            query, gallery = validation.embed(network, what=what, ranks=ranks, between=check)
            tested = (query, gallery)
            if epoch == UNTRAINED and test_images is not validation:
                tested = test_images.embed(network, what=f"{what}, test images", ranks=ranks, between=check)
        figures: Row = {}
        if not ranks.rank:
            if epoch == UNTRAINED:
                Embeddings.joined(*tested).save_npz(model / UNTRAINED_EMBEDDINGS)
            figures = validation.figures(query, gallery, device=module.device)
            if test_images is not validation:
                figures |= {name: float(value) for name, value in validation.size().items()}
            figures["validation_seconds"] = time.perf_counter() - began
        ranks.meet()  # scoring a large gallery may take longer than an exchange may wait
        shared: Row = ranks.share(figures)
        return shared

    return validate
