"""Reads and writes checkpoint files, without ever running code that a file brings.

A file of torch.save is a pickle, and a pickle may name any function for the reader to call. With weights_only=True
torch.load calls only a few of its own. Checkpoints of Lightning and TAO also hold objects of their trainers, which
torch would refuse: those are read as `Inert`, an object that takes everything and does nothing. Any other name in a
file is an error.
"""

import builtins
import io
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from reid.errors import ArtifactError, KeyRefused
from reid.files.encryption import decrypt, encrypt, is_encrypted
from reid.files.records import shown
from reid.files.secrets import KEY_ENVIRONMENT, encryption_key

LARGEST_RATIO = 20
"""Largest ratio of a file's content to its size: torch does not compress, weights hardly shrink, a zip bomb does."""
LARGEST_PICKLE_BYTES = 256 << 20
"""Largest part of a file that says how its tensors are named and arranged; it takes far more memory than bytes."""
TYPES = {
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
"""Kinds of numbers that weights have; others (complex, of 8 and fewer bits) need more than their values to be used."""


def _text(value: object = "") -> str:
    """A str as it is: written out, lists that hold each other many times would fill the memory."""
    return value if isinstance(value, str) else ""


PLAIN: dict[str, Callable[..., Any]] = {
    f"builtins.{name}": getattr(builtins, name) for name in ("bool", "dict", "float", "int", "list", "set", "tuple")
}
PLAIN["builtins.str"] = _text
PLAIN["collections.defaultdict"] = lambda *_factory: {}  # torch fills plain dicts only
"""Types that are allowed in addition to torch's own: building them does nothing else."""

INERT_PACKAGES = (
    *("lightning", "nvidia_tao_core", "nvidia_tao_pytorch", "omegaconf", "pytorch_lightning", "yacs"),
    *("argparse", "numpy", "pathlib", "typing"),
)
"""Packages whose objects stand in checkpoints (the spec, the trainer's state) and are not needed here."""


class Inert:
    """Stands in for an object of INERT_PACKAGES: it accepts what the file gives, and does nothing."""

    def __new__(cls, *_args: object, **_kwargs: object) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_file(path: Path) -> Any:
    """The content of a .safetensors file or one of torch.save, tensors on the CPU, without running any code from it.

    Objects of Lightning, OmegaConf and TAO that lie beside the tensors become `Inert`. Raises ArtifactError if the file
    is missing, damaged, no checkpoint, or needs code to be read.
    """
    if not path.is_file():
        raise ArtifactError(f"{path.absolute()}: no such file\n  want: a checkpoint (.pth, .tlt, .safetensors)")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, MemoryError, KeyError, ValueError, RuntimeError, AttributeError) as error:
            raise ArtifactError(f"{path}: damaged: not readable as safetensors ({error})") from None
    decrypted = decrypt(path, encryption_key()) if is_encrypted(path) else None
    head = (decrypted or _beginning(path)).getvalue()[:8]
    if not head.startswith((b"PK", b"\x80")):
        raise ArtifactError(
            f"{path}: not a checkpoint: it begins with {head!r}\n  want: a file of torch.save or .safetensors"
        )
    try:
        source = decrypted or io.BytesIO(path.read_bytes())
        if head.startswith(b"PK"):
            _refuse_bomb(path, source)
        with _allowances(path, source, zipped=head.startswith(b"PK")):
            content = torch.load(source, map_location="cpu", weights_only=True)
    except ArtifactError:
        raise
    except pickle.UnpicklingError as error:
        raise ArtifactError(
            f"{path}: needs code to be read, or is damaged ({_reason(error)})\n  want: tensors only"
        ) from None
    except Exception as error:  # torch, zipfile and pickle raise anything on damaged bytes, MemoryError too
        raise ArtifactError(f"{path}: damaged or cut short ({_reason(error)})\n  want: a whole checkpoint") from None
    _refuse_tensors_larger_than_the_file(path, content, LARGEST_RATIO * len(source.getbuffer()))
    return content


