"""The actions of `reid dataset` that make a data set from other files.

reid dataset crops data/mine MOT20/train --every 25
"""

import argparse
from collections.abc import Callable

from reid.console.tables import Closing
from reid.files.paths import given_path


def add_crops(parser: argparse.ArgumentParser) -> None:
    """Adds the description, the arguments and the action of `crops` to the parser."""
    parser.description = (
        "crops: makes a data set in Market-1501's layout from films in MOTChallenge's layout (img1/000001.jpg, "
        "gt/gt.txt). Every sequence is a camera; persons of different sequences are different persons."
    )
    parser.add_argument("root", type=given_path, help="folder to make")
    folder_help = "a sequence, or a folder of sequences"
    parser.add_argument("sequences", type=given_path, nargs="+", metavar="FOLDER", help=folder_help)
    number, share = _number(int, 1), _number(float, 0, 1)
    parser.add_argument("--every", type=number, default=10, metavar="N", help="take frames 1, 1 + N, ...; default: 10")
    parser.add_argument(
        "--min-height", type=number, default=64, metavar="PX", help="least height of a box; default: 64"
    )
    visibility_help = "least visible share of a person, and of the box in the frame; default: 0.5"
    parser.add_argument("--min-visibility", type=share, default=0.5, metavar="SHARE", help=visibility_help)
    classes_help = "classes of gt.txt to take, e.g. 1,7, or any; default: 1, pedestrians"
    parser.add_argument("--classes", type=_classes, default=frozenset({1}), metavar="N,N", help=classes_help)
    padding_help = "share of a box's size that is added on each side; default: 0"
    parser.add_argument("--padding", type=share, default=0.0, metavar="SHARE", help=padding_help)
    shared_help = "a number in gt.txt means the same person in all sequences"
    parser.add_argument("--shared-ids", action="store_true", help=shared_help)
    camera_help = "matches under the query's own camera count; the spec then has to say dataset.cameras=none"
    parser.add_argument("--same-camera", action="store_true", help=camera_help)
    parser.add_argument("--test-share", type=share, default=0.5, metavar="SHARE", help="of the persons; default: 0.5")
    parser.add_argument("--seed", type=int, default=0, help="draws test persons and queries; default: 0")
    parser.set_defaults(action=_crops)


def _number(kind: Callable[[str], float], least: float, most: float | None = None) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = least - 1
        if value >= least and (most is None or value <= most):
            return value
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"found {text}; want: a number {limits}")

    return read


def _classes(text: str) -> frozenset[int]:
    if text == "any":
        return frozenset()
    try:
        return frozenset(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text}; want: whole numbers, e.g. 1,7, or any") from None


def _crops(options: argparse.Namespace) -> Closing:
    from reid.data.crop_choice import Wanted
    from reid.data.crops import FOLDERS, make_crops

    made = make_crops(
        options.root,
        options.sequences,
        wanted=Wanted(
            options.every, options.min_height, options.min_visibility, options.classes, padding=options.padding
        ),
        shared=options.shared_ids,
        same_camera=options.same_camera,
        test_share=options.test_share,
        seed=options.seed,
    )
    metrics = {f"{split} images": float(len(crops)) for split, crops in made.splits.items()}
    metrics |= {f"{split} persons": float(len({crop.person for crop in crops})) for split, crops in made.splits.items()}
    lines = []
    for one in made.taken:
        why = "".join(f", {count:,} {reason}" for reason, count in sorted(one.ignored.items()))
        taken = f"{len(one.chosen):,} of {len(one.sequence.boxes):,} boxes taken"
        lines.append(f"camera {one.camera}: {one.sequence.name}: {taken}{why}")
    fields = {"train": "train_dataset_dir", "query": "query_dataset_dir", "gallery": "test_dataset_dir"}
    lines += [f"dataset.{field}={options.root / FOLDERS[split]}" for split, field in fields.items()]
    if options.same_camera:
        lines.append("dataset.cameras=none (needed: matches under the query's own camera count)")
    return Closing("crops", metrics, lines)
