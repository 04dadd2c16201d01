"""Measures how large the tensors of an ONNX model become on real images, and chooses those images.

A scale of 8-bit numbers follows from the largest magnitude that was seen. Clipping the largest values instead (by a
percentile or the squared error) made the mean embedding closer and the worst one worse, and the worst one is what a
limit is on. docs/deployment.md has the measurement.

Shapes: B images in a batch, N images of a split, C channels, H height, W width.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reid.console.progress import Progress
from reid.contract import Contract
from reid.data.market1501 import IMAGE_ENDINGS, Manifest, PersonImage, Split, is_of_a_system
from reid.data.on_disk import ImagesOnDisk
from reid.data.store import open_store
from reid.deploy.onnx import INPUT, import_onnx, open_session
from reid.embeddings import Pixels
from reid.errors import DatasetError

if TYPE_CHECKING:
    from onnx import ModelProto

BATCH_SIZE = 8


def largest_values(
    model: "ModelProto", tensors: Sequence[str], images: Iterable[NDArray[np.float32]], *, total: int | None = None
) -> dict[str, float]:
    """The largest magnitude of each tensor of the graph over all images (B, C, H, W).

    `total` is the number of images, for the progress lines. Raises DatasetError without an image.
    """
    onnx = import_onnx()
    probed: ModelProto = onnx.ModelProto.FromString(model.SerializeToString())
    probed.graph.ClearField("output")
    for number, name in enumerate(tensors):
        size, most = f"reid_size_{number}", f"reid_largest_{number}"
        probed.graph.node.append(onnx.helper.make_node("Abs", [name], [size], name=size))
        probed.graph.node.append(onnx.helper.make_node("ReduceMax", [size], [most], name=most, keepdims=0))
        probed.graph.output.append(onnx.helper.make_tensor_value_info(most, onnx.TensorProto.FLOAT, []))
    session = open_session(probed.SerializeToString())
    largest, done = np.zeros(len(tensors)), 0
    with Progress("calibration", total or 0) as progress:
        for batch in images:
            largest = np.maximum(largest, session.run(None, {INPUT: batch}))
            done += len(batch)
            progress.update(done)
    if not done:
        raise DatasetError("calibration: no image\n  want: one at least")
    return dict(zip(tensors, largest.tolist(), strict=True))


def choose_rows(split: Split, count: int, *, seed: int) -> list[int]:
    """At most `count` rows of a split in the order drawn: every person once before any twice, its cameras in turn."""
    rng = np.random.default_rng(seed)
    of_person: dict[int, dict[int, list[int]]] = {}
    for row in rng.permutation(len(split)).tolist():
        image = split.images[row]
        of_person.setdefault(image.person, {}).setdefault(image.camera, []).append(row)
    left = {person: list(_in_turn(list(cameras.values()))) for person, cameras in of_person.items()}
    return list(_in_turn(list(left.values())))[:count]


def _in_turn(lists: Sequence[list[int]]) -> Iterator[int]:
    """The first of each list, then the second of each, and so on."""
    for place in range(max(map(len, lists), default=0)):
        yield from (rows[place] for rows in lists if place < len(rows))


def training_images(manifest: Manifest, count: int, *, contract: Contract, store: Path, field: str) -> Pixels:
    """At most `count` training images (N, H, W, C) from the decode-once store, persons and cameras balanced.

    Raises DatasetError, which names `field`, if the manifest has no training image.
    """
    images = manifest.train.of_persons()
    if not len(images):
        raise DatasetError(
            f"{field}: {manifest.train.root} has no training image to calibrate on\n"
            "  want: dataset.train_dataset_dir, or another data type"
        )
    size = {"height": contract.height, "width": contract.width, "channels": contract.channels}
    rows = choose_rows(images, count, seed=0)
    path = Path(store)
    if len(manifest.train) == len(images):
        return open_store(images, **size, folder=path, key=manifest.fingerprint)[rows]
    chosen = Split(images.root, tuple(images.images[row] for row in rows))
    return ImagesOnDisk(chosen, **size)


def _is_image(path: Path) -> bool:
    """Whether it is an image by its name, neither hidden nor in a folder of an operating system."""
    ours = not any(part.startswith(".") or is_of_a_system(part) for part in path.parts)
    return ours and path.suffix.lower() in IMAGE_ENDINGS


def folder_images(folders: Sequence[str], count: int, *, contract: Contract, field: str) -> Pixels:
    """The first `count` images (N, H, W, C) of some folders, subfolders included, in the order of their names.

    Raises DatasetError, which names `field`, if a folder is missing or all together have fewer images.
    """
    files: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise DatasetError(f"{field}: {folder}: no such folder\n  want: a folder of images")
        files += sorted(path for path in folder.rglob("*") if _is_image(path.relative_to(folder)))
    if len(files) < count:
        raise DatasetError(
            f"{field}: {len(files)} images in {', '.join(map(str, folders))}\n  want: {count} at least, which is "
            "gen_trt_engine.tensorrt.calibration.cal_batches x cal_batch_size"
        )
    chosen = [files[place * len(files) // count] for place in range(count)]
    split = Split(Path("/"), tuple(PersonImage(str(path.resolve()), 1, 1) for path in chosen))
    return ImagesOnDisk(split, height=contract.height, width=contract.width, channels=contract.channels)


def in_batches(
    pixels: Pixels, rows: Sequence[int], *, contract: Contract, batch_size: int = BATCH_SIZE
) -> Iterator[NDArray[np.float32]]:
    """These rows of the images as the network takes them, in batches (B, C, H, W); no augmentation."""
    for start in range(0, len(rows), batch_size):
        yield contract.preprocess(pixels[np.asarray(rows[start : start + batch_size], np.int64)])
