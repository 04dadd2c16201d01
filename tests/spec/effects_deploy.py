"""What each field of `export` and `gen_trt_engine` does."""

import hashlib
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from reid.deploy import gpu
from reid.deploy.build_record import read_record
from reid.deploy.engine import EngineModel
from reid.deploy.gpu import use_gpu
from reid.deploy.onnx import OnnxModel
from reid.deploy.pixel_port import PixelPort
from reid.errors import ArtifactError, DatasetError, SpecError
from reid.files.encryption import is_encrypted
from reid.model.checkpoint import load_model
from reid.model.safe_files import read_file, write_file
from reid.training.resume import LATEST
from tests.on_cpu import build_driver
from tests.small_market import write_image
from tests.spec.lab import Lab, images


def exported(lab: Lab) -> Path:
    """An ONNX with every field of the section changed; parity.json lies beside it."""
    folder = lab.root / "exported"
    model = lab.train("train.seed=4").folder / LATEST
    values = {"checkpoint": model, "onnx_file": folder / "mine.onnx", "results_dir": folder, "opset": 20}
    values |= {"data_type": "FP16", "parity_images": 20}
    lab.once("exported", lambda: lab.task("export", *(f"export.{field}={value}" for field, value in values.items())))
    return folder / "mine.onnx"


def export_checkpoint(lab: Lab) -> None:
    ours, other = (load_model(lab.train(*seed).folder / LATEST) for seed in (["train.seed=4"], []))
    noise = images().numpy()
    found = OnnxModel(exported(lab), threads=1)(noise)
    assert found == pytest.approx(ours.embed(noise), abs=0.02)  # FP16 inside: 11 bits
    assert found != pytest.approx(other.embed(noise), abs=0.01)


def export_onnx_file(lab: Lab) -> None:
    assert exported(lab).exists()


def export_gpu_id(lab: Lab) -> None:
    assert lab.warnings("export.gpu_id=1") == [
        "spec: export.gpu_id has no effect: the network is exported and compared on the CPU"
    ]


def export_opset(lab: Lab) -> None:
    assert onnx.load(exported(lab)).opset_import[0].version == 20
    assert json.loads((exported(lab).parent / "parity.json").read_text())["opset"] == 20


def export_min_cosine(lab: Lab) -> None:
    model, target = lab.train().folder / LATEST, lab.folder / "m.onnx"
    with pytest.raises(ArtifactError, match=r"below a cosine of 1\.0 \(export\.min_cosine\)"):
        # float32 sums differ in the last bits
        lab.task(
            "export", "export.min_cosine=1.0", f"export.checkpoint={model}", f"export.onnx_file={target}",
            f"results_dir={lab.folder}",
        )  # fmt: skip
    assert not target.exists()


def export_data_type(lab: Lab) -> None:
    assert OnnxModel(exported(lab), threads=1).data_type == "FP16"


INSIDE = {
    "pixels.data_type": "float32",
    "pixels.layout": "NCHW",
    "pixels.channel_order": "BGR",
    "pixels.largest": 1,
    "pixels.height": 40,
    "pixels.width": 20,
    "pixels.batch": 2,
    "flip_test": True,
    "unit_length": True,
}
"""Every field of an ONNX that prepares images itself, changed."""


