"""The spec: what loads, and how a file, overrides and TAO's keys are understood."""

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from reid.errors import SpecError
from reid.spec import Experiment, load_spec
from reid.spec.described import described
from reid.spec.fields import fields_of, value_of
from reid.spec.tao import ALIASES, IDLE

SPECS = sorted(Path("pipelines/specs").glob("*.yaml"))

SEED_SAMPLE = """
results_dir: "/path/to/experiment_results"
encryption_key: nvidia_tao
model:
  backbone: resnet_50
  last_stride: 1
  pretrain_choice: imagenet
  pretrained_model_path: "/path/to/pretrained_model.pth"
  input_channels: 3
  input_width: 128
  input_height: 256
  neck: bnneck
  feat_dim: 256
  neck_feat: after
  metric_loss_type: triplet
  with_center_loss: False
  with_flip_feature: False
  label_smooth: True
dataset:
  train_dataset_dir: "/path/to/train_dataset_dir"
  test_dataset_dir: "/path/to/test_dataset_dir"
  query_dataset_dir: "/path/to/query_dataset_dir"
  num_classes: 751
  batch_size: 64
  val_batch_size: 128
  num_workers: 1
  pixel_mean: [0.485, 0.456, 0.406]
  pixel_std: [0.226, 0.226, 0.226]
  padding: 10
  prob: 0.5
  re_prob: 0.5
  sampler: softmax_triplet
  num_instances: 4
re_ranking:
  re_ranking: True
  k1: 20
  k2: 6
  lambda_value: 0.3
train:
  results_dir: "${results_dir}/train"
  optim:
    name: Adam
    lr_monitor: val_loss
    steps: [40, 70]
    gamma: 0.1
    bias_lr_factor: 1
    weight_decay: 0.0005
    weight_decay_bias: 0.0005
    warmup_factor: 0.01
    warmup_iters: 10
    warmup_method: linear
    base_lr: 0.00035
    momentum: 0.9
    center_loss_weight: 0.0005
    center_lr: 0.5
    triplet_loss_margin: 0.3
  num_epochs: 10
  checkpoint_interval: 5
  validation_interval: 5
  seed: 1234
"""


def test_the_documented_sample_loads_with_one_notice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        spec = load_spec(text=SEED_SAMPLE)
    assert spec.train.results_dir == "/path/to/experiment_results/train"
    assert spec.train.optim.lr_steps == [40, 70]
    assert [record.getMessage() for record in caplog.records] == [
        "spec: train.optim.steps is read as train.optim.lr_steps"
    ]


def test_every_key_of_taos_schema_loads_at_its_default(caplog: pytest.LogCaptureFixture) -> None:
    path = Path(__file__).with_name("tao_default.yaml")
    spec = load_spec(path)
    assert caplog.messages == [
        "tao_default.yaml: results_dir is empty: its default is used",
        "tao_default.yaml: train.grad_clip is read as train.clip_grad_norm",
    ]
    given = {name for name in fields_of() if _value(yaml.safe_load(path.read_text()), name) is not None}
    differing = {name for name in given if value_of(spec, name) != value_of(Experiment(), name)}
    cudnn = {"train.cudnn.benchmark", "train.cudnn.deterministic"}  # TAO has its values followed; ours are auto
    assert differing == {"dataset.num_workers", "re_ranking.re_ranking"} | cudnn


def _value(values: Any, name: str) -> Any:
    """What a YAML's sections hold under a dotted name; None for what is not given."""
    for key in name.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return None if values in ("", "???") else values


def test_yamls_bare_words_and_numbers_are_taken_as_they_are_meant() -> None:
    spec = load_spec(text="model: {stem_relu: off}\ntrain: {precision: 32}", overrides=[])
    assert (spec.model.stem_relu, spec.train.precision) == ("off", "32")
    assert load_spec(text="model: {stem_relu: on}").model.stem_relu == "on"


def test_every_field_says_what_it_means() -> None:
    said = {entry.name: entry.meaning for entry in described("", Experiment)}
    assert [name for name in fields_of() if not said[name].strip()] == []


