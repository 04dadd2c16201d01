"""What `write_json` wrote, and the JSON of the seed."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def read_json(path: Path) -> list[tuple[str, NDArray[np.float32]]]:
    """Each row as (img_path, vector (D,)); "-0" keeps its sign."""
    rows = json.loads(path.read_text(encoding="utf-8"), parse_int=float)
    return [(row["img_path"], np.array(row["embedding"], np.float32)) for row in rows]
