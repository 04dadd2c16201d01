"""Person and camera from a file's name: by a known pattern, or by a regular expression of the user's own.

A pattern has to match the whole name without its ending. Its groups `person` and `camera` give whole numbers;
person -1 is junk and person 0 a distractor whatever the pattern.
"""

import re
from dataclasses import dataclass, replace

PERSON, CAMERA = re.compile(r"-1|\d{1,18}", re.ASCII), re.compile(r"\d{1,9}", re.ASCII)
"""The numbers that a manifest can hold."""
UNKNOWN_CAMERA = {"train": 1, "query": 1, "gallery": 2}
"""Split -> the camera of all its images if cameras are unknown; they differ, so that every match counts."""


@dataclass(frozen=True)
class FileNames:
    """The names that the images of a data set have."""

    pattern: re.Pattern[str]
    wanted: str
    """How images should be named; it completes the sentence "2 of 3 images are not ..."."""
    cameras: bool = True
    """Whether the names contain cameras."""
    no_cameras_because: str = ""
    """Why cameras are unknown, if it is not for a reason that the spec gives."""

    def read(self, name: str, *, unknown_camera: int) -> tuple[int, int] | None:
        """Person and camera of a file name; None if the pattern does not match or a group is no whole number."""
        found = self.pattern.fullmatch(name.rpartition(".")[0])
        if found is None:
            return None
        groups = found.groupdict("")
        person, camera = groups.get("person", "0"), str(unknown_camera)
        camera = groups.get("camera", camera) if self.cameras else camera
        return (int(person), int(camera)) if PERSON.fullmatch(person) and CAMERA.fullmatch(camera) else None

    @property
    def without_cameras(self) -> str:
        """One sentence: why cameras are unknown and what follows; "" if they are known."""
        if self.cameras:
            return ""
        why = "dataset.cameras is none" if "camera" in self.pattern.groupindex else "dataset.file_name has no camera"
        why = self.no_cameras_because or why
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
"""The names for tasks that need neither persons nor cameras: every image counts as a distractor."""
KNOWN = {"market1501": MARKET1501, "dukemtmc": DUKEMTMC}


def file_names(pattern: str, *, cameras: str) -> FileNames:
    """The file names that dataset.file_name describes; cameras: dataset.cameras, "none" ignores a group `camera`.

    Raises ValueError, with what is wanted, if the pattern is no regular expression or has no group `person`.
    """
    names = KNOWN.get(pattern) or _from_regular_expression(pattern)
    return replace(names, cameras=names.cameras and cameras != "none")


def _from_regular_expression(pattern: str) -> FileNames:
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
        f"named as dataset.file_name says; want {pattern} to match the whole name without its ending, "
        f"{numbers} as digits",
        "camera" in compiled.groupindex,
    )
