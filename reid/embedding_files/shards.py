"""The names of the files of a sharded set: NAME-00000-of-00004.parquet to NAME-00003-of-00004.parquet."""

import re
from collections.abc import Sequence
from pathlib import Path

from reid.errors import ArtifactError

MOST = 500
"""Largest number of files of a set: all of them are open until the last one is complete."""
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


def files_of_set(path: Path, *, rows: int, shard_rows: int | None) -> list[Path]:
    """The files that hold `rows` rows: `path` itself without shard_rows, else one for each shard_rows rows.

    Raises ArtifactError if there would be more than MOST.
    """
    if shard_rows is None:
        return [path]
    count = max(1, -(-rows // shard_rows))
    if count > MOST:
        raise ArtifactError(
            f"{path}: {rows:,} rows in files of {shard_rows:,} are {count:,} files\n"
            f"  want: at most {MOST}, which inference.shard_rows={-(-rows // MOST)} gives"
        )
    return [path.with_name(f"{path.stem}-{number:05d}-of-{count:05d}{path.suffix}") for number in range(count)]


def shards_beside(path: Path) -> list[Path]:
    """The shards of whatever set that bear the name of `path`, sorted."""
    if not path.parent.is_dir():
        return []
    found = [(entry, SHARD.fullmatch(entry.stem)) for entry in sorted(path.parent.iterdir())]
    return [entry for entry, shard in found if shard and shard["stem"] == path.stem and entry.suffix == path.suffix]


def whole_set(files: Sequence[Path]) -> list[Path]:
    """The files, sorted. Raises ArtifactError if shards among them belong to a set that is not whole."""
    for file in sorted(files):
        if shard := SHARD.fullmatch(file.stem):
            wanted = [
                file.with_name(f"{shard['stem']}-{number:05d}-of-{shard['count']}{file.suffix}")
                for number in range(int(shard["count"]))
            ]
            missing = sorted({*wanted} - {*files})
            if missing or file not in wanted:
                raise ArtifactError(
                    f"{file}: one of {int(shard['count'])} files, {len(missing)} of them are not there\n"
                    f"  first: {missing[0] if missing else file}\n  want: the whole set"
                )
    return sorted(files)


def remove_others(path: Path, *, keep: Sequence[Path]) -> list[Path]:
    """Removes the file `path` and the shards of its name that are not kept; returns them.

    What was written before under this name, in more or fewer files, would else be read as if it belonged to the rows.
    """
    others = [file for file in (path, *shards_beside(path)) if file not in keep and file.is_file()]
    for file in others:
        file.unlink()
    return others
