"""The command `reid`: every task of a spec by itself, explanations of the spec, and drawn data sets.

    reid train -e market.yaml train.num_epochs=2
    reid spec --explain train.optim
    reid dataset synth data/drawn --train-persons 751

Modules that load torch or MLflow are imported by the task that needs them; `reid --help` loads neither.
"""

import argparse
import io
import os
import shutil
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence

from reid import __version__
from reid.cli.adopt import add_adopt
from reid.cli.bundle import add_bundle
from reid.cli.client import add_client
from reid.cli.compare import add_compare
from reid.cli.convert import add_convert
from reid.cli.dataset import add_crops
from reid.cli.doctor import add_doctor
from reid.cli.match import add_match
from reid.cli.reproduce import add_reproduce
from reid.cli.search import add_search
from reid.cli.serving import add_start_server, add_triton_options
from reid.console.plain import show_error
from reid.console.tables import Closing, show_closing
from reid.console.view import shown_on
from reid.errors import ReidError, SpecError
from reid.files.machine import raise_refusals_as_machine_errors, settle_in
from reid.files.paths import given_path

TASKS = {
    "validate": "check the data set; write a manifest and a findings report",
    "train": "train the network, or continue an interrupted training",
    "evaluate": "measure mAP, CMC and mINP, plain and re-ranked; draw plots and write an HTML report",
    "inference": "write the embeddings of every query and gallery image: JSON, .npz or .parquet",
    "export": "write an ONNX file with its preprocessing contract; check it against torch",
    "gen_trt_engine": "build a TensorRT engine from the ONNX file; write a build record",
    "triton": "write a model repository for Triton Inference Server, from the ONNX file or the engine",
    "start_client": "send a sample of persons to a Triton server; mAP, CMC plot, matches sheet",
}
DRAWN = (
    *("train_persons", "test_persons", "cameras", "images_per_camera", "distractors", "junk"),
    *("width", "height", "seed"),
)
"""Fields of the spec's dataset.synthetic, each an option of `reid dataset synth`."""
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """A parser whose help may end with lines that are made only when the help is asked for."""

    more_help: Callable[[], str] | None = None

    def format_help(self) -> str:
        """The help text."""
        return super().format_help() + (f"\n{self.more_help()}" if self.more_help else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 a bug, 2 an error that the user can correct, 130 Ctrl-C.

    A command that answers by its exit status sets options.exit_status.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text
    try:
        settle_in()
        with raise_refusals_as_machine_errors():
            return _run(_parsed(arguments))
    except ReidError as error:
        show_error(error)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # reid spec --blank | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        traceback.print_exc()
        print("error: this is a bug in reid, not a mistake of yours", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    with shown_on(sys.stderr):
        closing: Closing | None = options.action(options)
    if closing:
        show_closing(sys.stdout, closing)
    return int(getattr(options, "exit_status", 0))


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; overrides may stand before and after -e, which argparse alone does not take."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    rest = [word for word in rest if word not in getattr(options, "meaningless", ())]
    stray = [word for word in rest if word.startswith("-") or "=" not in word]
    if stray or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(stray or rest)}")
    if rest:
        options.overrides += rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="reid",
        description="Person re-identification from one spec file.",
        epilog="The whole pipeline at once: make pipeline-run SPEC=demo.yaml",
    )
    parser.add_argument("--version", action="version", version=f"reid {__version__}")
    commands = parser.add_subparsers(required=True, metavar="TASK")
    for task, help_text in TASKS.items():
        command = commands.add_parser(task, help=help_text, description=f"{task}: {help_text}")
        _add_spec(command, required=task != "triton")
        command.set_defaults(action=_run_task, task=task)
        command.more_help = _help_on(task)
    add_triton_options(commands.choices["triton"], _run_task)
    command = commands.add_parser("start_server", help="start Triton on the spec's model, until Ctrl-C")
    _add_spec(command, required=True)
    add_start_server(command)
    command.more_help = _help_on("start_server")
    command = commands.add_parser("adopt", help="convert another project's checkpoint or ONNX file for the tasks")
    add_adopt(command)
    _add_spec(command, required=True)
    command.more_help = _help_on("adopt")
    command = commands.add_parser("bundle", help="make a folder for a tracker: model, configuration and commands")
    add_bundle(command)
    _add_overrides(command)
    add_client(commands.add_parser("client", help="get the embeddings of images from a Triton server"))
    add_compare(commands.add_parser("compare", help="say whether one evaluation is better than another"))
    add_match(commands.add_parser("match", help="say whether the persons in two images are the same"))
    add_doctor(commands.add_parser("doctor", help="find suspected labels of the data set by a trained model"))
    add_reproduce(commands.add_parser("reproduce", help="run a recorded pipeline again and compare every number"))
    add_search(commands.add_parser("search", help="find the gallery images that are most similar to each query"))
    _add_spec_command(commands.add_parser("spec", help="explain the spec's fields, print a blank spec, check a spec"))
    _add_dataset_commands(
        commands.add_parser("dataset", help="draw a data set, convert one, make one of films, or look at one")
    )
    return parser


