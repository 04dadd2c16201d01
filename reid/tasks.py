"""The tasks of a spec outside the pipeline: where a stage's files are, if no pipeline says so.

A task writes into `<task>.results_dir`, else `results_dir/<task>`, and reads what the tasks before it left there.
"""

from collections.abc import Callable
from pathlib import Path

from reid.errors import ArtifactError
from reid.spec import Experiment
from reid.stages.outcome import Outcome
from reid.tracking import StageRun, stage_run


def run_task(task: str, spec: Experiment) -> Outcome:
    """Runs one task with the paths of the spec; the resolved spec lies beside the results as experiment.yaml."""
    import yaml

    folder = _folder(spec, task)
    folder.mkdir(parents=True, exist_ok=True)
    resolved = yaml.safe_dump(spec.model_dump(exclude={"encryption_key"}), sort_keys=False)
    (folder / "experiment.yaml").write_text(resolved, encoding="utf-8")
    with stage_run(task) as run:
        return TASKS[task](spec, folder, run)


def _folder(spec: Experiment, task: str) -> Path:
    section = getattr(spec, task, None)
    return Path(getattr(section, "results_dir", None) or f"{spec.results_dir}/{task}")


def _validate(spec: Experiment, folder: Path, run: StageRun) -> Outcome:
    from reid.stages.validate import validate

    return validate(
        spec,
        dataset=folder / "dataset.json",
        report=folder / "report.html",
        summary=folder / "summary.md",
        findings=folder / "findings.json",
        run=run,
    )


def _dataset(spec: Experiment) -> Path:
    """The manifest of the spec's data set, made anew: an index makes that a matter of seconds."""
    folder = _folder(spec, "validate")
    _validate(spec, folder, StageRun.none())
    return folder / "dataset.json"


def _given_or(path: str | None, fallback: Path, field: str) -> Path:
    """The file the spec names, else what the task before left; ArtifactError where neither is there."""
    found = Path(path) if path else fallback
    if not found.exists():
        raise ArtifactError(f"{field}: {found}: not there; name it, or run the task that makes it first")
    return found


def _train(spec: Experiment, folder: Path, run: StageRun) -> Outcome:
    from reid.stages.train import train

    return train(spec, dataset=_dataset(spec), model=folder, report=folder / "report.html", run=run)


def _evaluate(spec: Experiment, folder: Path, run: StageRun) -> Outcome:
    from reid.stages.evaluate import evaluate

    model = _given_or(spec.evaluate.checkpoint, _folder(spec, "train"), "evaluate.checkpoint")
    return evaluate(spec, dataset=_dataset(spec), model=model, results=folder, report=folder / "report.html", run=run)


def _inference(spec: Experiment, folder: Path, run: StageRun) -> Outcome:
    from reid.stages.inference import inference

    model = _given_or(spec.inference.checkpoint, _folder(spec, "train"), "inference.checkpoint")
    return inference(spec, dataset=_dataset(spec), model=model, embeddings=folder / "inference.json", run=run)


def _export(spec: Experiment, folder: Path, run: StageRun) -> Outcome:
    from reid.stages.export import export

    model = _given_or(spec.export.checkpoint, _folder(spec, "train"), "export.checkpoint")
    onnx = _onnx_file(spec, model)
    if onnx.exists() and not spec.export.overwrite:
        raise ArtifactError(f"{onnx}: is there already; want another export.onnx_file, or export.overwrite=true")
    return export(spec, dataset=_dataset(spec), model=model, onnx=onnx, parity=folder / "parity.json", run=run)


def _onnx_file(spec: Experiment, model: Path) -> Path:
    """export.onnx_file, else beside the checkpoint."""
    if spec.export.onnx_file:
        return Path(spec.export.onnx_file)
    return model / "reid_model.onnx" if model.is_dir() else model.with_suffix(".onnx")


def _gen_trt_engine(spec: Experiment, folder: Path, run: StageRun) -> Outcome:
    from reid.stages.gen_trt_engine import gen_trt_engine

    made = _onnx_file(spec, Path(spec.export.checkpoint) if spec.export.checkpoint else _folder(spec, "train"))
    onnx = _given_or(spec.gen_trt_engine.onnx_file, made, "gen_trt_engine.onnx_file")
    return gen_trt_engine(spec, onnx=onnx, engine=folder, run=run)


TASKS: dict[str, Callable[[Experiment, Path, StageRun], Outcome]] = {
    "validate": _validate,
    "train": _train,
    "evaluate": _evaluate,
    "inference": _inference,
    "export": _export,
    "gen_trt_engine": _gen_trt_engine,
}
