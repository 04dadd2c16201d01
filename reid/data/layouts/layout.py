"""What a layout of a data set is: how its images are found, and how it numbers persons and cameras."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reid.data.file_names import FileNames
from reid.data.market1501 import Fault

SPLITS = ("train", "query", "gallery")
LayoutName = Literal["market1501", "msmt17", "cuhk03", "dukemtmc", "occluded_duke", "veri776", "folders", "csv"]


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image with its person and camera as the layout writes them: a number or any text."""

    file: str
    """Name relative to the split's root."""
    person: str
    """"-1": junk."""
    camera: str | None
    """None if cameras are unknown."""


@dataclass(frozen=True)
class Found:
    """What a layout has for one split, before persons and cameras are numbered."""

    root: Path
    names: FileNames
    """The names that the files should have, and whether cameras are known."""
    images: tuple[NamedImage, ...] = ()
    misnamed: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    error: str = ""
    """Why the split cannot be listed at all; it is empty then."""


Find = Callable[[Path, Sequence[str], FileNames], dict[str, Found]]
"""(root, splits, dataset.file_name) -> what there is for each of the splits."""


@dataclass(frozen=True)
class Layout:
    """One layout, as a row of the table of layouts."""

    find: Find
    tree: str
    """What the root has to hold, in words."""
    apart: bool = False
    """Whether train and test are numbered apart: the same number in both is then two persons."""
    distractors: bool = False
    """Whether person 0 is nobody; otherwise 0 is a person like any other."""
    reads_names: bool = False
    """Whether dataset.file_name says how a file's name is read."""
