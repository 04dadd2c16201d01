"""What each field of `triton` and of `dataset.source` does."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from reid.cli.commands import main
from reid.data.market1501 import Manifest
from reid.deploy.triton import SERVED_MODEL
from reid.errors import ArtifactError, DatasetError, ReidError, ServerError, SpecError
from tests.archive_server import serving
from tests.small_market import zip_market
from tests.spec.effects_deploy import built, exported, have_gpu
from tests.spec.lab import Lab


def _repository(lab: Lab) -> Path:
    """A model repository with every field of the section changed."""
    folder = lab.root / "served"
    section = {
        "backend": "python", "model_file": exported(lab), "model_repository": folder / "mine",
        "model_name": "somebody", "max_batch_size": 5, "results_dir": folder / "task",
    }  # fmt: skip
    lab.once("served", lambda: lab.task("triton", *(f"triton.{field}={value}" for field, value in section.items())))
    return folder / "mine"


def _config(lab: Lab) -> Any:
    return text_format.Parse(
        (_repository(lab) / "somebody" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )


def backend(lab: Lab) -> None:
    assert _config(lab).backend == "python"
    assert (_repository(lab) / "somebody" / "1" / "model.py").read_bytes() == SERVED_MODEL.read_bytes()
    engine = built(lab) / "model.engine"
    text = _refusal(lab, ArtifactError, "triton", "triton.backend=tensorrt", f"triton.model_file={engine}")
    assert text.startswith(f"{engine}: an engine of TensorRT-RTX (1.")


def model_file(lab: Lab) -> None:
    assert (_repository(lab) / "somebody" / "1" / "model.onnx").read_bytes() == exported(lab).read_bytes()


def model_repository(lab: Lab) -> None:
    assert [path.name for path in _repository(lab).iterdir()] == ["somebody"]


def model_name(lab: Lab) -> None:
    assert _config(lab).name == "somebody"


def max_batch_size(lab: Lab) -> None:
    assert _config(lab).max_batch_size == 5


def results_dir(lab: Lab) -> None:
    assert (_repository(lab).parent / "task" / "experiment.yaml").exists()


def _started(lab: Lab, *overrides: str) -> list[str]:
    """The words that a docker on the PATH is called with; the PATH has nothing else."""
    programs = lab.folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "docker").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {lab.folder}/words\n')
    (programs / "docker").chmod(0o755)
    lab.patch.setenv("PATH", str(programs))
    spec = lab.folder / "spec.yaml"
    spec.write_text(f"results_dir: {lab.folder}/results\ntriton: {{model_file: {exported(lab)}}}\n")
    assert main(["start_server", "-e", str(spec), *overrides]) == 2, "it ends before it is ready"
    return (lab.folder / "words").read_text().splitlines()


def server_image(lab: Lab) -> None:
    assert "triton:mine" in _started(lab, "triton.server_image=triton:mine")


def _port(name: str, inside: int) -> Callable[[Lab], None]:
    def check(lab: Lab) -> None:
        assert f"127.0.0.1:4321:{inside}" in _started(lab, f"triton.{name}_port=4321")

    return check


def address(lab: Lab) -> None:
    assert "127.0.0.2:8000:8000" in _started(lab, "triton.address=127.0.0.2")
    assert _nobody(lab, "triton.address=127.0.0.2").startswith("127.0.0.2:1: no answer ")


def gpu_id(lab: Lab) -> None:
    onnx_file = exported(lab)
    have_gpu(lab)
    spec = lab.folder / "spec.yaml"
    spec.write_text(f"triton: {{model_file: {onnx_file}, gpu_id: 3}}\n")
    said: list[str] = []
    lab.patch.setattr("sys.stderr.write", said.append)
    assert main(["start_server", "-e", str(spec)]) == 2
    assert "error: triton.gpu_id: 3: no such GPU\n  found: 0 (a GPU of C)\n  want:  0\n" in "".join(said)


def _refusal(lab: Lab, kind: type[ReidError], task: str, *overrides: str) -> str:
    with pytest.raises(kind) as caught:
        lab.task(task, *overrides, f"results_dir={lab.folder}")
    return str(caught.value)


def _nobody(lab: Lab, *overrides: str) -> str:
    """What the client says where no server is: nothing listens at port 1."""
    nowhere = ["triton.http_port=1", "triton.grpc_port=1", "triton.patience_s=0.3"]
    return _refusal(lab, ServerError, "start_client", *nowhere, *overrides)


def url(lab: Lab) -> None:
    assert _nobody(lab).startswith("localhost:1: no answer ")
    assert _nobody(lab, "triton.url=127.0.0.1:1").startswith("127.0.0.1:1: no answer ")


def protocol(lab: Lab) -> None:
    assert "no answer for 0.3 s, by http\n" in _nobody(lab)
    assert "no answer for 0.3 s, by grpc\n" in _nobody(lab, "triton.protocol=grpc")


def contract(lab: Lab) -> None:
    missing = lab.folder / "contract.json"
    text = _refusal(lab, ArtifactError, "start_client", f"triton.contract={missing}")
    assert text == f"{missing}: no such file"


def patience_s(lab: Lab) -> None:
    assert "no answer for 0.6 s," in _nobody(lab, "triton.patience_s=0.6")


def sample_persons(lab: Lab) -> None:
    assert "a sample of 2 of 6 persons" in lab.said(lambda: _nobody(lab, "triton.sample_persons=2"))


def _source(lab: Lab, **changes: Any) -> list[str]:
    """Overrides that fetch a data set from a zip here."""
    archive = lab.folder / "market.zip"
    if not archive.exists():
        zip_market(archive)
    values = {"root": lab.folder / "data", "zip": archive} | changes
    folders = [f"dataset.{split}_dataset_dir=null" for split in ("train", "query", "test")]
    folders.append("dataset.batch_size=6")  # it has three training persons
    return [*folders, *(f"dataset.source.{name}={value}" for name, value in values.items() if value is not None)]


def source_root(lab: Lab) -> None:
    lab.task("validate", *_source(lab, root=lab.folder / "mine"), f"results_dir={lab.folder}")
    manifest = Manifest.load(lab.folder / "validate" / "dataset.json")
    assert manifest.query.root == lab.folder / "mine" / "query"


def source_zip(lab: Lab) -> None:
    missing = lab.folder / "no.zip"
    text = _refusal(lab, DatasetError, "validate", *_source(lab, zip=missing))
    assert text == f"{missing}: no such file\n  want:  the data set's zip file in dataset.source.zip"


def source_url(lab: Lab) -> None:
    assert _source(lab)
    content = (lab.folder / "market.zip").read_bytes()
    with serving(content) as server:
        web = {"url": server.url, "zip": None, "sha256": hashlib.sha256(content).hexdigest()}
        lab.task("validate", *_source(lab, **web), f"results_dir={lab.folder}")
    assert len(Manifest.load(lab.folder / "validate" / "dataset.json").train) == 6
    for wrong, text in (
        ({}, "dataset.source.url: want one of dataset.source.url and dataset.source.zip"),
        ({"zip": None, "url": "ftp://a/b", "sha256": "a" * 64},
         "dataset.source.url: ftp://a/b: want https:// or http://; a file goes into dataset.source.zip"),
    ):  # fmt: skip
        with pytest.raises(SpecError) as caught:
            lab.spec(*_source(lab, **({"url": "https://a/b", "sha256": "a" * 64} | wrong)))
        assert str(caught.value) == f"command line: {text}"


def source_sha256(lab: Lab) -> None:
    text = _refusal(lab, DatasetError, "validate", *_source(lab, sha256="a" * 64))
    assert text.endswith(f"\n  want:  {'a' * 64} (dataset.source.sha256)")
    with pytest.raises(SpecError) as caught:
        lab.spec(*_source(lab, zip=None, url="https://a/b"))
    assert str(caught.value) == (
        "command line: dataset.source.sha256: is not set; what comes from dataset.source.url is not opened unchecked"
    )
    with pytest.raises(SpecError) as caught:
        lab.spec(*_source(lab), "dataset.synthetic.root=/drawn")
    assert str(caught.value) == "command line: dataset.source: dataset.synthetic is set too; want one of them"


SERVING: dict[str, Callable[[Lab], None]] = {
    "triton.backend": backend,
    "triton.model_file": model_file,
    "triton.model_repository": model_repository,
    "triton.model_name": model_name,
    "triton.max_batch_size": max_batch_size,
    "triton.server_image": server_image,
    "triton.gpu_id": gpu_id,
    "triton.address": address,
    "triton.http_port": _port("http", 8000),
    "triton.grpc_port": _port("grpc", 8001),
    "triton.metrics_port": _port("metrics", 8002),
    "triton.url": url,
    "triton.protocol": protocol,
    "triton.contract": contract,
    "triton.patience_s": patience_s,
    "triton.sample_persons": sample_persons,
    "triton.results_dir": results_dir,
    "dataset.source.root": source_root,
    "dataset.source.url": source_url,
    "dataset.source.zip": source_zip,
    "dataset.source.sha256": source_sha256,
}
