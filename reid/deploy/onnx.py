"""The network as one ONNX file that carries its preprocessing contract, and the same file run by ONNX Runtime.

Shapes: B images in a batch, C channels, H height, W width, D embedding width. Input "input" (B, C, H, W), output
"fc_pred" (B, D), both float32 and both named as TAO names them; only B is dynamic.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.errors import ArtifactError, MissingDependency, SpecError
from reid.files import replacing

if TYPE_CHECKING:
    from torch import nn

INPUT, OUTPUT = "input", "fc_pred"
CONTRACT_KEY = "reid.contract"
Ports = list[tuple[str, list[int | str]]]
"""(name, shape) of each input and output; a dynamic axis is its name."""

ONE_FILE_LIMIT_BYTES = 2**31 - 1
"""What a protobuf message can hold."""


def export_onnx(
    network: "nn.Module",
    path: Path,
    *,
    contract: Contract,
    settings: Mapping[str, Any],
    opset: int,
    overwrite: bool,
) -> None:
    """Write `network` (in eval mode, on the CPU) as ONNX to `path`, whole or not at all; equal weights, equal bytes.

    The file holds the weights, passes onnx's full check, and carries the contract, the opset, this project's version
    and the model's settings as metadata. Raises ArtifactError where a file is in the way and `overwrite` is false,
    where the network cannot be exported, or where it does not turn (B, C, H, W) into (B, D); SpecError where torch
    cannot write the opset; MissingDependency without onnx and onnxscript.
    """
    if path.exists() and not overwrite:
        raise ArtifactError(
            f"{path}: a file is there already\n  want: another export.onnx_file, or export.overwrite=true to replace it"
        )
    model = _translate(network, contract, opset)
    _strip(model)
    metadata = {
        CONTRACT_KEY: contract.to_json(),
        "reid.opset": str(opset),
        "reid.settings": json.dumps(settings, sort_keys=True),
        "reid.version": _project_version(),
    }
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    size = model.ByteSize()
    if size > ONE_FILE_LIMIT_BYTES:
        raise ArtifactError(f"{path}: the network takes {size / 2**30:.1f} GiB; one ONNX file holds 2 GiB at most")
    _check(model, f"{path}: the exported network")
    _check_ports(_ports(model), contract, f"{path}: the exported network")
    with replacing(path) as partial:
        partial.write_bytes(model.SerializeToString(deterministic=True))


def read_onnx(path: Path) -> tuple[Any, Contract]:
    """The file as onnx.ModelProto, and its contract; ArtifactError where it is damaged or not one of this project's."""
    onnx = _import_onnx()
    content = _read_bytes(path)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own DecodeError, under a name that moves with its version
        raise ArtifactError(f"{path}: damaged, or no ONNX file ({_one_line(error)})") from error
    contract = _contract_in({entry.key: entry.value for entry in model.metadata_props}, path)
    _check(model, str(path))
    _check_ports(_ports(model), contract, str(path))
    return model, contract


