"""Checks of a data set for persons and cameras that have far more, or far fewer, images than the others."""

import statistics
from collections import Counter
from collections.abc import Iterator

from reid.data.findings import EXAMPLES, Finding, counted
from reid.data.market1501 import DISTRACTOR
from reid.data.surveys import SplitSurvey, Surveys

MANY_TIMES = 10
"""How many times the median number of images a person has before that is worth a note."""
LARGE_SHARE, SMALL_SHARE = 0.6, 0.01
"""Share of the images above, or below, which a camera is named."""


def single_images(survey: SplitSurvey) -> Iterator[Finding]:
    """A warning about training persons with one image, which has no other image to be compared with."""
    images = Counter(image.person for image in survey.images if image.person > DISTRACTOR)
    files = [image.file for image in survey.images if images[image.person] == 1]
    if files:
        message = (
            f"{survey.name}: {len(files):,} of {counted(len(images), 'person')} with one image only; a metric loss "
            "finds no second image of them"
        )
        yield survey.finding("warning", "one image", message, files)


def large_persons(survey: SplitSurvey) -> Iterator[Finding]:
    """A note on training persons with far more images than the median person, the largest first."""
    images = Counter(image.person for image in survey.images if image.person > DISTRACTOR)
    if not images:
        return
    median = statistics.median(images.values())
    large = [person for person, count in images.most_common() if count > MANY_TIMES * median]
    if large:
        most, total = images[large[0]], sum(images.values())
        message = (
            f"{survey.name}: {counted(len(large), 'person')} with more than {MANY_TIMES} times the median of "
            f"{median:g} images; person {large[0]} has {most:,}, {100 * most / total:.1f} % of all"
        )
        examples = tuple(f"person {person}: {images[person]:,} images" for person in large[:EXAMPLES])
        yield Finding("note", "large persons", message, len(large), examples)


def uneven_cameras(survey: SplitSurvey) -> Iterator[Finding]:
    """A note on cameras with most of a split's images, or with hardly any."""
    images = Counter(image.camera for image in survey.images)
    total = sum(images.values())
    if not survey.names.cameras or len(images) < 2:
        return
    odd = sorted(c for c, count in images.items() if not SMALL_SHARE <= count / total <= LARGE_SHARE)
    if odd:
        shown = tuple(f"camera {c}: {images[c]:,} images, {100 * images[c] / total:.1f} %" for c in odd)
        message = (
            f"{survey.name}: {counted(len(odd), 'camera')} of {len(images)} with more than {100 * LARGE_SHARE:g} % or "
            f"fewer than {100 * SMALL_SHARE:g} % of the images"
        )
        yield Finding("note", "uneven cameras", message, len(odd), shown[:EXAMPLES])


def disjoint_cameras(surveys: Surveys) -> Iterator[Finding]:
    """A note if the test images are of other cameras than the training images."""
    if not all(survey.names.cameras for survey in surveys.values()):
        return
    train = {image.camera for image in surveys["train"].images}
    test = {image.camera for name in ("query", "gallery") for image in surveys[name].images}
    if train and test and not train & test:
        message = (
            f"no camera of train ({_listed(train)}) is one of query and gallery ({_listed(test)}): the figures are of "
            "cameras that the network has not learnt"
        )
        yield Finding("note", "other cameras", message, len(test))


def _listed(cameras: set[int]) -> str:
    shown = sorted(cameras)
    more = f", {len(shown) - EXAMPLES} more" if len(shown) > EXAMPLES else ""
    return ", ".join(map(str, shown[:EXAMPLES])) + more
