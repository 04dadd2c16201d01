"""The export stage: the network as one ONNX file, and proof on real images that nothing was lost."""

import hashlib
import json
import logging
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reid.data.market1501 import Manifest
from reid.deploy.comparison import BATCH_SIZE, Comparison, Limits, Retrieval, compare, embed_sample
from reid.deploy.half import to_half
from reid.deploy.onnx import OnnxModel, read_onnx
from reid.deploy.onnx_export import export_onnx
from reid.deploy.opening import find_checkpoint
from reid.deploy.parity import Parity
from reid.deploy.sample import Sample, open_sample
from reid.deploy.tensorrt import trtexec_line
from reid.errors import ArtifactError, SpecError
from reid.files.secrets import KEY_ENVIRONMENT, encryption_key
from reid.files.writing import copy_file, replacing
from reid.reports.comparison import comparison_page
from reid.spec import Experiment
from reid.spec.task_sections import Export
from reid.stages.agreement import require_agreement
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)

WORST = "_worst.html"
"""What the page of a failed comparison is called, after the parity file."""


def export(spec: Experiment, *, dataset: Path, model: Path, onnx: Path, parity: Path, run: StageRun) -> Outcome:
    """Writes `model` (a checkpoint or a model directory) as ONNX to `onnx`, and how close the two are to `parity`.

    A file at `onnx` is replaced, and only by one that passed: where it breaks a limit of spec.export the new file stays
    beside it, with ".candidate" to its name, ArtifactError names the worst images and a page beside `parity` shows
    them. spec.export.onnx_file, where it is another file, gets a copy; one that is there stays unless overwrite is set.
    """
    from reid.model.checkpoint import load_model

    section, key = spec.export, _key(spec.export)
    manifest, checkpoint = Manifest.load(dataset), find_checkpoint(model)
    loaded = load_model(checkpoint)
    require_agreement(spec, loaded.contract, loaded.settings["backbone"], checkpoint)
    sample = open_sample(manifest, limit=section.parity_images, contract=loaded.contract, store=Path(spec.store_dir))
    candidate = onnx.with_name(f"{onnx.name}.candidate")
    export_onnx(
        loaded.network,
        candidate,
        contract=loaded.contract,
        settings=loaded.settings,
        opset=section.opset,
        overwrite=True,
        data_type=section.data_type,
        key=key,
    )
    reference = embed_sample(loaded.embed, sample, contract=loaded.contract, what="torch")
    found = compare(reference, OnnxModel(candidate), sample, contract=loaded.contract, what="ONNX Runtime")
    limits = Limits(section.min_cosine, section.max_mAP_drop, section.max_rank1_drop)
    objections = found.objections(limits, section="export")
    report = {"passed": not objections, **asdict(limits), **_report(section, found, sample, candidate)}
    report |= {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "encrypted": key is not None,
    }
    if section.data_type == "FP32":  # what an FP16 engine of this file may be expected to give
        half = OnnxModel(content=to_half(read_onnx(candidate)[0]).SerializeToString())
        fp16 = compare(reference, half, sample, contract=loaded.contract, what="ONNX Runtime, FP16")
        report["fp16"] = {**_figures(fp16.parity), "onnx_retrieval": _ranked(fp16.candidate)}
    with replacing(parity) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    run.log_artifact(parity)
    page = parity.with_name(parity.stem + WORST)
    page.unlink(missing_ok=True)
    if objections:
        with replacing(page) as partial:
            partial.write_text(comparison_page(found, model=str(candidate), objections=objections), encoding="utf-8")
        run.log_artifact(page)
        raise ArtifactError(_failure(objections, found, candidate=candidate, page=page))
    candidate.replace(onnx)
    if section.onnx_file:
        _copy(onnx, Path(section.onnx_file), overwrite=section.overwrite)
    by_hand = trtexec_line(onnx, loaded.contract, data_type=section.data_type)
    if key is None:
        logger.info("to build an engine by hand: %s", by_hand)
    else:
        logger.info("%s is encrypted: trtexec cannot read it, gen_trt_engine can", onnx)
    return _outcome(report, onnx)


