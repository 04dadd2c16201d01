"""The spec: what loads, what is refused, and in which words."""

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from reid.errors import SpecError
from reid.spec import Experiment, load_spec
from reid.spec.described import described
from reid.spec.facts import STAGES, Stage
from reid.spec.fields import fields_of, value_of
from reid.spec.slices import stage_slice
from reid.spec.tao import ALIASES, IDLE

SPECS = sorted(Path("pipelines/specs").glob("*.yaml"))

NOT_IN_A_SLICE = {
    *(f"dataset.{split}_dataset_dir" for split in ("train", "test", "query")),
    *("dataset.file_name", "dataset.cameras", "dataset.synthetic", "dataset.source"),
    *(f"{task}.results_dir" for task in ("train", "evaluate", "inference", "export", "gen_trt_engine")),
    *("mlflow.run_name", "results_dir", "encryption_key"),
}
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


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(text=text, overrides=overrides)
    return str(caught.value)


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
    assert differing == {"dataset.num_workers", "re_ranking.re_ranking"}


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


def test_all_errors_of_a_file_are_told_at_once() -> None:
    text = "re_ranking: {lamda_value: 3, k1: 0}\nlast_stride: 2\ntrain: {num_epochs: 2.5}\nmodel: {neck: bn}\nfoo: 1"
    assert refusal(text, "dataset.sampler=[a]").splitlines() == [
        "spec: model.neck: found 'bn' (str); want: 'bnneck' or ''",
        "command line: dataset.sampler: found ['a'] (list); want: 'softmax', 'triplet' or 'softmax_triplet'",
        "spec: re_ranking.k1: found 0 (int); want: at least 1",
        "spec: re_ranking.lamda_value: unknown key; did you mean re_ranking.lambda_value?",
        "spec: train.num_epochs: found 2.5 (float); want: a whole number",
        "spec: last_stride: unknown key; did you mean model.last_stride?",
        "spec: foo: unknown key",
    ]


def test_rules_that_need_no_refused_value_are_told_with_the_fields() -> None:
    text = (
        "re_ranking: {k1: 5}\ntrain: {num_epochs: 0, grad_clip: 1.0, clip_grad_norm: 2.0, num_nodes: 2}\n"
        "model: {input_channels: 2, metric_loss_type: center, with_center_los: true}\n"
        "dataset: {batch_size: 30, pixel_std: [0.5], num_instances: x}\n"
        "evaluate: {output_cmc_curve_plot: a.bmp, output_sampled_matches_plot: 3}\n"
    )
    assert refusal(text, "dataset.synthetic.width=64", "train.optim.name=adam").splitlines() == [
        "train.grad_clip = 1.0 and train.clip_grad_norm = 2.0 are one field; want one of them",
        "spec: model.input_channels: found 2 (int); want: 1 or 3",
        "spec: model.with_center_los: unknown key; did you mean model.with_center_loss?",
        "command line: dataset.synthetic.root: not given; it has no default",
        "spec: dataset.num_instances: found 'x' (str); want: a whole number",
        "spec: train.num_epochs: found 0 (int); want: at least 1",
        "command line: train.optim.name: found 'adam' (str); want: 'ASGD', 'Adadelta', 'Adafactor', 'Adagrad', 'Adam', "
        "'AdamW', 'Adamax', 'NAdam', 'RAdam', 'RMSprop', 'Rprop' or 'SGD'; did you mean Adam?",
        "spec: evaluate.output_sampled_matches_plot: found 3 (int); want: a text",
        "spec: re_ranking.k2: 6 is above re_ranking.k1 = 5; want k2 <= k1",
        "spec: evaluate.output_cmc_curve_plot: found 'a.bmp'; want a file that ends in .png, .svg, .pdf",
        "spec: train.num_nodes: 2: training on several machines is not supported yet; want 1",
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("train: 3\nre_ranking: {k1: 5}", ["train: found 3 (int); want: a section (key: value)", "k2"]),
        ("train: {optim: {lr_steps: [4, x]}}\nre_ranking: {k1: 5}",
         ["train.optim.lr_steps.1: found 'x' (str); want: a whole number", "k2"]),
        ("train: {1: 2}\nre_ranking: {k1: 5}", ["train.1: found 1 (int); want: Keys should be strings"]),
        ("re_ranking: {k_1: 5, k2: 30}", ["re_ranking.k_1: unknown key; did you mean re_ranking.k1?"]),
        ("dataset: {synthetic: {root: /d}, source: {url: ftp://a, sha: 1}}",
         ["dataset.source.root: not given; it has no default",
          "dataset.source.sha: unknown key; did you mean dataset.source.sha256?"]),
    ],
)  # fmt: skip
def test_a_rule_is_passed_over_where_a_value_that_it_needs_is_refused(text: str, wanted: list[str]) -> None:
    k2 = "re_ranking.k2: 6 is above re_ranking.k1 = 5; want k2 <= k1"
    assert refusal(text).splitlines() == [f"spec: {k2 if line == 'k2' else line}" for line in wanted]


def test_a_text_that_has_a_form_is_asked_for_in_words() -> None:
    assert refusal("re_ranking: {device: gpu}\ntriton: {model_name: -a}").splitlines() == [
        "spec: re_ranking.device: found 'gpu' (str); want: either auto, cpu or cuda:<number>",
        "spec: triton.model_name: found '-a' (str); want: only letters, digits, _, . and -, beginning with a letter or "
        "a digit",
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("- 1", "spec: found a list, want sections (key: value)"),
        ("results_dir: ${foo}", "spec: Interpolation key 'foo' not found"),
        ("train: 3", "spec: train: found 3 (int); want: a section (key: value)"),
    ],
)
def test_a_spec_of_another_shape_is_refused(text: str, wanted: str) -> None:
    assert refusal(text) == wanted