def export_inside(lab: Lab) -> None:
    """The file takes such pixels as the fields say, and gives what torch does with them."""
    folder, model = lab.root / "inside", lab.train().folder / LATEST
    asked = [f"export.{field}={value}" for field, value in INSIDE.items()] + ["export.min_cosine=0.5"]
    asked += [f"export.checkpoint={model}", f"export.onnx_file={folder / 'm.onnx'}", f"results_dir={folder}"]
    asked += ["export.preprocessing=inside", "export.max_mAP_drop=1", "export.max_rank1_drop=1"]
    lab.once("inside", lambda: lab.task("export", *asked))
    opened, trained = OnnxModel(folder / "m.onnx", threads=1), load_model(model)
    assert opened.pixels == PixelPort("float32", "NCHW", "BGR", 1.0, 40, 20, 2)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 20, 3), np.uint8)
    pictures = [Image.fromarray(image).resize((16, 32), Image.Resampling.BILINEAR) for image in pixels]
    images = trained.contract.preprocess(np.stack(pictures))
    both = trained.embed(images) + trained.embed(np.ascontiguousarray(images[..., ::-1]))
    expected = both / np.linalg.norm(both, axis=1, keepdims=True)
    assert opened.of_pixels(pixels) == pytest.approx(expected, abs=1e-4)


def export_parity_images(lab: Lab) -> None:
    report = json.loads((exported(lab).parent / "parity.json").read_text())
    assert report["images"] <= 20


def export_encrypted(lab: Lab) -> None:
    assert not is_encrypted(exported(lab))
    content, model = read_file(lab.train().folder / LATEST), lab.folder / "m.pth"
    lab.patch.setenv("REID_ENCRYPTION_KEY", "open sesame")
    with model.open("wb") as stream:
        write_file(content, stream)
    target = lab.folder / "m.onnx"
    lab.task(
        "export", "export.encrypted=true", f"export.checkpoint={model}", f"export.onnx_file={target}",
        f"results_dir={lab.folder}",
    )  # fmt: skip
    assert is_encrypted(target)


def _most_drop(field: str, name: str) -> Callable[[Lab], None]:
    """A runtime that mixes a batch up fails the export, unless that much is allowed."""

    def check(lab: Lab) -> None:
        run = OnnxModel.__call__
        lab.patch.setattr(OnnxModel, "__call__", lambda model, images: run(model, images)[::-1])
        asked = [
            "export.min_cosine=0", "export.max_mAP_drop=1", "export.max_rank1_drop=1", f"results_dir={lab.folder}",
            f"export.checkpoint={lab.train().folder / LATEST}", f"export.onnx_file={lab.folder / 'm.onnx'}",
        ]  # fmt: skip
        with pytest.raises(ArtifactError, match=rf"{name} lower by .* \(export\.{field}\)"):
            lab.task("export", *asked, f"export.{field}=0")
        with pytest.raises(ArtifactError) as caught:  # some cosines are below 0
            lab.task("export", *asked)
        assert field not in str(caught.value)

    return check


def export_overwrite(lab: Lab) -> None:
    target = lab.folder / "m.onnx"
    target.write_bytes(b"an earlier one")
    again = [f"export.checkpoint={lab.train().folder / LATEST}", f"export.onnx_file={target}"]
    with pytest.raises(ArtifactError) as caught:
        lab.task("export", *again, f"results_dir={lab.folder}")
    assert str(caught.value) == f"{target}: is there already; want another export.onnx_file, or export.overwrite=true"
    lab.task("export", *again, f"results_dir={lab.folder}", "export.overwrite=true")
    assert target.read_bytes() != b"an earlier one"


def export_results_dir(lab: Lab) -> None:
    assert (exported(lab).parent / "experiment.yaml").exists()


def built(lab: Lab) -> Path:
    """The folder of an engine with every field of the section changed; skipped where none can be built here."""
    if use_gpu(0) is not None:
        pytest.skip("there is a GPU here; this is about ahead-of-time builds")
    pytest.importorskip("tensorrt_rtx_bindings", reason="NO ENGINE IS BUILT: the wheels are for Linux on x86-64")
    folder = lab.root / "built"
    section = {"onnx_file": exported(lab), "trt_engine": folder / "mine.engine", "results_dir": folder}
    tensorrt = {
        "data_type": "FP16", "workspace_size": 512, "min_batch_size": 2, "opt_batch_size": 3, "max_batch_size": 5,
        "compute_capabilities": "['8.9']",
    }  # fmt: skip
    overrides = [f"gen_trt_engine.{field}={value}" for field, value in section.items()]
    overrides += [f"gen_trt_engine.tensorrt.{field}={value}" for field, value in tensorrt.items()]
    lab.once("built", lambda: lab.task("gen_trt_engine", *overrides))
    return folder


