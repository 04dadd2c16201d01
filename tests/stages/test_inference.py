import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reid.contract import Contract
from reid.data.market1501 import Manifest, list_folder
from reid.deploy.onnx_export import export_onnx
from reid.deploy.onnx_in_memory import LEAST_IMAGES
from reid.embedding_files.reading import read_embeddings
from reid.embedding_files.rows import About
from reid.errors import ArtifactError
from reid.files.hashes import file_sha256
from reid.model.checkpoint import load_model, save_model
from reid.model.embedder import build_embedder
from reid.spec import Experiment, load_spec
from reid.stages.inference import inference
from reid.thresholds import Threshold, Thresholds
from reid.tracking.stage_run import StageRun
from tests.networks import network_settings
from tests.small_market import FOLDERS, write_market
from tests.tiny_onnx import write_mean_colour
from tests.written import read_json

CONTRACT = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, embedding=16)


def a_spec(tmp_path: Path, *overrides: str) -> Experiment:
    text = f"results_dir: {tmp_path / 'results'}\ndataset:\n  val_batch_size: 3\n  num_classes: 5\n"
    return load_spec(text=text, overrides=list(overrides))


def a_dataset(tmp_path: Path) -> Path:
    root = write_market(tmp_path / "market")
    splits = {name: list_folder(root / folder).split for name, folder in FOLDERS.items()}
    Manifest(fingerprint="f" * 64, **splits).save(tmp_path / "dataset.json")
    return tmp_path / "dataset.json"


def a_model(folder: Path, name: str = "reid_model_best.pth") -> Path:
    settings = network_settings()
    network = build_embedder(**settings)
    folder.mkdir(exist_ok=True)
    save_model(folder / name, network, contract=CONTRACT, persons=[1, 2, 3, 4, 5])
    return folder


def run_inference(tmp_path: Path, spec: Experiment, model: Path):
    target = tmp_path / "out" / "inference.json"
    return inference(spec, dataset=a_dataset(tmp_path), model=model, embeddings=target, run=StageRun.none()), target


def test_every_query_then_every_gallery_image_is_a_row_junk_too(tmp_path):
    outcome, target = run_inference(tmp_path, a_spec(tmp_path), a_model(tmp_path / "model"))
    rows = json.loads(target.read_text())
    market = tmp_path / "market"
    wanted = [str(path) for folder in ("query", "bounding_box_test") for path in sorted((market / folder).iterdir())]
    assert [row["img_path"] for row in rows] == wanted
    assert {len(row["embedding"]) for row in rows} == {16}
    assert outcome.metrics["rows"] == 7
    assert outcome.metrics["embedding_width"] == 16
    assert outcome.metrics["images_per_second"] > 0


def test_a_row_is_the_networks_own_output_not_normalised(tmp_path):
    model = a_model(tmp_path / "model")
    _, target = run_inference(tmp_path, a_spec(tmp_path), model)
    path, vector = read_json(target)[0]
    pixels = np.asarray(Image.open(path))[None]
    wanted = load_model(model / "reid_model_best.pth").embed(CONTRACT.preprocess(pixels))[0]
    assert vector == pytest.approx(wanted, abs=1e-5)  # batch of three against batch of one: other summation order
    assert abs(np.linalg.norm(vector) - 1) > 1e-3


def test_the_output_file_of_the_spec_gets_the_same_rows_and_replaces_what_was_there(tmp_path):
    asked = tmp_path / "elsewhere" / "rows.json"
    asked.parent.mkdir()
    asked.write_text("old")
    spec = a_spec(tmp_path, f"inference.output_file={asked}")
    _, target = run_inference(tmp_path, spec, a_model(tmp_path / "model"))
    assert asked.read_bytes() == target.read_bytes()


def test_the_output_file_may_be_the_artifact_itself(tmp_path):
    spec = a_spec(tmp_path, f"inference.output_file={tmp_path / 'out' / 'inference.json'}")
    _, target = run_inference(tmp_path, spec, a_model(tmp_path / "model"))
    assert len(json.loads(target.read_text())) == 7


