"""Runs one stage as a task of a pipeline: `python3 -m components.entry STAGE --executor-input JSON`.

Every runner starts a stage with this command and reads its results the same way: one file per output parameter, and
the executor output JSON, which lists every artifact (kfp.local forgets those it does not name) and carries the
figures as metadata of the Metrics artifact.
"""

import argparse
import importlib
import inspect
import json
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reid.errors import ReidError, SpecError
from reid.files.locks import locked
from reid.files.secrets import KEY_ENVIRONMENT, encryption_key
from reid.files.writing import write_text
from reid.spec import Experiment, load_spec, tell_what_a_pipeline_replaces
from reid.spec.secret import open_values
from reid.spec.sections import STAGE_FIELDS
from reid.stages.outcome import Outcome
from reid.stages.work_folder import deliver, empty_for, work_folder
from reid.tracking.stage_run import stage_run

logger = logging.getLogger("components.entry")

STAGES = ("validate", *STAGE_FIELDS)
METRICS = "system.Metrics"
DRAWN = {METRICS, "system.ClassificationMetrics"}
"""Kinds of artifacts that are all metadata, no file."""
MOUNTS = {"gs://": "/gcs/", "s3://": "/s3/", "minio://": "/minio/"}
"""Where a cluster mounts an object store: the local path of an artifact's address."""
INTERRUPTED = 130
BOOKED = {"gpus": ["train"], "embedding_gpus": ["evaluate", "inference"]}
"""Pipeline parameter -> the spec's sections whose GPUs it is."""


@dataclass(frozen=True)
class Artifact:
    """One artifact of the executor input."""

    name: str
    uri: str
    schema: str
    path: Path


@dataclass(frozen=True)
class Ports:
    """The executor input: what a task is given, and where it is to put what it makes."""

    parameters: Mapping[str, Any]
    inputs: Mapping[str, Artifact]
    outputs: Mapping[str, Artifact]
    output_parameters: Mapping[str, Path]
    executor_output: Path

    def declared_by(self, stage: Callable[..., Outcome]) -> "Ports":
        """Without what the stage's function does not name: a runner adds ports of its own, KFP "executor-logs".

        The kinds of artifacts that are all metadata stay, for no function names them.
        """
        named = inspect.signature(stage).parameters
        return replace(
            self,
            parameters={name: value for name, value in self.parameters.items() if name in named},
            inputs={port: artifact for port, artifact in self.inputs.items() if port in named},
            outputs={
                port: artifact for port, artifact in self.outputs.items() if port in named or artifact.schema in DRAWN
            },
        )


def read_ports(text: str) -> Ports:
    """The ports as this JSON of the runner names them, those that no stage declares included."""
    given = json.loads(text)
    inputs, outputs = given.get("inputs", {}), given.get("outputs", {})
    return Ports(
        parameters=inputs.get("parameterValues", {}),
        inputs=_artifacts(inputs),
        outputs=_artifacts(outputs),
        output_parameters={name: Path(entry["outputFile"]) for name, entry in outputs.get("parameters", {}).items()},
        executor_output=Path(outputs["outputFile"]),
    )


def _artifacts(section: Mapping[str, Any]) -> dict[str, Artifact]:
    found = {}
    for port, listed in section.get("artifacts", {}).items():
        if not listed.get("artifacts"):
            continue  # the stage says itself that it lacks one that it declares
        entry = listed["artifacts"][0]
        schema = entry.get("type", {}).get("schemaTitle", "")
        found[port] = Artifact(entry.get("name", port), entry["uri"], schema, _local_path(entry))
    return found


def _local_path(entry: Mapping[str, Any]) -> Path:
    """KFP's rule: a custom path, else the mount of the object store, else the address itself is a path."""
    if entry.get("customPath"):
        return Path(entry["customPath"])
    uri: str = entry["uri"]
    for scheme, mount in MOUNTS.items():
        if uri.startswith(scheme):
            return Path(mount + uri.removeprefix(scheme))
    return Path(uri)


