"""Runs one stage as a task of a pipeline: `python3 -m components.entry STAGE --executor-input JSON`.

Every runner starts a stage with this command and reads its results the same way: one file per output parameter, and
the executor output, a JSON that lists every artifact (kfp.local loses those that it does not list) and holds the
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

from reid.console.plain import printable, show_error
from reid.errors import ReidError, SpecError
from reid.files.disk_errors import raise_disk_errors_as_artifact_errors
from reid.files.locks import locked
from reid.files.machine import raise_refusals_as_machine_errors, settle_in
from reid.files.records import read_json_text
from reid.files.rights import rights_refused
from reid.files.secrets import KEY_ENVIRONMENT, encryption_key
from reid.files.surroundings import SPEC_OF_RUN, as_tags, surroundings_on_a_cluster
from reid.files.writing import write_text
from reid.spec import Experiment, warn_of_replaced_paths
from reid.spec.facts import STAGES
from reid.spec.form import load_spec_of_form
from reid.spec.secret import open_text, open_values
from reid.stages.executor_input import ExecutorInput, ListedArtifact, ListedArtifacts
from reid.stages.outcome import Outcome
from reid.stages.work_folder import deliver, empty_for, require_writable_volume, work_folder
from reid.tracking.environment import take_mlflow_settings
from reid.tracking.stage_run import stage_run

logger = logging.getLogger("components.entry")

METRICS = "system.Metrics"
DRAWN = {METRICS, "system.ClassificationMetrics"}
"""Kinds of artifacts that consist of metadata alone, without a file; a user interface draws them."""
MOUNTS = {"gs://": "/gcs/", "s3://": "/s3/", "minio://": "/minio/"}
"""Address of an object store -> the local path under which a cluster mounts it."""
INTERRUPTED = 130


@dataclass(frozen=True)
class Artifact:
    """One artifact of the executor input."""

    name: str
    uri: str
    schema: str
    path: Path


@dataclass(frozen=True)
class Ports:
    """The executor input: what a task is given, and the places of what it makes."""

    parameters: Mapping[str, Any]
    inputs: Mapping[str, Artifact]
    outputs: Mapping[str, Artifact]
    output_parameters: Mapping[str, Path]
    executor_output: Path

    def declared_by(self, stage: Callable[..., Outcome]) -> "Ports":
        """The ports that the stage's function names as parameters: a runner may add its own, as KFP "executor-logs".

        The kinds of artifacts in DRAWN stay too, for no function names them.
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
    """All ports that this JSON of the runner names, those that no stage declares included."""
    given = read_json_text(text, ExecutorInput, source="--executor-input")
    return Ports(
        parameters=given.inputs.parameterValues,
        inputs=_artifacts(given.inputs.artifacts),
        outputs=_artifacts(given.outputs.artifacts),
        output_parameters={name: Path(entry.outputFile) for name, entry in given.outputs.parameters.items()},
        executor_output=Path(given.outputs.outputFile),
    )


def _artifacts(section: Mapping[str, ListedArtifacts]) -> dict[str, Artifact]:
    found = {}
    for port, listed in section.items():
        if not listed.artifacts:
            continue  # if the stage declares this port, its call fails with the port's name
        entry = listed.artifacts[0]
        schema = entry.type.schemaTitle if entry.type else ""
        found[port] = Artifact(entry.name or port, entry.uri, schema, _local_path(entry))
    return found


def _local_path(entry: ListedArtifact) -> Path:
    """KFP's rule: a custom path, else the mount of the object store, else the address itself is a path."""
    if entry.customPath:
        return Path(entry.customPath)
    for scheme, mount in MOUNTS.items():
        if entry.uri.startswith(scheme):
            return Path(mount + entry.uri.removeprefix(scheme))
    return Path(entry.uri)


def run_stage(stage: str, ports: Ports) -> None:
    """Runs the stage and writes everything that the runner reads."""
    spec = _read_spec(stage, ports.parameters)
    empty_for(stage)
    work = work_folder(stage)
    if work:
        require_writable_volume(work)
    if nodes := _nodes(stage, spec, ports.parameters):
        ports, outcome, metrics = _run_on_nodes(nodes, spec, ports, work=work)
    else:
        function = getattr(importlib.import_module(f"reid.stages.{stage}"), stage)
        ports = ports.declared_by(function)
        outcome, metrics = _run_here(function, spec, ports, stage=stage, work=work)
    write_outputs(ports, outcome, metrics)


def _run_here(
    function: Callable[..., Outcome], spec: Experiment, ports: Ports, *, stage: str, work: Path | None
) -> tuple[Outcome, dict[str, float]]:
    """Runs the stage in this process, and logs it; returns its outcome and the metrics of it that are finite."""
    first = stage == STAGES[0]
    with (
        locked(work, user=stage) if work else nullcontext(),
        stage_run(stage, work or ports.executor_output.parent, experiment=spec.mlflow.experiment, first=first) as run,
    ):
        if first and os.environ.get("KFP_RUN_ID"):  # Kubeflow started the pipeline, and nothing has described it yet
            tags = {**_pipeline_tags(spec), **as_tags(surroundings_on_a_cluster())}
            run.describe_pipeline(params=open_values(spec), tags=tags, spec=_kept(spec, ports.executor_output.parent))
        outcome: Outcome = function(spec, **_arguments(ports, work), run=run)
        metrics = finite(outcome.metrics)
        run.log_outcome(metrics)
        if work:
            deliver(work, _output_files(ports))
    return outcome, metrics


