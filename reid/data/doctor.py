"""Checks of a data set: what would break a run (error), spoil its figures (warning), or is good to know (note).

Every check runs, and all findings are reported together; no check raises because of what is wrong with the data.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from reid.data.balance import disjoint_cameras, large_persons, single_images, uneven_cameras
from reid.data.duplicates import duplicates, queries_by_name_in_gallery
from reid.data.findings import EXAMPLES, Finding, counted
from reid.data.image_file import DEEP_MODES
from reid.data.market1501 import DISTRACTOR, IMAGE_ENDINGS, JUNK, LIKE_IMAGES, PersonImage, is_of_a_system
from reid.data.no_images import found_instead
from reid.data.quality import blurred, empty_pictures
from reid.data.reading_checks import deep, turned
from reid.data.surveys import SplitSurvey, Surveys

MIN_WIDTH, MIN_HEIGHT = 16, 32
"""Least width and height in pixels; a smaller image teaches a network almost nothing."""
MIN_ASPECT, MAX_ASPECT = 1.0, 6.0
"""Height over width of a standing person's box, with a wide margin."""
FORMATS_OF_ENDING = {
    **dict.fromkeys((".jpg", ".jpeg", ".jfif"), ("JPEG", "MPO")),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
    **{".png": ("PNG",), ".bmp": ("BMP", "DIB"), ".webp": ("WEBP",)},
}
"""Ending -> the formats that it stands for; MPO is a phone's JPEG with further pictures behind the first."""
TOO_FEW_PERSONS = "too few persons"
SEVERITY_ORDER = {"error": 0, "warning": 1, "note": 2}


def examine(surveys: Surveys, *, num_classes: int | None, found_before: Iterable[Finding] = ()) -> list[Finding]:
    """All findings about the splits train, query and gallery, with those `found_before`, errors first.

    A check that needs a split that is not there is left out: a training set has neither query nor gallery. num_classes:
    the spec's number of training persons; None if they are counted and not compared.
    """
    findings = [finding for check in SPLIT_CHECKS for survey in surveys.values() for finding in check(survey)]
    findings += [finding for needed, check in CHECKS if needed <= surveys.keys() for finding in check(surveys)]
    if "train" in surveys:
        findings += compare_num_classes(len(persons_of(surveys["train"])), num_classes)
    findings += found_before
    return errors_first(findings)


def errors_first(findings: Iterable[Finding]) -> list[Finding]:
    """The findings by severity; those of one severity keep their order."""
    return sorted(findings, key=lambda finding: SEVERITY_ORDER[finding.severity])


def persons_of(survey: SplitSurvey) -> set[int]:
    """The persons of a split, without junk and distractors."""
    return {image.person for image in survey.images if image.person > DISTRACTOR}


# Checks of one split


def _folder(survey: SplitSurvey) -> Iterator[Finding]:
    if survey.folder_error:
        yield Finding("error", "cannot be listed", f"{survey.name}: {survey.folder_error}", 1)


def _empty(survey: SplitSurvey) -> Iterator[Finding]:
    if not survey.folder_error and not survey.listing.files and not survey.listing.faults:
        message = f"{survey.name}: no image in {survey.listing.root}{found_instead(survey.listing)}"
        yield Finding("error", "empty split", message, 1)


def _bad_names(survey: SplitSurvey) -> Iterator[Finding]:
    if survey.misnamed:
        yield survey.finding("error", "bad name", f"{survey.name}: {survey.misnamed}", survey.listing.misnamed)


def _unreadable(survey: SplitSurvey) -> Iterator[Finding]:
    bad = [file for file in survey.listing.files if survey.facts[file].error]
    if bad:
        message = f"{survey.name}: {len(bad)} of {len(survey.listing.files)} images cannot be read"
        examples = tuple(f"{survey.name}/{file}: {survey.facts[file].error}" for file in bad[:EXAMPLES])
        yield Finding("error", "unreadable image", message, len(bad), examples)


def _faults(survey: SplitSurvey) -> Iterator[Finding]:
    for fault in survey.listing.faults:
        message = f"{survey.name}: {fault.message}"
        yield Finding("error", fault.check, message, len(fault.lines), fault.lines[:EXAMPLES])


