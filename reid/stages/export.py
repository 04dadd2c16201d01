"""The export stage: the network as one ONNX file, and proof on real images that nothing was lost."""

import json
import logging
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from reid.files.hashes import file_sha256
from reid.files.secrets import KEY_ENVIRONMENT, encryption_key
from reid.files.writing import copy_file, replacing
from reid.reports.comparison import comparison_page
from reid.spec import Experiment
from reid.spec.deploy_sections import Export
from reid.stages.agreement import require_agreement
from reid.stages.export_inside import inside_line, inside_metrics, prepare_inside
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun

if TYPE_CHECKING:
    from reid.model.checkpoint import LoadedModel

logger = logging.getLogger(__name__)

WORST = "_worst.html"
"""The end of the name of a failed comparison's page; the parity file's name stands before it."""


def export(spec: Experiment, *, dataset: Path, model: Path, onnx: Path, parity: Path, run: StageRun) -> Outcome:
    """Writes `model` (a checkpoint or a model directory) as ONNX to `onnx`, and how close the two are to `parity`.

    A file at `onnx` is replaced only by one that passed. If the new file breaks a limit of spec.export, it stays beside
    `onnx` with ".candidate" added to its name, an HTML page beside `parity` shows the worst images, and ArtifactError
    is raised. If spec.export.onnx_file is another file, it gets a copy; an existing one is kept unless overwrite is
    set.
    """
    from reid.model.checkpoint import load_model

    section, key = spec.export, _key(spec.export)
    manifest, checkpoint = Manifest.load(dataset), find_checkpoint(model)
    loaded = load_model(checkpoint)
    require_agreement(spec, loaded.contract, loaded.settings, checkpoint)
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
    found, fp16 = _compare_with_checkpoint(loaded, candidate, sample, data_type=section.data_type)
    limits = Limits(section.min_cosine, section.max_mAP_drop, section.max_rank1_drop)
    objections = found.objections(limits, section="export")
    inside = None
    if section.preprocessing == "inside" and not objections:
        inside = prepare_inside(section, candidate, loaded, sample, key=key)
        objections = inside.comparison.objections(limits, section="export")
    report = {"passed": not objections, **asdict(limits), **_report(section, found, sample, candidate)}
    report |= {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": file_sha256(checkpoint),
        "encrypted": key is not None,
        **fp16,
        **({"inside": inside.report} if inside else {}),
    }
    with replacing(parity) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    run.log_artifact(parity)
    shown = inside.comparison if inside else found
    _refuse_failure(shown, objections, candidate=candidate, page=parity.with_name(parity.stem + WORST), run=run)
    candidate.replace(onnx)
    if section.onnx_file:
        _copy(onnx, Path(section.onnx_file), overwrite=section.overwrite)
    if key is None:
        pixels = inside.port if inside else None
        by_hand = trtexec_line(onnx, loaded.contract, data_type=section.data_type, pixels=pixels)
        logger.info("to build an engine by hand: %s", by_hand)
    else:
        logger.info("%s is encrypted: trtexec cannot read it, gen_trt_engine can", onnx)
    outcome = _outcome(report, onnx)
    if inside:
        outcome.metrics.update(inside_metrics(report["inside"]))
        outcome.lines.append(inside_line(report["inside"], loaded.contract.channels))
    return outcome


def _compare_with_checkpoint(
    loaded: "LoadedModel", onnx: Path, sample: Sample, *, data_type: str
) -> tuple[Comparison, dict[str, dict[str, Any]]]:
    """The ONNX compared with the checkpoint, and for an FP32 file the report's entry of what FP16 would give."""
    contract = loaded.contract
    reference = embed_sample(loaded.embed, sample, contract=contract, what="torch")
    found = compare(reference, OnnxModel(onnx), sample, contract=contract, what="ONNX Runtime")
    if data_type != "FP32":
        return found, {}
    half = OnnxModel(content=to_half(read_onnx(onnx)[0]).SerializeToString())
    fp16 = compare(reference, half, sample, contract=contract, what="ONNX Runtime, FP16")
    return found, {"fp16": {**_figures(fp16.parity), "onnx_retrieval": _ranked(fp16.candidate)}}


def _refuse_failure(found: Comparison, objections: list[str], *, candidate: Path, page: Path, run: StageRun) -> None:
    """Raises ArtifactError, with a page that shows the worst images, if there is an objection to the ONNX."""
    page.unlink(missing_ok=True)
    if not objections:
        return
    with replacing(page) as partial:
        partial.write_text(comparison_page(found, model=str(candidate), objections=objections), encoding="utf-8")
    run.log_artifact(page)
    raise ArtifactError(_failure(objections, found, candidate=candidate, page=page))


def _key(section: Export) -> str | None:
    """The key to encrypt the ONNX with, if the spec asks for that; raises SpecError if no key is given."""
    if not section.encrypted:
        return None
    key = encryption_key()
    if key is None:
        raise SpecError(
            f"export.encrypted: true, and no key is given\n  want: encryption_key, or {KEY_ENVIRONMENT} set"
        )
    return key


def _copy(onnx: Path, target: Path, *, overwrite: bool) -> None:
    """Copies the ONNX to export.onnx_file. A file that is there only costs a warning: hours of training lie behind."""
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
    """The figures of parity.json, without the verdict."""
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
        "onnx_sha256": file_sha256(onnx),
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
