"""An ONNX that prepares images itself: PIL's resize, normalisation, flip test and unit length inside."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reid.contract import Contract
from reid.deploy.half import to_half
from reid.deploy.onnx import OnnxModel, read_onnx
from reid.deploy.onnx_ends import PixelPort, with_preprocessing
from reid.errors import ArtifactError

SMALL = Contract(6, 4, 3, (0.0,) * 3, (1 / 255,) * 3, 72)
"""Its prepared images are the pixels themselves, 0 to 255."""


def as_it_is(contract: Contract) -> Any:
    """A network that gives its input, flattened."""
    size = ["batch", contract.channels, contract.height, contract.width]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Flatten", ["input"], ["fc_pred"], axis=1)],
        "as it is",
        [onnx.helper.make_tensor_value_info("input", 1, size)],
        [onnx.helper.make_tensor_value_info("fc_pred", 1, ["batch", contract.embedding])],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


def run(model: Any, pixels: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": pixels})[0]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def resized(pixels: np.ndarray, contract: Contract) -> np.ndarray:
    """Images (B, H, W, C) -> (B, C, h, w) by PIL."""
    size = contract.width, contract.height
    flat = pixels if contract.channels == 3 else pixels[..., 0]
    pictures = [Image.fromarray(image).resize(size, Image.Resampling.BILINEAR) for image in flat]
    return np.stack(pictures).reshape(-1, contract.height, contract.width, contract.channels).transpose(0, 3, 1, 2)


SIZES = st.tuples(st.integers(1, 150), st.integers(1, 60))


@settings(max_examples=15, deadline=None)
@given(size=SIZES, target=SIZES, known=st.booleans(), black_and_white=st.booleans())
def test_the_resize_inside_is_pils_to_the_last_bit(size, target, known, black_and_white):
    (height, width), (new_height, new_width) = size, target
    contract = Contract(new_height, new_width, 3, (0.0,) * 3, (1 / 255,) * 3, 3 * new_height * new_width)
    pixels = noise(1, height, width, 3)
    if black_and_white:  # rounds to halves most often
        pixels = np.where(pixels < 128, np.uint8(0), np.uint8(255))
    port = PixelPort(height=height, width=width) if known else PixelPort()
    found = run(with_preprocessing(as_it_is(contract), contract, port, mirror=False, unit_length=False), pixels)
    assert (np.rint(found) == resized(pixels, contract).reshape(1, -1)).all()


def test_a_single_pixel_and_a_strong_shrinking_are_pils_too():
    for height, width in ((1, 1), (6, 4), (900, 3), (2, 700), (12, 8)):
        pixels = noise(2, height, width, 3)
        model = with_preprocessing(as_it_is(SMALL), SMALL, PixelPort(), mirror=False, unit_length=False)
        assert (np.rint(run(model, pixels)) == resized(pixels, SMALL).reshape(2, -1)).all()


@pytest.mark.parametrize(
    "port",
    [
        PixelPort(),
        PixelPort(layout="NCHW"),
        PixelPort(channel_order="BGR"),
        PixelPort(data_type="float32"),
        PixelPort(data_type="float32", layout="NCHW", channel_order="BGR", largest=1.0),
        PixelPort(height=9, width=5, batch=3),
    ],
)
def test_every_port_gives_what_preparing_outside_gives(port):
    pixels = noise(3, 9, 5, 3)
    model = with_preprocessing(as_it_is(SMALL), SMALL, port, mirror=False, unit_length=False)
    found = run(model, port.from_decoded(pixels))
    assert found == pytest.approx(resized(pixels, SMALL).reshape(3, -1), abs=1e-3)  # of 255


def test_pixels_of_the_networks_own_size_are_not_touched():
    port = PixelPort(data_type="float32", height=6, width=4)
    model = with_preprocessing(as_it_is(SMALL), SMALL, port, mirror=False, unit_length=False)
    pixels = np.full((1, 6, 4, 3), 100.25, np.float32)
    assert run(model, pixels) == pytest.approx(np.full((1, 72), 100.25), abs=1e-4)
    assert not any(node.op_type in ("MatMul", "Round", "If") for node in model.graph.node)


def test_flip_test_and_unit_length_by_hand():
    pixels = noise(2, 6, 4, 3)
    model = with_preprocessing(as_it_is(SMALL), SMALL, PixelPort(), mirror=True, unit_length=True)
    images = pixels.transpose(0, 3, 1, 2).astype(np.float64)
    both = (images + images[..., ::-1]).reshape(2, -1)
    assert run(model, pixels) == pytest.approx(both / np.linalg.norm(both, axis=1, keepdims=True), abs=1e-6)
    contract = Contract.from_json({entry.key: entry.value for entry in model.metadata_props}["reid.contract"])
    assert contract == replace(SMALL, flip=True, normalized=True)


def test_half_precision_does_not_reach_what_prepares_images():
    port = PixelPort(height=6, width=4)  # nothing is resized, so there is no branch that would be refused anyway
    inside = with_preprocessing(as_it_is(SMALL), SMALL, port, mirror=False, unit_length=False)
    with pytest.raises(ArtifactError, match="FP16: the file prepares images itself"):
        to_half(inside)


@pytest.mark.parametrize("flipped", [False, True], ids=["plain", "flip test in the network"])
def test_thresholds_are_cut_if_the_embedding_becomes_another(flipped):
    model, contract = as_it_is(SMALL), replace(SMALL, flip=flipped)
    model.metadata_props.add(key="reid.thresholds", value="measured on embeddings of the network")
    for mirror in (False, True):
        inside = with_preprocessing(model, contract, PixelPort(), mirror=mirror, unit_length=True)
        kept = "reid.thresholds" in {entry.key for entry in inside.metadata_props}
        assert kept == (flipped or not mirror)


def test_a_network_that_mirrors_and_normalises_already_is_left_as_it_is():
    done = replace(SMALL, flip=True, normalized=True)
    model = with_preprocessing(as_it_is(done), done, PixelPort(), mirror=True, unit_length=True)
    assert not any(node.op_type in ("Concat", "Sqrt") for node in model.graph.node)


def test_a_grey_network_takes_one_channel():
    grey = Contract(6, 4, 1, (0.0,), (1 / 255,), 24, channel_order="L")
    pixels = noise(2, 20, 9, 1)
    model = with_preprocessing(as_it_is(grey), grey, PixelPort(channel_order="BGR"), mirror=False, unit_length=False)
    assert (np.rint(run(model, pixels)) == resized(pixels, grey).reshape(2, -1)).all()


@pytest.mark.parametrize("half", [False, True], ids=["FP32", "FP16"])
def test_a_real_network_gives_the_embedding_of_the_prepared_image(plain, half, tmp_path):
    path, _, _ = plain
    core, contract = read_onnx(path)
    core = to_half(core) if half else core
    port = PixelPort(channel_order="BGR")
    model = with_preprocessing(core, contract, port, mirror=False, unit_length=False)
    assert model.SerializeToString(deterministic=True) == with_preprocessing(
        core, contract, port, mirror=False, unit_length=False
    ).SerializeToString(deterministic=True)
    (tmp_path / "inside.onnx").write_bytes(model.SerializeToString())
    read_onnx(tmp_path / "inside.onnx")  # passes onnx's full check and that of its ports
    opened = OnnxModel(tmp_path / "inside.onnx", threads=1)
    assert (opened.pixels, opened.contract) == (port, contract)
    pixels = noise(2, 100, 41, 3)
    prepared = contract.preprocess(resized(pixels, contract).transpose(0, 2, 3, 1))
    expected = OnnxModel(content=core.SerializeToString(), threads=1)(prepared)
    assert opened.of_pixels(pixels) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ArtifactError, match="it takes pixels"):
        opened(prepared)


def test_a_fixed_batch_is_filled_up(plain, tmp_path):
    core, contract = read_onnx(plain[0])
    pixels = noise(5, 64, 32, 3)
    for batch in (None, 3):
        port = PixelPort(height=64, width=32, batch=batch)
        model = with_preprocessing(core, contract, port, mirror=True, unit_length=True)
        (tmp_path / f"{batch}.onnx").write_bytes(model.SerializeToString())
    one, other = (OnnxModel(tmp_path / f"{batch}.onnx", threads=1).of_pixels(pixels) for batch in (None, 3))
    assert one == pytest.approx(other, abs=1e-5)
    with pytest.raises(ArtifactError) as caught:
        OnnxModel(tmp_path / "3.onnx", threads=1).of_pixels(noise(1, 50, 32, 3))
    assert str(caught.value) == (
        "ONNX model: images of shape (50, 32, 3)\n  want: (64, 32, 3) (height, width, channels), which it was exported "
        "for; export.pixels.height=null and width=null take any size"
    )


def test_a_client_needs_five_lines(plain, tmp_path):
    core, contract = read_onnx(plain[0])
    onnx.save(with_preprocessing(core, contract, PixelPort(), mirror=True, unit_length=True), tmp_path / "model.onnx")
    Image.fromarray(noise(90, 40, 3)).save(tmp_path / "person.png")
    file, model = tmp_path / "person.png", str(tmp_path / "model.onnx")

    session = onnxruntime.InferenceSession(model)
    pixels = np.asarray(Image.open(file).convert("RGB"))[None]
    (embedding,) = session.run(["fc_pred"], {"input": pixels})

    assert embedding == pytest.approx(OnnxModel(tmp_path / "model.onnx").of_pixels(noise(90, 40, 3)[None]), abs=1e-6)
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-6)


def test_what_contradicts_is_refused(plain, tmp_path):
    with pytest.raises(ArtifactError) as caught:
        PixelPort(data_type="uint8", largest=1.0)
    assert str(caught.value) == "pixels: data_type uint8 with largest 1; want largest 255, or data_type float32"
    with pytest.raises(ArtifactError, match=r"pixels: layout 'HWC'; want NHWC or NCHW"):
        PixelPort(layout="HWC")  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match=r"pixels: batch 0; want 1 to 65536, or null for any"):
        PixelPort(batch=0)
    with pytest.raises(ArtifactError, match="pixels: not JSON"):
        PixelPort.from_json("{")
    with pytest.raises(ArtifactError, match=r"pixels: found \['batch'\]"):
        PixelPort.from_json('{"batch": 1}')
    other = replace(SMALL, resize="bicubic")
    with pytest.raises(ArtifactError, match="resize 'bicubic'"):
        with_preprocessing(as_it_is(SMALL), other, PixelPort(), mirror=False, unit_length=False)
    inside = with_preprocessing(as_it_is(SMALL), SMALL, PixelPort(), mirror=False, unit_length=False)
    with pytest.raises(ArtifactError, match="it prepares images already"):
        with_preprocessing(inside, SMALL, PixelPort(), mirror=False, unit_length=False)
    for entry in inside.metadata_props:
        if entry.key == "reid.pixels":
            entry.value = PixelPort(layout="NCHW").to_json()
    for opened in (read_onnx, OnnxModel):
        (tmp_path / "m.onnx").write_bytes(inside.SerializeToString())
        with pytest.raises(ArtifactError, match=r"want: input \(batch, 3, height, width\), .* as its reid.pixels says"):
            opened(tmp_path / "m.onnx")
    for entry in inside.metadata_props:
        if entry.key == "reid.pixels":
            entry.value = PixelPort(data_type="float32").to_json()
    (tmp_path / "m.onnx").write_bytes(inside.SerializeToString())
    for opened in (read_onnx, OnnxModel):
        with pytest.raises(ArtifactError, match=r"its input is uint8\n  want: float, as its reid\.pixels says"):
            opened(tmp_path / "m.onnx")
