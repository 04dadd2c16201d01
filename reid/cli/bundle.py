"""The command `reid bundle`: a model as a tracker or a server wants it, with its configuration.

reid bundle --for deepstream --model reid_model.onnx --output bundles/deepstream --check data/query data/gallery
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from reid.cli.model_option import add_model, chosen_model, rate_of_errors
from reid.console.tables import Closing
from reid.errors import DatasetError
from reid.files.paths import given_path

if TYPE_CHECKING:
    from reid.data.market1501 import Split
    from reid.spec import Experiment

PROGRAMS = ("deepstream", "boxmot", "ultralytics", "triton")
OVERSIZES = (1, 2, 3)


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Adds the description, the arguments but the overrides, and the action to the parser."""
    parser.description = (
        "bundle: writes a folder with the model as a tracker or Triton wants it, its configuration and the commands. "
        "With images, it also runs the program's own preprocessing, rewritten from its source, and says what that "
        "costs beside this project's."
    )
    parser.add_argument("--for", dest="program", required=True, choices=PROGRAMS, help="the program")
    add_model(parser)
    parser.add_argument("--output", type=given_path, required=True, metavar="FOLDER", help="folder to make")
    check_help = "two folders of images that are named as in Market-1501, to measure on; default: those of -e SPEC"
    parser.add_argument("--check", type=given_path, nargs=2, metavar=("QUERY", "GALLERY"), help=check_help)
    parser.add_argument(
        "--images", type=_positive, default=400, metavar="N", help="most images of the check; default: 400"
    )
    oversize_help = (
        "a tracker's input is the network's size times this, shrunk inside with antialiasing: 2 keeps the detail of "
        "crops up to twice the network's size, 1 is for crops that are not larger than the network; default: 2"
    )
    parser.add_argument("--oversize", type=int, choices=OVERSIZES, default=2, help=oversize_help)
    batch_help = "largest batch of DeepStream's engine and of Triton; default: 32"
    parser.add_argument("--batch-size", type=_positive, default=32, metavar="N", help=batch_help)
    rate_help = (
        "the tracker's threshold accepts this share of the pairs of different persons; default: 0.001, or the lowest "
        "rate that the model knows"
    )
    parser.add_argument("--false-match-rate", type=rate_of_errors, metavar="RATE", help=rate_help)
    parser.set_defaults(action=_bundle)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}; want: a whole number from 1")
    return int(text)


def _bundle(options: argparse.Namespace) -> Closing:
    model, spec = chosen_model(options)
    from reid.stages.bundle import Wanted, bundle

    wanted = Wanted(
        program=options.program,
        oversize=options.oversize,
        batch_size=options.batch_size,
        false_match_rate=options.false_match_rate,
        images=options.images,
    )
    outcome = bundle(model, options.output, wanted=wanted, crops=_crops(options, spec))
    return Closing("bundle", outcome.metrics, outcome.lines)


def _crops(options: argparse.Namespace, spec: "Experiment | None") -> "list[Split] | None":
    """Query and gallery of --check, else those of the spec, else None."""
    if options.check:
        return [_listed(folder) for folder in options.check]
    if spec is None:
        return None
    from reid.cli.task_files import images_of
    from reid.data.market1501 import Manifest

    manifest = Manifest.load(images_of(spec, "inference"))
    return [manifest.query, manifest.gallery]


def _listed(folder: Path) -> "Split":
    from reid.data.market1501 import list_folder
    from reid.data.no_images import found_instead

    listing = list_folder(folder.absolute())
    if not listing.split.images:
        named = f": none of {len(listing.misnamed)} images is named as in Market-1501" if listing.misnamed else ""
        raise DatasetError(f"{folder}: no image to check with{named or found_instead(listing)}")
    return listing.split
