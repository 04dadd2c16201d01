"""The export stage: the network as one ONNX file, and proof on real query images that nothing was lost.

Shapes: N compared images, D width of the embedding.
"""

import hashlib
import json
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from reid.data.market1501 import Manifest, Split
from reid.data.store import open_store
from reid.deploy.half import to_half
from reid.deploy.onnx import OnnxModel, export_onnx, read_onnx
from reid.deploy.parity import Parity
from reid.deploy.parity import parity as compare
from reid.deploy.tensorrt import trtexec_line
from reid.embeddings import Network, embed
from reid.errors import ArtifactError, DatasetError
from reid.files import copy_file, replacing
from reid.spec import Experiment
from reid.stages.inference import OpenModel, find_checkpoint
from reid.stages.named_backbone import require_backbone
from reid.stages.outcome import Outcome
from reid.tracking import StageRun

logger = logging.getLogger(__name__)

BATCH_SIZE = 16
IMAGES, IMAGES_ONE_BY_ONE, IMAGES_IN_FP16 = 256, 16, 32
"""Query images compared in batches of BATCH_SIZE, in batches of one, and after conversion to FP16."""


def export(spec: Experiment, *, dataset: Path, model: Path, onnx: Path, parity: Path, run: StageRun) -> Outcome:
    """Writes `model` (a checkpoint or a model directory) as ONNX to `onnx`, and how close the two are to `parity`.

    A file at `onnx` is replaced, and only by one that passed: where an image's cosine is below spec.export.min_cosine
    the new file stays beside it, with ".candidate" to its name, and ArtifactError names the worst images.
    spec.export.onnx_file, where it is another file, gets a copy; one that is there stays unless overwrite is set.
    """
    from reid.model.checkpoint import load_model

    manifest = Manifest.load(dataset)
    if not len(manifest.query):
        raise DatasetError(
            f"{manifest.query.root}: no query image to compare the ONNX with torch on\n  want: one at least"
        )
    checkpoint, candidate = find_checkpoint(model), onnx.with_name(f"{onnx.name}.candidate")
    loaded = load_model(checkpoint)
    require_backbone(spec, loaded.settings["backbone"], checkpoint)
    export_onnx(
        loaded.network,
        candidate,
        contract=loaded.contract,
        settings=loaded.settings,
        opset=spec.export.opset,
        overwrite=True,
    )
    reference = OpenModel(checkpoint, loaded.embed, loaded.contract)
    figures, report = _compare(reference, candidate, manifest, Path(spec.store_dir))
    passed = figures.worst_cosine >= spec.export.min_cosine
    report |= {"opset": spec.export.opset, "min_cosine": spec.export.min_cosine, "passed": passed}
    with replacing(parity) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    run.log_artifact(parity)
    if not passed:
        below = int((figures.cosines < spec.export.min_cosine).sum())
        raise ArtifactError(_failure(report, candidate, below=below, comparisons=figures.images))
    candidate.replace(onnx)
    if spec.export.onnx_file:
        _copy(onnx, Path(spec.export.onnx_file), overwrite=spec.export.overwrite)
    logger.info("to build an engine by hand: %s", trtexec_line(onnx, loaded.contract))
    return _outcome(report, onnx)


def _copy(onnx: Path, target: Path, *, overwrite: bool) -> None:
    """Puts the ONNX where the spec wants it too; hours of training are not to fail for a file that is there."""
    if target.exists() and target.samefile(onnx):
        return
    if target.exists() and not overwrite:
        logger.warning(
            "export.onnx_file: %s is there already and stays (export.overwrite is false); the new one is %s",
            target,
            onnx,
        )
        return
    copy_file(onnx, target)
    logger.info("the ONNX is also in export.onnx_file: %s", target)


