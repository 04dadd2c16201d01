"""The tasks of a spec outside the pipeline.

A task writes into `<task>.results_dir`, else `results_dir/<task>`, and reads what the tasks before it left there. Only
one process at a time uses a folder; experiment.yaml in it is the resolved spec, status.json is for programs that follow
the task. What loads torch is imported by the task that needs it.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reid.cli.status import StatusFile, reported
from reid.cli.task_files import (
    MANIFEST,
    PARITY,
    exported_onnx,
    images_of,
    model_of,
    model_repository,
    onnx_to_write,
    results_folder,
    served_file,
    thresholds_of,
)
from reid.distributed.launching import devices_here
from reid.errors import ArtifactError
from reid.files.disk_errors import raise_disk_errors_as_artifact_errors
from reid.files.locks import locked
from reid.files.secrets import key_to_environment
from reid.files.writing import write_text
from reid.spec import Experiment
from reid.spec.idle import EIGHT_BITS
from reid.spec.secret import open_text
from reid.stages.manifest import manifest
from reid.stages.outcome import Outcome
from reid.stages.validate import validate
from reid.tracking.stage_run import StageRun, stage_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskRun:
    """What a running task is given."""

    spec: Experiment
    folder: Path
    tracking: StageRun
    status: StatusFile


def run_task(task: str, spec: Experiment) -> Outcome:
    """Runs one task with the paths of the spec.

    Raises ReidError for what the user can correct: FolderInUse, before anything is written, if another process has the
    folder. The text of any error stands in status.json, too.
    """
    folder = results_folder(spec, task)
    key_to_environment(spec.encryption_key)
    with (
        locked(folder, user=task),
        reported(folder / "status.json", task) as status,
        raise_disk_errors_as_artifact_errors(folder),
    ):
        logger.info("%s: the results will be in %s", task, folder)
        write_text(folder / "experiment.yaml", open_text(spec))
        with stage_run(task, folder) as tracking:
            outcome = TASKS[task](TaskRun(spec, folder, tracking, status))
            tracking.log_outcome(outcome.metrics)
        status.succeeded(outcome.metrics, outcome.lines[0] if outcome.lines else "")
    return outcome


def ranks_here(task: str, spec: Experiment) -> int:
    """How many processes of this machine compute together in a task."""
    if task not in ("train", "evaluate", "inference"):
        return 1
    section = getattr(spec, task)
    devices = devices_here(
        task, num_gpus=section.num_gpus, gpu_ids=section.gpu_ids, cpu_processes=section.cpu_processes
    )
    return len(devices)


def make_servable(spec: Experiment) -> None:
    """Writes the model repository that the spec asks for; a missing export or engine is made first."""
    if spec.triton.model_file is None:
        if not exported_onnx(spec).exists():
            run_task("export", spec)
        if spec.triton.backend == "tensorrt" and not served_file(spec).exists():
            run_task("gen_trt_engine", spec)
    run_task("triton", spec)


def _validate(task: TaskRun) -> Outcome:
    return _validate_into(task.folder, task.spec, task.tracking)


def _validate_into(folder: Path, spec: Experiment, tracking: StageRun, *, with_test_sets: bool = True) -> Outcome:
    """Checks the data set; if it is good, writes the manifest too, which a pipeline leaves to the next stage."""
    outcome = validate(
        spec,
        report=folder / "report.html",
        summary=folder / "summary.md",
        findings=folder / "findings.json",
        run=tracking,
        with_test_sets=with_test_sets,
    )
    fingerprint = str(outcome.parameters["fingerprint"])
    manifest(spec, fingerprint=fingerprint, dataset=folder / MANIFEST, run=StageRun.none())
    return outcome


def _train(task: TaskRun) -> Outcome:
    data = task.folder / "validate"
    _validate_into(data, task.spec, StageRun.none(), with_test_sets=False)
    from reid.stages.train import train

    return train(
        task.spec,
        dataset=data / MANIFEST,
        model=task.folder,
        report=task.folder / "report.html",
        run=task.tracking,
        epoch_ended=functools.partial(task.status.epoch_ended, epochs=task.spec.train.num_epochs),
    )


def _evaluate(task: TaskRun) -> Outcome:
    model = model_of(task.spec, "evaluate")
    dataset = images_of(task.spec, "evaluate")
    from reid.stages.evaluate import evaluate

    report = task.folder / "report.html"
    return evaluate(task.spec, dataset=dataset, model=model, results=task.folder, report=report, run=task.tracking)


def _inference(task: TaskRun) -> Outcome:
    model = model_of(task.spec, "inference")
    dataset = images_of(task.spec, "inference")
    from reid.stages.inference import inference

    output = Path(task.spec.inference.output_file or task.folder / "inference.json")
    return inference(task.spec, dataset=dataset, model=model, embeddings=output, run=task.tracking)


def _export(task: TaskRun) -> Outcome:
    model = model_of(task.spec, "export")
    onnx = onnx_to_write(task.spec)
    if onnx.exists() and not task.spec.export.overwrite:
        raise ArtifactError(f"{onnx}: is there already; want another export.onnx_file, or export.overwrite=true")
    calibrated = task.spec.export.data_type in EIGHT_BITS
    dataset = images_of(task.spec, "export", needed=["train", "query"] if calibrated else ["query"])
    from reid.stages.export import export

    parity = task.folder / PARITY
    measured = thresholds_of(task.spec, model)
    return export(
        task.spec, dataset=dataset, model=model, onnx=onnx, parity=parity, run=task.tracking, thresholds=measured
    )


def _gen_trt_engine(task: TaskRun) -> Outcome:
    section = task.spec.gen_trt_engine
    onnx = Path(section.onnx_file or exported_onnx(task.spec))
    if not onnx.exists():
        raise ArtifactError(
            f"{onnx.absolute()}: no such ONNX file\n"
            "  want: one in gen_trt_engine.onnx_file, or the one that the task export leaves there"
        )
    if task.spec.export.encrypted:
        from reid.files.encryption import require_encrypted

        require_encrypted(onnx)
    from reid.deploy.gpu import use_gpu
    from reid.stages.gen_trt_engine import gen_trt_engine

    # the images are for running the engine, which a machine without a GPU cannot do
    gpu = use_gpu(section.gpu_id, field="gen_trt_engine.gpu_id")
    data = task.spec.dataset
    can_run = gpu is not None and (data.query_dataset_dir or data.root) is not None
    needed = ["query"] if can_run else []
    given = bool(section.tensorrt.calibration.cal_image_dir)
    has_train = data.train_dataset_dir or data.root or data.train_sets
    if section.tensorrt.data_type in EIGHT_BITS and has_train and not given:
        needed.append("train")
    dataset = images_of(task.spec, "gen_trt_engine", needed=needed) if needed else None
    return gen_trt_engine(task.spec, onnx=onnx, engine=task.folder, run=task.tracking, dataset=dataset)


def _triton(task: TaskRun) -> Outcome:
    from reid.stages.triton import triton

    model = Path(task.spec.triton.model_file or served_file(task.spec))
    return triton(task.spec, model=model, repository=model_repository(task.spec), run=task.tracking)


def _start_client(task: TaskRun) -> Outcome:
    dataset = images_of(task.spec, "start_client")
    from reid.stages.start_client import start_client

    return start_client(task.spec, dataset=dataset, results=task.folder, run=task.tracking)


TASKS: dict[str, Callable[[TaskRun], Outcome]] = {
    "validate": _validate,
    "train": _train,
    "evaluate": _evaluate,
    "inference": _inference,
    "export": _export,
    "gen_trt_engine": _gen_trt_engine,
    "triton": _triton,
    "start_client": _start_client,
}
