"""`reid adopt`: files of other projects, and what the tasks make of them afterwards."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reid.cli import commands as cli
from reid.cli.tasks import run_task
from reid.deploy.onnx import OnnxModel
from reid.errors import ArtifactError
from reid.model.checkpoint import load_model
from reid.spec import load_spec
from reid.spec.facts import PartOfNetwork
from reid.spec.fields import fields_with
from reid.stages.adopt import adopted_name
from tests import foreign_weights as foreign
from tests import reference_training as reference
from tests.deploy.test_onnx_adopt import as_tao
from tests.deploy.test_onnx_ports import Several, written
from tests.exporting import some_network
from tests.small_market import FOLDERS, write_market

SMALL = "{backbone: timm/test_resnet, input_width: 32, input_height: 64, feat_dim: 16}"
TAOS = "{backbone: resnet_50, input_width: 32, input_height: 64, feat_dim: 32}"


def spec_file(folder: Path, model: str) -> Path:
    """A spec of such a model on a data set of a few noise images."""
    market = write_market(folder / "market")
    names = {"train": "train", "query": "query", "gallery": "test"}
    folders = [f"  {names[split]}_dataset_dir: {market}/{place}" for split, place in FOLDERS.items()]
    file = folder / "spec.yaml"
    file.write_text("\n".join([f"results_dir: {folder}/r", f"model: {model}", "dataset:", *folders]) + "\n")
    return file


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The spec of the small network, whose weights lie beside it under TAO's names."""
    state = {f"model.{name}": tensor for name, tensor in some_network().state_dict().items()}
    torch.save({"state_dict": state, "epoch": 119}, tmp_path / "theirs.tlt")
    return spec_file(tmp_path, SMALL)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err.partition("error: ")[2]


def test_a_checkpoint_of_taos_is_refused_by_the_tasks_until_it_is_adopted(
    small: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    theirs, ours = small.parent / "theirs.tlt", small.parent / "theirs.adopted.pth"
    assert refused(capsys, "inference", "-e", small, f"inference.checkpoint={theirs}") == (
        f"{theirs}: not a checkpoint of this project: found entries ['epoch', 'state_dict']\n"
        "  want: entries state_dict and reid, as train writes them\n"
        f"  weights of TAO and others: reid adopt {theirs} -e SPEC makes such a checkpoint of them\n"
    )
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert cli.main(["adopt", str(theirs), "-e", str(small)]) == 0
    assert caplog.messages == [
        f"{theirs}: not written by this project (TAO): network and preprocessing are taken from the spec; "
        "all 81 tensors of the network matched, none is left over",
        "what its tensors do not show: last_stride 1, stem_relu on, stem_pool padded, neck_feat after, "
        "with_flip_feature off; the pooling is taken to be mean",
        "images: 32 x 64 pixels (width x height), RGB, resized bilinearly, mean [0.485, 0.456, 0.406], "
        "std [0.226, 0.226, 0.226]",
    ]
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "weights of TAO: all 81 tensors of the network matched, none is left over; a classifier of 5 persons",
        f"written: {ours}",
    ]
    assert cli.main(["inference", "-e", str(small), f"inference.checkpoint={ours}"]) == 0
    rows = json.loads((small.parent / "r" / "inference" / "inference.json").read_text())
    assert (len(rows), len(rows[0]["embedding"])) == (7, 16)
    assert load_model(ours).persons == (0, 1, 2, 3, 4)


def test_an_adopted_file_is_not_overwritten_and_may_go_elsewhere(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, elsewhere = small.parent / "theirs.tlt", small.parent / "new" / "ours.pth"
    for status in (0, 2):
        arguments = ["adopt", "-e", small, theirs, "dataset.pixel_std=[0.229,0.224,0.225]", "--output", elsewhere]
        assert cli.main([str(argument) for argument in arguments]) == status
    assert capsys.readouterr().err.endswith(
        f"error: {elsewhere}: a file is there already\n  want: another --output, or the file removed\n"
    )
    assert load_model(elsewhere).contract.std == (0.229, 0.224, 0.225)


def test_the_help_lists_the_fields_that_describe_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["adopt", "-h"])
    shown = capsys.readouterr().out
    assert "fields of the spec that adopt reads, with their defaults:" in shown
    assert [name for name in fields_with(PartOfNetwork) if f"  {name.removeprefix('model.')} = " not in shown] == []


@pytest.mark.parametrize(
    ("name", "adopted"),
    [
        ("model.tlt", "model.adopted.pth"),
        ("model.pth.tar-60", "model.pth.adopted.pth"),
        ("epoch=3-step=9.ckpt", "epoch=3-step=9.adopted.pth"),
        ("resnet50.onnx", "resnet50.adopted.onnx"),
    ],
)
def test_the_adopted_files_name_says_what_it_is(name: str, adopted: str) -> None:
    assert adopted_name(Path("models") / name) == Path("models") / adopted


