"""Checks that a disk has room, before hours of work are lost because it is full."""

import shutil
from pathlib import Path

from reid.errors import ArtifactError


def require_room(path: Path, wanted_bytes: int, *, purpose: str, advice: str = "") -> None:
    """Makes the folder of `path` and raises ArtifactError if its disk has fewer bytes free than are wanted.

    `purpose` completes "no room …"; `advice` says what the user can do about it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(path.parent).free
    if free_bytes < wanted_bytes:
        raise ArtifactError(
            f"{path}: no room {purpose}\n  found: {free_bytes >> 20:,} MiB free\n"
            f"  want:  {wanted_bytes >> 20:,} MiB{f'; {advice}' if advice else ''}"
        )
