"""How a file's name tells person and camera: a pattern known by its name, or a regular expression of the user's own.

A pattern has to match the whole stem, the name less its ending. Its groups `person` and `camera` give whole numbers;
person -1 is junk and person 0 a distractor whatever the pattern.
"""

import re
from dataclasses import dataclass, replace

PERSON, CAMERA = re.compile(r"-1|\d{1,18}", re.ASCII), re.compile(r"\d{1,9}", re.ASCII)
"""The numbers that a manifest holds."""
UNKNOWN_CAMERA = {"train": 1, "query": 1, "gallery": 2}
"""Split -> the camera of all its images where cameras are unknown: no match is passed over as the query's own view."""


@dataclass(frozen=True)
class FileNames:
    """The names that the images of a data set have."""

    pattern: re.Pattern[str]
    wanted: str
    """What a name should be, after "2 of 3 images are not"."""
    cameras: bool = True
    """Whether names tell cameras."""

    def read(self, name: str, *, unknown_camera: int) -> tuple[int, int] | None:
        """Person and camera of a file name; None where the pattern does not match, or a group is no whole number."""
        found = self.pattern.fullmatch(name.rpartition(".")[0])
        if found is None:
            return None
        told = found.groupdict("")
        person, camera = told.get("person", "0"), str(unknown_camera)
        camera = told.get("camera", camera) if self.cameras else camera
        return (int(person), int(camera)) if PERSON.fullmatch(person) and CAMERA.fullmatch(camera) else None

    @property
    def without_cameras(self) -> str:
        """Why cameras are unknown, and what follows; "" where they are known."""
        if self.cameras:
            return ""
        why = "dataset.cameras is none" if "camera" in self.pattern.groupindex else "dataset.file_name has no camera"
        return (
            f"{why}: queries count as camera {UNKNOWN_CAMERA['query']}, gallery images as camera "
            f"{UNKNOWN_CAMERA['gallery']}; every gallery image of a query's person is a match"
        )


MARKET1501 = FileNames(
    re.compile(r"(?P<person>-1|\d{4,18})_c(?P<camera>\d{1,9})s\d+_\d+_\d+", flags=re.ASCII | re.IGNORECASE),
    "named as Market-1501 names them; want PPPP_cCsS_FFFFFF_NN.jpg, e.g. 0002_c1s1_000451_03.jpg, "
    "or set dataset.file_name",
)
DUKEMTMC = FileNames(
    re.compile(r"(?P<person>-1|\d{4,18})_c(?P<camera>\d{1,9})_f\d+", flags=re.ASCII | re.IGNORECASE),
    "named as DukeMTMC-reID names them; want PPPP_cC_fFFFFFFF.jpg, e.g. 0001_c2_f0046182.jpg, or set dataset.file_name",
)
ANY = FileNames(re.compile(r"(?s:.*)"), "")
"""For what asks neither for persons nor for cameras: each image is nobody's."""
KNOWN = {"market1501": MARKET1501, "dukemtmc": DUKEMTMC}


def file_names(pattern: str, *, cameras: str) -> FileNames:
    """The names of dataset.file_name; cameras: dataset.cameras, where none leaves a group `camera` unread.

    Raises ValueError, with what is wanted, where the pattern is no regular expression or lacks the group `person`.
    """
    names = KNOWN.get(pattern) or _own(pattern)
    return replace(names, cameras=names.cameras and cameras != "none")


def _own(pattern: str) -> FileNames:
    want = f"{' or '.join(KNOWN)}, or a regular expression with the groups (?P<person>...) and, if any, (?P<camera>...)"
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{want}; this is no regular expression: {error}") from None
    if "person" not in compiled.groupindex:
        raise ValueError(f"{want}; this one has no group person")
    numbers = "person and camera" if "camera" in compiled.groupindex else "person"
    return FileNames(
        compiled,
        f"named as dataset.file_name says; want {pattern} to match the whole name less its ending, {numbers} as digits",
        "camera" in compiled.groupindex,
    )