def _key(section: Export) -> str | None:
    """The key to encrypt the ONNX with, where the spec asks for that; SpecError where there is none."""
    if not section.encrypted:
        return None
    key = encryption_key()
    if key is None:
        raise SpecError(
            f"export.encrypted: true, and no key is given\n  want: encryption_key, or {KEY_ENVIRONMENT} set"
        )
    return key


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


def _report(section: Export, found: Comparison, sample: Sample, onnx: Path) -> dict[str, Any]:
    """parity.json, less the verdict."""
    return {
        **_figures(found.parity),
        "images": len(sample),
        "queries": len(sample.query),
        "gallery": len(sample.gallery),
        "batch_sizes": [BATCH_SIZE, 1],
        "torch_retrieval": _ranked(found.reference),
        "onnx_retrieval": _ranked(found.candidate),
        "worst": [{"file": path, "cosine": cosine} for path, cosine in found.worst()],
        "data_type": section.data_type,
        "opset": section.opset,
        "onnx_sha256": hashlib.sha256(onnx.read_bytes()).hexdigest(),
        "torch": version("torch"),
        "onnxruntime": version("onnxruntime"),
    }


def _figures(parity: Parity) -> dict[str, float]:
    return {"worst_cosine": parity.worst_cosine, "mean_cosine": parity.mean_cosine, "max_abs": parity.max_abs}


def _ranked(retrieval: Retrieval | None) -> dict[str, float] | None:
    return asdict(retrieval) if retrieval else None


def _failure(objections: list[str], found: Comparison, *, candidate: Path, page: Path) -> str:
    worst = ", ".join(f"{Path(path).name} {cosine:.6f}" for path, cosine in found.worst())
    return (
        f"ONNX parity: the exported network does not give torch's embeddings: {'; '.join(objections)}\n"
        f"  worst: {worst}\n"
        f"  shown: {page}\n"
        f"  the ONNX that failed: {candidate}"
    )


def _outcome(report: dict[str, Any], onnx: Path) -> Outcome:
    onnx_mib = onnx.stat().st_size / 2**20
    metrics = {
        "parity_worst_cosine": report["worst_cosine"],
        "parity_mean_cosine": report["mean_cosine"],
        "parity_max_abs": report["max_abs"],
        "parity_images": float(report["images"]),
        "onnx_mib": onnx_mib,
        "opset": float(report["opset"]),
    }
    in_half, ranked = "", "; mAP not compared: no query of them has a match"
    before, after, fp16 = report["torch_retrieval"], report["onnx_retrieval"], report.get("fp16")
    if fp16:
        metrics["parity_fp16_worst_cosine"] = fp16["worst_cosine"]
        in_half = f" (in FP16 {fp16['worst_cosine']:.6f})"
    if before:
        metrics |= _drops(before, after, "parity_")
        ranked = f"; mAP {100 * after['mAP']:.2f} for torch's {100 * before['mAP']:.2f}"
    if before and fp16:
        metrics |= _drops(before, fp16["onnx_retrieval"], "parity_fp16_")
        ranked += f" (in FP16 {100 * fp16['onnx_retrieval']['mAP']:.2f})"
    kind = report["data_type"] + (", encrypted" if report["encrypted"] else "")
    return Outcome(
        metrics=metrics,
        lines=[
            f"ONNX: {onnx_mib:.1f} MiB, {kind}, opset {report['opset']}; cosine to torch at least "
            f"{report['worst_cosine']:.6f} on {report['queries']} query and {report['gallery']} gallery images"
            f"{in_half}{ranked}"
        ],
    )


def _drops(before: dict[str, float], after: dict[str, float], prefix: str) -> dict[str, float]:
    return {f"{prefix}{name}_drop": before[name] - after[name] for name in ("mAP", "rank1")}
