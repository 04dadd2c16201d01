"""The figures of the export stage: its report, its page, its metrics and its closing lines."""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reid.deploy.comparison import BATCH_SIZE, Comparison, Retrieval
from reid.deploy.float_layers import Quantized
from reid.deploy.parity import Parity
from reid.deploy.sample import Sample
from reid.deploy.speed import Speed
from reid.files.hashes import file_sha256
from reid.reports.blocks import Table
from reid.spec.deploy_sections import Export
from reid.stages.outcome import Outcome

TIMED = (1, 16)
"""The batch sizes whose latency is measured for an INT8 or FP8 file, and for FP32 and FP16 beside it."""


@dataclass(frozen=True)
class Kind:
    """What a file of one data type costs and loses, as measured on this machine."""

    data_type: str
    onnx_bytes: int
    speed: list[Speed]
    """A row for each batch size in TIMED, by ONNX Runtime on this machine's CPU."""
    found: Comparison

    @property
    def entry(self) -> dict[str, Any]:
        """The kind's entry of parity.json."""
        parts = {f"latency_ms_{row.batch_size}": row.latency_ms for row in self.speed}
        return {
            "data_type": self.data_type,
            "onnx_mib": self.onnx_bytes / 2**20,
            **parts,
            **figures(self.found.parity),
            "onnx_retrieval": ranked(self.found.candidate),
        }


def quantization_entries(made: Quantized | None, kinds: list[Kind]) -> dict[str, Any]:
    """What parity.json says of an INT8 or FP8 file in addition; nothing for other files."""
    if made is None:
        return {}
    return {
        "quantization": {
            "images": made.images,
            "held_aside": made.held_aside,
            "worst_cosine_held_aside": made.worst_cosine,
            "layers": made.layers,
            "float_layers": [{"layer": name, "cost": made.cost.get(name)} for name in made.kept],
        },
        "data_types": [kind.entry for kind in kinds],
    }


def kinds_table(report: dict[str, Any]) -> Table | None:
    """The page's table of data types: size, latency and loss."""
    if "data_types" not in report:
        return None
    head = ["data type", "MiB", *(f"ms, batch of {size}" for size in TIMED), "smallest cosine", "mean cosine"]
    before = report["torch_retrieval"]
    rows = []
    for entry in report["data_types"]:
        row = [entry["data_type"], f"{entry['onnx_mib']:.1f}"]
        row += [f"{entry[f'latency_ms_{size}']:.1f}" for size in TIMED]
        row += [f"{entry['worst_cosine']:.6f}", f"{entry['mean_cosine']:.6f}"]
        if before:
            row += [f"{100 * (entry['onnx_retrieval'][name] - before[name]):+.2f}" for name in ("mAP", "rank1")]
        rows.append(row)
    return Table([*head, *(["mAP, points", "rank-1, points"] if before else [])], rows, main=len(rows) - 1)


def report_of(section: Export, found: Comparison, sample: Sample, onnx: Path) -> dict[str, Any]:
    """The figures of parity.json, without the verdict."""
    return {
        **figures(found.parity),
        "images": len(sample),
        "queries": len(sample.query),
        "gallery": len(sample.gallery),
        "batch_sizes": [BATCH_SIZE, 1],
        "torch_retrieval": ranked(found.reference),
        "onnx_retrieval": ranked(found.candidate),
        "worst": [{"file": path, "cosine": cosine} for path, cosine in found.worst()],
        "data_type": section.data_type,
        "opset": section.opset,
        "onnx_sha256": file_sha256(onnx),
        "torch": version("torch"),
        "onnxruntime": version("onnxruntime"),
    }


def figures(parity: Parity) -> dict[str, float]:
    """The figures of a comparison of vectors, by their names in parity.json."""
    return {"worst_cosine": parity.worst_cosine, "mean_cosine": parity.mean_cosine, "max_abs": parity.max_abs}


def ranked(retrieval: Retrieval | None) -> dict[str, float] | None:
    """The figures of a ranking, by their names in parity.json."""
    return asdict(retrieval) if retrieval else None


