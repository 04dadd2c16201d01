"""Checkpoints: reading any of them without running code from it, and this project's own back into a network.

One of ours is Lightning's dict (`state_dict` with the network under "model.") with an entry `reid` that says how to
build the network, what its input is, and which persons its classifier knows.

Shapes: B images, C channels, H height, W width, D width of the embedding.
"""

import builtins
import inspect
import io
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from reid.contract import Contract
from reid.embeddings import OfPixels
from reid.errors import ArtifactError
from reid.files.encryption import decrypt, encrypt, is_encrypted
from reid.files.secrets import encryption_key
from reid.files.writing import replacing
from reid.model.backbones import is_convolutional
from reid.model.embedder import Embedder, build_embedder
from reid.model.of_pixels import of_pixels

FORMAT = 1
PREFIX = "model."
"""The LightningModule's attribute that holds the network."""

ADDED_SETTINGS = {"stem_pool": "padded"}
"""Settings of the network that older checkpoints lack: what it was then."""

PLAIN: dict[str, Callable[..., Any]] = {
    f"builtins.{name}": getattr(builtins, name)
    for name in ("bool", "dict", "float", "int", "list", "set", "str", "tuple")
}
PLAIN["collections.defaultdict"] = lambda *_factory: {}  # torch fills plain dicts only
"""Beside what torch allows: types whose construction does nothing else."""

INERT_PACKAGES = (
    *("lightning", "nvidia_tao_core", "nvidia_tao_pytorch", "omegaconf", "pytorch_lightning", "yacs"),
    *("argparse", "numpy", "pathlib", "typing"),
)
"""Their objects ride along in checkpoints (the spec, the trainer's state) and are of no use here."""


class Inert:
    """Stands in for an object of INERT_PACKAGES: takes what the file gives, does nothing."""

    def __new__(cls, *_args: object, **_kwargs: object) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_file(path: Path) -> Any:
    """What a .safetensors file or one of torch.save holds, tensors on the CPU, without running any code from it.

    Objects of Lightning, OmegaConf and TAO that lie beside the tensors become `Inert`. Raises ArtifactError where
    the file is missing, damaged, no checkpoint, or needs code to be read.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file\n  want: a checkpoint (.pth, .tlt, .safetensors)")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{path}: damaged: not readable as safetensors ({error})") from None
    source = decrypt(path, encryption_key()) if is_encrypted(path) else io.BytesIO(path.read_bytes())
    head = source.getvalue()[:8]
    if not head.startswith((b"PK", b"\x80")):
        raise ArtifactError(
            f"{path}: not a checkpoint: it begins with {head!r}\n  want: a file of torch.save or .safetensors"
        )
    try:
        with _allowances(path, source, zipped=head.startswith(b"PK")):
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(
            f"{path}: needs code to be read, or is damaged ({_reason(error)})\n  want: tensors only"
        ) from None
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise ArtifactError(f"{path}: damaged or cut short ({_reason(error)})\n  want: a whole checkpoint") from None


def write_file(content: Any, stream: IO[bytes]) -> None:
    """Writes what `read_file` reads: torch.save's format, encrypted where this process has an encryption key."""
    plain, key = io.BytesIO(), encryption_key()
    torch.save(content, plain)  # to memory first: on a full disk torch raises an error that does not say so
    if key is None:
        stream.write(plain.getbuffer())
    else:
        plain.seek(0)
        encrypt(plain, stream, key)


@contextmanager
def _allowances(path: Path, source: IO[bytes], *, zipped: bool) -> Iterator[None]:
    """Within it torch.load also takes PLAIN types and makes INERT_PACKAGES' objects Inert; ArtifactError for others."""
    wanted = torch.serialization.get_unsafe_globals_in_checkpoint(source) if zipped else []
    code = sorted(name for name in wanted if name not in PLAIN and name.partition(".")[0] not in INERT_PACKAGES)
    if code:
        raise ArtifactError(
            f"{path}: needs code to be read, which may do anything: {', '.join(code[:3])} ({len(code)} in all)\n"
            f"  want: tensors only, e.g. saved again by torch.save(model.state_dict(), ...)"
        )
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (PLAIN.get(name, Inert), name) for name in wanted
    ]
    with torch.serialization.safe_globals(stand_ins):
        source.seek(0)
        yield


def _reason(error: BaseException) -> str:
    """The reason in an error of torch, without the advice around it to load the file with its code."""
    reason = str(error).rpartition("WeightsUnpickler error: ")[2]
    lines = [line for line in reason.splitlines() if line.strip() and not line.startswith("Weights only load failed")]
    return lines[0].strip()[:160] if lines else type(error).__name__


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network in eval mode on its device, with the contract of its input and output."""

    network: Embedder
    contract: Contract
    settings: dict[str, Any]
    """build_embedder's keyword values."""
    persons: tuple[int, ...]
    """Person ids in the order of the classifier's rows."""

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
        """The same for decoded images, which its device prepares."""
        return of_pixels(
            self.network,
            contract=self.contract,
            device=self.network.classifier.weight.device,
            channels_last=_memory_format(self.network) is torch.channels_last,
        )


def _memory_format(network: Embedder) -> torch.memory_format:
    return torch.channels_last if is_convolutional(network.base) else torch.contiguous_format


def reid_entry(*, model: dict[str, Any], contract: Contract, persons: Sequence[int]) -> dict[str, Any]:
    """The checkpoint's entry `reid`, plain values only; `model` = embedder.settings, `persons` = the classifier's ids.

    The trainer puts it in at on_save_checkpoint: `checkpoint["reid"] = reid_entry(...)`.
    """
    persons = sorted(int(person) for person in persons)
    return {
        "format": FORMAT,
        "model": json.loads(json.dumps(model)),
        "contract": contract.to_json(),
        "persons": persons,
    }


def save_model(path: Path, network: Embedder, *, contract: Contract, persons: Sequence[int]) -> None:
    """Writes a checkpoint without a trainer's state, whole or not at all; `load_model` reads it."""
    state = {PREFIX + name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    entry = reid_entry(model=network.settings, contract=contract, persons=persons)
    with replacing(path) as partial, partial.open("wb") as stream:
        write_file({"state_dict": state, "reid": entry}, stream)


def load_model(path: Path, device: str = "cpu") -> LoadedModel:
    """The network of one of this project's checkpoints, every tensor of it loaded, in eval mode on `device`.

    The file says how to build it. Raises ArtifactError where it is missing, damaged or not this project's.
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
    _load_strictly(path, network, checkpoint["state_dict"])
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
    return LoadedModel(network=network, contract=contract, settings=settings, persons=tuple(entry["persons"]))


def _settings(path: Path, entry: Any) -> dict[str, Any]:
    """build_embedder's keyword values out of the entry `reid`, checked."""
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
            f"  its model section lacks {sorted(wanted - set(settings))}, has besides {sorted(set(settings) - wanted)}"
        )
    return settings


def _load_strictly(path: Path, network: nn.Module, state: dict[str, Tensor]) -> None:
    """Every tensor of the network from its namesake of the same shape; ArtifactError with the first that is not."""
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
