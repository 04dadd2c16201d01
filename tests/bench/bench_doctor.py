"""The check of a data set of Market-1501's size: `reid validate` of new files, and of unchanged ones."""
# ruff: noqa: T201

import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.bench.rows import Row, in_a_process, row

MODULE = "tests.bench.bench_doctor"
IMAGES, CAMERAS, OF_A_PERSON = 33_000, 6, 20
FOLDERS = ("bounding_box_train", "bounding_box_test", "query")


def measure() -> list[Row]:
    """The rows of this part."""
    found = in_a_process(MODULE, {}, OMP_NUM_THREADS="2")
    return [
        row("feeding", f"validate: {IMAGES:,} {what} images", one["wall_s"], "s", note=f"{one['cpu_s']:.1f} s of CPU")
        for what, one in found.items()
    ]


def measured(root: Path, images: int = IMAGES) -> dict[str, dict[str, float]]:
    """Seconds of a first and of a second check of so many images, which are written into the folder before."""
    from reid.cli.commands import main

    write_images(root, images)
    spec = root / "spec.yaml"
    spec.write_text(f"results_dir: {root}/results\ndataset: {{root: {root}, num_classes: null, batch_size: 8}}\n")
    found = {}
    for what in ("new", "unchanged"):
        began, before = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(sys.stderr):
            status = main(["validate", "-e", str(spec)])
        assert status == 0, status
        found[what] = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - before}
    return found


def write_images(root: Path, images: int) -> None:
    """Pictures of 64 x 128 before the walls of some cameras, so that many pairs have to be compared closely."""
    from PIL import Image

    rng = np.random.default_rng(5)
    walls = rng.normal(0, 40, (CAMERAS, 16, 8, 3))
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True)
    for number in range(images):
        person, frame = divmod(number, OF_A_PERSON)
        camera = frame % CAMERAS
        folder = FOLDERS[0] if person % 2 else FOLDERS[2] if frame < 3 else FOLDERS[1]
        small = np.clip(128 + walls[camera] + rng.normal(0, 24, (16, 8, 3)), 0, 255).astype(np.uint8)
        picture = Image.fromarray(small).resize((64, 128), Image.Resampling.BICUBIC)
        picture.save(root / folder / f"{person + 1:04d}_c{camera + 1}s1_{number:06d}_01.jpg", quality=90)


if __name__ == "__main__":
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory() as made:
        print(json.dumps(measured(Path(made))))
