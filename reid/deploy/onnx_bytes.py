"""The bytes and the metadata of an ONNX file, within the limits that such a file has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reid.errors import ArtifactError
from reid.files.encryption import read_model

LARGEST_BYTES = (2 << 30) + (2 << 20)
"""Protobuf's limit of a file; an encrypted one has a few bytes more."""


def require_onnx_file(path: Path) -> None:
    """Raises ArtifactError if there is no file, or one that is larger than an ONNX file can be."""
    if not path.is_file():
        raise ArtifactError(f"{path.absolute()}: no such ONNX file")
    if (size := path.stat().st_size) > LARGEST_BYTES:
        raise ArtifactError(
            f"{path}: no ONNX file: {size:,} bytes\n  want: at most {LARGEST_BYTES:,}, as protobuf allows"
        )


def read_onnx_bytes(path: Path) -> bytes:
    """The file's plain content, decrypted if it is encrypted; raises ArtifactError as require_onnx_file does."""
    require_onnx_file(path)
    return read_model(path)


def require_texts(metadata: Mapping[Any, Any], where: Path) -> dict[str, str]:
    """The metadata; protobuf gives bytes for a text that is not UTF-8, which is an ArtifactError here."""
    for entry in (*metadata, *metadata.values()):
        if not isinstance(entry, str):
            raise ArtifactError(f"{where}: its metadata is not UTF-8\n  found: {entry[:60]!r}")
    return dict(metadata)
