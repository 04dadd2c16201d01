"""The command `reid`: every task of a spec by itself, and the drawing of data sets.

    reid train -e market.yaml train.num_epochs=2
    reid dataset synth data/drawn --train-persons 751

Modules that load torch or MLflow are imported by the task that needs them; `reid --help` loads neither.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from reid.errors import ReidError

TASKS = {
    "validate": "check the data set; writes a manifest and a findings report",
    "train": "train the network; continues an interrupted training",
    "evaluate": "mAP, CMC and mINP, plain and re-ranked; plots and an HTML report",
    "inference": "embeddings of every query and gallery image, as JSON",
    "export": "ONNX that carries its preprocessing contract; checked against torch",
    "gen_trt_engine": "a TensorRT engine from the ONNX, with a build record",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit status (0 done, 1 a fault of ours, 2 the user's to mend, 130 Ctrl-C)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        options.action(options)
    except ReidError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reid",
        description="Person re-identification from one spec file.",
        epilog="The whole pipeline at once: make pipeline-run SPEC=demo.yaml",
    )
    commands = parser.add_subparsers(required=True, metavar="TASK")
    for task, help_text in TASKS.items():
        command = commands.add_parser(task, help=help_text, description=f"{task}: {help_text}")
        command.add_argument(
            "-e", "--experiment_spec", "--experiment_spec_file", dest="spec", required=True, metavar="SPEC", help="YAML"
        )
        command.add_argument(
            "overrides", nargs="*", metavar="section.field=value", help="overrides, e.g. train.num_epochs=2"
        )
        command.set_defaults(action=_run_task, task=task)
    _add_dataset_commands(commands.add_parser("dataset", help="draw a data set, or look at one"))
    return parser


def _add_dataset_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="ACTION")
    synth = commands.add_parser("synth", help="draw a data set in Market-1501's layout")
    synth.add_argument("root", type=Path, help="folder to make")
    for name, default, unit in (
        ("train-persons", 120, ""),
        ("test-persons", 60, ""),
        ("cameras", 6, ""),
        ("images-per-camera", 3, "of a person under a camera that saw them"),
        ("distractors", 60, "gallery images of person 0"),
        ("junk", 30, "gallery images of person -1"),
        ("width", 64, "pixels"),
        ("height", 128, "pixels"),
        ("seed", 7, ""),
        ("workers", 0, "processes; 0: one per core"),
    ):
        synth.add_argument(f"--{name}", type=int, default=default, help=f"{unit} (default {default})".strip())
    synth.set_defaults(action=_synth)
    sheet = commands.add_parser("sheet", help="a contact sheet: a row a person, a column a camera")
    sheet.add_argument("root", type=Path, help="folder of a data set in Market-1501's layout")
    sheet.add_argument("output", type=Path, help="picture to write, .png or .jpg")
    sheet.add_argument("--persons", type=int, default=8)
    sheet.add_argument("--seed", type=int, default=0)
    sheet.set_defaults(action=_sheet)


def _synth(options: argparse.Namespace) -> None:
    import os

    from reid.data.synthetic import ensure_market

    drawn = ensure_market(
        options.root,
        train_persons=options.train_persons,
        test_persons=options.test_persons,
        cameras=options.cameras,
        images_per_camera=options.images_per_camera,
        distractors=options.distractors,
        junk=options.junk,
        width=options.width,
        height=options.height,
        seed=options.seed,
        workers=options.workers or os.cpu_count() or 1,
    )
    print(f"{options.root}: {'drawn' if drawn else 'was there already, with these settings'}")


def _sheet(options: argparse.Namespace) -> None:
    from reid.data.synthetic import contact_sheet

    contact_sheet(options.root, options.output, persons=options.persons, seed=options.seed)
    print(options.output)


def _run_task(options: argparse.Namespace) -> None:
    from reid.spec import load_spec
    from reid.tasks import run_task

    outcome = run_task(options.task, load_spec(options.spec, overrides=options.overrides))
    for name, value in outcome.metrics.items():
        print(f"{name:>28}  {value:.6g}")
    for line in outcome.lines:
        print(line)
