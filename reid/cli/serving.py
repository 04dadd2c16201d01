"""The commands that make and start a Triton server: `reid triton` without a spec, and `reid start_server`."""

import argparse
import signal
from collections.abc import Callable

from reid.console.tables import Closing
from reid.errors import SpecError
from reid.files.paths import given_path


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
        outcome = triton(
            spec, model=given_path(options.model), repository=given_path(options.output), run=StageRun.none()
        )
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
    from reid.deploy.triton_server import refuse_taken_ports, serve, server_command
    from reid.spec import load_spec

    spec = load_spec(options.spec, overrides=options.overrides)
    section = spec.triton
    ports = {"http": section.http_port, "grpc": section.grpc_port, "metrics": section.metrics_port}
    command = server_command(
        model_repository(spec),
        image=section.server_image,
        gpu_id=section.gpu_id,
        address=section.address,
        ports=ports,
    )
    refuse_taken_ports(section.address, ports)
    make_servable(spec)
    refuse_taken_ports(section.address, ports)  # it may have taken hours
    serve(command, address=section.address, http_port=section.http_port)
