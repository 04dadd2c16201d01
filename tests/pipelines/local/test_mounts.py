"""What a container sees of this machine."""

from pathlib import Path

import pytest

from pipelines.local.mounts import cache_folders, mounts
from reid.errors import PipelineError
from reid.spec import Experiment, load_spec
from reid.spec.fields import pipeline_paths, value_of


def spec(text: str) -> Experiment:
    return load_spec(text=text)


def test_data_is_read_only_and_results_are_not(tmp_path: Path) -> None:
    for name in ("train", "test", "query"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "start.pth").write_text("")
    found = mounts(
        spec(
            f"results_dir: {tmp_path}/results\n"
            f"dataset: {{train_dataset_dir: {tmp_path}/data/train, test_dataset_dir: {tmp_path}/data/test,"
            f" query_dataset_dir: {tmp_path}/x/../data/query}}\n"
            f"train: {{resume_training_checkpoint_path: {tmp_path}/start.pth}}\n"
            f"export: {{onnx_file: {tmp_path}/out/model.onnx}}\n"
        ),
        stage="train",
        tracking_uri=f"sqlite:///{tmp_path}/tracking/mlflow.db",
        caches=[tmp_path / "cache"],
    )
    assert {str(path.relative_to(tmp_path)): writable for path, writable in found.items()} == {
        "data/train": False,
        "data/test": False,
        "data/query": False,
        "start.pth": False,
        "results": True,
        "results/store": True,
        "out": True,
        "tracking": True,
        "cache": True,
    }
    assert (tmp_path / "out").is_dir()  # Docker would have made it root's


def test_a_drawn_data_set_is_written_by_validate_and_by_no_other_stage(tmp_path: Path) -> None:
    drawn = spec(f"results_dir: {tmp_path}/results\ndataset: {{synthetic: {{root: {tmp_path}/drawn/data}}}}\n")
    before = mounts(drawn, stage="validate", tracking_uri="http://mlflow:5000", caches=[])
    assert {path: writable for path, writable in before.items() if "drawn" in path.parts} == {tmp_path / "drawn": True}
    for name in ("bounding_box_train", "bounding_box_test", "query"):
        (tmp_path / "drawn" / "data" / name).mkdir(parents=True)
    after = mounts(drawn, stage="train", tracking_uri="http://mlflow:5000", caches=[])
    assert {path.name: writable for path, writable in after.items() if "drawn" in path.parts} == {
        "bounding_box_train": False,
        "bounding_box_test": False,
        "query": False,
    }


def test_an_mlflow_folder_behind_a_link_is_there_under_both_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = mounts(
        spec(f"results_dir: {tmp_path}/r"), stage="train", tracking_uri=f"sqlite:///{tmp_path}/link/a.db", caches=[]
    )
    assert found[tmp_path / "link"] and found[tmp_path / "real"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError) as caught:
        mounts(spec(f"results_dir: {tmp_path}/file/x"), stage="train", tracking_uri="", caches=[])
    assert str(caught.value) == f"train writes to {tmp_path}/file/x, which cannot be made: Not a directory"


def test_fetched_weights_are_kept_where_this_machine_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    fetched = cache_folders(spec("model: {pretrain_choice: imagenet}"), Path("/repo"))
    assert fetched == {
        "NUMBA_CACHE_DIR": Path("/repo/.cache/numba"),
        "TORCHINDUCTOR_CACHE_DIR": Path("/repo/.cache/compiled"),
        "HF_HOME": tmp_path / ".cache" / "huggingface",
    }
    plain = spec('{model: {pretrain_choice: ""}, train: {compile: "off"}}')
    assert set(cache_folders(plain, Path("/repo"))) == {"NUMBA_CACHE_DIR"}


def test_a_fetched_data_set_is_written_by_validate_from_an_archive_that_it_reads(tmp_path: Path) -> None:
    (tmp_path / "market.zip").write_text("")
    (tmp_path / "sets/market/query").mkdir(parents=True)
    text = (
        f"results_dir: {tmp_path}/r\ndataset: {{source: {{root: {tmp_path}/sets/market, zip: {tmp_path}/market.zip}}}}"
    )
    found = {stage: mounts(spec(text), stage=stage, tracking_uri="", caches=[]) for stage in ("validate", "train")}
    assert found["validate"][tmp_path / "market.zip"] is False
    assert found["validate"][tmp_path / "sets"] is True
    assert tmp_path / "sets" not in found["train"]
    assert found["train"][tmp_path / "sets/market/query"] is False


def test_every_path_that_a_pipeline_reads_or_writes_is_mounted(tmp_path: Path) -> None:
    missed = []
    for name in pipeline_paths():
        if name.startswith(("dataset.synthetic.", "dataset.source.")):
            continue
        ending = "json" if name == "inference.output_file" else "png"  # rows or a plot; others take any
        there = tmp_path / name / f"file.{ending}"
        there.mkdir(parents=True)
        section, field = name.split(".", 1)
        value = [str(there)] if isinstance(value_of(spec(""), name), list) else there
        nested = f"{{{field.replace('.', ': {')}: {value}" + "}" * (field.count(".") + 1)
        found = mounts(
            spec(f"results_dir: {tmp_path}/r\n{section}: {nested}\n"), stage="train", tracking_uri="", caches=[]
        )
        if not {there, there.parent} & set(found):
            missed.append(name)
    assert missed == []


def test_a_folder_of_images_that_is_not_under_the_made_data_set_is_mounted_too(tmp_path: Path) -> None:
    (tmp_path / "query").mkdir()
    (tmp_path / "drawn/query").mkdir(parents=True)
    text = f"dataset: {{query_dataset_dir: {tmp_path}/query, synthetic: {{root: {tmp_path}/drawn}}}}"
    found = mounts(spec(f"results_dir: {tmp_path}/r\n{text}"), stage="validate", tracking_uri="", caches=[])
    assert found == {tmp_path / "query": False, tmp_path: True, tmp_path / "r": True, tmp_path / "r/store": True}


def test_the_paths_of_the_spec_are_looked_for_at_all() -> None:
    assert {"dataset.store_dir", "model.pretrained_model_path", "export.onnx_file"} <= set(pipeline_paths())


def test_the_roots_of_all_sets_are_mounted_and_of_a_list_its_folder(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "c" / "images.csv").write_text("path,person,split")
    text = (
        f"results_dir: {tmp_path}/r\n"
        f"dataset: {{layout: csv, root: {tmp_path}/c/images.csv, train_sets: [{{name: a, root: {tmp_path}/a}}],"
        f" test_sets: [{{name: b, root: {tmp_path}/b}}]}}"
    )
    found = mounts(spec(text), stage="manifest", tracking_uri="", caches=[])
    assert {path for path, writable in found.items() if not writable} == {tmp_path / name for name in "abc"}
