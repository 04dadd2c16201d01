"""Submits the pipeline of a spec to a cluster: one run of it, or a run again and again."""

from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from pipelines import ir
from pipelines.cluster.api import Cluster
from pipelines.cluster.pages import pages_of, run_page
from pipelines.cluster.preparation import compile_for_cluster
from reid.files.hashes import file_sha256
from reid.files.secrets import without_password
from reid.spec import Experiment


def submit(cluster: Cluster, spec: Experiment, path: Path, *, cluster_file: Path | None, stream: TextIO) -> str:
    """Compiles and uploads the pipeline, starts a run of it and returns the run's id."""
    name = spec.mlflow.run_name or f"{path.stem} {datetime.now():%Y-%m-%d %H:%M:%S}"
    version, submitted = _upload(cluster, spec, path, cluster_file=cluster_file)
    run_id = cluster.start(name, **submitted)
    pages, no_page = pages_of(cluster), f"run {run_id} (set KFP_UI, the address of Kubeflow's web pages, for its page)"
    where = run_page(pages, run_id) if pages else no_page
    stream.write(f"{name}: {version}\n{where}\n")
    stream.flush()
    return run_id


def repeat(
    cluster: Cluster, spec: Experiment, path: Path, *, cron: str, cluster_file: Path | None, stream: TextIO
) -> None:
    """Compiles and uploads the pipeline, and has it run whenever `cron` (six fields) says."""
    name = spec.mlflow.run_name or path.stem
    version, submitted = _upload(cluster, spec, path, cluster_file=cluster_file)
    replaced = cluster.repeat(name, cron=cron, **submitted)
    instead = ", instead of the one of this name before" if replaced else ""
    stream.write(f"{name}: {version} runs at {cron} (second, minute, hour, day, month, day of the week){instead}\n")
    pages = pages_of(cluster)
    if pages:
        stream.write(f"{without_password(pages)}/#/recurringruns\n")


def _upload(cluster: Cluster, spec: Experiment, path: Path, *, cluster_file: Path | None) -> tuple[str, dict[str, Any]]:
    """Uploads the pipeline as a version, once for each content; returns what it is called and what starts it."""
    with TemporaryDirectory() as folder:  # a submission's own: another one at the same moment compiles another spec
        file = Path(folder, "pipeline.yaml")
        compile_for_cluster(file, spec, cluster_file=cluster_file)
        pipeline, version = ir.load(file), f"{path.stem}-{file_sha256(file)[:12]}"
        pipeline_id = cluster.pipeline(pipeline.name, description="Person re-identification, from images to a model.")
        submitted = {
            "experiment_id": cluster.experiment(spec.mlflow.experiment),
            "pipeline_id": pipeline_id,
            "version_id": cluster.version(pipeline_id, version, file),
            "parameters": pipeline.arguments({}),
            "mlflow_experiment": spec.mlflow.experiment,
        }
    return f"version {version} of {pipeline.name}", submitted
