"""The tasks after a pipeline find what it made; the records are drawn as the runner writes them."""

import hashlib
import json
from pathlib import Path

import pytest

from reid.cli.task_files import exported_onnx, model_of, served_file
from reid.errors import ArtifactError
from reid.files.hashes import file_sha256
from reid.files.writing import replace_link
from reid.spec import Experiment, load_spec
from reid.spec.slices import stage_slice


def spec_in(results: Path, *overrides: str) -> Experiment:
    return load_spec(text=f"results_dir: {results}\n", overrides=overrides)


def finish(results: Path, stage: str, outputs: dict[str, str], **key_parts: str) -> Path:
    """A finished result of a stage: output -> its name in the folder."""
    folder = results / "pipeline" / stage / "0123"
    folder.mkdir(parents=True)
    record = {"key_parts": key_parts, "artifacts": {name: {"path": path} for name, path in outputs.items()}}
    (folder / "task.json").write_text(json.dumps(record))
    replace_link(results / "latest" / stage, folder)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The model of a training by the spec's pipeline, with its ONNX and its engine."""
    part = json.dumps(stage_slice(spec_in(tmp_path), "train"), sort_keys=True)
    folder = finish(tmp_path, "train", {"model": "model"}, spec=hashlib.sha256(part.encode()).hexdigest()) / "model"
    folder.mkdir()
    (folder / "reid_model_best.pth").write_bytes(b"weights")
    export = finish(tmp_path, "export", {"onnx": "model.onnx", "parity": "parity.json"})
    (export / "model.onnx").write_bytes(b"onnx")
    digest = file_sha256(folder / "reid_model_best.pth")
    (export / "parity.json").write_text(json.dumps({"checkpoint_sha256": digest}))
    engine = finish(tmp_path, "gen_trt_engine", {"engine": "engine"}) / "engine"
    engine.mkdir()
    (engine / "model.engine").write_bytes(b"engine")
    (engine / "build.json").write_text(json.dumps({"onnx_sha256": file_sha256(export / "model.onnx")}))
    return folder


def test_model_onnx_and_engine_of_the_pipeline_are_found(tmp_path: Path, model: Path) -> None:
    spec, pipeline = spec_in(tmp_path), tmp_path / "pipeline"
    assert [model_of(spec, task) for task in ("evaluate", "inference", "export")] == [model] * 3
    assert exported_onnx(spec) == pipeline / "export" / "0123" / "model.onnx"
    assert served_file(spec_in(tmp_path, "triton.backend=tensorrt")) == (
        pipeline / "gen_trt_engine" / "0123" / "engine" / "model.engine"
    )


def test_a_training_by_the_task_wins_and_is_exported_anew(tmp_path: Path, model: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "reid_model_best.pth").write_bytes(b"others")
    spec = spec_in(tmp_path)
    assert model_of(spec, "export") == tmp_path / "train"
    assert exported_onnx(spec) == tmp_path / "export" / "reid_model.onnx"
    assert model_of(spec_in(tmp_path, f"evaluate.checkpoint={model}"), "evaluate") == model


def test_an_onnx_of_another_training_is_not_taken(tmp_path: Path, model: Path) -> None:
    (model / "reid_model_best.pth").write_bytes(b"trained again")
    assert exported_onnx(spec_in(tmp_path)) == tmp_path / "export" / "reid_model.onnx"


def test_a_training_with_other_settings_is_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        model_of(spec_in(tmp_path, "train.num_epochs=3"), "evaluate")
    assert str(caught.value) == (
        f"{model}: the pipeline trained it with other settings than this spec has\n"
        "  want: the spec and the overrides of that run, or a run of the pipeline with these;\n"
        "        or the model named in the task's checkpoint, e.g. export.checkpoint"
    )


def test_an_interrupted_training_of_the_pipeline_is_none(tmp_path: Path, model: Path) -> None:
    (model.parent / "task.json").unlink()
    with pytest.raises(ArtifactError) as caught:
        model_of(spec_in(tmp_path), "evaluate")
    assert str(caught.value) == (
        f"{tmp_path}/train: no such model\n"
        "  want: a checkpoint in evaluate.checkpoint, the one that the task train leaves there, or a finished training "
        "of the pipeline in results_dir"
    )
