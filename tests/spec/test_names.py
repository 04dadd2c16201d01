"""What the spec knows of torch, timm and ONNX without loading them is what these packages say as they are installed."""

import inspect
import subprocess
import sys
from typing import get_args

import pytest
import timm
import torch
from onnxscript.version_converter import _version_converter
from timm.models import _registry

from reid.errors import SpecError
from reid.model import backbones
from reid.spec import load_spec, names
from reid.spec.idle import MOMENTUM_READERS
from reid.training.schedule import UNFIT_OPTIMIZERS

OPTIMIZERS = {
    name: inspect.signature(kind).parameters
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}


def refusal(*overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_spec(overrides=overrides)
    return [line.removeprefix("command line: ") for line in str(caught.value).splitlines()]


def test_the_optimizers_are_torchs_less_those_that_cannot_train_the_network() -> None:
    able = set(OPTIMIZERS) - set(UNFIT_OPTIMIZERS)
    assert set(get_args(names.Optimizer)) == able
    assert set(names.FUSED_OPTIMIZERS) == {name for name in able if "fused" in OPTIMIZERS[name]}
    assert set(MOMENTUM_READERS) == {name for name in able if "momentum" in OPTIMIZERS[name]}


def test_the_backbones_are_those_that_can_be_built_and_all_of_timms() -> None:
    assert set(names.BACKBONES) == {*backbones.BACKBONES, *backbones.OWN}
    assert names.ANY_TIMM == backbones.ANY_TIMM
    assert names.timm_models() == set(_registry._model_entrypoints)
    assert names.timm_models() > set(timm.list_models())


def test_the_opsets_are_those_that_the_exporter_converts_to() -> None:
    converter = _version_converter
    limits = (converter.SUPPORTED_MIN_ONNX_OPSET, converter.SUPPORTED_MAX_ONNX_OPSET)
    assert limits == (names.FIRST_OPSET, names.LAST_OPSET)


def test_names_are_checked_without_loading_torch_or_timm() -> None:
    code = (
        "import sys; from reid.spec import load_spec; "
        "load_spec(text='model: {backbone: timm/convnext_tiny.fb_in1k}'); print({'torch', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", ["resnet_18", "timm/resnet50.a1_in1k", "timm/tv_resnext50_32x4d", "timm/test_vit"])
def test_a_backbone_that_is_there_loads(name: str) -> None:
    assert load_spec(overrides=[f"model.backbone={name}"]).model.backbone == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet_51", "; did you mean resnet_50?"),
        ("ResNet50", "; did you mean resnet_50?"),
        ("convnext_tiny", "; did you mean timm/convnext_tiny?"),
        ("timm/convnext_tinny.fb_in1k", "; did you mean timm/convnext_tiny?"),
        ("q", ""),
    ],
)
def test_a_backbone_that_is_not_there_is_refused_with_the_nearest(name: str, hint: str) -> None:
    known = ", ".join(names.BACKBONES)
    assert refusal(f"model.backbone={name}") == [
        f"model.backbone: found {name!r} (str); want: {known}, or timm/<name> for any model of timm{hint}"
    ]


def test_where_there_is_no_timm_its_models_are_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "timm_models", frozenset)
    assert names.require_backbone("timm/anything") == "timm/anything"


@pytest.mark.parametrize(
    ("name", "hint"), [("Adamm", "; did you mean Adam?"), ("sgd", "; did you mean SGD?"), ("Muon", "")]
)
def test_an_optimizer_that_cannot_train_here_is_refused_with_the_nearest(name: str, hint: str) -> None:
    *first, last = (repr(kind) for kind in get_args(names.Optimizer))
    assert refusal(f"train.optim.name={name}") == [
        f"train.optim.name: found {name!r} (str); want: {', '.join(first)} or {last}{hint}"
    ]


def test_an_opset_that_cannot_be_written_is_refused() -> None:
    assert refusal("export.opset=99") == ["export.opset: found 99 (int); want: at most 25"]
    assert refusal("export.opset=17") == ["export.opset: found 17 (int); want: at least 18"]


@pytest.mark.parametrize("name", ["re-id 2.0", "a/b", "a:b", "", " "])
def test_a_name_that_the_model_registry_does_not_take_is_refused(name: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_model_name

    text = f"mlflow: {{registered_model: {name!r}}}"
    try:
        _validate_model_name(name)
    except MlflowException:
        with pytest.raises(SpecError) as caught:
            load_spec(text=text)
        assert str(caught.value) == (
            f"spec: mlflow.registered_model: found {name!r} (str); want: a name without / and :"
        )
    else:
        assert load_spec(text=text).mlflow.registered_model == name
