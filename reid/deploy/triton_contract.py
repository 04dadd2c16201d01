"""The preprocessing contract of a model on a Triton server: the server's own, or one that the client is given.

A model of `reid triton` has its contract in its configuration. One that another program laid out, such as TAO's
sample, has none; then the client has to be told it, and the size of the images comes from the server.
Shapes: C channels, H height, W width, D embedding width.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reid.contract import Contract
from reid.deploy.onnx import CONTRACT_KEY, INPUT, OUTPUT, pixels_of
from reid.deploy.pixel_port import PixelPort
from reid.errors import ArtifactError, ServerError


@dataclass(frozen=True)
class GivenContract:
    """What the client is told about the preprocessing."""

    values: Mapping[str, Any]
    """Entries of Contract; those that are left out are the server's sizes and Contract's defaults."""
    source: str
    """What gave them: "--contract FILE"."""


def contract_of_file(file: Path, *, source: str) -> GivenContract:
    """The contract that a file carries; `source` names the file in errors."""
    from reid.deploy.contract_files import read_contract

    return GivenContract(asdict(read_contract(file)), source)


def served_contract(
    config: Mapping[str, Any], *, given: GivenContract | None, where: str, batch_size: int
) -> tuple[Contract, PixelPort | None]:
    """The contract of a model with this configuration, which Triton gives as JSON, and the pixels that it takes.

    The pixels are None if the model takes prepared images.

    Raises ServerError if neither the configuration nor `given` has one, if they contradict each other, if the model's
    input or output contradicts it, and if the model takes smaller batches only.
    """
    contract, pixels = _contract(config, given=given, where=where), _pixels(config, where)
    found, wanted = _ports(config), _ports_wanted(contract, pixels)
    if found != wanted:
        by_hand = given is not None and CONTRACT_KEY not in config.get("parameters", {})
        whose = given.source if given and by_hand else "its contract"
        raise ServerError(f"{where}: inputs and outputs are {found}\n  want: {wanted}, as {whose} says")
    most = int(config.get("max_batch_size", 0))
    if batch_size > most:
        raise ServerError(
            f"{where} takes batches of at most {most} images\n  found: {batch_size} (-b, triton.max_batch_size)\n"
            f"  want:  {most} or less"
        )
    return contract, pixels


def _pixels(config: Mapping[str, Any], where: str) -> PixelPort | None:
    parameters = config.get("parameters", {})
    try:
        return pixels_of({name: entry["string_value"] for name, entry in parameters.items()})
    except ArtifactError as error:
        raise ServerError(f"{where}: {error}") from None


def _contract(config: Mapping[str, Any], *, given: GivenContract | None, where: str) -> Contract:
    parameter = config.get("parameters", {}).get(CONTRACT_KEY)
    if parameter is None and given is None:
        raise ServerError(
            f"{where} has no preprocessing contract, which says how to prepare an image for it\n"
            f"  want: the parameter {CONTRACT_KEY!r} in its configuration, which reid triton writes;\n"
            "        for a model that another program laid out: reid client --contract FILE (a checkpoint, an ONNX, a "
            "build.json\n        or the JSON of reid.contract), or --mean and --std,\n"
            "        e.g. --mean 0.485 0.456 0.406 --std 0.226 0.226 0.226; for start_client triton.contract=FILE"
        )
    try:
        if parameter is None:
            assert given is not None
            return _given_contract(config, given, where)
        contract = Contract.from_json(parameter["string_value"])
    except ArtifactError as error:
        raise ServerError(f"{where}: {error}") from None
    if given and (differences := contract.differences(**given.values)):
        raise ServerError(
            f"{where}: {given.source} contradicts the contract that the server has\n"
            f"  found: {'; '.join(differences)}\n  want:  the server's own, which is used if none is given"
        )
    return contract


def _given_contract(config: Mapping[str, Any], given: GivenContract, where: str) -> Contract:
    """The given entries, with the sizes of the server's input and output where they are not given."""
    dims = [[int(size) for size in port["dims"]] for port in (*config["input"], *config["output"])]
    if [len(each) for each in dims] != [3, 1]:
        raise ServerError(
            f"{where}: inputs and outputs are {_ports(config)}\n"
            f"  want: one input (channels, height, width) and one output (embedding)"
        )
    (channels, height, width), (embedding,) = dims
    sizes = {"channels": channels, "height": height, "width": width, "embedding": embedding}
    order = {"channel_order": "L"} if channels == 1 else {}
    contract = Contract(**{**sizes, **order, **given.values})
    try:
        contract.check()
    except ArtifactError as error:
        raise ServerError(f"{where}: {given.source}: {error}") from None
    return contract


def _ports(config: Mapping[str, Any]) -> str:
    ports = [*config["input"], *config["output"]]
    return ", ".join(f"{port['name']} {port['data_type']} ({', '.join(map(str, port['dims']))})" for port in ports)


def _ports_wanted(contract: Contract, pixels: PixelPort | None) -> str:
    size, kind = f"{contract.channels}, {contract.height}, {contract.width}", "TYPE_FP32"
    if pixels:
        kind, size = pixels.in_triton(contract.channels)
    return f"{INPUT} {kind} ({size}), {OUTPUT} TYPE_FP32 ({contract.embedding})"
