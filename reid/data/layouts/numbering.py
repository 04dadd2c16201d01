"""Numbers for persons and cameras: positive, one number for each person, whatever a layout calls them."""

from collections.abc import Mapping
from dataclasses import dataclass

from reid.data.file_names import UNKNOWN_CAMERA
from reid.data.layouts.layout import Found, NamedImage
from reid.data.market1501 import DISTRACTOR, JUNK, Listing, PersonImage, Split

DIGITS = 18
"""A manifest holds numbers of at most as many digits."""
CAMERA_DIGITS = 9

Person = tuple[int, str]
"""(0 for train and 1 for test if they are numbered apart, else 0; what the layout calls the person)."""


@dataclass(frozen=True)
class Numbered:
    """The splits of a set with numbers for persons and cameras."""

    listings: dict[str, Listing]
    renamed: dict[int, str]
    """Number -> what the layout calls that person; {} if all numbers are the layout's own."""


def number(found: Mapping[str, Found], *, apart: bool, distractors: bool) -> Numbered:
    """The listings of the splits: the layout's numbers if they will do, else 1, 2, … in their order, train first.

    They will do if they are whole numbers above 0 and train and test are not numbered apart. Person -1 is junk; 0 is
    nobody with `distractors`, else a person.
    """
    persons = {
        (_part(split, apart), image.person)
        for split, listed in found.items()
        for image in listed.images
        if not _is_nobody(image, distractors)
    }
    as_it_is = not apart and all(_is_number(name) and int(name) > 0 for _, name in persons)
    if as_it_is and len({int(name) for _, name in persons}) == len(persons):
        numbers = {person: int(person[1]) for person in persons}
        renamed = {}
    else:
        numbers = {person: place for place, person in enumerate(sorted(persons, key=_order(persons)), start=1)}
        renamed = {place: name for (_, name), place in numbers.items()}
    cameras = _cameras(found)

    def numbered(split: str, image: NamedImage) -> PersonImage:
        if image.person == str(JUNK):
            person = JUNK
        elif _is_nobody(image, distractors):
            person = DISTRACTOR
        else:
            person = numbers[_part(split, apart), image.person]
        camera = cameras[image.camera] if cameras and image.camera is not None else UNKNOWN_CAMERA[split]
        return PersonImage(image.file, person, camera)

    listings = {
        split: Listing(
            listed.root,
            Split(listed.root, tuple(sorted((numbered(split, image) for image in listed.images), key=_by_file))),
            listed.misnamed,
            listed.strays,
            listed.faults,
        )
        for split, listed in found.items()
    }
    return Numbered(listings, renamed)


def _by_file(image: PersonImage) -> str:
    return image.file


def _part(split: str, apart: bool) -> int:
    return int(apart and split != "train")


def _is_nobody(image: NamedImage, distractors: bool) -> bool:
    return image.person == str(JUNK) or (distractors and _is_number(image.person) and int(image.person) == DISTRACTOR)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) <= DIGITS


def _order(persons: set[Person]) -> "_Order":
    return _Order(all(_is_number(name) for _, name in persons))


@dataclass(frozen=True)
class _Order:
    """The order in which persons or cameras are numbered: by number if all are numbers, else as texts."""

    by_number: bool

    def __call__(self, person: Person) -> tuple[int, int, str]:
        part, name = person
        return part, int(name) if self.by_number else 0, name


def _cameras(found: Mapping[str, Found]) -> dict[str, int]:
    """What the layout calls a camera -> its number; {} if cameras are unknown."""
    if not all(listed.names.cameras for listed in found.values()):
        return {}
    names = {image.camera for listed in found.values() for image in listed.images if image.camera is not None}
    if all(_is_number(name) and len(name) <= CAMERA_DIGITS for name in names):
        return {name: int(name) for name in names}
    order = _Order(False)
    return {name: place for place, name in enumerate(sorted(names, key=lambda name: order((0, name))), start=1)}
