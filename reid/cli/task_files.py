"""Where the files of a task are, if no pipeline says so: its folder, its model, its ONNX file and its images."""

import logging
from collections.abc import Sequence
from pathlib import Path

from reid.cli.pipeline_results import built_by_pipeline, exported_by_pipeline, trained_by_pipeline
from reid.data.chosen_folders import Folder, manifest_of, manifest_of_sets
from reid.data.file_index import read_images
from reid.data.file_names import file_names
from reid.deploy.opening import CHECKPOINT_NAMES
from reid.errors import ArtifactError
from reid.files.hashes import file_sha256
from reid.files.records import read_plain_file
from reid.spec import Experiment
from reid.stages.images_seen import look_at_images, missing_of
from reid.stages.validate import ensure_made
from reid.thresholds import Thresholds

logger = logging.getLogger(__name__)

MANIFEST = "dataset.json"
PARITY = "parity.json"


def results_folder(spec: Experiment, task: str) -> Path:
    """`<task>.results_dir`, else `results_dir/<task>`."""
    return Path(getattr(getattr(spec, task, None), "results_dir", None) or f"{spec.results_dir}/{task}")


def model_of(spec: Experiment, task: str) -> Path:
    """`<task>.checkpoint`, else the model directory of the task train, else that of the spec's pipeline.

    Raises ArtifactError if there is none of them, and if the pipeline trained with other settings.
    """
    given = getattr(spec, task).checkpoint
    model = Path(given) if given else results_folder(spec, "train")
    if (given and not model.exists()) or (not given and not _has_model(model)):
        of_pipeline = None if given else trained_by_pipeline(spec)
        if of_pipeline:
            logger.info("%s: the model is that of the pipeline, %s", task, of_pipeline)
            return of_pipeline
        if not model.exists():
            raise ArtifactError(
                f"{model.absolute()}: no such model\n"
                f"  want: a checkpoint in {task}.checkpoint, the one that the task train leaves there, or a finished "
                "training of the pipeline in results_dir"
            )
    return model


def thresholds_of(spec: Experiment, model: Path) -> str:
    """What the task evaluate has measured with this checkpoint, as one line of JSON; "" if it was another one, or none.

    See reid.thresholds.
    """
    from reid.deploy.opening import find_checkpoint

    file = results_folder(spec, "evaluate") / "thresholds.json"
    if not file.is_file():
        return ""
    text = read_plain_file(file).decode("utf-8", errors="replace")
    if f'"checkpoint_sha256": "{file_sha256(find_checkpoint(model))}"' not in text:
        return ""
    found = Thresholds.from_json(text, where=str(file))
    return found.to_json() if found.rows else ""


def _has_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in CHECKPOINT_NAMES)


def _model_of_pipeline(spec: Experiment) -> Path | None:
    """The pipeline's model if export would take it: no checkpoint is given, and the task train has left none."""
    if spec.export.checkpoint or spec.export.onnx_file or _has_model(results_folder(spec, "train")):
        return None
    return trained_by_pipeline(spec)


def onnx_to_write(spec: Experiment) -> Path:
    """export.onnx_file, else in the folder of the task export, under the checkpoint's name.

    It never goes beside a checkpoint of another folder: that may be a cached result of the pipeline, or read-only.
    """
    if spec.export.onnx_file:
        return Path(spec.export.onnx_file)
    model = Path(spec.export.checkpoint or "")
    return results_folder(spec, "export") / (f"{model.stem}.onnx" if model.suffix else "reid_model.onnx")


def exported_onnx(spec: Experiment) -> Path:
    """The ONNX file that the task export has left, else that of the spec's pipeline.

    Raises ArtifactError if it is not of export.checkpoint.

    Two checkpoints of one name go to one file; the task's parity.json holds which one it was.
    """
    onnx, report = onnx_to_write(spec), results_folder(spec, "export") / PARITY
    checkpoint = Path(spec.export.checkpoint or "")
    if not spec.export.onnx_file and onnx.exists() and checkpoint.is_file() and report.exists():
        recorded = read_plain_file(report).decode("utf-8", errors="replace")
        if f'"checkpoint_sha256": "{file_sha256(checkpoint)}"' not in recorded:
            raise ArtifactError(
                f"{onnx}: not exported from {checkpoint}, as {report} has it\n"
                "  want: the task export again, with export.overwrite=true; or another export.results_dir"
            )
    if not onnx.exists() and (model := _model_of_pipeline(spec)) and (of_pipeline := exported_by_pipeline(spec, model)):
        logger.info("the ONNX is that of the pipeline, %s", of_pipeline)
        return of_pipeline
    return onnx


def served_file(spec: Experiment) -> Path:
    """The engine or the ONNX file that Triton serves, as the tasks before leave it."""
    if spec.triton.backend == "tensorrt":
        engine = results_folder(spec, "gen_trt_engine") / "model.engine"
        onnx = exported_onnx(spec)
        return engine if engine.exists() or not onnx.exists() else built_by_pipeline(spec, onnx) or engine
    return exported_onnx(spec)


def model_repository(spec: Experiment) -> Path:
    """triton.model_repository, else in the task's folder."""
    return Path(spec.triton.model_repository or results_folder(spec, "triton") / "model_repository")


def images_of(spec: Experiment, task: str, *, needed: Sequence[str] = ("query", "gallery")) -> Path:
    """The manifest of the images that a task reads, which is written into its folder.

    `<task>.query_dataset` and `test_dataset` win over dataset.*, further test sets included, which only evaluate reads;
    the training images are never needed.
    """
    ensure_made(spec)
    folders = {
        "train": Folder(spec.dataset.train_dataset_dir, "dataset.train_dataset_dir"),
        "query": _image_folder(spec, task, "query_dataset"),
        "gallery": _image_folder(spec, task, "test_dataset"),
    }
    if any(chosen.field.startswith(task) for chosen in folders.values()):
        folders["train"] = Folder(None, "dataset.train_dataset_dir")  # of another data set: not to be read for this one
    path = results_folder(spec, task) / MANIFEST
    own = any(chosen.field.startswith(task) for chosen in folders.values())
    with_test_sets = task == "evaluate" and bool(spec.dataset.test_sets)
    if own and spec.dataset.corrections:
        logger.warning("%s: its images are its own, so dataset.corrections is not applied", task)
    if (spec.dataset.roots or with_test_sets or spec.dataset.corrections) and not own:
        seen = look_at_images(spec, missing=missing_of(spec), read=read_images, with_test_sets=with_test_sets)
        field = "dataset.root" if spec.dataset.layout != "market1501" else "dataset.*_dataset_dir"
        manifest_of_sets(seen.sets, needed=needed, field=field).save(path)
        return path
    names = file_names(spec.dataset.file_name, cameras=spec.dataset.cameras)
    manifest_of(folders, needed=needed, names=names, index_file=Path(spec.store_dir) / "index.json").save(path)
    return path


def _image_folder(spec: Experiment, task: str, name: str) -> Folder:
    own = getattr(getattr(spec, task, None), name, None)
    return Folder(own, f"{task}.{name}") if own else Folder(getattr(spec.dataset, f"{name}_dir"), f"dataset.{name}_dir")
