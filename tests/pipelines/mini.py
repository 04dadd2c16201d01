"""A small pipeline of real tasks, compiled with kfp: make -> left, right -> join, in a repository of its own.

Its stages do what their spec says (JSON): {"text": …, "steps": n, "step_s": …, "exit": …}. A diary beside the code
says what really ran.

    python -m tests.pipelines.mini REPOSITORY RESULTS ARGUMENTS_JSON [JOBS] [containers]

runs it as a runner process that can be killed.
"""

# mypy: disable-error-code="untyped-decorator, valid-type"
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from kfp import compiler, dsl

from pipelines import ir
from pipelines.display import Display
from pipelines.local.cache import Store
from pipelines.local.containers import Containers
from pipelines.local.docker_engine import engine
from pipelines.local.processes import Processes
from pipelines.local.run_record import RunRecord, close_killed_runs
from pipelines.local.run_report import RunReport
from pipelines.local.scheduler import LocalRun, Tasks
from reid.files.locks import locked
from reid.tracking.pipeline_run import PipelineRun

IMAGE = "python:3.11"
STAGES = ("make", "left", "right", "join")
ENTRY = '''"""The entry of the small repository."""
import importlib
import sys

importlib.import_module(f"reid.stages.{sys.argv[1]}").main(sys.argv[3])
'''
STAGE = """from reid.work import work


def main(ports):
    work("STAGE", ports)
"""
WORK = """
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from reid.words import GREETING

ROOT = Path(__file__).parent.parent


def note(text):
    with (ROOT / "diary.txt").open("a") as diary:
        diary.write(text + "\\n")


def work(stage, text):
    ports = json.loads(text)
    spec = json.loads(ports["inputs"]["parameterValues"]["spec"])
    outputs = ports["outputs"]
    folder = Path(outputs["artifacts"]["data"]["artifacts"][0]["uri"])
    folder.mkdir(parents=True, exist_ok=True)
    step_file = folder / "step"
    step = int(step_file.read_text()) if step_file.exists() else 0
    note(f"{stage} starts at step {step}, process {os.getpid()}")
    print(GREETING, stage, "with", len(text), "bytes")
    if spec.get("child"):
        note(f"child {subprocess.Popen(['sleep', '1000']).pid}")
    while step < spec.get("steps", 0):
        time.sleep(spec.get("step_s", 0))
        step += 1
        written = folder / "step.partial"  # renamed, so that a kill never leaves an empty file
        written.write_text(str(step))
        written.replace(step_file)
        print(f"progress: {stage}: {step}/{spec['steps']} steps", flush=True)
    if spec.get("exit"):
        print(spec.get("last_words", "no good"), file=sys.stderr)
        sys.exit(spec["exit"])
    inputs = ports["inputs"].get("artifacts", {})
    read = [(Path(inputs[name]["artifacts"][0]["uri"]) / "text").read_text() for name in sorted(inputs)]
    (folder / "text").write_text(" ".join([*read, spec.get("text", stage)]))
    score = float(len((folder / "text").read_text()))
    for name, entry in outputs.get("parameters", {}).items():  # kfp.local leaves out what is empty
        Path(entry["outputFile"]).parent.mkdir(parents=True, exist_ok=True)
        if not spec.get("forget"):
            Path(entry["outputFile"]).write_text(str(score))
    listed = {
        name: {"artifacts": [{"name": name, "uri": entry["artifacts"][0]["uri"], "metadata": {}}]}
        for name, entry in outputs["artifacts"].items()
        if name != "executor-logs"  # a cluster's and our runner's, not the stage's
    }
    listed["metrics"]["artifacts"][0]["metadata"] = {"score": score}
    listed["data"]["artifacts"][0]["metadata"] = {"lines": [f"{stage} says hello"]}
    Path(outputs["outputFile"]).write_text(json.dumps({"parameterValues": {}, "artifacts": listed}))
"""


def command(stage: str) -> dsl.ContainerSpec:
    """The container of a stage."""
    return dsl.ContainerSpec(
        image=IMAGE,
        command=["python3", "-m", "components.entry", stage],
        args=["--executor-input", "{{$}}"],
    )


@dsl.container_component
def make(
    spec: str,
    data: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    score: dsl.OutputPath(float),
) -> dsl.ContainerSpec:
    """Makes data."""
    return command("make")


