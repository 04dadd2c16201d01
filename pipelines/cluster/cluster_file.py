"""The cluster's file (`make compile CLUSTER=cluster.yaml`): what the cluster decides about every task, as YAML.

It holds fields of `pipelines.cluster.resources.Resources`: memory, claims, node selectors, tolerations, secrets,
time-outs. All that would only make an invalid pod much later is refused here.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from pipelines.cluster.memory import QUANTITY, in_bytes
from pipelines.cluster.resources import SHARED_MEMORY, SHARED_MEMORY_PATH, Resources
from reid.errors import PipelineError
from reid.files.yaml_input import check_yaml, read_yaml_text
from reid.spec.facts import STAGES

FROM_THE_SPEC = {"gpus", "embedding_gpus", "engine_gpus", "cached", "encrypted", "num_nodes"}
"""Fields of the resources that the spec decides, so that the cluster's file does not have them."""
PER_STAGE = {"memory", "memory_requests"}
"""Fields that are one text for every stage, or stage -> text."""
MOST_RETRIES = 10
CLAIM = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""A label of Kubernetes: KFP names a pod's volume by the claim, and a claim's own name may hold more."""
OTHER_VOLUMES = {
    *(SHARED_MEMORY, "kfp-launcher", "kfp-workspace", "ca-bundle", "custom-ca"),
    *(f"{name}-scratch" for name in ("gcs", "s3", "minio", "dot-local", "dot-cache", "dot-config")),
    *("var-run-argo", "tmp-dir-argo", "argo-env-config", "input-artifacts", "exec-sa-token"),
}
"""Volumes that KFP, Argo or we put into a stage's pod under a name of their own."""
KINDS = {str: "a text", int: "a whole number", dict: "a mapping", list: "a list", tuple: "a list"}
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""The name of a secret, a config map or a training runtime."""
TOLERATION = {"key", "operator", "value", "effect", "toleration_seconds"}
CPUS = re.compile(r"[0-9]+(\.[0-9]+)?|[0-9]+m")


def read_cluster(path: Path | None) -> dict[str, Any]:
    """The fields of the cluster's file. Raises PipelineError if one is unknown, or no value for a cluster."""
    if path is None:
        return {}
    try:
        text = read_yaml_text(path)
        check_yaml(text)
        values = yaml.safe_load(text) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PipelineError(f"{path}: {str(error).splitlines()[0]}\n  want: a YAML file of the cluster") from None
    assert isinstance(values, dict)
    _check_kinds(path, values)
    for name in PER_STAGE & set(values):
        _check_memory(f"{path}: {name}", values[name])
    if "shared_memory" in values:
        _check_memory(f"{path}: shared_memory", values["shared_memory"])
    _check_requests(path, values)
    _check_numbers(path, values)
    _check_volumes(path, values)
    _check_names(path, values)
    _check_nodes(path, values)
    return values


def _refusal(where: str, found: Any, want: str) -> PipelineError:
    return PipelineError(f"{where}: found {found!r}\n  want: {want}")


def _check_kinds(path: Path, values: Mapping[str, Any]) -> None:
    """Raises PipelineError if a field is unknown or its value of another kind."""
    fields = {field.name for field in dataclasses.fields(Resources)} - FROM_THE_SPEC
    defaults = Resources()
    for name, value in values.items():
        if name not in fields:
            raise PipelineError(f"{path}: unknown field {name!r}\n  want: some of {', '.join(sorted(fields))}")
        if name in PER_STAGE:
            continue
        kind = type(getattr(defaults, name))
        if not isinstance(value, list if kind is tuple else kind) or isinstance(value, bool):
            raise _refusal(f"{path}: {name}", value, KINDS[kind])


def _check_memory(where: str, value: Any) -> None:
    """Raises PipelineError if a value, or one of a stage's, is no quantity of memory."""
    if isinstance(value, dict):
        _check_stages(where, value)
        for stage, of_stage in value.items():
            _check_memory(f"{where}: {stage}", None if isinstance(of_stage, dict) else of_stage)
    elif not isinstance(value, str) or not QUANTITY.fullmatch(value):
        raise _refusal(where, value, "memory as Kubernetes writes it, e.g. 32G, 512Mi")


def _check_stages(where: str, value: Mapping[str, Any]) -> None:
    unknown = [stage for stage in value if stage not in STAGES]
    if unknown:
        raise _refusal(where, unknown[0], f"stages: {', '.join(STAGES)}")


