"""What Kubeflow's cache makes of the compiled graph: an unchanged second run does nothing but check the data."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import images
from pipelines.compilation import compile_pipeline
from pipelines.run import main
from tests.pipelines.cluster.kfp_cache import Cache

AFTER_VALIDATE = {"manifest", "train", "evaluate", "inference", "export", "gen-trt-engine", "register"}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    file = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(file, spec_text="{}")
    return list(yaml.safe_load_all(file.read_text()))


def test_an_unchanged_second_run_takes_every_stage_but_validate_from_the_cache(compiled: list[dict[str, Any]]) -> None:
    cache = Cache()
    assert cache.run(*compiled) == []
    assert set(cache.run(*compiled)) == AFTER_VALIDATE
    assert set(cache.run(*compiled)) == AFTER_VALIDATE


def test_a_changed_parameter_runs_again_what_takes_it(compiled: list[dict[str, Any]]) -> None:
    cache = Cache()
    cache.run(*compiled)
    assert AFTER_VALIDATE - set(cache.run(*compiled, engine_gpus="1")) == {"gen-trt-engine", "register"}
    assert cache.run(*compiled, spec="train: {seed: 3}") == []


def test_another_list_of_further_test_sets_runs_the_evaluation_again_and_trains_nothing(
    compiled: list[dict[str, Any]],
) -> None:
    cache = Cache()
    cache.run(*compiled)
    hits = cache.run(*compiled, changed={"validate.evaluate_spec", "validate.evaluation_fingerprint"})
    assert AFTER_VALIDATE - set(hits) == {"evaluate", "register"}


def test_an_evaluation_that_finds_the_same_thresholds_leaves_the_export_cached(compiled: list[dict[str, Any]]) -> None:
    cache = Cache()
    cache.run(*compiled)
    reranked_otherwise = cache.run(*compiled, changed={"validate.evaluate_spec"})
    assert AFTER_VALIDATE - set(reranked_otherwise) == {"evaluate", "register"}
    other_images = {"validate.evaluation_fingerprint", "evaluate.thresholds"}
    other_thresholds = cache.run(*compiled, changed=other_images)
    assert AFTER_VALIDATE - set(other_thresholds) == {"evaluate", "export", "gen-trt-engine", "register"}


def test_with_the_manifest_from_a_stage_that_always_runs_nothing_would_be_taken(compiled: list[dict[str, Any]]) -> None:
    pipeline, platform = json.loads(json.dumps(compiled))
    tasks, components = pipeline["root"]["dag"]["tasks"], pipeline["components"]
    moved = components["comp-manifest"]["outputDefinitions"]["artifacts"]
    components["comp-validate"]["outputDefinitions"]["artifacts"] |= moved
    for task in tasks.values():
        if "dataset" in task.get("inputs", {}).get("artifacts", {}):
            task["inputs"]["artifacts"]["dataset"]["taskOutputArtifact"]["producerTask"] = "validate"
    cache = Cache()
    cache.run(pipeline, platform)
    assert cache.run(pipeline, platform) == ["manifest"]  # of which nobody takes anything here


def test_the_command_says_that_the_cache_is_off_if_an_image_has_no_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pipeline.yaml"
    monkeypatch.setattr(images, "REID", "registry/reid@sha256:" + 64 * "0")
    note = (
        "note: REID_IMAGE and REID_TRT_IMAGE name no digest (@sha256:…), so Kubeflow's cache is off:"
        " it could not tell a new image from an old one; every stage runs again\n"
    )
    for tensorrt, hits, said in ((images.REID, AFTER_VALIDATE, ""), ("registry/reid:1", set(), note)):
        monkeypatch.setattr(images, "TENSORRT", tensorrt)
        assert main(["--spec", "market", "--compile-only", str(file)]) == 0
        cache, documents = Cache(), list(yaml.safe_load_all(file.read_text()))
        cache.run(*documents)
        assert set(cache.run(*documents)) == hits
        assert capsys.readouterr().err == said
