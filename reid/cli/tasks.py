"""The tasks of a spec outside the pipeline: where a stage's files are, if no pipeline says so.

A task writes into `<task>.results_dir`, else `results_dir/<task>`, and reads what the tasks before it left there. Only
one task at a time has a folder; experiment.yaml in it is the resolved spec, status.json what a machine can follow.
"""

import errno
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from reid.cli.status import epochs_reported, reported
from reid.data.chosen_folders import Folder, manifest_of
from reid.data.file_names import file_names
from reid.errors import ArtifactError, ReidError
from reid.files.locks import locked
from reid.files.secrets import key_to_environment
from reid.files.writing import replacing
from reid.spec import Experiment
from reid.spec.secret import open_text
from reid.stages.outcome import Outcome
from reid.stages.validate import ensure_made, validate
from reid.tracking.stage_run import StageRun, stage_run

logger = logging.getLogger(__name__)

DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}
"""Errors of the system that the user can mend and we cannot."""
MANIFEST = "dataset.json"
PARITY = "parity.json"


def run_task(task: str, spec: Experiment) -> Outcome:
    """Runs one task with the paths of the spec.

    Raises ReidError for what the user can mend: TrainingError, before anything is written, where another task has the
    folder. The text of any error stands in status.json, too.
    """
    folder = results_folder(spec, task)
    key_to_environment(spec.encryption_key)
    with locked(folder, user=task), reported(folder / "status.json", task) as status, _disk_faults_told(folder):
        logger.info("%s: the results will be in %s", task, folder)
        _write_resolved(spec, folder / "experiment.yaml")
        with (
            stage_run(task, folder) as run,
            epochs_reported(status, folder / "history.json", epochs=spec.train.num_epochs),
        ):
            outcome = TASKS[task](spec, folder, run)
            run.log_outcome(outcome.metrics)
        status.succeeded(outcome.metrics, outcome.lines[0] if outcome.lines else "")
    return outcome


def results_folder(spec: Experiment, task: str) -> Path:
    """`<task>.results_dir`, else `results_dir/<task>`."""
    return Path(getattr(getattr(spec, task, None), "results_dir", None) or f"{spec.results_dir}/{task}")


