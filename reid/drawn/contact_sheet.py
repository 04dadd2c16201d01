"""A picture that shows some persons of a data set: a row for each person, a column for each camera."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from reid.data.file_names import MARKET1501, FileNames
from reid.data.image_file import read_picture
from reid.data.market1501 import list_folder
from reid.drawn.plan import GALLERY, TRAIN
from reid.errors import DatasetError

WIDTH_PX = 128
"""Width of an image on the sheet."""
GAP_PX, LEFT_PX, TOP_PX = 8, 60, 30
"""Space between images, and the margins with the names of persons and cameras."""

Views = dict[int, dict[int, list[Path]]]
"""Person -> camera -> images."""


def contact_sheet(root: Path, output: Path, *, names: FileNames = MARKET1501, persons: int = 8, seed: int = 0) -> None:
    """Writes a picture of some persons of a Market-1501 tree, chosen at random.

    A cell is empty if the camera did not see the person; if names contain no cameras there is one column. Raises
    DatasetError if there are no persons.
    """
    views = _find_views(root, names)
    rng = np.random.default_rng(seed)
    chosen = sorted(int(person) for person in rng.permutation(sorted(views))[:persons])
    cameras = sorted({camera for seen in views.values() for camera in seen})
    first = read_picture(views[chosen[0]][min(views[chosen[0]])][0])
    width, height = WIDTH_PX, round(WIDTH_PX * first.height / first.width)
    step_x, step_y = width + GAP_PX, height + GAP_PX
    sheet = Image.new("RGB", (LEFT_PX + len(cameras) * step_x, TOP_PX + len(chosen) * step_y), (250, 250, 250))
    label = partial(ImageDraw.Draw(sheet).text, fill=(40, 40, 40), anchor="mm", font_size=16)
    for column, camera in enumerate(cameras):
        label(
            (LEFT_PX + column * step_x + width / 2, TOP_PX / 2), f"camera {camera}" if names.cameras else "any camera"
        )
    for row, person in enumerate(chosen):
        label((LEFT_PX / 2, TOP_PX + row * step_y + height / 2), f"{person:04d}")
        for column, camera in enumerate(cameras):
            cell = _cell(views[person].get(camera, []), rng, size=(width, height))
            sheet.paste(cell, (LEFT_PX + column * step_x, TOP_PX + row * step_y))
    output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(output)


def _find_views(root: Path, names: FileNames) -> Views:
    views: Views = {}
    misnamed: list[str] = []
    for split in (TRAIN, GALLERY):
        listing = list_folder(root / split, names=names)
        misnamed += listing.misnamed
        for image in listing.split.images:
            if image.person > 0:
                views.setdefault(image.person, {}).setdefault(image.camera, []).append(root / split / image.file)
    if not views:
        other = f"; {len(misnamed)} images are not {names.wanted} (here --file-name)" if misnamed else ""
        raise DatasetError(f"{root}: no images of persons in {TRAIN} and {GALLERY}{other}")
    return views


def _cell(files: list[Path], rng: np.random.Generator, *, size: tuple[int, int]) -> Image.Image:
    """One of the images, chosen at random, or an empty cell."""
    if not files:
        return Image.new("RGB", size, (232, 232, 232))
    return read_picture(files[rng.integers(len(files))]).resize(size, Image.Resampling.LANCZOS)
