"""Runs a TensorRT engine on a GPU: preprocessed images (B, C, H, W) -> embeddings (B, D), as ONNX Runtime and torch do.

There are two slots, each with page-locked memory for one batch of the profile. While the GPU computes the batch of one
slot, the host prepares the next one in the other, and a second stream sends it to the GPU.

Shapes: B images in a batch, C channels, H height, W width, D embedding width.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.deploy.build_record import BuildRecord, read_record
from reid.deploy.cuda import Buffer, Event, Stream
from reid.deploy.gpu import use_gpu
from reid.deploy.onnx import INPUT, OUTPUT
from reid.deploy.tensorrt_packages import load_package, tensorrt_log
from reid.errors import ArtifactError
from reid.files.encryption import read_model, require_encrypted

SLOTS = 2
PREPARING_THREADS = 4
"""The most threads that preprocess a batch; one of them prepares some 10,000 images of 256 x 128 in a second."""


@dataclass
class Part:
    """Images that the GPU computes, or has computed: at most the profile's largest batch."""

    output: Buffer
    done: Event
    target: NDArray[np.float32]
    """The rows of the result that its embeddings are copied to."""
    fetched: bool = False

    def fetch(self) -> None:
        """Waits for the embeddings and copies them to the target; does nothing the second time."""
        if not self.fetched:
            self.done.wait()
            self.target[:] = self.output.host[: len(self.target)]
            self.fetched = True


class Slot:
    """The buffers of one part, and the events at which it is on the GPU and done."""

    def __init__(self, stream: Stream, *, images: tuple[int, ...], embeddings: tuple[int, ...]) -> None:
        self.input, self.output = Buffer(stream, images), Buffer(stream, embeddings)
        self.sent, self.done = Event(stream), Event(stream)
        self.part: Part | None = None


class EngineModel:
    """An engine with its buffers on one GPU; a batch of any size is split into parts that its profile takes."""

    def __init__(self, path: Path, *, gpu_id: int, record: BuildRecord | None = None) -> None:
        """Opens `path` on GPU `gpu_id`; its record is read from the file beside it unless it is given.

        Raises ArtifactError if there is no such engine or no GPU, if the engine is not for this GPU, or if it is not
        what its record says; KeyRefused if it is plain where its record says encrypted, and there is a
        key; MissingDependency without the package that built it.
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
        if self.record.encrypted:
            require_encrypted(path)
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
        self._stream, self._sending = Stream(), Stream()
        largest = self.record.profile.max_batch_size
        shapes = {"images": (largest, *self._image), "embeddings": (largest, self.contract.embedding)}
        self._slots = [Slot(self._stream, **shapes) for _ in range(SLOTS)]
        self._turn = 0
        self._threads = min(PREPARING_THREADS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="preprocessing")

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

        def fill(start: int, room: NDArray[np.float32]) -> None:
            room[:] = images[start : start + len(room)]

        return self._start(len(images), fill)()

    def start(self, pixels: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """pixels (B, H, W, C) -> a function that waits for their embeddings (B, D); until then the GPU computes."""
        contract = self.contract  # the threads get nothing else, so that the model is never freed by one of them
        contract.check_size(pixels)

        def fill(start: int, room: NDArray[np.float32]) -> None:
            def prepare(rows: slice) -> None:
                contract.preprocess(pixels[start : start + len(room)][rows], out=room[rows])

            step = -(-len(room) // self._threads)
            list(self._pool.map(prepare, [slice(row, row + step) for row in range(0, len(room), step)]))

        return self._start(len(pixels), fill)

    def _start(self, count: int, fill: Callable[[int, NDArray[np.float32]], None]) -> Callable[[], NDArray[np.float32]]:
        """Queues `count` images part by part; `fill` writes those from an index on into the room of a part."""
        embeddings = np.empty((count, self.contract.embedding), np.float32)
        largest = self.record.profile.max_batch_size
        parts = []
        for start in range(0, count, largest):
            slot = self._slots[self._turn]
            self._turn = (self._turn + 1) % SLOTS
            if slot.part:
                slot.part.fetch()
            target = embeddings[start : start + largest]
            fill(start, slot.input.host[: len(target)])
            self._queue(slot, len(target))
            slot.part = Part(slot.output, slot.done, target)
            parts.append(slot.part)

        def wait() -> NDArray[np.float32]:
            for part in parts:
                part.fetch()
            return embeddings

        return wait

    def _queue(self, slot: Slot, images: int) -> None:
        """Queues what is in the slot; below the profile's smallest batch, old values in the buffer fill it up."""
        batch = max(images, self.record.profile.min_batch_size)
        self._log.errors.clear()
        self._sending.copy_in(slot.input, batch * slot.input.host[0].size)
        self._sending.mark(slot.sent)
        self._stream.wait_for(slot.sent)
        ready = (
            self._context.set_tensor_address(INPUT, slot.input.address)
            and self._context.set_tensor_address(OUTPUT, slot.output.address)
            and self._context.set_input_shape(INPUT, (batch, *self._image))
        )
        if not (ready and self._context.execute_async_v3(self._stream.address)):
            first = self._log.errors[0].strip() if self._log.errors else "nothing"
            raise ArtifactError(f"TensorRT engine: cannot run {batch} images; TensorRT says: {first}")
        self._stream.copy_out(slot.output, batch * self.contract.embedding)
        self._stream.mark(slot.done)
