"""Compiles the pipeline and runs it: the command behind `make pipeline-run`.

    python -m pipelines.run --spec demo train.num_epochs=2

Reads the spec and looks for the data set first: a mistake there is told at once, before kfp, MLflow or torch is loaded.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pipelines import ir
from pipelines.cache import Store
from pipelines.display import Display, duration
from pipelines.local_runner import LocalRun, RunReport, shown
from pipelines.processes import Processes
from pipelines.run_record import RunRecord, close_killed_runs, sole_runner
from pipelines.summary import print_summary
from reid.data.market1501 import require_folders
from reid.errors import PipelineError, ReidError, SpecError
from reid.secret import key_to_environment
from reid.spec import Experiment, load_spec
from reid.spec.secret import open_text, open_values
from reid.tracking import open_pipeline_run

ROOT = Path(__file__).resolve().parent.parent
SPECS = ROOT / "pipelines" / "specs"
TRACKING_URI = f"sqlite:///{ROOT / 'results' / 'mlflow.db'}"
"""One store for all runs, whatever a spec's results_dir says, so that any two compare; MLFLOW_TRACKING_URI wins."""
FILE_NAMES = {
    "dataset": "dataset.json",
    "findings": "findings.json",
    "metrics": "metrics.json",
    "embeddings": "embeddings.json",
    "onnx": "model.onnx",
    "parity": "parity.json",
    "registration": "registration.json",
}
"""Names of outputs on this machine, for people and their tools; a cluster has its own, so no stage may count on one."""
DESCRIPTION = (
    "Runs the whole pipeline of one spec: validate, train, evaluate, inference, export, gen_trt_engine, register."
)
EPILOG = """\
Results lie in the spec's results_dir: pipeline/STAGE/KEY/ holds the outputs and the log of a stage, latest/STAGE leads
to those of the last run, runs/ keeps a record of each run. A result is used again while its inputs, its part of the
spec and the code are the same. Nothing is deleted by itself: to free room, or to force a stage to run again, delete
pipeline/STAGE, or one KEY in it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done; 2 the user's to mend; 1 a stage failed of itself; 130 Ctrl-C, 143 SIGTERM."""
    options = _parser().parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        path = spec_path(options.spec)
        spec = load_spec(path, overrides=options.overrides)
        if options.compile_only:
            return _compile_only(options.compile_only, spec)
        _refuse_other_runners(options.runner)
        _require_data(spec)
        return _run(spec, path, jobs=options.jobs)
    except ReidError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.run",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--spec", default="demo", help="a spec file, or the name of one in pipelines/specs (default demo)"
    )
    parser.add_argument(
        "--runner",
        default="auto",
        choices=["auto", "process", "docker", "kfp"],
        help="where tasks run; auto: as processes of this machine",
    )
    parser.add_argument(
        "--jobs",
        type=_positive,
        default=os.environ.get("REID_JOBS", "1"),
        help="tasks at once, where they don't need each other (default 1, or REID_JOBS)",
    )
    parser.add_argument(
        "--compile-only", type=Path, metavar="FILE", help="write the compiled pipeline there, run nothing"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help="e.g. train.num_epochs=2")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: want a whole number from 1")
    return int(text)