@dsl.container_component
def left(
    spec: str,
    score: float,
    source: dsl.Input[dsl.Dataset],
    data: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Adds to the data."""
    return command("left")


@dsl.container_component
def right(
    spec: str,
    source: dsl.Input[dsl.Dataset],
    data: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Adds to the data."""
    return command("right")


@dsl.container_component
def join(
    spec: str,
    one: dsl.Input[dsl.Dataset],
    two: dsl.Input[dsl.Dataset],
    data: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Joins the data."""
    return command("join")


@dsl.pipeline(name="mini")
def mini(make_spec: str = "{}", left_spec: str = "{}", right_spec: str = "{}", join_spec: str = "{}") -> None:
    """make -> left, right -> join."""
    made = make(spec=make_spec)
    one = left(spec=left_spec, score=made.outputs["score"], source=made.outputs["data"])
    two = right(spec=right_spec, source=made.outputs["data"])
    join(spec=join_spec, one=one.outputs["data"], two=two.outputs["data"])


class MiniRepository:
    """A repository with the code of these stages, and runs of it."""

    def __init__(self, root: Path, results: Path, *, containers: bool = False) -> None:
        self.root, self.results, self.containers = root, results, containers
        self.said = ""

    def write(self, image: str = IMAGE) -> "MiniRepository":
        """Writes the code and compiles the pipeline."""
        for name, text in {
            "components/__init__.py": "",
            "components/entry.py": ENTRY,
            "reid/__init__.py": "",
            "reid/words.py": 'GREETING = "hello from"\n',
            "reid/unused.py": "",
            "reid/work.py": WORK,
            "reid/stages/__init__.py": "",
            **{f"reid/stages/{stage}.py": STAGE.replace("STAGE", stage) for stage in STAGES},
            "requirements.lock": "kfp==2.17.0\n",
        }.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.compile(image)
        return self

    def compile(self, image: str) -> None:
        """Compiles the pipeline, its stages in this image."""
        compiler.Compiler().compile(mini, str(self.root / "mini.yaml"))
        compiled = (self.root / "mini.yaml").read_text()
        (self.root / "mini.yaml").write_text(compiled.replace(IMAGE, image))

    def run(self, *, jobs: int = 1, tracking: PipelineRun | None = None, **specs: Mapping[str, object]) -> RunReport:
        """Runs the pipeline in this process; `make={"text": "x"}` is the spec of a stage."""
        arguments: dict[str, ir.Value] = {f"{stage}_spec": json.dumps(spec) for stage, spec in specs.items()}
        stream = io.StringIO()
        try:
            return run_mini(
                self.root,
                self.results,
                arguments,
                jobs=jobs,
                stream=stream,
                tracking=tracking,
                containers=self.containers,
            )
        finally:
            self.said = stream.getvalue()

    def diary(self) -> list[str]:
        """The stages that really ran since the last call."""
        file = self.root / "diary.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [line.split()[0] for line in lines]


def run_mini(
    root: Path,
    results: Path,
    arguments: Mapping[str, ir.Value],
    *,
    jobs: int,
    stream: io.TextIOBase,
    tracking: PipelineRun | None = None,
    containers: bool = False,
) -> RunReport:
    """Runs the compiled pipeline of the repository at `root`."""
    store = Store(results)
    with locked(store.root, user="a pipeline run") as lock:
        tasks: Tasks = Processes(root, keep_open=[lock])
        if containers:  # an image of nothing but Python: the code is mounted
            tasks = Containers(
                engine(),
                store.results_dir,
                mounts=lambda _: {root: True, store.results_dir: True, root / "components": False},
                environment={"PYTHONPATH": str(root), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"},
                keep_open=[lock],
            )
        close_killed_runs(results / "runs")
        record = RunRecord(results / "runs", pid=0)
        report = LocalRun(
            ir.load(root / "mini.yaml"),
            arguments,
            store=store,
            tasks=tasks,
            display=Display(stream, width=5),  # type: ignore[arg-type]
            record=record,
            tracking=tracking,
            jobs=jobs,
        ).run()
        record.end("done" if report.exit_status == 0 else "failed", report.seconds)
    return report


if __name__ == "__main__":
    _, repository, folder, given, *rest = sys.argv
    ended = run_mini(
        Path(repository),
        Path(folder),
        json.loads(given),
        jobs=int(rest[0]) if rest else 1,
        containers="containers" in rest,
        stream=sys.stdout,  # type: ignore[arg-type]
    )
    sys.exit(ended.exit_status)