def _add_spec(parser: argparse.ArgumentParser, *, required: bool) -> None:
    names = ("-e", "--experiment_spec", "--experiment_spec_file")
    parser.add_argument(*names, dest="spec", required=required, metavar="SPEC", help="YAML")
    _add_overrides(parser)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="section.field=value",
        help="fields that replace those of the spec, e.g. train.num_epochs=2",
    )


def _help_on(task: str) -> Callable[[], str]:
    def more_help() -> str:
        from reid.spec.explain import listed
        from reid.spec.fields import fields_of_task, fields_said_by_model

        fields = listed(fields_of_task(task), width=_columns())
        if said := fields_said_by_model(task):
            note = f"a trained model's file states these too; a spec that gives them has to agree: {', '.join(said)}"
            fields += "\n" + textwrap.fill(note, _columns()) + "\n"
        return f"fields of the spec that {task} reads, with their defaults:\n\n{fields}"

    return more_help


def _columns() -> int:
    return min(max(shutil.get_terminal_size((120, 24)).columns, 80), 140)


def _add_spec_command(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--explain",
        nargs="?",
        const="",
        metavar="NAME",
        help="explain a section or field, e.g. train.optim; or all",
    )
    what.add_argument("--blank", action="store_true", help="print a spec with every default, and comments")
    what.add_argument("--check", metavar="SPEC", help="load a spec and print everything that is wrong with it")
    _add_overrides(parser)
    parser.set_defaults(action=_spec)


def _add_dataset_commands(parser: Parser) -> None:
    commands = parser.add_subparsers(required=True, metavar="ACTION")
    synth = commands.add_parser("synth", help="draw a data set in Market-1501's layout")
    synth.add_argument("root", type=given_path, help="folder to make")
    for name in DRAWN:
        synth.add_argument(f"--{name.replace('_', '-')}", type=int, default=argparse.SUPPRESS, metavar="N")
    synth.add_argument("--workers", type=int, default=0, metavar="N", help="number of processes; 0: one per core")
    synth.set_defaults(action=_synth)
    synth.more_help = _drawn_help
    add_convert(commands.add_parser("convert", help="write a data set of any layout in Market-1501's layout"))
    sheet = commands.add_parser("sheet", help="draw a sheet: a row for each person, a column for each camera")
    sheet.add_argument("root", type=given_path, help="folder of a data set in Market-1501's layout")
    sheet.add_argument("output", type=given_path, help="picture to write, .png or .jpg")
    sheet.add_argument("--persons", type=int, default=8)
    sheet.add_argument("--file-name", default="market1501", metavar="PATTERN", help="in place of dataset.file_name")
    sheet.add_argument("--seed", type=int, default=0)
    sheet.set_defaults(action=_sheet)
    add_crops(commands.add_parser("crops", help="cut a data set out of films with boxes of persons (MOTChallenge)"))


def _drawn_help() -> str:
    from reid.spec.explain import listed

    fields = listed([f"dataset.synthetic.{name}" for name in DRAWN], width=_columns())
    return f"the numbers are the spec's fields, with their defaults:\n\n{fields}"


def _synth(options: argparse.Namespace) -> None:
    from reid.spec import load_spec
    from reid.stages.validate import ensure_drawn

    given = [f"dataset.synthetic.{name}={getattr(options, name)}" for name in DRAWN if name in options]
    settings = load_spec(text="dataset: {synthetic: {root: from the command line}}", overrides=given).dataset.synthetic
    assert settings is not None
    drawn = ensure_drawn(settings, root=options.root, workers=options.workers or os.cpu_count() or 1)
    print(f"{options.root}: {'drawn' if drawn else 'exists already, with these settings'}")


def _sheet(options: argparse.Namespace) -> None:
    from reid.data.file_names import file_names
    from reid.drawn.dataset import contact_sheet

    try:
        names = file_names(options.file_name, cameras="file_name")
    except ValueError as error:
        raise SpecError(f"--file-name {options.file_name}\n  want: {error}") from None
    contact_sheet(options.root, options.output, names=names, persons=options.persons, seed=options.seed)
    print(options.output)


def _spec(options: argparse.Namespace) -> None:
    if options.overrides and not options.check:
        raise SpecError(f"{options.overrides[0]}: fields can be replaced with --check only")
    if options.check:
        from reid.spec import load_spec

        spec = load_spec(options.check, overrides=options.overrides)
        from reid.stages.validate import require_weights

        require_weights(spec.model.backbone)
        print(f"{options.check}: no errors")
        return
    from reid.spec.explain import blank, explain

    print(blank() if options.blank else explain(options.explain, width=_columns()), end="")


def _run_task(options: argparse.Namespace) -> Closing | None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # docker stop and schedulers send it: handled as Ctrl-C
    from reid.spec import load_spec

    spec = load_spec(options.spec, overrides=options.overrides)
    from reid.cli.task_files import results_folder
    from reid.cli.tasks import ranks_here, run_task
    from reid.distributed.launching import as_one_task
    from reid.files.secrets import key_to_environment

    key_to_environment(spec.encryption_key)  # here, for a process that only computes reads encrypted weights too
    outcome = as_one_task(lambda: run_task(options.task, spec), local=lambda: ranks_here(options.task, spec))
    if outcome is None:  # another process does the task, this one has computed for it
        return None
    lines = [*outcome.lines, f"results: {results_folder(spec, options.task)}"]
    return Closing(options.task, outcome.metrics, lines)
