"""Checks of a data set of several sets: those of each set by itself, and those across sets."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from reid.data.doctor import (
    TOO_FEW_PERSONS,
    compare_num_classes,
    errors_first,
    examine,
    persons_in_train_and_test,
    persons_of,
)
from reid.data.findings import EXAMPLES, Finding, SplitSummary, counted
from reid.data.near_duplicates import near_duplicates
from reid.data.quality import enlarged
from reid.data.sets import TEST_SPLITS, Place, SetsSeen, numbered_together, of_set
from reid.data.surveys import SplitSurvey, Surveys, summarize


def examine_sets(
    seen: SetsSeen,
    *,
    num_classes: int | None,
    input_size: tuple[int, int],
    found_before: Iterable[Finding] = (),
    known_copies: Path | None = None,
) -> list[Finding]:
    """All findings about all sets, with those `found_before`, errors first; the name of a set is before its findings.

    num_classes: the spec's number of training persons; None if they are counted and not compared. input_size: width and
    height of the network's input in pixels. known_copies: a file that keeps the findings about near duplicates.
    """
    findings = examine(seen.surveys, num_classes=num_classes if "train" in seen.surveys else None)
    persons = sum(len(persons_of(part.survey)) for part in seen.train_sets)
    for part in seen.train_sets:
        of_part = examine({"train": part.survey}, num_classes=None)
        findings += [
            of_set(found, part.wanted.name)
            for found in of_part
            if persons < 2 or found.check != TOO_FEW_PERSONS  # one person is enough if another set has more
        ]
    for test in seen.test_sets:
        findings += [of_set(found, test.wanted.name) for found in examine(test.surveys, num_classes=None)]
    findings += compare_num_classes(persons, num_classes)  # no finding if there are no training sets
    findings += across_sets(seen)
    splits = _splits(seen)
    findings += near_duplicates(splits, known=known_copies)
    width, height = input_size
    for name, survey in splits:
        small = enlarged(survey, width=width, height=height)
        findings += [of_set(found, name) if name else found for found in small]
    return errors_first([*findings, *seen.renamed, *found_before])


def _splits(seen: SetsSeen) -> list[tuple[str, SplitSurvey]]:
    """All splits, each with the name of its set; "" is the main set."""
    return [
        *((part.wanted.name, part.survey) for part in seen.train_sets),
        *(("", survey) for survey in seen.surveys.values()),
        *((part.wanted.name, survey) for part in seen.test_sets for survey in part.surveys.values()),
    ]


def summarize_sets(seen: SetsSeen) -> list[SplitSummary]:
    """The figures of each split of each set, in the order train, main set, further test sets."""
    return [replace(summarize(survey), set_name=name) for name, survey in _splits(seen)]


def across_sets(seen: SetsSeen) -> Iterator[Finding]:
    """Findings about test images and test persons among the training images of another set, or of the same one."""
    trained = [(part.wanted.name, part.wanted.place, part.survey) for part in seen.train_sets]
    tested: list[tuple[str, Place | None, Surveys]] = [
        ("", seen.main.home, {name: seen.surveys[name] for name in TEST_SPLITS}),
        *((part.wanted.name, part.wanted.place, part.surveys) for part in seen.test_sets),
    ]
    for train_name, train_place, train in trained:
        for test_name, test_place, test in tested:
            found = list(_test_images_in_training(train, test))
            if train_place == test_place:  # of one data set
                both = {"train": train, **test}
                found += persons_in_train_and_test(numbered_together(train_place, both) if test_name else both)
            yield from (of_set(finding, f"{train_name} and {test_name or 'main set'}") for finding in found)
    if "train" in seen.surveys:
        for test_name, _, test in tested[1:]:
            found = list(_test_images_in_training(seen.surveys["train"], test))
            yield from (of_set(finding, f"main set and {test_name}") for finding in found)


def _test_images_in_training(train: SplitSurvey, test: Surveys) -> Iterator[Finding]:
    """A finding about pictures that are in a training set and, byte for byte, in a test set."""
    learnt: dict[str, str] = {}
    for image in train.readable:
        learnt.setdefault(train.facts[image.file].sha256, image.file)
    both: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, survey in test.items():
        for image in survey.readable:
            if (digest := survey.facts[image.file].sha256) in learnt:
                both[digest].append((name, image.file))
    if both:
        message = (
            f"TEST IMAGES IN TRAINING: {counted(len(both), 'picture')} in train and, byte for byte, in "
            f"{' and '.join(sorted({name for files in both.values() for name, _ in files}))}; scores will be too good"
        )
        first = list(both.items())[:EXAMPLES]
        examples = tuple(f"train/{learnt[digest]} = {files[0][0]}/{files[0][1]}" for digest, files in first)
        shown: tuple[Path, ...] = tuple(train.listing.root / learnt[digest] for digest, _ in first)
        yield Finding("warning", "exact duplicates", message, len(both), examples, shown)
