"""Images that a file lists, line by line: what the layouts MSMT17, CUHK03 and CSV have in common."""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from reid.data.file_names import ANY, FileNames
from reid.data.layouts.layout import Found, NamedImage
from reid.data.market1501 import IMAGE_ENDINGS, Fault

LISTED = ANY
"""The names of files whose person and camera a list says."""


@dataclass
class Lines:
    """The images of one split, collected from lines, and what is wrong with the other lines."""

    root: Path
    """Folder that the files are named from."""
    images: list[NamedImage] = field(default_factory=list)
    bad: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    def refuse(self, where: str, found: str, *, check: str, message: str) -> None:
        """Notes a line: where it is, what it holds; `message` says what is wanted."""
        self.bad.setdefault((check, message), []).append(f"{where}: {found}")

    def take(self, where: str, image: NamedImage) -> None:
        """Notes the image of a line, or what is wrong with it."""
        path = PurePosixPath(image.file)
        if _is_no_name(image.file):
            self.refuse(where, ascii(image.file), check="bad path", message="some paths are no names of files")
        elif path.is_absolute() or ".." in path.parts or not image.file:
            self.refuse(
                where,
                f"{image.file!r}",
                check="bad path",
                message=f"some paths do not lie below {self.root}; want them relative to that folder, without ..",
            )
        elif not image.file.lower().endswith(IMAGE_ENDINGS):
            endings = ", ".join(IMAGE_ENDINGS)
            message = f"some files are no images by their names; want the endings {endings}"
            self.refuse(where, image.file, check="no image", message=message)
        elif image.file in self._seen:
            self.refuse(where, image.file, check="listed twice", message="some images are listed more than once")
        elif not os.path.lexists(self.root / path):
            message = f"some images that are listed are not in {self.root}"
            self.refuse(where, image.file, check="missing image", message=message)
        else:
            self._seen.add(image.file)
            self.images.append(NamedImage(str(path), image.person, image.camera))

    def found(self, names: FileNames, *, lists: str) -> Found:
        """The split. lists: the files that list it, for the error if they list no image at all."""
        if not self.images and not self.bad:
            return Found(self.root, names, error=f"{lists}: lists no image of this split")
        faults = tuple(Fault(check, message, tuple(lines)) for (check, message), lines in self.bad.items())
        return Found(self.root, names, tuple(self.images), faults=faults)


def _is_no_name(file: str) -> bool:
    """Whether no file can have this name, for it holds a NUL or half a character."""
    try:
        return b"\0" in file.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return True


def read_text(path: Path) -> str:
    """The text of a list file. Raises ValueError, with what is wrong, if it cannot be read as UTF-8."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would wait for ever
            raise ValueError(f"{path}: the list file cannot be read: not a regular file")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such list file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the list file cannot be read as UTF-8: {error}") from None
    except OSError as error:
        raise ValueError(f"{path}: the list file cannot be read: {error.strerror or error}") from None


def names_of(folder: Path, endings: Iterable[str]) -> list[str]:
    """The names in a folder that end so, sorted; [] if there is no such folder."""
    ends = tuple(endings)
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(ends))
    except OSError:
        return []