def _strays(survey: SplitSurvey) -> Iterator[Finding]:
    found = [name for name in survey.listing.strays if not is_of_a_system(name)]
    pictures = [name for name in found if Path(name).suffix.lower() in LIKE_IMAGES]
    if pictures:
        endings = Counter(Path(name).suffix.lower() for name in pictures)
        shown = ", ".join(f"{ending} {count:,}" for ending, count in sorted(endings.items()))
        message = (
            f"{survey.name}: {counted(len(pictures), 'picture')} of formats that are not taken ({shown}); convert them "
            f"to one of {', '.join(IMAGE_ENDINGS)}, or move them away"
        )
        yield survey.finding("error", "picture not taken", message, pictures)
    strays = [name for name in found if name not in set(pictures)]
    if strays:
        message = (
            f"{survey.name}: {counted(len(strays), 'stray')} beside the images; they are left out, and folders are not "
            "searched"
        )
        yield survey.finding("warning", "stray file", message, strays)


def _odd_sizes(survey: SplitSurvey) -> Iterator[Finding]:
    sizes = {image.file: survey.facts[image.file] for image in survey.readable}
    small = [file for file, facts in sizes.items() if facts.width < MIN_WIDTH or facts.height < MIN_HEIGHT]
    if small:
        message = f"{survey.name}: {counted(len(small), 'image')} smaller than {MIN_WIDTH} x {MIN_HEIGHT} pixels"
        yield survey.finding("warning", "small image", message, small)
    odd = [file for file, facts in sizes.items() if not MIN_ASPECT <= facts.height / facts.width <= MAX_ASPECT]
    if odd:
        message = (
            f"{survey.name}: {counted(len(odd), 'image')} not shaped as a standing person (height over width outside "
            f"{MIN_ASPECT:g} to {MAX_ASPECT:g}); resizing will distort them"
        )
        yield survey.finding("warning", "odd shape", message, odd)


def _formats(survey: SplitSurvey) -> Iterator[Finding]:
    readable = survey.readable
    lying = [
        image.file
        for image in readable
        if survey.facts[image.file].format not in FORMATS_OF_ENDING[Path(image.file).suffix.lower()]
    ]
    if lying:
        found = survey.facts[lying[0]].format
        message = (
            f"{survey.name}: {counted(len(lying), 'image')} of another format than the name ends in (first: {found})"
        )
        yield survey.finding("note", "other format", message, lying)
    other = [image.file for image in readable if survey.facts[image.file].mode not in ("RGB", *DEEP_MODES)]
    if other:
        modes = Counter(survey.facts[file].mode for file in other)
        shown = ", ".join(f"{mode} {count}" for mode, count in sorted(modes.items()))
        yield survey.finding(
            "note", "not RGB", f"{survey.name}: {counted(len(other), 'image')} converted when read ({shown})", other
        )


def _junk_and_distractors(survey: SplitSurvey) -> Iterator[Finding]:
    for person, word, use in (
        (JUNK, "junk", "evaluation leaves them out"),
        (DISTRACTOR, "distractor", "they stay in the gallery and match nobody"),
    ):
        files = [image.file for image in survey.images if image.person == person]
        if not files:
            continue
        if survey.name == "gallery":
            message = f"gallery: {counted(len(files), f'{word} image')} (person {person}); {use}"
            yield survey.finding("note", f"{word} images", message, files)
        else:
            message = (
                f"{survey.name}: {counted(len(files), f'{word} image')} (person {person}); they are of no use here and "
                "left out"
            )
            yield survey.finding("warning", f"{word} images", message, files)


# Checks across splits


def _few_training_persons(surveys: Surveys) -> Iterator[Finding]:
    train = surveys["train"]
    persons = persons_of(train)
    if train.images and len(persons) < 2:
        yield Finding(
            "error", TOO_FEW_PERSONS, f"train: {counted(len(persons), 'person')}; training compares at least 2", 1
        )


def compare_num_classes(persons: int, num_classes: int | None) -> Iterator[Finding]:
    """A finding if there are training persons, and not as many as dataset.num_classes says."""
    if num_classes is not None and persons and persons != num_classes:
        message = (
            f"dataset.num_classes is {num_classes}, but train shows {counted(persons, 'person')}; "
            f"set dataset.num_classes={persons}, or null to have them counted"
        )
        yield Finding("error", "num_classes", message, 1)


