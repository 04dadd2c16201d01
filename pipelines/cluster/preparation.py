"""The pipeline as a cluster gets it: resources from the spec and from the cluster's file, paths on volumes."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.cluster.cluster_file import read_cluster
from pipelines.cluster.resources import Resources
from reid.errors import PipelineError
from reid.files.secrets import KEY_ENVIRONMENT, encryption_key
from reid.spec import Experiment
from reid.spec.facts import CountsGpus, NamesGpus
from reid.spec.fields import fields_of, fields_with, paths_in_lists, pipeline_paths, sections_that_count_gpus
from reid.spec.one_line import one_line
from reid.spec.secret import open_values

RESULTS = "/tmp/reid"
"""Folder of a pod's own disk, for files that no other stage needs: mostly decoded images."""


def resources_of(
    spec: Experiment, *, cluster: Mapping[str, Any], cached: bool = True, encrypted: bool = False
) -> Resources:
    """What one compiled pipeline asks for. `cluster` is a cluster's file as `read_cluster` reads it.

    A task takes one GPU by default if it finds one; a cluster books GPUs only if the spec itself names them.
    """
    booked: dict[str, int] = {}
    for name, fact in fields_with(CountsGpus).items():
        asked = _gpus_asked_for(spec, name.rpartition(".")[0])
        booked[fact.parameter] = max(booked.get(fact.parameter, 0), asked)
    return Resources(
        gpus=booked["gpus"],
        embedding_gpus=booked["embedding_gpus"],
        engine_gpus=min(1, max(booked.values())),
        cached=cached,
        encrypted=encrypted,
        num_nodes=spec.train.num_nodes,
        **cluster,
    )


def _gpus_asked_for(spec: Experiment, section: str) -> int:
    """GPUs that a section of the spec asks for explicitly; 0 if it leaves both fields at their default."""
    part = getattr(spec, section)
    given = {"num_gpus", "gpu_ids"} & part.model_fields_set
    return max(part.num_gpus, len(set(part.gpu_ids))) if given else 0


def named_by_digest(*images: str) -> bool:
    """Whether every name always means the same image, which KFP's cache relies on."""
    return all("@sha256:" in image for image in images)


def spec_on_cluster(spec: Experiment, data_path: str) -> str:
    """The spec on one line, its relative paths on the data volume: data/market1501/query -> /data/market1501/query.

    It holds what differs from the defaults, and loads as the same spec as all of its values would. The number of GPUs
    stays, their ids do not: a pod counts the GPUs that it is given from 0.
    """
    values = open_values(spec)
    values["results_dir"] = RESULTS
    for section in sections_that_count_gpus():
        part = values[section]
        part["num_gpus"] = max(part["num_gpus"], len(set(part["gpu_ids"])))
    for name in fields_with(NamesGpus):
        if fields_of()[name].stages:
            part, key = _section_of(values, name)
            part[key] = [0] if isinstance(part[key], list) else 0
    for name in pipeline_paths():
        part, key = _section_of(values, name)
        if isinstance(part.get(key), list):
            part[key] = [_on_volume(str(path), data_path) for path in part[key]]
        elif part.get(key):
            part[key] = _on_volume(str(part[key]), data_path)
    for name, place, key, _ in paths_in_lists(spec):
        part, listed = _section_of(values, name)
        part[listed][place][key] = _on_volume(str(part[listed][place][key]), data_path)
    return one_line(values)


def _section_of(values: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """The section of a spec's values that a field lies in (empty if it is null), and the field's key there."""
    *sections, key = name.split(".")
    part = values
    for section in sections:
        part = part.get(section) or {}
    return part, key


def _on_volume(path: str, data_path: str) -> str:
    parts = PurePosixPath(path).parts
    return path if path.startswith("/") else str(PurePosixPath(data_path, *parts[parts[:1] == ("data",) :]))


def asks_for_encryption(spec: Experiment) -> bool:
    """Whether a run on this machine would encrypt, or has to; a cluster's run then encrypts too, or does not start."""
    return bool(spec.encryption_key or encryption_key() or spec.export.encrypted)


def compile_for_cluster(path: Path, spec: Experiment, *, cluster_file: Path | None) -> Resources:
    """Writes the compiled pipeline that a cluster runs, without KFP's cache if an image is not named by digest."""
    from components.images import REID, TENSORRT  # noqa: PLC0415 - read from the environment now
    from pipelines.compilation import compile_pipeline  # noqa: PLC0415 - loads kfp

    pinned = named_by_digest(REID, TENSORRT)
    if not pinned:
        print(
            "note: REID_IMAGE and REID_TRT_IMAGE name no digest (@sha256:…), so Kubeflow's cache is off:"
            " it could not tell a new image from an old one; every stage runs again",
            file=sys.stderr,
        )
    encrypted = asks_for_encryption(spec)
    cluster = read_cluster(cluster_file)
    _require_shared_volume(spec, cluster, cluster_file)
    resources = resources_of(spec, cluster=cluster, cached=pinned, encrypted=encrypted)
    if encrypted:
        print(_note_on_the_key(resources, cluster_file), file=sys.stderr)
    compile_pipeline(path, resources=resources, spec_text=spec_on_cluster(spec, resources.data_path))
    return resources


def _require_shared_volume(spec: Experiment, cluster: Mapping[str, Any], cluster_file: Path | None) -> None:
    """Raises PipelineError if a training on several nodes has no volume on which they meet."""
    if spec.train.num_nodes > 1 and cluster.get("work_claim") == "":
        raise PipelineError(
            f"{cluster_file}: work_claim: found none, and train.num_nodes is {spec.train.num_nodes}\n"
            "  want: a claim that several nodes mount at once (ReadWriteMany)"
        )


def _note_on_the_key(resources: Resources, cluster_file: Path | None) -> str:
    """The note on the key. Raises PipelineError if the cluster's file names no Secret that holds it."""
    found = resources.key_secret
    if found is None:
        raise PipelineError(
            f"{cluster_file}: secrets: found none that gives {KEY_ENVIRONMENT}, and this spec asks for encryption\n"
            f"  want: one that does, e.g. reid-encryption: {{key: {KEY_ENVIRONMENT}}}"
        )
    name, key = found
    namespace = os.environ.get("KFP_NAMESPACE") or "kubeflow"
    return (
        f"note: the encryption key is not sent: the stages take it from the secret {name} (key `{key}`),"
        " and do not start without it:\n"
        f"  kubectl create secret generic {name} --namespace {namespace} --from-literal={key}=…"
    )
