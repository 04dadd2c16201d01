"""The register stage: the exported model becomes a version in the MLflow model registry."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reid.console.plain import code_text, markdown_text
from reid.contract import Contract
from reid.files.hashes import file_sha256
from reid.files.lineage import code_sha256
from reid.scoring.per_query import PER_QUERY
from reid.spec import Experiment
from reid.spec.deploy_sections import Export
from reid.spec.slices import stage_slice
from reid.stages.earlier_results import Build, Figures, Parity, read_earlier
from reid.stages.export_limits import limits_of, limits_section
from reid.stages.outcome import Outcome
from reid.thresholds import KEY, Thresholds
from reid.tracking.stage_run import StageRun, described_dataset

if TYPE_CHECKING:
    from reid.deploy.pixel_port import PixelPort
    from reid.tracking.registry import Candidate

NO_SERVER = "no MLflow server is named (MLFLOW_TRACKING_URI)"


def register(
    spec: Experiment,
    *,
    fingerprint: str,
    model: Path,
    results: Path,
    onnx: Path,
    parity: Path,
    engine: Path,
    registration: Path,
    run: StageRun,
) -> Outcome:
    """Registers the ONNX with its figures and lineage, and writes what was done to `registration` as JSON.

    If no MLflow server is named, nothing is registered, and the file says so.
    """
    registration.parent.mkdir(parents=True, exist_ok=True)
    figures, parity_figures = read_earlier(results / "metrics.json", Figures), read_earlier(parity, Parity)
    build = read_earlier(engine / "build.json", Build)
    records = {"metrics.json": figures, "parity.json": parity_figures, "build.json": build}
    if not run.active:
        _write(registration, {"registered": False, "reason": NO_SERVER})
        return Outcome({"registered": 0.0}, lines=[f"not registered: {NO_SERVER}"])

    if parity_figures.get("encrypted"):
        from reid.files.encryption import require_encrypted

        require_encrypted(onnx)
    from reid.tracking.registry import register_model

    candidate = _candidate(
        onnx,
        results / PER_QUERY,
        fingerprint=fingerprint,
        figures=figures,
        objection=_objection(parity_figures, build, file_sha256(onnx), spec.export),
    )
    thresholds = {KEY: candidate.thresholds.to_json()} if candidate.thresholds else {}
    spec_text = stage_slice(spec, "register")
    lineage = _lineage(spec_text, model=model, parity=parity_figures, onnx=onnx)
    done = register_model(
        run,
        name=spec.mlflow.registered_model,
        candidate=candidate,
        by_evidence=spec.mlflow.promotion == "evidence",
        tags={
            "headline": str(figures["headline"]),
            "data_type": parity_figures.get("data_type", "FP32"),
            "engine": _engine_tag(build),
            **thresholds,
            **_choice(figures),
            **lineage,
        },
        card=_card(
            figures,
            parity_figures,
            candidate.contract,
            build,
            {"data fingerprint": fingerprint, **lineage},
            thresholds=candidate.thresholds,
        ),
        files={"spec.yaml": spec_text, **{name: json.dumps(record, indent=2) for name, record in records.items()}},
        metrics={name: float(value) for name, value in figures.items() if isinstance(value, int | float)},
        datasets=_datasets(figures, fingerprint),
    )
    if thresholds:
        run.log_params(thresholds)
    _write(registration, {"registered": True, **asdict(done)})
    return Outcome(
        {"registered": 1.0, "model_version": float(done.version)},
        lines=[f"{done.name} version {done.version} is {done.alias}: {done.reason}"],
    )


def _datasets(figures: dict[str, Any], fingerprint: str) -> list[dict[str, str]]:
    """The data sets of the figures, as MLflow describes them; older evaluations do not name them."""
    sets = figures.get("data_sets") or [("dataset", fingerprint)]
    return [described_dataset(name, fingerprint=digest, source=name) for name, digest in sets]


def _candidate(
    onnx: Path, per_query: Path, *, fingerprint: str, figures: dict[str, Any], objection: str | None
) -> "Candidate":
    """The ONNX and its figures as the registry takes them."""
    from reid.deploy.onnx import pixels_of_model, read_onnx, thresholds_in
    from reid.files.encryption import is_encrypted
    from reid.tracking.registry import Candidate

    exported, contract = read_onnx(onnx)
    pixels = pixels_of_model(exported)
    shape = pixels.shape(contract.channels) if pixels else ["batch", contract.channels, contract.height, contract.width]
    example = grey_images(contract, pixels)
    return Candidate(
        onnx=onnx,
        model=exported,
        encrypted=is_encrypted(onnx),
        contract=contract,
        thresholds=thresholds_in(exported, onnx),
        fingerprint=fingerprint,
        evaluated_images=figures.get("evaluated_images", ""),
        per_query=per_query,
        figure="reranked_mAP" if figures["headline"] == "reranked" else "mAP",
        figures={name: float(figures[name]) for name in ("mAP", "reranked_mAP")},
        objection=objection,
        example=example,
        image_shape=tuple(axis if isinstance(axis, int) else -1 for axis in shape),
    )


def grey_images(contract: Contract, pixels: "PixelPort | None") -> NDArray[Any]:
    """A batch of a grey image as the model takes it: of one image, unless its batch is fixed."""
    height, width = (pixels.height, pixels.width) if pixels else (None, None)
    size = height or contract.height, width or contract.width, contract.channels
    grey = np.full((pixels.batch or 1 if pixels else 1, *size), 128, np.uint8)
    return pixels.from_decoded(grey) if pixels else contract.preprocess(grey)


def _lineage(spec_text: str, *, model: Path, parity: dict[str, Any], onnx: Path) -> dict[str, str]:
    """The code, the spec, the checkpoint and the ONNX that the model comes from, as hashes."""
    return {
        "code_sha256": code_sha256(),
        "spec_sha256": hashlib.sha256(spec_text.encode()).hexdigest(),
        "onnx_sha256": file_sha256(onnx),
        "checkpoint": f"{model}/{parity['checkpoint']}",
        "checkpoint_sha256": parity["checkpoint_sha256"],
    }


def _write(registration: Path, record: dict[str, Any]) -> None:
    registration.write_text(json.dumps(record, indent=2) + "\n")


def _objection(parity: dict[str, Any], build: dict[str, Any], onnx_sha256: str, section: Export) -> str | None:
    """Why the ONNX, or the engine built from it, is not proved to be the trained network; None if it is."""
    if parity["onnx_sha256"] != onnx_sha256:
        return "it was measured on another ONNX"
    if not parity["passed"]:
        return "the ONNX broke a limit of the export"
    min_cosine, where = limits_of(section).min_cosine, limits_section(section)
    if parity["worst_cosine"] < min_cosine:
        return f"least cosine {parity['worst_cosine']:.6f}, below {min_cosine} ({where}.min_cosine)"
    if build["built"] and build["onnx_sha256"] != onnx_sha256:
        return "the engine was built from another ONNX"
    if build.get("parity") and not build["parity"]["passed"]:
        return "the engine does not give the ONNX's embeddings"
    return None


def _card(
    figures: dict[str, Any],
    parity: dict[str, Any],
    contract: Contract,
    build: dict[str, Any],
    lineage: dict[str, str],
    *,
    thresholds: Thresholds | None = None,
) -> str:
    """The model card in Markdown."""
    rows = [
        ("mAP", "mAP"),
        ("rank-1", "rank1"),
        ("mAP, re-ranked", "reranked_mAP"),
        ("rank-1, re-ranked", "reranked_rank1"),
    ]
    table = "\n".join(
        f"| {label} | {100 * float(figures[name]):.2f} | {_range(figures, name)} |" for label, name in rows
    )
    mirror = "; the mirrored image is in it" if contract.flip else ""
    unit = "of length 1" if contract.normalized else "of any length: normalise before comparing"
    origin = "\n".join(f"- {name.replace('_', ' ')}: {code_text(value)}" for name, value in lineage.items())
    choice = "".join(f"- {markdown_text(text)}\n" for text in _choice_in_words(figures))
    return (
        "Person re-identification: an image of a person -> an embedding; near embeddings, same person.\n\n"
        f"| figure | % | 95 % interval |\n|---|---|---|\n{table}\n\n{choice}"
        f"- Input `input` {_input(parity, contract)}.\n"
        f"- Output `fc_pred` (batch, {contract.embedding}), {unit}{mirror}.\n"
        f"- Worst cosine between the ONNX ({parity.get('data_type', 'FP32')}) and torch: "
        f"{float(parity['worst_cosine']):.6f} over {parity['images']} images.\n"
        f"- TensorRT engine: {markdown_text(_engine(build))}.\n"
        f"{_same_person(thresholds)}\n"
        f"The model comes from these; the spec is a file beside it:\n\n{origin}\n"
    )


def _same_person(thresholds: Thresholds | None) -> str:
    """The line of the card that says when two images count as one person; "" if that is not known."""
    if not thresholds or not thresholds.rates:
        return ""
    row = thresholds.at_false_match_rate(thresholds.rates[-1])
    return (
        f"- Same person: cosine of {row.cosine:.4f} or more, which {100 * row.true_match_rate:.1f} % of the pairs of "
        f"one person reach and at most {100 * thresholds.rates[-1]:g} % of the others; measured on "
        f"{markdown_text(thresholds.measured_on)}.\n"
    )


def _input(parity: dict[str, Any], contract: Contract) -> str:
    """What the model takes, in the words of the card."""
    if "inside" in parity:
        from reid.deploy.pixel_port import PixelPort

        pixels = PixelPort.from_json(json.dumps(parity["inside"]["pixels"]))
        return f"{pixels.in_words(contract.channels)}; it prepares images itself"
    return (
        f"(batch, {contract.channels}, {contract.height}, {contract.width}), {contract.channel_order}, "
        f"{contract.resize} resize, scaled to 0..1, mean {list(contract.mean)}, std {list(contract.std)}"
    )


def _range(figures: dict[str, Any], name: str) -> str:
    """The ends of a figure's interval in percent; "" if they are not known.

    Without a dash: a server whose database is not in UTF-8 takes a card only if its letters are ASCII.
    """
    ends = [end for side in ("low", "high") if isinstance(end := figures.get(f"{name}_{side}"), int | float)]
    return " to ".join(f"{100 * end:.2f}" for end in ends) if len(ends) == 2 else ""


def _choice(figures: dict[str, Any]) -> dict[str, str]:
    """The tags that say what the best checkpoint was chosen on; empty if the evaluation did not say it."""
    return {name: str(figures[name]) for name in ("chosen_on", "chosen_on_test") if name in figures}


def _choice_in_words(figures: dict[str, Any]) -> list[str]:
    """What the card says of it, with a word if the figures are too good."""
    if "chosen_on" not in figures:
        return []
    said = f"The best checkpoint of the training was chosen on {figures['chosen_on']}."
    if figures.get("chosen_on_test") == "yes":
        said = "The best checkpoint was chosen on the images that it was tested on, so the figures are too good."
    return [said]


def _engine_tag(build: dict[str, Any]) -> str:
    return f"{build['package']} {build['version']}" if build["built"] else f"not built: {build['reason']}"


def _engine(build: dict[str, Any]) -> str:
    """The engine in the words of the card."""
    if not build["built"]:
        return _engine_tag(build)
    targets = ", ".join(build.get("targets", []))
    engine = f"{build['package']} {build['version']}, {build.get('data_type', 'FP32')}, for {targets}"
    if not build.get("speed"):
        return f"{engine}; {build.get('measured', 'not run')}"
    last = build["speed"][-1]
    return (
        f"{engine}; {build['measured']}: {last['images_per_second']:,.0f} images/s in batches of {last['batch_size']}"
    )
