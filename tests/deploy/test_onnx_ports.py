"""ONNX files as BoxMOT, torchreid and others export them get this project's input and output."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from reid.deploy.onnx import OnnxModel, data_type_of, ports_of, read_onnx
from reid.deploy.onnx_adopt import adopt_onnx
from reid.deploy.onnx_ports import ForeignPorts
from reid.errors import ArtifactError
from tests.exporting import contract_of, images, some_network
from tests.networks import network_settings

CONTRACT = contract_of(network_settings())


class Colours(nn.Module):
    """Images (B, 3, 64, 32) -> (B, 16): strips' mean colours, reshaped as a network does it, and mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.mixtures = nn.Parameter(torch.sin(torch.arange(24.0 * 16)).reshape(24, 16))

    def forward(self, pixels: Tensor) -> Tensor:
        strips = pixels.reshape(pixels.shape[0], 3, 8, 8, 4, 8).mean(dim=(3, 5))  # eight high, four wide
        weighed = strips * torch.arange(1.0, 5)
        joined = weighed.sum(dim=3).permute(0, 2, 1)
        mixed: Tensor = joined.reshape(joined.size(0), -1).sin() @ self.mixtures
        return mixed


class ChannelsLast(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return Colours()(pixels.permute(0, 3, 1, 2))  # type: ignore[no-any-return]


class WithToken(nn.Module):
    """A class token is repeated for each image and set before the strips, as a ViT does it."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.cos(torch.arange(16.0)).reshape(1, 1, 16))

    def forward(self, pixels: Tensor) -> Tensor:
        strips = Colours()(pixels).reshape(-1, 1, 16)
        tokens = torch.cat([self.token.expand(pixels.shape[0], -1, -1), strips], dim=1)
        attended: Tensor = torch.softmax(tokens @ tokens.transpose(1, 2), dim=2) @ tokens
        return attended[:, 0]


class Several(nn.Module):
    """Its second output is the embedding, as a map of one pixel."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        vectors = Colours()(pixels)
        return vectors[:, :5] * 2, vectors[:, :, None, None]


def written(
    path: Path,
    network: nn.Module,
    *,
    batch: int = 1,
    names: tuple[str, str] = ("images", "output"),
    outputs: tuple[str, ...] = (),
    opens: dict[int, str] | None = None,
    last: bool = False,
    opset: int = 12,
) -> Path:
    """Exported as BoxMOT and torchreid do it: its names, by the old exporter, with these axes open."""
    example, content = images(batch), io.BytesIO()
    outputs = outputs or (names[1],)
    axes = {names[0]: opens, **{name: {0: "batch"} for name in outputs}} if opens else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (example.permute(0, 2, 3, 1) if last else example,), content, dynamo=False,
            opset_version=opset, input_names=[names[0]], output_names=list(outputs), dynamic_axes=axes,
        )  # fmt: skip
    path.write_bytes(content.getvalue())
    return path


def adopted(path: Path, **options: Any) -> tuple[OnnxModel, ForeignPorts]:
    """The file as the tasks open it; what gen_trt_engine and Triton read has our ports."""
    content, contract, ports = adopt_onnx(path, CONTRACT, **options)
    ours = path.with_name("ours.onnx")
    ours.write_bytes(content)
    model, _ = read_onnx(ours)
    assert ports_of(model) == [("input", ["batch", 3, 64, 32]), ("fc_pred", ["batch", 16])]
    assert contract.embedding == 16
    return OnnxModel(ours), ports


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ArtifactError) as caught:
        adopt_onnx(path, CONTRACT, **options)
    return str(caught.value)


def assert_embeds(model: OnnxModel, network: nn.Module, *, within: float = 1e-4) -> None:
    for count in (1, 2, 5, 17):
        with torch.no_grad():
            expected = network(images(count)).numpy()
        assert np.abs(model(images(count).numpy()) - expected).max() <= within * np.abs(expected).max()


@pytest.mark.parametrize("network", [Colours(), WithToken()])
@pytest.mark.parametrize("batch", [1, 16])
def test_a_fixed_batch_is_opened(tmp_path: Path, network: nn.Module, batch: int) -> None:
    path = written(tmp_path / "osnet.onnx", network, batch=batch)
    model, ports = adopted(path)
    assert_embeds(model, network)
    opened = f"a batch of {batch}, opened"
    assert ports.in_words() == (f"input images (batch, channels, height, width) in float32, output output, {opened}")


def test_a_fixed_batch_of_torchs_newer_exporter_is_opened_too(tmp_path: Path) -> None:
    model = onnx.load(written(tmp_path / "m.onnx", Colours(), opset=14))
    for node in model.graph.node:
        if node.op_type == "Reshape":  # it marks them so, and a 0 would be no images then
            node.ClearField("attribute")
            node.attribute.append(helper.make_attribute("allowzero", 1))
    onnx.save(model, tmp_path / "m.onnx")
    assert_embeds(adopted(tmp_path / "m.onnx")[0], Colours())