class OnnxModel:
    """The exported network run by ONNX Runtime on the CPU."""

    def __init__(self, path: Path | None = None, *, content: bytes | None = None, threads: int | None = None) -> None:
        """Open `path`, or `content` in its place; `threads` null: as many as there are cores.

        Raises ArtifactError where the file is missing, damaged, without contract or with ports that contradict it;
        MissingDependency without onnxruntime.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependency(
                f"running ONNX: {error}; onnxruntime comes with pip install 'reid-pipeline[export]'"
            ) from error
        where = path or Path("ONNX in memory")
        content = _read_bytes(where) if content is None else content
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; the warnings are about the optimizer's own choices
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen classes of its own, with Exception as their only parent
            raise ArtifactError(f"{where}: damaged, or no ONNX file ({_one_line(error)})") from error
        self.contract = _contract_in(self._session.get_modelmeta().custom_metadata_map, where)
        ports = [(port.name, port.shape) for port in (*self._session.get_inputs(), *self._session.get_outputs())]
        _check_ports(ports, self.contract, str(where))

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """images (B, C, H, W), preprocessed -> embeddings (B, D); ArtifactError for any other shape."""
        wanted = (self.contract.channels, self.contract.height, self.contract.width)
        if images.ndim != 4 or images.shape[1:] != wanted:
            raise ArtifactError(
                f"ONNX model: images of shape {images.shape}\n  want: (batch, {', '.join(map(str, wanted))})"
            )
        if not len(images):
            return np.empty((0, self.contract.embedding), np.float32)
        embeddings: NDArray[np.float32] = self._session.run(
            [OUTPUT], {INPUT: np.ascontiguousarray(images, np.float32)}
        )[0]
        return embeddings


def _translate(network: "nn.Module", contract: Contract, opset: int) -> Any:
    """The network as onnx.ModelProto, through torch's exporter for torch.export programs."""
    _import_onnx()
    import torch

    try:
        import onnxscript  # noqa: F401  (torch imports it late, and its own message does not name our extra)
    except ImportError as error:
        raise MissingDependency(
            f"ONNX export: {error}; onnxscript comes with pip install 'reid-pipeline[export]'"
        ) from error
    # Two images: torch.export takes a batch of one for a constant.
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
            f"ONNX export: torch cannot translate the network ({_one_line(error.__cause__ or error)})"
        ) from error
    assert program is not None
    model = program.model_proto
    written = next(entry.version for entry in model.opset_import if entry.domain == "")
    if written != opset:
        raise SpecError(f"export.opset: {opset}: torch {torch.__version__} cannot write it; want {written} or near it")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings and logs below ERROR: they are about its own insides."""
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
    """Drop the exporter's notes: stack traces as large as the graph, with paths that differ from machine to machine."""
    graph = model.graph
    for owner in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        owner.ClearField("metadata_props")
        owner.ClearField("doc_string")


def _check(model: Any, where: str) -> None:
    onnx = _import_onnx()
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(f"{where}: fails the ONNX check ({_one_line(error)})") from error


def _ports(model: Any) -> Ports:
    return [
        (port.name, [axis.dim_param or axis.dim_value for axis in port.type.tensor_type.shape.dim])
        for port in (*model.graph.input, *model.graph.output)
    ]


def _check_ports(ports: Ports, contract: Contract, where: str) -> None:
    """ArtifactError unless the ports are input (batch, C, H, W) and fc_pred (batch, D), with only the batch dynamic."""
    wanted: Ports = [
        (INPUT, [contract.channels, contract.height, contract.width]),
        (OUTPUT, [contract.embedding]),
    ]
    found = [(name, list(shape[1:])) for name, shape in ports]
    if found != wanted or not all(shape and isinstance(shape[0], str) for _, shape in ports):
        want: Ports = [(name, ["batch", *shape]) for name, shape in wanted]
        raise ArtifactError(
            f"{where}: inputs and outputs are {_spell(ports)}\n  want: {_spell(want)}, as its contract says"
        )


def _spell(ports: Ports) -> str:
    return ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in ports)


def _contract_in(metadata: Mapping[str, str], where: Path) -> Contract:
    if CONTRACT_KEY not in metadata:
        raise ArtifactError(
            f"{where}: no preprocessing contract in the metadata (found: {sorted(metadata) or 'no metadata'})\n"
            f"  want: {CONTRACT_KEY!r}, which `reid export` writes"
        )
    return Contract.from_json(metadata[CONTRACT_KEY])


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such ONNX file")
    return path.read_bytes()


def _import_onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise MissingDependency(f"ONNX: {error}; onnx comes with pip install 'reid-pipeline[export]'") from error
    return onnx


def _project_version() -> str:
    try:
        return version("reid-pipeline")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def _one_line(error: BaseException) -> str:
    """The first line of a foreign message, short enough for a terminal."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}".rstrip(": ")
