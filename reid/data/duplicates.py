"""Checks of a data set for pictures that it has more than once, and for queries that would find themselves."""

from collections import defaultdict
from collections.abc import Iterator

from reid.data.findings import EXAMPLES, Finding, counted
from reid.data.market1501 import DISTRACTOR, PersonImage
from reid.data.surveys import Surveys


def duplicates(surveys: Surveys) -> Iterator[Finding]:
    """Findings about pictures that are there more than once, byte for byte: one for each combination of splits.

    Test images in training come first, then copies across other splits, then copies within one split.
    """
    copies: dict[str, list[tuple[str, PersonImage]]] = defaultdict(list)  # sha256 -> (split, image)
    for name, survey in surveys.items():
        for image in survey.readable:
            copies[survey.facts[image.file].sha256].append((name, image))
    groups: dict[tuple[str, ...], list[list[tuple[str, PersonImage]]]] = defaultdict(list)
    for same in copies.values():
        if len(same) > 1:
            groups[tuple(sorted({name for name, _ in same}, key=list(surveys).index))].append(same)
    for splits, sets in sorted(
        groups.items(), key=lambda entry: (len(entry[0]) == 1, entry[0][0] != "train", entry[0])
    ):
        message = _describe_duplicates(splits, counted(len(sets), "picture"))
        differing = sum(len({image.person for _, image in same}) > 1 for same in sets)
        if differing:
            message += f"; {differing:,} of them under different persons"
        found = sum(_finds_itself(same) for same in sets)
        if found:
            message += f"; {found:,} of them a query that will find itself: scores will be too good"
        yield Finding(
            "warning",
            "exact duplicates",
            message,
            len(sets),
            tuple(" = ".join(f"{name}/{image.file}" for name, image in same[:4]) for same in sets[:EXAMPLES]),
            tuple(surveys[same[0][0]].listing.root / same[0][1].file for same in sets[:EXAMPLES]),
        )


def _finds_itself(same: list[tuple[str, PersonImage]]) -> bool:
    """Whether a query's copy in the gallery counts as its match: same person, and another camera by its name."""
    queries, gallery = ([image for name, image in same if name == split] for split in ("query", "gallery"))
    return any(_is_match(one, other) for one in queries for other in gallery)


def _is_match(query: PersonImage, image: PersonImage) -> bool:
    return query.person == image.person > DISTRACTOR and query.camera != image.camera


def queries_by_name_in_gallery(surveys: Surveys) -> Iterator[Finding]:
    """A finding about queries that would be their own matches because cameras are unknown.

    It looks for equal file names with other bytes; pictures with equal bytes are found by `duplicates`.
    """
    query, gallery = surveys["query"], surveys["gallery"]
    there = {image.file: image for image in gallery.images}
    files = [
        image.file
        for image in query.images
        if image.file in there
        and _is_match(image, there[image.file])
        and query.facts[image.file].sha256 != gallery.facts[image.file].sha256
    ]
    if files:
        message = (
            f"query: {counted(len(files), 'image')} under a name that is in gallery too; if it is the same picture, "
            "the query will find itself: scores will be too good"
        )
        yield query.finding("warning", "query in gallery", message, files)


def _describe_duplicates(splits: tuple[str, ...], pictures: str) -> str:
    if len(splits) == 1:
        return f"{splits[0]}: {pictures} there more than once, byte for byte"
    if splits[0] == "train":
        others = " and ".join(splits[1:])
        return f"TEST IMAGES IN TRAINING: {pictures} in train and, byte for byte, in {others}; scores will be too good"
    return f"{pictures} in both {' and '.join(splits)}, byte for byte"
