import json
import logging
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from reid.contract import Contract
from reid.data.market1501 import Manifest, PersonImage, Split
from reid.deploy.onnx import OnnxModel
from reid.errors import ArtifactError, DatasetError
from reid.model.checkpoint import load_model, save_model
from reid.spec import load_spec
from reid.stages.export import export
from reid.tracking import StageRun
from tests.exporting import contract_of, some_network
from tests.small_market import write_image

QUERIES = 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A model directory with one checkpoint."""
    folder = tmp_path_factory.mktemp("model")
    network = some_network()
    save_model(folder / "reid_model_best.pth", network, contract=contract_of(network.settings), persons=(1, 2, 3, 4, 5))
    return folder


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A manifest with QUERIES query images of noise and nothing else."""
    names = [f"{person:04d}_c1s1_000001_00.jpg" for person in range(1, QUERIES + 1)]
    for name in names:
        write_image(tmp_path / "query" / name)
    query = Split(tmp_path / "query", tuple(PersonImage(name, int(name[:4]), 1) for name in names))
    nothing = Split(tmp_path, ())
    Manifest(fingerprint="f" * 64, train=nothing, query=query, gallery=nothing).save(tmp_path / "dataset.json")
    return tmp_path / "dataset.json"


def run_export(dataset: Path, model: Path, *overrides: str):
    folder = dataset.parent
    spec = load_spec(text=f"results_dir: {folder / 'results'}", overrides=overrides)
    return export(
        spec,
        dataset=dataset,
        model=model,
        onnx=folder / "out" / "onnx",
        parity=folder / "out" / "parity",
        run=StageRun.none(),
    )


def test_the_onnx_is_written_and_proved_on_query_images(dataset, checkpoint, caplog):
    with caplog.at_level(logging.INFO):
        outcome = run_export(dataset, checkpoint)
    folder = dataset.parent / "out"
    assert sorted(entry.name for entry in folder.iterdir()) == ["onnx", "parity"]
    exported, loaded = OnnxModel(folder / "onnx", threads=1), load_model(checkpoint / "reid_model_best.pth")
    assert exported.contract == loaded.contract
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), np.uint8)
    images = Contract.preprocess(loaded.contract, pixels)
    assert exported(images) == pytest.approx(loaded.embed(images), abs=1e-4)  # float32 sums in another order

    report = json.loads((folder / "parity").read_text())
    assert (report["images"], report["batch_sizes"], report["fp16"]["images"]) == (QUERIES, [16, 1], QUERIES)
    assert (report["passed"], report["min_cosine"], report["opset"]) == (True, 0.9999, 18)
    assert (report["torch"], report["onnxruntime"]) == (version("torch"), version("onnxruntime"))
    assert report["checkpoint"] == "reid_model_best.pth"
    assert len(report["worst"]) == 5
    assert report["worst"][0]["cosine"] == report["worst_cosine"]
    assert 0.99999 < report["worst_cosine"] <= report["mean_cosine"] <= 1
    assert report["fp16"]["worst_cosine"] > 0.999  # 11 bits a coordinate

    onnx_mib = (folder / "onnx").stat().st_size / 2**20
    assert outcome.metrics == {
        "parity_worst_cosine": report["worst_cosine"],
        "parity_mean_cosine": report["mean_cosine"],
        "parity_max_abs": report["max_abs"],
        "parity_images": QUERIES,
        "parity_fp16_worst_cosine": report["fp16"]["worst_cosine"],
        "onnx_mib": onnx_mib,
        "opset": 18,
    }
    assert outcome.lines == [
        f"ONNX: {onnx_mib:.1f} MiB, opset 18; cosine to torch at least {report['worst_cosine']:.6f} "
        f"on 20 query images (in FP16 {report['fp16']['worst_cosine']:.6f})"
    ]
    assert (
        f"to build an engine by hand: trtexec --onnx={folder / 'onnx'} --minShapes=input:1x3x64x32 "
        "--optShapes=input:4x3x64x32 --maxShapes=input:16x3x64x32 --saveEngine=model.engine"
    ) in caplog.messages


def test_an_attempt_replaces_what_a_killed_one_left(dataset, checkpoint):
    folder = dataset.parent / "out"
    folder.mkdir()
    for name in ("onnx", "onnx.candidate", "onnx.candidate.partial", "parity", "parity.partial"):
        (folder / name).write_bytes(b"cut short")
    run_export(dataset, checkpoint / "reid_model_best.pth")
    assert sorted(entry.name for entry in folder.iterdir()) == ["onnx", "parity"]
    assert OnnxModel(folder / "onnx", threads=1).contract.embedding == 16
    assert json.loads((folder / "parity").read_text())["passed"] is True


def test_below_the_least_cosine_the_stage_fails_and_names_the_worst_images(dataset, checkpoint):
    folder = dataset.parent / "out"
    folder.mkdir()
    (folder / "onnx").write_bytes(b"an earlier one")
    with pytest.raises(ArtifactError) as caught:
        run_export(dataset, checkpoint, "export.min_cosine=1.0")  # float32 sums differ in the last bits
    report = json.loads((folder / "parity").read_text())
    assert report["passed"] is False
    worst = ", ".join(f"{entry['file']} {entry['cosine']:.6f}" for entry in report["worst"])
    below = int(str(caught.value).split("embeddings: ")[1].split(" of ")[0])
    assert 1 <= below <= QUERIES + 16
    assert str(caught.value) == (
        f"ONNX parity: the exported network does not give torch's embeddings: {below} of 36 comparisons below a cosine "
        f"of 1.0 (export.min_cosine)\n  worst: {worst}\n  the ONNX that failed: {folder / 'onnx.candidate'}"
    )
    assert (folder / "onnx").read_bytes() == b"an earlier one"
    assert OnnxModel(folder / "onnx.candidate", threads=1).contract.embedding == 16


def test_a_data_set_without_query_images_proves_nothing(dataset, checkpoint):
    manifest = Manifest.load(dataset)
    empty = Split(manifest.query.root, ())
    Manifest(manifest.fingerprint, manifest.train, empty, manifest.gallery).save(dataset)
    with pytest.raises(DatasetError) as caught:
        run_export(dataset, checkpoint)
    assert str(caught.value) == (
        f"{manifest.query.root}: no query image to compare the ONNX with torch on\n  want: one at least"
    )


def test_the_file_that_the_spec_names_gets_a_copy_and_one_that_is_there_stays(dataset, checkpoint, caplog):
    mine, written = dataset.parent / "mine" / "reid.onnx", dataset.parent / "out" / "onnx"
    mine.parent.mkdir()
    mine.write_bytes(b"an earlier one")
    run_export(dataset, checkpoint, f"export.onnx_file={mine}")
    assert mine.read_bytes() == b"an earlier one"
    assert (
        f"export.onnx_file: {mine} is there already and stays (export.overwrite is false); the new one is {written}"
    ) in caplog.messages
    run_export(dataset, checkpoint, f"export.onnx_file={mine}", "export.overwrite=true")
    assert mine.read_bytes() == written.read_bytes()
