"""An ONNX file that carries its preprocessing contract: read and checked, and run by ONNX Runtime.

Encrypted files are decrypted in memory. `onnx_export.py` writes them.

Shapes: B images in a batch, C channels, H height, W width, D embedding width. Input "input" (B, C, H, W), output
"fc_pred" (B, D), both float32 and both named as TAO names them; only B is dynamic. A file that prepares images itself
(`onnx_ends.py`) takes pixels as its PixelPort says.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.choice import Choice
from reid.contract import Contract
from reid.deploy.onnx_bytes import read_onnx_bytes, require_texts
from reid.deploy.pixel_port import PIXELS_KEY, PixelPort
from reid.embeddings import Network, OfPixels
from reid.errors import ArtifactError, MissingDependency
from reid.files.records import read_json_text
from reid.thresholds import Thresholds

INPUT, OUTPUT = "input", "fc_pred"
CONTRACT_KEY, DATA_TYPE_KEY, SETTINGS_KEY = "reid.contract", "reid.data_type", "reid.settings"
"""Keys of the file's metadata: how to prepare its input; what numbers it computes with inside; how it was built."""
QUANTIZATION_KEY = "reid.quantization"
"""The key of how an INT8 or FP8 file was quantised: images, layers kept in float32."""
IS_FP8 = b"\n\x0e" + DATA_TYPE_KEY.encode() + b"\x12\x03FP8"
"""The metadata of an FP8 file in its bytes."""
DATA_TYPES = ("FP32", "FP16", "INT8", "FP8")
Ports = list[tuple[str, list[int | str]]]
"""(name, shape) of each input and output; a dynamic axis stands in the shape by its name."""


def read_onnx(path: Path) -> tuple[Any, Contract]:
    """The file as onnx.ModelProto, and its contract; raises ArtifactError if it is damaged or of another project."""
    onnx = import_onnx()
    content = read_onnx_bytes(path)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError, whose place differs from version to version
        raise ArtifactError(f"{path}: damaged, or no ONNX file ({one_line(error)})") from error
    metadata = require_texts({entry.key: entry.value for entry in model.metadata_props}, path)
    contract = _contract_in(metadata, path)
    check(model, str(path))
    pixels = pixels_of(metadata, where=str(path))
    check_ports(ports_of(model), contract, str(path), pixels=pixels)
    kinds = [
        onnx.TensorProto.DataType.Name(port.type.tensor_type.elem_type).lower()
        for port in (model.graph.input[0], model.graph.output[0])
    ]
    _check_kinds(kinds, pixels, str(path))
    return model, contract


