"""`reid bundle`: the files of each program, and what plain ONNX Runtime makes of what the program feeds."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import helper, numpy_helper

from reid.cli.commands import main
from reid.contract import Contract
from reid.data.store import read_resized
from reid.deploy.bundles.programs import NAMES, PROGRAMS
from reid.deploy.onnx import CONTRACT_KEY
from reid.files.encryption import write_model
from tests.small_market import FOLDERS, write_image, write_market

TRACKERS = tuple(PROGRAMS)


def smooth(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A colourful image without fine detail, so that every resampling gives nearly the same; size is (w, h)."""
    from PIL import Image

    small = np.random.default_rng(3).integers(0, 256, (4, 2, 3), np.uint8)
    picture = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    picture.save(path, "PNG")
    return np.asarray(picture)


def small_onnx(
    path: Path, *, channels: int = 3, batch: str | int = "batch", key: str | None = None, **texts: str
) -> Path:
    """Prepared images (batch, channels, 64, 32) -> (batch, 16): mixtures of the colours of 16 x 16 blocks."""
    contract = Contract(
        height=64, width=32, channels=channels, embedding=16, channel_order="RGB" if channels == 3 else "L",
        mean=(0.5, 0.4, 0.3)[:channels], std=(0.2, 0.25, 0.3)[:channels],
    )  # fmt: skip
    weights = np.random.default_rng(0).standard_normal((channels * 8, 16)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input"], ["blocks"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["blocks"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["mixed"]),
        helper.make_node("Relu", ["mixed"], ["fc_pred"]),
    ]
    ports = [("input", [batch, channels, 64, 32]), ("fc_pred", [batch, 16])]
    made = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in ports]
    graph = helper.make_graph(nodes, "small", made[:1], made[1:], [numpy_helper.from_array(weights, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    for name, text in {CONTRACT_KEY: contract.to_json(), **texts}.items():
        model.metadata_props.add(key=name, value=text)
    write_model(path, model.SerializeToString(), key=key)
    return path


def thresholds(*, name: str) -> dict[str, str]:
    """The metadata of a file with a threshold of this name, at a cosine of 0.6."""
    row = {"name": name, "cosine": 0.6, "true_match_rate": 0.9, "false_match_rate": 0.001, "precision": 0.8}
    counts = {"same_person_pairs": 9, "different_person_pairs": 9999}
    return {"reid.thresholds": json.dumps({"measured_on": "a test", **counts, "thresholds": [row]})}


def made(tmp_path: Path, program: str, *more: str) -> Path:
    tmp_path.mkdir(exist_ok=True)
    model = small_onnx(tmp_path / "reid_model.onnx")
    output = tmp_path / program
    assert main(["bundle", "--for", program, "--model", str(model), "--output", str(output), *more]) == 0
    return output


@pytest.mark.parametrize("program", TRACKERS)
@pytest.mark.parametrize("oversize", [1, 2])
def test_what_the_program_feeds_gives_reids_embedding(tmp_path: Path, program: str, oversize: int) -> None:
    output = made(tmp_path, program, "--oversize", str(oversize))
    contract = Contract(**json.loads((output / "bundle.json").read_text())["contract"])
    crop = smooth(tmp_path / "crop.png", (40, 90))
    session = onnxruntime.InferenceSession(str(output / PROGRAMS[program].model(contract)))
    (port,) = session.get_inputs()
    assert (port.type, port.shape[1:]) == ("tensor(float)", [3, 64 * oversize, 32 * oversize])
    feed = PROGRAMS[program].feed
    plain = type(feed)(feed.resize, feed.mean, feed.std)  # without a margin, which no file can undo
    found = session.run(None, {port.name: plain(crop, 64 * oversize, 32 * oversize)[None]})[0][0]
    pixels = read_resized(tmp_path / "crop.png", height=64, width=32, channels=3)
    network = onnxruntime.InferenceSession(str(tmp_path / "reid_model.onnx"))
    own = network.run(None, {"input": contract.preprocess(pixels[None])})[0][0]
    cosine = found @ own / np.linalg.norm(found) / np.linalg.norm(own)
    assert cosine > 0.999  # the resampling of a smooth crop is all that differs


def test_deepstreams_file_is_complete(tmp_path: Path) -> None:
    output = made(tmp_path, "deepstream", "--batch-size", "50")
    head, _, text = (output / "config_tracker_NvDeepSORT_reid.yml").read_text().partition("\n")
    assert head == "%YAML:1.0"
    config = yaml.safe_load(text)
    assert {"BaseConfig", "TargetManagement", "DataAssociator", "StateEstimator", "ReID"} <= set(config)
    assert config["DataAssociator"]["minMatchingScore4ReidSimilarity"] == 0.7
    assert config["ReID"] == {
        "reidType": 1, "batchSize": 50, "workspaceSize": 1000, "reidFeatureSize": 16, "reidHistorySize": 100,
        "inferDims": [3, 128, 64], "networkMode": 0, "inputOrder": 0, "colorFormat": 0, "offsets": [0.0, 0.0, 0.0],
        "netScaleFactor": pytest.approx(1 / 255), "keepAspc": 0, "useVPICropScaler": 1, "addFeatureNormalization": 1,
        "outputReidTensor": 0, "onnxFile": "reid.onnx", "modelEngineFile": "reid.onnx_b50_gpu0_fp32.engine",
    }  # fmt: skip
    readme = (output / "README.md").read_text()
    assert "--maxShapes=input:50x3x128x64" in readme and "ll-config-file=config_tracker_NvDeepSORT_reid.yml" in readme


def test_the_other_files_parse(tmp_path: Path) -> None:
    for program in ("boxmot", "ultralytics"):
        output = made(tmp_path / program, program)
        config = yaml.safe_load((output / "botsort_reid.yaml").read_text())
        assert "appearance_thresh" in config
    sidecar = json.loads((tmp_path / "boxmot/boxmot/osnet_x0_25_reid.onnx.metadata.json").read_text())
    assert sidecar["img_size"] == [128, 64]


def test_tritons_model_takes_pixels_of_any_size(tmp_path: Path) -> None:
    market = write_market(tmp_path / "market")
    output = made(tmp_path, "triton", "--check", *(str(market / FOLDERS[split]) for split in ("query", "gallery")))
    served = output / "model_repository" / "reid"
    config = (served / "config.pbtxt").read_text()
    assert all(text in config for text in ("TYPE_UINT8", "dims: [ -1, -1, 3 ]", "reid.contract", "reid.pixels"))
    crop = smooth(tmp_path / "crop.png", (40, 90))
    session = onnxruntime.InferenceSession(str(served / "1" / "model.onnx"))
    found = session.run(None, {"input": crop[None]})[0][0]
    record = json.loads((output / "bundle.json").read_text())
    pixels = read_resized(tmp_path / "crop.png", height=64, width=32, channels=3)
    network = onnxruntime.InferenceSession(str(tmp_path / "reid_model.onnx"))
    own = network.run(None, {"input": Contract(**record["contract"]).preprocess(pixels[None])})[0][0]
    np.testing.assert_allclose(found, own / np.linalg.norm(own), atol=1e-5)  # the same pixels, to the last bit
    assert record["check"][0]["worst_cosine"] > 0.999999


def test_the_threshold_becomes_each_programs_own(tmp_path: Path) -> None:
    model = small_onnx(tmp_path / "reid_model.onnx", **thresholds(name="0.1 % let in"))
    settings = {}
    for program in TRACKERS:
        assert main(["bundle", "--for", program, "--model", str(model), "--output", str(tmp_path / program)]) == 0
        record = json.loads((tmp_path / program / "bundle.json").read_text())
        assert record["threshold"]["cosine"] == 0.6
        settings[program] = next(iter(record["parameter"].values()))
    # the cosine itself; 1 - 0.6 as a distance; (1 + 0.6) / 2
    assert settings == {"deepstream": 0.6, "boxmot": 0.4, "ultralytics": 0.8}
    line = ["bundle", "--for", "boxmot", "--model", str(model), "--output", str(tmp_path / "x")]
    assert main([*line, "--false-match-rate", "0.5"]) == 2


def test_a_model_that_knows_only_a_higher_rate_gets_the_threshold_of_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_onnx(tmp_path / "m.onnx", **thresholds(name="1 % let in"))
    line = ["bundle", "--model", str(model), "--output", str(tmp_path / "b"), "--for"]
    assert main([*line, "deepstream"]) == 0
    assert "threshold: cosine 0.6000 (1 % let in)\n" in capsys.readouterr().out
    assert (
        "minMatchingScore4ReidSimilarity: 0.6\n" in (tmp_path / "b" / "config_tracker_NvDeepSORT_reid.yml").read_text()
    )
    assert main([*line, "triton"]) == 0  # a bundle for another program replaces it
    assert "reid.thresholds" in (tmp_path / "b" / "model_repository" / "reid" / "config.pbtxt").read_text()


@pytest.mark.parametrize("program", TRACKERS)
def test_that_crops_are_too_small_for_the_larger_input_is_said(
    tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    market = write_market(tmp_path / "market")  # noise of the network's own size, blurred by the way to twice that
    made(tmp_path, program, "--check", *(str(market / FOLDERS[split]) for split in ("query", "gallery")))
    assert "on these crops --oversize 1 is closer: mean cosine 1.0000, as bundled 0." in capsys.readouterr().out


@pytest.mark.parametrize("program", TRACKERS)
def test_the_check_measures_every_way(tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    market = write_market(tmp_path / "market")
    folders = [str(market / FOLDERS[split]) for split in ("query", "gallery")]
    output = made(tmp_path, program, "--check", *folders, "--oversize", "1")
    record = json.loads((output / "bundle.json").read_text())
    check, contract = record["check"], Contract(**record["contract"])
    assert [row["name"] for row in check] == ["as bundled", *(c.name for c in PROGRAMS[program].cases(contract))]
    by_name = {row["name"]: row for row in check}
    # these images have the network's size, so nothing is resampled; Ultralytics adds its margin all the same
    exact = "the same without the margin around the box" if program == "ultralytics" else "as bundled"
    assert by_name[exact]["worst_cosine"] > 0.999999
    assert min(row["worst_cosine"] for row in check) < 0.99  # some way is wrong
    assert all(row["mAP_change"] is not None for row in check)
    shown = capsys.readouterr().out
    assert all(row["name"] in shown for row in check)


def test_a_bundle_is_replaced_by_an_equal_one(tmp_path: Path) -> None:
    output = made(tmp_path, "boxmot")
    before = json.loads((output / "bundle.json").read_text())
    assert before["files"].keys() == {path.name for path in output.iterdir()} - {"bundle.json"}
    line = ["bundle", "--for", "boxmot", "--model", str(tmp_path / "reid_model.onnx"), "--output", str(output)]
    assert main(line) == 0
    assert json.loads((output / "bundle.json").read_text()) == before  # the same bytes again
    (tmp_path / "link").symlink_to(output)
    assert main([*line[:-1], str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink() and not output.is_symlink()


def test_ctrl_c_leaves_the_bundle_that_was_there_and_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = made(tmp_path, "boxmot")
    before, names = (output / "bundle.json").read_bytes(), sorted(path.name for path in tmp_path.iterdir())

    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reid.stages.bundle._hashes", pressed)  # all files are written, the record is not
    line = ["bundle", "--for", "deepstream", "--model", str(tmp_path / "reid_model.onnx"), "--output", str(output)]
    assert main(line) == 130
    assert (output / "bundle.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.slow
def test_a_checkpoint_is_exported_on_the_way(tmp_path: Path) -> None:
    import torch

    from reid.model.checkpoint import save_model
    from reid.model.embedder import build_embedder
    from tests.networks import network_settings

    contract = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, embedding=16)
    checkpoint = tmp_path / "model.pth"
    save_model(checkpoint, build_embedder(**network_settings()), contract=contract, persons=[1, 2, 3, 4, 5])
    content = torch.load(checkpoint, weights_only=False)
    content["reid"]["thresholds"] = thresholds(name="0.1 % let in")["reid.thresholds"]  # as a training stores them
    torch.save(content, checkpoint)
    assert main(["bundle", "--for", "boxmot", "--model", str(checkpoint), "--output", str(tmp_path / "b")]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "b" / "osnet_x0_25_reid.onnx"))
    assert session.get_inputs()[0].shape == ["batch", 3, 128, 64]
    assert json.loads((tmp_path / "b" / "bundle.json").read_text())["threshold"]["cosine"] == 0.6


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["bundle", *words]) == 2
    return capsys.readouterr().err


def test_an_unknown_program_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bundle", "--for", "norfair", "--model", "m.onnx", "--output", str(tmp_path / "b")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert all(name in error for name in ("norfair", *NAMES))


def test_a_grey_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small_onnx(tmp_path / "grey.onnx", channels=1)
    error = refused(capsys, "--for", "boxmot", "--model", str(model), "--output", str(tmp_path / "b"))
    assert error == (
        f"error: {model}: takes grey images; BoxMOT (BoT-SORT) feeds three colours\n"
        "  want: a model of model.input_channels=3\n"
    )
    assert not (tmp_path / "b").exists()


def test_a_grey_model_is_served_by_triton(tmp_path: Path) -> None:
    market, model = write_market(tmp_path / "market"), small_onnx(tmp_path / "grey.onnx", channels=1)
    folders = [str(market / FOLDERS[split]) for split in ("query", "gallery")]
    line = ["bundle", "--for", "triton", "--model", str(model), "--output", str(tmp_path / "b"), "--check", *folders]
    assert main(line) == 0
    assert json.loads((tmp_path / "b" / "bundle.json").read_text())["check"][0]["worst_cosine"] > 0.999999


def test_an_encrypted_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small_onnx(tmp_path / "secret.onnx", key="a key")
    error = refused(capsys, "--for", "deepstream", "--model", str(model), "--output", str(tmp_path / "b"))
    assert error.startswith(f"error: {model}: encrypted; no other program can read it")


def test_a_fixed_batch_and_an_engine_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small_onnx(tmp_path / "fixed.onnx", batch=4)
    words = ["--for", "deepstream", "--output", str(tmp_path / "b"), "--model"]
    assert "input (4, 3, 64, 32)" in refused(capsys, *words, str(model))
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"plan")
    assert refused(capsys, *words, str(engine)).startswith(f"error: {engine}: a TensorRT engine\n")


def test_a_folder_of_other_things_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small_onnx(tmp_path / "m.onnx")
    write_image(tmp_path / "b" / "holiday.jpg")
    error = refused(capsys, "--for", "boxmot", "--model", str(model), "--output", str(tmp_path / "b"))
    assert error.startswith(f"error: {tmp_path / 'b'}: is there, and is no bundle\n")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["holiday.jpg"]


def test_the_folder_that_one_is_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_onnx(tmp_path / "m.onnx")
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    error = refused(capsys, "--for", "boxmot", "--model", str(model), "--output", ".")
    assert (
        error
        == f"error: {tmp_path / 'b'}: you are in it, and a bundle's folder is replaced\n  want: another --output\n"
    )


def test_tritons_onnx_runtime_gets_no_fp8_and_deepstream_is_told_to_build_int8_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fp8 = small_onnx(tmp_path / "fp8.onnx", **{"reid.data_type": "FP8"})
    error = refused(capsys, "--for", "triton", "--model", str(fp8), "--output", str(tmp_path / "b"))
    assert error.startswith(f"error: {fp8}: in FP8; ONNX Runtime drops a ReLU")
    int8 = small_onnx(tmp_path / "int8.onnx", **{"reid.data_type": "INT8"})
    assert main(["bundle", "--for", "deepstream", "--model", str(int8), "--output", str(tmp_path / "b")]) == 0
    readme = (tmp_path / "b" / "README.md").read_text()
    assert "--stronglyTyped" in readme and "Do this before the first start: the file is in INT8" in readme
