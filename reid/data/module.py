"""The training batches for Lightning: decoded images (a memory map) in, augmented normalised batches out.

No JPEG is touched here and, for a data set that fits in memory, no worker process is needed: one core augments about
9,000 images/s at 256 x 128. Workers pay if pages must come from a disk: `reid.data.loaders` decides. A GPU augments its
own images: if all images fit into its memory it holds them and is sent their indices, else it is sent their bytes.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reid.contract import Contract
from reid.data.augment import Erasing, Plan, augment, draw, step_rng
from reid.data.batch_parts import Indices, SetShares, rank_columns
from reid.data.colours import Colours
from reid.data.device_augment import PackedPlan, augment_batch, packed
from reid.data.loaders import begin_loader_process, fitting_processes, loader_processes
from reid.data.peer_epochs import PeerSteps
from reid.data.picked import DecodedImages
from reid.data.planning import PlannedEpochs
from reid.data.sampler import EpochSteps, Step
from reid.data.set_shares import SharedSteps

logger = logging.getLogger(__name__)

RESIDENT_SHARE = 0.25
"""Share of a GPU's free memory; decoded images that take less stay on the GPU."""
BLOCK_BYTES = 1 << 26
"""Bytes of images that are sent to a GPU together."""


class Batch(NamedTuple):
    """One process's part of a training batch (the part of its rank)."""

    images: Tensor
    """(B, C, H, W) float32, normalised."""
    label: Tensor
    """(B,) int64, the row of the classifier."""
    step: Step
    """The epoch and the step, and the images of all ranks: (global batch,) indices into the training split."""


class Parcel(NamedTuple):
    """What a device needs in order to augment its part of a batch itself."""

    pixels: Tensor
    """(B, H, W, C) uint8; empty if the device holds all images."""
    row: Tensor
    """(B,) int64, indices into the training split."""
    plan: PackedPlan
    label: Tensor
    step: Step


class AugmentedImages(Dataset[Batch]):
    """The decoded training images; its items are this rank's parts of the batches, by step of an epoch."""

    def __init__(
        self,
        pixels: DecodedImages,
        label: Indices,
        *,
        contract: Contract,
        columns: slice,
        seed: int,
        plan: Callable[[np.random.Generator, int], Plan],
    ) -> None:
        """pixels (N, H, W, C), label (N,); columns: this rank's part of a global batch."""
        self.pixels, self.label, self.contract = pixels, label, contract
        self.columns, self.seed, self.plan = columns, seed, plan

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, wanted: Step) -> Batch:
        """This rank's part of a step's batch."""
        own, plan = self._draw(wanted)
        images = augment(self.pixels[own], plan, mean=self.contract.mean, std=self.contract.std)
        return Batch(images, torch.from_numpy(self.label[own]), wanted)

    def _draw(self, wanted: Step) -> tuple[Indices, Plan]:
        """This rank's images and their augmentation, which is drawn for all ranks and then cut."""
        rng = step_rng(seed=self.seed, epoch=wanted.epoch, step=wanted.step)
        return wanted.indices[self.columns], self.plan(rng, len(wanted.indices)).rows(self.columns)


class Parcels(AugmentedImages):
    """The items of AugmentedImages before a device augments them; `with_pixels` is false if it holds all images."""

    with_pixels = True

    def __getitem__(self, wanted: Step) -> Parcel:  # type: ignore[override]
        """What a device needs to make this rank's part of a step's batch."""
        own, plan = self._draw(wanted)
        pixels = torch.from_numpy(self.pixels[own if self.with_pixels else own[:0]])
        ready = packed(plan, height=self.contract.height, width=self.contract.width)
        return Parcel(pixels, torch.from_numpy(own), ready, torch.from_numpy(self.label[own]), wanted)


