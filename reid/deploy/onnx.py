"""An ONNX file that carries its preprocessing contract: read and checked, and run by ONNX Runtime.

Encrypted files are decrypted in memory. `onnx_export.py` writes them.

Shapes: B images in a batch, C channels, H height, W width, D embedding width. Input "input" (B, C, H, W), output
"fc_pred" (B, D), both float32 and both named as TAO names them; only B is dynamic.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.errors import ArtifactError, MissingDependency
from reid.files.encryption import read_model

INPUT, OUTPUT = "input", "fc_pred"
CONTRACT_KEY, DATA_TYPE_KEY, SETTINGS_KEY = "reid.contract", "reid.data_type", "reid.settings"
"""Keys of the file's metadata: how to prepare its input; whether it is FP32 or FP16 inside; how it was built."""
Ports = list[tuple[str, list[int | str]]]
"""(name, shape) of each input and output; a dynamic axis stands in the shape by its name."""


def read_onnx(path: Path) -> tuple[Any, Contract]:
    """The file as onnx.ModelProto, and its contract; raises ArtifactError if it is damaged or of another project."""
    onnx = import_onnx()
    content = _read_bytes(path)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError, whose place differs from version to version
        raise ArtifactError(f"{path}: damaged, or no ONNX file ({one_line(error)})") from error
    contract = _contract_in({entry.key: entry.value for entry in model.metadata_props}, path)
    check(model, str(path))
    check_ports(ports_of(model), contract, str(path))
    return model, contract


class OnnxModel:
    """The exported network run by ONNX Runtime on the CPU."""

    def __init__(self, path: Path | None = None, *, content: bytes | None = None, threads: int | None = None) -> None:
        """Opens `path`, or `content` in its place; with `threads` None it uses all cores.

        Raises ArtifactError if the file is missing, damaged, without contract or with ports that contradict it;
        MissingDependency without onnxruntime.
        """
        _import_onnxruntime()
        where = path or Path("ONNX in memory")
        content = _read_bytes(where) if content is None else content
        try:
            self._session = open_session(content, threads=threads)
        except Exception as error:  # onnxruntime has a dozen classes of errors, with Exception as only parent
            raise ArtifactError(f"{where}: damaged, or no ONNX file ({one_line(error)})") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.contract = _contract_in(metadata, where)
        self.data_type: str = metadata.get(DATA_TYPE_KEY, "FP32")
        """The type of the arithmetic inside: FP32 or FP16; input and output are float32."""
        self.settings: dict[str, Any] = json.loads(metadata.get(SETTINGS_KEY, "{}"))
        """The keyword values of build_embedder."""
        ports = [(port.name, port.shape) for port in (*self._session.get_inputs(), *self._session.get_outputs())]
        check_ports(ports, self.contract, str(where))

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


def open_session(content: bytes, *, threads: int | None = None) -> Any:
    """ONNX Runtime's session of a file's content on the CPU; raises its errors, and MissingDependency without it."""
    onnxruntime = _import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised too, and the warnings are about the optimizer's own choices
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _import_onnxruntime() -> Any:
    """The module onnxruntime; raises MissingDependency without it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency(
            f"running ONNX: {error}; onnxruntime comes with pip install -e '.[export]' in the repository's root"
        ) from error
    return onnxruntime


def data_type_of(model: Any) -> str:
    """FP32 or FP16: the arithmetic inside an onnx.ModelProto of this project."""
    return next((str(entry.value) for entry in model.metadata_props if entry.key == DATA_TYPE_KEY), "FP32")


def check(model: Any, where: str) -> None:
    """Raises ArtifactError, which names `where`, if the model fails onnx's full check."""
    onnx = import_onnx()
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(f"{where}: fails the ONNX check ({one_line(error)})") from error


def ports_of(model: Any) -> Ports:
    """The inputs and outputs of an onnx.ModelProto."""
    return [
        (port.name, [axis.dim_param or axis.dim_value for axis in port.type.tensor_type.shape.dim])
        for port in (*model.graph.input, *model.graph.output)
    ]


def check_ports(ports: Ports, contract: Contract, where: str) -> None:
    """Raises ArtifactError unless the ports are input (batch, C, H, W) and fc_pred (batch, D), the batch dynamic."""
    wanted: Ports = [
        (INPUT, [contract.channels, contract.height, contract.width]),
        (OUTPUT, [contract.embedding]),
    ]
    found = [(name, list(shape[1:])) for name, shape in ports]
    if found != wanted or not all(shape and isinstance(shape[0], str) for _, shape in ports):
        want: Ports = [(name, ["batch", *shape]) for name, shape in wanted]
        raise ArtifactError(
            f"{where}: inputs and outputs are {spell(ports)}\n  want: {spell(want)}, as its contract says"
        )


def spell(ports: Ports) -> str:
    """The ports in the words of a message."""
    return ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in ports)


def _contract_in(metadata: Mapping[str, str], where: Path) -> Contract:
    if CONTRACT_KEY not in metadata:
        raise ArtifactError(
            f"{where}: no preprocessing contract in the metadata (found: {sorted(metadata) or 'no metadata'})\n"
            f"  want: {CONTRACT_KEY!r}, which `reid export` writes\n"
            f"  an ONNX of TAO and others: reid adopt {where} -e SPEC writes one into a copy of it"
        )
    return Contract.from_json(metadata[CONTRACT_KEY])


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise ArtifactError(f"{path.absolute()}: no such ONNX file")
    return read_model(path)


def import_onnx() -> Any:
    """The module onnx; raises MissingDependency without it."""
    try:
        import onnx
    except ImportError as error:
        raise MissingDependency(
            f"ONNX: {error}; onnx comes with pip install -e '.[export]' in the repository's root"
        ) from error
    return onnx


def one_line(error: BaseException) -> str:
    """The first line of another library's error, short enough for a terminal."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}".rstrip(": ")
