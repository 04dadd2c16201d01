"""Embeds a few image files of any names and places, for commands that are given files rather than a data set.

Shapes: N files.
"""

from collections.abc import Sequence
from pathlib import Path

from reid.console.plain import in_one_line
from reid.data.market1501 import PersonImage, Split
from reid.data.on_disk import ImagesOnDisk
from reid.deploy.opening import OpenModel
from reid.embeddings import Embeddings, embed
from reid.errors import DatasetError

NO_PERSON, NO_CAMERA = 0, 1
"""What the embeddings say of files whose names say nothing."""


def embed_files(model: OpenModel, paths: Sequence[Path], *, batch_size: int) -> Embeddings:
    """The embeddings (N, D) of the files in their order, not normalised; a file that is named twice has two rows.

    The images are prepared as the model's contract says. Raises DatasetError if a file is missing, is a folder, or is
    no image that can be read.
    """
    files = [path.absolute() for path in paths]
    require_files(files)
    contract = model.contract
    split = Split(Path("/"), tuple(PersonImage(str(file), NO_PERSON, NO_CAMERA) for file in files))
    return embed(
        split,
        ImagesOnDisk(split, height=contract.height, width=contract.width, channels=contract.channels),
        model.network,
        contract=contract,
        batch_size=batch_size,
        what="embedding",
    )


def require_files(files: Sequence[Path]) -> None:
    """Raises DatasetError if one of the image files is missing or is a folder; no file is opened."""
    for file in (file.absolute() for file in files):
        if file.is_dir():
            raise DatasetError(f"{in_one_line(file)}: a folder\n  want: an image file")
        if not file.exists():
            raise DatasetError(f"{in_one_line(file)}: no such file\n  want: an image file")