def _nodes(stage: str, spec: Experiment, parameters: Mapping[str, Any]) -> Any:
    """The nodes on which Kubeflow starts this stage; None if it runs here.

    Raises SpecError if the spec or the form asks for other nodes than the pipeline was compiled for: in validate, so
    that it is known at once.
    """
    if not os.environ.get("KFP_RUN_ID") or stage not in {STAGES[0], "train"}:
        return None
    nodes = importlib.import_module("components.nodes.settings").Nodes.from_environment(os.environ)
    compiled, asked = nodes.count if nodes else 1, spec.train.num_nodes
    refusal = nodes.refusal(asked, parameters) if nodes else f"train.num_nodes: {asked}" if asked > 1 else ""
    if refusal:
        raise SpecError(
            f"{refusal}\n  want: what it was compiled for (train.num_nodes={compiled}), or a pipeline compiled with"
            " these values: make compile"
        )
    return nodes if stage == "train" else None


def _run_on_nodes(
    nodes: Any, spec: Experiment, ports: Ports, *, work: Path | None
) -> tuple[Ports, Outcome, dict[str, float]]:
    """Trains on several nodes, which log to MLflow themselves; returns what node 0 gives."""
    if work is None:
        raise SpecError("train.num_nodes: no work volume (REID_WORK_DIR)\n  want: a work_claim in the cluster's file")
    text, function = ports.parameters["spec"], importlib.import_module("components.nodes.launch").train_on_nodes
    ports = ports.declared_by(function)
    outcome: Outcome = function(spec, **_arguments(ports, work), text=text, nodes=nodes, work=work)
    deliver(work, _output_files(ports))
    return ports, outcome, outcome.metrics


def _read_spec(stage: str, parameters: Mapping[str, Any]) -> Experiment:
    """The spec that the stage is handed; the first stage reads the whole of it, and warns for all the others."""
    first = stage == STAGES[0]
    spec = load_spec_of_form(parameters["spec"], parameters, warn=first)
    if first:
        warn_of_replaced_paths(spec)
    return spec


def _arguments(ports: Ports, work: Path | None) -> dict[str, Any]:
    """The keyword arguments of the stage's function; output paths lie in the work folder if there is one."""
    return {
        **{name: artifact.path for name, artifact in ports.inputs.items()},
        **{name: work / name if work else path for name, path in _output_files(ports).items()},
        **{name: value for name, value in ports.parameters.items() if name != "spec"},
    }


def _output_files(ports: Ports) -> dict[str, Path]:
    """Port -> the path where the runner expects its file or folder."""
    return {name: artifact.path for name, artifact in ports.outputs.items() if artifact.schema not in DRAWN}


def _kept(spec: Experiment, folder: Path) -> Path:
    """The spec as a file, with which the run can be repeated."""
    file = folder / SPEC_OF_RUN
    write_text(file, open_text(spec))
    return file


def _pipeline_tags(spec: Experiment) -> dict[str, str]:
    name = {"mlflow.runName": spec.mlflow.run_name} if spec.mlflow.run_name else {}
    return {**spec.mlflow.tags, **name}


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The figures without NaN and infinity: JSON has neither, and KFP's parser refuses a whole file for one of them."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            logger.warning("metric %s is %s: left out", name, value)
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def write_outputs(ports: Ports, outcome: Outcome, metrics: Mapping[str, float]) -> None:
    """Writes the output parameters' files, the Metrics artifact and the executor output.

    An output parameter that the stage does not give is left out: the runner says so if it is one of its component. The
    outcome's lines go to the first artifact that has a file: a Metrics artifact may hold floats only, for KFP's
    user interface and its MLflow plugin read any other value as 0.
    """
    parameters = {}
    for name, file in ports.output_parameters.items():
        if name in outcome.parameters:
            parameters[name] = outcome.parameters[name]
            write_text(file, str(parameters[name]))
        else:
            logger.warning("output parameter %s: left out, for the stage gives no such value", name)
    listed, lines = {}, list(outcome.lines)
    for port, artifact in sorted(ports.outputs.items()):  # each runner lists them in its own order
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
    """Lines of "reid.progress" as `progress: …`, which a runner shows live; others with time, level and origin."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of the log."""
        if record.name == "reid.progress":
            return f"progress: {printable(record.getMessage())}"
        return printable(super().format(record))


def configure_logging() -> None:
    """Sends the log to standard error, as a runner reads it."""
    handler = logging.StreamHandler()
    handler.setFormatter(ProgressOrRecord("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=os.environ.get("REID_LOG_LEVEL", "INFO"), handlers=[handler])


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 done; 2 an error that the user can correct (no traceback); 130 interrupted; 1 a bug."""
    parser = argparse.ArgumentParser(prog="python -m components.entry", description="Runs one stage of the pipeline.")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--executor-input", required=True, help="JSON that the runner writes in place of {{$}}")
    parser.add_argument("--encrypted", action="store_true", help=f"run only if {KEY_ENVIRONMENT} is set")
    options = parser.parse_args(arguments)
    configure_logging()
    take_mlflow_settings(os.environ)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a deleted pod closes its MLflow runs, as on Ctrl-C
    try:
        settle_in()
        if options.encrypted and not encryption_key():
            raise SpecError(f"{KEY_ENVIRONMENT}: found no key\n  want: one, for the spec was compiled to be encrypted")
        with raise_disk_errors_as_artifact_errors(Path.cwd()), raise_refusals_as_machine_errors():
            run_stage(options.stage, read_ports(options.executor_input))
    except ReidError as error:
        show_error(f"{error}{rights_refused(error)}")
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
