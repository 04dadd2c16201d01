"""Runs Lightning's Trainer: on the planned devices and precision, from a checkpoint if there is one, without its noise.

Lightning cannot resume in the middle of an epoch without a data loader that saves its own state. So its loops only get
to know the epoch and the count of steps; batches that were done already are skipped by their numbers.
"""

import inspect
import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reid.contract import Contract
from reid.data.module import TrainingData
from reid.distributed.devices import ComputePlan, gpu_number, too_many_images
from reid.distributed.gathering import ranks
from reid.embeddings import OfPixels
from reid.model.of_pixels import of_pixels
from reid.training.lightning import Training
from reid.training.resume import DurableCheckpoints, Start

Module = TypeVar("Module", bound=nn.Module)


def seed_everything(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def fit(
    module: Training,
    data: TrainingData,
    *,
    callbacks: list[Callback],
    plan: ComputePlan,
    checkpoints: DurableCheckpoints,
    epochs: int,
    start: Start | None,
    folder: Path,
) -> None:
    """Trains to the end, from a checkpoint or from the start; all ranks call it alike.

    Raises KeyboardInterrupt if the training is interrupted, SpecError if the memory of a GPU runs out.
    """
    _apply_plan(module, plan)
    with _quiet():
        trainer = pl.Trainer(
            accelerator="gpu" if plan.on_gpu else "cpu",
            devices=[gpu_number(device) for device in plan.devices] if plan.on_gpu else len(plan.devices),
            num_nodes=plan.machines,
            strategy=_gradient_exchange(module, plan) if plan.ranks > 1 else "auto",
            precision=plan.precision,  # type: ignore[arg-type]
            max_epochs=epochs,
            callbacks=callbacks,
            plugins=[checkpoints, LightningEnvironment()],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,  # the first epoch may begin in the middle
            limit_val_batches=0,
            num_sanity_val_steps=0,
        )
        _turn_off_lightnings_signals(trainer)
        if start:
            _resume(trainer, module, data, start)
        try:
            trainer.fit(module, data)
        except (SystemExit, SIGTERMException):  # SystemExit is Lightning's answer to KeyboardInterrupt
            raise KeyboardInterrupt from None
        except torch.OutOfMemoryError as error:
            place, images = str(trainer.strategy.root_device), data.batch_size // plan.ranks
            raise too_many_images("dataset.batch_size", place, images, error) from error
        finally:
            checkpoints.wait()


def _apply_plan(module: Training, plan: ComputePlan) -> None:
    """Changes the network as the plan says: shared statistics, memory format, compilation."""
    if plan.on_gpu and plan.ranks > 1:  # torch has no SyncBatchNorm for the CPU
        module.model = with_shared_statistics(module.model)
    if plan.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if plan.compiled:
        torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is; torch logs it
        module.model.compile(mode=plan.compile_mode)


def with_shared_statistics(network: Module) -> Module:
    """The network with every batch normalisation replaced by SyncBatchNorm; the parameters stay the same."""
    # timm's function, since torch's drops the activations that timm's BatchNormAct2d holds
    converted: Module = convert_sync_batchnorm(network)
    return converted


def _gradient_exchange(module: Training, plan: ComputePlan) -> DDPStrategy:
    """How the ranks average their gradients: while the backward pass still runs.

    On GPUs SyncBatchNorm gives every rank the same statistics; on the CPU all ranks take rank 0's.
    """
    takes = inspect.signature(DistributedDataParallel).parameters
    of_rank_0 = "forward_sync_buffers" if "forward_sync_buffers" in takes else "broadcast_buffers"  # before torch 2.14
    return DDPStrategy(
        process_group_backend="nccl" if plan.on_gpu else "gloo",
        find_unused_parameters="cross_entropy" not in module.losses,  # the classifier is not used then
        gradient_as_bucket_view=True,
        **{of_rank_0: not plan.on_gpu},  # type: ignore[arg-type]
    )


def _turn_off_lightnings_signals(trainer: pl.Trainer) -> None:
    """Turns off a flag that Lightning sends from GPU to GPU in every step of several ranks, and waits for.

    reid.training.stopping does its work without waiting.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def _resume(trainer: pl.Trainer, module: Training, data: TrainingData, start: Start) -> None:
    """Sets the module, the batches and Lightning's counters to the epoch and the step of the checkpoint."""
    module.resume_from(start.checkpoint, epoch=start.epochs_done, step=start.step)
    data.begin_at(start.epochs_done, start.step)
    loop = trainer.fit_loop
    for progress in (loop.epoch_progress.current, loop.epoch_progress.total):
        for name in ("ready", "started", "processed", "completed"):
            setattr(progress, name, start.epochs_done)
    steps = loop.epoch_loop.manual_optimization.optim_step_progress.total
    steps.ready = steps.completed = int(start.checkpoint["global_step"])


def network_of(trainer: pl.Trainer, module: Training, *, contract: Contract, channels_last: bool) -> OfPixels:
    """The network as it is now, in the training's precision."""

    def network(images: Tensor) -> Tensor:
        with trainer.precision_plugin.forward_context():
            # not compiled: each size of a last batch would be compiled anew
            embedding: Tensor = module.model.forward(images)  # type: ignore[assignment]
        return embedding

    return of_pixels(network, contract=contract, device=module.device, channels_last=channels_last)


@contextmanager
def evaluating(module: Training) -> Iterator[None]:
    """Puts the network in evaluation mode, with rank 0's statistics on all ranks, and in training mode again after."""
    if ranks() > 1:
        for buffer in module.model.buffers():
            torch.distributed.broadcast(buffer, src=0)
    module.model.eval()
    try:
        yield
    finally:
        module.model.train()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences remarks of Lightning and torch that a user of this project cannot act on."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            # precision 32 has 32 bits here
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores", category=UserWarning)
            yield
    finally:
        for one, level in zip(loggers, levels):
            one.setLevel(level)
