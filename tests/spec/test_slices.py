"""The part of the spec that a stage of the pipeline is handed."""

import pytest
import yaml

from reid.spec import load_spec
from reid.spec.facts import STAGES, Stage
from reid.spec.slices import stage_slice

FINDS_IMAGES = {
    *(f"dataset.{split}_dataset_dir" for split in ("train", "test", "query")),
    *("dataset.file_name", "dataset.cameras", "dataset.layout", "dataset.root"),
    *("dataset.train_sets", "dataset.corrections"),
}
OF_EVALUATE = [
    *("dataset.layout", "dataset.root", "dataset.train_dataset_dir", "dataset.test_dataset_dir"),
    *("dataset.query_dataset_dir", "dataset.train_sets", "dataset.test_sets", "dataset.file_name", "dataset.cameras"),
    *("dataset.corrections", "dataset.val_batch_size", "dataset.store_dir"),
]
"""The fields of the data set that evaluate reads, in the order of its slice."""
NOT_IN_A_SLICE = {
    *FINDS_IMAGES,
    *("dataset.test_sets", "dataset.synthetic", "dataset.source"),
    *(f"{task}.results_dir" for task in ("train", "evaluate", "inference", "export", "gen_trt_engine")),
    *("mlflow.run_name", "results_dir", "encryption_key"),
}


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_slice_loads_as_a_spec_and_holds_no_path_that_a_port_or_the_manifest_replaces(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    spec = load_spec(text="results_dir: /r\ndataset: {train_dataset_dir: /d}\ntrain: {results_dir: /t}")
    text = stage_slice(spec, stage)
    assert stage_slice(load_spec(text=text), stage) == text
    assert not caplog.records
    given = yaml.safe_load(text)
    read = {"manifest": FINDS_IMAGES, "evaluate": {*FINDS_IMAGES, "dataset.test_sets"}}
    for place in NOT_IN_A_SLICE - read.get(stage, set()):
        section, _, key = place.rpartition(".")
        assert key not in (given.get(section, {}) if section else given)


def test_re_ranking_reaches_the_evaluation_and_the_record_of_it_only() -> None:
    before, after = load_spec(text=""), load_spec(text="re_ranking: {k1: 30}")
    changed = [stage for stage in STAGES[1:] if stage_slice(before, stage) != stage_slice(after, stage)]
    assert changed == ["evaluate", "register"]


def test_further_test_sets_reach_the_evaluation_only() -> None:
    before, after = load_spec(text=""), load_spec(text="dataset: {test_sets: [{name: shop, root: /shop}]}")
    assert [s for s in STAGES[1:] if stage_slice(before, s) != stage_slice(after, s)] == ["evaluate"]


def test_a_rule_of_fields_that_a_slice_does_not_hold_is_not_applied_to_it() -> None:
    """A share of a batch of 640 that is none of the default's 64."""
    sets = "train_sets: [{name: a, root: /a, share: 1}, {name: b, root: /b, share: 50}]"
    spec = load_spec(text=f"dataset: {{batch_size: 640, {sets}}}")
    for stage in STAGES[1:]:
        load_spec(text=stage_slice(spec, stage), warn=False)


@pytest.mark.parametrize(
    ("stage", "sections", "single"),
    [
        ("manifest", ["dataset"], []),
        ("train", ["model", "dataset", "train"], []),
        ("evaluate", ["re_ranking", "evaluate"], [*OF_EVALUATE, "train.seed"]),
        ("inference", ["inference"], ["dataset.val_batch_size", "dataset.store_dir"]),
        ("export", ["export"], ["dataset.store_dir"]),
        ("gen_trt_engine", ["gen_trt_engine"], ["dataset.store_dir"]),
        ("register", ["mlflow", "model", "dataset", "train", "re_ranking", "export", "gen_trt_engine"], []),
    ],
)
def test_the_order_of_a_slice_stays_as_it_is_because_cache_keys_are_made_of_its_bytes(
    stage: Stage, sections: list[str], single: list[str]
) -> None:
    given = yaml.safe_load(stage_slice(load_spec(text=""), stage))
    assert list(given) == list(dict.fromkeys([*sections, *(name.partition(".")[0] for name in single)]))
    beside = [f"{section}.{key}" for section in given if section not in sections for key in given[section]]
    assert beside == single
