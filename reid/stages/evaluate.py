"""The evaluate stage: mAP, CMC and mINP of the trained and the untrained network, plain and re-ranked, and their plots.

Shapes: Q queries, G gallery images without junk.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reid.data.findings import counted
from reid.data.market1501 import Manifest
from reid.deploy.embedding import embed_on_devices
from reid.deploy.opening import OpenModel, find_checkpoint
from reid.distributed.devices import choose_devices
from reid.embeddings import UNTRAINED_EMBEDDINGS, Embeddings
from reid.errors import ArtifactError, DatasetError
from reid.files.writing import replacing, require_writable
from reid.reports import plots
from reid.reports.evaluation import Evaluation, evaluation_page
from reid.reports.matches import BEST, HARDEST, RANDOM, choose_queries, hardest_queries, match_rows
from reid.reports.sheet import matches_sheet
from reid.retrieval.on_device import require_device
from reid.retrieval.threshold import PairCounter
from reid.scoring import (
    KINDS,
    Curve,
    Scored,
    advice_without_match,
    has_match,
    pair_counter,
    pair_histogram,
    per_query_csv,
    roc_rows,
    score,
    threshold_rows,
)
from reid.spec import Experiment
from reid.stages.agreement import require_agreement
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)

ROC_POINTS = 100
"""Of the verification curve in Kubeflow's user interface, which draws them all."""
HARDEST_SHOWN, HARDEST_RANKS = 8, 8
"""Rows and columns of the report's second grid."""


def evaluate(spec: Experiment, *, dataset: Path, model: Path, results: Path, report: Path, run: StageRun) -> Outcome:
    """Scores the model on the manifest's query and gallery from one embedding pass.

    Writes the HTML `report`, and into `results` metrics.json, per_query.csv, thresholds.json, embeddings.npz,
    cmc_curve.png and .svg, sampled_matches.png. DatasetError where no query can have a match.
    """
    manifest = Manifest.load(dataset)
    _require_matches(manifest)
    for plot in (spec.evaluate.output_cmc_curve_plot, spec.evaluate.output_sampled_matches_plot):
        require_writable(plot)
    section, ranking = spec.evaluate, spec.re_ranking
    devices = choose_devices(
        "evaluate", num_gpus=section.num_gpus, gpu_ids=section.gpu_ids, cpu_processes=section.cpu_processes
    )
    require_device(ranking.device)
    opened, parts, images_per_second = embed_on_devices(
        find_checkpoint(model),
        devices,
        dataset=dataset,
        batch_size=spec.dataset.val_batch_size,
        store=Path(spec.store_dir),
        with_junk=False,
        check=lambda opened: require_agreement(spec, opened.contract, opened.settings.get("backbone"), opened.file),
    )
    Embeddings.joined(*parts.values()).save_npz(results / "embeddings.npz")
    score_pair = partial(
        score,
        k1=ranking.k1,
        k2=ranking.k2,
        lambda_value=ranking.lambda_value,
        max_rank=ranking.max_rank,
        device=ranking.device,
        evaluate_device=devices[0],
    )
    untrained_metrics, untrained_curves = _untrained(model, manifest, score_pair, max_rank=ranking.max_rank)
    pairs = pair_counter(parts["query"], parts["gallery"])
    scored = score_pair(parts["query"], parts["gallery"], pairs=pairs)

    headline = "reranked" if ranking.re_ranking else "plain"
    metrics = _metrics(scored) | untrained_metrics | {"images_per_second": images_per_second}
    curves = [*_curves(scored, ranking.max_rank), *untrained_curves]
    page = _page(
        spec, manifest, opened, scored, pairs, headline=headline, curves=curves, images_per_second=images_per_second
    )
    _write(results / "metrics.json", json.dumps({"headline": headline, **metrics}, indent=2) + "\n")
    _write(results / "per_query.csv", per_query_csv(scored))
    _write(results / "thresholds.json", _threshold_record(page))
    _write(report, evaluation_page(page))
    _draw(spec, page, results)
    _log(run, scored, results, report)
    lines = _lines(metrics, headline)
    return Outcome(metrics, {"mAP": getattr(scored, headline).scores.mAP}, lines, {"verification": _roc(page)})