def _record(*path: str, wanted: Any) -> Callable[[Lab], None]:
    """An entry of the engine's build record."""

    def check(lab: Lab) -> None:
        found: Any = json.loads((built(lab) / "build.json").read_text())
        for key in path:
            found = found[key]
        assert found == wanted

    return check


def trt_onnx_file(lab: Lab) -> None:
    content = exported(lab).read_bytes()
    _record("onnx_sha256", wanted=hashlib.sha256(content).hexdigest())(lab)


def trt_engine(lab: Lab) -> None:
    assert read_record(built(lab) / "mine.engine").data_type == "FP16"
    assert (built(lab) / "mine.engine").read_bytes() == (built(lab) / "model.engine").read_bytes()


def trt_results_dir(lab: Lab) -> None:
    assert (built(lab) / "experiment.yaml").exists()


def _plain(lab: Lab) -> Path:
    """An ONNX of defaults."""
    target = lab.root / "plain.onnx"
    asked = [f"export.checkpoint={lab.train().folder / LATEST}", f"export.onnx_file={target}"]
    lab.once("plain onnx", lambda: lab.task("export", *asked, f"results_dir={lab.root / 'plain'}"))
    return target


def _build_again(lab: Lab, *overrides: str) -> Any:
    assert built(lab)
    again = [f"gen_trt_engine.onnx_file={_plain(lab)}", f"results_dir={lab.folder}"]
    return lab.task("gen_trt_engine", *again, *overrides)


def timing_cache(lab: Lab) -> None:
    said = lab.said(lambda: _build_again(lab, f"gen_trt_engine.timing_cache={lab.folder}/timings"))
    assert (
        f"gen_trt_engine.timing_cache: TensorRT-RTX times no kernels while it builds; {lab.folder}/timings is not used"
    ) in said


def verbose(lab: Lab) -> None:
    for value, wanted in (("false", False), ("true", True)):
        said = lab.said(lambda value=value: _build_again(lab, f"gen_trt_engine.verbose={value}"))  # type: ignore[misc]
        assert any(line.startswith("TensorRT: Opset version") for line in said) is wanted


def trt_min_cosine(lab: Lab) -> None:
    """An engine that loses half of each embedding passes only where little is wanted."""
    have_gpu(lab)
    right = EngineModel.__call__
    half = np.arange(8) % 2
    lab.patch.setattr(EngineModel, "__call__", lambda model, images: right(model, images) * half)
    asked = [f"gen_trt_engine.onnx_file={_plain(lab)}", f"results_dir={lab.folder}"]
    with pytest.raises(ArtifactError, match=r"below a cosine of 0\.999 \(gen_trt_engine\.min_cosine\)"):
        lab.task("gen_trt_engine", *asked)
    lab.task("gen_trt_engine", *asked, "gen_trt_engine.min_cosine=0.001")


def have_gpu(lab: Lab) -> None:
    """The GPU of tests/on_cpu."""
    lab.patch.setattr(gpu, "DRIVER", str(build_driver(lab.root)))
    lab.patch.setitem(sys.modules, "tensorrt", importlib.import_module("tests.on_cpu.tensorrt"))


def trt_gpu_id(lab: Lab) -> None:
    onnx_file = exported(lab)
    have_gpu(lab)
    with pytest.raises(SpecError) as caught:
        lab.task(
            "gen_trt_engine", f"gen_trt_engine.onnx_file={onnx_file}", "gen_trt_engine.gpu_id=3",
            f"results_dir={lab.folder}",
        )  # fmt: skip
    assert str(caught.value) == "gen_trt_engine.gpu_id: 3: no such GPU\n  found: 0 (a GPU of C)\n  want:  0"


