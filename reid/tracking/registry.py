"""The MLflow model registry: an exported model becomes a version; the best version is `champion` (`promotion.py`).

A registration does not go through the journal: the stage reports the version that MLflow answers, so it waits for it.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.files.writing import copy_file
from reid.scoring.per_query import PER_QUERY
from reid.thresholds import Thresholds
from reid.tracking.journal import now_ms
from reid.tracking.logged_model import UNKNOWN_TO_OLD_SERVERS, log_figures
from reid.tracking.promotion import Champion, Entrant, contest
from reid.tracking.recorded import evaluation_table
from reid.tracking.stage_run import StageRun
from reid.tracking.store import connect, reaching

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
MODEL = "reid-onnx"
"""Name of the logged model among the run's artifacts."""
ENCRYPTED_FLAVOR = "reid_encrypted_onnx"
ENCRYPTED_ONNX = "model.onnx.encrypted"
"""File of an encrypted ONNX in the logged model; MLflow's ONNX flavour knows plain ones only."""


@dataclass(frozen=True)
class Candidate:
    """A model to register, with the figures and the parity that decide its alias."""

    onnx: Path
    model: Any
    """The same model as an onnx.ModelProto."""
    encrypted: bool
    contract: Contract
    thresholds: Thresholds | None
    """From which cosine on two images count as one person; None if the model does not know."""
    fingerprint: str
    """Fingerprint of the data set, training images included."""
    evaluated_images: str
    """Hash of the images on which it was scored (reid.data.evaluated); empty if it is not known."""
    per_query: Path
    """The table of queries of its evaluation; the file may be missing."""
    figure: str
    """Name of the figure that is compared: mAP or reranked_mAP."""
    figures: Mapping[str, float]
    """mAP and reranked_mAP, as fractions."""
    objection: str | None
    """Why the model's parity does not hold; None if it holds."""
    example: NDArray[Any]
    """An image as the model takes it."""
    image_shape: tuple[int, ...]
    """The shape of the model's input, with -1 for an open axis."""


@dataclass(frozen=True)
class Registration:
    """A model version, the alias that it was given, and the reason."""

    name: str
    version: str
    alias: str
    reason: str


def register_model(
    run: StageRun,
    *,
    name: str,
    candidate: Candidate,
    by_evidence: bool,
    tags: Mapping[str, str],
    card: str,
    files: Mapping[str, str],
    metrics: Mapping[str, float] | None = None,
    datasets: Sequence[Mapping[str, str]] = (),
) -> Registration:
    """Registers the candidate as the next version of model `name`, with its signature, an input example and `files`.

    It becomes `champion` if its parity holds and there is no champion, or if it is better than the champion on the
    same images; otherwise `challenger`. Better means, if `by_evidence`, by more than chance (`promotion.contest`),
    else that its figure is higher. The reason is a tag of the version and of the run. The signature is
    (batch, C, H, W) -> (batch, D), float32. An encrypted ONNX stays encrypted in the store. A retried stage does not
    register a second version. The page of the version's logged model shows the `metrics` beside the data sets that they
    are of (see logged_model.py). Raises TrackingError if the registry cannot be reached.
    """
    client = connect(run.tracking_uri)
    size = candidate.onnx.stat().st_size
    with reaching(run.tracking_uri, moves=size), tempfile.TemporaryDirectory() as folder:
        texts = {"contract.json": candidate.contract.to_json(), "README.md": card, **files}
        for file, text in texts.items():
            (Path(folder) / file).write_text(text, encoding="utf-8")
        if candidate.per_query.is_file():
            copy_file(candidate.per_query, Path(folder) / PER_QUERY)
        log = _log_encrypted if candidate.encrypted else _log_plain
        version = _version_of(client, run, name) or log(run, client, name, candidate, Path(folder))
        client.update_model_version(name, version, description=card)
        holder = client.get_registered_model(name).aliases.get(CHAMPION)
        if str(holder) == version:
            before = client.get_model_version(name, version).tags
            alias, reason = CHAMPION, before.get("reason", "an earlier attempt of this stage made it champion")
        else:
            champion = _champion(client, run.tracking_uri, name, holder) if holder else None
            entrant = Entrant(
                candidate.figure,
                candidate.figures,
                fingerprint=candidate.fingerprint,
                evaluated_images=candidate.evaluated_images,
                per_query=candidate.per_query,
                objection=candidate.objection,
            )
            wins, reason = contest(entrant, champion, by_evidence=by_evidence, scratch=Path(folder, "champion"))
            alias = CHAMPION if wins else CHALLENGER
        scores = {figure: repr(value) for figure, value in candidate.figures.items()}
        standing = {"fingerprint": candidate.fingerprint, "registered_as": alias, "reason": reason}
        if candidate.evaluated_images:
            standing["evaluated_images"] = candidate.evaluated_images
        for key, value in {**tags, **scores, **standing}.items():
            client.set_model_version_tag(name, version, key, value)
        client.set_registered_model_alias(name, alias, version)
        if metrics and datasets:
            source = str(client.get_model_version(name, version).source)
            _show_figures(client, run, source, metrics, datasets)
    run.set_tags({"registry.version": f"{name}/{version}", "registry.alias": alias, "registry.reason": reason})
    logger.info("registered %s version %s as %s: %s", name, version, alias, reason)
    return Registration(name, version, alias, reason)


