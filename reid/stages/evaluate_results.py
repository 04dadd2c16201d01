"""What the evaluate stage leaves behind: the files of its results folder, and what MLflow shows of them."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from reid.choice import answer
from reid.data.evaluated import evaluated_images
from reid.data.market1501 import Manifest
from reid.deploy.opening import ModelCard
from reid.files.writing import write_text
from reid.reports.evaluation import Evaluation, evaluation_page
from reid.scoring.camera_pairs import camera_pairs_csv
from reid.scoring.per_query import per_query_csv
from reid.scoring.ranking import Scored
from reid.stages.evaluate_report import threshold_record
from reid.tracking.stage_run import StageRun, described_dataset

LOGGED = ("cmc_curve.png", "sampled_matches.png", "per_query.csv", "camera_pairs.csv", "thresholds.json")
"""Files of the results folder that are artifacts of the stage's run."""


def keep_results(
    manifest: Manifest,
    opened: ModelCard,
    scored: Scored,
    page: Evaluation,
    metrics: Mapping[str, float],
    *,
    results: Path,
    report: Path,
) -> None:
    """Writes metrics.json, per_query.csv, camera_pairs.csv and thresholds.json in `results`, and the `report`."""
    said = {
        "headline": page.headline,
        "evaluated_images": evaluated_images(manifest),
        **({"chosen_on": opened.chosen_on} if opened.chosen_on else {}),
        "chosen_on_test": page.chosen_on_test,
        "data_sets": [[name, fingerprint] for name, fingerprint, _ in _data_sets(manifest)],
    }
    write_text(results / "metrics.json", json.dumps({**said, **metrics}, indent=2) + "\n")
    write_text(results / "per_query.csv", per_query_csv(scored))
    write_text(results / "camera_pairs.csv", camera_pairs_csv(scored.pairs_of_cameras))
    write_text(results / "thresholds.json", threshold_record(page, manifest, opened))
    write_text(report, evaluation_page(page))


def log_results(
    run: StageRun, manifest: Manifest, opened: ModelCard, scored: Scored, *, results: Path, report: Path
) -> None:
    """Logs the CMC curves and the files, and lets MLflow show the figures on the page of the model.

    There each stands beside the data set that it is of.
    """
    run.log_series("cmc", scored.plain.scores.cmc.tolist())
    run.log_series("reranked_cmc", scored.reranked.scores.cmc.tolist())
    for name in LOGGED:
        run.log_artifact(results / name, "evaluate")
    run.log_artifact(report, "evaluate")
    run.log_params({"evaluated_images": evaluated_images(manifest)})
    if opened.chosen_on:
        run.log_params({"chosen_on": opened.chosen_on})
    chosen = {"chosen_on_test": answer(opened.choice, manifest.fingerprint)}
    run.set_tags(chosen, parent_too=True)
    run.bind_outcome(
        re.sub(r"[^\w -]", "_", opened.file.stem),  # MLflow takes no other characters
        kind="person re-identification",
        params={**opened.settings, "file": str(opened.file)},
        tags=chosen,
        datasets=[
            described_dataset(name, fingerprint=fingerprint, source=str(folder))
            for name, fingerprint, folder in _data_sets(manifest)
        ],
    )


def _data_sets(manifest: Manifest) -> list[tuple[str, str, Path]]:
    """Name in MLflow, fingerprint and folder of each test set, the main one first, named after its folder."""
    folder = Path(os.path.commonpath([part.root.absolute() for part in (manifest.query, manifest.gallery)]))
    main = (folder.name or "dataset", manifest.fingerprint, folder)
    return [main, *((part.name, part.fingerprint, part.query.root) for part in manifest.test_sets)]
