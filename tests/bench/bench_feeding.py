"""Feeding the network: the decode-once store with batched augmentation, beside PIL and torchvision-like transforms.

One process, one thread: images per second and core, 64 x 128 JPEG files to 256 x 128 augmented float32 batches.
"""
# ruff: noqa: T201

import io
import json
import tempfile
from pathlib import Path

import numpy as np

from tests.bench import bench_colours, bench_doctor
from tests.bench.rows import Row, in_a_process, row, seconds

MODULE = "tests.bench.bench_feeding"
HEIGHT, WIDTH, BATCH, IMAGES = 256, 128, 64, 512
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def measure() -> list[Row]:
    """The rows of this part."""
    rates = in_a_process(MODULE, {}, OMP_NUM_THREADS="1")
    what = "images/s"
    return [
        row("feeding", "uint8 store + batched augmentation", rates["ours"], what,
            textbook=rates["textbook"], textbook_is="JPEG, PIL, torchvision-like transforms",
            limit=rates["limit"], limit_is="writing the float32 batches", note="per core"),
        row("feeding", "the store's first epoch: decoding", rates["decoding"], what, note="per core, once a data set"),
        *bench_colours.measure(),
        *bench_doctor.measure(),
    ]  # fmt: skip


def _measured() -> dict[str, float]:
    """Images per second of each way."""
    import torch
    from PIL import Image

    from reid.data.augment import augment, draw
    from reid.data.market1501 import list_folder
    from reid.data.store import open_store

    torch.set_num_threads(1)
    rng = np.random.default_rng(3)
    files = _jpegs(rng)
    pixels = rng.integers(0, 256, (IMAGES, HEIGHT, WIDTH, 3), np.uint8)

    def ours() -> None:
        for start in range(0, IMAGES, BATCH):
            order = rng.integers(0, IMAGES, BATCH)
            plan = draw(
                rng, BATCH, height=HEIGHT, width=WIDTH, padding=10, flip_probability=0.5, erasing_probability=0.5
            )
            augment(pixels[order], plan, mean=MEAN, std=STD)
            assert start < IMAGES

    output = np.ones((BATCH, 3, HEIGHT, WIDTH), np.float32)

    def limit() -> None:
        for _ in range(IMAGES // BATCH):
            output.copy()

    def textbook() -> None:
        for start in range(0, IMAGES, BATCH):
            batch = files[start : start + BATCH]
            torch.stack([_transformed(Image.open(io.BytesIO(file)).convert("RGB"), rng) for file in batch])

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "bounding_box_train"
        root.mkdir()
        for number, file in enumerate(files):
            (root / f"{number // 8 + 1:04d}_c{number % 6 + 1}s1_{number:06d}_01.jpg").write_bytes(file)
        split = list_folder(root).split
        size = {"height": HEIGHT, "width": WIDTH, "channels": 3}
        keys = iter(range(100))

        def decoding() -> None:
            open_store(split, **size, folder=Path(folder) / "store", key=f"bench{next(keys)}")

        works = {"ours": ours, "limit": limit, "textbook": textbook, "decoding": decoding}
        return {name: IMAGES / seconds(work, repeat=3) for name, work in works.items()}


def _jpegs(rng: np.random.Generator) -> list[bytes]:
    """Smooth pictures of Market-1501's size, so that their files are of a photograph's size too."""
    from PIL import Image

    files = []
    for _ in range(IMAGES):
        small = Image.fromarray(rng.integers(0, 256, (16, 8, 3), np.uint8)).resize((64, 128), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def _transformed(image, rng: np.random.Generator):
    """What every peer does with one image: resize, flip, pad and crop, to a tensor, normalise, erase."""
    import torch
    from PIL import Image
    from torchvision.transforms import functional as F

    image = image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        image = F.hflip(image)
    padded = F.pad(image, [10])
    top, left = (int(value) for value in rng.integers(0, 21, 2))
    tensor = F.normalize(F.to_tensor(F.crop(padded, top, left, HEIGHT, WIDTH)), MEAN, STD)
    if rng.random() < 0.5:
        height, width = (int(value) for value in rng.integers(20, 120, 2))
        tensor[:, top : top + height, left : left + width] = torch.tensor(MEAN)[:, None, None]
    return tensor


if __name__ == "__main__":
    print(json.dumps(_measured()))