def test_rows_through_the_onnx_are_torchs(tmp_path):
    network = build_embedder(**network_settings())
    save_model(tmp_path / "model.pth", network, contract=CONTRACT, persons=[1, 2, 3, 4, 5])
    loaded = load_model(tmp_path / "model.pth")
    export_onnx(
        loaded.network, tmp_path / "m.onnx", contract=CONTRACT, settings=loaded.settings, opset=18, overwrite=False
    )
    rows = {}
    for name in ("model.pth", "m.onnx"):
        (tmp_path / name).with_suffix(".d").mkdir()
        _, target = run_inference((tmp_path / name).with_suffix(".d"), a_spec(tmp_path), tmp_path / name)
        rows[name] = read_json(target)
    assert [Path(path).name for path, _ in rows["m.onnx"]] == [Path(path).name for path, _ in rows["model.pth"]]
    for (_, ours), (_, torchs) in zip(rows["m.onnx"], rows["model.pth"], strict=True):
        assert ours == pytest.approx(torchs, abs=1e-4)  # float32 sums in another order


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_many_images_go_through_onnx_runtime_in_each_process_and_the_rows_are_torchs(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    a_dataset(tmp_path)
    manifest = Manifest.load(tmp_path / "dataset.json")
    root, ours = manifest.gallery.root, [image.file for image in manifest.gallery.images]
    source = {f"{1000 + number}_c1s1_000001_01.jpg": ours[number % 5] for number in range(2 * LEAST_IMAGES)}
    for name, image in source.items():
        (root / name).hardlink_to(root / image)
    gallery = list_folder(root).split
    Manifest(fingerprint="e" * 64, train=manifest.train, query=manifest.query, gallery=gallery).save(
        tmp_path / "many.json"
    )
    model = a_model(tmp_path / "model")
    loaded = load_model(model / "reid_model_best.pth")
    pixels = np.stack([np.asarray(Image.open(root / image)) for image in ours])
    torchs = dict(zip(ours, loaded.embed(CONTRACT.preprocess(pixels)), strict=True))
    for processes in (1, 2):
        caplog.clear()
        target = tmp_path / f"{processes}.json"
        spec = a_spec(tmp_path, f"inference.cpu_processes={processes}", "dataset.val_batch_size=128")
        inference(spec, dataset=tmp_path / "many.json", model=model, embeddings=target, run=StageRun.none())
        assert any("reid_model_best.pth: ONNX Runtime runs it on the CPU" in line for line in caplog.messages)
        rows = {Path(path).name: vector for path, vector in read_json(target)}
        found, expected = (
            [vectors[key] for key in keys] for vectors, keys in ((rows, source), (torchs, source.values()))
        )
        assert np.abs(np.subtract(found, expected)).max() <= 1e-5 * np.abs(expected).max()  # sums in another order


def test_a_spec_of_another_input_than_the_models_is_refused(tmp_path):
    model = a_model(tmp_path / "model")
    with pytest.raises(ArtifactError) as caught:
        run_inference(tmp_path, a_spec(tmp_path, "model.input_height=128"), model)
    assert str(caught.value) == (
        f"{model / 'reid_model_best.pth'}: made for model.input_height 64\n"
        "  found: 128 in the spec\n  want:  the model's own, or the field left out: the model knows its input"
    )


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_an_output_file_of_another_format_has_the_same_rows_and_names_the_model(tmp_path, ending):
    asked = tmp_path / f"rows.{ending}"
    model = a_model(tmp_path / "model")
    _, target = run_inference(tmp_path, a_spec(tmp_path, f"inference.output_file={asked}"), model)
    found = read_embeddings(asked)
    for (path, vector), ours, row in zip(
        read_json(target), found.all_rows().paths, found.all_rows().vectors, strict=True
    ):
        assert (ours, row.tobytes()) == (path, vector.tobytes())
    assert found.about == About(
        model_sha256=file_sha256(model / "reid_model_best.pth"), contract=CONTRACT.to_json(), normalised=False
    )
    assert found.names_of(np.array([0, 6])).split == ["query", "gallery"]


def test_the_models_thresholds_are_in_the_file(tmp_path):
    known = Thresholds((Threshold("best F1", 0.5, 0.9, 0.1, 0.8),), "some images", 3, 9)
    asked = tmp_path / "rows.npz"
    model = write_mean_colour(tmp_path / "model.onnx", thresholds=known)
    run_inference(tmp_path, a_spec(tmp_path, f"inference.output_file={asked}"), model)
    assert read_embeddings(asked).about.thresholds == known.to_json()


def test_alone_only_the_file_that_was_asked_for_is_written_in_shards(tmp_path):
    asked = tmp_path / "out" / "rows.parquet"
    spec = a_spec(tmp_path, f"inference.output_file={asked}", "inference.shard_rows=4", "inference.data_type=float16")
    inference(
        spec, dataset=a_dataset(tmp_path), model=a_model(tmp_path / "model"), embeddings=asked, run=StageRun.none()
    )
    files = sorted(path.name for path in asked.parent.iterdir())
    assert files == ["rows-00000-of-00002.parquet", "rows-00001-of-00002.parquet"]
    assert read_embeddings(asked).rows == 7