def _compare(reference: OpenModel, onnx: Path, manifest: Manifest, store: Path) -> tuple[Parity, dict[str, Any]]:
    """The gate's figures, of images in batches and images one by one, and the report, with FP16's figures besides."""
    contract = reference.contract
    size = {"height": contract.height, "width": contract.width, "channels": contract.channels}
    pixels = open_store(manifest.query, **size, folder=store, key=manifest.fingerprint)
    rows = _evenly(len(manifest.query), IMAGES)
    split = Split(manifest.query.root, tuple(manifest.query.images[row] for row in rows))
    pixels = pixels[rows]

    def vectors(network: Network, count: int, batch_size: int, what: str) -> Any:
        """(count, D), of evenly spaced images."""
        keep = np.isin(np.arange(len(split)), _evenly(len(split), count))
        return embed(split, pixels, network, contract=contract, batch_size=batch_size, what=what, keep=keep).vectors

    expected = vectors(reference.network, IMAGES, BATCH_SIZE, "torch, to compare with")
    exported, half = OnnxModel(onnx), OnnxModel(content=to_half(read_onnx(onnx)[0]).SerializeToString())
    single, in_half = _evenly(len(split), IMAGES_ONE_BY_ONE), _evenly(len(split), IMAGES_IN_FP16)
    compared = [*range(len(split)), *single]
    found = [
        vectors(exported, IMAGES, BATCH_SIZE, "ONNX Runtime"),
        vectors(exported, IMAGES_ONE_BY_ONE, 1, "ONNX Runtime, one by one"),
    ]
    figures = compare(expected[compared], np.concatenate(found))
    fp16 = compare(expected[in_half], vectors(half, IMAGES_IN_FP16, BATCH_SIZE, "ONNX Runtime, FP16"))
    files = [split.images[row].file for row in compared]
    return figures, {
        **_figures(figures),
        "images": len(split),
        "batch_sizes": [BATCH_SIZE, 1],
        "worst": [{"file": files[row], "cosine": float(figures.cosines[row])} for row in figures.worst],
        "fp16": {**_figures(fp16), "images": len(in_half)},
        "checkpoint": reference.file.name,
        "onnx_sha256": hashlib.sha256(onnx.read_bytes()).hexdigest(),
        "torch": version("torch"),
        "onnxruntime": version("onnxruntime"),
    }


def _evenly(total: int, count: int) -> list[int]:
    """At most `count` of the rows 0..total-1, ascending and evenly spaced: every camera and person has its chance."""
    taken = min(total, count)
    return [row * total // taken for row in range(taken)]


def _figures(parity: Parity) -> dict[str, float]:
    return {"worst_cosine": parity.worst_cosine, "mean_cosine": parity.mean_cosine, "max_abs": parity.max_abs}


def _failure(report: dict[str, Any], candidate: Path, *, below: int, comparisons: int) -> str:
    worst = ", ".join(f"{entry['file']} {entry['cosine']:.6f}" for entry in report["worst"])
    return (
        f"ONNX parity: the exported network does not give torch's embeddings: {below} of {comparisons} comparisons "
        f"below a cosine of {report['min_cosine']} (export.min_cosine)\n"
        f"  worst: {worst}\n"
        f"  the ONNX that failed: {candidate}"
    )


def _outcome(report: dict[str, Any], onnx: Path) -> Outcome:
    onnx_mib = onnx.stat().st_size / 2**20
    fp16 = report["fp16"]["worst_cosine"]
    return Outcome(
        metrics={
            "parity_worst_cosine": report["worst_cosine"],
            "parity_mean_cosine": report["mean_cosine"],
            "parity_max_abs": report["max_abs"],
            "parity_images": float(report["images"]),
            "parity_fp16_worst_cosine": fp16,
            "onnx_mib": onnx_mib,
            "opset": float(report["opset"]),
        },
        lines=[
            f"ONNX: {onnx_mib:.1f} MiB, opset {report['opset']}; cosine to torch at least "
            f"{report['worst_cosine']:.6f} on {report['images']} query images (in FP16 {fp16:.6f})"
        ],
    )
