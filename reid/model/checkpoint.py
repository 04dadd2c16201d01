"""This project's checkpoints: writing a network as one, and reading it back.

A checkpoint is Lightning's dict (`state_dict` with the network under "model.") with an entry `reid` that says how to
build the network, what its input is, and which persons its classifier knows. A training with averaged weights keeps
them under `ema` and goes on with `state_dict`; everything else takes the averaged ones. `safe_files.py` reads the file.

Shapes: B images, C channels, H height, W width, D width of the embedding.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid.choice import Choice
from reid.contract import Contract
from reid.embeddings import OfPixels
from reid.errors import ArtifactError, SpecError
from reid.files.records import shown
from reid.files.writing import replacing
from reid.model import backbones
from reid.model.backbones import is_convolutional
from reid.model.embedder import Embedder, build_embedder
from reid.model.entry import FORMAT, network_settings, read_entry
from reid.model.of_pixels import of_pixels
from reid.model.safe_files import read_own_file, require_plain, write_file
from reid.thresholds import Thresholds

PREFIX = "model."
"""The beginning of the network's tensor names: the LightningModule keeps it as `model`."""

AVERAGE = "ema"
"""The entry of a training's checkpoint with the averaged weights, under the names of `state_dict`; if it is there, the
model is what they make."""

THRESHOLDS = "thresholds"
"""The key in the entry `reid` of the thresholds, as one line of JSON; older checkpoints, and those of epochs after
which none were measured, do not have it."""


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
    checkpoint = read_own_file(path)
    if not isinstance(checkpoint, dict) or not {"reid", "state_dict"} <= set(checkpoint):
        found = (
            f"entries {sorted(map(str, checkpoint))[:6]}" if isinstance(checkpoint, dict) else type(checkpoint).__name__
        )
        raise ArtifactError(
            f"{path}: not a checkpoint of this project: found {found}\n"
            "  want: entries state_dict and reid, as train writes them\n"
            f"  weights of TAO and others: reid adopt {path} -e SPEC makes such a checkpoint of them"
        )
    entry = read_entry(path, checkpoint["reid"])
    contract = Contract.from_json(entry.contract, where=str(path))
    settings = network_settings(path, entry)
    own = {"height": "height", "width": "width", "channels": "input_channels", "flip": "with_flip_feature"}
    _require_contract_of(path, contract, **{field: settings[name] for field, name in own.items()})
    state = _tensors_of_network(path, checkpoint[AVERAGE if AVERAGE in checkpoint else "state_dict"])
    network = _built(path, settings, state)
    _require_contract_of(path, contract, embedding=network.embedding_size)
    network.load_state_dict(state)
    network.eval().requires_grad_(False)
    network = network.to(device).to(memory_format=_memory_format(network))  # type: ignore[call-overload]
    return LoadedModel(
        network=network,
        contract=contract,
        settings=settings,
        persons=tuple(entry.persons),
        chosen_on=entry.chosen_on,
        chosen_fingerprint=entry.chosen_fingerprint,
        thresholds=Thresholds.from_json(entry.thresholds, where=str(path)) if entry.thresholds else None,
    )


def _require_contract_of(path: Path, contract: Contract, **network: Any) -> None:
    if differing := contract.differences(**network):
        raise ArtifactError(
            f"{path}: its preprocessing contract is of another network: {differing[0]}\n"
            "  want: the contract that train wrote with these weights"
        )


def _tensors_of_network(path: Path, state: object) -> dict[str, Tensor]:
    """The tensors of the network by their names in it; raises ArtifactError if they are not plain tensors."""
    if not isinstance(state, dict):
        raise ArtifactError(f"{path}: its state_dict is {shown(state)}\n  want: names with their tensors")
    plain_names = {str(name).replace("_orig_mod.", ""): tensor for name, tensor in state.items()}  # torch.compile's
    found = {name.removeprefix(PREFIX): tensor for name, tensor in plain_names.items() if name.startswith(PREFIX)}
    require_plain(path, found)
    return found


def _built(path: Path, settings: dict[str, Any], found: dict[str, Tensor]) -> Embedder:
    """The network of `settings`, with random weights, after it was compared with the tensors `found`.

    It is drawn up without memory first, for a damaged file may describe a network that fills the machine.
    """
    try:
        drawn = without_memory(**settings)
    except SpecError as error:
        raise ArtifactError(f"{path}: describes no network of this project: {error}") from None
    if drawn is not None:
        _require_same_tensors(path, drawn.state_dict(), found)
    network = build_embedder(**settings)
    _require_same_tensors(path, network.state_dict(), found)
    return network


def without_memory(**settings: Any) -> Embedder | None:
    """The network of these values of build_embedder, whose tensors have shapes only; None if timm cannot build it so.

    Raises SpecError as build_embedder does.
    """
    try:
        with torch.device("meta"), _without_warnings():
            return build_embedder(**settings)
    except RuntimeError:  # a network that computes while it is built
        return None


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keeps back what building the network logs, for it is built a second time."""
    log, nothing = logging.getLogger(backbones.__name__), logging.Filter("nothing")
    log.addFilter(nothing)
    try:
        yield
    finally:
        log.removeFilter(nothing)


def _require_same_tensors(path: Path, wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Raises ArtifactError if names, shapes or kinds of numbers differ."""
    wrong = [f"{name} missing" for name in wanted if name not in found]
    wrong += [f"{name} not of this network" for name in found if name not in wanted]
    wrong += [
        f"{name} {_in_words(found[name], tensor)} instead of {_in_words(tensor, found[name])}"
        for name, tensor in wanted.items()
        if name in found and _in_words(found[name], tensor) != _in_words(tensor, found[name])
    ]
    if wrong:
        raise ArtifactError(
            f"{path}: its tensors are not those of the network it says it holds: {len(wrong)} differ\n"
            f"  first: {wrong[0]}"
        )


def _in_words(tensor: Tensor, other: Tensor) -> str:
    """The shape, and if only one of both has whole numbers, the type."""
    same_kind = tensor.is_floating_point() == other.is_floating_point()
    return f"{tuple(tensor.shape)}" + ("" if same_kind else f" of {str(tensor.dtype).removeprefix('torch.')}")