def test_a_file_name_with_an_equals_sign_is_no_override(small: Path) -> None:
    theirs = (small.parent / "theirs.tlt").rename(small.parent / "epoch=3.ckpt")
    assert cli.main(["adopt", "-e", str(small), str(theirs), "train.seed=2"]) == 0
    assert (small.parent / "epoch=3.adopted.pth").exists()


def test_an_adopted_checkpoint_is_encrypted_where_there_is_a_key(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "a very secret key")
    assert cli.main(["adopt", str(small.parent / "theirs.tlt"), "-e", str(small)]) == 0
    ours = small.parent / "theirs.adopted.pth"
    assert ours.read_bytes().startswith(b"REIDENC1")
    assert load_model(ours).network.num_classes == 5
    monkeypatch.delenv("REID_ENCRYPTION_KEY")
    with pytest.raises(ArtifactError, match="encrypted, and no key is given"):
        load_model(ours)


def test_a_checkpoint_of_this_project_is_encrypted_as_it_is(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["adopt", str(small.parent / "theirs.tlt"), "-e", str(small)]) == 0
    plain, hidden = small.parent / "theirs.adopted.pth", small.parent / "hidden.pth"
    before = load_model(plain).network.state_dict()
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "a very secret key")
    with pytest.raises(ArtifactError, match="reid adopt -e SPEC FILE encrypts it"):
        load_model(plain)
    assert cli.main(["adopt", str(plain), "-e", str(small), "--output", str(hidden)]) == 0
    assert hidden.read_bytes().startswith(b"REIDENC1")
    torch.testing.assert_close(load_model(hidden).network.state_dict(), before, rtol=0, atol=0)


