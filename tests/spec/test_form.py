"""Parameters of the pipeline that win over fields of the spec."""

import logging

import pytest

from reid.errors import SpecError
from reid.spec import Experiment, load_spec
from reid.spec.facts import InForm
from reid.spec.fields import fields_with, value_of
from reid.spec.form import load_spec_of_form

GIVEN = {
    "backbone": "resnet_18",
    "batch_size": "32",
    "embedding_width": "null",
    "epochs": " 7 ",
    "image_height": "384",
    "image_width": "192",
    "k1": "30",
    "k2": "7",
    "lambda_value": "0.1",
    "learning_rate": "1e-3",
    "seed": "5",
}
WANTED = {
    "backbone": "resnet_18",
    "batch_size": 32,
    "embedding_width": None,
    "epochs": 7,
    "image_height": 384,
    "image_width": 192,
    "k1": 30,
    "k2": 7,
    "lambda_value": 0.1,
    "learning_rate": 0.001,
    "seed": 5,
}


def refusal(text: str, **parameters: str) -> list[str]:
    with pytest.raises(SpecError) as error:
        load_spec_of_form(text, parameters, warn=True)
    return str(error.value).splitlines()


def test_each_parameter_wins_over_its_field_and_over_no_other() -> None:
    fields = {fact.parameter: name for name, fact in fields_with(InForm).items()}
    assert set(fields) == set(GIVEN)
    before = load_spec(text="train: {num_epochs: 3}")
    for parameter, value in GIVEN.items():
        found = load_spec_of_form("train: {num_epochs: 3}", {parameter: value}, warn=True)
        assert value_of(found, fields[parameter]) == WANTED[parameter]
        by_hand = load_spec(text="train: {num_epochs: 3}", overrides=[f"{fields[parameter]}={value}"])
        assert found == by_hand != before


def test_empty_parameters_leave_the_spec_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    empty = {**dict.fromkeys(GIVEN, ""), "epochs": "  ", "gpus": "0", "embedding_gpus": "0"}
    with caplog.at_level(logging.WARNING):
        assert load_spec_of_form("train: {num_epochs: 3}", empty, warn=True) == load_spec(text="train: {num_epochs: 3}")
        assert load_spec_of_form("", {}, warn=True) == Experiment()
    assert caplog.messages == []


def test_what_is_wrong_is_named_by_its_parameter_with_all_else_that_is_wrong() -> None:
    assert refusal("train: {seed: x}", epochs="ten", learning_rate="-1", k2="30", backbone="resnet_51") == [
        "pipeline parameter backbone: model.backbone: found 'resnet_51' (str); want: resnet_18, resnet_34, "
        "resnet_50, resnet_101, resnet_152, swin_tiny_patch4_window7_224, swin_small_patch4_window7_224, "
        "swin_base_patch4_window7_224, vit_tiny_patch16, vit_small_patch16, vit_base_patch16, resnet_18_ibn_a, "
        "resnet_34_ibn_a, resnet_50_ibn_a, resnet_101_ibn_a, "
        "osnet_x1_0, osnet_x0_75, osnet_x0_5, osnet_x0_25, osnet_ibn_x1_0, "
        "osnet_ain_x1_0, osnet_ain_x0_75, osnet_ain_x0_5, osnet_ain_x0_25, "
        "or timm/<name> for any model of timm; did you mean resnet_50?",
        "spec: train.seed: found 'x' (str); want: a whole number",
        "pipeline parameter epochs: train.num_epochs: found 'ten' (str); want: a whole number",
        "pipeline parameter learning_rate: train.optim.base_lr: found -1 (int); want: above 0.0",
        "pipeline parameter k2: re_ranking.k2: 30 is above re_ranking.k1 = 20; want k2 <= k1",
    ]
    assert refusal("", gpus="two") == ["pipeline parameter gpus: found 'two'", "  want: a whole number of GPUs, from 0"]
    (line,) = refusal("", backbone="${nothing")
    assert line.startswith("pipeline parameter backbone: ")
