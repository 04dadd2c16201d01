"""The command `reid compare`: is B better than A, by more than chance?

reid compare RUN_A RUN_B
reid compare results/one results/two --require-better
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from reid.console.plain import printable
from reid.console.tables import rich_console, table
from reid.files.paths import given_path

if TYPE_CHECKING:
    from reid.stages.compare import Compared

NOT_BETTER = 1
"""The exit status with --require-better if B is not shown to be better."""
FIGURES = ("mAP", "rank1", "reranked_mAP", "reranked_rank1")
DIFFERENCES_SHOWN = 12


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Adds the description, the arguments and the action to the parser."""
    parser.description = (
        "compare: says whether evaluation B is better than evaluation A by more than chance: the difference of mAP and "
        "rank-1 on the same queries with its 95 % interval over persons, the queries won and lost, and what differs in "
        "the specs. Both must have been measured on the same images."
    )
    side_help = "the id of an MLflow run, a folder of results, or a per_query.csv"
    parser.add_argument("first", metavar="A", help=side_help)
    parser.add_argument("second", metavar="B", help="the same, of the evaluation that may be better")
    html_help = "the page to write (default results/compare/A_vs_B.html); it is also added to the MLflow run B"
    parser.add_argument("--html", type=given_path, metavar="FILE", help=html_help)
    parser.add_argument("--json", type=given_path, metavar="FILE", help="write the comparison as JSON, too")
    figure_help = "the figure that decides (default: mAP, or reranked_mAP if that is B's headline)"
    parser.add_argument("--figure", choices=FIGURES, help=figure_help)
    better_help = f"exit with status {NOT_BETTER} unless B is shown to be better"
    parser.add_argument("--require-better", action="store_true", help=better_help)
    parser.set_defaults(action=_compare)


def _compare(options: argparse.Namespace) -> None:
    from reid.files.writing import require_writable, write_text
    from reid.stages.compare import add_to_mlflow, as_json, compare, write_page

    page = options.html or Path("results", "compare", f"{_short(options.first)}_vs_{_short(options.second)}.html")
    for file in filter(None, (options.html, options.json)):
        require_writable(file)
    found = compare(options.first, options.second, figure=options.figure)
    write_page(found, page)
    if options.json:
        write_text(options.json, as_json(found))
    _print(found)
    print(printable(f"page: {page}"))
    if said := add_to_mlflow(found, page):
        print(printable(said))
    if options.require_better and found.verdict.standing <= 0:
        options.exit_status = NOT_BETTER


def _short(given: str) -> str:
    """A part of a file name that says which side it is: the beginning of a run's id, or the last names of a path."""
    names = [name for name in Path(given).parts if name not in {"/", ".", ".."}]
    text = "-".join(names[-3:]) if len(names) > 1 or Path(given).exists() else given[:8]
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text)[-60:] or "here"


def _print(found: "Compared") -> None:
    from reid.scoring.paired import between, in_words, points

    print(printable(f"A: {found.first.title}\nB: {found.second.title}"))
    made = table("figure", "A", "B", "difference", "95 % interval", "p")
    for one in found.figures:
        interval = one.interval
        made.add_row(
            in_words(one.name) + (" *" if one.name == found.headline else ""),
            f"{100 * one.first:.2f}",
            f"{100 * one.second:.2f}",
            points(interval.value),
            between(interval),
            f"{one.chance:.2g}",
        )
    rich_console(sys.stdout).print(made)
    print(f"{found.queries:,} queries of {found.persons:,} persons: {found.won:,} won, {found.lost:,} lost by B")
    for name, differing in (("spec", found.spec), ("besides", found.lineage)):
        for what, first, second in differing[:DIFFERENCES_SHOWN]:
            print(printable(f"{name}: {what}: {first[:60]} in A, {second[:60]} in B"))
        if len(differing) > DIFFERENCES_SHOWN:
            print(f"{name}: {len(differing) - DIFFERENCES_SHOWN} more differ; the page lists all")
    for note in found.notes:
        print(printable(f"note: {note}"))
    print(f"{found.verdict.in_words()} points (*)")
