"""Builds what a training reads of the data set from the spec: decoded images, batches, validation images."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.data.augment import Erasing
from reid.data.batch_parts import SetShares
from reid.data.colours import Colours
from reid.data.file_index import read_image
from reid.data.market1501 import Manifest, Split
from reid.data.module import TrainingData
from reid.data.picked import DecodedImages
from reid.data.selection import Roles
from reid.data.store import Resize, open_store
from reid.errors import UnreadableImage
from reid.spec import Experiment
from reid.spec.names import trains_as_taos_swin
from reid.training.choosing import ImagesByRole, choose_roles, images_by_role
from reid.training.validation import Validation

logger = logging.getLogger(__name__)


def training_resize(spec: Experiment) -> Resize:
    """How training images are resized; query and gallery images always are bilinearly, as in TAO."""
    chosen = spec.dataset.train_resize
    if chosen == "auto":
        return "bicubic" if trains_as_taos_swin(spec.model.backbone) else "bilinear"
    return chosen


def erasing(spec: Experiment) -> Erasing:
    """What random erasing fills its boxes with."""
    chosen = spec.dataset.erasing
    if chosen == "auto":
        return "noise" if trains_as_taos_swin(spec.model.backbone) else "mean"
    return chosen


def decoded(spec: Experiment, split: Split, fingerprint: str, *, resize: Resize = "bilinear") -> NDArray[np.uint8]:
    """The images of a split (N, H, W, C), from the store of decoded images."""
    return open_store(
        split,
        resize,
        height=spec.model.input_height,
        width=spec.model.input_width,
        channels=spec.model.input_channels,
        folder=Path(spec.store_dir),
        key=fingerprint,
    )


def readable_images(spec: Experiment, split: Split, fingerprint: str) -> Split:
    """The training images, all decoded; if the spec says so, without those that became unreadable since validate."""
    try:
        decoded(spec, split, fingerprint, resize=training_resize(spec))
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
        decoded(spec, images, fingerprint, resize=training_resize(spec)) if pixels is None else pixels,
        label,
        contract=contract,
        batch_size=section.batch_size,
        num_instances=None if section.sampler == "softmax" else section.num_instances,
        num_workers=section.num_workers,
        seed=spec.train.seed,
        padding=section.padding,
        flip_probability=section.prob,
        erasing_probability=section.re_prob,
        erasing=erasing(spec),
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
        epoch_length=spec.train.epoch_length,
        on_device=on_device,
        channels_last=channels_last,
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
        decoded=lambda split, resize: decoded(spec, split, manifest.fingerprint, resize=resize),
        resize=training_resize(spec),
        readable=lambda split: readable_images(spec, split, manifest.fingerprint),
    )


def validation_of(spec: Experiment, images: ImagesByRole, contract: Contract, *, in_words: str = "") -> Validation:
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
        in_words=in_words,
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
