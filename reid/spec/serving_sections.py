"""The spec's section on serving: the Triton model repository, the server, and the client that asks it."""

from typing import Annotated, Literal

from pydantic import Field

from reid.spec.field_types import Count, Positive, Section, ServedName

Port = Annotated[int, Field(ge=1, le=65535)]


class Triton(Section):
    """Serving with Triton: tasks triton, start_server and start_client."""

    backend: Literal["onnxruntime", "python", "tensorrt"] = "onnxruntime"
    """What runs the model: tensorrt a plan, the others the ONNX; python needs onnxruntime in the server's Python."""
    model_file: str | None = None
    """ONNX or plan to serve; null: the one of the task export, for tensorrt of gen_trt_engine."""
    model_repository: str | None = None
    """Folder that the server loads; null: model_repository in the results folder."""
    model_name: ServedName = "re_identification_tao"
    """Name under which the model is served."""
    max_batch_size: Count = 16
    """Most images of a request, and of what Triton joins from several; the client's batches are of this size."""
    server_image: str = "nvcr.io/nvidia/tritonserver:25.08-py3"
    """Image to start where no tritonserver is on the PATH; a plan needs the TensorRT that built it."""
    gpu_id: Annotated[int, Field(ge=0)] = 0
    """GPU of the server, from 0; without any GPU: the CPU."""
    http_port: Port = 8000
    """Where start_server answers HTTP on this machine, and start_client asks by http."""
    grpc_port: Port = 8001
    """Where start_server answers gRPC on this machine, and start_client asks by grpc."""
    metrics_port: Port = 8002
    """Where start_server shows Prometheus its figures, on this machine."""
    url: str | None = None
    """Server that start_client asks, as host:port; null: http_port or grpc_port on this machine. https:// is TLS."""
    protocol: Literal["http", "grpc"] = "http"
    """What start_client speaks."""
    patience_s: Positive = 60.0
    """Seconds that the client waits for a server that is away."""
    sample_persons: Count | None = 100
    """Persons whose queries and gallery images start_client asks for, drawn by train.seed; null: all images."""
    results_dir: str | None = None
    """Folder of the task triton's files; null: <results_dir>/triton."""
