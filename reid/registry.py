"""The MLflow model registry: a trained, exported model becomes a version; the best one on a test set is `champion`."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reid.contract import Contract
from reid.mlflow_store import connect, reaching
from reid.tracking import StageRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True)
class Registration:
    """Where a model version stands in the registry, and why."""

    name: str
    version: str
    alias: str
    reason: str


def register_model(
    run: StageRun, *, name: str, model: Any, contract: Contract, mAP: float, tags: Mapping[str, str], card: str
) -> Registration:
    """Registers the ONNX as the next version of model `name`.

    It becomes `champion` if no champion exists for this test set (tag `fingerprint`), or if its mAP is above the
    champion's; otherwise `challenger`. A retried stage registers no second version.
    The signature is (batch, C, H, W) -> (batch, D), float32.
    model: an onnx.ModelProto. Raises TrackingError where the registry cannot be reached.
    """
    client = connect(run.tracking_uri)
    with reaching(run.tracking_uri):
        version = _version_of(client, run, name) or _log_version(run, name, model, contract)
        for key, value in {**tags, "mAP": repr(mAP)}.items():
            client.set_model_version_tag(name, version, key, value)
        client.update_model_version(name, version, description=card)
        holder = client.get_registered_model(name).aliases.get(CHAMPION)
        incumbent = client.get_model_version(name, holder).tags if holder else {}
        if str(holder) == version:
            alias, reason = CHAMPION, "an earlier attempt of this stage made it so"
        else:
            alias, reason = _contest(mAP, tags["fingerprint"], holder, incumbent)
        client.set_registered_model_alias(name, alias, version)
    logger.info("registered %s version %s as %s: %s", name, version, alias, reason)
    return Registration(name, version, alias, reason)


def _version_of(client: "MlflowClient", run: StageRun, name: str) -> str | None:
    """The version that an earlier attempt of this stage registered, if one did."""
    found = client.search_model_versions(f"name = '{name}' and run_id = '{run.run_id}'")
    return str(found[0].version) if found else None


def _contest(mAP: float, fingerprint: str, holder: str | None, incumbent: Mapping[str, str]) -> tuple[str, str]:
    if holder is None:
        return CHAMPION, "the first version"
    if incumbent.get("fingerprint") != fingerprint:
        return CHALLENGER, f"version {holder} holds the title on another data set; figures on two sets do not compare"
    best = float(incumbent.get("mAP", "nan"))
    if mAP > best:
        return CHAMPION, f"mAP {100 * mAP:.2f} is above version {holder}'s {100 * best:.2f}"
    return CHALLENGER, f"mAP {100 * mAP:.2f} is not above version {holder}'s {100 * best:.2f}"


def _log_version(run: StageRun, name: str, model: Any, contract: Contract) -> str:
    import mlflow
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    image = (-1, contract.channels, contract.height, contract.width)
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype("float32"), image, "input")]),
        Schema([TensorSpec(np.dtype("float32"), (-1, contract.embedding), "fc_pred")]),
    )
    mlflow.set_tracking_uri(run.tracking_uri)
    before = os.environ.get("MLFLOW_RUN_ID")
    with mlflow.start_run(run_id=run.run_id):
        logged = mlflow.onnx.log_model(
            model,
            name="reid-onnx",
            signature=signature,
            pip_requirements=[f"{package.__name__}=={package.__version__}" for package in (onnx, np)] + ["onnxruntime"],
            registered_model_name=name,
            save_as_external_data=False,
            metadata={"reid.contract": json.loads(contract.to_json())},
        )
    if before is not None:  # mlflow.start_run takes it out of the environment
        os.environ["MLFLOW_RUN_ID"] = before
    return str(logged.registered_model_version)
