"""The register stage: the exported model becomes a version in the MLflow model registry."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reid.contract import Contract
from reid.errors import ArtifactError
from reid.spec import Experiment
from reid.stages.outcome import Outcome
from reid.tracking import StageRun


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
    """Registers the ONNX with its figures and lineage; writes what was done to `registration` as JSON.

    Without an MLflow server nothing is registered, and the file says so.
    """
    registration.parent.mkdir(parents=True, exist_ok=True)
    figures, parity_figures, build = _read(results / "metrics.json"), _read(parity), _read(engine / "build.json")
    if not run.active:
        record: dict[str, Any] = {"registered": False, "reason": "no MLflow server is named (MLFLOW_TRACKING_URI)"}
        registration.write_text(json.dumps(record, indent=2) + "\n")
        return Outcome({"registered": 0.0}, lines=[f"not registered: {record['reason']}"])

    from reid.deploy.onnx import read_onnx
    from reid.registry import register_model

    exported, contract = read_onnx(onnx)
    mAP = float(figures["reranked_mAP" if figures["headline"] == "reranked" else "mAP"])
    built = f"{build['package']} {build['version']}" if build["built"] else f"not built: {build['reason']}"
    done = register_model(
        run,
        name=spec.mlflow.registered_model,
        model=exported,
        contract=contract,
        mAP=mAP,
        tags={
            "fingerprint": fingerprint,
            "headline": str(figures["headline"]),
            "engine": built,
            "checkpoint": str(model),
        },
        card=_card(figures, parity_figures, contract, built, fingerprint),
    )
    registration.write_text(json.dumps({"registered": True, **asdict(done)}, indent=2) + "\n")
    return Outcome(
        {"registered": 1.0, "model_version": float(done.version)},
        lines=[f"{done.name} version {done.version} is {done.alias}: {done.reason}"],
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: {error}; want the JSON that an earlier stage writes") from None
    if not isinstance(found, dict):
        raise ArtifactError(
            f"{path}: found a {type(found).__name__}; want the JSON object that an earlier stage writes"
        )
    return found


def _card(figures: dict[str, Any], parity: dict[str, Any], contract: Contract, engine: str, fingerprint: str) -> str:
    """The model card, Markdown."""
    rows = [
        ("mAP", "mAP"),
        ("rank-1", "rank1"),
        ("mAP, re-ranked", "reranked_mAP"),
        ("rank-1, re-ranked", "reranked_rank1"),
    ]
    table = "\n".join(f"| {label} | {100 * float(figures[name]):.2f} |" for label, name in rows)
    return (
        "Person re-identification: an image of a person -> an embedding; near embeddings, same person.\n\n"
        f"| figure | % |\n|---|---|\n{table}\n\n"
        f"- Input `input` (batch, {contract.channels}, {contract.height}, {contract.width}), {contract.channel_order}, "
        f"{contract.resize} resize, scaled to 0..1, mean {list(contract.mean)}, std {list(contract.std)}.\n"
        f"- Output `fc_pred` (batch, {contract.embedding}).\n"
        f"- Worst cosine between the ONNX and torch: {float(parity['worst_cosine']):.6f} "
        f"over {parity['images']} query images.\n"
        f"- TensorRT engine: {engine}.\n"
        f"- Data fingerprint: {fingerprint}.\n"
    )
