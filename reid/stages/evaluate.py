"""The evaluate stage: mAP, CMC and mINP of the trained and the untrained network, plain and re-ranked, and their plots.

Shapes: Q queries, G gallery images without junk.
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from reid.data.market1501 import MAIN_SET, Manifest, Split
from reid.distributed.launching import devices_here
from reid.embeddings import UNTRAINED_EMBEDDINGS, Embeddings
from reid.errors import ArtifactError, DatasetError
from reid.files.writing import require_writable
from reid.retrieval.on_device import require_device
from reid.scoring.curves import Curve
from reid.scoring.matches import advice_without_match, has_match
from reid.scoring.ranking import Ranking, Scored, score
from reid.scoring.sets import SetFigures
from reid.scoring.verification import pair_counter
from reid.spec import Experiment
from reid.stages.embedding import embed_dataset
from reid.stages.evaluate_report import build_page, roc_record, save_figures, threshold_text
from reid.stages.evaluate_results import keep_results, log_results
from reid.stages.further_sets import add_further_sets
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)


def evaluate(
    spec: Experiment,
    *,
    dataset: Path,
    model: Path,
    results: Path,
    report: Path,
    run: StageRun,
    fingerprint: str | None = None,
) -> Outcome:
    """Scores the model on the manifest's query and gallery from one embedding pass.

    Writes the HTML `report`, and into `results` metrics.json, per_query.csv, camera_pairs.csv, thresholds.json,
    embeddings.npz, cmc_curve.png and .svg, sampled_matches.png. Further test sets are scored one after another and
    compared in a table; the embeddings of each are in embeddings_<set>.npz. They are those of the manifest if the task
    runs alone; in a pipeline those of the spec, and `fingerprint` is what validate has found of all sets. Raises
    DatasetError if no query of a test set can have a match, or if the images have another fingerprint.
    """
    manifest = Manifest.load(dataset)
    if fingerprint is not None:
        manifest = add_further_sets(spec, manifest, fingerprint=fingerprint)
    _require_possible(spec, manifest)
    section = spec.evaluate
    devices = devices_here(
        "evaluate", num_gpus=section.num_gpus, gpu_ids=section.gpu_ids, cpu_processes=section.cpu_processes
    )
    with TemporaryDirectory(prefix="reid-") as folder:  # the processes that embed read a file
        manifest.save(whole := Path(folder, "dataset.json"))
        opened, parts, images_per_second = embed_dataset(
            spec, devices, dataset=whole, model=model, with_junk=False, all_test_sets=True
        )
    Embeddings.joined(parts["query"], parts["gallery"]).save_npz(results / "embeddings.npz")
    ranking = spec.re_ranking
    score_pair = partial(
        score,
        k1=ranking.k1,
        k2=ranking.k2,
        lambda_value=ranking.lambda_value,
        max_rank=ranking.max_rank,
        device=ranking.device,
        evaluate_device=devices[0],
    )
    untrained = _untrained(model, manifest, score_pair)
    pairs = pair_counter(parts["query"], parts["gallery"])
    scored = score_pair(parts["query"], parts["gallery"], pairs=pairs, by_camera=True)
    found = pairs.verification() if pairs else None
    sets = _sets(manifest, parts, scored, score_pair, results=results)
    headline = "reranked" if ranking.re_ranking else "plain"
    page = build_page(
        spec,
        manifest,
        opened,
        scored,
        found,
        headline=headline,
        curves=_curves(scored, ranking.max_rank)
        + (_curves(untrained, ranking.max_rank, prefix="untrained") if untrained else []),
        sets=sets,
        images_per_second=images_per_second,
    )
    metrics = _metrics(scored, untrained, sets) | {"images_per_second": images_per_second}
    save_figures(spec, page, results)
    keep_results(manifest, opened, scored, page, metrics, results=results, report=report)
    log_results(run, manifest, opened, scored, results=results, report=report)
    given: dict[str, str | int | float] = {"mAP": metrics["mAP"], "thresholds": threshold_text(found, manifest)}
    lines = _lines(scored, sets, headline=headline, untrained=untrained)
    if opened.choice and page.chosen_on_test != "no":
        lines.append(page.choice)
    return Outcome(metrics, given, lines, {"verification": roc_record(page)})


def _require_possible(spec: Experiment, manifest: Manifest) -> None:
    """Raises DatasetError or SpecError, before anything is embedded, if the figures or their plots cannot be made."""
    for query, gallery in ((manifest.query, manifest.gallery), *((s.query, s.gallery) for s in manifest.test_sets)):
        _require_matches(query, gallery.without_junk())
    require_writable(spec.evaluate.output_cmc_curve_plot)
    require_writable(spec.evaluate.output_sampled_matches_plot)
    require_device(spec.re_ranking.device)


def _sets(
    manifest: Manifest,
    parts: dict[str, Embeddings],
    main: Scored,
    score_pair: Callable[[Embeddings, Embeddings], Scored],
    *,
    results: Path,
) -> list[SetFigures]:
    """The figures of the main test set and of each further one, whose embeddings are saved and then dropped."""
    figures = [SetFigures.of(MAIN_SET, main, trained_on=MAIN_SET in manifest.trained_on)]
    for part in manifest.test_sets:
        query, gallery = (parts.pop(f"{part.name}/{name}") for name in ("query", "gallery"))
        Embeddings.joined(query, gallery).save_npz(results / f"embeddings_{part.name}.npz")
        trained_on = part.name in manifest.trained_on
        figures.append(SetFigures.of(part.name, score_pair(query, gallery), trained_on=trained_on))
    return figures


def _require_matches(query: Split, gallery: Split) -> None:
    """Raises DatasetError if no query has an image of its person in another camera in the gallery without junk."""
    if not has_match(query, gallery).any():
        first = f"\n  first: {query.images[0].file}" if len(query) else ""
        raise DatasetError(
            f"{query.root}: none of {len(query)} queries has an image of its person in another camera in the gallery\n"
            f"  gallery: {gallery.root}, {len(gallery)} images without junk{first}\n"
            "  want:  at least one; without it neither mAP nor CMC is defined"
            f"{advice_without_match(query, gallery)}"
        )


def _untrained(
    model: Path, manifest: Manifest, score_pair: Callable[[Embeddings, Embeddings], Scored]
) -> Scored | None:
    """Scores of the network before training, if the train stage left its embeddings of the same images."""
    file = (model if model.is_dir() else model.parent) / UNTRAINED_EMBEDDINGS
    if not file.is_file():
        return None
    embeddings = Embeddings.load_npz(file)
    try:
        query, gallery = embeddings.of(manifest.query), embeddings.of(manifest.gallery.without_junk())
    except ArtifactError as error:
        logger.warning("%s is of other images; the untrained network is not scored (%s)", file, error)
        return None
    return score_pair(query, gallery)


def _metrics(scored: Scored, untrained: Scored | None, sets: list[SetFigures]) -> dict[str, float]:
    metrics = {
        **scored.plain.metrics(),
        **scored.reranked.metrics("reranked_"),
        "valid_queries": float(scored.plain.scores.valid_queries),
        "queries": float(len(scored.query)),
        "gallery": float(len(scored.gallery)),
        "rerank_seconds": scored.rerank_seconds,
    }
    if untrained:
        metrics |= untrained.plain.metrics("untrained_") | untrained.reranked.metrics("untrained_reranked_")
    for part in sets[1:]:
        metrics |= part.metrics()
    return metrics


def _curves(scored: Scored, max_rank: int, prefix: str = "") -> list[Curve]:
    kinds = (prefix, f"{prefix}_reranked") if prefix else ("plain", "reranked")
    return [scored.plain.curve(kinds[0], max_rank), scored.reranked.curve(kinds[1], max_rank)]


def _lines(scored: Scored, sets: list[SetFigures], *, headline: str, untrained: Scored | None) -> list[str]:
    """The figures with their 95 % intervals in brackets, as sentences; the headline first."""
    lines = {"plain": f"plain: {_figures(scored.plain)}", "reranked": f"re-ranked: {_figures(scored.reranked)}"}
    ordered = [lines.pop(headline), *lines.values()]
    if untrained:
        ordered.append(f"untrained: {_figures(untrained.plain)}; re-ranked {_figures(untrained.reranked)}")
    ordered += [
        f"test set {part.name}: mAP {part.mAP.in_percent}, re-ranked {part.reranked_mAP.in_percent}"
        for part in sets[1:]
    ]
    return ordered


def _figures(ranking: Ranking) -> str:
    return f"mAP {ranking.mAP.in_percent}, rank-1 {ranking.rank1.in_percent}"
