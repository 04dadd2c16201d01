"""The command `reid reproduce`: runs a recorded pipeline again and compares every number.

reid reproduce RUN_ID --check
"""

import argparse
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from reid.console.plain import printable
from reid.files.paths import given_path
from reid.files.secrets import KEY_ENVIRONMENT

if TYPE_CHECKING:
    from reid.stages.reproduce import Fact, Number

DIFFERS = 1
"""The exit status if a number differs; with --check, if something that decides the numbers does."""
SHOWN = 20
WEIGHTS = {
    "commit": "changes no number if code_sha256 is the same",
    "encrypted": f"changes no number; the run needs the key in {KEY_ENVIRONMENT}",
}
"""What a difference means, if it is neither of the data and packages nor of the machine."""
NONE_IF_EMPTY = {"gpus", "threads", "encrypted"}
"""Facts that are empty if there is no such thing."""


def add_reproduce(parser: argparse.ArgumentParser) -> None:
    """Adds the description, the arguments and the action to the parser."""
    parser.description = (
        "reproduce: runs a recorded pipeline again, with the same spec, data, code and packages, into a new folder and "
        "without earlier results, and compares every number of every stage to the last bit; times are not compared. "
        f"Exit status {DIFFERS} if a number differs."
    )
    parser.add_argument(
        "run", metavar="RUN", help="the id of its MLflow run, or its record: results_dir/runs/TIME.json"
    )
    check_help = "only say what is not as it was: data, code, packages, machine"
    parser.add_argument("--check", action="store_true", help=check_help)
    anyway_help = "run it although data, code or packages differ, to see how much that changes"
    parser.add_argument("--anyway", action="store_true", help=anyway_help)
    folder_help = "new folder for the results (default results/reproduced/TIME)"
    parser.add_argument("--results", type=given_path, metavar="FOLDER", help=folder_help)
    parser.set_defaults(action=_reproduce)


def _reproduce(options: argparse.Namespace) -> None:
    from reid.stages.reproduce import (
        compare_numbers,
        differences_of_surroundings,
        require_reproducible,
        run_again,
    )
    from reid.stages.reproduced_run import read_run

    with tempfile.TemporaryDirectory(prefix="reid-reproduce-") as scratch:
        run = read_run(options.run, scratch=Path(scratch))
        facts, notes = differences_of_surroundings(run)
        _print_surroundings(run.title, facts, notes)
        if options.check:
            options.exit_status = DIFFERS if any(fact.decides for fact in facts) else 0
            return
        require_reproducible(run, facts, anyway=options.anyway)
        folder = options.results or Path("results", "reproduced", f"{datetime.now():%Y-%m-%d-%H%M%S}")
        again = run_again(run, folder)
    unknown = sorted(again.keys() - run.numbers.keys()) if run.on_a_cluster else []
    numbers = compare_numbers(run.numbers, {stage: found for stage, found in again.items() if stage not in unknown})
    if unknown:
        print(f"not compared: {', '.join(unknown)}; the run had them from Kubeflow's cache")
    if not _print_numbers(numbers):
        options.exit_status = DIFFERS


def _print_surroundings(title: str, facts: "Sequence[Fact]", notes: Sequence[str]) -> None:
    print(printable(title))
    for fact in facts:
        weight = "decides the numbers" if fact.decides else "may change the last bits"
        weight = WEIGHTS.get(fact.name, weight)
        print(
            printable(
                f"  {fact.name} ({weight})\n    was {_known(fact, fact.before)}\n    is  {_known(fact, fact.now)}"
            )
        )
    if not facts:
        print("  nothing is known to differ")
    for note in notes:
        print(printable(f"  note: {note}"))


def _known(fact: "Fact", value: str) -> str:
    """The value in words; an empty one means that there is none, or that it is not known."""
    return value or ("none" if fact.name in NONE_IF_EMPTY else "unknown")


def _print_numbers(numbers: "Sequence[Number]") -> bool:
    """Prints the comparison; returns whether all numbers are equal."""
    differ = [one for one in numbers if not one.equal]
    for one in differ[:SHOWN]:
        if one.before is None or one.now is None:
            where = f"only in {'the new' if one.before is None else 'the recorded'} run"
        else:
            where = f"was {one.before!r}, is {one.now!r}, relative {one.relative:.1g}"
        print(printable(f"{one.stage}: {one.name}: {where}"))
    if len(differ) > SHOWN:
        print(f"and {len(differ) - SHOWN} more")
    stages = len({one.stage for one in numbers})
    if differ:
        print(f"not reproduced: {len(differ)} of {len(numbers)} numbers of {stages} stages differ")
    elif numbers:
        print(f"reproduced: {len(numbers)} numbers of {stages} stages are equal to the last bit")
    else:
        print("not reproduced: neither run has a number that can be compared")
    return bool(numbers) and not differ