def _show_figures(
    client: "MlflowClient",
    run: StageRun,
    source: str,
    metrics: Mapping[str, float],
    datasets: Sequence[Mapping[str, str]],
) -> None:
    """Logs the figures on the version's logged model, models:/ID, once; a server of MLflow 2 has no such models."""
    model_id = source.removeprefix("models:/")
    if model_id != source and not client.get_logged_model(model_id).metrics:
        log_figures(client, run.run_id, metrics, model_id=model_id, datasets=datasets, step=0, time=now_ms())


def _version_of(client: "MlflowClient", run: StageRun, name: str) -> str | None:
    """Returns the version that an earlier attempt of this stage registered; None if there is none."""
    found = client.search_model_versions(f"name = '{name}' and run_id = '{run.run_id}'")
    return str(found[0].version) if found else None


def _champion(client: "MlflowClient", store: str, name: str, version: str) -> Champion:
    """The champion's tags, and how its table of queries is fetched: from its files, else from its evaluation's run."""
    held = client.get_model_version(name, version)

    def fetch(folder: Path) -> Path | None:
        import mlflow

        for place in (f"extra_files/{PER_QUERY}", PER_QUERY):  # a plain version, an encrypted one
            try:
                found = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"models:/{name}/{version}/{place}", dst_path=str(folder), tracking_uri=store
                )
            except (mlflow.exceptions.MlflowException, OSError) as error:
                logger.debug("version %s has no %s: %s", version, place, error)
            else:
                return Path(found)
        return evaluation_table(store, held.run_id, folder) if held.run_id else None

    return Champion(str(version), held.tags, fetch)


def _signature(candidate: Candidate) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    images, width = candidate.image_shape, candidate.contract.embedding
    return ModelSignature(
        Schema([TensorSpec(candidate.example.dtype, images, "input")]),
        Schema([TensorSpec(np.dtype("float32"), (images[0], width), "fc_pred")]),
    )


def _log_plain(run: StageRun, _client: "MlflowClient", name: str, candidate: Candidate, folder: Path) -> str:
    """Registers a version with MLflow's ONNX flavour, which mlflow.onnx.load_model opens."""
    import mlflow
    import onnx

    contract = candidate.contract
    with _in_run(run):
        logged = mlflow.onnx.log_model(
            candidate.model,
            name=MODEL,
            signature=_signature(candidate),
            input_example={"input": candidate.example},
            pip_requirements=[f"{package.__name__}=={package.__version__}" for package in (onnx, np)] + ["onnxruntime"],
            registered_model_name=name,
            save_as_external_data=False,
            metadata={"reid.contract": json.loads(contract.to_json())},
            extra_files=[str(path) for path in sorted(folder.iterdir())],
        )
    return str(logged.registered_model_version)


def _log_encrypted(run: StageRun, client: "MlflowClient", name: str, candidate: Candidate, folder: Path) -> str:
    """Registers a version with the encrypted file, under a flavour that no loader of MLflow takes for a plain ONNX."""
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    copy_file(candidate.onnx, folder / ENCRYPTED_ONNX)
    made = _logged_model(client, run)
    described = Model(
        artifact_path=made.artifact_location if made else MODEL,
        run_id=run.run_id,
        model_id=made.model_id if made else None,
        signature=_signature(candidate),
        metadata={"reid.contract": json.loads(candidate.contract.to_json())},
    )
    described.add_flavor(ENCRYPTED_FLAVOR, data=ENCRYPTED_ONNX)
    described.save(str(folder / "MLmodel"))
    if made:
        client.log_model_artifacts(made.model_id, str(folder))
        client.finalize_logged_model(made.model_id, "READY")
        source = f"models:/{made.model_id}"
    else:
        client.log_artifacts(run.run_id, str(folder), MODEL)
        source = f"{client.get_run(run.run_id).info.artifact_uri}/{MODEL}"
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name)
    model_id = made.model_id if made else None
    with _in_run(run):  # a registry in a database looks the model up in MLflow's own idea of the store
        version = client.create_model_version(name, source=source, run_id=run.run_id, model_id=model_id)
    return str(version.version)


def _logged_model(client: "MlflowClient", run: StageRun) -> "LoggedModel | None":
    """Creates a logged model of the run, whose files are still missing; None on a server of MLflow 2."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_run(run.run_id).info.experiment_id
    try:
        return client.create_logged_model(experiment, MODEL, run.run_id, model_type=ENCRYPTED_FLAVOR)
    except MlflowException as error:
        if error.error_code not in UNKNOWN_TO_OLD_SERVERS:
            raise
        return None


@contextmanager
def _in_run(run: StageRun) -> Iterator[None]:
    """Makes MLflow's module-level functions log into this run; MLFLOW_RUN_ID stays in the environment."""
    import mlflow

    mlflow.set_tracking_uri(run.tracking_uri)
    before = os.environ.get("MLFLOW_RUN_ID")
    with mlflow.start_run(run_id=run.run_id):
        yield
    if before is not None:  # mlflow.start_run removes it from the environment
        os.environ["MLFLOW_RUN_ID"] = before
