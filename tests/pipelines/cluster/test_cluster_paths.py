"""Every path of the spec lies on the data volume of a cluster, or stays as it is for a reason that stands here."""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from pipelines.cluster.preparation import PATHS, RESULTS, spec_on_cluster
from reid.spec import Experiment, load_spec
from reid.spec.rules import PORTS

NOT_ON_THE_VOLUME = {
    "a pod's own disk": ["results_dir"],
    **PORTS,
    "no stage of the pipeline reads it: serving is not one": [
        "triton.model_file",
        "triton.model_repository",
        "triton.results_dir",
    ],
}
"""Why a field that names files is not in PATHS -> such fields."""
NO_FILES = {
    *(
        "encryption_key",
        "model.backbone",
        "dataset.file_name",
        "dataset.source.url",
        "dataset.source.sha256",
        "re_ranking.device",
    ),
    *("gen_trt_engine.tensorrt.compute_capabilities", "gen_trt_engine.tensorrt.layers_precision"),
    *("triton.model_name", "triton.server_image", "triton.url"),
    *("mlflow.experiment", "mlflow.run_name", "mlflow.tags", "mlflow.registered_model"),
}
"""Fields of text that name no files."""


def kinds_in(annotation: Any) -> set[Any]:
    """The plain types that an annotation is made of, those of a Literal left out."""
    if get_origin(annotation) is Literal:
        return set()
    return {annotation}.union(*map(kinds_in, get_args(annotation)))


def fields_of_text(section: type[BaseModel] = Experiment, prefix: str = "") -> set[str]:
    """Dotted names of the fields that can hold any text or a path."""
    found = set()
    for name, field in section.model_fields.items():
        kinds = kinds_in(field.annotation)
        for inner in (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)):
            found |= fields_of_text(inner, f"{prefix}{name}.")
        if kinds & {str, Path}:
            found.add(f"{prefix}{name}")
    return found


def test_every_field_that_may_name_a_file_is_put_on_the_volume_or_stays_for_a_reason() -> None:
    staying = {field for fields in NOT_ON_THE_VOLUME.values() for field in fields}
    assert fields_of_text() - {*PATHS, *staying, *NO_FILES} == set(), "put them in PATHS, or say above why not"
    assert {*PATHS, *staying, *NO_FILES} - fields_of_text() == set(), "no such fields of text"
    assert len(PATHS) + len(staying) + len(NO_FILES) == len(fields_of_text()), "in two of the lists"


@pytest.mark.parametrize(
    "made", ["source: {root: data/market, zip: ./zips/market.zip}", "synthetic: {root: data/market}"]
)
def test_relative_paths_are_put_on_the_volume_and_absolute_ones_stay(made: str) -> None:
    text = (
        f"results_dir: results\ndataset: {{{made}, store_dir: data}}\n"
        "model: {pretrained_model_path: weights/r50.pth}\n"
        "train: {resume_training_checkpoint_path: /somewhere/else.pth}\n"
        "evaluate: {output_cmc_curve_plot: plots/cmc.png, output_sampled_matches_plot: plots/matches.png}\n"
        "inference: {output_file: rows.json}\nexport: {onnx_file: data/model.onnx}\n"
        "gen_trt_engine: {trt_engine: model.engine, timing_cache: timings}\n"
    )
    sent = yaml.safe_load(spec_on_cluster(load_spec(text=text), "/mnt/sets"))
    found = {}
    for field in PATHS:
        value = sent
        for name in field.split("."):
            value = (value or {}).get(name)
        found[field] = value
    fetched = made.startswith("source")
    assert found == {
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
    }
    assert sent["results_dir"] == RESULTS