class OnnxModel:
    """The exported network run by ONNX Runtime on the CPU."""

    def __init__(self, path: Path | None = None, *, content: bytes | None = None, threads: int | None = None) -> None:
        """Opens `path`, or `content` in its place; with `threads` None it uses all cores.

        Raises ArtifactError if the file is missing, damaged, without contract or with ports that contradict it;
        MissingDependency without onnxruntime.
        """
        _import_onnxruntime()
        self.where = where = path or Path("ONNX in memory")
        content = read_onnx_bytes(where) if content is None else content
        try:
            self._session = open_session(content, threads=threads)
        except Exception as error:  # onnxruntime has a dozen classes of errors, with Exception as only parent
            raise ArtifactError(f"{where}: damaged, or no ONNX file ({one_line(error)})") from error
        try:
            metadata = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{where}: its metadata is not UTF-8 ({error.reason} at byte {error.start})") from None
        self.contract = _contract_in(metadata, where)
        self.data_type: str = metadata.get(DATA_TYPE_KEY, "FP32")
        """The type of the arithmetic inside: FP32, FP16, INT8 or FP8; input and output are float32."""
        if self.data_type not in DATA_TYPES:
            raise ArtifactError(f"{where}: {DATA_TYPE_KEY} {self.data_type!r}\n  want: one of {', '.join(DATA_TYPES)}")
        settings = metadata.get(SETTINGS_KEY, "{}")
        self.settings = read_json_text(settings, dict[str, Any], source=f"{where}: {SETTINGS_KEY}")
        """The keyword values of build_embedder."""
        self.thresholds = Thresholds.from_metadata(metadata, where=str(where))
        """From which cosine on two images count as one person; None if the file does not know."""
        self.choice = Choice.from_metadata(metadata, where=str(where))
        """On which images the best checkpoint was chosen; None if the file does not know."""
        self.pixels = pixels_of(metadata, where=str(where))
        """The pixels that the file takes; None if it takes prepared images."""
        found = (*self._session.get_inputs(), *self._session.get_outputs())
        check_ports([(port.name, port.shape) for port in found], self.contract, str(where), pixels=self.pixels)
        kinds = [port.type.removeprefix("tensor(").removesuffix(")") for port in found]
        _check_kinds(kinds, self.pixels, str(where))

    @property
    def network(self) -> Network | OfPixels:
        """The model as `embed` takes it: of prepared images, or of pixels if it prepares them itself."""
        if self.pixels is None:
            return self

        def start(pixels: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
            vectors = self.of_pixels(pixels)
            return lambda: vectors

        return OfPixels(start)

    def of_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Decoded images (B, H, W, C) of one size -> embeddings (B, D), by a file that prepares images itself.

        A last batch of too few images is filled up if the file has a fixed batch. Raises ArtifactError if the images
        are not of the port's size.
        """
        port = self.pixels
        assert port is not None, "it takes prepared images"
        size = (port.height or pixels.shape[1], port.width or pixels.shape[2], self.contract.channels)
        if pixels.shape[1:] != size:
            raise ArtifactError(
                f"ONNX model: images of shape {pixels.shape[1:]}\n  want: {size} (height, width, channels), which it "
                "was exported for; export.pixels.height=null and width=null take any size"
            )
        parts = [np.empty((0, self.contract.embedding), np.float32)]
        step = port.batch or max(1, len(pixels))
        for start in range(0, len(pixels), step):
            part = port.from_decoded(pixels[start : start + step])
            missing = (port.batch or len(part)) - len(part)
            full = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            parts.append(self._run(full)[: len(part)])
        return np.concatenate(parts)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """images (B, C, H, W), preprocessed -> embeddings (B, D); ArtifactError for any other shape."""
        if self.pixels is not None:
            raise ArtifactError("ONNX model: it takes pixels\n  found: prepared images\n  want: of_pixels")
        wanted = (self.contract.channels, self.contract.height, self.contract.width)
        if images.ndim != 4 or images.shape[1:] != wanted:
            raise ArtifactError(
                f"ONNX model: images of shape {images.shape}\n  want: (batch, {', '.join(map(str, wanted))})"
            )
        if not len(images):
            return np.empty((0, self.contract.embedding), np.float32)
        return self._run(np.ascontiguousarray(images, np.float32))

    def _run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """The embeddings of a batch. Raises ArtifactError if the graph, which is checked only now, cannot be run."""
        try:
            output = self._session.run([OUTPUT], {INPUT: batch})[0]
        except Exception as error:  # onnxruntime has a dozen classes of errors, with Exception as only parent
            raise ArtifactError(f"{self.where}: cannot be run on {len(batch)} images ({one_line(error)})") from error
        wanted = (len(batch), self.contract.embedding)
        if output.shape != wanted:
            raise ArtifactError(
                f"{self.where}: output {OUTPUT} of {len(batch)} images has the shape {output.shape}\n"
                f"  want: {wanted}, one embedding for each image"
            )
        embeddings: NDArray[np.float32] = output
        return embeddings


def open_session(content: bytes, *, threads: int | None = None) -> Any:
    """ONNX Runtime's session of a file's content on the CPU; raises its errors, and MissingDependency without it.

    Without VNNI, an x86 CPU would add products of 8-bit numbers in 16 bits, which overflow; with the option set here
    ONNX Runtime takes slower kernels on such a CPU, so that an INT8 file gives the same embeddings everywhere.
    """
    onnxruntime = _import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 4  # errors are raised too, and the warnings are about the optimizer's own choices
    if IS_FP8 in content:  # its further optimizations take FP8 for unsigned INT8, and drop a ReLU before it (1.31)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
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
    """FP32, FP16, INT8 or FP8: the arithmetic inside an onnx.ModelProto of this project."""
    return next((str(entry.value) for entry in model.metadata_props if entry.key == DATA_TYPE_KEY), "FP32")


def thresholds_in(model: Any, where: Path) -> Thresholds | None:
    """The thresholds that an onnx.ModelProto of this project brings along; None if it has none."""
    return Thresholds.from_metadata({entry.key: entry.value for entry in model.metadata_props}, where=str(where))


def choice_in(model: Any, where: Path) -> Choice | None:
    """The images on which the best checkpoint was chosen, as an onnx.ModelProto says; None if it does not."""
    return Choice.from_metadata({entry.key: entry.value for entry in model.metadata_props}, where=str(where))


def check(model: Any, where: str) -> None:
    """Raises ArtifactError, which names `where`, if the model fails onnx's full check."""
    onnx = import_onnx()
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(f"{where}: fails the ONNX check ({one_line(error)})") from error
    except UnicodeDecodeError as error:  # in the check's own objection, which quotes the name
        raise ArtifactError(f"{where}: fails the ONNX check, and has a name that is not UTF-8") from error


def ports_of(model: Any) -> Ports:
    """The inputs and outputs of an onnx.ModelProto."""
    return [
        (port.name, [axis.dim_param or axis.dim_value for axis in port.type.tensor_type.shape.dim])
        for port in (*model.graph.input, *model.graph.output)
    ]


def pixels_of(metadata: Mapping[str, str], *, where: str = "") -> PixelPort | None:
    """The pixels that a file with this metadata takes; None if it takes prepared images."""
    return PixelPort.from_json(metadata[PIXELS_KEY], where=where) if PIXELS_KEY in metadata else None


def pixels_of_model(model: Any) -> PixelPort | None:
    """The pixels that an onnx.ModelProto takes; None if it takes prepared images."""
    return pixels_of({entry.key: entry.value for entry in model.metadata_props})


def _check_kinds(found: Sequence[str], pixels: PixelPort | None, where: str) -> None:
    """Raises ArtifactError unless the input is of the type that the file's pixels have, and the output float32."""
    wanted = "uint8" if pixels and pixels.data_type == "uint8" else "float"
    if found[0] != wanted:
        reason = f", as its {PIXELS_KEY} says" if pixels else ""
        raise ArtifactError(f"{where}: its input is {found[0]}\n  want: {wanted}{reason}")
    if found[1] != "float":
        raise ArtifactError(f"{where}: its output is {found[1]}\n  want: float")


def check_ports(ports: Ports, contract: Contract, where: str, *, pixels: PixelPort | None = None) -> None:
    """Raises ArtifactError unless the ports are input (batch, C, H, W) and fc_pred (batch, D), the batch dynamic.

    With `pixels`, the input must be as they say.
    """
    if pixels:
        promised: Ports = [
            (INPUT, pixels.shape(contract.channels)),
            (OUTPUT, [pixels.batch or "batch", contract.embedding]),
        ]
        if [(name, list(shape)) for name, shape in ports] != promised:
            raise ArtifactError(
                f"{where}: inputs and outputs are {spell(ports)}\n  want: {spell(promised)}, as its {PIXELS_KEY} says"
            )
        return
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
    return Contract.from_json(metadata[CONTRACT_KEY], where=str(where))


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
