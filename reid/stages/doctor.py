"""The command doctor: suspected labels of a data set by the embeddings of a trained model, and proposed corrections.

Each training set is looked at by itself, and so is each test set, query and gallery together. Junk and distractors are
left out, and of pictures with equal bytes all but one.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reid.data.corrections import HEAD
from reid.data.file_index import ImageFacts, read_images
from reid.data.findings import counted
from reid.data.market1501 import DISTRACTOR, PersonImage, Split
from reid.data.on_disk import ImagesOnDisk
from reid.data.sets import TEST_SPLITS
from reid.data.surveys import SplitSurvey
from reid.deploy.opening import OpenModel
from reid.embeddings import embed
from reid.errors import DatasetError
from reid.files.writing import write_text
from reid.reports.suspects_page import ShownGroup, ShownSuspect, to_html
from reid.retrieval.distance import l2_normalize
from reid.retrieval.knn import nearest_neighbours
from reid.retrieval.suspects import SamePerson, Suspects, TwoPersons, WrongLabel, find_suspects, without_cameras
from reid.spec import Experiment
from reid.stages.images_seen import ImagesSeen, look_at_images, missing_of
from reid.stages.outcome import Outcome

NEIGHBOURS = 50
"""Nearest neighbours of an image among which its nearest other persons are looked for."""
DOUBTFUL = 0.25
"""Share of suspected labels from which the model is more likely wrong than the labels."""
COLUMNS = ("group", "kind", "score", "image", "person", "other_person", "nearest_own", "nearest_other")
WRONG_LABEL, SAME_PERSON, TWO_PERSONS = "wrong label", "same person", "two persons"


@dataclass(frozen=True)
class Group:
    """Images whose persons have one numbering."""

    title: str
    """train, or query and gallery; with the name of the set before it, if it has one."""
    learnt: bool
    images: tuple[PersonImage, ...]
    """Their files are absolute."""
    names: tuple[str, ...]
    """Each image as a file of corrections names it."""
    sha256: tuple[str, ...]

    @property
    def person(self) -> NDArray[np.int64]:
        """(N,)."""
        return np.array([image.person for image in self.images], np.int64)


@dataclass(frozen=True)
class Suspect:
    """A suspect in words."""

    kind: str
    score: float
    reason: str
    pictures: tuple[tuple[str, int], ...]
    """(what it is, row), side by side on the page."""
    person: int
    other: int | None
    corrections: tuple[tuple[int, int], ...]
    """(row, the person that it would be of)."""


def doctor(spec: Experiment, *, model: OpenModel, folder: Path, most: int) -> Outcome:
    """Writes suspects.html, suspects.csv and corrections.csv, all of whose lines are commented out, into the folder.

    The page shows the `most` worst suspects of each kind and group. Raises DatasetError if the data set cannot be read.
    """
    seen = look_at_images(spec, missing=missing_of(spec), read=read_images, with_test_sets=True)
    groups = [group for group in _groups(seen) if len(group.images) > 1]
    if not groups:
        raise DatasetError("the data set has no images of persons that can be read; reid validate says why")
    new_persons = count(1 + max(int(group.person.max()) for group in groups))  # one numbering for train and test
    of_groups = [_suspects_of(group, model, spec) for group in groups]
    found = [
        (group, list(_in_words(group, suspects, most=most, new_persons=new_persons)))
        for group, suspects in zip(groups, of_groups, strict=True)
    ]
    write_text(
        folder / "suspects.html", to_html([_shown(group, suspects) for group, suspects in found], model=model.file)
    )
    write_text(folder / "suspects.csv", _as_csv(found))
    write_text(folder / "corrections.csv", _as_corrections(found))
    lines = [line for group, suspects in zip(groups, of_groups, strict=True) for line in _counts(group, suspects)]
    if any(len(suspects) > most for of_group in of_groups for suspects in of_group.kinds):
        lines.append(f"the {most} worst of each kind are written; --most {10 * most} for more")
    metrics = {f"{group.title} suspects": float(sum(map(len, of.kinds))) for group, of in zip(groups, of_groups)}
    lines.append(f"{folder / 'corrections.csv'}: uncomment the lines that you agree with; dataset.corrections reads it")
    return Outcome(metrics, {}, lines)


def _counts(group: Group, found: Suspects) -> Iterator[str]:
    """How many suspects a group has, and a doubt about the model if they are too many to be wrong labels."""
    wrong, same, two = map(len, found.kinds)
    yield (
        f"{group.title}: {counted(len(group.images), 'image')}; {counted(wrong, 'suspected label')}, "
        f"{counted(same, 'pair')} of persons who may be one, {two:,} who may be two"
    )
    if wrong > DOUBTFUL * len(group.images):
        yield f"{group.title}: so many suspects say more about the model than about the labels"


def _groups(seen: ImagesSeen) -> Iterator[Group]:
    sets = seen.sets
    main = {"": sets.surveys}
    trained = [(part.wanted.name, {"train": part.survey}) for part in sets.train_sets]
    tested = [(part.wanted.name, part.surveys) for part in sets.test_sets]
    for name, surveys in [*trained, *main.items(), *tested]:
        for splits in (("train",), TEST_SPLITS):
            there = [(split, surveys[split]) for split in splits if split in surveys]
            if there:
                yield _group(name, there)


def _group(name: str, surveys: Sequence[tuple[str, SplitSurvey]]) -> Group:
    before = f"{name}: " if name else ""
    images: list[PersonImage] = []
    names: list[str] = []
    hashes: dict[str, None] = {}
    for split, survey in surveys:
        root = survey.listing.split.root.absolute()
        for image in survey.readable:
            facts: ImageFacts = survey.facts[image.file]
            if image.person > DISTRACTOR and facts.sha256 not in hashes:
                hashes[facts.sha256] = None
                camera = image.camera if survey.names.cameras else 0  # unknown: all are compared alike
                images.append(replace(image, file=str(root / image.file), camera=camera))
                names.append(f"{before}{split}/{image.file}")
    title = before + " and ".join(split for split, _ in surveys)
    return Group(title, surveys[0][0] == "train", tuple(images), tuple(names), tuple(hashes))


def _suspects_of(group: Group, model: OpenModel, spec: Experiment) -> Suspects:
    contract = model.contract
    split = Split(Path("/"), group.images)
    pixels = ImagesOnDisk(split, height=contract.height, width=contract.width, channels=contract.channels)
    found = embed(
        split,
        pixels,
        model.network,
        contract=contract,
        batch_size=spec.dataset.val_batch_size,
        what=f"embedding {group.title}",
    )
    unit = without_cameras(l2_normalize(found.vectors), person=group.person, camera=split.camera)
    nearest = nearest_neighbours(unit, count=NEIGHBOURS + 1).nearest
    return find_suspects(unit, person=group.person, camera=split.camera, nearest=nearest)


def _in_words(group: Group, found: Suspects, *, most: int, new_persons: Iterator[int]) -> Iterator[Suspect]:
    """The worst of each kind. new_persons: numbers that nobody has."""
    for label in found.wrong_labels[:most]:
        yield _wrong_label(label)
    for pair in found.same_persons[:most]:
        yield _same_person(group, pair)
    for two in found.two_persons[:most]:
        yield _two_persons(two, other=next(new_persons))


def _wrong_label(found: WrongLabel) -> Suspect:
    return Suspect(
        WRONG_LABEL,
        found.margin,
        f"labelled person {found.person}, but nearer to person {found.other}",
        (
            (f"person {found.person}?", found.row),
            (f"nearest of {found.person}", found.nearest_own),
            (f"nearest of {found.other}", found.nearest_other),
        ),
        found.person,
        found.other,
        ((found.row, found.other),),
    )


def _same_person(group: Group, found: SamePerson) -> Suspect:
    rows = {who: np.flatnonzero(group.person == who) for who in (found.person, found.other)}
    fewer, more = sorted(rows, key=lambda who: (len(rows[who]), -who))
    return Suspect(
        SAME_PERSON,
        found.margin,
        f"persons {found.person} and {found.other} are each other's nearest: one person under two numbers?",
        ((f"person {found.person}", found.row), (f"person {found.other}", found.nearest_other)),
        found.person,
        found.other,
        tuple((int(row), more) for row in rows[fewer]),
    )


def _two_persons(found: TwoPersons, *, other: int) -> Suspect:
    shown = [("first part", row) for row in found.first[:3]] + [("second part", row) for row in found.second[:3]]
    return Suspect(
        TWO_PERSONS,
        found.separation,
        f"the images of person {found.person} fall into {len(found.first)} and {len(found.second)} that are as far "
        "apart as strangers: two persons under one number?",
        tuple(shown),
        found.person,
        None,
        tuple((row, other) for row in found.second),
    )


def _shown(group: Group, suspects: Sequence[Suspect]) -> ShownGroup:
    return ShownGroup(
        group.title,
        group.learnt,
        len(group.images),
        [
            ShownSuspect(
                one.kind,
                one.score,
                one.reason,
                [(what, Path(group.images[row].file), group.names[row]) for what, row in one.pictures],
            )
            for one in suspects
        ],
    )


def _as_csv(found: Sequence[tuple[Group, Sequence[Suspect]]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for group, suspects in found:
        for one in suspects:
            first, *others = (group.names[row] for _, row in one.pictures)
            own = others[0] if one.kind == WRONG_LABEL else ""
            nearest = "" if one.kind == TWO_PERSONS else others[-1]
            other = "" if one.other is None else one.other
            writer.writerow([group.title, one.kind, f"{one.score:.4f}", first, one.person, other, own, nearest])
    return text.getvalue()


def _as_corrections(found: Sequence[tuple[Group, Sequence[Suspect]]]) -> str:
    """A file of corrections of which no line is applied: the reader decides, and takes the # away."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    text.write(
        "# Proposed by reid doctor. Take the # off the lines that you agree with, or write drop in place of person.\n"
    )
    writer.writerow(HEAD)
    for group, suspects in found:
        proposed: set[int] = set()
        for one in suspects:
            text.write(f"\n# {group.title}: {one.kind}, {one.score:.3f}: {one.reason}\n")
            for row, person in one.corrections:
                if row in proposed:  # two lines of one image would contradict each other
                    text.write("# another line of this image stands above: ")
                else:
                    proposed.add(row)
                    text.write("#")
                writer.writerow([group.names[row], group.sha256[row], f"person: {person}"])
    return text.getvalue()
