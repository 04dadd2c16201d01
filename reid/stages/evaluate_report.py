"""What the evaluate stage shows of its scores: the report's content, its figures, records for other programs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from reid.choice import answer, in_a_sentence
from reid.data.findings import counted
from reid.data.market1501 import Manifest
from reid.deploy.opening import ModelCard
from reid.files.hashes import file_sha256
from reid.reports import plots
from reid.reports.evaluation import Evaluation
from reid.reports.matches import BEST, HARDEST, RANDOM, choose_queries, hardest_queries, match_rows
from reid.reports.sheet import matches_sheet
from reid.retrieval.threshold import Verification
from reid.scoring.curves import KINDS, Curve
from reid.scoring.ranking import Scored
from reid.scoring.sets import SetFigures
from reid.scoring.verification import pair_histogram, roc_rows, threshold_rows, thresholds_of
from reid.spec import Experiment

CHECKPOINT_SHA256 = "checkpoint_sha256"
"""The key in thresholds.json that says with which checkpoint they were measured."""
ROC_POINTS = 50
"""Points of the verification curve in Kubeflow's user interface; each is five lines of the stage's log there."""
HARDEST_SHOWN, HARDEST_RANKS = 8, 8
"""Rows and columns of the report's grid of hardest queries."""


def build_page(
    spec: Experiment,
    manifest: Manifest,
    opened: ModelCard,
    scored: Scored,
    found: Verification | None,
    *,
    headline: str,
    curves: list[Curve],
    sets: list[SetFigures],
    images_per_second: float,
) -> Evaluation:
    """Everything that the report shows; the spec's seed draws which matches; `found`: None if no pair can be judged."""
    ranking = scored.ranking(headline)
    nearest, scores = ranking.nearest, ranking.scores
    precision = scores.average_precision
    chosen = choose_queries(precision, count=spec.re_ranking.num_query, rng=np.random.default_rng(spec.train.seed))
    shown = {"queries": scored.query, "gallery": scored.gallery}
    hardest = hardest_queries(precision, count=HARDEST_SHOWN)
    reasons = [reason for _, reason in chosen]
    kinds = ", ".join(f"{reasons.count(kind)} {kind}" for kind in (BEST, RANDOM, HARDEST) if kind in reasons)
    return Evaluation(
        subtitle=_subtitle(opened, scored),
        choice=in_a_sentence(opened.choice, manifest.fingerprint),
        chosen_on_test=answer(opened.choice, manifest.fingerprint),
        curves=curves,
        headline=headline,
        sampled=match_rows(chosen, nearest, scores, ranks=spec.re_ranking.max_rank, **shown),
        sampled_note=f"{kinds} of {scored.plain.scores.valid_queries:,} queries with a match (seed {spec.train.seed}). "
        "Same-camera images of the person are left out, as in the metric.",
        hardest=match_rows(hardest, nearest, scores, ranks=HARDEST_RANKS, **shown),
        pairs=pair_histogram(found) if found else None,
        thresholds=threshold_rows(found) if found else [],
        roc=roc_rows(found, points=ROC_POINTS) if found else [],
        trained_on=[(part.name, part.count) for part in manifest.train_sets],
        sets=sets,
        pairs_of_cameras=scored.pairs_of_cameras,
        settings=_settings(spec, manifest, opened, scored, images_per_second),
    )


def _subtitle(opened: ModelCard, scored: Scored) -> str:
    contract, cameras = opened.contract, len(np.unique(scored.gallery.camera))
    queries, valid = len(scored.query), scored.plain.scores.valid_queries
    with_match = "" if valid == queries else f", {valid:,} of them with a match,"
    return (
        f"{opened.settings.get('backbone', opened.file.name)}, {contract.width} x {contract.height} pixels, "
        f"embedding of {contract.embedding}: {queries:,} queries{with_match} against {len(scored.gallery):,} "
        f"gallery images of {counted(cameras, 'camera')}"
    )


def _settings(
    spec: Experiment, manifest: Manifest, opened: ModelCard, scored: Scored, images_per_second: float
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


def measured_on(manifest: Manifest) -> str:
    """The images of the main test set in words, the same wherever they lie."""
    gallery = len(manifest.gallery.without_junk())
    return (
        f"the {len(manifest.query):,} query and {gallery:,} gallery images of the test set "
        f"(data fingerprint {manifest.fingerprint[:8]})"
    )


def threshold_text(found: Verification | None, manifest: Manifest) -> str:
    """The thresholds as they travel with the model, see reid.thresholds; "" if none can be judged."""
    return thresholds_of(found, measured_on=measured_on(manifest)).to_json() if found else ""


def threshold_record(page: Evaluation, manifest: Manifest, opened: ModelCard) -> str:
    """The thresholds as JSON, for programs that decide by a distance, and for the task export of the same checkpoint.

    reid.thresholds reads it too.
    """
    record = {
        "distance": "squared Euclidean of L2-normalised embeddings, 2 - 2 cosine",
        "checkpoint": opened.file.name,
        CHECKPOINT_SHA256: file_sha256(opened.file),
        "measured_on": measured_on(manifest),
        "same_person_pairs": int(page.pairs.genuine.sum()) if page.pairs else 0,
        "different_person_pairs": int(page.pairs.impostor.sum()) if page.pairs else 0,
        "thresholds": [asdict(row) | {"cosine": 1 - row.distance / 2} for row in page.thresholds],
    }
    return json.dumps(record, indent=2) + "\n"


def roc_record(page: Evaluation) -> dict[str, Any]:
    """The verification curve as Kubeflow's user interface draws it."""
    rows = [
        {"confidenceThreshold": row.cosine, "recall": row.true_match_rate, "falsePositiveRate": row.false_match_rate}
        for row in page.roc
    ]
    return {"confidenceMetrics": rows}


def save_figures(spec: Experiment, page: Evaluation, results: Path) -> None:
    """Saves the CMC plot and the matches sheet in `results`, and also in the files that the spec names."""
    asked = {"cmc": spec.evaluate.output_cmc_curve_plot, "sheet": spec.evaluate.output_sampled_matches_plot}
    extra = {name: [Path(path)] if path else [] for name, path in asked.items()}
    plots.save(plots.cmc_curve(page.curves), results / "cmc_curve.png", results / "cmc_curve.svg", *extra["cmc"])
    ranking = KINDS[page.headline].removeprefix("trained, ")
    sheet = matches_sheet(page.sampled, title=f"Sampled matches, {ranking}", note=page.sampled_note)
    plots.save(sheet, results / "sampled_matches.png", *extra["sheet"])