def failure(objections: list[str], found: Comparison, *, candidate: Path, page: Path) -> str:
    """The message about an ONNX that broke a limit."""
    worst = ", ".join(f"{Path(path).name} {cosine:.6f}" for path, cosine in found.worst())
    return (
        f"ONNX parity: the exported network does not give torch's embeddings: {'; '.join(objections)}\n"
        f"  worst: {worst}\n"
        f"  shown: {page}\n"
        f"  the ONNX that failed: {candidate}"
    )


def outcome_of(report: dict[str, Any], onnx: Path) -> Outcome:
    """The stage's metrics and closing lines."""
    onnx_mib = onnx.stat().st_size / 2**20
    metrics = {
        "parity_worst_cosine": report["worst_cosine"],
        "parity_mean_cosine": report["mean_cosine"],
        "parity_max_abs": report["max_abs"],
        "parity_images": float(report["images"]),
        "onnx_mib": onnx_mib,
        "opset": float(report["opset"]),
    }
    metrics |= _kind_metrics(report)
    in_half, ranking = "", "; mAP not compared: no query of them has a match"
    before, after, fp16 = report["torch_retrieval"], report["onnx_retrieval"], report.get("fp16")
    if fp16:
        metrics["parity_fp16_worst_cosine"] = fp16["worst_cosine"]
        in_half = f" (in FP16 {fp16['worst_cosine']:.6f})"
    if before:
        metrics |= _drops(before, after, "parity_")
        ranking = f"; mAP {100 * after['mAP']:.2f} for torch's {100 * before['mAP']:.2f}"
    if before and fp16:
        metrics |= _drops(before, fp16["onnx_retrieval"], "parity_fp16_")
        ranking += f" (in FP16 {100 * fp16['onnx_retrieval']['mAP']:.2f})"
    kind = report["data_type"] + (", encrypted" if report["encrypted"] else "")
    return Outcome(
        metrics=metrics,
        lines=[
            f"ONNX: {onnx_mib:.1f} MiB, {kind}, opset {report['opset']}; cosine to torch at least "
            f"{report['worst_cosine']:.6f} on {report['queries']} query and {report['gallery']} gallery images"
            f"{in_half}{ranking}",
            *(_line(entry) for entry in report.get("data_types", [])),
            *_float_layers(report),
        ],
    )


def _kind_metrics(report: dict[str, Any]) -> dict[str, float]:
    """The metrics of each data type beside an INT8 or FP8 file, under names that begin with it."""
    return {
        f"{entry['data_type'].lower()}_{name}": entry[name]
        for entry in report.get("data_types", [])
        for name in ("onnx_mib", "worst_cosine", *(f"latency_ms_{size}" for size in TIMED))
    }


def _line(entry: dict[str, Any]) -> str:
    times = ", ".join(f"{entry[f'latency_ms_{size}']:.1f} ms for {size}" for size in TIMED)
    ranking = entry["onnx_retrieval"]
    loss = f"; mAP {100 * ranking['mAP']:.2f}, rank-1 {100 * ranking['rank1']:.2f}" if ranking else ""
    return (
        f"{entry['data_type']}: {entry['onnx_mib']:.1f} MiB, {times} on this CPU; cosine at least "
        f"{entry['worst_cosine']:.6f}, mean {entry['mean_cosine']:.6f}{loss}"
    )


def _float_layers(report: dict[str, Any]) -> list[str]:
    """The line on the layers of a quantised network that stay in float32."""
    if "quantization" not in report:
        return []
    made = report["quantization"]
    kept = [
        row["layer"] if row["cost"] is None else f"{row['layer']} (alone it costs {row['cost']:.6f} of the cosine)"
        for row in made["float_layers"]
    ]
    return [f"in FP32: {len(kept)} of {made['layers']} layers" + (f": {', '.join(kept)}" if kept else "")]


def _drops(before: dict[str, float], after: dict[str, float], prefix: str) -> dict[str, float]:
    return {f"{prefix}{name}_drop": before[name] - after[name] for name in ("mAP", "rank1")}
