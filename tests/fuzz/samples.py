"""Right inputs of every door of the fuzz suite; they are changed at random."""

import functools
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reid.contract import Contract
from tests.components.executor import executor_input
from tests.small_market import write_image, zip_market

CONTRACT = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, embedding=16)
KEY = "a key"
SHA256 = hashlib.sha256(b"engine").hexdigest()
THRESHOLD = {"name": "1 % let in", "cosine": 0.75, "true_match_rate": 0.9, "false_match_rate": 0.01, "precision": 0.5}
PAIRS = {"same_person_pairs": 4, "different_person_pairs": 24}
THRESHOLDS = {"measured_on": "4 persons", **PAIRS, "thresholds": [THRESHOLD]}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def specs(_folder: Path) -> list[bytes]:
    market = Path("pipelines/specs/market.yaml").read_bytes()
    return [market, b"train: {num_epochs: 3, optim: {base_lr: 3.5e-4}}\ndataset: {train_sets: [{name: a, root: /d}]}\n"]


def overrides(_folder: Path) -> list[bytes]:
    return [b"train.seed=1", b"model.input_height=256", b"train.optim.steps=[40, 70]", b"dataset.root='/d e'"]


def cluster_files(_folder: Path) -> list[bytes]:
    return [b"shared_memory: 4Gi\nmemory: {train: 8Gi}\ngpu_kind: nvidia.com/gpu\n"]


def manifests(folder: Path) -> list[bytes]:
    from reid.data.market1501 import Manifest, PersonImage, Split, TestSet, TrainSet

    splits = [Split(Path("/d"), (PersonImage(f"{name}.jpg", 1, 2),)) for name in "abc"]
    plain = Manifest("f" * 64, *splits)
    several = Manifest(
        "f" * 64,
        *splits,
        train_sets=(TrainSet("a", 0, 1, 0.5),),
        test_sets=(TestSet("b", "0" * 64, splits[1], splits[2]),),
        trained_on=("a",),
    )
    for number, manifest in enumerate((plain, several)):
        manifest.save(folder / f"{number}.json")
    return [(folder / f"{number}.json").read_bytes() for number in range(2)]


def task_records(_folder: Path) -> list[bytes]:
    made = {
        "path": "model",
        "schema": "system.Model",
        "metadata": {"lines": ["a"]},
        "digest": SHA256,
        "files": [["a/b", 1, 2]],
    }
    record = {"seconds": 1.5, "key_parts": {"code": "a"}, "parameters": {"mAP": 0.5}, "artifacts": {"model": made}}
    return [_json(record)]


def run_records(_folder: Path) -> list[bytes]:
    stages = {"train": {"state": "running", "seconds": 1.0}, "validate": {"state": "ran", "mlflow_run_id": "a"}}
    return [_json({"state": "running", "started": "2026-01-01 00:00:00", "stages": stages})]


def journals(_folder: Path) -> list[bytes]:
    lines = [
        {"metrics": {"mAP": 0.5}, "step": 0, "time": 1},
        {"params": {"seed": 1}},
        {"tags": {"a": "b"}},
        {"artifact": "a.png", "folder": "train"},
        {"end": "FINISHED", "time": 2},
    ]
    return [b"".join(_json(line) + b"\n" for line in lines)]


def addresses(_folder: Path) -> list[bytes]:
    return [
        _json(
            {
                "store": "http://server",
                "stage": "train",
                "run_id": "a",
                "parent_id": "b",
                "settled": True,
                "sent": {"a": 3},
                "before": {"a": {"mAP": 3}},
            }
        )
    ]


def executor_inputs(folder: Path) -> list[bytes]:
    return [executor_input(folder).encode()]


def contracts(_folder: Path) -> list[bytes]:
    return [CONTRACT.to_json().encode()]


def thresholds(_folder: Path) -> list[bytes]:
    return [_json(THRESHOLDS)]


def served_models(_folder: Path) -> list[bytes]:
    return [
        _json(
            {
                "name": "reid",
                "max_batch_size": 16,
                "input": [{"name": "input", "data_type": "TYPE_FP32", "dims": ["3", "64", "32"]}],
                "output": [{"name": "fc_pred", "data_type": "TYPE_FP32", "dims": [16]}],
                "parameters": {"reid.contract": {"string_value": CONTRACT.to_json()}},
            }
        )
    ]


