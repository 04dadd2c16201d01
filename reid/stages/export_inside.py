"""The second half of the export stage if images are prepared inside the file: it is compared from files to vectors.

The network itself has passed the comparison with torch before.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reid.console.progress import Progress
from reid.data.image_file import read_picture
from reid.data.market1501 import Split
from reid.data.store import MODE
from reid.deploy.comparison import BATCH_SIZE, Comparison, compare_embedded, embed_sample
from reid.deploy.onnx import OnnxModel, check, check_ports, ports_of, read_onnx, thresholds_in
from reid.deploy.onnx_ends import with_preprocessing
from reid.deploy.pixel_port import PixelPort
from reid.deploy.sample import Sample
from reid.embeddings import Embeddings
from reid.files.encryption import write_model
from reid.spec.deploy_sections import Export

if TYPE_CHECKING:
    from reid.model.checkpoint import LoadedModel


logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Inside:
    """How a file that prepares images itself compares with torch, which gets them from this project's own decoding."""

    comparison: Comparison
    port: PixelPort
    flip_test: bool
    unit_length: bool

    @property
    def report(self) -> dict[str, Any]:
        """The entry of parity.json."""
        found = self.comparison
        reference, candidate = (asdict(part) if part else None for part in (found.reference, found.candidate))
        return {
            "pixels": asdict(self.port),
            "flip_test": self.flip_test,
            "unit_length": self.unit_length,
            "worst_cosine": found.parity.worst_cosine,
            "mean_cosine": found.parity.mean_cosine,
            "max_abs": found.parity.max_abs,
            "torch_retrieval": reference,
            "onnx_retrieval": candidate,
        }


def prepare_inside(section: Export, onnx: Path, loaded: "LoadedModel", sample: Sample, *, key: str | None) -> Inside:
    """Replaces the file `onnx` by one that prepares images itself, and compares that with torch from files on."""
    port = pixel_port(section)
    core, contract = read_onnx(onnx)
    mirror, unit_length = section.flip_test, section.unit_length
    model = with_preprocessing(core, contract, port, mirror=mirror, unit_length=unit_length)
    if mirror and thresholds_in(core, onnx):
        logger.warning("export.flip_test: the file states no thresholds; they were measured without the flip test")
    where = f"{onnx}: the network with preprocessing inside"
    check(model, where)
    check_ports(ports_of(model), contract, where, pixels=port)
    write_model(onnx, model.SerializeToString(deterministic=True), key=key)
    network = _ended(loaded, mirror=mirror, unit_length=unit_length)
    reference = embed_sample(network, sample, contract=contract, what="torch, from files")
    opened = OnnxModel(onnx)
    candidate = [embed_files(opened, split) for split in (sample.query, sample.gallery)]
    comparison = compare_embedded(reference, (candidate[0], candidate[1]))
    return Inside(comparison, port, mirror, unit_length)


def pixel_port(section: Export) -> PixelPort:
    """The pixels that the spec asks the file to take."""
    wanted = section.pixels
    return PixelPort(
        data_type=wanted.data_type,
        layout=wanted.layout,
        channel_order=wanted.channel_order,
        largest=float(wanted.largest),
        height=wanted.height,
        width=wanted.width,
        batch=wanted.batch,
    )


def _ended(loaded: "LoadedModel", *, mirror: bool, unit_length: bool) -> Any:
    """torch's network with what the file does after it."""

    def network(images: NDArray[np.float32]) -> NDArray[np.float32]:
        vectors = loaded.embed(images)
        if mirror and not loaded.contract.flip:
            vectors = vectors + loaded.embed(np.ascontiguousarray(images[..., ::-1]))
        if unit_length:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    return network


def embed_files(model: OnnxModel, split: Split) -> Embeddings:
    """The embeddings of a split's files, decoded at their own size; neighbours of one size share a batch.

    If the file takes images of one size only, they are resized to it as this project does.
    """
    vectors = [np.empty((0, model.contract.embedding), np.float32)]
    batch: list[NDArray[np.uint8]] = []
    with Progress("from files to vectors", total=len(split)) as progress:
        for row, path in enumerate(split.paths):
            pixels = _decoded(path, model)
            if batch and (len(batch) == BATCH_SIZE or batch[0].shape != pixels.shape):
                vectors.append(model.of_pixels(np.stack(batch)))
                batch.clear()
            batch.append(pixels)
            progress.update(row + 1)
        if batch:
            vectors.append(model.of_pixels(np.stack(batch)))
    return Embeddings([str(path) for path in split.paths], split.person, split.camera, np.concatenate(vectors))


def _decoded(path: Path, model: OnnxModel) -> NDArray[np.uint8]:
    """The pixels of a file (H, W, C), at its own size unless the model has another."""
    assert model.pixels is not None
    picture = read_picture(path, mode=MODE[model.contract.channels])
    size = (model.pixels.width or picture.width, model.pixels.height or picture.height)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(size[1], size[0], model.contract.channels)


def inside_metrics(report: dict[str, Any]) -> dict[str, float]:
    """The figures of the entry in parity.json as metrics."""
    metrics = {"parity_inside_worst_cosine": report["worst_cosine"]}
    before, after = report["torch_retrieval"], report["onnx_retrieval"]
    if before:
        metrics |= {f"parity_inside_{name}_drop": before[name] - after[name] for name in ("mAP", "rank1")}
    return metrics


def inside_line(report: dict[str, Any], channels: int) -> str:
    """The entry in parity.json as a sentence."""
    port = PixelPort(**report["pixels"])
    extras = [text for name, text in (("flip_test", "flip test"), ("unit_length", "length 1")) if report[name]]
    before, after = report["torch_retrieval"], report["onnx_retrieval"]
    ranked = f"; mAP {100 * after['mAP']:.2f} for torch's {100 * before['mAP']:.2f}" if before else ""
    return (
        f"it prepares images itself: {port.in_words(channels)}{''.join(f', {extra}' for extra in extras)}; from files "
        f"to vectors, cosine to torch at least {report['worst_cosine']:.6f}{ranked}"
    )
