"""The command `reid match`: are the persons in two images the same?

reid match A.jpg B.jpg --model model.onnx
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reid.cli.model_option import add_model, open_chosen, rate_of_errors, without_overrides
from reid.console.plain import printable
from reid.errors import SpecError
from reid.files.paths import given_path

if TYPE_CHECKING:
    from reid.stages.match import Verdict

DIFFERENT = 3
"""The exit status with --exit-status if a pair is not taken for one person."""


def add_match(parser: argparse.ArgumentParser) -> None:
    """Adds the description, the arguments and the action to the parser."""
    parser.description = (
        "match: prints how alike the persons of the first image and of each other one are (cosine of their embeddings, "
        "-1 to 1), and whether they are one person by the model's threshold, which training and evaluation measure."
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="two or more; the first is compared with each other")
    add_model(parser)
    parser.add_argument("--pairs", action="store_true", help="compare the images two by two: A B, C D, ...")
    judged = parser.add_mutually_exclusive_group()
    rate_help = "share of the pairs of different persons that may be taken for one person (default 0.001 if measured)"
    judged.add_argument("--false-match-rate", type=rate_of_errors, metavar="RATE", help=rate_help)
    cosine_help = "a threshold of your own: pairs at least this alike are one person"
    judged.add_argument("--threshold", type=float, metavar="COSINE", help=cosine_help)
    parser.add_argument("--json", action="store_true", help="print JSON")
    status_help = f"exit with status {DIFFERENT} if a pair is not taken for one person"
    parser.add_argument("--exit-status", dest="tell_by_status", action="store_true", help=status_help)
    parser.set_defaults(action=_match)


def _match(options: argparse.Namespace) -> None:
    images, overrides = without_overrides(options.images)
    options.overrides = [*overrides, *options.overrides]
    if options.threshold is not None and not -1 <= options.threshold <= 1:
        raise SpecError(f"--threshold {options.threshold:g}: no cosine\n  want: -1 to 1")
    pairs = _pairs([given_path(image) for image in images], two_by_two=options.pairs)
    from reid.stages.embed_files import require_files

    require_files([file for pair in pairs for file in pair])
    model = open_chosen(options, images=len(images))
    from reid.stages.match import match, require_threshold

    verdict = match(model, pairs, false_match_rate=options.false_match_rate, cosine=options.threshold)
    if options.tell_by_status:
        require_threshold(verdict)
        options.exit_status = DIFFERENT if not all(pair.same_person for pair in verdict.pairs) else 0
    print(_as_json(verdict, model.file) if options.json else printable(_in_words(verdict)))


def _pairs(images: list[Path], *, two_by_two: bool) -> list[tuple[Path, Path]]:
    if len(images) < 2:
        raise SpecError(f"{images[0] if images else 'no image'}: nothing to compare with\n  want: two images or more")
    if two_by_two and len(images) % 2:
        raise SpecError(f"--pairs: {len(images)} images, and {images[-1]} has no partner\n  want: A B, C D, ...")
    if two_by_two:
        return list(zip(images[::2], images[1::2], strict=True))
    return [(images[0], other) for other in images[1:]]


def _as_json(verdict: "Verdict", model: Path) -> str:
    known: dict[str, Any] | None = None
    if verdict.cosine is not None:
        known = {"cosine": verdict.cosine}
        if verdict.threshold and verdict.measured:
            known |= asdict(verdict.threshold) | {"measured_on": verdict.measured.measured_on}
    pairs = [asdict(pair) | {"first": str(pair.first), "second": str(pair.second)} for pair in verdict.pairs]
    return json.dumps(
        {"model": str(model), "data_type": verdict.data_type, "threshold": known, "pairs": pairs}, indent=2
    )


def _in_words(verdict: "Verdict") -> str:
    said = {True: "same person      ", False: "different persons", None: ""}
    lines = [
        f"{said[pair.same_person]}  {pair.cosine:7.4f}  {pair.first}  {pair.second}".lstrip() for pair in verdict.pairs
    ]
    return "\n".join([*lines, "", _explained(verdict)])


def _explained(verdict: "Verdict") -> str:
    """What the threshold means, in a sentence or two."""
    from reid.stages.match import FLOAT32, HOW_TO_GET_ONE

    if verdict.cosine is None:
        return f"no verdict: the model knows no threshold; want {HOW_TO_GET_ONE}"
    limit = f"same person: cosine of {verdict.cosine:.4f} or more"
    row, measured = verdict.threshold, verdict.measured
    if row is None or measured is None:
        return f"{limit}, by --threshold"
    wrong = f"at most {100 * row.rate:g}" if row.rate is not None else f"{100 * row.false_match_rate:.2f}"
    text = (
        f"{limit}; {wrong} % of the pairs of different persons reach that, and "
        f"{100 * row.true_match_rate:.1f} % of the pairs of one person\nmeasured on {measured.measured_on}"
    )
    if row.rate is None:
        text += f" ({row.name}; too few images for a rate of false matches)"
    if verdict.data_type != FLOAT32:
        text += f"; with {FLOAT32}: this file is {verdict.data_type}, whose cosines differ a little"
    return text
