"""Running a recorded pipeline again, and comparing every number.

The pipeline is started as a command of the checkout, for this package knows nothing of pipelines. It gets the recorded
spec, a fresh results folder (so that no result is used again) and an MLflow store of its own (so that nothing is
registered or mixed with other runs).
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reid.data.file_index import hash_images
from reid.errors import ArtifactError, DatasetError, PipelineError, SpecError
from reid.files.secrets import KEY_ENVIRONMENT, encryption_key
from reid.files.surroundings import ROOT, THREADS, same_packages, surroundings
from reid.spec import Experiment, load_spec
from reid.stages.images_seen import look_at_images, missing_of
from reid.stages.reproduced_run import Numbers, RecordedRun, numbers_in_mlflow, numbers_in_record

MUST_AGREE = ("data_fingerprint", "code_sha256", "lock_sha256", "python", "packages")
"""What decides the numbers wherever it runs; the other facts are of the machine, where the last bits may differ."""
NOT_COMPARED = re.compile(r"second|per_s\b|_ms\b|latency|memory|_bytes|mib|model_version", re.IGNORECASE)
"""Figures of time and room, which differ from run to run, and the version that a registry has counted."""


@dataclass(frozen=True)
class Fact:
    """Something that is not as it was."""

    name: str
    before: str
    now: str

    @property
    def decides(self) -> bool:
        """Whether the numbers cannot be expected to be equal."""
        return self.name in MUST_AGREE


@dataclass(frozen=True)
class Number:
    """A figure of both runs; None if one of them lacks it."""

    stage: str
    name: str
    before: float | None
    now: float | None

    @property
    def equal(self) -> bool:
        """To the last bit."""
        return self.before is not None and self.before == self.now

    @property
    def relative(self) -> float:
        """The difference by the larger of both; infinite if one is missing."""
        if self.before is None or self.now is None:
            return float("inf")
        largest = max(abs(self.before), abs(self.now))
        return abs(self.before - self.now) / largest if largest else 0.0


def differences_of_surroundings(run: RecordedRun) -> tuple[list[Fact], list[str]]:
    """The facts that are not as they were, and what is not known, in words."""
    now, notes = surroundings(), []
    if run.on_a_cluster:
        now = {name: value for name, value in now.items() if name in run.surroundings}
        now["packages"] = same_packages(run.surroundings.get("packages", ""), now.get("packages", ""))
        notes.append(
            "the run was on a cluster: its machines are not known, and on another one the last bits may differ"
        )
    elif run.surroundings:  # the run gets these as they were
        now["threads"] = run.surroundings.get("threads", "")
        set_before = threads_of(run)
        notes += [f"{name}={value} is set as it was" for name, value in sorted(set_before.items())]
        notes += [f"{name} is not set, as it was" for name in THREADS if name in os.environ and name not in set_before]
    else:
        notes.append("the run recorded no surroundings: code, packages and machine cannot be compared")
    facts = [
        Fact(name, run.surroundings.get(name, ""), now.get(name, ""))
        for name in now
        if run.surroundings and run.surroundings.get(name, "") != now[name]
    ]
    data, said = _data_now(load_spec(run.spec, warn=False), run)
    return facts + data, notes + said


def threads_of(run: RecordedRun) -> dict[str, str]:
    """The variables of the environment that set numbers of threads, as the run had them."""
    pairs = (pair.partition("=") for pair in run.surroundings.get("threads", "").split(", ") if "=" in pair)
    return {name: value for name, _, value in pairs if name in THREADS}


def _data_now(spec: Experiment, run: RecordedRun) -> tuple[list[Fact], list[str]]:
    """Whether the images are those of the run, by hashing them; a missing set may be drawn or fetched."""
    if not run.data_fingerprint:
        return [], ["the run's data fingerprint is not known"]
    try:
        seen = look_at_images(spec, missing=missing_of(spec), read=hash_images, with_test_sets=False)
    except DatasetError as error:
        return [], [f"the data set is not here yet: {str(error).splitlines()[0]}"]
    if missing_of(spec):
        return [], ["the data set is not here yet; the run draws or fetches it if the spec says how"]
    if seen.fingerprint == run.data_fingerprint:
        return [], []
    return [Fact("data_fingerprint", run.data_fingerprint, seen.fingerprint)], []


def require_reproducible(run: RecordedRun, facts: list[Fact], *, anyway: bool) -> None:
    """Raises ArtifactError if something that decides the numbers differs, SpecError without the key of the run."""
    if run.surroundings.get("encrypted") and not encryption_key():
        raise SpecError(f"{run.title}: its checkpoints were encrypted\n  want: a key in {KEY_ENVIRONMENT}")
    deciding = [fact.name for fact in facts if fact.decides]
    if deciding and not anyway:
        raise ArtifactError(
            f"{run.title}: cannot be reproduced here, for these differ: {', '.join(deciding)}\n"
            "  want: the same code, packages and data (git checkout, make setup); or --anyway, to see how much changes"
        )


def run_again(run: RecordedRun, folder: Path) -> Numbers:
    """Runs the pipeline into the folder; the numbers of all stages. Raises PipelineError if it did not end well."""
    if not (ROOT / "pipelines" / "__main__.py").is_file():
        raise PipelineError(f"{ROOT}: no checkout of this project, so no pipeline to run\n  want: reid of a checkout")
    if folder.exists() and any(folder.iterdir()):
        raise ArtifactError(f"{folder}: is not empty\n  want: a new folder, so that no earlier result is used again")
    folder.mkdir(parents=True, exist_ok=True)
    store = f"sqlite:///{folder.absolute()}/mlflow.db"
    words = ["-m", "pipelines", "--spec", str(run.spec), "--runner", "process", f"results_dir={folder.absolute()}"]
    status = _finish([sys.executable, *words], _environment(run, store))
    records = sorted((folder / "runs").glob("*.json"))
    if status or not records:
        raise PipelineError(f"{run.title}: running it again ended with exit status {status}; see {folder}")
    if not run.in_mlflow:
        return numbers_in_record(records[-1])
    from reid.tracking.recorded import newest_parent

    return numbers_in_mlflow(store, newest_parent(store))[0]


def _finish(command: list[str], environment: Mapping[str, str]) -> int:
    """Runs the command to its end; returns its exit status. After Ctrl-C, which it gets too, it may still clear up."""
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:  # subprocess.run would kill it after 0.25 s
        process.wait()
        raise


def _environment(run: RecordedRun, store: str) -> Mapping[str, str]:
    hidden = {"KFP_ENDPOINT", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", *THREADS}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    threads = (
        threads_of(run) if run.surroundings else {name: os.environ[name] for name in THREADS if name in os.environ}
    )
    return {**kept, **threads, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "MLFLOW_TRACKING_URI": store}


def compare_numbers(before: Numbers, now: Numbers) -> list[Number]:
    """Every figure of every stage, times left out."""
    return [
        Number(stage, name, before.get(stage, {}).get(name), now.get(stage, {}).get(name))
        for stage in sorted(before.keys() | now.keys())
        for name in sorted(before.get(stage, {}).keys() | now.get(stage, {}).keys())
        if not NOT_COMPARED.search(name)
    ]
