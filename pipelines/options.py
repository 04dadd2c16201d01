"""The options of the command behind `make pipeline-run`, and the spec that they name."""

import argparse
import os
from pathlib import Path

from reid.errors import SpecError
from reid.files.paths import given_path

SPECS = Path(__file__).resolve().parent / "specs"
DESCRIPTION = (
    "Runs the whole pipeline of one spec:"
    " validate, manifest, train, evaluate, inference, export, gen_trt_engine, register."
)
EPILOG = """\
Results lie in the spec's results_dir: pipeline/STAGE/KEY/ holds the outputs and the log of a stage, latest/STAGE leads
to those of the last run, runs/ keeps a record of each run. A result is used again while its inputs, its part of the
spec and the code are the same. Nothing is deleted by itself: to free room, or to force a stage to run again, delete
pipeline/STAGE, or one KEY in it.

On a cluster (KFP_ENDPOINT), a run is picked up by its id, the beginning of its id, or its name:
  python -m pipelines status RUN    shows where it is, and why it failed
  python -m pipelines wait RUN      follows it to its end
  python -m pipelines cancel RUN    ends it
  python -m pipelines retry RUN     runs what failed in it again
"""
RUN_COMMANDS = {
    "status": "Shows where a run is, and why it failed if it did.",
    "wait": "Follows a run to its end; Ctrl-C leaves the run as it is.",
    "cancel": "Ends a run.",
    "retry": "Runs what failed in a run again, and follows it.",
}
"""What can be done with a run on a cluster that was submitted before."""


def parser() -> argparse.ArgumentParser:
    """The parser of the options."""
    made = argparse.ArgumentParser(
        prog="python -m pipelines",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--spec", default="demo", help="a spec file, or the name of one in pipelines/specs (default demo)"
    )
    made.add_argument(
        "--runner",
        default="auto",
        choices=["auto", "process", "docker", "kfp"],
        help="where tasks run; auto: on the cluster that KFP_ENDPOINT names, else in containers if Docker answers"
        " and the images are built and up to date, else as processes of this machine",
    )
    made.add_argument(
        "--jobs",
        type=_positive,
        default=os.environ.get("REID_JOBS", "1"),
        help="how many tasks run at once, if they do not need each other (default REID_JOBS, else 1)",
    )
    made.add_argument(
        "--compile-only", type=given_path, metavar="FILE", help="write the compiled pipeline into FILE, run nothing"
    )
    made.add_argument(
        "--cluster",
        type=given_path,
        metavar="FILE",
        help="the cluster's settings as YAML (memory, claims, tolerations …)",
    )
    made.add_argument(
        "--detach", action="store_true", help="on a cluster: submit the run and return, without following it"
    )
    made.add_argument(
        "--every",
        metavar="CRON",
        help="on a cluster: make a recurring run instead, e.g. --every '0 3 * * *' for 3:00 each day",
    )
    made.add_argument(
        "overrides",
        nargs="*",
        metavar="section.field=value",
        help="fields that replace the spec's, e.g. train.num_epochs=2",
    )
    return made


def run_command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of a command that takes an earlier run."""
    made = argparse.ArgumentParser(prog=f"python -m pipelines {name}", description=RUN_COMMANDS[name])
    made.add_argument("run", metavar="RUN", help="the run's id, its first four characters or more, or its name")
    return made


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: want a whole number from 1")
    return int(text)


def spec_path(name: str) -> Path:
    """The file of a spec, given as a path or as a name in pipelines/specs. Raises SpecError, which lists the names."""
    for candidate in (given_path(name), SPECS / name, SPECS / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    names = ", ".join(sorted(path.stem for path in SPECS.glob("*.yaml")))
    raise SpecError(
        f"{name}: no such spec file\n  want: a path, or one of {names} (in {SPECS.relative_to(SPECS.parents[1])})"
    )
