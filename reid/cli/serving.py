"""The commands around Triton: `reid triton` without a spec, `reid start_server`, and `reid client`.

The client takes the arguments of the one in TAO's Triton sample:

    reid client QUERY_DIR --test_dir GALLERY_DIR -m re_identification_tao -x 1 -b 16 --mode Re_identification \\
        -i https -u localhost:8000 --async --output_path OUTPUT_DIR
"""

import argparse
import signal
from collections.abc import Callable
from pathlib import Path

from reid.console.tables import Closing
from reid.errors import SpecError

IN_FLIGHT = 20
"""Requests at a time with --async, as TAO's client."""
PROTOCOLS = ("http", "https", "grpc")
MEANINGLESS = {"model"}
"""A word that follows the value of -m in the command of TAO's documentation; it is ignored."""


def add_triton_options(
    parser: argparse.ArgumentParser, run_task: Callable[[argparse.Namespace], Closing | None]
) -> None:
    """Adds --model and --output to `reid triton`, which needs no spec if both are given."""
    parser.add_argument("--model", metavar="FILE", help="in place of triton.model_file")
    parser.add_argument("--output", metavar="FOLDER", help="in place of triton.model_repository")

    def act(options: argparse.Namespace) -> Closing | None:
        given = {"model_file": options.model, "model_repository": options.output}
        options.overrides += [f"triton.{name}={value}" for name, value in given.items() if value]
        if options.spec:
            return run_task(options)
        if not all(given.values()):
            raise SpecError("reid triton: want -e SPEC, or --model FILE and --output FOLDER")
        from reid.spec import load_spec
        from reid.stages.triton import triton
        from reid.tracking.stage_run import StageRun

        spec = load_spec(overrides=options.overrides)
        outcome = triton(spec, model=Path(options.model), repository=Path(options.output), run=StageRun.none())
        return Closing("triton", outcome.metrics, outcome.lines)

    parser.set_defaults(action=act)


def add_start_server(parser: argparse.ArgumentParser) -> None:
    """Adds the description and the action to the parser."""
    parser.description = (
        "start_server: writes the model repository (after the export and the engine, if they are missing) and starts "
        "Triton on it: a tritonserver on the PATH, else docker with triton.server_image. Runs until Ctrl-C."
    )
    parser.set_defaults(action=_start_server)


def _start_server(options: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from reid.cli.task_files import model_repository
    from reid.cli.tasks import make_servable
    from reid.deploy.triton_server import serve, server_command
    from reid.spec import load_spec

    spec = load_spec(options.spec, overrides=options.overrides)
    section = spec.triton
    command = server_command(
        model_repository(spec),
        image=section.server_image,
        gpu_id=section.gpu_id,
        ports={"http": section.http_port, "grpc": section.grpc_port, "metrics": section.metrics_port},
    )
    make_servable(spec)
    serve(command, http_port=section.http_port)


def add_client(parser: argparse.ArgumentParser) -> None:
    """Adds the client's arguments and its action to the parser."""
    parser.description = (
        "client: sends the images of two folders to a Triton server and writes OUTPUT_DIR/results.json: the rows of "
        "`reid inference`. The server says how an image has to be prepared."
    )
    parser.add_argument("query_dir", type=Path, help="folder of the query images, .jpg, .jpeg or .png")
    parser.add_argument("--test_dir", type=Path, required=True, help="folder of the gallery images")
    parser.add_argument("-m", "--model-name", required=True, metavar="NAME", help="e.g. re_identification_tao")
    parser.add_argument("-x", "--model-version", default="", metavar="N", help="default: the latest")
    parser.add_argument("-b", "--batch-size", type=_count, default=1, metavar="N", help="images per request (1)")
    parser.add_argument(
        "--mode", choices=["Re_identification"], default="Re_identification", help="the only one there is"
    )
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
    parser.add_argument("--output_path", type=Path, required=True, metavar="OUTPUT_DIR", help="folder for results.json")
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for a server that does not answer (default 60)",
    )
    parser.set_defaults(action=_client, meaningless=MEANINGLESS)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text}: want 1 or more")
    return count


def _client(options: argparse.Namespace) -> Closing:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from reid.deploy.triton_client import TritonModel
    from reid.deploy.triton_connection import Server
    from reid.stages.client import client

    server = Server(options.url, options.protocol, options.model_name, options.model_version)
    model = TritonModel(server, batch_size=options.batch_size, in_flight=options.in_flight, patience_s=options.patience)
    with model:
        outcome = client(model, query=options.query_dir, gallery=options.test_dir, output=options.output_path)
    return Closing("client", outcome.metrics, outcome.lines)