def test_a_missing_file_and_a_broken_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no\.yaml: no such spec file"):
        load_spec(tmp_path / "no.yaml")
    (tmp_path / "broken.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(SpecError, match=r"^broken\.yaml: not YAML: "):
        load_spec(tmp_path / "broken.yaml")


@pytest.mark.parametrize(
    ("text", "override", "place"),
    [
        ("", "a.b=1", "command line: a: unknown key"),
        ("a: {c: 1}", "a.b=1", "spec: a: unknown key"),
        ("", "tarin.num_epochs=3", "command line: tarin: unknown key; did you mean train?"),
        (
            "train: {num_epochs: 3}",
            "train.optm.name=SGD",
            "command line: train.optm: unknown key; did you mean train.optim?",
        ),
        ("results_dir: /r", "results_dir.x=1", "command line: results_dir: found a section (dict); want: a text"),
        (
            "train: {optim: {gamma: 0.5}}",
            "train.optim.steps=[x]",
            "command line: train.optim.lr_steps.0: found 'x' (str); want: a whole number",
        ),
    ],
)
def test_an_error_is_blamed_on_the_file_or_on_the_command_line_that_brought_it(
    text: str, override: str, place: str
) -> None:
    assert refusal(text, override) == place


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
    assert refusal("", "train.results_dir=${nope}") == "spec: Interpolation key 'nope' not found"


def test_nothing_after_the_equals_sign_is_the_empty_text_where_that_is_a_choice() -> None:
    spec = load_spec(text="model: {neck: }", overrides=["model.pretrain_choice="])  # as a shell leaves x="" over
    assert (spec.model.neck, spec.model.pretrain_choice) == ("", "")


def test_an_override_without_a_value_is_refused() -> None:
    assert refusal("", "train.num_epochs") == (
        "command line: 'train.num_epochs': want section.field=value, e.g. train.num_epochs=2"
    )


def test_tao_keys_are_silent_at_their_default_and_warn_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    for name, (default, _) in IDLE.items():
        load_spec(text=_nested(name, default))
    assert not caplog.records
    calibration = "gen_trt_engine: {tensorrt: {calibration: {cal_cache_file: c.bin, cal_batches: 1}}}"
    load_spec(text=f"model: {{gem_pooling: true}}\nwandb: {{project: mine}}\n{calibration}")
    assert [record.getMessage() for record in caplog.records] == [
        "spec: wandb.project has no effect: experiments are recorded in MLflow, not in Weights & Biases",
        "spec: model.gem_pooling has no effect: no effect in TAO either",
        "spec: gen_trt_engine.tensorrt.calibration.cal_cache_file has no effect: INT8 is not built here",
    ]


def test_an_alias_and_its_field_may_not_contradict() -> None:
    assert refusal("train: {grad_clip: 1.0, clip_grad_norm: 2.0}") == (
        "train.grad_clip = 1.0 and train.clip_grad_norm = 2.0 are one field; want one of them"
    )


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (r"(?P<person>\d+", "this is no regular expression: missing ), unterminated subpattern at position 0"),
        (r"(?P<who>\d+)", "this one has no group person"),
    ],
)
def test_a_pattern_of_file_names_that_cannot_do_is_refused_when_the_spec_is_read(pattern: str, what: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(text="", overrides=[f"dataset.file_name={pattern}"])
    assert str(caught.value) == (
        f"command line: dataset.file_name: found {pattern!r} (str); want: market1501 or dukemtmc, or a regular "
        f"expression with the groups (?P<person>...) and, if any, (?P<camera>...); {what}"
    )


def test_tao_lists_name_no_field_of_ours() -> None:
    ours = set(fields_of())
    assert not ours & set(IDLE)
    assert not ours & set(ALIASES)
    assert set(ALIASES.values()) <= ours


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_slice_loads_as_a_spec_and_holds_no_path_that_a_port_or_the_manifest_replaces(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    spec = load_spec(text="results_dir: /r\ndataset: {train_dataset_dir: /d}\ntrain: {results_dir: /t}")
    text = stage_slice(spec, stage)
    assert stage_slice(load_spec(text=text), stage) == text
    assert not caplog.records
    given = yaml.safe_load(text)
    for place in NOT_IN_A_SLICE:
        section, _, key = place.rpartition(".")
        assert key not in (given.get(section, {}) if section else given)


def test_a_drawn_data_set_lies_under_its_root() -> None:
    dataset = load_spec(text="dataset: {query_dataset_dir: /q, synthetic: {root: /drawn}}").dataset
    assert dataset.train_dataset_dir == "/drawn/bounding_box_train"
    assert dataset.test_dataset_dir == "/drawn/bounding_box_test"
    assert dataset.query_dataset_dir == "/q"


def test_re_ranking_reaches_the_evaluation_and_the_record_of_it_only() -> None:
    before, after = load_spec(text=""), load_spec(text="re_ranking: {k1: 30}")
    changed = [stage for stage in STAGES[1:] if stage_slice(before, stage) != stage_slice(after, stage)]
    assert changed == ["evaluate", "register"]


def _nested(name: str, value: object) -> str:
    for part in reversed(name.split(".")):
        value = {part: value}
    return yaml.safe_dump(value)
