"""Running Lightning: on which device, in which precision, quietly, and stopping well."""

import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.warnings import PossibleUserWarning
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from reid.data.module import TrainingData
from reid.errors import SpecError
from reid.lightning import Training
from reid.model.backbones import is_convolutional
from reid.resume import DurableCheckpoints

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """Where a training runs; gpu_ids empty: on the CPU."""

    gpu_ids: tuple[int, ...]
    precision: str
    """As Lightning names it: 32-true or bf16-mixed."""


def choose_gpus(num_gpus: int, gpu_ids: Sequence[int]) -> tuple[int, ...]:
    """The GPUs that both fields together ask for: the one with more wins; chosen ids are kept, free ones added."""
    chosen = list(dict.fromkeys(gpu_ids))
    free = (gpu for gpu in range(num_gpus + len(chosen)) if gpu not in chosen)
    while len(chosen) < num_gpus:
        chosen.append(next(free))
    return tuple(sorted(chosen))


def choose_device(*, num_gpus: int, gpu_ids: Sequence[int], precision: str) -> Device:
    """The device for train.num_gpus, gpu_ids and precision on this machine, named in the log.

    Without any GPU it is the CPU. SpecError where a wanted GPU is not there, or several are wanted.
    """
    present = torch.cuda.device_count()
    wanted = choose_gpus(num_gpus, gpu_ids)
    if not present:
        name = {"auto": "32-true", "32": "32-true", "bf16": "bf16-mixed"}[precision]
        logger.info("no GPU here: training on the CPU, %d threads, precision %s", torch.get_num_threads(), name)
        return Device((), name)
    absent = [gpu for gpu in wanted if gpu >= present]
    if absent:
        raise SpecError(
            f"train.num_gpus, train.gpu_ids: GPUs {list(wanted)} are asked for, {len(absent)} of them are not there\n"
            f"  found: {present} (0..{present - 1})\n  want: at most {present}, e.g. train.num_gpus={present}"
        )
    if len(wanted) > 1:
        raise SpecError(
            f"train.num_gpus, train.gpu_ids: GPUs {list(wanted)} are asked for\n"
            f"  training on several GPUs is not there yet; want one, e.g. train.num_gpus=1 train.gpu_ids=[{wanted[0]}]"
        )
    halved = precision == "bf16" or (precision == "auto" and torch.cuda.is_bf16_supported())
    device = Device(wanted, "bf16-mixed" if halved else "32-true")
    logger.info(
        "training on GPU %d (%s), precision %s", wanted[0], torch.cuda.get_device_name(wanted[0]), device.precision
    )
    return device


def seed_everything(seed: int) -> None:
    """Sets every global generator."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def fit(
    module: Training,
    data: TrainingData,
    *,
    callbacks: list[Callback],
    device: Device,
    epochs: int,
    continue_from: Path | None,
    folder: Path,
) -> None:
    """Trains to the end, from a checkpoint or from the start.

    Raises KeyboardInterrupt where it was interrupted (Ctrl-C or SIGTERM); the last whole epoch's checkpoint is there.
    """
    if is_convolutional(module.model.base):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with _quiet():
        trainer = pl.Trainer(
            accelerator="gpu" if device.gpu_ids else "cpu",
            devices=list(device.gpu_ids) or 1,
            precision=device.precision,  # type: ignore[arg-type]
            max_epochs=epochs,
            callbacks=callbacks,
            plugins=[DurableCheckpoints()],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
        )
        try:
            trainer.fit(module, data, ckpt_path=continue_from)
        except (SystemExit, SIGTERMException):  # SystemExit is Lightning's answer to KeyboardInterrupt
            raise KeyboardInterrupt from None


def network_of(trainer: pl.Trainer, module: Training) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The network as it is now: preprocessed images (B, C, H, W) -> embeddings (B, D), in the training's precision."""

    def embed(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), trainer.precision_plugin.forward_context():
            batch = torch.from_numpy(images).to(module.device)
            if is_convolutional(module.model.base):
                batch = batch.contiguous(memory_format=torch.channels_last)
            vectors: NDArray[np.float32] = module.model(batch).float().cpu().numpy()
        return vectors

    return embed


@contextmanager
def evaluating(module: Training) -> Iterator[None]:
    """The network in evaluation mode, and back in training mode after."""
    module.model.eval()
    try:
        yield
    finally:
        module.model.train()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's remarks that a user of this project cannot act on."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        for one, level in zip(loggers, levels):
            one.setLevel(level)
