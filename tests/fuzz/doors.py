"""The doors of the fuzz suite: every kind of input that the product reads and did not write itself.

A door takes the bytes of one input and hands them to the function that reads such inputs. What comes back is a value,
or an error that the user can correct (ReidError); anything else is a finding. Heavy packages are imported by the doors
that need them.
"""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tests.fuzz import samples

Kind = Literal["text", "json", "bytes"]


@dataclass(frozen=True)
class Door:
    """One kind of input."""

    read: Callable[[Path, bytes], Any]
    """Reads an input; the folder is empty and lives as long as the call."""
    kind: Kind
    """How inputs are made: any text, a JSON document with other values in it, or any bytes."""
    samples: Callable[[Path], list[bytes]]
    """Inputs that are right; the folder may be written to. They are changed at random."""
    share: float = 1.0
    """Share of cases: less for a door that takes long for each."""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _spec(_folder: Path, data: bytes) -> None:
    from reid.spec import load_spec

    load_spec(text=_text(data))


def _spec_file(folder: Path, data: bytes) -> None:
    from reid.spec import load_spec

    (folder / "spec.yaml").write_bytes(data)
    load_spec(folder / "spec.yaml")


def _override(_folder: Path, data: bytes) -> None:
    from reid.spec import load_spec

    load_spec(text="", overrides=[data.decode("utf-8", "surrogateescape").replace("\0", "")])


def _cluster(folder: Path, data: bytes) -> None:
    from pipelines.cluster.cluster_file import read_cluster

    (folder / "cluster.yaml").write_bytes(data)
    read_cluster(folder / "cluster.yaml")


def _manifest(folder: Path, data: bytes) -> None:
    from reid.data.market1501 import Manifest

    (folder / "dataset.json").write_bytes(data)
    manifest = Manifest.load(folder / "dataset.json")
    manifest.train.person, manifest.query.camera, manifest.gallery.without_junk()


def _result_record(folder: Path, data: bytes) -> None:
    from pipelines.local.result_record import NoRecordError, read_record

    (folder / "task.json").write_bytes(data)
    try:
        read_record(folder)
    except NoRecordError:
        return


def _run_record(folder: Path, data: bytes) -> None:
    from pipelines.local.run_record import close_killed_runs

    (folder / "2026-01-01-000000-000000.json").write_bytes(data)
    close_killed_runs(folder)


def _journal(folder: Path, data: bytes) -> None:
    from reid.tracking import journal

    (folder / journal.JOURNAL).write_bytes(data)
    opened = journal.Journal(folder)
    try:
        opened.append_metrics({"mAP": 0.5}, 1)
        opened.after(0)
    finally:
        opened.close()


def _journal_address(folder: Path, data: bytes) -> None:
    from reid.tracking import journal

    (folder / journal.ADDRESS).write_bytes(data)
    journal.Address.load(folder)


def _executor_input(_folder: Path, data: bytes) -> None:
    from components.entry import read_ports

    read_ports(_text(data))


def _contract(_folder: Path, data: bytes) -> None:
    from reid.contract import Contract

    contract = Contract.from_json(_text(data))
    if contract.height * contract.width < 1 << 20:
        contract.preprocess(np.zeros((1, contract.height, contract.width, contract.channels), np.uint8))


def _thresholds(_folder: Path, data: bytes) -> None:
    from reid.thresholds import Thresholds

    Thresholds.from_json(_text(data))


def _served_model(_folder: Path, data: bytes) -> None:
    from reid.deploy.triton_answers import config_of, parsed
    from reid.deploy.triton_contract import served_model

    config = config_of(parsed(data, "server: model"), "server: model")
    served_model(config, given=None, where="server: model", batch_size=1)


def _served_models(_folder: Path, data: bytes) -> None:
    from reid.deploy.triton_answers import names_of, parsed

    names_of(parsed(data, "server"), "server")


def _inference(_folder: Path, data: bytes) -> None:
    """A line with the header that says how much of the body is JSON, or an empty line; then the body."""
    from reid.deploy.triton_answers import embeddings_of
    from reid.deploy.triton_http import output_in

    length, _, body = data.partition(b"\n")
    output = output_in(body, length.decode("latin-1") or None, "server: model")
    embeddings_of(output, images=2, width=2, where="server: model")


def _build_record(folder: Path, data: bytes) -> None:
    from reid.deploy.build_record import read_record

    (folder / "m.engine").write_bytes(b"engine")
    (folder / "build.json").write_bytes(data)
    record = read_record(folder / "m.engine")
    record.preprocessing, record.known_thresholds  # noqa: B018


def _checkpoint(folder: Path, data: bytes) -> None:
    from reid.model.checkpoint import load_model

    (folder / "m.pth").write_bytes(data)
    load_model(folder / "m.pth")


