import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from reid.contract import Contract
from reid.deploy.build_record import BuildRecord, Profile
from reid.deploy.gpu import use_gpu
from reid.deploy.opening import find_checkpoint, open_model
from reid.deploy.pixel_port import PixelPort
from reid.embeddings import OfPixels
from reid.errors import ArtifactError, SpecError
from reid.model.checkpoint import save_model
from reid.model.embedder import build_embedder
from tests.exporting import prepared_inside
from tests.networks import network_settings

CONTRACT = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, embedding=16)


def a_model(folder: Path, name: str = "reid_model_best.pth") -> Path:
    folder.mkdir(exist_ok=True)
    save_model(folder / name, build_embedder(**network_settings()), contract=CONTRACT, persons=[1, 2, 3, 4, 5])
    return folder


def test_the_best_checkpoint_is_used_before_the_latest_and_a_file_is_used_as_it_is(tmp_path):
    folder = a_model(tmp_path / "model", "reid_model_latest.pth")
    assert find_checkpoint(folder).name == "reid_model_latest.pth"
    a_model(folder, "reid_model_best.pth")
    assert find_checkpoint(folder).name == "reid_model_best.pth"
    assert find_checkpoint(folder / "reid_model_latest.pth").name == "reid_model_latest.pth"


def test_a_folder_without_a_checkpoint_says_what_lies_there(tmp_path):
    for name in "abcde":
        (tmp_path / name).touch()
    with pytest.raises(ArtifactError) as caught:
        find_checkpoint(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: no model\n  found: a, b, c, d and 1 more\n"
        "  want:  a checkpoint, or a folder with reid_model_best.pth"
    )
    with pytest.raises(ArtifactError) as caught:
        find_checkpoint(tmp_path / "none")
    assert str(caught.value) == (
        f"{tmp_path / 'none'}: no model\n  found: nothing there\n"
        "  want:  a checkpoint, or a folder with reid_model_best.pth"
    )


def test_a_file_of_an_unknown_kind_is_refused_by_its_ending(tmp_path):
    file = tmp_path / "model.txt"
    file.touch()
    with pytest.raises(ArtifactError) as caught:
        open_model(file, device="cpu", images=1)
    assert str(caught.value) == (
        f"{file}: not a model this stage can run\n  want: one of .engine, .onnx, .plan, .pth, .tlt"
    )


def test_a_file_that_prepares_images_itself_is_opened_as_one_of_pixels(tmp_path):
    path = prepared_inside(tmp_path / "m.onnx", PixelPort(channel_order="BGR"), mirror=True, unit_length=True)
    opened = open_model(path, device="cpu", images=1)
    assert isinstance(opened.network, OfPixels)
    assert (opened.contract.flip, opened.contract.normalized) == (True, True)
    vectors = opened.network.start(np.full((3, 64, 32, 3), 9, np.uint8))()
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-6)


def test_an_engine_on_a_machine_without_gpu_is_refused_with_what_would_run(tmp_path):
    if use_gpu(0) is not None:
        pytest.skip("there is a GPU here; this is about machines without")
    for name in ("model.engine", "model.plan"):
        engine = tmp_path / name
        engine.write_bytes(b"an engine")
        with pytest.raises(ArtifactError) as caught:
            open_model(engine, device="cpu", images=1)
        assert str(caught.value) == (
            f"{engine}: no build record beside it, and so no preprocessing contract\n"
            f"  want: {name}.json or build.json, which gen_trt_engine writes"
        )
        a_record(engine)
        with pytest.raises(ArtifactError) as caught:
            open_model(engine, device="cpu", images=1)
        assert str(caught.value) == (
            f"{engine}: an engine runs on an NVIDIA GPU, and there is none here\n"
            "  want: the .onnx or the .pth of the same model"
        )
        engine.write_bytes(b"another one")
        with pytest.raises(ArtifactError) as caught:
            open_model(engine, device="cpu", images=1)
        assert str(caught.value).startswith(f"{engine}.json: the record of another engine\n  found: engine_sha256 ")


def a_record(engine: Path) -> None:
    record = BuildRecord(
        built=True,
        reason=None,
        onnx_sha256="",
        contract=json.loads(CONTRACT.to_json()),
        data_type="FP32",
        profile=Profile(1, 4, 16),
        workspace_mib=256,
        engine_sha256=hashlib.sha256(engine.read_bytes()).hexdigest(),
    )
    engine.with_name(f"{engine.name}.json").write_text(record.to_json())


def test_a_checkpoint_under_taos_ending_is_a_checkpoint(tmp_path):
    model = a_model(tmp_path / "model") / "reid_model_best.pth"
    tlt = model.rename(tmp_path / "model.tlt")
    assert open_model(tlt, device="cpu", images=1).contract == CONTRACT


def test_a_device_that_is_not_there_is_refused_before_the_file_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device, message in (
        ("cuda:2", "cuda:2 is not there\n  found: 2 GPUs, cuda:0 to cuda:1\n  want:  one of them, or cpu"),
        ("gpu", "gpu is no device\n  want: auto, cpu, or a GPU as cuda:0"),
    ):
        with pytest.raises(SpecError) as caught:
            open_model(tmp_path / "none.pth", device=device, images=1)
        assert str(caught.value) == f"device: {message}"
