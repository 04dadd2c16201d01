"""Which model a command runs on the images of its command line, a file or what a spec has made; and at which rate."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reid.errors import ArtifactError, SpecError
from reid.files.paths import given_path

if TYPE_CHECKING:
    from reid.deploy.opening import OpenModel
    from reid.spec import Experiment

OVERRIDE = re.compile(r"[a-z]\w*(\.\w+)*=.*", re.DOTALL)
"""section.field=value; a word that is also the name of a file is that file."""


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds -e SPEC and --model FILE, neither of them required: `chosen_model` wants one.

    Fields of the spec may follow the options; among the words before them `without_overrides` finds them.
    """
    names = ("-e", "--experiment_spec", "--experiment_spec_file")
    spec_help = "YAML; its task train has made the model, or its pipeline. Fields may follow: section.field=value"
    parser.add_argument(*names, dest="spec", metavar="SPEC", help=spec_help)
    model_help = "the model itself: a checkpoint, an ONNX file, a TensorRT engine, or a folder with checkpoints"
    parser.add_argument("--model", type=given_path, metavar="FILE", help=model_help)
    parser.set_defaults(overrides=[])


def without_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line that are no fields of the spec, and those that are: section.field=value."""
    overrides = [word for word in words if OVERRIDE.fullmatch(word) and not Path(word).exists()]
    return [word for word in words if word not in overrides], overrides


def chosen_model(options: argparse.Namespace) -> "tuple[Path, Experiment | None]":
    """The file of the model that the options of `add_model` name, and the spec, if one is given.

    It is the file of --model, else inference.checkpoint of the spec, else what the spec's task train or its pipeline
    left. `options.overrides`, if there, replaces fields of the spec, whose encryption key reads the model from now on.
    Raises SpecError if neither option is given, ArtifactError if there is no such model.
    """
    overrides = getattr(options, "overrides", [])
    if not options.spec and not options.model:
        raise SpecError("no model: want --model FILE, or -e SPEC of a training")
    if overrides and not options.spec:
        raise SpecError(f"{overrides[0]}: a field of a spec, but no spec is given\n  want: -e SPEC beside it")
    from reid.deploy.opening import find_checkpoint

    if not options.spec:
        return find_checkpoint(options.model), None
    from reid.cli.task_files import model_of
    from reid.files.secrets import key_to_environment
    from reid.spec import load_spec

    spec = load_spec(options.spec, overrides=overrides)
    key_to_environment(spec.encryption_key)
    if options.model:
        return find_checkpoint(options.model), spec
    try:
        return find_checkpoint(model_of(spec, "inference")), spec
    except ArtifactError as error:
        raise ArtifactError(f"{error}; or --model FILE") from None


def open_chosen(options: argparse.Namespace, *, images: int) -> "OpenModel":
    """The model of `chosen_model`, opened to embed about so many images; raises ArtifactError if the spec differs."""
    file, spec = chosen_model(options)
    from reid.deploy.opening import open_model

    model = open_model(file, device=_device_for(file), images=images)
    if spec:
        from reid.stages.agreement import require_agreement

        require_agreement(spec, model.contract, model.network_settings, file)
    return model


def _device_for(file: Path) -> str:
    """The device of a checkpoint: the first GPU if there is one; other files choose for themselves."""
    from reid.distributed.devices import CPU, first_device

    return first_device() if file.suffix.lower() in (".pth", ".tlt") else CPU


def rate_of_errors(text: str) -> float:
    """A share between 0 and 1, for argparse."""
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1:
        raise argparse.ArgumentTypeError(f"{text}: want a share between 0 and 1, e.g. 0.001")
    return rate
