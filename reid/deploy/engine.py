"""Runs a TensorRT engine on a GPU: preprocessed images (B, C, H, W) -> embeddings (B, D), as ONNX Runtime and torch do.

Shapes: B images in a batch, C channels, H height, W width, D embedding width.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.deploy.build_record import BuildRecord, read_record
from reid.deploy.cuda import Buffer, Stream
from reid.deploy.gpu import use_gpu
from reid.deploy.onnx import INPUT, OUTPUT
from reid.deploy.tensorrt_packages import load_package, tensorrt_log
from reid.errors import ArtifactError
from reid.files.encryption import read_model


class EngineModel:
    """An engine with its buffers on one GPU; a batch of any size is split into parts that its profile takes."""

    def __init__(self, path: Path, *, gpu_id: int, record: BuildRecord | None = None) -> None:
        """Opens `path` on GPU `gpu_id`; its record is read from the file beside it unless it is given.

        Raises ArtifactError if there is no such engine or no GPU, if the engine is not for this GPU, or if it is not
        what its record says; MissingDependency without the package that built it.
        """
        self.record = record or read_record(path)
        self.contract: Contract = self.record.preprocessing
        gpu = use_gpu(gpu_id)
        if gpu is None:
            raise ArtifactError(
                f"{path}: an engine runs on an NVIDIA GPU, and there is none here\n"
                "  want: the .onnx or the .pth of the same model"
            )
        self.gpu = gpu
        if gpu.compute_capability not in self.record.targets:
            raise ArtifactError(
                f"{path}: built for compute capability {', '.join(self.record.targets)}\n"
                f"  found: {gpu.name}, {gpu.compute_capability}\n  want:  an engine that gen_trt_engine builds for it"
            )
        package = load_package(str(self.record.package), gpu)
        trt, log = package.trt, tensorrt_log(package.trt)
        log.errors.clear()
        self._runtime = trt.Runtime(log)
        engine = self._runtime.deserialize_cuda_engine(read_model(path))
        context = None if engine is None else engine.create_execution_context()
        if context is None:
            first = log.errors[0].strip() if log.errors else "no message"
            raise ArtifactError(
                f"{path}: {package.full_name} cannot open it; built by {self.record.version}\n"
                f"  first of {len(log.errors)} messages: {first}"
            )
        self._check(path, engine)
        self._engine, self._context, self._log = engine, context, log
        self._stream = Stream()
        largest = self.record.profile.max_batch_size
        self._input = Buffer(self._stream, (largest, *self._image))
        self._output = Buffer(self._stream, (largest, self.contract.embedding))
        self._context.set_tensor_address(INPUT, self._input.address)
        self._context.set_tensor_address(OUTPUT, self._output.address)

    @property
    def _image(self) -> tuple[int, int, int]:
        return self.contract.channels, self.contract.height, self.contract.width

    def _check(self, path: Path, engine: Any) -> None:
        """Raises ArtifactError unless ports and profile are those of the record."""
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        wanted = {INPUT: (-1, *self._image), OUTPUT: (-1, self.contract.embedding)}
        profile = self.record.profile
        sizes = (profile.min_batch_size, profile.opt_batch_size, profile.max_batch_size)
        built = tuple(shape[0] for shape in engine.get_tensor_profile_shape(INPUT, 0)) if INPUT in found else ()
        if found != wanted or built != sizes:
            raise ArtifactError(
                f"{path}: not what its record says: inputs and outputs {found}, batch sizes {built}\n"
                f"  want: {wanted}, batch sizes {sizes}"
            )

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """images (B, C, H, W), preprocessed -> embeddings (B, D); ArtifactError for any other shape."""
        if images.ndim != 4 or images.shape[1:] != self._image:
            raise ArtifactError(
                f"TensorRT engine: images of shape {images.shape}\n  want: (batch, {', '.join(map(str, self._image))})"
            )
        embeddings = np.empty((len(images), self.contract.embedding), np.float32)
        largest = self.record.profile.max_batch_size
        for start in range(0, len(images), largest):
            part = images[start : start + largest]
            embeddings[start : start + len(part)] = self._run(part)
        return embeddings

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Runs at most the profile's largest batch; below its smallest, old values in the buffer fill the batch up."""
        batch = max(len(images), self.record.profile.min_batch_size)
        self._input.host[: len(images)] = images
        self._log.errors.clear()
        self._stream.copy_in(self._input, batch * self._input.host[0].size)
        set_up = self._context.set_input_shape(INPUT, (batch, *self._image))
        if not (set_up and self._context.execute_async_v3(self._stream.address)):
            first = self._log.errors[0].strip() if self._log.errors else "nothing"
            raise ArtifactError(f"TensorRT engine: cannot run {batch} images; TensorRT says: {first}")
        self._stream.copy_out(self._output, batch * self.contract.embedding)
        self._stream.wait()
        return self._output.host[: len(images)]
