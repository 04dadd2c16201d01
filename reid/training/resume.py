"""Training checkpoints that survive a kill at any instant, and how a training resumes from one.

A model directory holds model_epoch_<NNN>.pth, reid_model_latest.pth and reid_model_best.pth. Each is written under
another name, synced to the disk and then renamed, so under its own name a checkpoint is always whole or absent. A
thread does this while the training runs: it has a copy of the tensors as they were before the next step (host_copies),
and does its tasks strictly in order, so that "latest" never names a file that is not on the disk yet.

A training resumes from an epoch and a step within it, the checkpoint's `position`. Nothing else is needed: the batches
of an epoch, and what the network draws in a step (dropout), follow from the seed, the epoch and the step alone. So a
resumed training takes the very steps that an uninterrupted one would have taken.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning.plugins.io import TorchCheckpointIO

from reid.errors import ArtifactError, KeyRefused
from reid.files.records import shown
from reid.files.writing import copy_file, replacing
from reid.model.entry import read_entry
from reid.model.safe_files import read_file, read_own_file, write_file
from reid.training.host_copies import HostCopies

logger = logging.getLogger(__name__)

LATEST, BEST = "reid_model_latest.pth", "reid_model_best.pth"
EPOCH = re.compile(r"model_epoch_(\d{3,})\.pth")


def epoch_file(epoch: int) -> str:
    """The name of the checkpoint that is written after an epoch (from 0)."""
    return f"model_epoch_{epoch:03d}.pth"


def write_checkpoint(checkpoint: dict[str, Any], target: Path) -> None:
    """Writes the file and returns when it is on the disk. Raises ArtifactError if it cannot be written."""
    with replacing(target) as partial, partial.open("wb") as file:
        write_file(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(target.parent)


class DurableCheckpoints(TorchCheckpointIO):
    """Writes Lightning's checkpoints in a thread, durably and in order; reads them without running code of theirs.

    An error of the thread is raised by the next save, or by `wait`.
    """

    def __init__(self, copies: HostCopies | None = None) -> None:
        super().__init__()
        self._copies = copies or HostCopies()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._pending: list[Future[object]] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Copies the values and has the thread write them. Raises ArtifactError if the one before was not written."""
        self.wait()
        copied = self._copies.begin(checkpoint)
        self.then(lambda: write_checkpoint(copied(), Path(path)))

    def then(self, work: Callable[[], object]) -> None:
        """Has the thread do `work` after all earlier tasks; it is left out if one of them failed."""
        before = self._pending[-1] if self._pending else None

        def after_it() -> None:
            if before:
                before.result()
            work()

        self._pending.append(self._writer.submit(after_it))

    def wait(self) -> None:
        """Returns when the thread has done all its tasks; raises the first error among them."""
        for future in self._pending:
            future.result()
        self._pending.clear()

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> Any:
        """The checkpoint, tensors on the CPU. Raises ArtifactError if it is missing or damaged."""
        return read_file(Path(path))


def give_name(source: Path, name: str) -> Path:
    """Gives the file `source` the second name `name` in its folder, replacing a file of that name.

    Both names are one file on the disk; on a file system without hard links, `name` is a copy.
    """
    target = source.with_name(name)
    link = target.with_name(f".{name}.link")
    link.unlink(missing_ok=True)
    try:
        os.link(source, link)
    except OSError:  # a file system without hard links
        copy_file(source, target)
        return target
    link.replace(target)
    link.unlink(missing_ok=True)  # rename does nothing if both names are the same file already
    _sync_folder(target.parent)
    return target


class Start(NamedTuple):
    """The checkpoint that a training resumes from."""

    path: Path
    checkpoint: dict[str, Any]

    @property
    def epochs_done(self) -> int:
        """How many whole epochs the checkpoint holds."""
        return int(self._position[0])

    @property
    def step(self) -> int:
        """How many steps of the next epoch it also holds; if all, what comes at that epoch's end is still to do."""
        return int(self._position[1])

    @property
    def _position(self) -> Sequence[int]:
        after_the_epoch = (int(self.checkpoint["epoch"]) + 1, 0)  # as older versions, at the end of epochs only
        position: Sequence[int] = self.checkpoint["training"].get("position", after_the_epoch)
        return position


