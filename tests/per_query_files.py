"""Files of an evaluation as the stage evaluate writes them, with figures that a test chooses."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from reid.scoring.per_query import KINDS

COLUMNS = ("average_precision", "first_match_rank", "top1", "top1_person", "top1_distance")


def write_per_query(
    file: Path, precision: Sequence[float], *, persons: int | None = None, root: str = "/data", **about: object
) -> Path:
    """A per_query.csv with a query for each value, of as many persons in turn; and a metrics.json with `about`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    count = persons or len(precision)
    with file.open("w", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["query", "person", "camera", *(f"{kind}_{name}" for kind in KINDS for name in COLUMNS)])
        for number, value in enumerate(precision):
            person, camera = number % count + 1, number % 2 + 1
            name = f"{person:04d}_c{camera}s1_{number:06d}_00.jpg"
            rank = 1 if value > 0.5 else 2
            nearest = f"{root}/bounding_box_test/{person:04d}_c3s1_000001_01.jpg"
            cells = [f"{value:.6f}", rank, nearest, person if rank == 1 else 0, "0.250000"]
            writer.writerow([f"{root}/query/{name}", person, camera, *cells, *cells])
    if about:
        (file.parent / "metrics.json").write_text(json.dumps(about), encoding="utf-8")
    return file