def _beginning(path: Path) -> io.BytesIO:
    with path.open("rb") as stream:
        return io.BytesIO(stream.read(8))


def require_plain(path: Path, tensors: Mapping[str, object]) -> None:
    """Raises ArtifactError unless all are tensors whose values are all there: dense, not quantised, of TYPES."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            found = shown(tensor)
        elif tensor.layout is not torch.strided:
            found = f"a sparse tensor ({tensor.layout})"
        elif tensor.is_quantized:
            found = f"a quantised tensor ({tensor.dtype})"
        elif tensor.is_meta:
            found = "a tensor without values (on the device meta)"
        elif tensor.dtype not in TYPES:
            found = f"a tensor of {tensor.dtype}"
        else:
            continue
        raise ArtifactError(
            f"{path}: {name} is no weight\n  found: {found}\n"
            "  want:  a dense tensor of float32, float64, float16, bfloat16 or whole numbers"
        )


def _refuse_bomb(path: Path, source: io.BytesIO) -> None:
    """Raises ArtifactError if the zip file grows beyond what weights do."""
    with zipfile.ZipFile(source) as file:
        members = file.infolist()
    source.seek(0)
    packed, whole = len(source.getbuffer()), sum(member.file_size for member in members)
    if whole > LARGEST_RATIO * packed:
        raise ArtifactError(
            f"{path}: not safe to read: it grows from {packed:,} to {whole:,} bytes\n"
            f"  want: at most {LARGEST_RATIO} times its size; torch.save does not compress"
        )
    pickled = sum(member.file_size for member in members if member.filename.endswith("data.pkl"))
    if pickled > LARGEST_PICKLE_BYTES:
        raise ArtifactError(
            f"{path}: not safe to read: {pickled:,} bytes without its tensors\n  want: at most {LARGEST_PICKLE_BYTES:,}"
        )


def _refuse_tensors_larger_than_the_file(path: Path, content: object, most: int) -> None:
    """Raises ArtifactError if a tensor claims more values than the file can hold; one value may stand for many.

    Also an entry that comes many times is looked at once.
    """
    waiting, seen = [content], set()
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, Tensor):
            size = entry.numel() * entry.element_size()
            if size > most and not entry.is_meta and entry.layout is torch.strided:
                raise ArtifactError(
                    f"{path}: not safe to read: a tensor of shape {tuple(entry.shape)} claims {size:,} bytes\n"
                    f"  want: at most {LARGEST_RATIO} times the file's size"
                )
        elif isinstance(entry, (dict, list, tuple, set)) and id(entry) not in seen:
            seen.add(id(entry))
            waiting.extend(entry.values() if isinstance(entry, dict) else entry)


def read_own_file(path: Path) -> Any:
    """The content of a checkpoint of this project, which has to be encrypted if this process has an encryption key.

    Else anybody who may write the folder could put another model in the place of one whose key they do not have. Files
    of others (`read_file`) are never encrypted. Raises ArtifactError as `read_file` does, KeyRefused for a plain file.
    """
    if path.is_file() and encryption_key() and not is_encrypted(path):
        raise KeyRefused(
            f"{path}: not encrypted, and an encryption key is given\n"
            "  want: a file that was encrypted with the key; if you trust this one, reid adopt -e SPEC FILE encrypts "
            f"it; or neither encryption_key nor {KEY_ENVIRONMENT}"
        )
    return read_file(path)


def write_file(content: Any, stream: IO[bytes]) -> None:
    """Writes what `read_file` reads: torch.save's format, encrypted if this process has an encryption key."""
    plain, key = io.BytesIO(), encryption_key()
    torch.save(content, plain)  # to memory first: on a full disk torch raises an error that does not say so
    if key is None:
        stream.write(plain.getbuffer())
    else:
        plain.seek(0)
        encrypt(plain, stream, key)


@contextmanager
def _allowances(path: Path, source: IO[bytes], *, zipped: bool) -> Iterator[None]:
    """Lets torch.load also build PLAIN types, and Inert for INERT_PACKAGES; raises ArtifactError for other names."""
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