def test_an_empty_spec_has_every_default() -> None:
    assert load_spec(text="") == Experiment()


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_specs_that_ship_load_without_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_spec(path)
    assert not caplog.records


@pytest.mark.parametrize("path", [path for path in SPECS if path.stem != "demo"], ids=lambda path: path.stem)
def test_a_recipe_says_where_it_is_from_how_to_run_it_and_what_to_expect(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    said = {line[2:].partition(":")[0]: line for line in header}
    assert {"Paper", "Command", "Time", "Accuracy"} <= set(said)
    assert f"make pipeline-run SPEC={path.stem}" in said["Command"]
    assert "not yet measured by us" in said["Accuracy"]
    assert "arXiv:" in said["Paper"]


def test_overrides_take_numbers_lists_and_texts() -> None:
    spec = load_spec(
        text="", overrides=["train.optim.lr_steps=[4,7]", "train.optim.base_lr=1e-3", "model.feat_dim=null"]
    )
    assert (spec.train.optim.lr_steps, spec.train.optim.base_lr, spec.model.feat_dim) == ([4, 7], 1e-3, None)


@pytest.mark.parametrize(
    ("text", "override", "found"),
    [
        (SEED_SAMPLE, "train.optim.lr_steps=[4,7]", [4, 7]),
        (SEED_SAMPLE, "train.optim.steps=[4,7]", [4, 7]),
        ("train: {optim: {lr_steps: [1]}}", "train.optim.steps=[4,7]", [4, 7]),
    ],
)
def test_an_override_wins_over_the_files_other_spelling(text: str, override: str, found: list[int]) -> None:
    assert load_spec(text=text, overrides=[override]).train.optim.lr_steps == found


def test_an_interpolation_follows_an_override() -> None:
    assert load_spec(text=SEED_SAMPLE, overrides=["results_dir=/mine"]).train.results_dir == "/mine/train"
    assert (
        load_spec(overrides=["train.results_dir=${results_dir}/t", "results_dir=/mine"]).train.results_dir == "/mine/t"
    )
    with pytest.raises(SpecError, match=r"^spec: Interpolation key 'nope' not found$"):
        load_spec(text="", overrides=["train.results_dir=${nope}"])


def test_nothing_after_the_equals_sign_is_the_empty_text_where_that_is_a_choice() -> None:
    spec = load_spec(text="model: {neck: }", overrides=["model.pretrain_choice="])  # as a shell leaves x="" over
    assert (spec.model.neck, spec.model.pretrain_choice) == ("", "")


def test_tao_keys_are_silent_at_their_default_and_warn_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    for name, (default, _) in IDLE.items():
        load_spec(text=_nested(name, default))
    assert not caplog.records
    calibration = "gen_trt_engine: {tensorrt: {calibration: {cal_cache_file: c.bin, cal_batches: 1}}}"
    load_spec(text=f"model: {{gem_pooling: true}}\nwandb: {{project: mine}}\n{calibration}")
    assert [record.getMessage() for record in caplog.records] == [
        "spec: wandb.project has no effect: experiments are recorded in MLflow, not in Weights & Biases",
        "spec: model.gem_pooling has no effect: no effect in TAO either; model.pooling=gem is GeM pooling",
        "spec: gen_trt_engine.tensorrt.calibration.cal_cache_file has no effect: only "
        "gen_trt_engine.tensorrt.data_type = INT8 and FP8 read it",
    ]


def test_tao_lists_name_no_field_of_ours() -> None:
    ours = set(fields_of())
    assert not ours & set(IDLE)
    assert not ours & set(ALIASES)
    assert set(ALIASES.values()) <= ours


def test_a_drawn_data_set_lies_under_its_root() -> None:
    dataset = load_spec(text="dataset: {query_dataset_dir: /q, synthetic: {root: /drawn}}").dataset
    assert dataset.train_dataset_dir == "/drawn/bounding_box_train"
    assert dataset.test_dataset_dir == "/drawn/bounding_box_test"
    assert dataset.query_dataset_dir == "/q"


def _nested(name: str, value: object) -> str:
    for part in reversed(name.split(".")):
        value = {part: value}
    return yaml.safe_dump(value)
