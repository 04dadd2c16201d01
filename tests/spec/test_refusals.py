"""What of a spec is refused, and in which words."""

from pathlib import Path

import pytest

from reid.errors import SpecError
from reid.spec import load_spec


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(text=text, overrides=overrides)
    return str(caught.value)


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
        "re_ranking: {k1: 5}\ntrain: {num_epochs: 0, grad_clip: 1.0, clip_grad_norm: 2.0}\n"
        "model: {input_channels: 2, metric_loss_type: center, with_center_los: true}\n"
        "dataset: {batch_size: 30, pixel_std: [0.5], num_instances: x}\n"
        "evaluate: {output_cmc_curve_plot: a.bmp, output_sampled_matches_plot: 3}\n"
        "export: {data_type: FP8}\n"
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
        "spec: export.opset: 18 has no FP8; want 19 or above",
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
        ("- 1", "spec: line 1: found a list, want sections (key: value)"),
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


def test_an_override_without_a_value_is_refused() -> None:
    assert refusal("", "train.num_epochs") == (
        "command line: 'train.num_epochs': want section.field=value, e.g. train.num_epochs=2"
    )


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
