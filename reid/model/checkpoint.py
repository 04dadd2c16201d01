"""This project's checkpoints: writing a network as one, and reading it back.

A checkpoint is Lightning's dict (`state_dict` with the network under "model.") with an entry `reid` that says how to
build the network, what its input is, and which persons its classifier knows. A training with averaged weights keeps
them under `ema` and goes on with `state_dict`; everything else takes the averaged ones. `safe_files.py` reads the file.

Shapes: B images, C channels, H height, W width, D width of the embedding.
"""

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reid.choice import Choice
from reid.contract import Contract
from reid.embeddings import OfPixels
from reid.errors import ArtifactError
from reid.files.writing import replacing
from reid.model.backbones import is_convolutional
from reid.model.embedder import Embedder, build_embedder
from reid.model.of_pixels import of_pixels
from reid.model.safe_files import read_file, write_file
from reid.thresholds import Thresholds

FORMAT = 1
PREFIX = "model."
"""The beginning of the network's tensor names: the LightningModule keeps it as `model`."""

AVERAGE = "ema"
"""The entry of a training's checkpoint with the averaged weights, under the names of `state_dict`; if it is there, the
model is what they make."""

THRESHOLDS = "thresholds"
"""The key in the entry `reid` of the thresholds, as one line of JSON; older checkpoints, and those of epochs after
which none were measured, do not have it."""

