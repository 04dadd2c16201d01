"""The suspected labels of a data set as one self-contained HTML page, the worst first, with their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reid.data.findings import counted
from reid.reports.match_grid import Picture
from reid.reports.page import render
from reid.reports.thumbnails import Thumbnails

SIZE = {"width": 80, "height": 160}
"""Largest width and height of a picture in pixels."""
BUDGET_BYTES = 4_000_000
"""Bytes of all pictures together; the rows beyond that show the names only."""
FRAMES = {"wrong label": ("query",), "same person": ("query", "query")}
"""Kind -> the frames of its first pictures; the others are grey, for nothing is right or wrong yet."""


@dataclass(frozen=True)
class ShownSuspect:
    """A suspect, its reason, and (what it is, file, name) of its pictures."""

    kind: str
    score: float
    reason: str
    pictures: Sequence[tuple[str, Path, str]]


@dataclass(frozen=True)
class ShownGroup:
    """The suspects of images that were compared with each other."""

    title: str
    learnt: bool
    """Whether the images are of a training set, which the model may have learnt by heart."""
    images: int
    suspects: Sequence[ShownSuspect]

    @property
    def in_words(self) -> str:
        """How many images, and how many suspects."""
        return f"{counted(self.images, 'image')}, {counted(len(self.suspects), 'suspect')}"


@dataclass(frozen=True)
class Row:
    """A suspect as the template takes it."""

    suspect: ShownSuspect
    pictures: list[Picture]
    names: list[str]


def to_html(groups: Sequence[ShownGroup], *, model: Path) -> str:
    """The whole page."""
    thumbnails = Thumbnails(BUDGET_BYTES, **SIZE)
    return render(
        "suspects",
        model=str(model),
        groups=[(group, [_row(suspect, thumbnails) for suspect in group.suspects]) for group in groups],
    )


def _row(suspect: ShownSuspect, thumbnails: Thumbnails) -> Row:
    frames = FRAMES.get(suspect.kind, ())
    pictures = []
    for place, (what, file, name) in enumerate(suspect.pictures):
        uri = thumbnails.uri_if_possible(file)
        if uri is not None:
            frame = frames[place] if place < len(frames) else "compared"
            pictures.append(Picture(frame, uri, what, name))
    return Row(suspect, pictures, [f"{what}: {name}" for what, _, name in suspect.pictures])