def _check_requests(path: Path, values: Mapping[str, Any]) -> None:
    """Raises PipelineError if a stage would book more memory than it may use, which Kubernetes refuses."""
    chosen = Resources(**{name: values[name] for name in PER_STAGE & set(values)})
    for stage in STAGES:
        booked, limit = chosen.booked(stage), chosen.limit(stage)
        if in_bytes(booked) > in_bytes(limit):
            raise _refusal(f"{path}: memory_requests: {stage}", booked, f"at most its limit, {limit} (memory)")


def _check_numbers(path: Path, values: Mapping[str, Any]) -> None:
    """Raises PipelineError if a number of retries, CPUs or seconds is out of range."""
    cpus, retries = values.get("cpu_request", ""), values.get("retries", 0)
    if cpus and not CPUS.fullmatch(cpus):
        raise _refusal(f"{path}: cpu_request", cpus, 'CPUs as Kubernetes writes them, e.g. "2", 500m; "": books none')
    if not 0 <= retries <= MOST_RETRIES:
        raise _refusal(f"{path}: retries", retries, f"a number from 0 to {MOST_RETRIES}")
    timeouts = values.get("timeouts", {})
    _check_stages(f"{path}: timeouts", timeouts)
    seconds = {f"timeouts: {stage}": value for stage, value in timeouts.items()}
    if "timeout_s" in values:
        seconds["timeout_s"] = values["timeout_s"]
    for name, value in seconds.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise _refusal(f"{path}: {name}", value, "seconds, a whole number from 1")


def _check_volumes(path: Path, values: Mapping[str, Any]) -> None:
    """Raises PipelineError if the claims or their folders would make an invalid pod."""
    defaults = Resources()
    claims, folders = (
        {name: values.get(name, getattr(defaults, name)) for name in names}
        for names in (("data_claim", "work_claim"), ("data_path", "work_path"))
    )
    if not claims["work_claim"]:
        del claims["work_claim"], folders["work_path"]
    for name, claim in claims.items():
        if not CLAIM.fullmatch(claim) or claim in OTHER_VOLUMES:
            want = "small letters, digits and '-' alone, at most 63: KFP names the pod's volume by the claim"
            if claim in OTHER_VOLUMES:
                want = "another name: a stage's pod has a volume of that name already"
            raise _refusal(f"{path}: {name}", claim, want)
    for name, folder in folders.items():
        path_in_pod = PurePosixPath(folder)
        if not path_in_pod.is_absolute() or path_in_pod in map(PurePosixPath, ("/", SHARED_MEMORY_PATH)):
            raise _refusal(f"{path}: {name}", folder, "a folder of its own below /, e.g. /data")
    if len(set(claims.values())) < len(claims):
        raise _refusal(
            f"{path}: work_claim",
            claims["work_claim"],
            "another claim than data_claim: one pod cannot mount a claim twice;"
            ' or work_claim: "", and a retry trains from the start',
        )
    if len(set(map(PurePosixPath, folders.values()))) < len(folders):
        raise _refusal(f"{path}: work_path", folders["work_path"], "another folder than data_path")


def _check_names(path: Path, values: Mapping[str, Any]) -> None:
    """Raises PipelineError if something has no valid name, or a secret or config map says not what its keys are for."""
    named = [("pull_secrets", name) for name in values.get("pull_secrets", [])]
    for field in ("secrets", "config_maps"):
        for name, keys in values.get(field, {}).items():
            named.append((field, name))
            if not isinstance(keys, dict) or not all(isinstance(text, str) for text in (*keys, *keys.values())):
                raise _refusal(f"{path}: {field}: {name}", keys, "key: VARIABLE, e.g. {password: MY_PASSWORD}")
    if "training_runtime" in values:
        named.append(("training_runtime", values["training_runtime"]))
    for field, name in named:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise _refusal(f"{path}: {field}", name, "small letters, digits, '-' and '.', at most 253")


def _check_nodes(path: Path, values: Mapping[str, Any]) -> None:
    """Raises PipelineError if a node label or a toleration is none."""
    for field in ("node_selector", "gpu_node_selector"):
        for label, value in values.get(field, {}).items():
            if not isinstance(label, str) or not isinstance(value, str):
                raise _refusal(f"{path}: {field}: {label}", value, 'a text, e.g. "true" in quotation marks')
    for toleration in values.get("tolerations", []):
        if not isinstance(toleration, dict) or not set(toleration) <= TOLERATION:
            raise _refusal(f"{path}: tolerations", toleration, f"some of {', '.join(sorted(TOLERATION))}")
