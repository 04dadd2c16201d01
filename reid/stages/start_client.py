"""The start_client task: mAP, CMC plot and matches sheet of a sample of persons, embedded by a Triton server.

TAO's end-to-end sample does the same after its server is up. Shapes: Q queries, G gallery images.
"""

import json
import logging
from pathlib import Path

import numpy as np

from reid.data.market1501 import Manifest, Split
from reid.deploy.triton_client import TritonModel
from reid.deploy.triton_connection import Server
from reid.deploy.triton_contract import contract_of_file
from reid.embeddings import write_json
from reid.errors import DatasetError
from reid.files.writing import replacing
from reid.reports import plots
from reid.reports.matches import choose_queries, match_rows
from reid.reports.sheet import matches_sheet
from reid.retrieval.on_device import CPU, require_device
from reid.scoring.curves import KINDS
from reid.scoring.matches import advice_without_match, has_match
from reid.scoring.ranking import Scored, score
from reid.spec import Experiment
from reid.stages.client import RESULTS, ask
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)

IN_FLIGHT = 20
"""Requests at a time, as many as TAO's client sends with --async."""


def start_client(spec: Experiment, *, dataset: Path, results: Path, run: StageRun) -> Outcome:
    """Writes results.json, metrics.json, cmc_curve.png and sampled_matches.png of the sample into `results`.

    The sample is drawn by spec.train.seed from the persons that a query can find in another camera. Raises DatasetError
    if there is none.
    """
    section, ranking = spec.triton, spec.re_ranking
    require_device(ranking.device)
    manifest = Manifest.load(dataset)
    rng = np.random.default_rng(spec.train.seed)
    query, gallery = sampled(manifest.query, manifest.gallery, persons=section.sample_persons, rng=rng)
    model = TritonModel(
        server_of(spec),
        batch_size=section.max_batch_size,
        in_flight=IN_FLIGHT,
        patience_s=section.patience_s,
        given=contract_of_file(Path(section.contract), source="triton.contract") if section.contract else None,
    )
    with model:
        parts = ask(model, {"query": query, "gallery": gallery})
    write_json(results / RESULTS, *parts.values())
    scored = score(
        parts["query"],
        parts["gallery"].without_junk(),
        k1=ranking.k1,
        k2=ranking.k2,
        lambda_value=ranking.lambda_value,
        max_rank=ranking.max_rank,
        device=ranking.device,
        evaluate_device=CPU,
    )
    metrics = {
        **scored.plain.metrics(),
        **scored.reranked.metrics("reranked_"),
        "persons": float(len(np.unique(query.person))),
        "queries": float(len(scored.query)),
        "gallery": float(len(scored.gallery)),
    }
    headline = "reranked" if ranking.re_ranking else "plain"
    with replacing(results / "metrics.json") as partial:
        partial.write_text(json.dumps({"headline": headline, **metrics}, indent=2) + "\n", encoding="utf-8")
    _draw(scored, results, headline=headline, ranks=ranking.max_rank, rows=ranking.num_query, rng=rng)
    for name in ("cmc_curve.png", "sampled_matches.png", "metrics.json"):
        run.log_artifact(results / name, "start_client")
    best = scored.ranking(headline)
    kind = "re-ranked" if headline == "reranked" else "plain"
    return Outcome(
        metrics,
        {},
        [f"{kind} mAP {best.mAP.in_percent}, rank-1 {best.rank1.in_percent} on {metrics['persons']:.0f} persons"],
    )


def server_of(spec: Experiment) -> Server:
    """The server of the spec: triton.url, else the one that start_server starts on this machine."""
    section = spec.triton
    port = section.grpc_port if section.protocol == "grpc" else section.http_port
    return Server(section.url or f"localhost:{port}", section.protocol, section.model_name, "")


def sampled(query: Split, gallery: Split, *, persons: int | None, rng: np.random.Generator) -> tuple[Split, Split]:
    """The queries and gallery images of at most `persons` persons that a query can find; all images with None."""
    found = np.unique(query.person[has_match(query, gallery)])
    if not len(found):
        raise DatasetError(
            f"{query.root}: none of {len(query)} queries has an image of its person in another camera in {gallery.root}"
            f"{advice_without_match(query, gallery)}"
        )
    if persons is None:
        return query, gallery
    chosen = {int(person) for person in rng.choice(found, min(persons, len(found)), replace=False)}
    logger.info("a sample of %d of %d persons", len(chosen), len(found))
    return query.of(chosen), gallery.of(chosen)


def _draw(scored: Scored, results: Path, *, headline: str, ranks: int, rows: int, rng: np.random.Generator) -> None:
    curves = [scored.plain.curve("plain", ranks), scored.reranked.curve("reranked", ranks)]
    plots.save(plots.cmc_curve(curves), results / "cmc_curve.png")
    ranking = scored.ranking(headline)
    shown = match_rows(
        choose_queries(ranking.scores.average_precision, count=rows, rng=rng),
        ranking.nearest,
        ranking.scores,
        queries=scored.query,
        gallery=scored.gallery,
        ranks=ranks,
    )
    note = "Same-camera images of the person are left out, as in the metric."
    title = f"Sampled matches, {KINDS[headline].removeprefix('trained, ')}"
    plots.save(matches_sheet(shown, title=title, note=note), results / "sampled_matches.png")
