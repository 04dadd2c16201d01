"""ONNX files of another exporter: those that fit become ours, the others are refused with what differs."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from reid.deploy.half import to_half
from reid.deploy.onnx import OnnxModel, data_type_of, read_onnx
from reid.deploy.onnx_adopt import adopt_onnx
from reid.errors import ArtifactError
from reid.model.embedder import Embedder
from tests.exporting import contract_of, images, some_network

CONTRACT = contract_of(some_network().settings)


def as_tao(path: Path, network: nn.Module, *, output: str = "fc_pred", batch: bool = True) -> Path:
    """Exported as TAO does it: by the old exporter, the output's width left open, and no metadata."""
    axes = {"input": {0: "batch_size"}, output: {0: "batch_size", 1: "width"}} if batch else {}
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the exporter is the old one
        torch.onnx.export(
            network, (images(1),), content, dynamo=False, opset_version=12,
            input_names=["input"], output_names=[output], dynamic_axes=axes,
        )  # fmt: skip
    path.write_bytes(content.getvalue())
    return path


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Embedder]:
    """Of a small network, which comes with it."""
    network = some_network()
    return as_tao(tmp_path_factory.mktemp("tao") / "model.onnx", network), network


def refusal(path: Path, **changes: Any) -> str:
    with pytest.raises(ArtifactError) as caught:
        adopt_onnx(path, contract_of(some_network().settings, **changes))
    return str(caught.value)


def test_taos_file_is_read_with_its_contract_and_embeds_as_before(
    foreign: tuple[Path, Embedder], tmp_path: Path
) -> None:
    path, network = foreign
    with pytest.raises(ArtifactError, match="no preprocessing contract in the metadata"):
        read_onnx(path)
    content, contract, _ = adopt_onnx(path, CONTRACT)
    assert contract == CONTRACT
    ours = tmp_path / "ours.onnx"
    ours.write_bytes(content)
    model, found = read_onnx(ours)
    assert (found, data_type_of(model)) == (CONTRACT, "FP32")
    for count in (1, 3):
        with torch.no_grad():
            expected = network(images(count)).numpy()
        # float32 sums in another order
        np.testing.assert_allclose(OnnxModel(ours)(images(count).numpy()), expected, rtol=1e-3, atol=1e-4)
    assert to_half(model).graph.output[0].name == "fc_pred"  # as gen_trt_engine does it for FP16


def test_a_file_of_half_precision_says_so(foreign: tuple[Path, Embedder], tmp_path: Path) -> None:
    model = onnx.load(foreign[0])
    onnx.save(to_half(model), tmp_path / "half.onnx")
    content, *_ = adopt_onnx(tmp_path / "half.onnx", CONTRACT)
    assert data_type_of(onnx.load_model_from_string(content)) == "FP16"


