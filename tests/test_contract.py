import json

import numpy as np
import pytest

from reid.contract import Contract, scale_and_offset
from reid.errors import ArtifactError
from tests.exporting import contract_of
from tests.networks import network_settings

CONTRACT = contract_of(network_settings())


def test_preprocessing_by_hand():
    # (x / 255 - 0.5) / 0.25: 0 -> -2, 255 -> 2, 51 -> (0.2 - 0.5) / 0.25 = -1.2; channels come first
    contract = contract_of(network_settings(height=1, width=1))
    pixels = np.array([0, 255, 51], np.uint8).reshape(1, 1, 1, 3)
    assert contract.preprocess(pixels)[:, :, 0, 0] == pytest.approx(np.array([[-2.0, 2.0, -1.2]]), abs=1e-6)


def test_images_are_prepared_to_the_bit_as_the_formula_says_also_into_a_given_array():
    pixels = np.arange(3 * 64 * 32 * 3).astype(np.uint8).reshape(3, 64, 32, 3)
    scale, offset = scale_and_offset(CONTRACT.mean, CONTRACT.std)
    expected = (pixels * scale + offset).transpose(0, 3, 1, 2)
    room = np.empty((5, 3, 64, 32), np.float32)
    assert CONTRACT.preprocess(pixels, out=room[1:4]).base is room
    for found in (CONTRACT.preprocess(pixels), room[1:4]):
        assert (found.dtype, found.flags.c_contiguous) == (np.float32, True)
        assert np.array_equal(found, expected)


def test_it_comes_back_from_json_as_it_was():
    assert Contract.from_json(CONTRACT.to_json()) == CONTRACT


NUMBERS = "\n  want: numbers up to 1e+06, each std from 1e-06; pixels are scaled to 0..1"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"resize": "letterbox"}, "resize 'letterbox' of 3 channels\n  want: 'bilinear'"),
        ({"channels": 2, "channel_order": None}, "channel_order None of 2 channels\n  want: 'RGB'"),
        ({"channel_order": "BGR"}, "channel_order 'BGR' of 3 channels\n  want: 'RGB'"),
        ({"channels": 1, "mean": (0.5,), "std": (0.2,)}, "channel_order 'RGB' of 1 channels\n  want: 'L'"),
    ],
)
def test_what_nobody_here_can_do_to_an_image_is_refused(change, text):
    written = Contract(**{**vars(CONTRACT), **change}).to_json()
    with pytest.raises(ArtifactError) as caught:
        Contract.from_json(written)
    assert str(caught.value) == f"preprocessing contract: {text}; nothing else can be done to an image here"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"mean": 0.5}, "mean 0.5\n  want: a list of numbers"),
        (
            {"mean": (0.5, float("nan"), 0.5)},
            "mean (0.5, nan, 0.5), std {std}" + NUMBERS,
        ),
        ({"std": (0.2, 0, 0.2)}, "mean {mean}, std (0.2, 0, 0.2)" + NUMBERS),
        ({"std": ("a", 1, 1)}, "mean {mean}, std ('a', 1, 1)" + NUMBERS),
        ({"height": "64"}, "height '64'\n  want: a whole number from 1"),
        ({"channels": 2}, "channels 2\n  want: 3, or 1 for grey images"),
        ({"channels": [3]}, "channels [3]\n  want: a whole number from 1"),
    ],
)
def test_values_that_are_no_numbers_of_an_image_are_refused(change, text):
    with pytest.raises(ArtifactError) as caught:
        Contract.from_json(Contract(**{**vars(CONTRACT), **change}).to_json())
    assert str(caught.value) == f"preprocessing contract: {text.format(mean=CONTRACT.mean, std=CONTRACT.std)}"


def test_a_mean_for_each_channel_is_wanted():
    with pytest.raises(ArtifactError) as caught:
        Contract.from_json(Contract(**{**vars(CONTRACT), "mean": (0.5,)}).to_json())
    assert str(caught.value) == (
        "preprocessing contract: 1 means and 3 stds of 3 channels\n  want: one of each per channel"
    )


def test_differences_are_told_by_field():
    assert CONTRACT.differences(height=64, mean=[0.5, 0.5, 0.5]) == []
    assert CONTRACT.differences(height=256, std=[0.2] * 3) == [
        "height: 64, not 256",
        "std: (0.25, 0.25, 0.25), not [0.2, 0.2, 0.2]",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "found NoneType\n  want: at most 100,000 of JSON"),
        (" " * 100_001, "found 100,001 characters\n  want: at most 100,000 of JSON"),
        ("[" * 99_999, "not JSON ("),
        (json.dumps(vars(CONTRACT) | {"mean": None}), "mean None\n  want: a list of numbers"),
        (json.dumps(vars(CONTRACT) | {"flip": 1}), "flip 1\n  want: true or false"),
        (json.dumps(vars(CONTRACT) | {"height": True}), "height True\n  want: a whole number from 1"),
        (
            json.dumps(vars(CONTRACT) | {"height": 100_000, "width": 100_000}),
            "height 100000, width 100000, embedding 16\n"
            "  want: at most 16,777,216 pixels and an embedding of at most 1,048,576 numbers",
        ),
        (json.dumps(vars(CONTRACT) | {"mean": [10**400, 0, 0]}), "mean (1000"),
    ],
    ids=["nothing", "large", "deep", "null mean", "flip", "true", "pixels", "a number beyond floats"],
)
def test_a_hostile_contract_is_an_error_that_names_its_file(text, found):
    with pytest.raises(ArtifactError) as caught:
        Contract.from_json(text, where="model.onnx")
    assert str(caught.value).startswith(f"model.onnx: preprocessing contract: {found}")