def _write_resolved(spec: Experiment, path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text(open_text(spec), encoding="utf-8")


@contextmanager
def _disk_faults_told(folder: Path) -> Iterator[None]:
    """Turns a full or closed disk into an ArtifactError, wherever it was met; torch hides it in errors of its own."""
    try:
        yield
    except ReidError:
        raise
    except Exception as error:
        for cause in _with_causes(error):
            if isinstance(cause, OSError) and cause.errno in DISK_FAULTS:
                raise ArtifactError(
                    f"{cause.filename or folder}: cannot be written\n  found: {cause.strerror}"
                ) from error
        raise


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """The error, its cause, the cause's cause and so on; each once: Python lets an error be its own cause."""
    reached: BaseException | None = error
    seen: list[BaseException] = []
    while reached is not None and not any(reached is before for before in seen):
        yield reached
        seen.append(reached)
        reached = reached.__cause__ or reached.__context__


def _validate(spec: Experiment, folder: Path, run: StageRun) -> Outcome:
    return validate(
        spec,
        dataset=folder / MANIFEST,
        report=folder / "report.html",
        summary=folder / "summary.md",
        findings=folder / "findings.json",
        run=run,
    )


def _train(spec: Experiment, folder: Path, run: StageRun) -> Outcome:
    data = folder / "validate"
    _validate(spec, data, StageRun.none())
    from reid.stages.train import train

    return train(spec, dataset=data / MANIFEST, model=folder, report=folder / "report.html", run=run)


def _evaluate(spec: Experiment, folder: Path, run: StageRun) -> Outcome:
    model = _model(spec, "evaluate")
    dataset = _images(spec, folder, "evaluate")
    from reid.stages.evaluate import evaluate

    return evaluate(spec, dataset=dataset, model=model, results=folder, report=folder / "report.html", run=run)


def _inference(spec: Experiment, folder: Path, run: StageRun) -> Outcome:
    model = _model(spec, "inference")
    dataset = _images(spec, folder, "inference")
    from reid.stages.inference import inference

    output = Path(spec.inference.output_file or folder / "inference.json")
    return inference(spec, dataset=dataset, model=model, embeddings=output, run=run)


def _export(spec: Experiment, folder: Path, run: StageRun) -> Outcome:
    model = _model(spec, "export")
    onnx = _onnx_file(spec)
    if onnx.exists() and not spec.export.overwrite:
        raise ArtifactError(f"{onnx}: is there already; want another export.onnx_file, or export.overwrite=true")
    dataset = _images(spec, folder, "export", needed=["query"])
    from reid.stages.export import export

    return export(spec, dataset=dataset, model=model, onnx=onnx, parity=folder / PARITY, run=run)


def _gen_trt_engine(spec: Experiment, folder: Path, run: StageRun) -> Outcome:
    onnx = Path(spec.gen_trt_engine.onnx_file or _exported_file(spec))
    if not onnx.exists():
        raise ArtifactError(
            f"{onnx}: no such ONNX file\n"
            "  want: one in gen_trt_engine.onnx_file, or the one that the task export leaves there"
        )
    from reid.deploy.gpu import use_gpu
    from reid.stages.gen_trt_engine import gen_trt_engine

    # the images are for running the engine, which a machine without a GPU cannot do
    gpu = use_gpu(spec.gen_trt_engine.gpu_id, field="gen_trt_engine.gpu_id")
    runs = gpu is not None and spec.dataset.query_dataset_dir is not None
    dataset = _images(spec, folder, "gen_trt_engine", needed=["query"]) if runs else None
    return gen_trt_engine(spec, onnx=onnx, engine=folder, run=run, dataset=dataset)


def _triton(spec: Experiment, folder: Path, run: StageRun) -> Outcome:
    from reid.stages.triton import triton

    model = Path(spec.triton.model_file or _served_file(spec))
    return triton(spec, model=model, repository=model_repository(spec), run=run)


def _start_client(spec: Experiment, folder: Path, run: StageRun) -> Outcome:
    dataset = _images(spec, folder, "start_client")
    from reid.stages.start_client import start_client

    return start_client(spec, dataset=dataset, results=folder, run=run)


def make_servable(spec: Experiment) -> None:
    """Writes the model repository that the spec asks for; export and engine are made first where they lack."""
    if spec.triton.model_file is None:
        if not _exported_file(spec).exists():
            run_task("export", spec)
        if spec.triton.backend == "tensorrt" and not _served_file(spec).exists():
            run_task("gen_trt_engine", spec)
    run_task("triton", spec)


def model_repository(spec: Experiment) -> Path:
    """triton.model_repository, else in the task's folder."""
    return Path(spec.triton.model_repository or results_folder(spec, "triton") / "model_repository")


def _served_file(spec: Experiment) -> Path:
    """What the tasks before leave to be served."""
    if spec.triton.backend == "tensorrt":
        return results_folder(spec, "gen_trt_engine") / "model.engine"
    return _exported_file(spec)


def _model(spec: Experiment, task: str) -> Path:
    """<task>.checkpoint, else the model directory of the task train."""
    given = getattr(spec, task).checkpoint
    model = Path(given) if given else results_folder(spec, "train")
    if not model.exists():
        raise ArtifactError(
            f"{model}: no such model\n"
            f"  want: a checkpoint in {task}.checkpoint, or the one that the task train leaves there"
        )
    return model


def _onnx_file(spec: Experiment) -> Path:
    """export.onnx_file, else in the task's own folder under the checkpoint's name.

    Never beside a checkpoint of another folder: that may be a cached result of the pipeline, or a folder to read only.
    """
    if spec.export.onnx_file:
        return Path(spec.export.onnx_file)
    model = Path(spec.export.checkpoint or "")
    return results_folder(spec, "export") / (f"{model.stem}.onnx" if model.suffix else "reid_model.onnx")


def _exported_file(spec: Experiment) -> Path:
    """The ONNX that the task export has left; ArtifactError where it is not of export.checkpoint.

    Two checkpoints of one name go to one file. The task's parity.json knows which one it was.
    """
    onnx, report = _onnx_file(spec), results_folder(spec, "export") / PARITY
    checkpoint = Path(spec.export.checkpoint or "")
    if not spec.export.onnx_file and onnx.exists() and checkpoint.is_file() and report.exists():
        with checkpoint.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if f'"checkpoint_sha256": "{digest}"' not in report.read_text(encoding="utf-8", errors="replace"):
            raise ArtifactError(
                f"{onnx}: not exported from {checkpoint}, as {report} has it\n"
                "  want: the task export again, with export.overwrite=true; or another export.results_dir"
            )
    return onnx


def _images(spec: Experiment, folder: Path, task: str, *, needed: Sequence[str] = ("query", "gallery")) -> Path:
    """The manifest of the images that a task reads, written into its folder.

    `<task>.query_dataset` and `test_dataset` win over dataset.*; the training images are never needed.
    """
    ensure_made(spec)
    folders = {
        "train": Folder(spec.dataset.train_dataset_dir, "dataset.train_dataset_dir"),
        "query": _folder(spec, task, "query_dataset"),
        "gallery": _folder(spec, task, "test_dataset"),
    }
    if any(chosen.field.startswith(task) for chosen in folders.values()):
        folders["train"] = Folder(None, "dataset.train_dataset_dir")  # other images: not to be read for their sake
    path = folder / MANIFEST
    names = file_names(spec.dataset.file_name, cameras=spec.dataset.cameras)
    manifest_of(folders, needed=needed, names=names, index_file=Path(spec.store_dir) / "index.json").save(path)
    return path


def _folder(spec: Experiment, task: str, name: str) -> Folder:
    own = getattr(getattr(spec, task, None), name, None)
    return Folder(own, f"{task}.{name}") if own else Folder(getattr(spec.dataset, f"{name}_dir"), f"dataset.{name}_dir")


TASKS: dict[str, Callable[[Experiment, Path, StageRun], Outcome]] = {
    "validate": _validate,
    "train": _train,
    "evaluate": _evaluate,
    "inference": _inference,
    "export": _export,
    "gen_trt_engine": _gen_trt_engine,
    "triton": _triton,
    "start_client": _start_client,
}
