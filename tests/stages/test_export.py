import hashlib
import json
import logging
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from reid.contract import Contract
from reid.data.market1501 import Manifest, PersonImage, Split
from reid.deploy.onnx import OnnxModel, read_onnx, thresholds_in
from reid.deploy.pixel_port import PixelPort
from reid.errors import ArtifactError, DatasetError, KeyRefused, SpecError
from reid.files.encryption import decrypt
from reid.model.checkpoint import THRESHOLDS, load_model, save_model
from reid.model.safe_files import read_file, write_file
from reid.spec import load_spec
from reid.stages.export import export
from reid.thresholds import Threshold, Thresholds
from reid.tracking.stage_run import StageRun
from tests.drawn_persons import write_persons
from tests.exporting import contract_of, some_network
from tests.small_market import write_image

QUERIES = 20
OF_TRAINING = Thresholds((Threshold("best F1", 0.5, 0.75, 0.25, 0.5),), "held-out persons", 8, 100)
OF_EVALUATION = Thresholds((Threshold("best F1", 0.625, 0.75, 0.25, 0.5),), "the test set", 8, 100)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A model directory with one checkpoint, which knows the thresholds of its training."""
    folder = tmp_path_factory.mktemp("model")
    network = some_network()
    file = folder / "reid_model_best.pth"
    save_model(file, network, contract=contract_of(network.settings), persons=(1, 2, 3, 4, 5))
    content = read_file(file)
    content["reid"][THRESHOLDS] = OF_TRAINING.to_json()
    with file.open("wb") as stream:
        write_file(content, stream)
    return folder


def encrypted(model: Path, folder: Path) -> Path:
    """The model directory's checkpoint in a new folder, encrypted with this process's key."""
    folder.mkdir()
    with (folder / "reid_model_best.pth").open("wb") as stream:
        write_file(read_file(model / "reid_model_best.pth"), stream)
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


@pytest.fixture
def persons(tmp_path) -> Path:
    """A manifest with 6 test persons that can be told apart, in query and gallery."""
    return write_persons(tmp_path / "persons", train=1, test=6)


def run_export(dataset: Path, model: Path, *overrides: str, thresholds: str = ""):
    folder = dataset.parent
    spec = load_spec(text=f"results_dir: {folder / 'results'}", overrides=overrides)
    return export(
        spec,
        dataset=dataset,
        model=model,
        onnx=folder / "out" / "onnx",
        parity=folder / "out" / "parity",
        run=StageRun.none(),
        thresholds=thresholds,
    )


def test_the_onnx_is_written_and_proved_on_query_images(dataset, checkpoint, caplog):
    with caplog.at_level(logging.INFO):
        outcome = run_export(dataset, checkpoint, thresholds=OF_EVALUATION.to_json())
    folder = dataset.parent / "out"
    assert sorted(entry.name for entry in folder.iterdir()) == ["onnx", "parity"]
    exported, loaded = OnnxModel(folder / "onnx", threads=1), load_model(checkpoint / "reid_model_best.pth")
    assert exported.contract == loaded.contract
    assert (exported.thresholds, loaded.thresholds) == (OF_EVALUATION, OF_TRAINING)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), np.uint8)
    images = Contract.preprocess(loaded.contract, pixels)
    assert exported(images) == pytest.approx(loaded.embed(images), abs=1e-4)  # float32 sums in another order

    report = json.loads((folder / "parity").read_text())
    assert (report["images"], report["queries"], report["gallery"]) == (QUERIES, QUERIES, 0)
    assert (report["batch_sizes"], report["fp16"]["onnx_retrieval"]) == ([16, 1], None)
    assert (report["passed"], report["opset"], report["data_type"], report["encrypted"]) == (True, 18, "FP32", False)
    assert (report["min_cosine"], report["max_mAP_drop"], report["max_rank1_drop"]) == (0.9999, 0.001, 0.01)
    assert (report["torch"], report["onnxruntime"]) == (version("torch"), version("onnxruntime"))
    assert (report["torch_retrieval"], report["onnx_retrieval"]) == (None, None)
    assert report["checkpoint"] == "reid_model_best.pth"
    content = (checkpoint / "reid_model_best.pth").read_bytes()
    assert report["checkpoint_sha256"] == hashlib.sha256(content).hexdigest()
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
        f"ONNX: {onnx_mib:.1f} MiB, FP32, opset 18; cosine to torch at least {report['worst_cosine']:.6f} on 20 query "
        f"and 0 gallery images (in FP16 {report['fp16']['worst_cosine']:.6f}); mAP not compared: no query of them has "
        "a match"
    ]
    assert (
        f"to build an engine by hand: trtexec --onnx={folder / 'onnx'} --minShapes=input:1x3x64x32 "
        "--optShapes=input:16x3x64x32 --maxShapes=input:64x3x64x32 --saveEngine=model.engine"
    ) in caplog.messages


@pytest.mark.parametrize("data_type", ["FP32", "FP16"])
def test_the_ranking_that_the_onnx_gives_is_torchs(persons, checkpoint, data_type):
    outcome = run_export(persons, checkpoint, f"export.data_type={data_type}")
    report = json.loads((persons.parent / "out" / "parity").read_text())
    before, after = report["torch_retrieval"], report["onnx_retrieval"]
    assert 0.1 < before["mAP"] < 1
    assert OnnxModel(persons.parent / "out" / "onnx").thresholds == OF_TRAINING  # there was no evaluation
    assert after == pytest.approx(before, abs=1e-3)
    # 6 persons under 2 cameras: 12 queries; 2 images each and a distractor in the gallery
    assert (report["queries"], report["gallery"], report["data_type"]) == (12, 25, data_type)
    assert outcome.metrics["parity_mAP_drop"] == before["mAP"] - after["mAP"]
    assert outcome.metrics["parity_rank1_drop"] == before["rank1"] - after["rank1"]
    told = f"; mAP {100 * after['mAP']:.2f} for torch's {100 * before['mAP']:.2f}"
    if data_type == "FP32":
        in_half = report["fp16"]["onnx_retrieval"]
        assert in_half == pytest.approx(before, abs=1e-3)
        assert outcome.metrics["parity_fp16_mAP_drop"] == before["mAP"] - in_half["mAP"]
        told += f" (in FP16 {100 * in_half['mAP']:.2f})"
    assert outcome.lines[0].endswith(told)
    assert OnnxModel(persons.parent / "out" / "onnx", threads=1).data_type == data_type


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ([], "uint8 (batch, height, width, 3), RGB, 0 to 255"),
        (
            [
                *("pixels.layout=NCHW", "pixels.channel_order=BGR", "pixels.data_type=float32", "pixels.largest=1"),
                *("pixels.batch=3", "pixels.height=64", "pixels.width=32", "flip_test=true", "unit_length=true"),
            ],
            "float32 (3, 3, 64, 32), BGR, 0 to 1, flip test, length 1",
        ),
    ],
)
def test_a_file_that_prepares_images_itself_is_proved_from_files_to_vectors(persons, checkpoint, fields, told, caplog):
    with caplog.at_level(logging.INFO):
        outcome = run_export(
            persons, checkpoint, "export.preprocessing=inside", *(f"export.{field}" for field in fields)
        )
    out = persons.parent / "out"
    report = json.loads((out / "parity").read_text())
    inside = report["inside"]
    assert report["onnx_sha256"] == hashlib.sha256((out / "onnx").read_bytes()).hexdigest()
    assert (report["passed"], inside["onnx_retrieval"]) == (True, pytest.approx(inside["torch_retrieval"], abs=1e-6))
    assert inside["worst_cosine"] > 0.99999  # the resize is PIL's; the rest is float32 in another order
    assert outcome.metrics["parity_inside_worst_cosine"] == inside["worst_cosine"]
    figures = [100 * inside[name]["mAP"] for name in ("onnx_retrieval", "torch_retrieval")]
    assert outcome.lines[1] == (
        f"it prepares images itself: {told}; from files to vectors, cosine to torch at least "
        f"{inside['worst_cosine']:.6f}; mAP {figures[0]:.2f} for torch's {figures[1]:.2f}"
    )
    by_hand = "" if fields else "--minShapes=input:1x64x32x3 --optShapes=input:16x64x32x3 --maxShapes=input:64x64x32x3 "
    assert f"to build an engine by hand: trtexec --onnx={out / 'onnx'} {by_hand}--saveEngine=model.engine" in (
        caplog.messages
    )


@pytest.mark.slow
def test_a_file_that_prepares_images_otherwise_fails_the_stage(persons, checkpoint, monkeypatch):
    turned = PixelPort.from_decoded
    monkeypatch.setattr(PixelPort, "from_decoded", lambda port, pixels: turned(port, pixels[..., ::-1]))  # a BGR client
    with pytest.raises(ArtifactError) as caught:
        run_export(persons, checkpoint, "export.preprocessing=inside")
    out = persons.parent / "out"
    assert "below a cosine of 0.9999 (export.min_cosine)" in str(caught.value).splitlines()[0]
    assert sorted(entry.name for entry in out.iterdir()) == ["onnx.candidate", "parity", "parity_worst.html"]
    assert json.loads((out / "parity").read_text())["passed"] is False


@pytest.mark.slow
def test_an_encrypted_file_prepares_images_itself_too(persons, checkpoint, monkeypatch):
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "secret")
    model = encrypted(checkpoint, persons.parent / "model")
    run_export(persons, model, "export.preprocessing=inside", "export.encrypted=true")
    opened = OnnxModel(persons.parent / "out" / "onnx", threads=1)
    assert opened.of_pixels(np.zeros((1, 80, 40, 3), np.uint8)).shape == (1, 16)


@pytest.mark.slow
def test_an_encrypted_int8_file_prepares_images_itself_and_keeps_its_thresholds(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "secret")
    dataset = write_persons(tmp_path / "persons", train=8, test=4)
    model = encrypted(checkpoint, tmp_path / "model")
    run_export(
        dataset, model, "export.data_type=INT8", "export.preprocessing=inside", "export.encrypted=true",
        "export.quantization.images=8", "export.quantization.max_mAP_drop=1", "export.quantization.max_rank1_drop=1",
        thresholds=OF_EVALUATION.to_json(),
    )  # fmt: skip
    file = dataset.parent / "out" / "onnx"
    opened = OnnxModel(file, threads=1)
    assert (opened.data_type, opened.of_pixels(np.zeros((1, 80, 40, 3), np.uint8)).shape) == ("INT8", (1, 16))
    assert thresholds_in(read_onnx(file)[0], file) == OF_EVALUATION


def test_a_lower_map_fails_the_stage_though_every_cosine_is_high_enough(persons, checkpoint, monkeypatch):
    run = OnnxModel.__call__
    # a runtime that mixes a batch up: to each image it adds ninefold what belongs to another one
    monkeypatch.setattr(
        OnnxModel, "__call__", lambda model, images: (found := run(model, images)) + 9 * np.roll(found, 5, axis=0)
    )
    free = ["export.min_cosine=0", "export.parity_images=100"]
    with pytest.raises(ArtifactError) as caught:
        run_export(persons, checkpoint, *free)
    out = persons.parent / "out"
    report = json.loads((out / "parity").read_text())
    drop = report["torch_retrieval"]["mAP"] - report["onnx_retrieval"]["mAP"]
    assert str(caught.value).splitlines()[0] == (
        "ONNX parity: the exported network does not give torch's embeddings: "
        f"mAP lower by {drop:.6f}, more than 0.001 (export.max_mAP_drop)"
    )
    assert str(caught.value).splitlines()[2] == f"  shown: {out / 'parity_worst.html'}"
    run_export(persons, checkpoint, *free, "export.max_mAP_drop=1", "export.max_rank1_drop=1")
    assert not (out / "parity_worst.html").exists()


def test_an_encrypted_onnx_is_nowhere_plain_and_opens_with_the_key_alone(dataset, checkpoint, monkeypatch, caplog):
    mine = dataset.parent / "mine.onnx"
    asked = ["export.encrypted=true", f"export.onnx_file={mine}"]
    with pytest.raises(SpecError) as caught:
        run_export(dataset, checkpoint, *asked)
    assert str(caught.value) == (
        "export.encrypted: true, and no key is given\n  want: encryption_key, or REID_ENCRYPTION_KEY set"
    )
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "open sesame")
    with pytest.raises(KeyRefused, match=r"not encrypted, and an encryption key is given"):
        run_export(dataset, checkpoint, *asked)
    checkpoint = encrypted(checkpoint, dataset.parent / "model")
    with caplog.at_level(logging.INFO):
        outcome = run_export(dataset, checkpoint, *asked)
    onnx = dataset.parent / "out" / "onnx"
    assert f"{onnx} is encrypted: trtexec cannot read it, gen_trt_engine can" in caplog.messages
    assert "FP32, encrypted, opset 18" in outcome.lines[0]
    assert OnnxModel(onnx, threads=1).contract == load_model(checkpoint / "reid_model_best.pth").contract
    assert mine.read_bytes() == onnx.read_bytes()
    assert onnx.read_bytes().startswith(b"REIDENC1")
    plain = [path for path in dataset.parent.rglob("*") if path.is_file() and b"fc_pred" in path.read_bytes()]
    assert plain == []
    for key, text in (
        ("open barley", f"{onnx}: the key is not the one it was encrypted with, or the file was changed"),
        ("", f"{onnx}: encrypted, and no key is given\n  want: encryption_key, or REID_ENCRYPTION_KEY set"),
    ):
        monkeypatch.setenv("REID_ENCRYPTION_KEY", key)
        for read in (OnnxModel, read_onnx):
            with pytest.raises(KeyRefused) as refused:
                read(onnx)
            assert str(refused.value) == text
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "open sesame")
    onnx.write_bytes(decrypt(onnx, "open sesame").getvalue())
    for read in (OnnxModel, read_onnx):
        with pytest.raises(KeyRefused) as refused:
            read(onnx)
        assert str(refused.value).startswith(f"{onnx}: not encrypted, and an encryption key is given\n  want: a file")
    assert OnnxModel(onnx.rename(onnx.with_name("theirs")), threads=1).data_type == "FP32"  # as a file of others
    run_export(dataset, checkpoint)  # in the place of an encrypted one
    assert OnnxModel(onnx, threads=1).data_type == "FP32"


def test_a_spec_of_another_input_than_the_models_is_refused(dataset, checkpoint):
    with pytest.raises(ArtifactError) as caught:
        run_export(dataset, checkpoint, "dataset.pixel_std=[0.224,0.224,0.224]")
    assert str(caught.value) == (
        f"{checkpoint / 'reid_model_best.pth'}: made for dataset.pixel_std [0.25, 0.25, 0.25]\n"
        "  found: [0.224, 0.224, 0.224] in the spec\n"
        "  want:  the model's own, or the field left out: the model knows its input"
    )


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
    worst = [(Path(entry["file"]).name, entry["cosine"]) for entry in report["worst"]]
    below = int(str(caught.value).split("embeddings: ")[1].split(" of ")[0])
    assert 1 <= below <= QUERIES + 16
    page = folder / "parity_worst.html"
    assert str(caught.value) == (
        f"ONNX parity: the exported network does not give torch's embeddings: {below} of 36 comparisons below a cosine "
        f"of 1.0 (export.min_cosine)\n  worst: {', '.join(f'{name} {cosine:.6f}' for name, cosine in worst)}\n"
        f"  shown: {page}\n  the ONNX that failed: {folder / 'onnx.candidate'}"
    )
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == len(worst) == 5
    assert all(name in html for name, _ in worst)
    assert (folder / "onnx").read_bytes() == b"an earlier one"
    assert OnnxModel(folder / "onnx.candidate", threads=1).contract.embedding == 16


def test_a_data_set_without_query_images_proves_nothing(dataset, checkpoint):
    manifest = Manifest.load(dataset)
    empty = Split(manifest.query.root, ())
    Manifest(manifest.fingerprint, manifest.train, empty, manifest.gallery).save(dataset)
    with pytest.raises(DatasetError) as caught:
        run_export(dataset, checkpoint)
    assert str(caught.value) == (f"{manifest.query.root}: no query image to compare models on\n  want: one at least")


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_int8_file_is_reported_beside_fp32_and_fp16(persons, checkpoint):
    """Random weights and 2 training images are no network to quantise well: any loss is allowed here."""
    loose = ["min_cosine=0", "max_mAP_drop=1", "max_rank1_drop=1", "images=2", "max_float_layers=1"]
    outcome = run_export(persons, checkpoint, "export.data_type=INT8", *(f"export.quantization.{one}" for one in loose))
    folder = persons.parent / "out"
    assert sorted(entry.name for entry in folder.iterdir()) == ["onnx", "parity", "parity_data_types.html"]
    report = json.loads((folder / "parity").read_text())
    assert (report["data_type"], report["quantization"]["images"], report["quantization"]["held_aside"]) == (
        "INT8",
        2,
        1,
    )
    assert [entry["data_type"] for entry in report["data_types"]] == ["FP32", "FP16", "INT8"]
    sizes = [entry["onnx_mib"] for entry in report["data_types"]]
    assert sizes == sorted(sizes, reverse=True)
    assert report["data_types"][2]["worst_cosine"] == report["worst_cosine"]
    assert outcome.metrics["fp32_latency_ms_1"] > 0
    assert [line.partition(":")[0] for line in outcome.lines] == ["ONNX", "FP32", "FP16", "INT8", "in FP32"]
    assert "Latency by ONNX Runtime" in (folder / "parity_data_types.html").read_text()
    assert OnnxModel(folder / "onnx", threads=1).data_type == "INT8"


@pytest.mark.slow
def test_an_int8_file_that_loses_too_much_fails_and_names_its_own_limit(persons, checkpoint):
    strict = ["min_cosine=1.0", "images=2", "max_float_layers=0"]
    with pytest.raises(ArtifactError, match=r"below a cosine of 1\.0 \(export\.quantization\.min_cosine\)"):
        run_export(persons, checkpoint, "export.data_type=INT8", *(f"export.quantization.{one}" for one in strict))
    folder = persons.parent / "out"
    assert sorted(entry.name for entry in folder.iterdir()) == ["onnx.candidate", "parity", "parity_worst.html"]


@pytest.mark.slow
def test_int8_needs_training_images(dataset, persons, checkpoint):
    with pytest.raises(DatasetError, match="has no training image to calibrate on"):
        run_export(dataset, checkpoint, "export.data_type=INT8")
    with pytest.raises(DatasetError) as caught:
        run_export(persons, checkpoint, "export.data_type=INT8")
    count = len(Manifest.load(persons).train)
    assert str(caught.value) == (
        "export.quantization.images: 256, and 64 held aside to choose layers by; the data set has "
        f"{count} training images\n  want: {int(count / 1.25)} or fewer"
    )