class TrainingData(pl.LightningDataModule):
    """The epochs of a training; every batch is a function of (seed, epoch, step), so a resume sees the same ones."""

    def __init__(
        self,
        pixels: DecodedImages,
        label: Indices,
        *,
        contract: Contract,
        batch_size: int,
        num_instances: int | None,
        num_workers: int,
        seed: int,
        padding: int,
        flip_probability: float,
        erasing_probability: float,
        erasing: Erasing = "mean",
        colours: Colours | None = None,
        shares: SetShares | None = None,
        epoch_length: Literal["images", "peers"] = "images",
        on_device: bool = False,
        channels_last: bool = True,
    ) -> None:
        """pixels (N, H, W, C) uint8; label (N,) int64 classifier rows; num_instances: K, None for plain shuffling;
        erasing: what erased boxes hold; colours: how their colours are changed, None: not at all; shares: those of
        several training sets in a batch, None if images are drawn as from one set; epoch_length: peers for epochs as
        reid.data.peer_epochs makes them, of which batches that are shuffled plainly and sets with shares have none;
        on_device: whether the training's device augments; channels_last: the memory layout of the batches.
        """
        super().__init__()
        self._begin, self._gave_back = (0, 0), False
        self._on_device, self._channels_last, self._resident = on_device, channels_last, torch.empty(0)
        self.pixels, self.label, self.contract = pixels, label, contract
        self.batch_size, self.num_instances, self.seed = batch_size, num_instances, seed
        self.num_workers = loader_processes(pixels.nbytes, asked=num_workers)
        self._with_room: int | None = None
        self.plan = partial(
            draw,
            height=contract.height,
            width=contract.width,
            padding=padding,
            flip_probability=flip_probability,
            erasing_probability=erasing_probability,
            erasing=erasing,
            colours=colours,
        )
        self._shares = shares
        self._as_peers = epoch_length == "peers" and num_instances is not None and shares is None
        self._planned = PlannedEpochs(self.steps().plan)

    def steps(self) -> EpochSteps:
        """The steps of every epoch in their order; `len` is the number of those of the epoch that is set."""
        given: dict[str, Any] = {
            "batch_size": self.batch_size,
            "num_instances": self.num_instances,
            "seed": self.seed,
        }
        if self._shares:
            return SharedSteps(self.label, self._shares, **given)
        return PeerSteps(self.label, **given) if self._as_peers else EpochSteps(self.label, **given)

    def steps_in(self, epoch: int) -> int:
        """The number of steps of an epoch (from 0); with the peers' length each epoch may have another."""
        steps = self.steps()
        steps.set_epoch(epoch)
        return len(steps)

    def begin_at(self, epoch: int, step: int) -> None:
        """The first epoch to be trained, and the step of it to begin with (both from 0)."""
        self._begin = (epoch, step)

    def train_dataloader(self) -> DataLoader[Batch]:
        """The loader of Lightning's current epoch; the first one may begin in the middle of an epoch."""
        world_size, rank, epoch, epochs, pin = 1, 0, 0, None, False
        if self.trainer is not None:
            world_size, rank = self.trainer.world_size, self.trainer.global_rank
            epoch = self.trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
            epochs = self.trainer.max_epochs
            pin = self.trainer.strategy.root_device.type == "cuda"
        columns = rank_columns(
            batch_size=self.batch_size, num_instances=self.num_instances or 1, world_size=world_size, rank=rank
        )
        kind = Parcels if self._on_device else AugmentedImages
        images = kind(self.pixels, self.label, contract=self.contract, columns=columns, seed=self.seed, plan=self.plan)
        if isinstance(images, Parcels) and self.trainer is not None:
            images.with_pixels = not self._holds_all_images(self.trainer.strategy.root_device)
        steps = self.steps()
        first = self._begin[1] if epoch == self._begin[0] else 0
        # Lightning makes a loader for each epoch; what is planned ahead is kept here
        steps.batches_of = partial(self._planned.batches, last=epoch + 1 == epochs)
        steps.begin_at(epoch, 0)
        # if only the end of an epoch is missing, its last batch is given again and not trained on: an empty loader
        # would end fit
        steps.begin_at(epoch, min(first, len(steps) - 1))
        return DataLoader(
            images,
            sampler=steps,
            batch_size=None,
            num_workers=self._processes(images),
            worker_init_fn=begin_loader_process,
            pin_memory=pin,
            generator=torch.Generator(),  # else the loader draws from torch's own, which dropout needs untouched
        )

    def _processes(self, images: AugmentedImages) -> int:
        """The number of loader processes that have room, as it was before the first of them."""
        if self._with_room is None:
            a_batch = images[Step(0, 0, np.zeros(self.batch_size, np.int64))] if self.num_workers else ()
            ranks = 1 if self.trainer is None else self.trainer.num_devices
            self._with_room = fitting_processes(self.num_workers, batch=a_batch, ranks=ranks)
        return self._with_room

    def on_after_batch_transfer(self, batch: Batch | Parcel, dataloader_idx: int) -> Batch:
        """The batch of what has arrived on the device; a parcel is augmented here. Lightning calls this."""
        if isinstance(batch, Batch):
            images = batch.images
        else:
            pixels = batch.pixels if len(batch.pixels) else self._held(batch.row)
            images = augment_batch(pixels, batch.plan, mean=self.contract.mean, std=self.contract.std)
        return Batch(images if self._channels_last else images.contiguous(), batch.label, batch.step)

    def give_back_images(self) -> bool:
        """Frees the device's memory of the images that it holds, for good; False if it holds none."""
        if not len(self._resident):
            return False
        self._resident, self._gave_back = torch.empty(0), True
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning(
            "memory of the device ran out: it no longer holds the %.0f MB of images, they are sent with each batch; "
            "a smaller dataset.batch_size is faster",
            self.pixels.nbytes / 1e6,
        )
        return True

    def _held(self, row: Tensor) -> Tensor:
        """Images by their rows (B,): from the device, or, if it gave them back meanwhile, from here."""
        if len(self._resident):
            return self._resident[row]
        return torch.from_numpy(self.pixels[row.cpu().numpy()]).to(row.device)

    def _holds_all_images(self, device: torch.device) -> bool:
        """Whether the device holds all images; a GPU loads them if they take little of its free memory."""
        if device.type != "cuda":
            return False
        if self._gave_back:
            return False
        if not len(self._resident) and self.pixels.nbytes <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            self._resident = copied_to(device, self.pixels)
            logger.info("%.0f MB of decoded images are on %s", self.pixels.nbytes / 1e6, device)
        return bool(len(self._resident))


def copied_to(device: torch.device, pixels: DecodedImages) -> Tensor:
    """All images (N, H, W, C) on a device, copied in blocks: every rank has its own copy there, and none here."""
    rows = max(1, BLOCK_BYTES // max(1, pixels[:1].nbytes))
    held = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pixels), rows):
        block = np.array(pixels[start : start + rows])  # torch shares no memory that it may not write
        held[start : start + rows] = torch.from_numpy(block)
    return held