def _roc(page: Evaluation) -> dict[str, Any]:
    """The verification curve as Kubeflow's user interface draws it."""
    rows = [
        {"confidenceThreshold": row.cosine, "recall": row.true_match_rate, "falsePositiveRate": row.false_match_rate}
        for row in page.roc
    ]
    return {"confidenceMetrics": rows}


def _require_matches(manifest: Manifest) -> None:
    query, gallery = manifest.query, manifest.gallery.without_junk()
    if not has_match(query, gallery).any():
        first = f"\n  first: {query.images[0].file}" if len(query) else ""
        raise DatasetError(
            f"{query.root}: none of {len(query)} queries has an image of its person in another camera in the gallery\n"
            f"  gallery: {gallery.root}, {len(gallery)} images without junk{first}\n"
            "  want:  at least one; without it neither mAP nor CMC is defined"
            f"{advice_without_match(query, gallery)}"
        )


def _untrained(
    model: Path, manifest: Manifest, score_pair: Callable[[Embeddings, Embeddings], Scored], *, max_rank: int
) -> tuple[dict[str, float], list[Curve]]:
    """Figures of the network before training, if the train stage left its embeddings of the same images."""
    file = (model if model.is_dir() else model.parent) / UNTRAINED_EMBEDDINGS
    if not file.is_file():
        return {}, []
    embeddings = Embeddings.load_npz(file)
    try:
        query, gallery = embeddings.of(manifest.query), embeddings.of(manifest.gallery.without_junk())
    except ArtifactError as error:
        logger.warning("%s is of other images; the untrained network is not scored (%s)", file, error)
        return {}, []
    scored = score_pair(query, gallery)
    metrics = scored.plain.metrics("untrained_") | scored.reranked.metrics("untrained_reranked_")
    return metrics, _curves(scored, max_rank, prefix="untrained")


def _metrics(scored: Scored) -> dict[str, float]:
    return {
        **scored.plain.metrics(),
        **scored.reranked.metrics("reranked_"),
        "valid_queries": float(scored.plain.scores.valid_queries),
        "queries": float(len(scored.query)),
        "gallery": float(len(scored.gallery)),
        "rerank_seconds": scored.rerank_seconds,
    }


def _curves(scored: Scored, max_rank: int, prefix: str = "") -> list[Curve]:
    kinds = (prefix, f"{prefix}_reranked") if prefix else ("plain", "reranked")
    return [scored.plain.curve(kinds[0], max_rank), scored.reranked.curve(kinds[1], max_rank)]


def _page(
    spec: Experiment,
    manifest: Manifest,
    opened: OpenModel,
    scored: Scored,
    pairs: PairCounter | None,
    *,
    headline: str,
    curves: list[Curve],
    images_per_second: float,
) -> Evaluation:
    """Everything the report shows, matches chosen by the spec's seed."""
    ranking = scored.ranking(headline)
    nearest, scores = ranking.nearest, ranking.scores
    precision = scores.average_precision
    chosen = choose_queries(precision, count=spec.re_ranking.num_query, rng=np.random.default_rng(spec.train.seed))
    shown = {"queries": scored.query, "gallery": scored.gallery}
    hardest = hardest_queries(precision, count=HARDEST_SHOWN)
    found = pairs.verification() if pairs else None
    reasons = [reason for _, reason in chosen]
    kinds = ", ".join(f"{reasons.count(kind)} {kind}" for kind in (BEST, RANDOM, HARDEST) if kind in reasons)
    return Evaluation(
        subtitle=_subtitle(opened, scored),
        curves=curves,
        headline=headline,
        sampled=match_rows(chosen, nearest, scores, ranks=spec.re_ranking.max_rank, **shown),
        sampled_note=f"{kinds} of {scored.plain.scores.valid_queries:,} queries with a match (seed {spec.train.seed}). "
        "Same-camera images of the person are left out, as in the metric.",
        hardest=match_rows(hardest, nearest, scores, ranks=HARDEST_RANKS, **shown),
        pairs=pair_histogram(found) if found else None,
        thresholds=threshold_rows(found) if found else [],
        roc=roc_rows(found, points=ROC_POINTS) if found else [],
        settings=_settings(spec, manifest, opened, scored, images_per_second),
    )