def lists_of_models(_folder: Path) -> list[bytes]:
    return [_json([{"name": "reid", "version": "1", "state": "READY"}, {"name": "other", "state": "UNAVAILABLE"}])]


def inferences(_folder: Path) -> list[bytes]:
    output = {"name": "fc_pred", "datatype": "FP32", "shape": [2, 2]}
    binary = _json({"outputs": [output | {"parameters": {"binary_data_size": 16}}]})
    numbers = np.arange(4, dtype="<f4").tobytes()
    plain = _json({"outputs": [{"name": "other", "datatype": "BYTES"}, output | {"data": [1, 2, 3, 4.5]}]})
    return [b"%d\n" % len(binary) + binary + numbers, b"\n" + plain]


def build_records(folder: Path) -> list[bytes]:
    from reid.deploy.build_record import BuildRecord, Profile

    record = BuildRecord(
        built=True,
        reason=None,
        onnx_sha256=SHA256,
        contract=asdict(CONTRACT),
        data_type="FP32",
        profile=Profile(1, 8, 16),
        workspace_mib=64,
        engine_sha256=SHA256,
        thresholds=THRESHOLDS,
    )
    return [record.to_json().encode()]


@functools.cache
def embedder() -> Any:
    import torch

    from reid.model.embedder import build_embedder
    from tests.networks import network_settings

    torch.manual_seed(0)
    return build_embedder(**network_settings())


def checkpoints(folder: Path) -> list[bytes]:
    from reid.model.checkpoint import save_model

    save_model(folder / "m.pth", embedder(), contract=CONTRACT, persons=[2, 3, 5, 7, 11])
    return [(folder / "m.pth").read_bytes()]


def checkpoint_entries(_folder: Path) -> list[bytes]:
    """A checkpoint as JSON, with the shapes of the tensors in their place."""
    from reid.model.checkpoint import PREFIX, reid_entry

    shapes = {PREFIX + name: list(tensor.shape) for name, tensor in embedder().state_dict().items()}
    entry = reid_entry(model=embedder().settings, contract=CONTRACT, persons=[2, 3, 5, 7, 11])
    return [_json({"reid": entry, "state_dict": shapes})]


def foreign_weights(folder: Path) -> list[bytes]:
    import torch

    tensors = dict(embedder().state_dict())
    torch.save({"state_dict": tensors, "epoch": 3}, folder / "zip.pth")
    torch.save(tensors, folder / "old.pth", _use_new_zipfile_serialization=False)
    return [(folder / name).read_bytes() for name in ("zip.pth", "old.pth")]


def safetensors(_folder: Path) -> list[bytes]:
    from safetensors.torch import save

    return [save({name: tensor.contiguous() for name, tensor in embedder().state_dict().items()})]


def onnx_files(folder: Path) -> list[bytes]:
    from tests.tiny_onnx import write_mean_colour

    return [write_mean_colour(folder / "m.onnx").read_bytes()]


def foreign_onnx_files(folder: Path) -> list[bytes]:
    import onnx

    foreign = onnx.load_model_from_string(onnx_files(folder)[0])
    del foreign.metadata_props[:]
    return [foreign.SerializeToString()]


def onnx_metadata(_folder: Path) -> list[bytes]:
    """The metadata of an ONNX file with everything in it that one may have."""
    contract, settings = json.loads(CONTRACT.to_json()), {"backbone": "resnet_50"}
    keys = {"reid.contract": contract, "reid.thresholds": THRESHOLDS, "reid.settings": settings}
    return [_json({**keys, "reid.data_type": "FP32"})]


def onnx_ports(_folder: Path) -> list[bytes]:
    return [_json({"input": [3, 64, 32], "output": [16], "kinds": [1, 1], "axes": [2, 3]})]


