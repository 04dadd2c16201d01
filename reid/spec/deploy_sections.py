"""The spec's sections on deployment: ONNX export, TensorRT engine, and serving with Triton."""

# ruff: noqa: RUF012 - pydantic copies a mutable default for each instance
from typing import Annotated, Literal

from pydantic import Field

from reid.spec.facts import ReadAloneBy, Replaced, WithoutEffect
from reid.spec.field_types import (
    ComputeCapability,
    Count,
    GpuId,
    IPv4,
    Positive,
    ReadFile,
    ReadFolder,
    ResultsFolder,
    Section,
    ServedName,
    Share,
    Text,
    WrittenFile,
    WrittenFolder,
)
from reid.spec.names import FIRST_OPSET, LAST_OPSET

Port = Annotated[int, Field(ge=1, le=65535)]
FINDS_ONNX = ReadAloneBy("gen_trt_engine", "triton")
"""The fact of fields by which these tasks find the exported ONNX when they run alone."""


class Pixels(Section):
    """The pixels that an ONNX takes if it prepares images itself."""

    data_type: Literal["uint8", "float32"] = "uint8"
    """Number type of the pixels."""
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    """Order of the axes: batch, height, width, channels (as decoders and OpenCV give images), or channels second."""
    channel_order: Literal["RGB", "BGR"] = "RGB"
    """Order of the colours; OpenCV's is BGR."""
    largest: Literal[255, 1] = 255
    """Value of white: 255, or 1 for float32 pixels from 0 to 1."""
    height: Count | None = None
    """Height of the images; null: any, and the ONNX resizes them."""
    width: Count | None = None
    """Width of the images; null: any, and the ONNX resizes them."""
    batch: Count | None = None
    """Number of images in every batch; null: any."""


class Quantization(Section):
    """How an INT8 or FP8 file is made, and how much it may lose."""

    images: Count = 256
    """Number of training images, balanced over persons and cameras, on which the scales are measured."""
    float_layers: list[Text] = []
    """Layers that stay in FP32, by torch's name of the module, e.g. base.conv1; more may be found by measurement."""
    max_float_layers: Annotated[int, Field(ge=0)] = 12
    """Largest number of further layers that stay in FP32 because the embeddings are not close enough without."""
    min_cosine: Share = 0.99
    """Lowest cosine that is accepted between torch's and the INT8 or FP8 file's embedding of a compared image."""
    max_mAP_drop: Share = 0.005  # noqa: N815
    """Largest drop of mAP from torch to the INT8 or FP8 file that is accepted on the compared images, as a fraction."""
    max_rank1_drop: Share = 0.02
    """Largest drop of rank-1 from torch to the INT8 or FP8 file that is accepted on the compared images."""


class Export(Section):
    """The ONNX export task."""

    checkpoint: Annotated[ReadFile | None, FINDS_ONNX, Replaced("the model comes from the stage train")] = None
    """Checkpoint to export; null: the best of the task train."""
    onnx_file: Annotated[WrittenFile | None, FINDS_ONNX] = None
    """ONNX file to write; null: <checkpoint>.onnx, or reid_model.onnx, in the results folder of the task."""
    gpu_id: Annotated[GpuId, WithoutEffect("the network is exported and compared on the CPU")] = 0
    """GPU of the export in TAO; here the export runs on the CPU."""
    opset: Annotated[int, Field(ge=FIRST_OPSET, le=LAST_OPSET)] = 18
    """Version of ONNX's operators (opset)."""
    data_type: Literal["FP32", "FP16", "INT8", "FP8"] = "FP32"
    """Number type inside the ONNX; its input and output are FP32. INT8 and FP8 are calibrated on training images; FP8
    needs opset 19 and a GPU of compute capability 8.9 or above."""
    quantization: Quantization = Field(default_factory=Quantization)
    preprocessing: Literal["outside", "inside"] = "outside"
    """Whether the ONNX takes prepared images (outside), or takes pixels and resizes and normalises them itself."""
    pixels: Pixels = Field(default_factory=Pixels)
    flip_test: bool = False
    """Whether an ONNX that takes pixels adds the embedding of the mirrored image."""
    unit_length: bool = False
    """Whether an ONNX that takes pixels gives embeddings of length 1."""
    encrypted: Annotated[bool, ReadAloneBy("adopt", "gen_trt_engine")] = False
    """Whether the ONNX, and an engine built from it, is encrypted with encryption_key."""
    parity_images: Annotated[int, Field(ge=2)] = 1000
    """Largest number of query and gallery images on which the ONNX is compared with torch."""
    min_cosine: Share = 0.9999
    """Lowest cosine that is accepted between torch's and the ONNX's embedding of a compared image, in FP32 and FP16."""
    max_mAP_drop: Share = 0.001  # noqa: N815
    """Largest drop of mAP from torch to the ONNX that is accepted on the compared images, as a fraction, in FP32 and
    FP16."""
    max_rank1_drop: Share = 0.01
    """Largest drop of rank-1 from torch to the ONNX that is accepted on the compared images, as a fraction, in FP32 and
    FP16."""
    overwrite: bool = False
    """Whether an existing ONNX file is replaced."""
    results_dir: Annotated[ResultsFolder | None, ReadAloneBy("export", "gen_trt_engine", "triton")] = None
    """Folder of the task's files; null: <results_dir>/export."""


TUNED_FOR = 16
"""The batch size that an engine is tuned for if the spec names none: the largest that Triton makes by default."""


