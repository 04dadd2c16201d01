"""The command `reid doctor`: which labels of the data set are suspect, by the embeddings of a trained model.

reid doctor -e spec.yaml
"""

import argparse

from reid.cli.model_option import add_model, open_chosen
from reid.console.tables import Closing
from reid.errors import SpecError

SHOWN = 100


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Adds the description, the arguments and the action to the parser."""
    parser.description = (
        "doctor: embeds the images of the spec's data set and looks for images that look like another person's, for "
        "two persons who look like one, and for one who looks like two. It writes suspects.html, suspects.csv and "
        "corrections.csv, whose lines you choose from, into results_dir/doctor; it changes no image and no label."
    )
    add_model(parser)
    most_help = f"the worst suspects of each kind that are written (default {SHOWN})"
    parser.add_argument("--most", type=_count, default=SHOWN, metavar="N", help=most_help)
    parser.set_defaults(action=_doctor)


def _doctor(options: argparse.Namespace) -> Closing:
    if not options.spec:
        raise SpecError("no spec: want -e SPEC, which says where the data set is")
    from reid.cli.task_files import results_folder
    from reid.files.disk_errors import raise_disk_errors_as_artifact_errors
    from reid.files.locks import locked
    from reid.spec import load_spec
    from reid.stages.doctor import doctor
    from reid.stages.validate import ensure_made

    spec = load_spec(options.spec, overrides=options.overrides, warn=False)
    ensure_made(spec)
    model = open_chosen(options, images=MANY)
    folder = results_folder(spec, "doctor")
    with locked(folder, user="doctor"), raise_disk_errors_as_artifact_errors(folder):
        outcome = doctor(spec, model=model, folder=folder, most=options.most)
    return Closing("doctor", outcome.metrics, [*outcome.lines, f"results: {folder}"])


MANY = 10_000
"""About how many images are embedded: enough to translate a checkpoint for ONNX Runtime."""


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= 100_000 or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text}: want a whole number from 1 to 100000")
    return int(text)
