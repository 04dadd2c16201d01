"""The command `reid client`, which takes the arguments of the client in TAO's Triton sample:

    reid client QUERY_DIR --test_dir GALLERY_DIR -m re_identification_tao -x 1 -b 16 --mode Re_identification \\
        -i https -u localhost:8000 --async --output_path OUTPUT_DIR
"""

import argparse
import logging
import math
import signal
from typing import TYPE_CHECKING

from reid.console.tables import Closing
from reid.errors import SpecError
from reid.files.paths import given_path

if TYPE_CHECKING:
    from reid.deploy.triton_contract import GivenContract

logger = logging.getLogger(__name__)

IN_FLIGHT = 20
"""Requests at a time with --async, as TAO's client."""
PROTOCOLS = ("http", "https", "grpc")
MEANINGLESS = {"model"}
"""A word that follows the value of -m in the command of TAO's documentation; it is ignored."""
OF_OTHER_MODES = {
    "class_list": "the names of classes are for TAO's detection models",
    "postprocessing_config": "TAO's client reads it for DetectNet_v2 and CenterPose",
}
"""Arguments of TAO's client that it, too, ignores for re-identification -> why."""


def add_client(parser: argparse.ArgumentParser) -> None:
    """Adds the client's arguments and its action to the parser."""
    parser.description = (
        "client: sends images to a Triton server and writes OUTPUT_DIR/results.json: the rows of `reid inference`, "
        "without the gallery's junk (-1). The server says how an image has to be prepared; for a model that another "
        "program laid out, --contract or --mean and --std say it."
    )
    parser.add_argument("query", type=given_path, help="folder of the query images, .jpg, .jpeg or .png; or one image")
    parser.add_argument("--test_dir", type=given_path, help="folder of the gallery images")
    parser.add_argument("-m", "--model-name", required=True, metavar="NAME", help="e.g. re_identification_tao")
    parser.add_argument("-x", "--model-version", default="", metavar="N", help="default: the latest")
    parser.add_argument("-b", "--batch-size", type=_count, default=1, metavar="N", help="images per request (1)")
    parser.add_argument(
        "--mode", choices=["Re_identification"], default="Re_identification", help="the only one there is"
    )
    _add_connection(parser)
    _add_contract(parser)
    parser.add_argument(
        "--output_path", type=given_path, required=True, metavar="OUTPUT_DIR", help="folder for results.json"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log every request, with its time")
    for name, why in OF_OTHER_MODES.items():
        parser.add_argument(f"--{name}", help=f"accepted without effect: {why}")
    parser.set_defaults(action=_client, meaningless=MEANINGLESS)


def _add_connection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i",
        "--protocol",
        type=str.lower,
        choices=PROTOCOLS,
        default="http",
        help="http and https both speak HTTP, as in TAO's client; for TLS give an https:// url",
    )
    parser.add_argument(
        "-u",
        "--url",
        default="localhost:8000",
        help="host:port, or https://host:port for TLS (default localhost:8000; Triton's gRPC port is 8001)",
    )
    parser.add_argument("-a", "--async", dest="in_flight", action="store_const", const=IN_FLIGHT, default=1,
                        help=f"send {IN_FLIGHT} requests at a time, not one")  # fmt: skip
    parser.add_argument(
        "--streaming", action="store_true", help=f"with -i grpc: send the requests over streams, {IN_FLIGHT} at a time"
    )
    parser.add_argument(
        "--patience",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for a server that does not answer (default 60)",
    )


def _add_contract(parser: argparse.ArgumentParser) -> None:
    by_hand = parser.add_argument_group("for a model without a preprocessing contract on the server")
    by_hand.add_argument(
        "--contract",
        type=given_path,
        metavar="FILE",
        help="a file that carries it: checkpoint, ONNX, engine, build.json, or the JSON of reid.contract",
    )
    by_hand.add_argument("--mean", type=float, nargs="+", metavar="X", help="of each channel, of pixels of 0 to 1")
    by_hand.add_argument("--std", type=float, nargs="+", metavar="X", help="of each channel")


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: want a whole number from 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: want a number of seconds from 0")
    return seconds


def _client(options: argparse.Namespace) -> Closing:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from reid.deploy.triton_client import TritonModel
    from reid.deploy.triton_connection import Server
    from reid.stages.client import client

    if options.verbose:
        logging.getLogger("reid").setLevel(logging.DEBUG)
    for name, why in OF_OTHER_MODES.items():
        if getattr(options, name) is not None:
            logger.warning("--%s has no effect: %s", name, why)
    server = Server(options.url, options.protocol, options.model_name, options.model_version, options.streaming)
    in_flight = IN_FLIGHT if options.streaming else options.in_flight
    model = TritonModel(
        server,
        batch_size=options.batch_size,
        in_flight=in_flight,
        patience_s=options.patience,
        given=_given_contract(options),
    )
    with model:
        outcome = client(model, query=options.query, gallery=options.test_dir, output=options.output_path)
    return Closing("client", outcome.metrics, outcome.lines)


def _given_contract(options: argparse.Namespace) -> "GivenContract | None":
    """The contract of the command line; None if it has none. Raises SpecError for half of one, and for two."""
    by_hand = {"--mean": options.mean, "--std": options.std}
    given = [name for name, value in by_hand.items() if value is not None]
    if options.contract and given:
        raise SpecError(f"--contract and {given[0]}: found both, want one of them")
    if options.contract:
        from reid.deploy.triton_contract import contract_of_file

        return contract_of_file(options.contract, source=f"--contract {options.contract}")
    if not given:
        return None
    if options.mean is None or options.std is None:
        raise SpecError(f"{given[0]}: found alone\n  want: --mean and --std, a number for each channel")
    if len(options.mean) != len(options.std):
        raise SpecError(
            f"--mean, --std: found {len(options.mean)} and {len(options.std)} numbers, want as many of both"
        )
    from reid.deploy.triton_contract import GivenContract

    return GivenContract({"mean": tuple(options.mean), "std": tuple(options.std)}, "--mean, --std")
