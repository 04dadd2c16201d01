"""The fuzz suite: random inputs through every door of the product; none may end in a traceback, a hang or a crash.

    python -m tests.fuzz                    10,000 inputs, two doors at a time
    python -m tests.fuzz --doors ONNX zip   these doors only
    python -m tests.fuzz --seed 7           other inputs

Exit status 1 if there is a finding. The input and the traceback of each are files in build/fuzz.
"""
# ruff: noqa: T201

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.doors import DOORS, counts

MOST_SECONDS = 600
"""What a door may take."""


@dataclass(frozen=True)
class Result:
    """What a door made of its inputs."""

    door: str
    answers: dict[str, int]
    findings: dict[str, str]
    """What happened -> the file of the input."""
    seconds: float


def run_door(door: str, *, cases: int, seed: int, folder: Path, steady: bool = False) -> Result:
    """Runs the inputs of one door in a process of its own; a process that ends early is a finding."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.fuzz.drive", door, "--cases", str(cases), "--seed", str(seed)]
    command += ["--steady"] if steady else []
    started = time.monotonic()
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [*command, "--folder", str(folder)], stdout=output, stderr=output, env=surroundings, start_new_session=True
        )
        try:
            status: int | str = process.wait(MOST_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = f"more than {MOST_SECONDS} s"
    file = folder / "result.json"
    content = json.loads(file.read_text()) if file.exists() else {"answers": {}, "findings": {}}
    findings = dict(content["findings"])
    if status != 0:
        findings[f"the process ended: {status}"] = "last.input"
    return Result(door, content["answers"], findings, time.monotonic() - started)


def table(results: Sequence[Result], folder: Path) -> str:
    """The results as text: a line for each door, then a line for each finding."""
    lines = [f"{'door':22}{'inputs':>8}{'accepted':>10}{'refused':>9}{'findings':>10}{'seconds':>9}"]
    for result in results:
        inputs, accepted = sum(result.answers.values()), result.answers.get("accepted", 0)
        refused = inputs - accepted - result.answers.get("finding", 0)
        lines.append(
            f"{result.door:22}{inputs:8,}{accepted:10,}{refused:9,}{len(result.findings):10}{result.seconds:9.1f}"
        )
    total = sum(sum(result.answers.values()) for result in results)
    found = sum(len(result.findings) for result in results)
    lines.append(f"{'all':22}{total:8,}{'':19}{found:10}")
    for result in results:
        place = folder / place_of(result.door)
        lines += [f"{result.door}: {what}: {place / file}" for what, file in result.findings.items()]
    return "\n".join(lines)


def place_of(door: str) -> str:
    """The name of a door's folder."""
    return "".join(letter if letter.isalnum() else "_" for letter in door)


def run(
    doors: Sequence[str], *, cases: int, seed: int, folder: Path, workers: int = 2, steady: bool = False
) -> list[Result]:
    """Runs the doors, `workers` at a time; `cases` are those of all doors together, were all of them run.

    `steady` makes the same inputs each time, by hypothesis alone: what libFuzzer makes depends on the machine too.
    """
    number = counts(cases)

    def one(door: str) -> Result:
        return run_door(door, cases=number[door], seed=seed, folder=folder / place_of(door), steady=steady)

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, doors))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the suite and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="inputs of all doors together")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs")
    parser.add_argument("--doors", nargs="+", choices=DOORS, default=list(DOORS), metavar="DOOR")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args(arguments)
    results = run(options.doors, cases=options.cases, seed=options.seed, folder=options.folder.absolute())
    print(table(results, options.folder))
    return int(any(result.findings for result in results))


if __name__ == "__main__":
    sys.exit(main())
