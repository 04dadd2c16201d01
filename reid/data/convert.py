"""Writes a data set of any layout as one in Market-1501's layout, for tools that read no other."""

import csv
import errno
import io
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reid.console.progress import Progress
from reid.data.file_names import FileNames
from reid.data.findings import counted
from reid.data.layouts.layout import SPLITS, LayoutName
from reid.data.layouts.named_files import MARKET_FOLDERS
from reid.data.layouts.table import ReadSet, read_set
from reid.data.market1501 import PersonImage, Split
from reid.data.no_images import found_instead
from reid.errors import DatasetError
from reid.files.locks import made_in_turn
from reid.files.room import require_room

PERSONS = "persons.csv"
"""Which number is which person, if the persons are numbered anew."""
NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a disk says if it cannot link to a file: it is another disk, has no links, or the file is another user's."""


@dataclass(frozen=True)
class Converted:
    """What was written."""

    splits: dict[str, Split]
    """Split -> its images as they were found, with their numbers."""
    linked: int
    copied: int
    notes: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """The counts, in a sentence for each folder."""
        lines = []
        for split, found in self.splits.items():
            persons = len({image.person for image in found.of_persons().images})
            cameras = len({image.camera for image in found.images})
            lines.append(
                f"{MARKET_FOLDERS[split]}: {counted(len(found), 'image')} of {counted(persons, 'person')} under "
                f"{counted(cameras, 'camera')}"
            )
        return [*lines, f"{self.linked:,} linked, {self.copied:,} copied", *self.notes]


def convert(layout: LayoutName, root: Path, output: Path, *, names: FileNames, copy: bool) -> Converted:
    """Writes the images below `output`, which must not exist: it appears under its name when it is complete.

    names: how files' names are read, as dataset.file_name and dataset.cameras say. The images are hard links to those
    of `root` (they take no room), or copies with `copy` and on a disk that cannot link. Raises DatasetError, with all
    that is wrong, if the data set cannot be read completely, and if the output exists or cannot be written.
    """
    if os.path.lexists(output):
        raise DatasetError(f"{output}: exists already; a data set is converted into a new folder only")
    found = read_set(layout, root.absolute(), splits=SPLITS, names=names)
    wrong: dict[str, list[str]] = {}  # what is wrong -> the splits; a missing list or root is wrong for all of them
    for split in SPLITS:
        for what in _objections(found, split):
            wrong.setdefault(what, []).append(split)
    if wrong:
        lines = "".join(f"\n  {', '.join(names)}: {what}" for what, names in wrong.items())
        raise DatasetError(f"{root}: not converted: {counted(len(wrong), 'error')}{lines}")
    splits = {split: found.numbered.listings[split].split for split in SPLITS}
    with made_in_turn(output):
        if os.path.lexists(output):
            raise DatasetError(f"{output}: was made by another process meanwhile")
        linked, copied = _write_whole(splits, output, renamed=found.numbered.renamed, copy=copy)
    notes = [f"{PERSONS} says which number is which person"] if found.numbered.renamed else []
    notes += [part.names.without_cameras for part in list(found.splits.values())[:1] if part.names.without_cameras]
    return Converted(splits, linked, copied, tuple(notes))


def _objections(found: ReadSet, split: str) -> Iterator[str]:
    """What keeps a split from being converted completely."""
    part, listing = found.splits[split], found.numbered.listings[split]
    if part.error:
        yield part.error
        return
    for fault in listing.faults:
        yield f"{fault.message}: {counted(len(fault.lines), 'line')}\n    first: {fault.lines[0]}"
    if listing.misnamed:
        first = listing.root / listing.misnamed[0]
        yield f"{len(listing.misnamed)} of {len(listing.files)} images are not {part.names.wanted}\n    first: {first}"
    if closed := [f"{path}: {why}" for path in listing.split.paths if (why := _why_no_file(path))]:
        yield f"{counted(len(closed), 'image')} cannot be read\n    first: {closed[0]}"
    if not listing.files and not listing.faults:
        yield f"no image in {listing.root}{found_instead(listing)}"


def _why_no_file(path: Path) -> str:
    """Why there is no regular file, to which links may lead; "" if there is one."""
    try:
        return "" if stat.S_ISREG(path.stat().st_mode) else "not a regular file"
    except OSError as error:
        return error.strerror or type(error).__name__


def _write_whole(splits: dict[str, Split], output: Path, *, renamed: dict[int, str], copy: bool) -> tuple[int, int]:
    """Writes the data set under another name and renames it; returns how many images are links and how many copies."""
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        counts = _write(splits, partial, copy=copy)
        if renamed:
            (partial / PERSONS).write_text(_persons(renamed), encoding="utf-8", errors="surrogateescape", newline="")
        partial.rename(output)
    except OSError as error:
        raise DatasetError(f"{output}: cannot be written\n  found: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def _write(splits: dict[str, Split], root: Path, *, copy: bool) -> tuple[int, int]:
    """Writes the three folders; returns how many images are links and how many are copies."""
    images = sum(map(len, splits.values()))
    paths = {split: found.paths for split, found in splits.items()}
    if copy:
        size = sum(path.stat().st_size for listed in paths.values() for path in listed)
        require_room(root, size, purpose=f"to copy {counted(images, 'image')}")
    linked = done = 0
    with Progress("converting", images) as progress:
        for split, found in splits.items():
            folder = root / MARKET_FOLDERS[split]
            folder.mkdir(parents=True)
            for number, (image, path) in enumerate(zip(found.images, paths[split]), start=1):
                linked += _place(path, folder / market_name(image, number), copy=copy)
                done += 1
                progress.update(done)
    return linked, images - linked


def market_name(image: PersonImage, number: int) -> str:
    """PPPP_cCs1_FFFFFF_01.ext: the image's person and camera, and its number within the folder as the frame."""
    person = f"{image.person:04d}" if image.person >= 0 else str(image.person)
    return f"{person}_c{image.camera}s1_{number:06d}_01{Path(image.file).suffix.lower()}"


def _place(source: Path, target: Path, *, copy: bool) -> bool:
    """Puts an image in its place; returns whether it is a link."""
    if not copy:
        try:
            os.link(source.resolve(), target)  # the file itself, not a link that leads to it
            return True
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
    shutil.copyfile(source, target)
    return False


def _persons(renamed: dict[int, str]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["number", "person"])
    rows.writerows(sorted(renamed.items()))
    return text.getvalue()
