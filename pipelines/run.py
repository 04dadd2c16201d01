"""Compiles the pipeline and runs it: the command behind `make pipeline-run`.

    python -m pipelines --spec demo train.num_epochs=2

The spec is read and the data set looked for first, so that a mistake there is reported at once, before kfp, MLflow or
torch is loaded.
"""

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
from pipelines.display import Display
from pipelines.local import image_builds
from pipelines.local.cache import Store
from pipelines.local.containers import Containers
from pipelines.local.docker_engine import engine
from pipelines.local.mounts import cache_folders, mounts
from pipelines.local.processes import Processes
from pipelines.local.run_record import RunRecord, close_killed_runs
from pipelines.local.run_report import RunReport, shown
from pipelines.local.scheduler import LocalRun, Tasks
from pipelines.options import RUN_COMMANDS, parser, run_command_parser, spec_path
from pipelines.summary import print_summary
from reid.console.plain import show_error
from reid.console.progress import duration
from reid.data.market_folders import require_data
from reid.errors import PipelineError, ReidError
from reid.files.disk_errors import raise_disk_errors_as_artifact_errors
from reid.files.locks import locked
from reid.files.machine import raise_refusals_as_machine_errors, settle_in
from reid.files.secrets import key_to_environment, without_password
from reid.files.surroundings import as_tags, surroundings
from reid.spec import Experiment, load_spec, warn_of_replaced_paths
from reid.spec.secret import open_text, open_values
from reid.tracking.pipeline_run import open_pipeline_run