def test_fast_reids_checkpoint_needs_a_word_on_the_stem_and_its_own_normalisation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_file(tmp_path, "{backbone: resnet_18, feat_dim: null, input_width: 32, input_height: 64}")
    pixels = {"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375]}
    state = {name: torch.tensor(values).view(1, 3, 1, 1) for name, values in pixels.items()}
    theirs = tmp_path / "market_bot_R18.pth"
    torch.save({"model": foreign.fast_reid(persons=7) | state}, theirs)
    assert refused(capsys, "adopt", theirs, "-e", spec) == (
        f"{theirs}: weights of fast-reid, whose versions pool differently in the stem; the file does not show how\n"
        "  want: model.stem_pool=ceil, if its modeling/backbones/resnet.py has MaxPool2d with ceil_mode=True, "
        "else padded\n"
    )
    assert refused(capsys, "adopt", theirs, "-e", spec, "model.stem_pool=ceil") == (
        f"{theirs}: its weights are for another dataset.pixel_std\n"
        "  found: [0.226, 0.226, 0.226] in the spec\n"
        "  want:  dataset.pixel_std=[0.229, 0.224, 0.225]\n"
    )
    own = ["model.stem_pool=ceil", "dataset.pixel_std=[0.229,0.224,0.225]"]
    assert cli.main(["adopt", str(theirs), "-e", str(spec), *own]) == 0
    assert load_model(tmp_path / "market_bot_R18.adopted.pth").settings["stem_pool"] == "ceil"


def test_an_onnx_of_taos_is_adopted_for_every_task_that_takes_one(
    small: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    theirs, ours = as_tao(small.parent / "tao.onnx", some_network()), small.parent / "tao.adopted.onnx"
    assert refused(capsys, "inference", "-e", small, f"inference.checkpoint={theirs}") == (
        f"{theirs}: no preprocessing contract in the metadata (found: no metadata)\n"
        "  want: 'reid.contract', which `reid export` writes\n"
        f"  an ONNX of TAO and others: reid adopt {theirs} -e SPEC writes one into a copy of it\n"
    )
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert cli.main(["adopt", str(theirs), "-e", str(small)]) == 0
    assert caplog.messages == [
        "tao.onnx: input input (batch, channels, height, width) in float32, output fc_pred, an open batch",
        f"{theirs}: not written by this project (ONNX): network and preprocessing are taken from the spec; "
        "its input and output fit, and it ran on noise",
        "images: 32 x 64 pixels (width x height), RGB, resized bilinearly, mean [0.485, 0.456, 0.406], "
        "std [0.226, 0.226, 0.226]",
    ]
    assert OnnxModel(ours).contract.mean == (0.485, 0.456, 0.406)
    spec = load_spec(small, overrides=[f"inference.checkpoint={ours}", f"gen_trt_engine.onnx_file={ours}"])
    assert run_task("inference", spec).metrics["embedding_width"] == 16
    assert run_task("gen_trt_engine", spec).parameters["built"] in ("true", "false")
    assert cli.main(["triton", "--model", str(ours), "--output", str(small.parent / "models")]) == 0
    config = (small.parent / "models" / "re_identification_tao" / "config.pbtxt").read_text()
    assert "dims: [ 3, 64, 32 ]" in config


def test_an_onnx_from_the_wild_is_evaluated_and_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """As BoxMOT exports an OSNet of torchreid: ports of its own, a batch of one; the spec does not know its network."""
    spec_path = spec_file(tmp_path, "{input_width: 32, input_height: 64}")
    theirs, ours = written(tmp_path / "osnet.onnx", Several(), outputs=("logits", "features")), tmp_path / "o.onnx"
    adopting = ["adopt", str(theirs), "-e", str(spec_path), "--output", str(ours)]
    assert refused(capsys, *adopting) == (
        f"{theirs}: 2 outputs: logits (1, 5), features (1, 16, 1, 1)\n"
        "  want: --embedding NAME, one of logits, features\n"
    )
    own = ["dataset.pixel_mean=[0.5,0.5,0.5]", "dataset.pixel_std=[0.5,0.5,0.5]"]
    with caplog.at_level(logging.INFO):
        assert cli.main([*adopting, "--embedding", "features", *own]) == 0
    assert caplog.messages[0] == (
        "osnet.onnx: input images (batch, channels, height, width) in float32, output features, a batch of 1, opened"
    )
    assert caplog.messages[1] == (
        "osnet.onnx: renamed, as TAO's Triton clients ask for them: input images is input, output features is fc_pred; "
        "left out: logits"
    )
    contract = OnnxModel(ours).contract
    assert (contract.embedding, contract.mean, contract.std) == (16, (0.5,) * 3, (0.5,) * 3)
    asked = [f"evaluate.checkpoint={ours}", f"inference.checkpoint={ours}", f"gen_trt_engine.onnx_file={ours}"]
    spec = load_spec(spec_path, overrides=asked)
    assert 0 < run_task("evaluate", spec).metrics["mAP"] <= 1
    assert run_task("inference", spec).metrics["embedding_width"] == 16
    assert run_task("gen_trt_engine", spec).parameters["built"] in ("true", "false")
    assert cli.main(["triton", "--model", str(ours), "--output", str(tmp_path / "models")]) == 0
    config = (tmp_path / "models" / "re_identification_tao" / "config.pbtxt").read_text()
    assert "dims: [ 16 ]" in config


def test_a_name_of_an_output_is_of_no_use_for_a_checkpoint(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = small.parent / "theirs.tlt"
    assert refused(capsys, "adopt", theirs, "-e", small, "--embedding", "x") == (
        f"--embedding x: {theirs} is a checkpoint\n  want: an .onnx, whose outputs have names\n"
    )


def test_an_adopted_onnx_is_encrypted_where_the_spec_says_so(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "a very secret key")
    theirs = as_tao(small.parent / "tao.onnx", some_network())
    assert cli.main(["adopt", str(theirs), "-e", str(small), "export.encrypted=true"]) == 0
    assert (small.parent / "tao.adopted.onnx").read_bytes().startswith(b"REIDENC1")
    assert OnnxModel(small.parent / "tao.adopted.onnx").contract.embedding == 16


@pytest.mark.slow
def test_taos_resnet_50_goes_through_evaluate_inference_and_export(tmp_path: Path) -> None:
    state, spec_path = foreign.tao(width=32, persons=7), spec_file(tmp_path, TAOS)
    torch.save({"state_dict": state}, tmp_path / "theirs.tlt")
    assert cli.main(["adopt", str(tmp_path / "theirs.tlt"), "-e", str(spec_path)]) == 0
    ours = tmp_path / "theirs.adopted.pth"
    tasks = ("evaluate", "inference", "export")
    spec = load_spec(spec_path, overrides=[f"{task}.checkpoint={ours}" for task in tasks])
    outcomes: dict[str, Any] = {task: run_task(task, spec) for task in tasks}
    assert 0 < outcomes["evaluate"].metrics["mAP"] <= 1
    assert outcomes["export"].metrics["parity_worst_cosine"] > 0.9999
    rows = json.loads((tmp_path / "r" / "inference" / "inference.json").read_text())
    pixels = reference_pixels([Path(row["img_path"]) for row in rows])
    expected = reference.tao_resnet_embedding(pixels, state, stage_depths=foreign.RESNET_50, last_stride=1).numpy()
    found = np.array([row["embedding"] for row in rows])
    # fifty layers of float32, summed in another order
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    exported = OnnxModel(tmp_path / "r" / "export" / "theirs.adopted.onnx")(pixels.numpy())
    np.testing.assert_allclose(exported, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def reference_pixels(files: list[Path]) -> torch.Tensor:
    """Images of the network's own size as TAO prepares them: (N, 3, H, W)."""
    from PIL import Image

    pixels = torch.stack([torch.from_numpy(np.array(Image.open(file).convert("RGB"))) for file in files])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.226] * 3)
    return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
