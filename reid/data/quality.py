"""Checks of a split for pictures that show little: of one colour, blurred, or far smaller than the network's input."""

from collections.abc import Iterator

import numpy as np

from reid.data.findings import Finding, counted
from reid.data.market1501 import JUNK
from reid.data.sketch import LEAST_CONTRAST
from reid.data.surveys import SplitSurvey

BLURRED = 8.0
"""How many times less sharp than the split's median a blurred image is."""
FEWEST_TO_COMPARE = 20
"""A split of fewer images has no distribution that one could be compared with."""
ENLARGED = 2.0
"""How many times an image is enlarged on its way into the network before that is worth a note."""


def empty_pictures(survey: SplitSurvey) -> Iterator[Finding]:
    """A warning about images of nearly one colour, the emptiest first."""
    contrast = {image.file: survey.facts[image.file].contrast for image in survey.readable}
    files = sorted((file for file, value in contrast.items() if value < LEAST_CONTRAST), key=contrast.__getitem__)
    if files:
        message = (
            f"{survey.name}: {counted(len(files), 'image')} of nearly one colour (standard deviation of the grey "
            f"values below {LEAST_CONTRAST:g} of 255); they show nobody"
        )
        yield survey.finding("warning", "empty picture", message, files)


def blurred(survey: SplitSurvey) -> Iterator[Finding]:
    """A note on images that are far less sharp than the others of their split, the most blurred first.

    Sharpness is the variance of the Laplacian over that of the grey values. Junk is blurred by nature and not counted.
    """
    sharpness = {
        image.file: survey.facts[image.file].sharpness
        for image in survey.readable
        if image.person != JUNK and survey.facts[image.file].contrast >= LEAST_CONTRAST
    }
    if len(sharpness) < FEWEST_TO_COMPARE:
        return
    median = float(np.median(list(sharpness.values())))
    files = sorted((file for file, value in sharpness.items() if value * BLURRED < median), key=sharpness.__getitem__)
    if files:
        message = (
            f"{survey.name}: {counted(len(files), 'image')} more than {BLURRED:g} times less sharp than the median "
            f"image (sharpness {sharpness[files[0]]:.2g} to {sharpness[files[-1]]:.2g}, median {median:.2g})"
        )
        yield survey.finding("note", "blurred", message, files)


def enlarged(survey: SplitSurvey, *, width: int, height: int) -> Iterator[Finding]:
    """A note on images that are enlarged more than ENLARGED times, the smallest first.

    width and height: of the network's input, in pixels.
    """
    factor = {
        image.file: max(height / survey.facts[image.file].height, width / survey.facts[image.file].width)
        for image in survey.readable
    }
    files = sorted((file for file, value in factor.items() if value > ENLARGED), key=lambda file: -factor[file])
    if files:
        share = 100 * len(files) / len(survey.readable)
        message = (
            f"{survey.name}: {counted(len(files), 'image')} ({share:.1f} %) enlarged more than {ENLARGED:g} times, up "
            f"to {factor[files[0]]:.1f} times, to the network's {width} x {height} pixels"
        )
        yield survey.finding("note", "enlarged", message, files)