def data_type(lab: Lab) -> None:
    _record("data_type", wanted="FP16")(lab)
    _build_again(lab)
    assert (built(lab) / "model.engine").stat().st_size < (lab.folder / "gen_trt_engine/model.engine").stat().st_size


def workspace_size(lab: Lab) -> None:
    _record("workspace_mib", wanted=512)(lab)
    with pytest.raises(ArtifactError, match="builds no engine with 1 MiB"):
        _build_again(lab, "gen_trt_engine.tensorrt.workspace_size=1")


def quantized(lab: Lab) -> Any:
    """parity.json of an INT8 file with the fields of export.quantization changed."""
    folder = lab.root / "quantized"
    values = {"images": 6, "float_layers": "['base.conv1.0']", "max_float_layers": 0}
    values |= {"min_cosine": 0.0, "max_mAP_drop": 1.0, "max_rank1_drop": 1.0}
    asked = [f"export.quantization.{name}={value}" for name, value in values.items()]
    asked += [f"export.checkpoint={lab.train().folder / LATEST}", f"export.results_dir={folder}"]
    lab.once("quantized", lambda: lab.task("export", "export.data_type=INT8", *asked, f"results_dir={folder}"))
    return json.loads((folder / "parity.json").read_text())


def _quantization(*path: str, wanted: Any) -> Callable[[Lab], None]:
    """An entry of the report."""

    def check(lab: Lab) -> None:
        found = quantized(lab)
        for key in path:
            found = found[key]
        assert found == wanted

    return check


def max_float_layers(lab: Lab) -> None:
    """No INT8 network gives a cosine of 1, so that as many layers are kept as is allowed, and the limit breaks."""
    asked = ["min_cosine=1.0", "images=6", "max_float_layers=1"]
    with pytest.raises(ArtifactError, match=r"export\.quantization\.min_cosine"):
        lab.task(
            "export", "export.data_type=INT8", *(f"export.quantization.{one}" for one in asked),
            f"export.checkpoint={lab.train().folder / LATEST}", f"results_dir={lab.folder}",
        )  # fmt: skip
    report = json.loads((lab.folder / "export/parity.json").read_text())
    assert len(report["quantization"]["float_layers"]) <= 1


def calibration_images(lab: Lab) -> None:
    with pytest.raises(DatasetError, match=r"cal_image_dir: 20 images in .*\n  want: 28 at least"):
        _calibrated(lab, "cal_batches=7", "cal_batch_size=4")


def cal_image_dir(lab: Lab) -> None:
    with pytest.raises(DatasetError, match=r"cal_image_dir: /nowhere: no such folder\n  want: a folder of images"):
        _calibrated(lab, "cal_image_dir=['/nowhere']")


def cal_cache_file(lab: Lab) -> None:
    assert lab.warnings(
        "gen_trt_engine.tensorrt.data_type=INT8", "gen_trt_engine.tensorrt.calibration.cal_cache_file=c.bin"
    ) == [
        "spec: gen_trt_engine.tensorrt.calibration.cal_cache_file has no effect: "
        "the scales stand in the ONNX that the engine is built from"
    ]


def calibration_min_cosine(lab: Lab) -> None:
    """An engine whose embeddings are those of no network."""
    have_gpu(lab)
    lab.patch.setattr(EngineModel, "__call__", lambda model, images: np.ones((len(images), 8), np.float32))
    with pytest.raises(ArtifactError, match=r"\(gen_trt_engine\.tensorrt\.calibration\.min_cosine\)"):
        _calibrated(lab)


def layers_precision(lab: Lab) -> None:
    with pytest.raises(SpecError, match=r"layers_precision: conv: no such layer\n  want: one of base.conv1.0, "):
        _calibrated(lab, precision="['conv:fp32']")