def test_a_convolutional_network_of_a_fixed_batch_is_opened(tmp_path: Path) -> None:
    network = some_network()
    assert_embeds(adopted(written(tmp_path / "m.onnx", network))[0], network, within=1e-3)


@pytest.mark.parametrize(
    "names", [("images", "output"), ("input", "x"), ("fc_pred", "input"), ("data", "fc_pred__theirs")]
)
def test_any_names_and_open_axes_are_taken(tmp_path: Path, names: tuple[str, str]) -> None:
    opens = {0: "batch", 2: "height", 3: "width"} if names[0] == "images" else {0: "batch"}
    model, ports = adopted(written(tmp_path / "m.onnx", Colours(), names=names, opens=opens))
    assert (ports.input, ports.output, ports.batch) == (*names, 0)
    assert_embeds(model, Colours())


def test_an_inner_tensor_of_our_name_is_no_obstacle(tmp_path: Path) -> None:
    model = onnx.load(written(tmp_path / "m.onnx", Colours(), opens={0: "batch"}))
    inner = model.graph.node[-2].output[0]
    for node in model.graph.node:
        node.input[:] = ["fc_pred" if name == inner else name for name in node.input]
        node.output[:] = ["fc_pred" if name == inner else name for name in node.output]
    onnx.save(model, tmp_path / "m.onnx")
    assert_embeds(adopted(tmp_path / "m.onnx")[0], Colours())


def test_channels_last_is_seen_in_the_axes_and_said(tmp_path: Path) -> None:
    model, ports = adopted(written(tmp_path / "m.onnx", ChannelsLast(), last=True))
    assert ports.in_words().startswith("input images (batch, height, width, channels) in float32, ")
    assert_embeds(model, Colours())


def test_a_file_in_half_precision_takes_float32_from_now_on(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = onnx.load(written(path, Colours(), opens={0: "batch"}))
    half = TensorProto.FLOAT16
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.elem_type = half
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float16)))
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = half
    del model.graph.value_info[:]
    onnx.save(model, path)
    opened, ports = adopted(path)
    assert ports.in_words() == (
        "input images (batch, channels, height, width) in float16, output output, an open batch"
    )
    assert data_type_of(onnx.load(tmp_path / "ours.onnx")) == "FP16"
    assert_embeds(opened, Colours(), within=0.02)  # float16 has 11 bits


def test_of_several_outputs_one_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", Several(), outputs=("logits", "features"), opens={0: "batch"})
    found = "logits (batch, 5), features (batch, 16, 1, 1)"
    want = "  want: --embedding NAME, one of logits, features"
    assert refusal(path) == f"{path}: 2 outputs: {found}\n{want}"
    assert refusal(path, output="feats") == f"{path}: 2 outputs: {found}, and none is 'feats'\n{want}"
    assert refusal(path, output="logits") == (
        f"{path}: its embeddings are 5 wide\n  want: 16, or model.feat_dim=5 in the spec"
    )
    assert_embeds(adopted(path, output="features")[0], Colours())


def graph(path: Path, nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any]) -> Path:
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    onnx.save(model, path)
    return path


def port(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def test_several_inputs_bytes_and_maps_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    pictures, embedding = port("images", "batch", 3, 64, 32), port("output", "batch", 3, 64, 32)
    graph(path, [helper.make_node("Add", ["images", "camera"], ["output"])],
          [pictures, port("camera", "batch", 3, 64, 32)], [embedding])  # fmt: skip
    assert refusal(path) == f"{path}: 2 inputs: images, camera\n  want: one, the images"
    graph(path, [helper.make_node("Relu", ["images"], ["output"])], [pictures], [embedding])
    assert refusal(path) == (
        f"{path}: output output of 3 images has the shape (3, 3, 64, 32)\n"
        "  want: (3, width), one embedding for each image"
    )
    as_bytes = port("images", "batch", 3, 64, 32, kind=TensorProto.UINT8)
    cast = helper.make_node("Cast", ["images"], ["output"], to=TensorProto.FLOAT)
    graph(path, [cast], [as_bytes], [embedding])
    assert refusal(path).splitlines()[0].endswith("; the input is uint8")


class MixesTheBatch(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        vectors: Tensor = Colours()(pixels)
        return vectors + vectors.reshape(-1, 4).mean(dim=0).repeat(4)


def test_a_fixed_batch_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", MixesTheBatch())
    first, second = refusal(path).splitlines()
    assert first.startswith(f"{path}: made for a batch of 1, which cannot be opened (")
    assert second == "  want: the network exported with a dynamic batch"
