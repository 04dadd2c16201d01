"""The findings of a data set as one self-contained HTML page: no script, no outside file, light and dark, < 300 kB."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from reid.data.findings import Examination, Finding, SplitSummary, counted
from reid.reports.blocks import Table
from reid.reports.findings import SPLIT_COLUMNS, shown_sizes, split_row
from reid.reports.histogram import Histogram, persons_histogram
from reid.reports.page import render
from reid.reports.thumbnails import Thumbnails

THUMBNAIL = {"width": 64, "height": 112}
"""Largest width and height in pixels; thumbnails are shown at two thirds, so that they are sharp on fine screens."""
THUMBNAIL_BUDGET_BYTES = 200_000
"""Bytes of all thumbnails together; pictures beyond that are left out, but their names stay."""
SPLIT_TITLES = {
    "train": ("Training", "the network learns these persons"),
    "query": ("Query", "images to search for"),
    "gallery": ("Gallery", "images to search in"),
}


@dataclass(frozen=True)
class NamedPicture:
    """A thumbnail and FOLDER/FILE of its image."""

    uri: str
    name: str


@dataclass(frozen=True)
class CameraBar:
    """A camera's images, and their number as a share of the largest such number, in percent."""

    camera: int
    images: int
    percent: float


@dataclass(frozen=True)
class ShownFinding:
    """A finding with its pictures."""

    finding: Finding
    pictures: list[NamedPicture]

    @property
    def more(self) -> int:
        """How many culprits are not among the examples."""
        return self.finding.count - len(self.finding.examples)


@dataclass(frozen=True)
class ShownSplit:
    """A split's section of the page."""

    summary: SplitSummary
    title: str
    role: str
    images: str
    """Their number in words."""
    sizes: str
    pictures: list[NamedPicture]
    cameras: list[CameraBar]
    histogram: Histogram | None
    cameras_histogram: Histogram | None


def to_html(examination: Examination) -> str:
    """The whole page."""
    thumbnails = Thumbnails(THUMBNAIL_BUDGET_BYTES, **THUMBNAIL)
    return render(
        "findings",
        verdict=examination.verdict,
        tone="error" if examination.count("error") else "warning" if examination.count("warning") else "good",
        fingerprint=examination.fingerprint,
        splits_table=Table(SPLIT_COLUMNS, [split_row(summary) for summary in examination.splits]),
        # the findings come first in the page, so they come first in the budget
        findings=[ShownFinding(finding, _pictures(finding.files, thumbnails)) for finding in examination.findings],
        splits=[_shown_split(summary, thumbnails) for summary in examination.splits],
    )


def _shown_split(summary: SplitSummary, thumbnails: Thumbnails) -> ShownSplit:
    title, role = SPLIT_TITLES[summary.name]
    title = f"{summary.set_name}: {title}" if summary.set_name else title
    most = max(summary.images_per_camera.values(), default=1)
    return ShownSplit(
        summary,
        title,
        role,
        images=counted(summary.images, "image"),
        sizes=shown_sizes(summary),
        pictures=_pictures(summary.samples, thumbnails),
        cameras=[CameraBar(camera, n, 100 * n / most) for camera, n in summary.images_per_camera.items()],
        histogram=persons_histogram(summary.images_per_person, "image"),
        cameras_histogram=persons_histogram(summary.cameras_per_person, "camera"),
    )


def _pictures(paths: Iterable[Path], thumbnails: Thumbnails) -> list[NamedPicture]:
    found = [(thumbnails.uri_if_possible(path), f"{path.parent.name}/{path.name}") for path in paths]
    return [NamedPicture(uri, name) for uri, name in found if uri is not None]
