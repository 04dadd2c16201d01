"""Whether a new version of a model becomes champion: on evidence, not on luck.

Two trainings of the same spec differ by chance, so that every second one has the higher mAP. With enough tries the
luckiest would be champion. So a new version has to be better query by query: the 95 % interval of the paired
difference over persons has to lie above 0, and a permutation test has to agree (reid.scoring.paired).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reid.data.findings import counted
from reid.errors import ArtifactError, DatasetError
from reid.scoring.paired import Difference, difference, in_words
from reid.scoring.per_query import read_per_query
from reid.scoring.same_queries import same_queries

SEED = 0
"""Of the drawn persons: a retried stage comes to the same verdict."""


@dataclass(frozen=True)
class Champion:
    """The version that is champion."""

    version: str
    tags: Mapping[str, str]
    fetch_per_query: Callable[[Path], Path | None]
    """Copies its table of queries into a folder; None if there is none."""


@dataclass(frozen=True)
class Entrant:
    """The version that may become champion."""

    figure: str
    """mAP or reranked_mAP: what is compared."""
    figures: Mapping[str, float]
    fingerprint: str
    """Of the data set, training images included."""
    evaluated_images: str
    """Hash of the images on which it was scored; empty if it is not known."""
    per_query: Path
    objection: str | None
    """Why it is not proved to be the trained network."""


def contest(entrant: Entrant, champion: Champion | None, *, by_evidence: bool, scratch: Path) -> tuple[bool, str]:
    """Whether the entrant becomes champion, and the reason. `scratch` takes the champion's table.

    If the table of either is missing or cannot be used, the figure alone decides, and the reason says so.
    """
    if entrant.objection:
        return False, f"parity does not hold: {entrant.objection}"
    if champion is None:
        return True, "the first version whose parity holds"
    version, tags, name = champion.version, champion.tags, in_words(entrant.figure)
    if not _same_images(entrant, tags):
        return False, f"version {version} is champion on another data set; figures on two sets cannot be compared"
    best, own = _number(tags.get(entrant.figure, "")), entrant.figures[entrant.figure]
    if math.isnan(best):
        return False, f"version {version} is champion, and its {name} is not known"
    relation = "above" if own > best else "not above"
    figures = f"{name} {100 * own:.2f} is {relation} version {version}'s {100 * best:.2f}"
    return _judged(entrant, champion, figures, scratch, higher=own > best) if by_evidence else (own > best, figures)


def _judged(entrant: Entrant, champion: Champion, figures: str, scratch: Path, *, higher: bool) -> tuple[bool, str]:
    """The verdict over persons; whether the figure is `higher` if there is no table of queries for it."""
    try:
        found = _difference(entrant, champion, scratch)
    except (ArtifactError, DatasetError) as error:
        return higher, f"{figures}; decided by the figure alone: {str(error).splitlines()[0]}"
    verdict = {1: "better", -1: "worse", 0: "no difference shown"}[found.standing]
    persons = counted(found.interval.persons, "person")
    return found.standing > 0, f"{figures}: {verdict}, {found.in_points()} over {persons}"


def _number(text: str) -> float:
    """The figure in a tag, which anybody may have edited; nan if it is not one from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if 0 <= value <= 1 else math.nan


def _same_images(entrant: Entrant, tags: Mapping[str, str]) -> bool:
    """Whether both were measured on the same images; of a version of before that is known only for all images alike."""
    if entrant.evaluated_images and "evaluated_images" in tags:
        return tags["evaluated_images"] == entrant.evaluated_images
    return tags.get("fingerprint") == entrant.fingerprint


def _difference(entrant: Entrant, champion: Champion, scratch: Path) -> Difference:
    own = read_per_query(entrant.per_query)
    scratch.mkdir(exist_ok=True)
    file = champion.fetch_per_query(scratch)
    if file is None:
        raise ArtifactError(f"version {champion.version} has no table of queries")
    same = same_queries(read_per_query(file), own)
    return difference(same.first, same.second, entrant.figure, seed=SEED)
