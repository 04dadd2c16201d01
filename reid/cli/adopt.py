"""The command `reid adopt`: converts another project's trained file into one that the tasks read.

reid adopt model_epoch_119.tlt -e spec.yaml
"""

import argparse

from reid.console.tables import Closing
from reid.files.paths import given_path


def add_adopt(parser: argparse.ArgumentParser) -> None:
    """Adds the description, the arguments except the spec, and the action to the parser."""
    parser.description = (
        "adopt: reads a checkpoint of TAO, reid-strong-baseline, SOLIDER-REID, fast-reid, IBN-Net or torchreid and "
        "writes one that the tasks read; gives an ONNX file of any exporter this project's input and output, and "
        "writes how images are prepared into it. The spec has to describe the network and its images; every tensor of "
        "the embedding has to fit."
    )
    parser.add_argument(
        "file", type=given_path, metavar="FILE", help="the checkpoint (tensors only, never code), or .onnx"
    )
    output_help = "default: <name>.adopted.pth, or .onnx, beside FILE"
    parser.add_argument("--output", type=given_path, metavar="FILE", help=output_help)
    embedding_help = "the output of an .onnx that is the embedding, if it has several"
    parser.add_argument("--embedding", metavar="NAME", help=embedding_help)
    parser.set_defaults(action=_adopt)


def _adopt(options: argparse.Namespace) -> Closing:
    from reid.spec import load_spec
    from reid.stages.adopt import adopt, adopted_name

    spec = load_spec(options.spec, overrides=options.overrides)
    output = options.output or adopted_name(options.file)
    outcome = adopt(spec, file=options.file, output=output, embedding=options.embedding)
    return Closing("adopt", outcome.metrics, outcome.lines)
