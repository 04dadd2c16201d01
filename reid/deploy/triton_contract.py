"""The preprocessing contract of a model on a Triton server: the server's own, or one that the client is given.

A model of `reid triton` has its contract in its configuration. One that another program laid out, such as TAO's
sample, has none; then the client has to be told it, and the size of the images comes from the server.
Shapes: C channels, H height, W width, D embedding width.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reid.contract import Contract
from reid.deploy.onnx import CONTRACT_KEY, INPUT, OUTPUT, pixels_of
from reid.deploy.pixel_port import PixelPort
from reid.deploy.triton_answers import LARGEST_EMBEDDING, LARGEST_IMAGE, ServedConfig, shown
from reid.errors import ArtifactError, ServerError

MODEL_KEY = "reid.model"
"""The parameter of config.pbtxt that holds the SHA-256 of the model's file."""
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ServedModel:
    """What a server says of its model."""

    contract: Contract
    pixels: PixelPort | None
    """The pixels that the model takes; None if it takes prepared images."""
    digest: str | None
    """The SHA-256 of the model's file; None if the server does not say it."""

    def first_difference(self, other: "ServedModel") -> tuple[str, str, str]:
        """What differs, in words, as it is here, and as the other has it."""
        if self.contract != other.contract:
            return "contract", self.contract.to_json(), other.contract.to_json()
        if self.pixels != other.pixels:
            return "input", str(self.pixels), str(other.pixels)
        return "model file", f"SHA-256 {self.digest}", f"SHA-256 {other.digest}; nothing of the two is mixed"


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


def served_model(config: ServedConfig, *, given: GivenContract | None, where: str, batch_size: int) -> ServedModel:
    """The model with this configuration: its contract, the pixels that it takes, and its digest.

    Raises ServerError if neither the configuration nor `given` has a contract, if they contradict each other, if the
    model's input or output contradicts it, if it asks for larger images or embeddings than any person re-identification
    has, and if the model takes smaller batches only.
    """
    contract, pixels = _contract(config, given=given, where=where), _pixels(config, where)
    _check_size(contract, pixels, where)
    found, wanted = _ports(config), _ports_wanted(contract, pixels)
    if found != wanted:
        by_hand = given is not None and config.text(CONTRACT_KEY) is None
        whose = given.source if given and by_hand else "its contract"
        raise ServerError(f"{where}: inputs and outputs are {shown(found, 500)}\n  want: {wanted}, as {whose} says")
    most = config.max_batch_size
    if batch_size > most:
        raise ServerError(
            f"{where} takes batches of at most {most} images\n  found: {batch_size} (-b, triton.max_batch_size)\n"
            f"  want:  {most} or less"
        )
    digest = config.text(MODEL_KEY)
    if digest is not None and not DIGEST.fullmatch(digest):
        raise ServerError(f"{where}: the parameter {MODEL_KEY} is {shown(digest)!r}\n  want: a SHA-256, 64 digits")
    return ServedModel(contract, pixels, digest)


def _check_size(contract: Contract, pixels: PixelPort | None, where: str) -> None:
    """Raises ServerError for images or embeddings that would fill the memory."""
    height, width = (pixels and pixels.height) or contract.height, (pixels and pixels.width) or contract.width
    most = max(height * width, contract.height * contract.width) * contract.channels
    if most > LARGEST_IMAGE or contract.embedding > LARGEST_EMBEDDING:
        raise ServerError(
            f"{where}: images of {contract.channels} x {height} x {width} and embeddings of {contract.embedding} "
            f"values\n  want: images of at most {LARGEST_IMAGE:,} values, embeddings of at most {LARGEST_EMBEDDING:,}"
        )


def _pixels(config: ServedConfig, where: str) -> PixelPort | None:
    try:
        return pixels_of({name: entry.string_value for name, entry in config.parameters.items()})
    except ArtifactError as error:
        raise ServerError(f"{where}: {str(error)[:1000]}") from None


def _contract(config: ServedConfig, *, given: GivenContract | None, where: str) -> Contract:
    text = config.text(CONTRACT_KEY)
    if text is None and given is None:
        raise ServerError(
            f"{where} has no preprocessing contract, which says how to prepare an image for it\n"
            f"  want: the parameter {CONTRACT_KEY!r} in its configuration, which reid triton writes;\n"
            "        for a model that another program laid out: reid client --contract FILE (a checkpoint, an ONNX, a "
            "build.json\n        or the JSON of reid.contract), or --mean and --std,\n"
            "        e.g. --mean 0.485 0.456 0.406 --std 0.226 0.226 0.226; for start_client triton.contract=FILE"
        )
    if text is None:
        assert given is not None
        return _given_contract(config, given, where)
    try:
        contract = Contract.from_json(text)
    except ArtifactError as error:
        raise ServerError(f"{where}: {str(error)[:1000]}") from None
    if given and (differences := contract.differences(**given.values)):
        raise ServerError(
            f"{where}: {given.source} contradicts the contract that the server has\n"
            f"  found: {'; '.join(differences)}\n  want:  the server's own, which is used if none is given"
        )
    return contract


def _given_contract(config: ServedConfig, given: GivenContract, where: str) -> Contract:
    """The given entries, with the sizes of the server's input and output where they are not given."""
    dims = [port.dims for port in (*config.input, *config.output)]
    if [len(each) for each in dims] != [3, 1]:
        raise ServerError(
            f"{where}: inputs and outputs are {shown(_ports(config), 500)}\n"
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


def _ports(config: ServedConfig) -> str:
    ports = [*config.input, *config.output]
    return ", ".join(f"{port.name} {port.data_type} ({', '.join(map(str, port.dims))})" for port in ports)


def _ports_wanted(contract: Contract, pixels: PixelPort | None) -> str:
    size, kind = f"{contract.channels}, {contract.height}, {contract.width}", "TYPE_FP32"
    if pixels:
        kind, size = pixels.in_triton(contract.channels)
    return f"{INPUT} {kind} ({size}), {OUTPUT} TYPE_FP32 ({contract.embedding})"