def persons_in_train_and_test(surveys: Surveys) -> Iterator[Finding]:
    shown = {  # name -> person -> a file, a readable one if there is one
        name: _first_of_each_person(survey.images) | _first_of_each_person(survey.readable)
        for name, survey in surveys.items()
    }
    both = sorted(set(shown["train"]) & (set(shown["query"]) | set(shown["gallery"])))
    if both:
        message = (
            f"{counted(len(both), 'person')} of train also in query or gallery: the network would be tested on "
            "persons that it has learnt (if train and test were numbered separately, both from 1: renumber one)"
        )
        first = {person: next(s for s in ("gallery", "query") if person in shown[s]) for person in both[:EXAMPLES]}
        examples = tuple(
            f"person {person}: train/{shown['train'][person]} and {split}/{shown[split][person]}"
            for person, split in first.items()
        )
        files = tuple(
            surveys[name].listing.root / shown[name][person]
            for person, split in list(first.items())[: EXAMPLES // 2]
            for name in ("train", split)
            if not surveys[name].facts[shown[name][person]].error
        )
        yield Finding("error", "person in train and test", message, len(both), examples, files)


def _unmatched_queries(surveys: Surveys) -> Iterator[Finding]:
    query, gallery = surveys["query"], surveys["gallery"]
    if not query.images or not gallery.images:
        return
    cameras: dict[int, set[int]] = defaultdict(set)  # person -> cameras in the gallery
    for image in gallery.images:
        cameras[image.person].add(image.camera)
    asked = [image for image in query.images if image.person > DISTRACTOR]
    absent = [image.file for image in asked if not cameras[image.person]]
    lonely = [image.file for image in asked if cameras[image.person] == {image.camera}]
    if absent:
        message = (
            f"query: {counted(len(absent), 'image')} whose person is not in the gallery; evaluation leaves them out"
        )
        yield query.finding("warning", "query without its person", message, absent)
    if lonely:
        message = (
            f"query: {counted(len(lonely), 'image')} whose person the gallery shows under the same camera only; "
            "evaluation leaves them out"
        )
        yield query.finding("warning", "query without a cross-camera match", message, lonely)
    if len(absent) + len(lonely) == len(asked):
        message = "query: no image has a match under another camera in the gallery; nothing could be scored"
        if lonely:
            message += "; if there is one camera only, or cameras are unknown, set dataset.cameras=none"
        yield Finding("error", "nothing to score", message, len(asked))


def _unknown_cameras(surveys: Surveys) -> Iterator[Finding]:
    what = surveys["query"].names.without_cameras
    if what:
        yield Finding("note", "unknown cameras", what, 1)


def _single_camera_persons(surveys: Surveys) -> Iterator[Finding]:
    train = surveys["train"]
    if not train.names.cameras:
        return
    cameras: dict[int, set[int]] = defaultdict(set)
    for image in train.images:
        if image.person > DISTRACTOR:
            cameras[image.person].add(image.camera)
    single = {person for person, seen in cameras.items() if len(seen) == 1}
    if single:
        first = _first_of_each_person(train.images)
        message = (
            f"train: {len(single):,} of {counted(len(cameras), 'person')} seen by one camera only; "
            "they teach nothing across cameras"
        )
        yield train.finding("warning", "one camera", message, [first[person] for person in sorted(single)])


SPLIT_CHECKS = (
    *(_folder, _empty, _faults, _bad_names, _unreadable, _strays, _odd_sizes, _formats, turned, deep),
    *(empty_pictures, blurred, _junk_and_distractors),
)
TRAIN, TEST = frozenset({"train"}), frozenset({"query", "gallery"})
CHECKS: tuple[tuple[frozenset[str], Callable[[Surveys], Iterator[Finding]]], ...] = (
    (TRAIN, _few_training_persons),
    (TRAIN | TEST, persons_in_train_and_test),
    (frozenset(), duplicates),
    (TEST, queries_by_name_in_gallery),
    (TEST, _unknown_cameras),
    (TEST, _unmatched_queries),
    (TRAIN, _single_camera_persons),
    (TRAIN, lambda surveys: single_images(surveys["train"])),
    (TRAIN, lambda surveys: large_persons(surveys["train"])),
    (TRAIN, lambda surveys: uneven_cameras(surveys["train"])),
    (TEST, lambda surveys: uneven_cameras(surveys["gallery"])),
    (TRAIN | TEST, disjoint_cameras),
)
"""(the splits that a check needs, the check)."""


def _first_of_each_person(images: Iterable[PersonImage]) -> dict[int, str]:
    first: dict[int, str] = {}
    for image in images:
        if image.person > DISTRACTOR:
            first.setdefault(image.person, image.file)
    return first
