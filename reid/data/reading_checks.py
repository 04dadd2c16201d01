"""Checks of a data set for pictures that are not read as they are stored: turned, or scaled to 8 bits."""

from collections import Counter
from collections.abc import Iterator

from reid.data.findings import Finding, counted
from reid.data.image_file import DAMAGED_EXIF, DEEP_MODES, UPRIGHT
from reid.data.surveys import SplitSurvey


def turned(survey: SplitSurvey) -> Iterator[Finding]:
    """A note on images that their EXIF orientation turns, and one on images whose EXIF block is damaged."""
    found = {image.file: survey.facts[image.file].orientation for image in survey.readable}
    files = [file for file, orientation in found.items() if orientation not in (UPRIGHT, DAMAGED_EXIF)]
    if files:
        shown = _listed(Counter(str(found[file]) for file in files))
        message = f"{survey.name}: {counted(len(files), 'image')} turned as EXIF says when read (orientation {shown})"
        yield survey.finding("note", "EXIF orientation", message, files)
    damaged = [file for file, orientation in found.items() if orientation == DAMAGED_EXIF]
    if damaged:
        message = (
            f"{survey.name}: {counted(len(damaged), 'image')} whose EXIF block is damaged or gives no orientation from "
            "1 to 8; read as stored, perhaps not upright"
        )
        yield survey.finding("note", "damaged EXIF", message, damaged)


def deep(survey: SplitSurvey) -> Iterator[Finding]:
    """A note on images of more than 8 bits a channel."""
    found = {image.file: survey.facts[image.file].mode for image in survey.readable}
    files = [file for file, mode in found.items() if mode in DEEP_MODES]
    if files:
        shown = _listed(Counter(found[file] for file in files))
        rules = "I;16 is divided by 257, F from 0 to 1 is times 255, others are scaled by the range of each image"
        message = f"{survey.name}: {counted(len(files), 'image')} scaled to 8 bits when read ({shown}); {rules}"
        yield survey.finding("note", "more than 8 bits", message, files)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in sorted(counts.items()))
