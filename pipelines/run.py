"""Compiles the pipeline and runs it: the command behind `make pipeline-run`.

    python -m pipelines --spec demo train.num_epochs=2

Reads the spec and looks for the data set first: a mistake there is told at once, before kfp, MLflow or torch is loaded.
"""

import argparse
import getpass
import logging
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from components import images
from pipelines import ir
from pipelines.display import Display, duration
from pipelines.local import image_builds
from pipelines.local.cache import Store
from pipelines.local.containers import Containers
from pipelines.local.docker_engine import engine
from pipelines.local.mounts import cache_folders, mounts
from pipelines.local.processes import Processes
from pipelines.local.run_record import RunRecord, close_killed_runs, sole_runner
from pipelines.local.scheduler import LocalRun, RunReport, Tasks, shown
from pipelines.summary import print_summary
from reid.data.market1501 import require_folders
from reid.errors import ReidError, SpecError
from reid.files.secrets import key_to_environment
from reid.spec import Experiment, load_spec, tell_what_a_pipeline_replaces
from reid.spec.secret import open_text, open_values
from reid.tracking.pipeline_run import open_pipeline_run

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
        tell_what_a_pipeline_replaces(spec)
        if options.compile_only:
            return _compile_only(options.compile_only, spec, options.cluster)
        runner = _runner(options.runner)
        if runner == "kfp":
            from pipelines.cluster.run import run_on_cluster  # noqa: PLC0415 - loads kfp

            return run_on_cluster(spec, path, cluster_file=options.cluster, stream=sys.stdout)
        _require_data(spec)
        return _run(spec, path, jobs=options.jobs, in_containers=runner == "docker")
    except ReidError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines",
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
        help="where tasks run; auto: on the cluster that KFP_ENDPOINT names, else in containers where Docker answers"
        " and our images are built and up to date, else as processes of this machine",
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
    parser.add_argument(
        "--cluster", type=Path, metavar="FILE", help="the cluster's own settings, YAML (memory, claims, tolerations …)"
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


def _runner(asked: str) -> str:
    """process, docker or kfp; auto is the cluster where one is named, else containers where their images are ready."""
    if asked != "auto":
        return asked
    if os.environ.get("KFP_ENDPOINT"):
        return "kfp"
    return "docker" if image_builds.all_ready() else "process"


def _require_data(spec: Experiment) -> None:
    """The data set's folders are there, or the validate stage can draw or fetch them."""
    if not (spec.dataset.synthetic or spec.dataset.source):
        require_folders(
            train=spec.dataset.train_dataset_dir,
            query=spec.dataset.query_dataset_dir,
            gallery=spec.dataset.test_dataset_dir,
        )


def _compile_only(path: Path, spec: Experiment, cluster: Path | None) -> int:
    from pipelines.cluster.preparation import compile_for_cluster  # noqa: PLC0415 - loads kfp

    compile_for_cluster(path, spec, cluster_file=cluster)
    print(path)
    return 0


def _run(spec: Experiment, path: Path, *, jobs: int, in_containers: bool) -> int:
    from pipelines.cluster.preparation import resources_of  # noqa: PLC0415 - loads kfp
    from pipelines.reid_pipeline import compile_pipeline  # noqa: PLC0415 - loads kfp

    started = time.monotonic()
    if in_containers:
        image_builds.ensure()
    key_to_environment(spec.encryption_key)
    store = Store(Path(spec.results_dir))
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING_URI
    with sole_runner(store.root) as lock:
        how = f"containers of {images.REID}" if in_containers else "processes of this machine"
        print(f"spec {shown(path)}, results in {shown(store.results_dir)}, stages as {how}", flush=True)
        close_killed_runs(store.results_dir / "runs")
        tasks = _containers(spec, store, tracking_uri, lock) if in_containers else Processes(ROOT, keep_open=[lock])
        compile_pipeline(store.root / "pipeline.yaml", resources=resources_of(spec, cluster={}))
        pipeline = ir.load(store.root / "pipeline.yaml")
        report, page = _run_tracked(
            pipeline, spec, path, store=store, tracking_uri=tracking_uri, jobs=jobs, tasks=tasks
        )
    print_summary(report, results_dir=store.results_dir, mlflow=_how_to_see(tracking_uri, page), stream=sys.stdout)
    print(f"{'done' if report.exit_status == 0 else 'not finished'} in {duration(time.monotonic() - started)}")
    return report.exit_status


def _containers(spec: Experiment, store: Store, tracking_uri: str, lock: int) -> Containers:
    caches = cache_folders(spec, ROOT)
    return Containers(
        engine(),
        store.results_dir,
        mounts=lambda stage: mounts(spec, stage=stage, tracking_uri=tracking_uri, caches=caches.values()),
        environment={"USER": getpass.getuser(), **{variable: str(folder) for variable, folder in caches.items()}},
        keep_open=[lock],
    )


def _how_to_see(tracking_uri: str, page: str) -> str:
    """Returns what opens this page of MLflow in a browser: an address, for a database after a command."""
    if not tracking_uri.startswith(("sqlite:", "postgresql", "mysql")):
        return f"{tracking_uri.rstrip('/')}/{page}"
    command = f"{shown(Path(sys.executable))} -m mlflow ui --backend-store-uri {tracking_uri}"
    return f"{'make mlflow-ui' if tracking_uri == TRACKING_URI else command}, then http://127.0.0.1:5000/{page}"


def _run_tracked(
    pipeline: ir.Pipeline, spec: Experiment, path: Path, *, store: Store, tracking_uri: str, jobs: int, tasks: Tasks
) -> tuple[RunReport, str]:
    """Runs the pipeline under an MLflow run of its own, and keeps a record; returns the page of its figures, too."""
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
        results_dir=store.results_dir,
    )
    record = RunRecord(store.results_dir / "runs", pid=os.getpid(), spec=str(path), mlflow_run_id=tracking.run_id)
    run = LocalRun(
        pipeline,
        {"spec": open_text(spec)},
        store=store,
        tasks=tasks,
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
    return report, tracking.figures_page


if __name__ == "__main__":
    sys.exit(main())
