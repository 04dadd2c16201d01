"""A Triton server on the CPU with the same network under several configurations, for bench_serving."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reid.contract import Contract
from reid.deploy.onnx import CONTRACT_KEY, INPUT, OUTPUT
from reid.deploy.triton import SERVED_MODEL
from tests.bench.serving_load import Call, Connect
from tests.triton_server import TritonServer

MOST = 64
BATCHING = {
    "batching off": "",
    "batching on": "dynamic_batching { }",
    "on, 1 ms": "dynamic_batching { max_queue_delay_microseconds: 1000 }",
    "on, 5 ms": "dynamic_batching { max_queue_delay_microseconds: 5000 }",
    "on, 5 ms, 4 or 16":
        "dynamic_batching { preferred_batch_size: [ 4, 16 ] max_queue_delay_microseconds: 5000 }",
}  # fmt: skip
"""What the table says of dynamic batching, its max_queue_delay and its preferred_batch_size -> config.pbtxt."""


@contextmanager
def served(
    models: dict[str, tuple[Path, Contract]], batching: dict[str, list[str]], *, folder: Path, protocol: str
) -> Iterator[dict[tuple[str, str], Connect]]:
    """A server of each model under each of its kinds of batching -> how a client of it is made.

    `models` are ONNX files by "outside" (images are prepared by the client) or "inside". Raises RuntimeError with the
    reason if there is no Triton here.
    """
    names = {(kind, how): f"{kind}_{number}" for kind in models for number, how in enumerate(batching[kind])}
    for (kind, how), name in names.items():
        _write(folder / "models" / name, *models[kind], inside=kind == "inside", batching=BATCHING[how])
    server = TritonServer(folder / "models", folder / "triton.log")
    try:
        server.start()
    except (pytest.skip.Exception, pytest.fail.Exception) as why:
        server.kill()
        raise RuntimeError(str(why).splitlines()[0]) from why
    try:
        yield {
            key: _connecting(server.url(protocol), protocol, name, models[key[0]][1], inside=key[0] == "inside")
            for key, name in names.items()
        }
    finally:
        server.kill()


def _write(folder: Path, onnx: Path, contract: Contract, *, inside: bool, batching: str) -> None:
    (folder / "1").mkdir(parents=True)
    shutil.copyfile(SERVED_MODEL, folder / "1" / "model.py")
    shutil.copyfile(onnx, folder / "1" / "model.onnx")
    size = (contract.height, contract.width, contract.channels)
    shape = size if inside else (size[2], *size[:2])
    (folder / "config.pbtxt").write_text(f"""\
name: "{folder.name}"
backend: "python"
max_batch_size: {MOST}
input [ {{ name: "{INPUT}" data_type: {"TYPE_UINT8" if inside else "TYPE_FP32"} dims: {list(shape)} }} ]
output [ {{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ {contract.embedding} ] }} ]
{batching}
parameters {{ key: "{CONTRACT_KEY}" value {{ string_value: {json.dumps(contract.to_json())} }} }}
""")


def _connecting(url: str, protocol: str, name: str, contract: Contract, *, inside: bool) -> Connect:
    @contextmanager
    def connect() -> Iterator[Call]:
        library: Any
        if protocol == "grpc":
            import tritonclient.grpc as library
        else:
            import tritonclient.http as library
        client = library.InferenceServerClient(url)
        wanted = [library.InferRequestedOutput(OUTPUT)]

        def call(images: NDArray[np.uint8]) -> object:
            sent = images if inside else contract.preprocess(images)
            port = library.InferInput(INPUT, list(sent.shape), "UINT8" if inside else "FP32")
            port.set_data_from_numpy(sent)
            return client.infer(name, [port], outputs=wanted).as_numpy(OUTPUT)

        try:
            yield call
        finally:
            client.close()

    return connect
