"""Writes the network as one ONNX file that carries its preprocessing contract.

Shapes: B images in a batch, C channels, H height, W width, D embedding width. Input "input" (B, C, H, W), output
"fc_pred" (B, D), both float32 and both named as TAO names them; only B is dynamic.
"""

import json
import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reid import __version__
from reid.choice import KEY as CHOICE_KEY
from reid.choice import Choice
from reid.contract import Contract
from reid.deploy.half import to_half
from reid.deploy.half_range import beyond_half
from reid.deploy.onnx import (
    CONTRACT_KEY,
    DATA_TYPE_KEY,
    INPUT,
    OUTPUT,
    SETTINGS_KEY,
    check,
    check_ports,
    import_onnx,
    one_line,
    ports_of,
)
from reid.errors import ArtifactError, MissingDependency, SpecError
from reid.files.encryption import write_model
from reid.thresholds import KEY as THRESHOLDS_KEY
from reid.thresholds import Thresholds

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

ONE_FILE_LIMIT_BYTES = 2**31 - 1
"""The largest size of a protobuf message."""


def export_onnx(
    network: "nn.Module",
    path: Path,
    *,
    contract: Contract,
    settings: Mapping[str, Any],
    opset: int,
    overwrite: bool,
    data_type: str = "FP32",
    key: str | None = None,
    thresholds: Thresholds | None = None,
    choice: Choice | None = None,
    images: Iterable[NDArray[np.float32]] | None = None,
) -> None:
    """Writes `onnx_bytes` to `path`, whole or not at all. With a `key` they are encrypted, and no two files are equal.

    Raises ArtifactError if a file is there and `overwrite` is false, and what onnx_bytes raises.
    """
    if path.exists() and not overwrite:
        raise ArtifactError(
            f"{path}: a file is there already\n  want: another export.onnx_file, or export.overwrite=true to replace it"
        )
    content = onnx_bytes(
        network,
        where=path,
        contract=contract,
        settings=settings,
        opset=opset,
        data_type=data_type,
        thresholds=thresholds,
        choice=choice,
        images=images,
    )
    write_model(path, content, key=key)


def onnx_bytes(
    network: "nn.Module",
    *,
    where: Path,
    contract: Contract,
    settings: Mapping[str, Any],
    opset: int,
    data_type: str = "FP32",
    thresholds: Thresholds | None = None,
    choice: Choice | None = None,
    images: Iterable[NDArray[np.float32]] | None = None,
) -> bytes:
    """`network` (in eval mode, on the CPU) as the content of an ONNX file; equal weights give equal bytes.

    It holds the weights, passes onnx's full check, and carries the contract, the opset, this project's version, the
    model's settings and, if they are known, its thresholds and the images of its choice as metadata. With
    data_type "FP16" the arithmetic inside is
    half precision, but for numbers that are too large for it on `images` (B, C, H, W), preprocessed. Raises
    ArtifactError, which names `where`, if the network cannot be exported or does not turn (B, C, H, W) into (B, D);
    raises SpecError if torch cannot write the opset; MissingDependency without onnx and onnxscript.
    """
    model = _translate(network, contract, opset)
    _strip(model)
    metadata = {
        CONTRACT_KEY: contract.to_json(),
        DATA_TYPE_KEY: data_type,
        "reid.opset": str(opset),
        SETTINGS_KEY: json.dumps(settings, sort_keys=True),
        "reid.version": __version__,
        **({THRESHOLDS_KEY: thresholds.to_json()} if thresholds else {}),
        **({CHOICE_KEY: choice.to_json()} if choice else {}),
    }
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=value)
    if data_type == "FP16":
        model = to_half(model, large=_too_large(model, images) if images is not None else ())
    size = model.ByteSize()
    if size > ONE_FILE_LIMIT_BYTES:
        raise ArtifactError(f"{where}: the network takes {size / 2**30:.1f} GiB; one ONNX file holds 2 GiB at most")
    check(model, f"{where}: the exported network")
    check_ports(ports_of(model), contract, f"{where}: the exported network")
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _too_large(model: Any, images: Iterable[NDArray[np.float32]]) -> Collection[str]:
    found = beyond_half(model, images)
    if found:
        most = max(found.values())
        logger.warning(
            "FP16: %d tensors reach up to %.0f, too large for half precision; they stay in FP32", len(found), most
        )
    return found


def _translate(network: "nn.Module", contract: Contract, opset: int) -> Any:
    """The network as onnx.ModelProto, by torch's exporter for torch.export programs."""
    import_onnx()
    import torch

    try:
        import onnxscript  # noqa: F401  (torch imports it late, and its own message does not name our extra)
    except ImportError as error:
        raise MissingDependency(
            f"ONNX export: {error}; onnxscript comes with pip install -e '.[export]' in the repository's root"
        ) from error
    # two images, because torch.export takes a batch of one for a constant
    images = torch.zeros(2, contract.channels, contract.height, contract.width)
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except torch.onnx.OnnxExporterError as error:
        raise ArtifactError(
            f"ONNX export: torch cannot translate the network ({one_line(error.__cause__ or error)})"
        ) from error
    assert program is not None
    model = program.model_proto
    written = next(entry.version for entry in model.opset_import if entry.domain == "")
    if written != opset:
        raise SpecError(f"export.opset: {opset}: torch {torch.__version__} cannot write it; want {written} or near it")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's warnings, and its logs below ERROR: they are about its own inner workings."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.export", "torch.fx")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _strip(model: Any) -> None:
    """Drops the exporter's stack traces, as large as the graph, whose paths differ from machine to machine."""
    graph = model.graph
    for owner in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        owner.ClearField("metadata_props")
        owner.ClearField("doc_string")
