"""Every path of the spec that a pipeline reads lies on the data volume of a cluster."""

import dataclasses

import pytest

from pipelines.cluster.preparation import RESULTS, spec_on_cluster
from pipelines.cluster.resources import Resources
from reid.spec import load_spec
from reid.spec.facts import CountsGpus, Reads, Replaced, Writes
from reid.spec.fields import fields_of, fields_with, pipeline_paths


def test_a_path_is_put_on_the_volume_unless_no_stage_reads_it_or_the_pipeline_replaces_it() -> None:
    paths = {*fields_with(Reads), *fields_with(Writes)}
    staying = {*fields_with(Replaced), *(name for name in paths if not fields_of()[name].stages)}
    assert set(pipeline_paths()) == paths - staying
    not_replaced = staying - set(fields_with(Replaced))
    in_triton = {"contract", "model_file", "model_repository", "results_dir"}
    assert not_replaced == {"results_dir", *(f"triton.{name}" for name in in_triton)}


def test_a_parameter_that_counts_gpus_is_one_of_the_pipeline() -> None:
    parameters = {fact.parameter for fact in fields_with(CountsGpus).values()}
    assert parameters <= {field.name for field in dataclasses.fields(Resources)}


@pytest.mark.parametrize(
    "made", ["source: {root: data/market, zip: ./zips/market.zip}", "synthetic: {root: data/market}"]
)
def test_relative_paths_are_put_on_the_volume_and_absolute_ones_stay(made: str) -> None:
    text = (
        f"results_dir: results\ndataset: {{{made}, store_dir: data, corrections: corrections.csv}}\n"
        "model: {pretrained_model_path: weights/r50.pth}\n"
        "train: {resume_training_checkpoint_path: /somewhere/else.pth}\n"
        "evaluate: {output_cmc_curve_plot: plots/cmc.png, output_sampled_matches_plot: plots/matches.png}\n"
        "inference: {output_file: rows.json}\nexport: {onnx_file: data/model.onnx}\n"
        "gen_trt_engine: {trt_engine: model.engine, timing_cache: timings,"
        " tensorrt: {calibration: {cal_image_dir: [data/crops, /mine]}}}\n"
    )
    sent = load_spec(text=spec_on_cluster(load_spec(text=text), "/mnt/sets")).model_dump()
    found = {}
    for field in pipeline_paths():
        value = sent
        for name in field.split("."):
            value = (value or {}).get(name)
        found[field] = value
    fetched = made.startswith("source")
    assert found == {
        "dataset.root": None,
        "dataset.corrections": "/mnt/sets/corrections.csv",
        "dataset.train_dataset_dir": "/mnt/sets/market/bounding_box_train",
        "dataset.query_dataset_dir": "/mnt/sets/market/query",
        "dataset.test_dataset_dir": "/mnt/sets/market/bounding_box_test",
        "dataset.synthetic.root": None if fetched else "/mnt/sets/market",
        "dataset.source.root": "/mnt/sets/market" if fetched else None,
        "dataset.source.zip": "/mnt/sets/zips/market.zip" if fetched else None,
        "dataset.store_dir": "/mnt/sets",
        "model.pretrained_model_path": "/mnt/sets/weights/r50.pth",
        "train.resume_training_checkpoint_path": "/somewhere/else.pth",
        "evaluate.output_sampled_matches_plot": "/mnt/sets/plots/matches.png",
        "evaluate.output_cmc_curve_plot": "/mnt/sets/plots/cmc.png",
        "inference.output_file": "/mnt/sets/rows.json",
        "export.onnx_file": "/mnt/sets/model.onnx",
        "gen_trt_engine.trt_engine": "/mnt/sets/model.engine",
        "gen_trt_engine.timing_cache": "/mnt/sets/timings",
        "gen_trt_engine.tensorrt.calibration.cal_image_dir": ["/mnt/sets/crops", "/mine"],
    }
    assert sent["results_dir"] == RESULTS


def test_the_roots_of_several_sets_are_put_on_the_volume_too() -> None:
    text = (
        "dataset: {layout: csv, root: data/mine.csv, train_sets: [{name: a, root: data/a}, {name: b, root: /b}],"
        " test_sets: [{name: c, root: sets/c, layout: msmt17}]}"
    )
    sent = load_spec(text=spec_on_cluster(load_spec(text=text), "/mnt/sets")).dataset
    assert sent.root == "/mnt/sets/mine.csv"
    assert [part.root for part in (*sent.train_sets, *sent.test_sets)] == ["/mnt/sets/a", "/b", "/mnt/sets/sets/c"]
    assert sent.test_sets[0].layout == "msmt17"
