"""The bytes and the metadata of an ONNX file, within the limits that such a file has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reid.errors import ArtifactError
from reid.files.encryption import read_model, require_encrypted
from reid.files.records import DamagedRecordError, read_json_record

LARGEST_BYTES = (2 << 30) + (2 << 20)
"""Protobuf's limit of a file; an encrypted one has a few bytes more."""
PARITY_RECORDS = ("parity.json", "parity")
"""Names of the record of an export in the folder of its ONNX: the task's, and the pipeline's."""


def require_onnx_file(path: Path) -> None:
    """Raises ArtifactError if there is no file, or one that is larger than an ONNX file can be."""
    if not path.is_file():
        raise ArtifactError(f"{path.absolute()}: no such ONNX file")
    if (size := path.stat().st_size) > LARGEST_BYTES:
        raise ArtifactError(
            f"{path}: no ONNX file: {size:,} bytes\n  want: at most {LARGEST_BYTES:,}, as protobuf allows"
        )


def read_onnx_bytes(path: Path) -> bytes:
    """The file's plain content, decrypted if it is encrypted.

    Raises ArtifactError as require_onnx_file does, KeyRefused for a plain file where `reid export` wrote an encrypted
    one. Files of others, which no record of an export lies beside, may be plain.
    """
    require_onnx_file(path)
    if _exported_encrypted(path):
        require_encrypted(path)
    return read_model(path)


def _exported_encrypted(path: Path) -> bool:
    """Whether the record that `reid export` leaves beside its ONNX says that it was encrypted."""
    for record in (path.with_name(name) for name in PARITY_RECORDS):
        try:
            known = read_json_record(record, dict[str, Any], finite=False)
        except (DamagedRecordError, OSError):
            continue  # none, or not an export's record
        if known.get("onnx") == path.name and known.get("encrypted") is True:
            return True
    return False


def require_texts(metadata: Mapping[Any, Any], where: Path) -> dict[str, str]:
    """The metadata; protobuf gives bytes for a text that is not UTF-8, which is an ArtifactError here."""
    for entry in (*metadata, *metadata.values()):
        if not isinstance(entry, str):
            raise ArtifactError(f"{where}: its metadata is not UTF-8\n  found: {entry[:60]!r}")
    return dict(metadata)