def images(folder: Path) -> list[bytes]:
    kinds = [("a.jpg", "RGB", "JPEG"), ("b.png", "P", "PNG"), ("c.bmp", "RGB", "BMP"), ("d.gif", "P", "GIF")]
    kinds += [("e.tif", "L", "TIFF"), ("f.webp", "RGB", "WEBP"), ("g.jpg", "CMYK", "JPEG")]
    written = [write_image(folder / name, mode=mode, format=format) for name, mode, format in kinds]
    deep = io.BytesIO()
    Image.fromarray(np.arange(64 * 32, dtype=np.uint16).reshape(64, 32) * 30).save(deep, "PNG")
    return [*(path.read_bytes() for path in written), deep.getvalue()]


def archives(folder: Path) -> list[bytes]:
    return [zip_market(folder / "a.zip").read_bytes()]


def embedding_files(ending: str) -> Callable[[Path], list[bytes]]:
    def made(folder: Path) -> list[bytes]:
        from reid.embedding_files.rows import About, blocks_of
        from reid.embedding_files.writing import write_embeddings
        from reid.embeddings import Embeddings, write_json

        numbers = np.arange(3, dtype=np.int64)
        vectors = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
        rows = Embeddings([f"/d/{number}.jpg" for number in numbers], numbers, numbers + 1, vectors)
        path = folder / f"e{ending}"
        if ending == ".json":
            write_json(path, rows)
        else:
            about = About(model_sha256="a" * 64, contract=CONTRACT.to_json())
            write_embeddings(path, blocks_of({"query": rows}), rows=3, width=4, about=about)
        return [path.read_bytes()]

    return made


def encrypted_files(_folder: Path) -> list[bytes]:
    from reid.files.encryption import encrypt

    stream = io.BytesIO()
    encrypt(io.BytesIO(b"model"), stream, KEY)
    return [stream.getvalue()]


def file_names(_folder: Path) -> list[bytes]:
    return [b"0002_c1s1_000451_03.jpg", b"-1_c1s1_000001_01.jpg", b"0001_c2_f0046182.jpg"]


def name_patterns(_folder: Path) -> list[bytes]:
    return [b"market1501", rb"(?P<person>\d+)_(?P<camera>\d+)_.*"]


def csv_tables(_folder: Path) -> list[bytes]:
    return [b"path,person,camera,split\na.jpg,1,1,train\nb.jpg,2,1,query\nc.jpg,2,2,gallery\n"]


def cuhk03_splits(_folder: Path) -> list[bytes]:
    rows = {name: [[f"images_labeled/{name}.png", number, 0]] for number, name in enumerate(SPLITS)}
    return [_json([rows])]


def msmt17_lists(_folder: Path) -> list[bytes]:
    return [b"0000/0000_000_01_0303morning_0015_0.jpg 0\n0001/0001_000_02_0303morning_0015_0.jpg 1\n"]


SPLITS = ("train", "query", "gallery")


def write_data_set(layout: str, folder: Path) -> None:
    """The files beside the one that is changed; the images are not opened and may be empty."""
    names = {
        "csv": ["a.jpg", "b.jpg", "c.jpg"],
        "cuhk03": [f"images_labeled/{name}.png" for name in SPLITS],
        "msmt17": ["train/0000/0000_000_01_0303morning_0015_0.jpg", "test/a.jpg", "list_query.txt", "list_gallery.txt"],
    }
    for name in names[layout]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def mot_boxes(_folder: Path) -> list[bytes]:
    return [b"1,1,2,20,16,64,1,1,1\n2,1,2,20,16,64,1,1,1\n", b"1,1,2,20,16,64\n", b"1,1,2,20,16,64,0.5,1,2,3\n"]


def mot_infos(_folder: Path) -> list[bytes]:
    return [b"[Sequence]\nname=a\nimDir=img1\nframeRate=25\nseqLength=2\nimExt=.png\n"]


def write_sequence(folder: Path) -> None:
    for name, content in (("img1/000001.png", b""), ("img1/000002.png", b""), ("gt/gt.txt", mot_boxes(folder)[0])):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def file_indexes(folder: Path) -> list[bytes]:
    from reid.data.file_index import read_images

    image = write_image(folder / "a.jpg")
    read_images({"train": [image]}, index_file=folder / "index")
    return [(folder / "index").read_bytes()]