def _checkpoint_entries(folder: Path, data: bytes) -> None:
    import torch

    from reid.model.checkpoint import load_model

    content = _json_of(data)
    if isinstance(content, dict) and isinstance(shapes := content.get("state_dict"), dict):
        content["state_dict"] = {name: _zeros(shape) for name, shape in shapes.items()}
    torch.save(content, folder / "m.pth")
    load_model(folder / "m.pth")


def _zeros(shape: Any) -> Any:
    """A tensor of this shape; the shape itself if it is none."""
    import torch

    whole = isinstance(shape, list) and all(type(size) is int and 0 <= size < 10_000 for size in shape)
    if not whole or math.prod(shape) >= 10_000_000:
        return shape
    return torch.zeros(shape, dtype=torch.float32 if shape else torch.int64)  # only counters have no axis


def _json_of(data: bytes) -> Any:
    """The value of a JSON text; None if it is cut or too deep, for which there are other doors."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _safetensors(folder: Path, data: bytes) -> None:
    _weights(folder / "w.safetensors", data)


def _foreign_weights(folder: Path, data: bytes) -> None:
    _weights(folder / "w.pth", data)


def _weights(path: Path, data: bytes) -> None:
    from reid.model.weights import load_pretrained

    path.write_bytes(data)
    load_pretrained(samples.embedder(), path, choice="self", min_share=0.5)


def _onnx_metadata(folder: Path, data: bytes) -> None:
    import onnx
    from onnx import helper

    content = _json_of(data)
    if not isinstance(content, dict):
        return
    model = onnx.load_model_from_string(samples.onnx_files(folder)[0])
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in content.items()}
    helper.set_model_props(model, {name: text.encode("utf-8", "replace").decode() for name, text in texts.items()})
    _onnx(folder, model.SerializeToString())


def _onnx_ports(folder: Path, data: bytes) -> None:
    """An ONNX file whose ports have other shapes and types than its contract says, or than its nodes give."""
    import onnx

    content = _json_of(data)
    model = onnx.load_model_from_string(samples.onnx_files(folder)[0])
    if not isinstance(content, dict) or set(content) != {"input", "output", "kinds", "axes"}:
        return
    try:
        ports = model.graph.input[0], model.graph.output[0]
        for port, sizes, kind in zip(ports, (content["input"], content["output"]), content["kinds"]):
            port.CopyFrom(onnx.helper.make_tensor_value_info(port.name, kind, ["batch", *sizes]))
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array(content["axes"], np.int64), "axes"))
    except (TypeError, ValueError, OverflowError, AttributeError):
        return  # no ONNX file can hold that
    _onnx(folder, model.SerializeToString())


def _onnx(folder: Path, data: bytes) -> None:
    from reid.deploy.onnx import OnnxModel, read_onnx

    (folder / "m.onnx").write_bytes(data)
    read_onnx(folder / "m.onnx")
    model = OnnxModel(folder / "m.onnx", threads=1)
    contract = model.contract
    if model.pixels is None and contract.height * contract.width < 1 << 20:
        model(np.zeros((1, contract.channels, contract.height, contract.width), np.float32))


def _foreign_onnx(folder: Path, data: bytes) -> None:
    from reid.deploy.onnx_adopt import adopt_onnx

    (folder / "m.onnx").write_bytes(data)
    adopt_onnx(folder / "m.onnx", replace(samples.CONTRACT, flip=True))


def _image(folder: Path, data: bytes) -> None:
    from reid.data.image_file import read_picture

    (folder / "a.jpg").write_bytes(data)
    read_picture(folder / "a.jpg")


def _archive(folder: Path, data: bytes) -> None:
    from reid.data.unpack import unpack

    (folder / "a.zip").write_bytes(data)
    unpack(folder / "a.zip", folder / "out" / "set", stamp={"source.json": "{}"})
    outside = {path.name for path in folder.iterdir()} - {"a.zip", "out"}
    assert not outside, outside


def _embeddings(name: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, data: bytes) -> None:
        from reid.embedding_files.reading import read_embeddings

        (folder / name).write_bytes(data)
        read_embeddings(folder / name).all_rows()

    return read


def _encrypted(folder: Path, data: bytes) -> None:
    from reid.files.encryption import decrypt

    (folder / "m.bin").write_bytes(data)
    decrypt(folder / "m.bin", samples.KEY)


def _file_name(_folder: Path, data: bytes) -> None:
    from reid.data.file_names import DUKEMTMC, MARKET1501

    for names in (MARKET1501, DUKEMTMC):
        names.read(data.decode("utf-8", "surrogateescape"), unknown_camera=1)


def _name_pattern(_folder: Path, data: bytes) -> None:
    from reid.data.file_names import file_names

    try:
        file_names(_text(data), cameras="known")
    except ValueError as error:
        assert "want" in str(error) or "regular expression" in str(error)


def _data_set(layout: str, name: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, data: bytes) -> None:
        from reid.data.file_names import file_names
        from reid.data.layouts.table import read_set

        samples.write_data_set(layout, folder)
        (folder / name).write_bytes(data)
        read_set(layout, folder, splits=("train", "query", "gallery"), names=file_names("market1501", cameras="known"))  # type: ignore[arg-type]

    return read


def _mot(name: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, data: bytes) -> None:
        from reid.data.mot_sequences import read_sequence

        samples.write_sequence(folder)
        (folder / name).write_bytes(data)
        read_sequence(folder)

    return read


def _file_index(folder: Path, data: bytes) -> None:
    from reid.data.file_index import read_images

    (folder / "index").write_bytes(data)
    read_images({"train": [folder / "missing.jpg"]}, index_file=folder / "index")


DOORS: dict[str, Door] = {
    "spec": Door(_spec, "text", samples.specs),
    "spec file": Door(_spec_file, "bytes", samples.specs),
    "override": Door(_override, "text", samples.overrides),
    "cluster file": Door(_cluster, "text", samples.cluster_files),
    "manifest": Door(_manifest, "json", samples.manifests),
    "task.json": Door(_result_record, "json", samples.task_records),
    "runs/*.json": Door(_run_record, "json", samples.run_records),
    "mlflow.jsonl": Door(_journal, "bytes", samples.journals),
    "mlflow.json": Door(_journal_address, "json", samples.addresses),
    "executor input": Door(_executor_input, "json", samples.executor_inputs),
    "contract": Door(_contract, "json", samples.contracts),
    "thresholds": Door(_thresholds, "json", samples.thresholds),
    "served model": Door(_served_model, "json", samples.served_models),
    "list of models": Door(_served_models, "json", samples.lists_of_models, 0.5),
    "inference": Door(_inference, "bytes", samples.inferences, 0.5),
    "build.json": Door(_build_record, "json", samples.build_records),
    "checkpoint": Door(_checkpoint, "bytes", samples.checkpoints, 0.5),
    "checkpoint entries": Door(_checkpoint_entries, "json", samples.checkpoint_entries, 0.5),
    "weights .pth": Door(_foreign_weights, "bytes", samples.foreign_weights, 0.5),
    "safetensors": Door(_safetensors, "bytes", samples.safetensors, 0.5),
    "ONNX": Door(_onnx, "bytes", samples.onnx_files, 0.5),
    "ONNX metadata": Door(_onnx_metadata, "json", samples.onnx_metadata, 0.5),
    "ONNX ports": Door(_onnx_ports, "json", samples.onnx_ports, 0.5),
    "foreign ONNX": Door(_foreign_onnx, "bytes", samples.foreign_onnx_files, 0.5),
    "image": Door(_image, "bytes", samples.images, 2),
    "zip": Door(_archive, "bytes", samples.archives),
    "embeddings .json": Door(_embeddings("e.json"), "bytes", samples.embedding_files(".json")),
    "embeddings .npz": Door(_embeddings("e.npz"), "bytes", samples.embedding_files(".npz")),
    "embeddings .parquet": Door(_embeddings("e.parquet"), "bytes", samples.embedding_files(".parquet")),
    "encrypted file": Door(_encrypted, "bytes", samples.encrypted_files, 0.05),
    "file name": Door(_file_name, "bytes", samples.file_names),
    "dataset.file_name": Door(_name_pattern, "text", samples.name_patterns),
    "layout csv": Door(_data_set("csv", "set.csv"), "bytes", samples.csv_tables, 0.5),
    "layout cuhk03": Door(_data_set("cuhk03", "splits_new_labeled.json"), "json", samples.cuhk03_splits, 0.5),
    "layout msmt17": Door(_data_set("msmt17", "list_train.txt"), "bytes", samples.msmt17_lists, 0.5),
    "MOT boxes": Door(_mot("gt/gt.txt"), "bytes", samples.mot_boxes),
    "seqinfo.ini": Door(_mot("seqinfo.ini"), "bytes", samples.mot_infos),
    "index of images": Door(_file_index, "bytes", samples.file_indexes),
}
"""Name -> door."""


def counts(cases: int) -> dict[str, int]:
    """How many of so many cases each door gets."""
    whole = sum(door.share for door in DOORS.values())
    exact = {name: cases * door.share / whole for name, door in DOORS.items()}
    running = list(itertools.accumulate(exact.values()))
    ends = [round(end) for end in running]
    return {name: end - start for name, start, end in zip(exact, [0, *ends], ends)}