ADDED_SETTINGS: dict[str, Any] = {
    "stem_pool": "padded",
    "pooling": "mean",
    "stride_size": None,
    "id_loss_type": "softmax",
}
"""Settings that older checkpoints do not have, and their values at that time."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network in eval mode on its device, with the contract of its input and output."""

    network: Embedder
    contract: Contract
    settings: dict[str, Any]
    """The keyword values of build_embedder."""
    persons: tuple[int, ...]
    """The persons in the order of the classifier's rows."""
    chosen_on: str = ""
    """What the best checkpoint of the model's training is chosen on, in words; "" if that is not known."""
    chosen_fingerprint: str = ""
    """Fingerprint of the data set of those images; "" in older checkpoints."""
    thresholds: Thresholds | None = None
    """Measured by the training on its validation images, with these weights; None if it did not measure any."""

    @property
    def choice(self) -> Choice | None:
        """The images on which the best checkpoint was chosen; None if that is not known."""
        return Choice(self.chosen_on, self.chosen_fingerprint) if self.chosen_on else None

    def embed(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """images (B, C, H, W) from contract.preprocess -> embeddings (B, D); ArtifactError for another shape."""
        wanted = (self.contract.channels, self.contract.height, self.contract.width)
        if images.shape[1:] != wanted:
            raise ArtifactError(f"images of shape {images.shape[1:]}\n  want: {wanted} (channels, height, width)")
        device = self.network.classifier.weight.device
        layout = _memory_format(self.network)
        with torch.inference_mode():
            batch = torch.from_numpy(images).to(device, non_blocking=True).contiguous(memory_format=layout)
            embedding: NDArray[np.float32] = self.network(batch).float().cpu().numpy()
        return embedding

    def of_pixels(self) -> OfPixels:
        """The network for decoded images, which its device prepares."""
        return of_pixels(
            self.network,
            contract=self.contract,
            device=self.network.classifier.weight.device,
            channels_last=_memory_format(self.network) is torch.channels_last,
        )


def _memory_format(network: Embedder) -> torch.memory_format:
    return torch.channels_last if is_convolutional(network.base) else torch.contiguous_format


def reid_entry(
    *,
    model: dict[str, Any],
    contract: Contract,
    persons: Sequence[int],
    chosen_on: str = "",
    chosen_fingerprint: str = "",
) -> dict[str, Any]:
    """The checkpoint's entry `reid`, plain values only; `model` = embedder.settings, `persons` = the classifier's ids.

    chosen_on: what the training's best checkpoint is chosen on, in words; "" if the weights were not trained here.
    chosen_fingerprint: the fingerprint of the data set of those images. The
    trainer puts the entry in at on_save_checkpoint: `checkpoint["reid"] = reid_entry(...)`.
    """
    persons = sorted(int(person) for person in persons)
    return {
        "format": FORMAT,
        "model": json.loads(json.dumps(model)),
        "contract": contract.to_json(),
        "persons": persons,
        **({"chosen_on": chosen_on} if chosen_on else {}),
        **({"chosen_fingerprint": chosen_fingerprint} if chosen_fingerprint else {}),
    }


def save_model(path: Path, network: Embedder, *, contract: Contract, persons: Sequence[int]) -> None:
    """Writes a checkpoint without a trainer's state, whole or not at all; `load_model` reads it."""
    state = {PREFIX + name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    entry = reid_entry(model=network.settings, contract=contract, persons=persons)
    with replacing(path) as partial, partial.open("wb") as stream:
        write_file({"state_dict": state, "reid": entry}, stream)


def load_model(path: Path, device: str = "cpu") -> LoadedModel:
    """The network of one of this project's checkpoints, with all tensors loaded, in eval mode on `device`.

    The checkpoint says how to build it. Raises ArtifactError if it is missing, damaged or not this project's.
    """
    checkpoint = read_file(path)
    if not isinstance(checkpoint, dict) or not {"reid", "state_dict"} <= set(checkpoint):
        found = (
            f"entries {sorted(map(str, checkpoint))[:6]}" if isinstance(checkpoint, dict) else type(checkpoint).__name__
        )
        raise ArtifactError(
            f"{path}: not a checkpoint of this project: found {found}\n"
            "  want: entries state_dict and reid, as train writes them\n"
            f"  weights of TAO and others: reid adopt {path} -e SPEC makes such a checkpoint of them"
        )
    entry = checkpoint["reid"]
    settings = _settings(path, entry)
    network = build_embedder(**settings)
    _load_strictly(path, network, checkpoint[AVERAGE if AVERAGE in checkpoint else "state_dict"])
    network.eval().requires_grad_(False)
    network = network.to(device).to(memory_format=_memory_format(network))  # type: ignore[call-overload]
    contract = Contract.from_json(entry["contract"])
    differing = contract.differences(
        height=network.settings["height"],
        width=network.settings["width"],
        channels=network.settings["input_channels"],
        flip=network.settings["with_flip_feature"],
        embedding=network.embedding_size,
    )
    if differing:
        raise ArtifactError(
            f"{path}: its preprocessing contract is of another network: {differing[0]}\n"
            "  want: the contract that train wrote with these weights"
        )
    return LoadedModel(
        network=network,
        contract=contract,
        settings=settings,
        persons=tuple(entry["persons"]),
        chosen_on=str(entry.get("chosen_on", "")),
        chosen_fingerprint=str(entry.get("chosen_fingerprint", "")),
        thresholds=Thresholds.from_json(entry[THRESHOLDS], where=str(path)) if entry.get(THRESHOLDS) else None,
    )


def _settings(path: Path, entry: Any) -> dict[str, Any]:
    """The keyword values of build_embedder in the entry `reid`, checked."""
    if not isinstance(entry, dict) or entry.get("format") != FORMAT:
        found = entry.get("format") if isinstance(entry, dict) else type(entry).__name__
        raise ArtifactError(f"{path}: a checkpoint of format {found}\n  want: format {FORMAT}")
    lacking = sorted({"contract", "model", "persons"} - set(entry))
    if lacking:
        raise ArtifactError(f"{path}: its entry reid is incomplete\n  want: {', '.join(lacking)} in it too")
    settings: dict[str, Any] = ADDED_SETTINGS | entry["model"]
    wanted = set(inspect.signature(build_embedder).parameters)
    if set(settings) != wanted:
        raise ArtifactError(
            f"{path}: written by another version of this project\n"
            f"  its model section misses {sorted(wanted - set(settings))}, has unknown {sorted(set(settings) - wanted)}"
        )
    return settings


def _load_strictly(path: Path, network: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads every tensor of the network from the one of its name; raises ArtifactError if names or shapes differ."""
    plain_names = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}  # torch.compile's prefix
    found = {name.removeprefix(PREFIX): tensor for name, tensor in plain_names.items() if name.startswith(PREFIX)}
    wanted = network.state_dict()
    wrong = [f"{name} missing" for name in wanted if name not in found]
    wrong += [f"{name} not of this network" for name in found if name not in wanted]
    wrong += [
        f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if wrong:
        raise ArtifactError(
            f"{path}: its tensors are not those of the network it says it holds: {len(wrong)} differ\n"
            f"  first: {wrong[0]}"
        )
    network.load_state_dict(found)
