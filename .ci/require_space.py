"""Ends with status 2 if the disk cannot hold the environment: `python3 .ci/require_space.py .venv`, before it is made.

Measured with the lock of November 2026: the environment takes 7.3 GB, and while pip installs it, the downloaded
packages take another 4.2 GB in the folder for temporary files.
"""

import shutil
import sys
import tempfile
from pathlib import Path

ENVIRONMENT_GB, DOWNLOADS_GB = 7.5, 4.5


def lacking(environment: Path, downloads: Path) -> list[str]:
    """One line for each disk without enough free space."""
    wanted: dict[int, tuple[Path, float]] = {}
    for folder, size_gb in ((environment, ENVIRONMENT_GB), (downloads, DOWNLOADS_GB)):
        device = folder.stat().st_dev
        first, sum_gb = wanted.get(device, (folder, 0.0))
        wanted[device] = first, sum_gb + size_gb
    found = [(folder, size_gb, shutil.disk_usage(folder).free / 1e9) for folder, size_gb in wanted.values()]
    return [
        f"{folder}: the disk has {free_gb:.1f} GB free\n  want: {size_gb:g} GB, for packages and their downloads"
        for folder, size_gb, free_gb in found
        if free_gb < size_gb
    ]


if __name__ == "__main__":
    place = Path(sys.argv[1]).absolute()
    if place.exists():  # it is brought up to date, which needs less
        sys.exit(0)
    lines = lacking(place.parent, Path(tempfile.gettempdir()))
    if lines:
        advice = "  VENV=DIR puts the environment elsewhere, TMPDIR=DIR the downloads\n"
        sys.stderr.write("".join(f"error: {line}\n" for line in lines) + advice)
        sys.exit(2)