ROOT = Path(__file__).resolve().parent.parent
TRACKING_URI = f"sqlite:///{ROOT / 'results' / 'mlflow.db'}"
"""One MLflow store for all runs, so that any two can be compared; MLFLOW_TRACKING_URI wins."""
FILE_NAMES = {
    "dataset": "dataset.json",
    "findings": "findings.json",
    "metrics": "metrics.json",
    "embeddings": "embeddings.json",
    "onnx": "model.onnx",
    "parity": "parity.json",
    "registration": "registration.json",
}
"""Names of outputs on this machine, for people; a cluster has other names, so no stage may rely on these."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status.

    0 done; 1 a stage failed; 2 an error that the user can correct; 130 Ctrl-C, 143 SIGTERM.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        settle_in()
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
        with raise_disk_errors_as_artifact_errors(ROOT), raise_refusals_as_machine_errors():
            return _run_words(words)
    except ReidError as error:
        show_error(error)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # make pipeline-run | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run_words(words: Sequence[str]) -> int:
    """Does what the words of the command line say; returns the exit status."""
    if words and words[0] in RUN_COMMANDS:
        return _command_of_a_run(words)
    options = parser().parse_intermixed_args(words)
    path = spec_path(options.spec)
    spec = load_spec(path, overrides=options.overrides)
    warn_of_replaced_paths(spec)
    if options.compile_only:
        return _compile_only(options.compile_only, spec, options.cluster)
    runner = _runner(options.runner)
    if runner == "kfp":
        from pipelines.cluster.run import run_on_cluster  # noqa: PLC0415 - loads kfp

        return run_on_cluster(
            spec,
            path,
            cluster_file=options.cluster,
            stream=sys.stdout,
            detach=options.detach,
            every=options.every,
        )
    if options.detach or options.every:
        raise PipelineError("--detach, --every: found no cluster\n  want: the address of its API in KFP_ENDPOINT")
    _require_one_machine(spec)
    _require_data(spec)
    return _run(spec, path, jobs=options.jobs, in_containers=runner == "docker")


def _command_of_a_run(words: Sequence[str]) -> int:
    options = run_command_parser(words[0]).parse_args(words[1:])
    from pipelines.cluster.run import command  # noqa: PLC0415 - loads kfp

    return command(words[0], options.run, stream=sys.stdout)


def _runner(asked: str) -> str:
    """process, docker or kfp; auto is kfp if a cluster is named, else docker if the images are ready, else process."""
    if asked != "auto":
        return asked
    if os.environ.get("KFP_ENDPOINT"):
        return "kfp"
    return "docker" if image_builds.all_ready() else "process"


def _require_one_machine(spec: Experiment) -> None:
    """Raises PipelineError if the training needs other machines than this one."""
    if spec.train.num_nodes > 1:
        raise PipelineError(
            f"train.num_nodes: {spec.train.num_nodes}, and this runner has one machine\n"
            "  want: a cluster, KFP_ENDPOINT=…; or train.num_nodes=1; or the training by itself, on each machine:\n"
            f"  torchrun --nnodes={spec.train.num_nodes} … -m reid train -e SPEC"
        )


def _require_data(spec: Experiment) -> None:
    """Raises DatasetError if a folder of the data set is missing that the validate stage cannot draw or fetch."""
    made = spec.dataset.synthetic or spec.dataset.source
    require_data({} if made else spec.dataset.folders, roots=spec.dataset.roots | spec.dataset.test_roots)


def _compile_only(path: Path, spec: Experiment, cluster: Path | None) -> int:
    from pipelines.cluster.preparation import compile_for_cluster  # noqa: PLC0415 - loads kfp

    compile_for_cluster(path, spec, cluster_file=cluster)
    print(path)
    return 0


def _run(spec: Experiment, path: Path, *, jobs: int, in_containers: bool) -> int:
    from pipelines.cluster.preparation import resources_of  # noqa: PLC0415 - loads kfp
    from pipelines.compilation import compile_pipeline  # noqa: PLC0415 - loads kfp

    started = time.monotonic()
    if in_containers:
        image_builds.ensure()
    key_to_environment(spec.encryption_key)
    store = Store(Path(spec.results_dir))
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING_URI
    with locked(store.root, user="a pipeline run") as lock:
        how = f"containers of {images.REID}" if in_containers else "processes of this machine"
        print(f"spec {shown(path)}, results in {shown(store.results_dir)}, stages as {how}", flush=True)
        close_killed_runs(store.results_dir / "runs")
        tasks = _containers(spec, store, tracking_uri, lock) if in_containers else Processes(ROOT, keep_open=[lock])
        compile_pipeline(store.root / "pipeline.yaml", resources=resources_of(spec, cluster={}))
        pipeline = ir.load(store.root / "pipeline.yaml")
        report, page = _run_tracked(
            pipeline, spec, path, store=store, tracking_uri=tracking_uri, jobs=jobs, tasks=tasks
        )
    print_summary(report, results_dir=store.results_dir, mlflow=_how_to_open(tracking_uri, page), stream=sys.stdout)
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


def _how_to_open(tracking_uri: str, page: str) -> str:
    """Returns what opens this page of MLflow in a browser: an address, for a database after a command."""
    if not tracking_uri.startswith(("sqlite:", "postgresql", "mysql")):
        return f"{without_password(tracking_uri).rstrip('/')}/{page}"
    command = f"{shown(Path(sys.executable))} -m mlflow ui"
    if without_password(tracking_uri) == tracking_uri:
        command += f" --backend-store-uri {tracking_uri}"
    else:
        command = f'MLFLOW_BACKEND_STORE_URI="$MLFLOW_TRACKING_URI" {command}'  # no password on a screen or in ps
    return f"{'make mlflow-ui' if tracking_uri == TRACKING_URI else command}, then http://127.0.0.1:5000/{page}"


def _run_tracked(
    pipeline: ir.Pipeline, spec: Experiment, path: Path, *, store: Store, tracking_uri: str, jobs: int, tasks: Tasks
) -> tuple[RunReport, str]:
    """Runs the pipeline with an MLflow run and a record; returns the report and the page of its figures."""
    around = surroundings(ROOT)
    tracking = open_pipeline_run(
        tracking_uri=tracking_uri,
        experiment=spec.mlflow.experiment,
        run_name=spec.mlflow.run_name or f"{path.stem} {datetime.now():%Y-%m-%d %H:%M:%S}",
        tags={
            **spec.mlflow.tags,
            "mlflow.source.name": path.name,
            "reid.spec": str(path),
            "reid.results_dir": str(store.results_dir),
            **as_tags(around),
        },
        params=open_values(spec),
        results_dir=store.results_dir,
    )
    record = RunRecord(
        store.results_dir / "runs",
        pid=os.getpid(),
        spec=str(path),
        mlflow_run_id=tracking.run_id,
        surroundings=around,
    )
    tracking.log_artifact(record.keep_spec(open_text(spec)))
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
