"""Checks of a data set of several sets: those of each set by itself, and those across sets."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

from reid.data.doctor import compare_num_classes, errors_first, examine, persons_in_train_and_test, persons_of
from reid.data.findings import EXAMPLES, Finding, SplitSummary, counted
from reid.data.sets import SetsSeen, of_set
from reid.data.surveys import SplitSurvey, Surveys, summarize


def examine_sets(seen: SetsSeen, *, num_classes: int | None, found_before: Iterable[Finding] = ()) -> list[Finding]:
    """All findings about all sets, with those `found_before`, errors first; the name of a set is before its findings.

    num_classes: the spec's number of training persons; None if they are counted and not compared.
    """
    findings = examine(seen.surveys, num_classes=num_classes if "train" in seen.surveys else None)
    for part in seen.train_sets:
        findings += [of_set(found, part.wanted.name) for found in examine({"train": part.survey}, num_classes=None)]
    for test in seen.test_sets:
        findings += [of_set(found, test.wanted.name) for found in examine(test.surveys, num_classes=None)]
    if seen.train_sets:
        findings += compare_num_classes(sum(len(persons_of(part.survey)) for part in seen.train_sets), num_classes)
    findings += across_sets(seen)
    return errors_first([*findings, *seen.renamed, *found_before])


def summarize_sets(seen: SetsSeen) -> list[SplitSummary]:
    """The figures of each split of each set, in the order train, main set, further test sets."""
    return [
        *(replace(summarize(part.survey), set_name=part.wanted.name) for part in seen.train_sets),
        *(summarize(survey) for survey in seen.surveys.values()),
        *(
            replace(summarize(survey), set_name=part.wanted.name)
            for part in seen.test_sets
            for survey in part.surveys.values()
        ),
    ]


def across_sets(seen: SetsSeen) -> Iterator[Finding]:
    """Findings about test images and test persons among the training images of another set, or of the same one."""
    trained: list[tuple[str, SplitSurvey]] = [(part.wanted.name, part.survey) for part in seen.train_sets]
    tested: list[tuple[str, Surveys]] = [(part.wanted.name, part.surveys) for part in seen.test_sets]
    if "train" in seen.surveys:
        trained.append(("", seen.surveys["train"]))
    main = {name: survey for name, survey in seen.surveys.items() if name != "train"}
    for (train_name, train), (test_name, test) in product(trained, [("", main), *tested]):
        if not train_name and not test_name:  # the main set by itself: examined already
            continue
        found = list(_test_images_in_training(train, test))
        if _same_data_set(train, test):
            found += persons_in_train_and_test({"train": train, **test})
        pair = f"{train_name or 'main set'} and {test_name or 'main set'}"
        yield from (of_set(finding, pair) for finding in found)


def _same_data_set(train: SplitSurvey, test: Surveys) -> bool:
    """Whether both are of one data set, so that a number means the same person in both."""
    roots = {train.listing.root.parent, *(survey.listing.root.parent for survey in test.values())}
    own = {train.listing.root, *(survey.listing.root for survey in test.values())}
    return (len(roots) == 1 or len(own) == 1) and {survey.names.pattern for survey in test.values()} == {
        train.names.pattern
    }


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
