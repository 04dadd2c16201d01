"""The export stage: the network as one ONNX file, and proof on real images that nothing was lost."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reid.contract import Contract
from reid.data.market1501 import Manifest
from reid.deploy.comparison import Comparison, compare, embed_sample
from reid.deploy.float_layers import Quantized
from reid.deploy.half import to_half
from reid.deploy.onnx import OnnxModel, read_onnx
from reid.deploy.onnx_export import onnx_bytes
from reid.deploy.opening import find_checkpoint
from reid.deploy.sample import Sample, open_sample
from reid.deploy.speed import Speed, measure_speed
from reid.deploy.tensorrt import trtexec_line
from reid.errors import ArtifactError, SpecError
from reid.files.hashes import file_sha256
from reid.files.secrets import KEY_ENVIRONMENT, encryption_key
from reid.files.writing import copy_file, replacing
from reid.reports.comparison import comparison_page
from reid.spec import Experiment
from reid.spec.deploy_sections import Export
from reid.stages.agreement import require_agreement
from reid.stages.export_inside import Inside, inside_line, inside_metrics, prepare_inside
from reid.stages.export_limits import limits_of, limits_section
from reid.stages.export_network import write_network
from reid.stages.export_report import (
    TIMED,
    Kind,
    failure,
    figures,
    kinds_table,
    outcome_of,
    quantization_entries,
    ranked,
    report_of,
)
from reid.stages.outcome import Outcome
from reid.thresholds import Thresholds
from reid.tracking.stage_run import StageRun

if TYPE_CHECKING:
    from reid.model.checkpoint import LoadedModel

logger = logging.getLogger(__name__)

WORST, PASSED = "_worst.html", "_data_types.html"
"""The ends of the names of the pages: of a failed comparison, and of an INT8 or FP8 file that passed. The parity file's
name stands before them."""
SECONDS = 1.0
"""How long each batch size is timed."""


def export(
    spec: Experiment, *, dataset: Path, model: Path, onnx: Path, parity: Path, run: StageRun, thresholds: str = ""
) -> Outcome:
    """Writes `model` (a checkpoint or a model directory) as ONNX to `onnx`, and how close the two are to `parity`.

    A file at `onnx` is replaced only by one that passed. If the new file breaks a limit of spec.export, it stays beside
    `onnx` with ".candidate" added to its name, an HTML page beside `parity` shows the worst images, and ArtifactError
    is raised. If spec.export.onnx_file is another file, it gets a copy; an existing one is kept unless overwrite is
    set. The ONNX holds the `thresholds` of the evaluation, one line of JSON (see reid.thresholds), or if that is empty
    those of the checkpoint.
    """
    from reid.model.checkpoint import load_model

    section, key = spec.export, _key(spec.export)
    evaluated = Thresholds.from_json(thresholds, where="thresholds of evaluate") if thresholds else None
    manifest, checkpoint = Manifest.load(dataset), find_checkpoint(model)
    loaded = load_model(checkpoint)
    require_agreement(spec, loaded.contract, loaded.settings, checkpoint)
    sample = open_sample(manifest, limit=section.parity_images, contract=loaded.contract, store=Path(spec.store_dir))
    candidate = onnx.with_name(f"{onnx.name}.candidate")
    known = evaluated or loaded.thresholds
    made = write_network(
        loaded,
        candidate,
        section,
        manifest=manifest,
        sample=sample,
        store=Path(spec.store_dir),
        key=key,
        thresholds=known,
    )
    found, beside = _compare_with_checkpoint(loaded, candidate, sample, opset=section.opset, made=made)
    limits, inside = limits_of(section), None
    objections = found.objections(limits, section=limits_section(section))
    if section.preprocessing == "inside" and not objections:
        inside = prepare_inside(section, candidate, loaded, sample, key=key)
        objections = inside.comparison.objections(limits, section=limits_section(section))
    report = {
        **{"passed": not objections, **asdict(limits), **report_of(section, found, sample, candidate)},
        **{"checkpoint": checkpoint.name, "checkpoint_sha256": file_sha256(checkpoint)},
        **{"onnx": onnx.name, "encrypted": key is not None},
        **beside,
        **({"inside": inside.report} if inside else {}),
    }
    with replacing(parity) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    run.log_artifact(parity)
    shown = inside.comparison if inside else found
    _write_pages(shown, objections, report, candidate=candidate, parity=parity, run=run)
    candidate.replace(onnx)
    if section.onnx_file:
        _copy(onnx, Path(section.onnx_file), overwrite=section.overwrite)
    _say_how_to_build(onnx, loaded.contract, section, inside, encrypted=key is not None)
    return _outcome(report, onnx, loaded.contract)


def _say_how_to_build(
    onnx: Path, contract: Contract, section: Export, inside: Inside | None, *, encrypted: bool
) -> None:
    """Logs the command that builds an engine by hand."""
    if encrypted:
        logger.info("%s is encrypted: trtexec cannot read it, gen_trt_engine can", onnx)
        return
    pixels = inside.port if inside else None
    logger.info(
        "to build an engine by hand: %s", trtexec_line(onnx, contract, data_type=section.data_type, pixels=pixels)
    )


def _outcome(report: dict[str, Any], onnx: Path, contract: Contract) -> Outcome:
    outcome = outcome_of(report, onnx)
    if "inside" in report:
        outcome.metrics.update(inside_metrics(report["inside"]))
        outcome.lines.append(inside_line(report["inside"], contract.channels))
    return outcome


def _compare_with_checkpoint(
    loaded: "LoadedModel", onnx: Path, sample: Sample, *, opset: int, made: Quantized | None
) -> tuple[Comparison, dict[str, Any]]:
    """The ONNX compared with the checkpoint, and the report's entries of other data types.

    Beside an FP32 file they say what FP16 would give; beside an INT8 or FP8 file, what FP32 and FP16 cost and lose.
    """
    contract = loaded.contract
    reference = embed_sample(loaded.embed, sample, contract=contract, what="torch")
    opened = OnnxModel(onnx)
    found = compare(reference, opened, sample, contract=contract, what="ONNX Runtime")
    if opened.data_type == "FP16":
        return found, {}
    if opened.data_type == "FP32":
        half = OnnxModel(content=to_half(read_onnx(onnx)[0]).SerializeToString())
        fp16 = compare(reference, half, sample, contract=contract, what="ONNX Runtime, FP16")
        return found, {"fp16": {**figures(fp16.parity), "onnx_retrieval": ranked(fp16.candidate)}}
    form: dict[str, Any] = {"contract": contract, "settings": loaded.settings, "opset": opset}
    kinds = []
    for data_type in ("FP32", "FP16"):
        content = onnx_bytes(loaded.network, where=onnx, **form, data_type=data_type)
        other = OnnxModel(content=content)
        what = f"ONNX Runtime, {data_type}"
        compared = compare(reference, other, sample, contract=contract, what=what)
        kinds.append(Kind(data_type, len(content), _speed(other), compared))
    kinds.append(Kind(opened.data_type, onnx.stat().st_size, _speed(opened), found))
    return found, quantization_entries(made, kinds)


def _speed(model: OnnxModel) -> list[Speed]:
    return measure_speed(model, TIMED, contract=model.contract, seconds=SECONDS)


def _write_pages(
    found: Comparison, objections: list[str], report: dict[str, Any], *, candidate: Path, parity: Path, run: StageRun
) -> None:
    """Writes the page of an INT8 or FP8 file, or of one that failed; raises ArtifactError if there is an objection."""
    worst, passed = (parity.with_name(parity.stem + end) for end in (WORST, PASSED))
    for page in (worst, passed):
        page.unlink(missing_ok=True)
    kinds = kinds_table(report)
    if not objections and kinds is None:
        return
    page = worst if objections else passed
    text = comparison_page(
        found, model=str(candidate if objections else report["data_type"]), objections=objections, kinds=kinds
    )
    with replacing(page) as partial:
        partial.write_text(text, encoding="utf-8")
    run.log_artifact(page)
    if objections:
        raise ArtifactError(failure(objections, found, candidate=candidate, page=page))


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