def _calibrated(lab: Lab, *changes: str, precision: str = "['base.conv1.0:fp32']") -> Any:
    """An INT8 engine of an FP32 ONNX, calibrated on 20 images of noise."""
    onnx_file, calibration = _plain(lab), "gen_trt_engine.tensorrt.calibration"
    if use_gpu(0) is None:
        pytest.importorskip("tensorrt_rtx_bindings", reason="NO ENGINE IS BUILT: the wheels are for Linux on x86-64")
    for number in range(20):
        write_image(lab.folder / "images" / f"{number}.png", format="PNG")
    return lab.task(
        "gen_trt_engine", f"gen_trt_engine.onnx_file={onnx_file}", f"results_dir={lab.folder}",
        f"{calibration}.cal_image_dir=['{lab.folder / 'images'}']", "gen_trt_engine.tensorrt.data_type=INT8",
        f"gen_trt_engine.tensorrt.layers_precision={precision}", *(f"{calibration}.{change}" for change in changes),
    )  # fmt: skip


DEPLOY: dict[str, Callable[[Lab], None]] = {
    "export.checkpoint": export_checkpoint,
    "export.onnx_file": export_onnx_file,
    "export.gpu_id": export_gpu_id,
    "export.opset": export_opset,
    "export.min_cosine": export_min_cosine,
    "export.data_type": export_data_type,
    "export.encrypted": export_encrypted,
    "export.preprocessing": export_inside,
    **{f"export.{field}": export_inside for field in INSIDE},
    "export.parity_images": export_parity_images,
    "export.max_mAP_drop": _most_drop("max_mAP_drop", "mAP"),
    "export.max_rank1_drop": _most_drop("max_rank1_drop", "rank1"),
    "export.overwrite": export_overwrite,
    "export.quantization.images": _quantization("quantization", "images", wanted=6),
    "export.quantization.float_layers": _quantization(
        "quantization", "float_layers", wanted=[{"layer": "base.conv1.0", "cost": None}]
    ),
    "export.quantization.max_float_layers": max_float_layers,
    "export.quantization.min_cosine": _quantization("min_cosine", wanted=0.0),
    "export.quantization.max_mAP_drop": _quantization("max_mAP_drop", wanted=1.0),
    "export.quantization.max_rank1_drop": _quantization("max_rank1_drop", wanted=1.0),
    "export.results_dir": export_results_dir,
    "gen_trt_engine.onnx_file": trt_onnx_file,
    "gen_trt_engine.trt_engine": trt_engine,
    "gen_trt_engine.timing_cache": timing_cache,
    "gen_trt_engine.gpu_id": trt_gpu_id,
    "gen_trt_engine.results_dir": trt_results_dir,
    "gen_trt_engine.min_cosine": trt_min_cosine,
    "gen_trt_engine.verbose": verbose,
    "gen_trt_engine.tensorrt.data_type": data_type,
    "gen_trt_engine.tensorrt.workspace_size": workspace_size,
    "gen_trt_engine.tensorrt.min_batch_size": _record("profile", "min_batch_size", wanted=2),
    "gen_trt_engine.tensorrt.opt_batch_size": _record("profile", "opt_batch_size", wanted=3),
    "gen_trt_engine.tensorrt.max_batch_size": _record("profile", "max_batch_size", wanted=5),
    "gen_trt_engine.tensorrt.compute_capabilities": _record("targets", wanted=["8.9"]),
    "gen_trt_engine.tensorrt.layers_precision": layers_precision,
    "gen_trt_engine.tensorrt.calibration.cal_image_dir": cal_image_dir,
    "gen_trt_engine.tensorrt.calibration.cal_cache_file": cal_cache_file,
    "gen_trt_engine.tensorrt.calibration.cal_batch_size": calibration_images,
    "gen_trt_engine.tensorrt.calibration.cal_batches": calibration_images,
    "gen_trt_engine.tensorrt.calibration.min_cosine": calibration_min_cosine,
}
