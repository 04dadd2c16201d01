"""The MLflow model registry: an exported model becomes a version; the version with the best figure is `champion`.

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
from reid.thresholds import Thresholds
from reid.tracking.journal import now_ms
from reid.tracking.logged_model import log_figures
from reid.tracking.stage_run import StageRun
from reid.tracking.store import connect, reaching

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
MODEL = "reid-onnx"
"""Name of the logged model among the run's artifacts."""
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
    """Fingerprint of the data set on which it was scored."""
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
    tags: Mapping[str, str],
    card: str,
    files: Mapping[str, str],
    metrics: Mapping[str, float] | None = None,
    datasets: Sequence[Mapping[str, str]] = (),
) -> Registration:
    """Registers the candidate as the next version of model `name`, with its signature, an input example and `files`.

    It becomes `champion` if its parity holds and there is no champion, or its figure is above the champion's on the
    same data; otherwise `challenger`. The reason is a tag of the version and of the run. The signature is
    (batch, C, H, W) -> (batch, D), float32. An encrypted ONNX stays encrypted in the store. A retried stage does not
    register a second version. The page of the version's logged model shows the `metrics` beside the data sets that they
    are of (see logged_model.py). Raises TrackingError if the registry cannot be reached.
    """
    client = connect(run.tracking_uri)
    with reaching(run.tracking_uri), tempfile.TemporaryDirectory() as folder:
        texts = {"contract.json": candidate.contract.to_json(), "README.md": card, **files}
        for file, text in texts.items():
            (Path(folder) / file).write_text(text, encoding="utf-8")
        log = _log_encrypted if candidate.encrypted else _log_plain
        version = _version_of(client, run, name) or log(run, client, name, candidate, Path(folder))
        client.update_model_version(name, version, description=card)
        holder = client.get_registered_model(name).aliases.get(CHAMPION)
        incumbent = client.get_model_version(name, holder).tags if holder else {}
        if str(holder) == version:
            alias, reason = CHAMPION, "an earlier attempt of this stage made it champion"
        else:
            alias, reason = _contest(candidate, holder, incumbent)
        scores = {figure: repr(value) for figure, value in candidate.figures.items()}
        standing = {"fingerprint": candidate.fingerprint, "registered_as": alias, "reason": reason}
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
    """Logs the figures on the version's logged model, models:/ID, once; an encrypted file has none."""
    model_id = source.removeprefix("models:/")
    if model_id != source and not client.get_logged_model(model_id).metrics:
        log_figures(client, run.run_id, metrics, model_id=model_id, datasets=datasets, step=0, time=now_ms())


def _version_of(client: "MlflowClient", run: StageRun, name: str) -> str | None:
    """Returns the version that an earlier attempt of this stage registered; None if there is none."""
    found = client.search_model_versions(f"name = '{name}' and run_id = '{run.run_id}'")
    return str(found[0].version) if found else None


def _contest(candidate: Candidate, holder: str | None, incumbent: Mapping[str, str]) -> tuple[str, str]:
    """Returns the alias and the reason for it. `holder` is the champion's version, `incumbent` its tags."""
    if candidate.objection:
        return CHALLENGER, f"parity does not hold: {candidate.objection}"
    if holder is None:
        return CHAMPION, "the first version whose parity holds"
    if incumbent.get("fingerprint") != candidate.fingerprint:
        return CHALLENGER, f"version {holder} is champion on another data set; figures on two sets cannot be compared"
    name = {"mAP": "mAP", "reranked_mAP": "re-ranked mAP"}[candidate.figure]
    if candidate.figure not in incumbent:
        return CHALLENGER, f"version {holder} is champion, and its {name} is not known"
    best, own = float(incumbent[candidate.figure]), candidate.figures[candidate.figure]
    better = own > best
    relation = "above" if better else "not above"
    return (
        CHAMPION if better else CHALLENGER,
        f"{name} {100 * own:.2f} is {relation} version {holder}'s {100 * best:.2f}",
    )


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
    described = Model(
        artifact_path=MODEL,
        run_id=run.run_id,
        signature=_signature(candidate),
        metadata={"reid.contract": json.loads(candidate.contract.to_json())},
    )
    described.add_flavor("reid_encrypted_onnx", data=ENCRYPTED_ONNX)
    described.save(str(folder / "MLmodel"))
    client.log_artifacts(run.run_id, str(folder), MODEL)
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name)
    source = f"{client.get_run(run.run_id).info.artifact_uri}/{MODEL}"
    return str(client.create_model_version(name, source=source, run_id=run.run_id).version)


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
