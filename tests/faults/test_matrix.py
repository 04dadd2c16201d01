"""What a machine can do to a run: each fault is made, and the run after it has to succeed and to lose nothing.

The runner and its tasks are real processes, on a small pipeline (tests/pipelines/mini.py); the training is a real one.
`python -m tests.faults` prints what came of each fault.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from pipelines.local.run_report import RunReport
from tests.e2e.test_pipeline import SPEC
from tests.faults.places import ROOT, memory_group, remount, require_program, require_root, small_disk
from tests.faults.table import OUTCOME
from tests.pipelines.mini import STAGES, MiniRepository

pytestmark = pytest.mark.slow
Outcome = Callable[[str, str], None]
KILLS = 25
AS_IF_LARGE = (
    "import sys; from reid.data import loaders; loaders.MEMORY_SHARE = 0; from reid.cli.commands import main;"
    "sys.exit(main(sys.argv[1:]))"
)
"""`reid` as if the images did not fit in memory: loader processes are used."""
STEPS = {stage: {"steps": 30, "step_s": 0.05} for stage in STAGES}


def drive(repository: MiniRepository, *, prefix: Sequence[str] = (), **environment: str) -> "subprocess.Popen[str]":
    """Starts the small pipeline as a process of its own, each stage with some seconds of work."""
    given = json.dumps({f"{stage}_spec": json.dumps(spec) for stage, spec in STEPS.items()})
    command = [sys.executable, "-m", "tests.pipelines.mini", str(repository.root), str(repository.results), given]
    return subprocess.Popen(
        [*prefix, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def finished(repository: MiniRepository) -> set[str]:
    """The stages with a finished result."""
    return {path.parent.parent.name for path in repository.results.glob("pipeline/*/*/task.json")}


def states(report: RunReport) -> dict[str, str]:
    """Stage -> how it ended."""
    return {stage: task.state for stage, task in report.tasks.items()}


def steps_done(repository: MiniRepository, stage: str) -> int:
    """How many steps of its work a stage has done."""
    return max((int(path.read_text()) for path in repository.results.glob(f"pipeline/{stage}/*/data/step")), default=0)


def wait_for_a_moment(runner: "subprocess.Popen[str]", repository: MiniRepository, moment: random.Random) -> None:
    """Waits for a random time while the runner starts, or until a random number of steps more is done.

    Steps, not seconds alone: on a busy machine nothing is begun after some seconds.
    """
    more, before = moment.randrange(-10, 60), sum(steps_done(repository, stage) for stage in STAGES)
    with suppress(subprocess.TimeoutExpired):
        runner.wait(timeout=moment.uniform(0.0, 1.0))
    while more >= 0 and runner.poll() is None:
        if sum(steps_done(repository, stage) for stage in STAGES) >= before + more:
            return
        time.sleep(0.02)


def wait_for_steps(runner: "subprocess.Popen[str]", repository: MiniRepository, stage: str) -> None:
    """Waits until a stage is at work."""
    while steps_done(repository, stage) < 2:
        assert runner.poll() is None, runner.communicate()[0]
        time.sleep(0.02)


def check_that_it_can_be_ended(repository: MiniRepository) -> str:
    """Runs the pipeline to its end: every finished task has to be used again, every begun one resumed."""
    before = finished(repository)
    begun = {stage for stage in STAGES if steps_done(repository, stage)} - before
    repository.diary()
    report = repository.run(**STEPS)
    assert report.exit_status == 0, repository.said
    wanted = {stage: "cached" if stage in before else "continued" if stage in begun else "ran" for stage in STAGES}
    found = states(report)
    assert {stage: found[stage] for stage in before | begun} == {stage: wanted[stage] for stage in before | begun}
    text = report.tasks["join"].outputs.artifacts["data"].path / "text"
    assert text.read_text() == "make left make right join"
    assert set(states(repository.run(**STEPS)).values()) == {"cached"}
    assert not list(repository.results.rglob("*.damaged*"))
    assert not list(repository.results.rglob("set-aside-*"))
    return f"{len(before)} finished tasks reused, {len(begun)} resumed"


@pytest.fixture
def outcome(record_property: Callable[[str, object], None]) -> Outcome:
    """Call it with the fault and with what came of it: both go into the closing table."""
    return lambda fault, text: record_property(OUTCOME, (fault, text))


@pytest.fixture
def repository(tmp_path: Path) -> MiniRepository:
    return MiniRepository(tmp_path / "repo", tmp_path / "results").write()


def test_kills_at_random_moments(tmp_path: Path, outcome: Outcome) -> None:
    moment, reused, rounds = random.Random(18), 0, 0
    repository = MiniRepository(tmp_path / "repo", tmp_path / "results").write()
    for _ in range(KILLS):
        before = finished(repository)
        runner = drive(repository)
        wait_for_a_moment(runner, repository, moment)
        runner.kill()
        runner.communicate()
        assert before <= finished(repository)
        assert not before & set(repository.diary()), "a finished task ran again"
        reused += len(before)
        if len(finished(repository)) == len(STAGES):
            check_that_it_can_be_ended(repository)
            rounds += 1
            repository.results = tmp_path / f"results-{rounds}"
    assert reused, "no kill came after a finished task"
    done = check_that_it_can_be_ended(repository)
    states_ = [json.loads(path.read_text())["state"] for path in tmp_path.glob("results*/runs/*.json")]
    assert "running" not in states_
    outcome(f"kill -9 at {KILLS} random moments", f"finished tasks were reused {reused} times; the last run: {done}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_runner(repository: MiniRepository, outcome: Outcome, number: signal.Signals) -> None:
    runner = drive(repository)
    wait_for_steps(runner, repository, "left")
    runner.send_signal(number)
    said, _ = runner.communicate(timeout=60)
    assert runner.returncode == 128 + number
    assert "left   stopped after" in said
    assert "join   not run" in said
    assert "KeyboardInterrupt" in next(repository.results.glob("pipeline/left/*/log.txt")).read_text()
    assert "Traceback" not in said
    outcome(f"{number.name} to the runner", f"exit status {128 + number}; {check_that_it_can_be_ended(repository)}")


def test_a_full_disk(tmp_path: Path, outcome: Outcome) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        repository = MiniRepository(tmp_path / "repo", disk / "results").write()
        runner = drive(repository)
        wait_for_steps(runner, repository, "left")
        fill(disk / "ballast")
        said, _ = runner.communicate(timeout=60)
        assert runner.returncode not in (0, None)
        assert "No space left on device" in said
        (disk / "ballast").unlink()
        text = check_that_it_can_be_ended(repository)
    outcome("full disk", f"the run fails and names the file; with room again: {text}")


def fill(ballast: Path) -> None:
    """Fills the disk to the last byte."""
    with ballast.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError:
            return


def test_a_disk_that_becomes_read_only(tmp_path: Path, outcome: Outcome) -> None:
    require_root()
    with small_disk(tmp_path / "disk", "4m") as disk:
        repository = MiniRepository(tmp_path / "repo", disk / "results").write()
        runner = drive(repository)
        wait_for_steps(runner, repository, "left")
        runner.kill()
        runner.communicate()
        time.sleep(0.5)  # its guard ends the task
        remount(disk, "ro")
        runner = drive(repository)
        said, _ = runner.communicate(timeout=60)
        assert runner.returncode not in (0, None)
        assert "Read-only file system" in said
        assert "the results folder cannot be written" in said
        remount(disk, "rw")
        text = check_that_it_can_be_ended(repository)
    outcome("read-only results", f"refused in one sentence; writable again: {text}")


def test_a_clock_that_jumps(repository: MiniRepository, tmp_path: Path, outcome: Outcome) -> None:
    faketime = require_program("faketime", "faketime")
    library = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
    assert library is not None, f"{faketime} without its library"
    clock = tmp_path / "clock"
    clock.write_text("+0")
    # the monotonic clock jumps too, harder than a real one: without it libfaketime 0.9.10 breaks Python's sleep
    faked = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    runner = drive(repository, **faked)
    for stage, jump in (("left", "-3d"), ("right", "+400d")):
        wait_for_steps(runner, repository, stage)
        clock.write_text(jump)
    said, _ = runner.communicate(timeout=60)
    assert runner.returncode == 0, said
    outcome("clock jumps by -3 and +400 days", f"the run succeeds; {check_that_it_can_be_ended(repository)}")


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a spec for a training of some seconds, with its data drawn."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "tiny.yaml").write_text(SPEC.format(folder=folder), encoding="utf-8")
    done = train(folder, "train.num_epochs=1", f"results_dir={folder}/first")
    assert done.returncode == 0, done.stderr
    return folder


def train(folder: Path, *overrides: str, prefix: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    """The task train, run by a user."""
    command = [*prefix, sys.executable, "-m", "reid", "train", "-e", str(folder / "tiny.yaml"), *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)


def test_little_shared_memory(training: Path, outcome: Outcome) -> None:
    require_root()
    script = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "--mount", "bash", "-c", script, "bash", sys.executable, "-c", AS_IF_LARGE, "train"]
    command += ["-e", str(training / "tiny.yaml"), "dataset.num_workers=2", "train.num_epochs=1"]
    command += [f"results_dir={training}/shm"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 loader processes" in done.stderr
    outcome("/dev/shm of 64 MB", "the training ends as usual, with 2 loader processes")


def test_little_memory(training: Path, outcome: Outcome) -> None:
    results = training / "memory"
    overrides = ("train.num_epochs=2", f"results_dir={results}")
    with memory_group(200 << 20) as prefix:
        done = train(training, *overrides, prefix=prefix)
    assert done.returncode != 0
    again = train(training, *overrides)
    assert again.returncode == 0, again.stderr
    assert (results / "train" / "reid_model_latest.pth").exists()
    outcome("memory limit of 200 MB", f"the task ends with status {done.returncode}; without the limit it succeeds")