def run_stage(stage: str, ports: Ports) -> None:
    """Runs the stage and writes everything that the runner reads."""
    first = stage == "validate"  # reads the whole of the spec, the others their parts
    spec = load_spec(text=ports.parameters["spec"], overrides=_booked(ports.parameters), told=not first)
    if first:
        tell_what_a_pipeline_replaces(spec)
    function = getattr(importlib.import_module(f"reid.stages.{stage}"), stage)
    ports = ports.declared_by(function)
    arguments: dict[str, Any] = {name: artifact.path for name, artifact in ports.inputs.items()}
    empty_for(stage)
    work = work_folder(stage)
    files = {name: artifact.path for name, artifact in ports.outputs.items() if artifact.schema not in DRAWN}
    arguments |= {name: work / name for name in files} if work else files
    arguments |= {name: value for name, value in ports.parameters.items() if name != "spec"}
    folder = work or ports.executor_output.parent
    first = stage == STAGES[0]
    with (
        locked(work, user=stage) if work else nullcontext(),
        stage_run(stage, folder, experiment=spec.mlflow.experiment, first=first) as run,
    ):
        if first and os.environ.get("KFP_RUN_ID"):  # no runner of ours did it
            run.describe_pipeline(params=open_values(spec), tags=_pipeline_tags(spec))
        outcome: Outcome = function(spec, **arguments, run=run)
        metrics = _finite(outcome.metrics)
        run.log_outcome(metrics)
        if work:
            deliver(work, files)
    write_outputs(ports, outcome, metrics)


def _booked(parameters: Mapping[str, Any]) -> list[str]:
    """The GPUs that a pipeline parameter books, as fields of the spec; 0 leaves the spec as it is."""
    overrides = []
    for parameter, sections in BOOKED.items():
        text = str(parameters.get(parameter, "0"))
        if not text.isdecimal():
            raise SpecError(f"pipeline parameter {parameter}: found {text!r}\n  want: a whole number of GPUs, from 0")
        overrides += [f"{section}.num_gpus={int(text)}" for section in sections if int(text)]
    return overrides


def _pipeline_tags(spec: Experiment) -> dict[str, str]:
    name = {"mlflow.runName": spec.mlflow.run_name} if spec.mlflow.run_name else {}
    return {**spec.mlflow.tags, **name}


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """JSON knows no NaN, and KFP's parser refuses the whole file for one."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            logger.warning("metric %s is %s: left out", name, value)
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def write_outputs(ports: Ports, outcome: Outcome, metrics: Mapping[str, float]) -> None:
    """Writes the output parameters' files, the Metrics artifact and the executor output.

    The lines for people go to the first artifact that is no Metrics: those hold floats only, as KFP's UI and its MLflow
    plugin read any other value as 0.
    """
    parameters = {name: outcome.parameters[name] for name in ports.output_parameters}
    for name, file in ports.output_parameters.items():
        write_text(file, str(parameters[name]))
    listed, lines = {}, list(outcome.lines)
    for port, artifact in sorted(ports.outputs.items()):  # runners list them in orders of their own
        metadata: dict[str, Any] = {}
        if artifact.schema in DRAWN:
            metadata = dict(metrics) if artifact.schema == METRICS else outcome.drawn.get(port, {})
            write_text(artifact.path, json.dumps(metadata, indent=1) + "\n")
        elif lines:
            metadata, lines = {"lines": lines}, []
        listed[port] = {"artifacts": [{"name": artifact.name, "uri": artifact.uri, "metadata": metadata}]}
    written = {"parameterValues": parameters, "artifacts": listed}
    write_text(ports.executor_output, json.dumps(written, indent=1, allow_nan=False) + "\n")


class ProgressOrRecord(logging.Formatter):
    """Lines of "reid.progress" as `progress: …`, for whoever shows them live; others with time, level and origin."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of the log."""
        if record.name == "reid.progress":
            return f"progress: {record.getMessage()}"
        return super().format(record)


def _configure_logging() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(ProgressOrRecord("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=os.environ.get("REID_LOG_LEVEL", "INFO"), handlers=[handler])


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 the user's to mend (a text, no traceback), 130 interrupted, 1 a fault of ours."""
    parser = argparse.ArgumentParser(prog="python -m components.entry", description="Runs one stage of the pipeline.")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--executor-input", required=True, help="JSON that the runner puts in for {{$}}")
    parser.add_argument("--encrypted", action="store_true", help=f"run only where {KEY_ENVIRONMENT} is set")
    options = parser.parse_args(arguments)
    _configure_logging()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a pod that is deleted closes its runs as on Ctrl-C
    try:
        if options.encrypted and not encryption_key():
            raise SpecError(f"{KEY_ENVIRONMENT}: found no key\n  want: one, for the spec was compiled to be encrypted")
        run_stage(options.stage, read_ports(options.executor_input))
    except ReidError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
