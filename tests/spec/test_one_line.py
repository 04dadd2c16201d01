"""A spec on one line: what differs from the defaults, and the same spec when it is loaded."""

import json

import pytest

from pipelines.cluster.preparation import RESULTS, spec_on_cluster
from pipelines.options import SPECS
from reid.spec import Experiment, load_spec
from reid.spec.one_line import one_line
from reid.spec.secret import open_values


@pytest.mark.parametrize("spec", sorted(path.stem for path in SPECS.glob("*.yaml")))
@pytest.mark.parametrize("override", ["train.num_gpus=1", "train.gpu_ids=[2,3]", "model.feat_dim=null"])
def test_the_specs_of_the_project_load_as_the_same_spec(spec: str, override: str) -> None:
    given = load_spec(SPECS / f"{spec}.yaml", overrides=[override])
    text = one_line(open_values(given))
    assert len(text.splitlines()) == 1
    assert load_spec(text=text) == given
    sent = load_spec(text=spec_on_cluster(given, "/data"))
    assert (sent.results_dir, sent.train.num_gpus) == (RESULTS, max(given.train.num_gpus, len(given.train.gpu_ids)))
    assert sent.train.optim == given.train.optim


def test_the_line_of_the_demo_is_short_enough_to_be_read() -> None:
    assert spec_on_cluster(load_spec(SPECS / "demo.yaml"), "/data") == (
        '{"results_dir": "/tmp/reid", '
        '"model": {"backbone": "timm/test_resnet", "pretrain_choice": "", "input_width": 64, "input_height": 128, '
        '"feat_dim": null}, '
        '"dataset": {"synthetic": {"root": "/data/demo"}, "num_classes": 120, "validation_persons": 12, '
        '"batch_size": 16, "padding": 5, "re_prob": 0.25}, '
        '"train": {"num_epochs": 30, "validation_interval": 2, "optim": {"name": "AdamW", "warmup_epochs": 3, '
        '"warmup_method": "cosine", "cosine_first_epoch": 1, "base_lr": 0.003}}, '
        '"mlflow": {"experiment": "demo", "registered_model": "reid-demo"}}'
    )


def test_a_spec_of_defaults_is_an_empty_line() -> None:
    assert one_line(Experiment().model_dump()) == "{}"


@pytest.mark.parametrize("text", ["two\nlines", "1e5", "null", "a: b # c", "é 😀 \u2028 \x7f \x85", "'\"\\", " x ", ""])
def test_any_text_comes_through(text: str) -> None:
    spec = Experiment.model_validate({"mlflow": {"tags": {"note": text}}, "train": {"optim": {"base_lr": 1e-05}}})
    line = one_line(spec.model_dump())
    assert len(line.splitlines()) == 1
    assert load_spec(text=line) == spec


def test_an_edit_of_the_line_changes_the_field() -> None:
    line = spec_on_cluster(load_spec(SPECS / "demo.yaml"), "/data")
    assert load_spec(text=line.replace('"num_epochs": 30', '"num_epochs": 7')).train.num_epochs == 7
    assert json.loads(line)["train"]["num_epochs"] == 30


def test_a_key_is_not_in_it() -> None:
    assert "sesame" not in spec_on_cluster(load_spec(text="encryption_key: sesame"), "/data")