class Calibration(Section):
    """Images, cal_batches x cal_batch_size, on which an INT8 or FP8 engine is calibrated."""

    cal_image_dir: list[ReadFolder] = []
    """Folders of images, subfolders included; empty: the training images, persons and cameras balanced."""
    cal_cache_file: Annotated[
        Text | None, WithoutEffect("the scales stand in the ONNX that the engine is built from")
    ] = None
    """File that keeps the scales in TAO; here they are measured anew, in seconds."""
    cal_batch_size: Count = 1
    """Number of images in a batch of calibration."""
    cal_batches: Count = 1
    """Number of batches of calibration; 256 images in all are a good number."""
    min_cosine: Share = 0.99
    """Lowest cosine that is accepted between the ONNX's and an INT8 or FP8 engine's embedding of a query image."""


class TensorRT(Section):
    """How the TensorRT engine is built."""

    data_type: Literal["FP32", "FP16", "INT8", "FP8"] = "FP32"
    """Number type inside the engine; its input and output are FP32. An INT8 or FP8 engine is built from an ONNX of
    that export.data_type, or from an FP32 one that is calibrated first."""
    calibration: Calibration = Field(default_factory=Calibration)
    workspace_size: Count = 1024
    """GPU memory in MiB that the builder may take."""
    min_batch_size: Count = 1
    """Number of images in the smallest batch that the engine takes."""
    opt_batch_size: Count | None = None
    """Number of images in the batch that the engine is tuned for; null: 16, or the nearest size that the engine
    takes."""
    max_batch_size: Count = 64
    """Number of images in the largest batch that the engine takes; evaluate and inference compute such batches."""

    @property
    def tuned_for(self) -> int:
        """The batch size that the engine is tuned for."""
        if self.opt_batch_size is not None:
            return self.opt_batch_size
        return max(self.min_batch_size, min(TUNED_FOR, self.max_batch_size))

    compute_capabilities: list[ComputeCapability] | None = None
    """Compute capabilities that a TensorRT-RTX engine is built for, e.g. ["8.6", "8.9"]; null: that of this machine's
    GPU, or ["8.6"] if there is none."""
    layers_precision: list[Annotated[Text, Field(pattern=r"^.+:[fF][pP]32$")]] = []
    """Layers that stay in FP32 if an FP32 ONNX is calibrated, as "layer:fp32"; a layer has the name of its ONNX node,
    or of its module in torch."""


class GenTrtEngine(Section):
    """The TensorRT task; the section has the shape of TAO's other networks."""

    onnx_file: Annotated[ReadFile | None, Replaced("the ONNX comes from the stage export")] = None
    """ONNX file to build from; null: the one of the task export."""
    trt_engine: WrittenFile | None = None
    """Another file to write the engine to, in addition to model.engine in the results folder."""
    timing_cache: WrittenFile | None = None
    """File that keeps kernel timings between builds; TensorRT-RTX does not use it."""
    gpu_id: GpuId = 0
    """GPU to build on, from 0; TensorRT-RTX builds without one."""
    results_dir: Annotated[ResultsFolder | None, FINDS_ONNX] = None
    """Folder of the task's files; null: <results_dir>/gen_trt_engine."""
    min_cosine: Share = 0.999
    """Lowest cosine that is accepted between the ONNX's and an FP32 or FP16 engine's embedding of a query image; they
    are compared if a GPU here can run the engine."""
    verbose: bool = False
    """Whether TensorRT's own messages are shown."""
    tensorrt: TensorRT = Field(default_factory=TensorRT)


class Triton(Section):
    """Serving with Triton: the tasks triton, start_server and start_client."""

    backend: Literal["onnxruntime", "python", "tensorrt"] = "onnxruntime"
    """Triton's backend: tensorrt runs a plan, the others the ONNX; python needs onnxruntime in the server's Python."""
    model_file: ReadFile | None = None
    """ONNX file or TensorRT plan to serve; null: the ONNX of the task export, or if backend is tensorrt, the plan of
    gen_trt_engine."""
    model_repository: WrittenFolder | None = None
    """Folder that the server loads; null: model_repository in the results folder."""
    model_name: ServedName = "re_identification_tao"
    """Name under which the model is served."""
    max_batch_size: Count = 16
    """Largest number of images in a request, and in the batch that Triton makes of several requests; start_client sends
    requests of this size."""
    server_image: Text = "nvcr.io/nvidia/tritonserver:25.08-py3"
    """Container image of Triton, started if no tritonserver is on the PATH; a plan needs an image with the TensorRT
    version that built it."""
    gpu_id: GpuId = 0
    """GPU of the server, from 0; a machine without a GPU uses the CPU."""
    address: IPv4 = "127.0.0.1"
    """Address on which the server of start_server listens: 127.0.0.1 is reached from this machine only, 0.0.0.0 from
    every machine that reaches this one; Triton asks nobody who he is."""
    http_port: Port = 8000
    """Port of this machine on which the server of start_server answers HTTP, and which start_client asks by http."""
    grpc_port: Port = 8001
    """Port of this machine on which the server of start_server answers gRPC, and which start_client asks by grpc."""
    metrics_port: Port = 8002
    """Port of this machine on which the server of start_server gives its metrics to Prometheus."""
    url: Text | None = None
    """Server that start_client asks, as host:port, or https://host:port for TLS; null: http_port or grpc_port on this
    machine."""
    protocol: Literal["http", "grpc"] = "http"
    """Protocol by which start_client asks the server."""
    contract: ReadFile | None = None
    """File that says how start_client prepares images for a model that another program laid out: a checkpoint, an ONNX,
    an engine's build.json, or the JSON of reid.contract; null: the server says it."""
    patience_s: Positive = 60.0
    """Seconds that the client waits for a server that does not answer."""
    sample_persons: Count | None = 100
    """Number of persons, chosen at random by train.seed, whose query and gallery images start_client sends; null: all
    images are sent."""
    results_dir: WrittenFolder | None = None
    """Folder of the task triton's files; null: <results_dir>/triton."""
