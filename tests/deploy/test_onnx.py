import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import reid
from reid.contract import Contract
from reid.deploy.onnx import OnnxModel, data_type_of, read_onnx
from reid.deploy.onnx_export import export_onnx
from reid.deploy.parity import parity
from reid.errors import ArtifactError, SpecError
from reid.model.embedder import build_embedder
from tests.exporting import MeanColour, contract_of, exported, images
from tests.networks import network_settings

COSINE = 0.999999  # both sum in float32, in another order


def agrees(path: Path, network: nn.Module, count: int, channels: int = 3) -> bool:
    with torch.no_grad():
        expected = network(images(count, channels)).numpy()
    found = OnnxModel(path, threads=1)(images(count, channels).numpy())
    return parity(expected, found).worst_cosine > COSINE


def test_only_the_batch_is_dynamic_and_the_ports_have_tao_names(plain):
    graph = onnx.load(plain[0]).graph
    ports = [
        (port.name, [axis.dim_param or axis.dim_value for axis in port.type.tensor_type.shape.dim])
        for port in (*graph.input, *graph.output)
    ]
    assert ports == [("input", ["batch", 3, 64, 32]), ("fc_pred", ["batch", 16])]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_batches_of_every_size_give_the_embeddings_of_torch(plain, count):
    assert agrees(plain[0], plain[1], count)


def test_the_flip_test_is_inside_the_file(flipped):
    path, network, contract = flipped
    assert agrees(path, network, 3)
    mirrored = images(3).flip(3).numpy()
    model = OnnxModel(path, threads=1)
    assert contract.flip
    assert model(mirrored) == pytest.approx(model(images(3).numpy()), abs=1e-4)  # float32 sums in another order


@pytest.mark.slow
def test_a_grey_network_is_exported_with_one_channel(tmp_path):
    path, network, _ = exported(tmp_path / "grey.onnx", input_channels=1)
    assert agrees(path, network, 2, channels=1)


