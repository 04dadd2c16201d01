"""Opens a model that embeds images: a checkpoint, an ONNX file or a TensorRT engine, chosen by the file's ending.

Shapes: B images in a batch, C channels, H height, W width, D width of the embedding.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reid.choice import Choice
from reid.contract import Contract
from reid.distributed.devices import CPU, gpu_number
from reid.embeddings import Network, OfPixels
from reid.errors import ArtifactError, SpecError
from reid.thresholds import Thresholds

logger = logging.getLogger(__name__)

CHECKPOINT_NAMES = ("reid_model_best.pth", "reid_model_latest.pth")
"""The checkpoints of a model directory; the first that is there is used."""

CHOSEN_ON = "best checkpoint chosen on"
"""The key of a model's settings that says what the best checkpoint of its training was chosen on, if that is known."""
CHOSEN_OF = "data fingerprint of that choice"
"""The key of the fingerprint of the data set of those images, if that is known."""


@dataclass(frozen=True)
class OpenModel:
    """A model ready to embed images, whatever file it came from."""

    file: Path
    network: Network | OfPixels
    """Preprocessed images (B, C, H, W), or pixels (B, H, W, C), to embeddings (B, D)."""
    contract: Contract
    settings: dict[str, str] = field(default_factory=dict)
    """What the report says about it: backbone, device, runner."""
    network_settings: dict[str, Any] = field(default_factory=dict)
    """The keyword values of build_embedder that the file states; empty if it states none."""
    thresholds: Thresholds | None = None
    """From which cosine on two images count as one person; None if the file does not know."""
    images_at_once: int = 1
    """Batches are computed in parts of so many images; other sizes leave a smaller part."""

    def whole_batches(self, batch_size: int) -> int:
        """The largest batch size up to this one that leaves no smaller part; at least images_at_once."""
        return max(1, batch_size // self.images_at_once) * self.images_at_once


@dataclass(frozen=True)
class ModelCard:
    """What a report needs to know of a model that was opened, perhaps by other processes."""

    file: Path
    contract: Contract
    settings: dict[str, str]
    """What the report says about it: backbone, device, runner."""
    network_settings: dict[str, Any]
    """The keyword values of build_embedder that the file states; empty if it states none."""
    thresholds: str = ""
    """From which cosine on two images count as one person, as JSON (see reid.thresholds); "" if that is not known."""

    @property
    def chosen_on(self) -> str:
        """The images on which the best checkpoint of its training was chosen, in words; "" if that is not known."""
        return self.settings.get(CHOSEN_ON, "")

    @property
    def choice(self) -> Choice | None:
        """The same with the fingerprint of the data set; None if it is not known."""
        return Choice(self.chosen_on, self.settings.get(CHOSEN_OF, "")) if self.chosen_on else None


def find_checkpoint(model: Path) -> Path:
    """The file to load: `model` itself, or the best, else the latest checkpoint of a model directory."""
    if model.is_file():
        return model
    for name in CHECKPOINT_NAMES:
        if (model / name).is_file():
            return model / name
    found = "an empty folder" if model.is_dir() else "nothing there"
    if model.is_dir() and (names := sorted(entry.name for entry in model.iterdir())):
        found = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    raise ArtifactError(
        f"{model.absolute()}: no model\n  found: {found}\n  want:  a checkpoint, or a folder with {CHECKPOINT_NAMES[0]}"
    )


def open_model(file: Path, *, device: str, images: int) -> OpenModel:
    """The model of a file, on a device as torch names it (cpu, cuda:0), to embed about so many images.

    `images` decides whether a checkpoint on the CPU is worth translating for ONNX Runtime. An ONNX file runs on the CPU
    whatever the device, an engine on a GPU. Raises ArtifactError if the file's ending is unknown or the file is not
    what its ending says, SpecError if the device is not there.
    """
    opener = OPENERS.get(file.suffix.lower())
    if opener is None:
        raise ArtifactError(f"{file}: not a model this stage can run\n  want: one of {', '.join(sorted(OPENERS))}")
    return opener(file, device, images)


def _open_checkpoint(file: Path, device: str, images: int) -> OpenModel:
    import torch

    from reid.model.checkpoint import load_model

    _require_device(device, present=torch.cuda.device_count())
    torch.backends.cudnn.allow_tf32 = False  # whole float32 in convolutions: a GPU's embeddings equal the CPU's
    loaded = load_model(file, device=device)
    settings = {"backbone": str(loaded.settings.get("backbone", "unknown")), "device": device}
    settings |= _choice_settings(loaded.choice)
    if device == CPU:
        from reid.deploy.onnx_in_memory import faster_on_the_cpu

        threads = torch.get_num_threads()
        if model := faster_on_the_cpu(loaded, images=images, threads=threads, name=file.name):
            settings |= {"runner": "ONNX Runtime, FP32"}
            return OpenModel(file, model, loaded.contract, settings, loaded.settings, loaded.thresholds)
    return OpenModel(file, loaded.of_pixels(), loaded.contract, settings, loaded.settings, loaded.thresholds)


def _require_device(device: str, *, present: int) -> None:
    if device != CPU and gpu_number(device) >= present:
        found = f"{present} GPUs" + (f", cuda:0 to cuda:{present - 1}" if present else "")
        raise SpecError(f"device: {device} is not there\n  found: {found}\n  want:  one of them, or cpu")


def _open_onnx(file: Path, _device: str, _images: int) -> OpenModel:
    from reid.deploy.onnx import OnnxModel

    opened = OnnxModel(file)
    logger.info("%s: ONNX Runtime runs it on the CPU", file.name)
    backbone = str(opened.settings.get("backbone", "unknown"))
    settings = {"backbone": backbone, "device": CPU, "runner": f"ONNX Runtime, {opened.data_type}"}
    settings |= _choice_settings(opened.choice)
    return OpenModel(file, opened.network, opened.contract, settings, opened.settings, opened.thresholds)


def _open_engine(file: Path, device: str, _images: int) -> OpenModel:
    from reid.deploy.engine import EngineModel

    # "cpu" only says that torch sees no GPU (it may be torch's CPU build); the driver knows better
    opened = EngineModel(file, gpu_id=0 if device == CPU else gpu_number(device))
    record = opened.record
    runner = f"{record.package} {record.version}, {record.data_type}"
    network, settings = OfPixels(opened.start), {"device": opened.gpu.name, "runner": runner}
    settings |= _choice_settings(record.known_choice)
    return OpenModel(
        file,
        network,
        opened.contract,
        settings,
        images_at_once=record.profile.max_batch_size,
        thresholds=record.known_thresholds,
    )


def _choice_settings(choice: Choice | None) -> dict[str, str]:
    """The settings that say on which images the best checkpoint was chosen; empty if that is not known."""
    if choice is None:
        return {}
    return {CHOSEN_ON: choice.images, **({CHOSEN_OF: choice.fingerprint} if choice.fingerprint else {})}


OPENERS: dict[str, Callable[[Path, str, int], OpenModel]] = {
    ".pth": _open_checkpoint,
    ".tlt": _open_checkpoint,
    ".onnx": _open_onnx,
    ".engine": _open_engine,
    ".plan": _open_engine,
}
"""File ending -> (file, device, images) -> model."""
