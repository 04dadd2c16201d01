"""Which model `reid match` and `reid search` take: --model, else what the spec's tasks left."""

import argparse
from pathlib import Path

import pytest

from reid.cli.model_option import add_model, chosen_model, without_overrides
from reid.errors import ArtifactError, SpecError
from reid.spec import Experiment


def chosen(*arguments: str, overrides: list[str] | None = None) -> tuple[Path, Experiment | None]:
    parser = argparse.ArgumentParser()
    add_model(parser)
    options = parser.parse_args(arguments)
    options.overrides = overrides or []
    return chosen_model(options)


def spec_file(folder: Path) -> str:
    (folder / "spec.yaml").write_text(f"results_dir: {folder}/results\n")
    return str(folder / "spec.yaml")


def test_the_file_wins_over_the_training_of_the_spec(tmp_path: Path) -> None:
    trained = tmp_path / "results" / "train" / "reid_model_best.pth"
    trained.parent.mkdir(parents=True)
    trained.touch()
    (tmp_path / "other.onnx").touch()
    file, spec = chosen("-e", spec_file(tmp_path))
    assert (file, spec and spec.results_dir) == (trained, f"{tmp_path}/results")
    assert chosen("-e", spec_file(tmp_path), "--model", f"{tmp_path}/other.onnx")[0] == tmp_path / "other.onnx"
    assert chosen("--model", str(trained.parent)) == (trained, None)
    named = [f"inference.checkpoint={tmp_path}/other.onnx"]
    assert chosen("-e", spec_file(tmp_path), overrides=named)[0] == tmp_path / "other.onnx"


def test_without_a_model_it_is_said_where_one_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as neither:
        chosen()
    assert str(neither.value) == "no model: want --model FILE, or -e SPEC of a training"
    with pytest.raises(ArtifactError) as untrained:
        chosen("-e", spec_file(tmp_path))
    assert str(untrained.value).startswith(f"{tmp_path}/results/train: no such model\n  want: a checkpoint in infer")
    assert str(untrained.value).endswith("; or --model FILE")
    with pytest.raises(SpecError) as field:
        chosen("--model", "m.pth", overrides=["results_dir=here"])
    assert str(field.value) == "results_dir=here: a field of a spec, but no spec is given\n  want: -e SPEC beside it"


def test_fields_of_the_spec_may_stand_among_the_images(tmp_path: Path) -> None:
    odd = tmp_path / "a=b.jpg"
    odd.touch()
    words = ["a.jpg", "results_dir=here", str(odd), "train.num_epochs=2", "C=1.jpg"]
    assert without_overrides(words) == (["a.jpg", str(odd), "C=1.jpg"], ["results_dir=here", "train.num_epochs=2"])