def newest_checkpoint(folder: Path) -> Start | None:
    """The checkpoint to resume from: the latest, or if that is damaged, the last epoch's that can be read.

    Raises KeyRefused if none can be read and one of them is encrypted under another key.
    """
    refused: KeyRefused | None = None
    for path in _candidates(folder):
        try:
            return read_training_checkpoint(path)
        except ArtifactError as error:
            refused = refused or (error if isinstance(error, KeyRefused) else None)
            logger.warning("%s; trying the checkpoint before it", error)
    if refused:  # they may be whole, and starting anew would overwrite them
        raise refused
    return None


def read_training_checkpoint(path: Path) -> Start:
    """The checkpoint at `path`; raises ArtifactError if it is missing, damaged, or not one of a training."""
    checkpoint = read_own_file(path)
    wanted = {"epoch", "global_step", "state_dict", "optimizer_states", "reid", "training"}
    if not isinstance(checkpoint, dict) or not wanted <= set(checkpoint):
        raise ArtifactError(
            f"{path}: holds no training to continue\n  want: a checkpoint of this project's train stage"
        )
    read_entry(path, checkpoint["reid"])
    _require_plain_training(path, checkpoint)
    return Start(path, checkpoint)


def _require_plain_training(path: Path, checkpoint: dict[str, Any]) -> None:
    """Raises ArtifactError if an entry that says where the training stands has another type than train writes."""
    types = {"epoch": int, "global_step": int, "state_dict": dict, "optimizer_states": list, "training": dict}
    for name, kind in types.items():
        if type(checkpoint[name]) is not kind and not (kind is dict and isinstance(checkpoint[name], dict)):
            raise ArtifactError(
                f"{path}: holds no training to continue\n  found: {name} {shown(checkpoint[name])}\n"
                f"  want:  {kind.__name__}, as this project's train stage writes it"
            )
    position = checkpoint["training"].get("position", (0, 0))
    if not isinstance(position, (list, tuple)) or [type(part) for part in position] != [int, int]:
        raise ArtifactError(
            f"{path}: holds no training to continue\n  found: position {shown(position)}\n"
            "  want:  the numbers of whole epochs and of steps after them"
        )


def bring_checkpoints(start: Start, folder: Path, *, best_epoch: int | None, latest_too: bool) -> None:
    """Copies the checkpoints of a training in another folder to `folder`, in which it resumes.

    Those are its best checkpoint (best_epoch counts from 0) and, with `latest_too`, the checkpoint itself as the
    latest. They are written anew, so they are encrypted under this process's key. A best checkpoint of an earlier
    training in `folder` is removed, for it would be taken for this training's.
    """
    if latest_too:
        path = folder / epoch_file(start.epochs_done - 1)
        write_checkpoint(start.checkpoint, path)
        give_name(path, LATEST)
        logger.info("%s is now %s, too", start.path, folder / LATEST)
    (folder / BEST).unlink(missing_ok=True)
    best = None if best_epoch is None else _checkpoint_of(start, best_epoch)
    if best:
        write_checkpoint(best.checkpoint, folder / BEST)
    elif best_epoch is not None:
        logger.warning("%s: its best epoch, %d, is not beside it", start.path, best_epoch + 1)


def _checkpoint_of(start: Start, epoch: int) -> Start | None:
    """The checkpoint of an epoch (from 0) of the same training, in the folder of `start`; None if there is none."""
    if start.epochs_done == epoch + 1 and not start.step:
        return start
    for path in (start.path.with_name(epoch_file(epoch)), start.path.with_name(BEST)):
        if not path.exists():
            continue
        try:
            found = read_training_checkpoint(path)
        except ArtifactError as error:
            logger.warning("%s; it is passed over", error)
            continue
        history = found.checkpoint["training"]["history"]
        if history == start.checkpoint["training"]["history"][: len(history)] and found.epochs_done == epoch + 1:
            return found
    return None


def _candidates(folder: Path) -> Iterator[Path]:
    if (folder / LATEST).exists():
        yield folder / LATEST
    epochs = [
        (int(found[1]), path) for path in folder.glob("model_epoch_*.pth") if (found := EPOCH.fullmatch(path.name))
    ]
    yield from (path for _, path in sorted(epochs, reverse=True))
    if (folder / BEST).exists():
        yield folder / BEST  # its epoch may have no file of its own


def _sync_folder(folder: Path) -> None:
    """Makes the file names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
