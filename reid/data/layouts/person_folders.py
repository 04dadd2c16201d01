"""A folder for each person: ROOT/train/PERSON/IMAGE, ROOT/query/PERSON/IMAGE, ROOT/gallery/PERSON/IMAGE.

A person has the same folder name in query and gallery; a person may have any name. A folder named -1 holds junk. The
camera comes from the files' names, if dataset.file_name or, without it, the pattern of Market-1501 or DukeMTMC-reID
fits all of them; otherwise cameras are unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reid.console.plain import in_one_line
from reid.data.file_names import ANY, CAMERA, DUKEMTMC, MARKET1501, FileNames
from reid.data.findings import counted
from reid.data.layouts.layout import SPLITS, Found, NamedImage
from reid.data.market1501 import IMAGE_ENDINGS, Listing, is_of_a_system, list_folder
from reid.errors import DatasetError

TREE = "the folders train, query and gallery, and in each a folder for each person"
NO_CAMERAS = FileNames(ANY.pattern, "", False, "the files' names give no camera")


@dataclass
class _Folder:
    """The files below a split's folder."""

    root: Path
    files: list[tuple[str, str]]
    """(person, file)."""
    strays: list[str]


def find_person_folders(root: Path, splits: Sequence[str], names: FileNames) -> dict[str, Found]:
    """The images of the splits."""
    folders: dict[str, _Folder | str] = {}
    for split in splits:
        try:
            folders[split] = _list(root / split)
        except DatasetError as error:
            folders[split] = _advice(root) or f"{error}; want in {root} {TREE}"
    listed = [folder for folder in folders.values() if isinstance(folder, _Folder)]
    pattern = _cameras(names, [Path(file).name for folder in listed for _, file in folder.files])
    return {
        split: Found(root / split, pattern, error=folder) if isinstance(folder, str) else _found(folder, pattern)
        for split, folder in folders.items()
    }


def _list(root: Path) -> _Folder:
    top = list_folder(root, names=ANY)
    persons = _persons(top)
    others = [name for name in top.strays if name.rstrip("/") not in set(persons)]
    folder = _Folder(root, [], [*top.files, *others])
    for person in persons:
        inner = list_folder(root / person, names=ANY)
        folder.files += [(person, f"{person}/{file}") for file in inner.files]
        folder.strays += [f"{person}/{name}" for name in inner.strays] or ([] if inner.files else [f"{person}/"])
    if not folder.files:
        strays = sorted(folder.strays)
        found = f"{counted(len(strays), 'other name')}, first {in_one_line(strays[0])}" if strays else "nothing"
        raise DatasetError(
            f"{root}: no person's folder has an image; found {found}; an image ends in {', '.join(IMAGE_ENDINGS)}"
        )
    return folder


def _persons(top: Listing) -> list[str]:
    """The folders of persons; hidden ones and those of operating systems are none."""
    folders = (name.rstrip("/") for name in top.strays if name.endswith("/"))
    return [name for name in folders if not name.startswith(".") and not is_of_a_system(name)]


def _advice(root: Path) -> str:
    """What to do if the root itself holds the persons' folders: who is trained on and who is tested is not guessed."""
    try:
        inside = _persons(list_folder(root, names=ANY))
    except DatasetError as error:
        return f"{error}; want {TREE}"
    persons = [name for name in inside if name not in SPLITS]
    if not persons or len(persons) < len(inside):
        return ""
    return (
        f"{root}: found {counted(len(persons), 'folder')}, first {in_one_line(persons[0])}, none of them train, query "
        f"or gallery; want {TREE}: move the persons to train on into train, and of each other person some images into "
        "query, the others into gallery"
    )


def _cameras(names: FileNames, files: Sequence[str]) -> FileNames:
    """The pattern that gives the cameras; one without cameras if they are unknown."""
    own = names.pattern != MARKET1501.pattern
    if not names.cameras:
        because = "" if own else "dataset.cameras is none"
        return replace(names if own else NO_CAMERAS, cameras=False, no_cameras_because=because)
    if own:
        return names
    return next(
        (known for known in (MARKET1501, DUKEMTMC) if files and all(_camera(f, known) for f in files)), NO_CAMERAS
    )


def _camera(file: str, names: FileNames) -> str | None:
    found = names.pattern.fullmatch(file.rpartition(".")[0])
    camera = found.groupdict("").get("camera", "") if found else ""
    return str(int(camera)) if CAMERA.fullmatch(camera) else None


def _found(folder: _Folder, names: FileNames) -> Found:
    images: list[NamedImage] = []
    misnamed: list[str] = []
    for person, file in folder.files:
        camera = _camera(Path(file).name, names) if names.cameras else None
        if names.cameras and camera is None:
            misnamed.append(file)
        else:
            images.append(NamedImage(file, person, camera))
    return Found(folder.root, names, tuple(images), tuple(sorted(misnamed)), tuple(sorted(folder.strays)))