class Unit(nn.Module):
    """Another network's output at length 1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.network(pixels))


def test_a_network_whose_output_has_length_1_says_so(tmp_path: Path) -> None:
    _, contract, _ = adopt_onnx(as_tao(tmp_path / "m.onnx", Unit(some_network())), CONTRACT)
    assert contract.normalized


def test_weights_in_a_file_beside_it_come_along(foreign: tuple[Path, Embedder], tmp_path: Path) -> None:
    onnx.save(
        onnx.load(foreign[0]), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    outside, inside = (adopt_onnx(path, CONTRACT)[0] for path in (tmp_path / "m.onnx", foreign[0]))
    pixels = images(2).numpy()
    np.testing.assert_array_equal(OnnxModel(content=outside)(pixels), OnnxModel(content=inside)(pixels))


def test_another_size_than_the_specs_is_refused(foreign: tuple[Path, Embedder]) -> None:
    assert refusal(foreign[0], height=128) == (
        f"{foreign[0]}: inputs and outputs are input (batch_size, 3, 64, 32), fc_pred (batch_size, width); "
        "the input is float\n"
        "  want: input (batch, 3, 128, 32) or input (batch, 128, 32, 3), float or float16\n"
        "  as the spec says in model.input_channels, input_height and input_width"
    )


def test_another_width_than_the_specs_is_refused_and_a_width_that_it_does_not_say_is_the_files(
    foreign: tuple[Path, Embedder],
) -> None:
    assert refusal(foreign[0], embedding=24) == (
        f"{foreign[0]}: its embeddings are 16 wide\n  want: 24, or model.feat_dim=16 in the spec"
    )
    said = contract_of(some_network().settings, embedding=1)
    assert adopt_onnx(foreign[0], said, any_width=True)[1] == CONTRACT


@pytest.mark.parametrize(
    ("flips", "message"),
    [
        (True, "gives an image and its mirror image the same embedding\n  want: model.with_flip_feature=true"),
        (
            False,
            "does not give an image and its mirror image the same embedding\n  want: model.with_flip_feature=false",
        ),
    ],
)
def test_the_flip_test_is_in_the_file_or_not_as_the_spec_says(tmp_path: Path, flips: bool, message: str) -> None:
    path = as_tao(tmp_path / "m.onnx", some_network(with_flip_feature=flips))
    assert refusal(path, flip=not flips) == f"{path}: {message}"
    assert adopt_onnx(path, contract_of(some_network().settings, flip=flips))[1].flip is flips


class OverTheBatch(nn.Module):
    """A network that was exported in training mode: it normalises over the batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.network(pixels)
        return features - features.mean(dim=0, keepdim=True)


def test_a_network_whose_embedding_depends_on_the_batch_is_refused(tmp_path: Path) -> None:
    path = as_tao(tmp_path / "m.onnx", OverTheBatch(some_network()))
    assert refusal(path) == (
        f"{path}: an image's embedding in a batch of 3 is not its embedding alone\n"
        "  want: a network in evaluation mode, exported with a dynamic batch"
    )


class OnlyOne(nn.Module):
    """Written for a batch of one inside, whatever its axes are said to be."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network(pixels.reshape(1, 3, 64, 32)) + 0 * pixels[:, 0, 0, :1]


def test_a_network_whose_open_axis_is_of_one_image_inside_is_opened(tmp_path: Path) -> None:
    network = OnlyOne(some_network())
    content, _, ports = adopt_onnx(as_tao(tmp_path / "m.onnx", network), CONTRACT)
    assert ports.batch == 1
    with torch.no_grad():
        expected = network.network.eval()(images(3)).numpy()
    np.testing.assert_allclose(OnnxModel(content=content)(images(3).numpy()), expected, rtol=1e-3, atol=1e-4)


class Crossed(nn.Module):
    """Of one image inside, and its channels and images are confused if there are more."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.network(pixels.reshape(1, 3, 64, 32))
        return features.reshape(16, 1).transpose(0, 1)


def test_a_network_that_takes_one_image_only_is_refused(tmp_path: Path) -> None:
    path = as_tao(tmp_path / "m.onnx", Crossed(some_network()), batch=False)
    assert refusal(path).startswith(f"{path}: made for a batch of 1, which cannot be opened (")
    assert refusal(path).endswith("  want: the network exported with a dynamic batch")


def test_what_is_missing_damaged_or_ours_is_an_error(foreign: tuple[Path, Embedder], tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.onnx") == f"{tmp_path}/none.onnx: no such ONNX file"
    damaged, ours = tmp_path / "damaged.onnx", tmp_path / "ours.onnx"
    damaged.write_bytes(b"\x08not ONNX")
    assert refusal(damaged).startswith(f"{damaged}: damaged, or no ONNX file (")
    ours.write_bytes(adopt_onnx(foreign[0], CONTRACT)[0])
    assert refusal(ours) == (
        f"{ours}: has a preprocessing contract already\n  want: nothing; every task takes it as it is"
    )
