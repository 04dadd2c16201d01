"""The manifest stage: the images that validate has checked, or an error if they are others now."""

from pathlib import Path

import pytest

from reid.data import image_file
from reid.data.market1501 import Manifest
from reid.errors import DatasetError
from reid.spec import Experiment, load_spec
from reid.spec.slices import stage_slice
from reid.stages.manifest import manifest
from reid.stages.outcome import Outcome
from reid.stages.validate import validate
from reid.tracking.stage_run import StageRun
from tests.small_market import write_image, write_market


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return write_market(tmp_path / "market")


def spec_of(root: Path, results: Path, *overrides: str) -> Experiment:
    folders = {"train_dataset_dir": "bounding_box_train", "query_dataset_dir": "query"}
    folders["test_dataset_dir"] = "bounding_box_test"
    places = [f"dataset.{field}={root}/{name}" for field, name in folders.items()]
    return load_spec(
        text=f"results_dir: {results}\ndataset: {{num_classes: null, batch_size: 8}}", overrides=[*places, *overrides]
    )


def fingerprint_of(spec: Experiment, folder: Path) -> str:
    files = {name: folder / name for name in ("report", "summary", "findings")}
    return str(validate(spec, **files, run=StageRun.none()).parameters["fingerprint"])


def listed(spec: Experiment, fingerprint: str, folder: Path) -> tuple[Manifest, Outcome]:
    """What the stage makes of its own part of the spec, as in a pipeline."""
    own = load_spec(text=stage_slice(spec, "manifest"))
    outcome = manifest(own, fingerprint=fingerprint, dataset=folder / "dataset.json", run=StageRun.none())
    return Manifest.load(folder / "dataset.json"), outcome


def test_it_lists_the_images_that_validate_has_checked(market: Path, tmp_path: Path) -> None:
    spec = spec_of(market, tmp_path / "results")
    found, outcome = listed(spec, fingerprint := fingerprint_of(spec, tmp_path / "checked"), tmp_path)
    assert found.fingerprint == fingerprint
    assert found.train.root == market / "bounding_box_train"
    assert [len(split) for split in (found.train, found.query, found.gallery)] == [6, 2, 5]
    assert outcome == Outcome({}, {}, [f"13 images, fingerprint {fingerprint[:12]}"])


def test_a_pod_without_validates_index_hashes_the_images_and_decodes_none(
    market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(market, tmp_path / "results")
    here, _ = listed(spec, fingerprint := fingerprint_of(spec, tmp_path / "checked"), tmp_path)

    def fail(*_: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(image_file.Image, "open", fail)
    elsewhere, _ = listed(spec_of(market, tmp_path / "another"), fingerprint, tmp_path)
    assert elsewhere == here
    assert not (tmp_path / "another" / "store" / "index.json").exists()  # nothing in it would have been decoded


def test_data_that_changed_after_validate_is_an_error(market: Path, tmp_path: Path) -> None:
    spec = spec_of(market, tmp_path / "results")
    before = fingerprint_of(spec, tmp_path / "checked")
    write_image(market / "query" / "0004_c1s1_000001_00.jpg", size=(16, 64))
    after = fingerprint_of(spec, tmp_path / "checked")
    with pytest.raises(DatasetError) as error:
        listed(spec, before, tmp_path)
    assert str(error.value) == (
        "the data set has changed between the stages validate and manifest\n"
        f"  found: fingerprint {after}\n"
        f"  want:  fingerprint {before}, which validate has found; start the run again"
    )
    assert not (tmp_path / "dataset.json").exists()


def test_a_folder_that_is_gone_is_named(market: Path, tmp_path: Path) -> None:
    (market / "query").rename(market / "moved")
    with pytest.raises(
        DatasetError, match=rf"^the data set is not there: 1 of 3 .*\n  query: no such folder: {market}"
    ):
        listed(spec_of(market, tmp_path), "f", tmp_path)


def test_a_relative_folder_becomes_absolute(market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = spec_of(Path("market"), tmp_path / "results")
    found, _ = listed(spec, fingerprint_of(spec, tmp_path / "checked"), tmp_path)
    assert found.query.root == market / "query"


def test_training_images_that_cannot_be_read_are_left_out_if_the_spec_says_so(market: Path, tmp_path: Path) -> None:
    bad = sorted((market / "bounding_box_train").iterdir())[0]
    bad.write_bytes(b"no picture")
    spec = spec_of(market, tmp_path / "results", "dataset.corrupt_images=skip")
    fingerprint = fingerprint_of(spec, tmp_path / "checked")
    for results in ("results", "another"):  # with and without validate's index
        found, _ = listed(spec_of(market, tmp_path / results, "dataset.corrupt_images=skip"), fingerprint, tmp_path)
        assert len(found.train) == 5
        assert bad not in found.train.paths


def test_other_file_names_go_into_the_manifest_as_their_own_pattern_reads_them(tmp_path: Path) -> None:
    for file in ("bounding_box_train/1-1_left.jpg", "bounding_box_train/1-2_right.jpg", "bounding_box_train/20-1_a.jpg",
                 "bounding_box_train/20-2_x.jpg", "query/300-1_left.jpg", "bounding_box_test/300-2_left.jpg",
                 "bounding_box_test/0-2_nobody.jpg"):  # fmt: skip
        write_image(tmp_path / file)
    spec = spec_of(tmp_path, tmp_path / "results", r"dataset.file_name=(?P<person>\d+)-(?P<camera>\d+)_.*")
    found, _ = listed(spec, fingerprint_of(spec, tmp_path / "checked"), tmp_path)
    assert [(image.file, image.person, image.camera) for image in found.train.images] == [
        ("1-1_left.jpg", 1, 1),
        ("1-2_right.jpg", 1, 2),
        ("20-1_a.jpg", 20, 1),
        ("20-2_x.jpg", 20, 2),
    ]
    assert [(image.person, image.camera) for image in found.gallery.images] == [(0, 2), (300, 2)]


def test_a_root_that_is_not_there_is_named_with_its_field(tmp_path: Path) -> None:
    market = write_market(tmp_path / "market")
    spec = load_spec(
        text=f"results_dir: {tmp_path}/r",
        overrides=[f"dataset.root={market}", f"dataset.train_sets=[{{name: far, root: {tmp_path}/away}}]"],
    )
    with pytest.raises(DatasetError) as error:
        manifest(spec, fingerprint="f", dataset=tmp_path / "dataset.json", run=StageRun.none())
    assert str(error.value) == (
        f"the data set is not there: 1 of 3 folders missing\n  dataset.train_sets, far: no such folder: {tmp_path}/away"
    )
