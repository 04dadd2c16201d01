"""A data set of a few noise images in Market-1501's layout, for tests of what reads one."""

from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from PIL import Image

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
NAMES = {
    "train": [f"000{person}_c{camera}s1_000001_01.jpg" for person in (1, 2, 3) for camera in (1, 2)],
    "query": ["0004_c1s1_000001_00.jpg", "0005_c2s1_000001_00.jpg"],
    "gallery": [
        "-1_c1s1_000001_01.jpg",
        "0000_c2s1_000001_01.jpg",
        "0004_c1s1_000002_01.jpg",
        "0004_c2s1_000001_01.jpg",
        "0005_c1s1_000001_01.jpg",
    ],
}


def write_image(path: Path, *, size: tuple[int, int] = (32, 64), mode: str = "RGB", format: str = "JPEG") -> Path:
    """Noise, another for each file name; size is (width, height)."""
    rng = np.random.default_rng(list(path.name.encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, format)
    return path


def write_market(root: Path) -> Path:
    """3 training and 2 test persons under 2 cameras, one junk and one distractor image; nothing to object to."""
    for split, names in NAMES.items():
        for name in names:
            write_image(root / FOLDERS[split] / name)
    return root


def zip_market(path: Path, *, above: str = "Market-1501-v15.09.15/", without: str = "") -> Path:
    """Such a data set as the zip that Market-1501 comes in: one folder above the three, and others beside them."""
    with TemporaryDirectory() as folder, ZipFile(path, "w", ZIP_DEFLATED) as archive:
        root = write_market(Path(folder))
        archive.writestr(f"{above}readme.txt", "all about it")
        archive.writestr(f"{above}gt_query/0004_c1s1_000001_00_good.mat", b"other things")
        archive.writestr(f"{above}query/Thumbs.db", b"a stray")
        archive.writestr(f"__MACOSX/{above}query/._0004_c1s1_000001_00.jpg", b"a shadow")
        for file in sorted(root.rglob("*.jpg")):
            if file.parent.name != without:
                archive.write(file, f"{above}{file.relative_to(root)}")
    return path
