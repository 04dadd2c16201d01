"""The spec in words: every field's range, default and meaning, and a blank spec that loads."""

import logging
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field

from reid.errors import SpecError
from reid.spec import Experiment, load_spec
from reid.spec.described import wanted
from reid.spec.explain import blank, explain, listed
from reid.spec.field_types import Device
from reid.spec.fields import fields_of


def test_a_field_is_explained_by_its_kind_its_range_its_default_and_its_meaning() -> None:
    assert explain("train.optim.gamma", width=80) == (
        "train.optim.gamma: number, above 0\n  default: 0.1\n"
        "  Factor on the learning rate at each step of lr_steps or of AutoReduce.\n"
        "  Stages of the pipeline that read it: train, register.\n  A change of it starts a new training.\n"
    )
    assert explain("dataset.sampler", width=120) == (
        "dataset.sampler: softmax, triplet or softmax_triplet\n"
        "  default: softmax_triplet\n"
        "  Losses, and how batches are made. softmax: cross-entropy, images shuffled; triplet: metric loss, "
        "batches of P persons\n  with K images each; softmax_triplet: both losses, batches as for triplet.\n"
        "  Stages of the pipeline that read it: validate, train, register.\n"
        "  A change of it starts a new training.\n"
    )


def test_a_section_is_explained_a_row_a_field() -> None:
    assert explain("re_ranking", width=100).splitlines()[:4] == [
        "re_ranking: k-reciprocal re-ranking: Zhong et al., CVPR 2017, arXiv:1701.08398.",
        "  re_ranking = true                   true or false. Whether the re-ranked figures are the headline;",
        "                                      plain and re-ranked figures are always both computed.",
        "  k1 = 20                             whole number, at least 1. Number of neighbours that form the",
    ]


def test_a_section_that_may_be_null_is_explained_with_its_fields() -> None:
    text = explain("dataset.synthetic", width=100)
    assert text.startswith("dataset.synthetic: section; or null\n  default: null\n  Parameters of a drawn data set")
    assert "\n  root                                text. Folder of the drawn data set" in text
    assert explain("dataset.synthetic.root", width=80).splitlines()[1] == "  default: none, it must be given"


def test_every_field_of_the_spec_is_in_the_explanation_of_the_whole() -> None:
    text = explain("", width=120)
    for name in fields_of():
        assert f"  {name.rpartition('.')[2]} " in text, name
        assert explain(name, width=80).startswith(f"{name}: ")


def test_every_pattern_is_in_words() -> None:
    assert ", as ^" not in explain("", width=1000)
    engines = explain("gen_trt_engine.tensorrt.compute_capabilities", width=1000)
    assert "list of: text, two numbers around a dot, e.g. 8.6" in engines


def test_no_line_is_wider_than_asked_for() -> None:
    assert max(map(len, explain("", width=100).splitlines())) <= 100


def test_older_spellings_and_idle_keys_of_tao_are_explained_too() -> None:
    assert explain("train.optim.steps", width=80).splitlines()[:2] == [
        "train.optim.steps: an older spelling",
        "train.optim.lr_steps: list of: whole number, at least 1",
    ]
    assert explain("model.gem_pooling", width=80) == (
        "model.gem_pooling: accepted and without effect (TAO's default: false)\n"
        "  no effect in TAO either; model.pooling=gem is GeM pooling\n"
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("train.optim.bse_lr", "did you mean train.optim.base_lr?"),
        ("base_lr", "did you mean train.optim.base_lr?"),
        ("lamda_value", "did you mean re_ranking.lambda_value?"),
        ("re-ranking", "did you mean re_ranking?"),
        ("zzz", "reid spec --explain lists them all"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        explain(name, width=80)
    assert str(caught.value) == f"{name}: no section or field of the spec; {hint}"


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "whole number"),
        (Annotated[float, Field(gt=0, le=1)], "number, above 0, at most 1"),
        (Annotated[int, Field(ge=1)] | None, "whole number, at least 1; or null"),
        (Literal["a", "on", ""], "a, 'on' or \"\""),
        (list[Annotated[str, Field(pattern="^a$")]], "list of: text, as ^a$"),
        (Device, "text, either auto, cpu or cuda:<number>"),
        (dict[str, str], "section of own keys, each: text"),
    ],
)
def test_an_annotation_in_words(annotation: object, words: str) -> None:
    assert wanted(annotation) == words


def test_a_blank_spec_loads_as_the_defaults_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert load_spec(text=blank()) == Experiment()
    assert not caplog.records


def test_a_blank_spec_names_every_field_and_says_what_it_takes() -> None:
    text = blank()
    for name in fields_of():
        assert f"{name.rpartition('.')[2]}: " in text, name
    sentence = "whole number, at least 1. Number of neighbours that local query expansion averages; not above k1."
    assert f"  k2: 6  # {sentence}\n" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_commented_section_of_a_blank_spec_loads_once_it_is_filled_in() -> None:
    lines = blank().splitlines()
    first = lines.index("  # synthetic:")
    section = [line.replace("  # ", "  ", 1) for line in lines[first : first + 11]]
    section[1] = "    root: data/drawn"
    text = "\n".join(["dataset:", *section])
    assert len(yaml.safe_load(text)["dataset"]["synthetic"]) == 10
    assert load_spec(text=text) == load_spec(text="dataset: {synthetic: {root: data/drawn}}")


def test_single_fields_are_listed_under_their_section() -> None:
    names = ["dataset.query_dataset_dir", "train.seed", "results_dir", "dataset.test_dataset_dir"]
    names += [name for name in fields_of() if name.startswith("evaluate.")]
    assert listed(names, width=120).splitlines()[:11] == [
        "  results_dir = /results              text. Folder of all results; a task writes to <results_dir>/<task>.",
        "",
        "dataset:",
        "  test_dataset_dir = null             text; or null. Folder of the gallery images (bounding_box_test).",
        "  query_dataset_dir = null            text; or null. Folder of the query images (query).",
        "",
        "train:",
        "  seed = 1234                         whole number, at least 0. Seed of all random choices; on one machine, "
        "the same",
        "                                      seed gives the same results (on a GPU up to rounding).",
        "",
        "evaluate: The evaluation task.",
    ]