def spec_path(name: str) -> Path:
    """The file of a spec given as a path or as a name in pipelines/specs; SpecError lists the names."""
    for candidate in (Path(name), SPECS / name, SPECS / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    names = ", ".join(sorted(path.stem for path in SPECS.glob("*.yaml")))
    raise SpecError(f"{name}: no such spec file\n  want: a path, or one of {names} (in {SPECS.relative_to(ROOT)})")


def _refuse_other_runners(runner: str) -> None:
    if runner == "docker":
        raise PipelineError("RUNNER=docker: running the stages in containers is not there yet; want process (or auto)")
    if runner == "kfp" or (runner == "auto" and os.environ.get("KFP_ENDPOINT")):
        raise PipelineError(
            "RUNNER=kfp: submitting to a cluster is not there yet;"
            " `make compile` writes the YAML that the Kubeflow UI takes"
        )


def _require_data(spec: Experiment) -> None:
    """The data set's folders are there, or the validate stage can draw or fetch them."""
    if not (spec.dataset.synthetic or spec.dataset.source):
        require_folders(
            train=spec.dataset.train_dataset_dir,
            query=spec.dataset.query_dataset_dir,
            gallery=spec.dataset.test_dataset_dir,
        )


def _compile_only(path: Path, spec: Experiment) -> int:
    from pipelines.reid_pipeline import compile_pipeline  # noqa: PLC0415 - loads kfp
    from pipelines.resources import Resources  # noqa: PLC0415 - loads kfp

    # one GPU is the default of a task that takes what it finds; a cluster books it only for a spec that says so itself
    gpus = {
        stage: section.num_gpus
        for stage, section in (("train", spec.train), ("evaluate", spec.evaluate), ("inference", spec.inference))
        if "num_gpus" in section.model_fields_set
    }
    compile_pipeline(path, resources=Resources(gpus=gpus), spec_text=open_text(spec))
    print(path)
    return 0


def _run(spec: Experiment, path: Path, *, jobs: int) -> int:
    from pipelines.reid_pipeline import compile_pipeline  # noqa: PLC0415 - loads kfp

    started = time.monotonic()
    key_to_environment(spec.encryption_key)
    store = Store(Path(spec.results_dir))
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING_URI
    with sole_runner(store.root) as lock:
        print(
            f"spec {shown(path)}, results in {shown(store.results_dir)}, stages as processes of this machine",
            flush=True,
        )
        close_killed_runs(store.results_dir / "runs")
        compile_pipeline(store.root / "pipeline.yaml")
        pipeline = ir.load(store.root / "pipeline.yaml")
        report = _run_tracked(pipeline, spec, path, store=store, tracking_uri=tracking_uri, jobs=jobs, lock=lock)
    print_summary(report, results_dir=store.results_dir, mlflow=_mlflow_command(tracking_uri), stream=sys.stdout)
    print(f"{'done' if report.exit_status == 0 else 'not finished'} in {duration(time.monotonic() - started)}")
    return report.exit_status


def _mlflow_command(tracking_uri: str) -> str:
    """What opens the runs in a browser: a command for a database, the address itself for a server."""
    if tracking_uri == TRACKING_URI:
        return "make mlflow-ui"
    database = tracking_uri.startswith(("sqlite:", "postgresql", "mysql"))
    return (
        f"{shown(Path(sys.executable))} -m mlflow ui --backend-store-uri {tracking_uri}" if database else tracking_uri
    )


def _run_tracked(
    pipeline: ir.Pipeline, spec: Experiment, path: Path, *, store: Store, tracking_uri: str, jobs: int, lock: int
) -> RunReport:
    """Runs the pipeline under an MLflow run of its own, and keeps a record of it."""
    tracking = open_pipeline_run(
        tracking_uri=tracking_uri,
        experiment=spec.mlflow.experiment,
        run_name=spec.mlflow.run_name or f"{path.stem} {datetime.now():%Y-%m-%d %H:%M:%S}",
        tags={
            **spec.mlflow.tags,
            "mlflow.source.name": path.name,
            "reid.spec": str(path),
            "reid.results_dir": str(store.results_dir),
        },
        params=open_values(spec),
    )
    record = RunRecord(store.results_dir / "runs", pid=os.getpid(), spec=str(path), mlflow_run_id=tracking.run_id)
    run = LocalRun(
        pipeline,
        {"spec": open_text(spec)},
        store=store,
        processes=Processes(ROOT, keep_open=[lock]),
        display=Display(sys.stdout, width=max(len(task.stage) for task in pipeline.tasks)),
        record=record,
        tracking=tracking,
        jobs=jobs,
        file_names=FILE_NAMES,
    )
    started, exit_status = time.monotonic(), 1
    try:
        report = run.run()
        exit_status = report.exit_status
    finally:
        record.end("stopped" if exit_status > 128 else "failed" if exit_status else "done", time.monotonic() - started)
        tracking.finish("KILLED" if exit_status > 128 else "FAILED" if exit_status else "FINISHED")
    return report


if __name__ == "__main__":
    sys.exit(main())
