"""Unpacks Market-1501 from its zip file: the images of its three folders only, wherever in the zip they lie.

An archive is not trusted: no name in it decides where a file is written, no link is followed, and no member may be
larger than the free disk space or than an image can be.
"""

import shutil
import stat
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile, ZipInfo

from reid.console.progress import Progress
from reid.data.market1501 import IMAGE_ENDINGS
from reid.errors import DatasetError
from reid.files.room import require_room

FOLDERS = ("bounding_box_train", "bounding_box_test", "query")
LARGEST_IMAGE_BYTES = 64 << 20
MOST_MEMBERS = 2_000_000
LARGEST_RATIO = 100
"""Largest ratio of an image's bytes to its bytes in the archive: JPEG and PNG hardly shrink, a zip bomb does."""


def unpack(archive: Path, root: Path, *, stamp: Mapping[str, str]) -> None:
    """Writes the three folders below `root`, whole or not at all, and the texts of `stamp` (name -> text) beside them.

    Raises DatasetError if the file is no zip or damaged, misses one of the folders, has two data sets, or is not safe.
    """
    partial = root.with_name(f"{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with ZipFile(archive) as file:
            chosen = _images_in(archive, file.infolist())
            require_room(root, sum(info.file_size for info in chosen.values()), purpose=f"to unpack {archive}")
            for folder in FOLDERS:
                (partial / folder).mkdir(parents=True)
            with Progress(f"unpacking {archive.name}", len(chosen)) as progress:
                for done, (target, info) in enumerate(chosen.items(), start=1):
                    with file.open(info) as packed, (partial / target).open("wb") as image:
                        shutil.copyfileobj(packed, image)
                    progress.update(done)
        for name, text in stamp.items():
            (partial / name).write_text(text, encoding="utf-8")
        partial.rename(root)
    except (BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last: encrypted, an unknown method
        raise DatasetError(f"{archive}: damaged, or no zip file: {error}") from error
    except OSError as error:
        raise DatasetError(f"{root}: cannot be written\n  found: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _images_in(archive: Path, members: list[ZipInfo]) -> dict[str, ZipInfo]:
    """{"FOLDER/FILE": member} of every image in the three folders."""
    _refuse_many_bombs(archive, members)
    chosen: dict[str, ZipInfo] = {}
    above = set()
    for info in members:
        path = PurePosixPath(info.filename)
        if _escapes(info):
            raise DatasetError(f"{archive}: not safe to unpack: {info.filename!r} leads out of the archive")
        if info.filename.endswith("/") or len(path.parts) < 2 or path.parts[-2] not in FOLDERS:
            continue
        if path.name.startswith(".") or not path.name.lower().endswith(IMAGE_ENDINGS):
            continue
        _refuse_bomb(archive, info)
        above.add("/".join(path.parts[:-2]))
        chosen[f"{path.parts[-2]}/{path.name}"] = info
    found = {target.partition("/")[0] for target in chosen}
    if missing := [folder for folder in FOLDERS if folder not in found]:
        raise DatasetError(
            f"{archive}: not an archive of Market-1501: no images in {', '.join(missing)}\n"
            f"  found: {_first_names(members)}\n  want:  the folders {', '.join(FOLDERS)}"
        )
    if len(above) > 1:
        raise DatasetError(f"{archive}: more than one data set: {', '.join(sorted(above))}\n  want: one")
    return chosen


def _escapes(info: ZipInfo) -> bool:
    """Whether a member is a link, pipe or device, or has a path upwards or from the root: sound archives have none."""
    name = info.filename.replace("\\", "/")
    parts = PurePosixPath(name).parts
    upwards = ".." in parts or name.startswith("/") or any(":" in part for part in parts[:1])
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 if another system than Unix packed it
    return upwards or kind not in (0, stat.S_IFREG, stat.S_IFDIR)


def _refuse_many_bombs(archive: Path, members: list[ZipInfo]) -> None:
    """Raises DatasetError if there are too many members, or if they share bytes, so that few become many."""
    if len(members) > MOST_MEMBERS:
        raise DatasetError(
            f"{archive}: not safe to unpack: {len(members):,} members\n  want:  at most {MOST_MEMBERS:,}"
        )
    packed, size = sum(info.compress_size for info in members), archive.stat().st_size
    if packed > size:
        raise DatasetError(
            f"{archive}: not safe to unpack: its members overlap: {packed:,} bytes in a file of {size:,}\n"
            "  want:  an archive in which each member has its own bytes"
        )


def _refuse_bomb(archive: Path, info: ZipInfo) -> None:
    if info.file_size > LARGEST_IMAGE_BYTES or info.file_size > LARGEST_RATIO * max(info.compress_size, 1 << 10):
        raise DatasetError(
            f"{archive}: not safe to unpack: {info.filename!r} grows from {info.compress_size:,} to "
            f"{info.file_size:,} bytes"
        )


def _first_names(members: list[ZipInfo]) -> str:
    names = sorted({parts[0] for info in members if (parts := PurePosixPath(info.filename).parts)})
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "nothing"
