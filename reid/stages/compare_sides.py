"""One side of a comparison: the queries of an evaluation, and what is known of the run behind it.

A side is named by the id of an MLflow run, by a folder of results, or by a per_query.csv.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reid.data.market1501 import Manifest
from reid.errors import ArtifactError, ReidError, TrackingError
from reid.files.records import read_json_record
from reid.files.surroundings import ROOT, SPEC_OF_RUN, from_tags
from reid.scoring.per_query import PER_QUERY, PerQuery, read_per_query
from reid.spec import load_spec
from reid.spec.secret import open_values
from reid.tracking.store import as_params

RUN_ID = re.compile(r"[0-9a-f]{32}")
SPEC_FILE = "experiment.yaml"
"""The spec beside the results of a task."""
RUN_RECORDS = "runs"
"""Folder of a pipeline's records in its results_dir."""
STAGE = "evaluate"
PLACES = (".", "results", f"latest/{STAGE}/results", STAGE)
"""Where a given folder may have the table: evaluate's results, a stage's folder, a whole results_dir."""


@dataclass(frozen=True)
class Side:
    """An evaluation, and what is known of how its model was made; unknown facts are missing."""

    title: str
    """The run or the folder in words."""
    table: PerQuery
    evaluated_images: str = ""
    """Hash of the evaluated images (reid.data.evaluated)."""
    gallery: int = 0
    """Number of gallery images; 0: unknown."""
    headline: str = ""
    """"plain" or "reranked"; empty if unknown."""
    spec: Mapping[str, str] = field(default_factory=dict)
    """The flattened spec without secrets: "section.field" -> value as text."""
    lineage: Mapping[str, str] = field(default_factory=dict)
    """Data fingerprint, code, lock, commit, machine."""
    store: str = ""
    run_id: str = ""
    """The pipeline's MLflow run; empty if the side is a folder."""


def read_side(given: str, *, scratch: Path) -> Side:
    """The side that is named: a path that exists, else the id of a run. `scratch` takes files fetched from MLflow.

    Raises ArtifactError if the folder has no evaluation or its table is damaged, TrackingError if the run is not known
    or has no evaluation, or if the store does not answer.
    """
    path = Path(given).expanduser()
    if os.path.lexists(path):
        return _of_path(path)
    if RUN_ID.fullmatch(given):
        return _of_run(given, scratch)
    raise ArtifactError(
        f"{given}: no such folder or file, and no id of a run\n"
        f"  want: a folder of results with a {PER_QUERY}, such a file, or the id of an MLflow run (32 characters)"
    )


def local_store() -> str:
    """MLFLOW_TRACKING_URI, else the store of this machine's runs. Raises TrackingError if there is neither."""
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if named:
        return named
    files = [folder.resolve() / "results" / "mlflow.db" for folder in (Path.cwd(), ROOT)]
    for file in files:
        if file.is_file():
            return f"sqlite:///{file}"
    absent = " and no ".join(map(str, dict.fromkeys(files)))
    raise TrackingError(
        f"no MLflow store: MLFLOW_TRACKING_URI is not set, and there is no {absent}\n"
        "  want: the address of the store that knows the run, or folders of results in place of run ids"
    )


def _of_path(path: Path) -> Side:
    if not path.is_dir():
        return Side(str(path), read_per_query(path))
    found = [path / place for place in PLACES if (path / place / PER_QUERY).exists()]
    if not found:
        raise ArtifactError(
            f"{path}: no {PER_QUERY} in it\n"
            "  want: a folder of evaluate's results, of a pipeline's latest/evaluate, or a results_dir with one of them"
        )
    if len({folder.resolve() for folder in found}) > 1:
        listed = " and in ".join(str(folder) for folder in found)
        raise ArtifactError(f"{path}: evaluations in {listed}\n  want: one of these folders")
    results = found[0]
    figures = _figures(results / "metrics.json")
    spec, lineage = _run_of(results)
    return Side(
        str(path),
        read_per_query(results / PER_QUERY),
        evaluated_images=str(figures.get("evaluated_images", "")),
        gallery=_whole(figures.get("gallery")),
        headline=str(figures.get("headline", "")),
        spec=spec,
        lineage=lineage,
    )


def _figures(path: Path) -> dict[str, Any]:
    try:
        return read_json_record(path, dict[str, Any])
    except FileNotFoundError:
        return {}


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0


def _run_of(results: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The spec and the lineage of the run that made these results; empty if neither is beside them."""
    beside = results / SPEC_FILE
    if beside.is_file():
        return flat_spec(beside), {}
    stage_folder = results.resolve().parent  # <results_dir>/pipeline/evaluate/<key>
    records = stage_folder.parents[2] / RUN_RECORDS if len(stage_folder.parents) > 2 else stage_folder
    for file in sorted(records.glob("*.json"), reverse=True):
        try:
            record = read_json_record(file, dict[str, Any])
        except (ArtifactError, OSError):  # a record of another run may be damaged
            continue
        stages = record.get("stages")
        stages = stages if isinstance(stages, dict) else {}
        facts = stages.get(STAGE)
        if isinstance(facts, dict) and Path(str(facts.get("folder"))).resolve() == stage_folder:
            spec, known = file.with_suffix("") / SPEC_OF_RUN, record.get("surroundings")
            lineage = {str(name): str(value) for name, value in known.items()} if isinstance(known, dict) else {}
            return flat_spec(spec) if spec.is_file() else {}, _data_of(stages) | lineage
    return {}, {}


def _data_of(stages: Mapping[str, Any]) -> dict[str, str]:
    """The data fingerprint, from the manifest that the run has used."""
    facts = stages.get("manifest")
    manifest = Path(str(facts.get("folder"))) / "dataset.json" if isinstance(facts, dict) else None
    try:
        return {"data_fingerprint": Manifest.load(manifest).fingerprint} if manifest else {}
    except ArtifactError:
        return {}


def flat_spec(path: Path) -> dict[str, str]:
    """The fields of a spec file, defaults included and secrets left out; empty if this version cannot read it."""
    try:
        values = open_values(load_spec(path, warn=False))
    except ReidError:
        return {}
    return as_params(values)


def _of_run(run_id: str, scratch: Path) -> Side:
    from reid.tracking.recorded import fetch_artifact, recorded_evaluation, stage_runs

    store = local_store()
    run = recorded_evaluation(store, run_id)
    folder = scratch / run.evaluation_id
    folder.mkdir(parents=True, exist_ok=True)
    table = fetch_artifact(store, run.evaluation_id, f"{STAGE}/{PER_QUERY}", folder)
    if table is None:
        raise TrackingError(
            f"run {run_id}: its evaluation, {run.evaluation_id}, has no {STAGE}/{PER_QUERY} in MLflow\n"
            "  want: a run whose evaluation has ended and was sent, or its folder of results"
        )
    checked = stage_runs(store, run.run_id).get("validate")
    data = checked.data.params.get("data_fingerprint", "") if checked else ""
    known = {"data_fingerprint": data or run.data, **from_tags(run.tags)}
    return Side(
        f"{run.name}, run {run.run_id}",
        read_per_query(table),
        evaluated_images=run.evaluation_params.get("evaluated_images", ""),
        gallery=_whole(run.metrics.get("gallery")),
        headline=_headline(run.params),
        spec={name: value for name, value in run.params.items() if "." in name or name == "results_dir"},
        lineage={name: value for name, value in known.items() if value},
        store=store,
        run_id=run.run_id,
    )


def _headline(params: Mapping[str, str]) -> str:
    asked = params.get("re_ranking.re_ranking")
    return {"True": "reranked", "False": "plain"}.get(asked or "", "")