def _subtitle(opened: OpenModel, scored: Scored) -> str:
    contract, cameras = opened.contract, len(np.unique(scored.gallery.camera))
    queries, valid = len(scored.query), scored.plain.scores.valid_queries
    with_match = "" if valid == queries else f", {valid:,} of them with a match,"
    return (
        f"{opened.settings.get('backbone', opened.file.name)}, {contract.width} x {contract.height} pixels, "
        f"embedding of {contract.embedding}: {queries:,} queries{with_match} against {len(scored.gallery):,} "
        f"gallery images of {counted(cameras, 'camera')}"
    )


def _settings(
    spec: Experiment, manifest: Manifest, opened: OpenModel, scored: Scored, images_per_second: float
) -> list[tuple[str, str]]:
    contract = opened.contract
    return [
        ("model", str(opened.file)),
        *opened.settings.items(),
        (
            "input",
            f"{contract.width} x {contract.height} x {contract.channels}, mean {contract.mean}, std {contract.std}",
        ),
        ("flip test", "yes" if contract.flip else "no"),
        ("k1, k2, lambda_value", f"{scored.k1}, {scored.k2}, {spec.re_ranking.lambda_value:g}"),
        ("embedding", f"{images_per_second:,.0f} images per second"),
        ("re-ranking", f"{scored.rerank_seconds:.2f} s"),
        ("query", str(manifest.query.root)),
        ("gallery", str(manifest.gallery.root)),
        ("data fingerprint", manifest.fingerprint),
    ]


def _threshold_record(page: Evaluation) -> str:
    record = {
        "distance": "squared Euclidean of L2-normalised embeddings, 2 - 2 cosine",
        "same_person_pairs": int(page.pairs.genuine.sum()) if page.pairs else 0,
        "different_person_pairs": int(page.pairs.impostor.sum()) if page.pairs else 0,
        "thresholds": [asdict(row) | {"cosine": 1 - row.distance / 2} for row in page.thresholds],
    }
    return json.dumps(record, indent=2) + "\n"


def _draw(spec: Experiment, page: Evaluation, results: Path) -> None:
    """The two figures, into the results and where the spec asks for them."""
    asked = {"cmc": spec.evaluate.output_cmc_curve_plot, "sheet": spec.evaluate.output_sampled_matches_plot}
    extra = {name: [Path(path)] if path else [] for name, path in asked.items()}
    plots.save(plots.cmc_curve(page.curves), results / "cmc_curve.png", results / "cmc_curve.svg", *extra["cmc"])
    ranking = KINDS[page.headline].removeprefix("trained, ")
    sheet = matches_sheet(page.sampled, title=f"Sampled matches, {ranking}", note=page.sampled_note)
    plots.save(sheet, results / "sampled_matches.png", *extra["sheet"])


def _log(run: StageRun, scored: Scored, results: Path, report: Path) -> None:
    run.log_series("cmc", scored.plain.scores.cmc.tolist())
    run.log_series("reranked_cmc", scored.reranked.scores.cmc.tolist())
    for name in ("cmc_curve.png", "sampled_matches.png", "per_query.csv", "thresholds.json"):
        run.log_artifact(results / name, "evaluate")
    run.log_artifact(report, "evaluate")


def _lines(metrics: dict[str, float], headline: str) -> list[str]:
    def figures(prefix: str) -> str:
        return f"mAP {100 * metrics[prefix + 'mAP']:.1f}, rank-1 {100 * metrics[prefix + 'rank1']:.1f}"

    lines = {"plain": f"plain: {figures('')}", "reranked": f"re-ranked: {figures('reranked_')}"}
    ordered = [lines.pop(headline), *lines.values()]
    if "untrained_mAP" in metrics:
        ordered.append(f"untrained: {figures('untrained_')}; re-ranked {figures('untrained_reranked_')}")
    return ordered


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
