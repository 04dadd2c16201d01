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

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from reid.contract import Contract
from reid.data.loaders import LOST_LOADER, loader_lost
from reid.data.module import TrainingData
from reid.distributed.devices import ComputePlan, gpu_number, too_many_images
from reid.distributed.gathering import ranks
from reid.embeddings import OfPixels
from reid.model.of_pixels import of_pixels
from reid.training.compile_cache import keep_compiled_code
from reid.training.lightning import Training
from reid.training.loss_scaling import LossScaling, resume_scaling
from reid.training.resume import DurableCheckpoints, Start
from reid.training.shared_statistics import share_over_all_ranks


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
    scaling = [LossScaling("cuda" if plan.on_gpu else "cpu")] if plan.precision == "16-mixed" else []
    with _quiet():
        trainer = pl.Trainer(
            accelerator="gpu" if plan.on_gpu else "cpu",
            devices=[gpu_number(device) for device in plan.devices] if plan.on_gpu else len(plan.devices),
            num_nodes=plan.machines,
            strategy=_gradient_exchange(module, plan) if plan.ranks > 1 else "auto",
            precision=None if scaling else plan.precision,  # type: ignore[arg-type]
            max_epochs=epochs,
            callbacks=callbacks,
            plugins=[checkpoints, LightningEnvironment(), *scaling],
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
        except RuntimeError as error:
            if LOST_LOADER in str(error):
                raise loader_lost(str(error)) from None
            raise
        finally:
            checkpoints.wait()


def _apply_plan(module: Training, plan: ComputePlan) -> None:
    """Changes the network as the plan says: shared statistics, memory format, compilation; and sets cuDNN's switches.

    With several ranks torch.compile makes one graph for each bucket of gradients, so that a bucket is exchanged while
    the backward pass still runs.
    """
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = plan.benchmark, plan.deterministic
    if plan.ranks > 1:
        share_over_all_ranks(module.model)
    if plan.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if plan.compiled:
        keep_compiled_code()
        torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is; torch logs it
        module.model.compile(mode=plan.compile_mode)


def _gradient_exchange(module: Training, plan: ComputePlan) -> DDPStrategy:
    """How the ranks average their gradients: while the backward pass still runs.

    The statistics of batch normalisation need no exchange: all ranks have the same.
    """
    takes = inspect.signature(DistributedDataParallel).parameters
    of_rank_0 = "forward_sync_buffers" if "forward_sync_buffers" in takes else "broadcast_buffers"  # before torch 2.14
    return DDPStrategy(
        process_group_backend="nccl" if plan.on_gpu else "gloo",
        find_unused_parameters="cross_entropy" not in module.losses,  # the classifier is not used then
        gradient_as_bucket_view=True,
        **{of_rank_0: False},  # type: ignore[arg-type]
    )


def _turn_off_lightnings_signals(trainer: pl.Trainer) -> None:
    """Turns off a flag that Lightning sends from GPU to GPU in every step of several ranks, and waits for.

    reid.training.stopping does its work without waiting.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def _resume(trainer: pl.Trainer, module: Training, data: TrainingData, start: Start) -> None:
    """Sets the module, the batches and Lightning's counters to the epoch and the step of the checkpoint."""
    module.resume_from(start.checkpoint, epoch=start.epochs_done, step=start.step)
    resume_scaling(trainer, start.checkpoint)
    data.begin_at(start.epochs_done, start.step)
    loop = trainer.fit_loop
    for progress in (loop.epoch_progress.current, loop.epoch_progress.total):
        for name in ("ready", "started", "processed", "completed"):
            setattr(progress, name, start.epochs_done)
    steps = loop.epoch_loop.manual_optimization.optim_step_progress.total
    steps.ready = steps.completed = int(start.checkpoint["global_step"])


def network_of(trainer: pl.Trainer, module: Training, *, contract: Contract, channels_last: bool) -> OfPixels:
    """The network as it is now, or its average if there is one, in the training's precision."""

    def network(images: Tensor) -> Tensor:
        with trainer.precision_plugin.forward_context():
            # not compiled: each size of a last batch would be compiled anew
            embedding: Tensor = module.network.forward(images)  # type: ignore[assignment]
        return embedding

    return of_pixels(network, contract=contract, device=module.device, channels_last=channels_last)


@contextmanager
def evaluating(module: Training) -> Iterator[None]:
    """Puts the network in evaluation mode, with rank 0's statistics on all ranks, and in training mode again after."""
    if ranks() > 1:
        for buffer in dict.fromkeys([*module.model.buffers(), *module.network.buffers()]):
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