@pytest.mark.slow
@pytest.mark.parametrize("semantic_weight", [1.0, -1.0])
def test_a_swin_transformer_is_exported_with_a_dynamic_batch_and_gives_torchs_embeddings(tmp_path, semantic_weight):
    settings = network_settings(
        backbone="swin_tiny_patch4_window7_224",
        height=96,  # 24 x 12 patches: the maps of the stages are no whole windows, so padding and shifts are inside
        width=48,
        reduce_feat_dim=True,
        semantic_weight=semantic_weight,
    )
    torch.manual_seed(0)
    network, contract = build_embedder(**settings).eval(), contract_of(settings)
    files = {}
    for data_type in ("FP32", "FP16"):
        files[data_type] = tmp_path / f"{data_type}.onnx"
        export_onnx(
            network, files[data_type], contract=contract, settings=settings, opset=18, overwrite=False,
            data_type=data_type,
        )  # fmt: skip
    for count in (1, 2, 5):
        pixels = torch.randn(count, 3, 96, 48, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            expected = network(pixels).numpy()
        for data_type, least in (("FP32", COSINE), ("FP16", 0.9999)):  # 11 bits a coordinate
            assert parity(expected, OnnxModel(files[data_type])(pixels.numpy())).worst_cosine > least


def test_an_fp16_file_is_half_as_large_and_says_what_it_is(plain, tmp_path):
    path, network, contract = tmp_path / "half.onnx", plain[1], plain[2]
    export_onnx(
        network, path, contract=contract, settings=network.settings, opset=18, overwrite=False, data_type="FP16"
    )
    assert path.stat().st_size < 0.6 * plain[0].stat().st_size
    assert (OnnxModel(path, threads=1).data_type, OnnxModel(plain[0], threads=1).data_type) == ("FP16", "FP32")
    assert data_type_of(read_onnx(path)[0]) == "FP16"
    assert OnnxModel(path, threads=1).contract == contract


def test_the_file_says_how_to_prepare_its_input_and_where_it_comes_from(plain):
    path, _, contract = plain
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert Contract.from_json(metadata["reid.contract"]) == contract
    assert json.loads(metadata["reid.settings"]) == network_settings()
    assert (metadata["reid.opset"], metadata["reid.data_type"]) == ("18", "FP32")
    assert metadata["reid.version"] == reid.__version__
    assert set(metadata) == {"reid.contract", "reid.data_type", "reid.opset", "reid.settings", "reid.version"}
    assert OnnxModel(path, threads=1).contract == contract
    assert read_onnx(path)[1] == contract


def test_the_file_is_alone_and_tells_nothing_of_the_machine(plain):
    path = plain[0]
    assert [entry.name for entry in path.parent.iterdir()] == ["reid_model.onnx"]
    content = path.read_bytes()
    assert str(Path(reid.__file__).parents[1]).encode() not in content
    assert b"site-packages" not in content


@pytest.mark.slow
def test_the_same_weights_give_the_same_bytes_in_another_process(plain, tmp_path):
    program = "import sys, pathlib; from tests.exporting import exported; exported(pathlib.Path(sys.argv[1]))"
    root = Path(reid.__file__).parents[1]
    subprocess.run([sys.executable, "-c", program, tmp_path / "again.onnx"], cwd=root, check=True)
    assert (tmp_path / "again.onnx").read_bytes() == plain[0].read_bytes()


def test_exporting_is_quiet(tmp_path, capfd, caplog, recwarn):
    contract = contract_of(network_settings())
    with caplog.at_level(logging.INFO):
        export_onnx(MeanColour(), tmp_path / "m.onnx", contract=contract, settings={}, opset=18, overwrite=False)
    assert capfd.readouterr() == ("", "")
    assert [record.getMessage() for record in caplog.records] == []
    assert [str(warning.message) for warning in recwarn] == []


def test_an_existing_file_is_replaced_only_when_told(tmp_path):
    network, contract, path = MeanColour(), contract_of(network_settings()), tmp_path / "mine.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(ArtifactError) as caught:
        export_onnx(network, path, contract=contract, settings={}, opset=18, overwrite=False)
    assert str(caught.value) == (
        f"{path}: a file is there already\n  want: another export.onnx_file, or export.overwrite=true to replace it"
    )
    assert path.read_bytes() == b"mine"
    export_onnx(network, path, contract=contract, settings={}, opset=18, overwrite=True)
    assert read_onnx(path)[1] == contract


def test_a_network_of_another_width_than_its_contract_is_not_written(tmp_path):
    path, wrong = tmp_path / "wrong.onnx", contract_of(network_settings(), embedding=17)
    with pytest.raises(ArtifactError) as caught:
        export_onnx(MeanColour(), path, contract=wrong, settings={}, opset=18, overwrite=False)
    assert str(caught.value) == (
        f"{path}: the exported network: inputs and outputs are input (batch, 3, 64, 32), fc_pred (batch, 16)\n"
        "  want: input (batch, 3, 64, 32), fc_pred (batch, 17), as its contract says"
    )
    assert not path.exists()


class OnlyTwo(nn.Module):
    """Takes batches of two and no other."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.reshape(2, -1)[:, :16]


def test_a_network_that_fixes_the_batch_is_not_written(tmp_path):
    path, contract = tmp_path / "two.onnx", contract_of(network_settings())
    with pytest.raises(ArtifactError) as caught:
        export_onnx(OnlyTwo(), path, contract=contract, settings={}, opset=18, overwrite=False)
    assert str(caught.value) == (
        f"{path}: the exported network: inputs and outputs are input (batch, 3, 64, 32), fc_pred (2, 16)\n"
        "  want: input (batch, 3, 64, 32), fc_pred (batch, 16), as its contract says"
    )
    assert list(tmp_path.iterdir()) == []


class Undecided(nn.Module):
    """Another computation for bright images than for dark ones, which no graph can hold."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, 0, 0, :16] if pixels.sum() > 0 else pixels[:, 1, 0, :16]


def test_a_network_that_torch_cannot_translate_is_an_error(tmp_path):
    path, contract = tmp_path / "none.onnx", contract_of(network_settings())
    with pytest.raises(ArtifactError) as caught:
        export_onnx(Undecided(), path, contract=contract, settings={}, opset=18, overwrite=False)
    assert str(caught.value) == (
        "ONNX export: torch cannot translate the network (GuardOnDataDependentSymNode: "
        "Could not guard on data-dependent expression Eq(u0, 1) (unhinted: Eq(u0, 1)).  (Size-like symbols: none))"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", [17, 99])
def test_an_opset_that_torch_cannot_write_is_an_error_and_not_another_opset(opset, tmp_path):
    contract = contract_of(network_settings())
    with pytest.raises(SpecError) as caught:
        export_onnx(MeanColour(), tmp_path / "m", contract=contract, settings={}, opset=opset, overwrite=False)
    assert str(caught.value) == (
        f"export.opset: {opset}: torch {torch.__version__} cannot write it; want 18 or near it"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read", [OnnxModel, read_onnx])
def test_a_missing_file_is_named(read, tmp_path):
    with pytest.raises(ArtifactError) as caught:
        read(tmp_path / "none.onnx")
    assert str(caught.value) == f"{tmp_path / 'none.onnx'}: no such ONNX file"


@pytest.mark.parametrize("read", [OnnxModel, read_onnx])
@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda _: b"\x08not ONNX"])
def test_a_damaged_file_is_said_to_be_damaged(read, damage, plain, tmp_path):
    path = tmp_path / "damaged.onnx"
    path.write_bytes(damage(plain[0].read_bytes()))
    with pytest.raises(ArtifactError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: damaged, or no ONNX file (")


@pytest.mark.parametrize("read", [OnnxModel, read_onnx])
def test_a_file_without_contract_is_refused(read, plain, tmp_path):
    model, path = onnx.load(plain[0]), tmp_path / "foreign.onnx"
    del model.metadata_props[:]
    model.metadata_props.add(key="author", value="another")
    onnx.save(model, path)
    with pytest.raises(ArtifactError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}: no preprocessing contract in the metadata (found: ['author'])\n"
        "  want: 'reid.contract', which `reid export` writes\n"
        f"  an ONNX of TAO and others: reid adopt {path} -e SPEC writes one into a copy of it"
    )


@pytest.mark.parametrize("read", [OnnxModel, read_onnx])
def test_a_contract_that_contradicts_the_ports_is_refused(read, plain, tmp_path):
    model, path = onnx.load(plain[0]), tmp_path / "other.onnx"
    for entry in model.metadata_props:
        if entry.key == "reid.contract":
            entry.value = contract_of(network_settings(), height=128).to_json()
    onnx.save(model, path)
    with pytest.raises(ArtifactError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}: inputs and outputs are input (batch, 3, 64, 32), fc_pred (batch, 16)\n"
        "  want: input (batch, 3, 128, 32), fc_pred (batch, 16), as its contract says"
    )


def test_images_of_another_size_are_refused_and_no_images_give_no_embeddings(plain):
    model = OnnxModel(plain[0], threads=1)
    with pytest.raises(ArtifactError) as caught:
        model(np.zeros((2, 3, 32, 64), np.float32))
    assert str(caught.value) == "ONNX model: images of shape (2, 3, 32, 64)\n  want: (batch, 3, 64, 32)"
    assert model(np.zeros((0, 3, 64, 32), np.float32)).shape == (0, 16)


@pytest.mark.parametrize(
    ("missing", "call", "text"),
    [
        (
            "onnx",
            "read_onnx(here)",
            "ONNX: hidden; onnx comes with pip install -e '.[export]' in the repository's root",
        ),
        (
            "onnxruntime",
            "OnnxModel(here)",
            "running ONNX: hidden; onnxruntime comes with pip install -e '.[export]' in the repository's root",
        ),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_has_it(missing, call, text, tmp_path):
    (tmp_path / f"{missing}.py").write_text("raise ImportError('hidden')\n")
    program = (
        "from pathlib import Path; from reid.deploy.onnx import *; from reid.errors import MissingDependency\n"
        f"here = Path({str(tmp_path)!r})\ntry: {call}\nexcept MissingDependency as error: print(error)"
    )
    root = Path(reid.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == text
