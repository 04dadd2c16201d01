"""The spec's sections on deployment: ONNX export, TensorRT engine, and serving with Triton."""

# ruff: noqa: RUF012 - pydantic copies a mutable default for each instance
from typing import Annotated, Literal

from pydantic import Field

from reid.spec.facts import ReadAloneBy, Replaced, WithoutEffect
from reid.spec.field_types import (
    ComputeCapability,
    Count,
    GpuId,
    Positive,
    ReadFile,
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
"""The tasks that look for the exported ONNX by themselves when they run alone."""


class Export(Section):
    """The ONNX export task."""

    checkpoint: Annotated[ReadFile | None, FINDS_ONNX, Replaced("the model comes from the stage train")] = None
    """Checkpoint to export; null: the best of the task train."""
    onnx_file: Annotated[WrittenFile | None, FINDS_ONNX] = None
    """ONNX file to write; null: <checkpoint>.onnx, or reid_model.onnx, in the results folder of the task."""
    gpu_id: Annotated[GpuId, WithoutEffect("the network is exported and compared on the CPU")] = 0
    """A field of TAO's; the export runs on the CPU."""
    opset: Annotated[int, Field(ge=FIRST_OPSET, le=LAST_OPSET)] = 18
    """Version of ONNX's operators; torch can write those of this range."""
    data_type: Literal["FP32", "FP16"] = "FP32"
    """Numbers inside the ONNX; its input and output are FP32."""
    encrypted: Annotated[bool, ReadAloneBy("adopt")] = False
    """Whether the ONNX, and an engine built from it, is encrypted with encryption_key."""
    parity_images: Annotated[int, Field(ge=2)] = 1000
    """Query and gallery images, whole persons, on which the ONNX is compared with torch."""
    min_cosine: Share = 0.9999
    """Least cosine between the embeddings of torch and of the ONNX, over these images."""
    max_mAP_drop: Share = 0.001  # noqa: N815
    """Most of the mAP on these images that the ONNX may lose, as a fraction."""
    max_rank1_drop: Share = 0.01
    """Most of the rank-1 on these images that the ONNX may lose, as a fraction."""
    overwrite: bool = False
    """Whether an existing ONNX file is replaced."""
    results_dir: Annotated[ResultsFolder | None, ReadAloneBy("export", "gen_trt_engine", "triton")] = None
    """Folder of the task's files; null: <results_dir>/export."""


class TensorRT(Section):
    """How the engine is built."""

    data_type: Literal["FP32", "FP16", "INT8"] = "FP32"
    """Numbers inside the engine; its input and output are FP32. INT8 is not built here."""
    workspace_size: Count = 1024
    """MiB that the builder may take on the GPU."""
    min_batch_size: Count = 1
    """Least images of a batch that the engine takes."""
    opt_batch_size: Count = 4
    """Images of a batch that the engine is tuned for."""
    max_batch_size: Count = 16
    """Most images of a batch that the engine takes."""
    compute_capabilities: list[ComputeCapability] | None = None
    """GPUs that a TensorRT-RTX engine is built for, e.g. ["8.6", "8.9"]; null: the GPU that is here, else ["8.6"]."""
    layers_precision: Annotated[list[Text], WithoutEffect("every layer has gen_trt_engine.tensorrt.data_type")] = []
    """TAO's "layer:fp32" of single layers; every layer has data_type here."""


class GenTrtEngine(Section):
    """The TensorRT task; the section has the shape of TAO's other networks."""

    onnx_file: Annotated[ReadFile | None, Replaced("the ONNX comes from the stage export")] = None
    """ONNX to build from; null: the one of the task export."""
    trt_engine: WrittenFile | None = None
    """Further file for the engine, besides model.engine in the results folder."""
    timing_cache: WrittenFile | None = None
    """File that keeps kernel timings between builds; TensorRT-RTX takes none."""
    gpu_id: GpuId = 0
    """GPU to build on, from 0; TensorRT-RTX builds without one."""
    results_dir: Annotated[ResultsFolder | None, FINDS_ONNX] = None
    """Folder of the task's files; null: <results_dir>/gen_trt_engine."""
    min_cosine: Share = 0.999
    """Least cosine between the embeddings of the ONNX and of the engine, over query images, if a GPU can run it."""
    verbose: bool = False
    """Whether TensorRT's own messages are shown."""
    tensorrt: TensorRT = Field(default_factory=TensorRT)


class Triton(Section):
    """Serving with Triton: tasks triton, start_server and start_client."""

    backend: Literal["onnxruntime", "python", "tensorrt"] = "onnxruntime"
    """Triton's backend: tensorrt runs a plan, the others the ONNX; python needs onnxruntime in the server's Python."""
    model_file: ReadFile | None = None
    """ONNX or plan to serve; null: the one of the task export, for tensorrt of gen_trt_engine."""
    model_repository: WrittenFolder | None = None
    """Folder that the server loads; null: model_repository in the results folder."""
    model_name: ServedName = "re_identification_tao"
    """Name under which the model is served."""
    max_batch_size: Count = 16
    """Most images of a request, and of several requests that Triton joins; the client's batches are of this size."""
    server_image: Text = "nvcr.io/nvidia/tritonserver:25.08-py3"
    """Image to start if no tritonserver is on the PATH; a plan needs the TensorRT version that built it."""
    gpu_id: GpuId = 0
    """GPU of the server, from 0; without any GPU: the CPU."""
    http_port: Port = 8000
    """Port of this machine on which start_server answers HTTP, and start_client asks by http."""
    grpc_port: Port = 8001
    """Port of this machine on which start_server answers gRPC, and start_client asks by grpc."""
    metrics_port: Port = 8002
    """Port of this machine on which start_server shows its figures to Prometheus."""
    url: Text | None = None
    """Server that start_client asks, as host:port; null: http_port or grpc_port on this machine. https:// is TLS."""
    protocol: Literal["http", "grpc"] = "http"
    """Protocol that start_client speaks."""
    patience_s: Positive = 60.0
    """Seconds that the client waits for a server that does not answer."""
    sample_persons: Count | None = 100
    """Persons whose queries and gallery images start_client asks for, drawn by train.seed; null: all images."""
    results_dir: WrittenFolder | None = None
    """Folder of the task triton's files; null: <results_dir>/triton."""
