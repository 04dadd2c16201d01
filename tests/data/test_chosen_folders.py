"""The manifest of the folders that one task reads."""

import shutil
from pathlib import Path

import pytest

from reid.data.chosen_folders import Folder, manifest_of
from reid.data.file_names import ANY, MARKET1501, file_names
from reid.data.market1501 import Manifest
from reid.data.market_folders import HOW_TO_GET
from reid.errors import DatasetError
from reid.spec import load_spec
from reid.stages.manifest import manifest
from reid.stages.validate import validate
from reid.tracking.stage_run import StageRun
from tests.small_market import FOLDERS, NAMES, write_image, write_market

BOTH = ("query", "gallery")
SPEC_FIELDS = {
    "train": "dataset.train_dataset_dir",
    "query": "dataset.query_dataset_dir",
    "gallery": "dataset.test_dataset_dir",
}


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return write_market(tmp_path / "market")


def folders(root: Path, **others: Folder) -> dict[str, Folder]:
    return {name: Folder(f"{root}/{FOLDERS[name]}", SPEC_FIELDS[name]) for name in FOLDERS} | others


def chosen(folders: dict[str, Folder], tmp_path: Path, *needed: str) -> Manifest:
    return manifest_of(folders, needed=needed or BOTH, names=MARKET1501, index_file=tmp_path / "store" / "index.json")


def refusal(folders: dict[str, Folder], tmp_path: Path, *needed: str) -> str:
    with pytest.raises(DatasetError) as caught:
        chosen(folders, tmp_path, *needed)
    return str(caught.value)


def test_it_is_the_pipelines_manifest_if_all_folders_are_there(market: Path, tmp_path: Path) -> None:
    names = {"train_dataset_dir": "train", "query_dataset_dir": "query", "test_dataset_dir": "gallery"}
    spec = load_spec(
        text=f"results_dir: {tmp_path}/r\ndataset: {{num_classes: null, batch_size: 8}}",
        overrides=[f"dataset.{field}={market}/{FOLDERS[name]}" for field, name in names.items()],
    )
    outputs = {name: tmp_path / name for name in ("report", "summary", "findings")}
    fingerprint = str(validate(spec, **outputs, run=StageRun.none()).parameters["fingerprint"])
    manifest(spec, fingerprint=fingerprint, dataset=tmp_path / "dataset", run=StageRun.none())
    assert chosen(folders(market), tmp_path) == Manifest.load(tmp_path / "dataset")


def test_a_folder_that_is_not_needed_may_be_absent(market: Path, tmp_path: Path) -> None:
    shutil.rmtree(market / FOLDERS["train"])
    manifest = chosen(folders(market), tmp_path)
    assert [len(manifest.train), len(manifest.query), len(manifest.gallery)] == [0, 2, 5]
    shutil.rmtree(market / FOLDERS["gallery"])
    assert [image.file for image in chosen(folders(market), tmp_path, "query").query.images] == NAMES["query"]


def test_other_images_have_another_fingerprint(market: Path, tmp_path: Path) -> None:
    before = chosen(folders(market), tmp_path).fingerprint
    write_image(market / "query" / "0004_c3s1_000009_00.jpg")
    assert chosen(folders(market), tmp_path).fingerprint != before


def test_names_read_otherwise_are_another_manifest_of_another_fingerprint(market: Path, tmp_path: Path) -> None:
    readings = [
        file_names(pattern, cameras=cameras)
        for pattern, cameras in (
            ("market1501", "file_name"),
            ("market1501", "none"),
            (r"(?P<person>-1|\d+)_c(?P<camera>\d).*", "file_name"),
            (r"(?P<person>-1|\d+)_c\ds(?P<camera>\d).*", "file_name"),
        )
    ]
    index_file = tmp_path / "index.json"
    read = [manifest_of(folders(market), needed=BOTH, names=names, index_file=index_file) for names in readings]
    assert len({manifest.fingerprint for manifest in read}) == len(readings)
    assert read[0].gallery == read[2].gallery
    assert [manifest.gallery.camera.tolist() for manifest in read[1::2]] == [[2] * 5, [1] * 5]


def test_who_asks_neither_for_persons_nor_for_cameras_takes_any_names(market: Path, tmp_path: Path) -> None:
    write_image(market / "query" / "holiday.jpg")
    manifest = manifest_of(folders(market), needed=BOTH, names=ANY, index_file=tmp_path / "index.json")
    assert [image.file for image in manifest.query.images] == [*NAMES["query"], "holiday.jpg"]


def test_the_way_to_market_1501_is_no_advice_for_other_names(market: Path, tmp_path: Path) -> None:
    unset = folders(market, query=Folder(None, SPEC_FIELDS["query"]))
    with pytest.raises(DatasetError) as caught:
        manifest_of(
            unset, needed=["query"], names=file_names("dukemtmc", cameras="none"), index_file=tmp_path / "index.json"
        )
    assert str(caught.value) == (
        "the images are not there: 1 of 1 folder missing\n  query: dataset.query_dataset_dir is not set"
    )


def test_a_missing_folder_is_named_by_the_field_that_names_it(market: Path, tmp_path: Path) -> None:
    own = Folder(f"{market}/nowhere", "evaluate.query_dataset")
    assert refusal(folders(market, query=own), tmp_path) == (
        "the images are not there: 1 of 2 folders missing\n"
        f"  query: no such folder: {market}/nowhere (evaluate.query_dataset)"
    )


def test_if_the_data_set_is_missing_the_error_says_how_to_get_it(market: Path, tmp_path: Path) -> None:
    unset = folders(market, query=Folder(None, SPEC_FIELDS["query"]))
    assert refusal(unset, tmp_path, "query") == (
        f"the images are not there: 1 of 1 folder missing\n  query: dataset.query_dataset_dir is not set\n{HOW_TO_GET}"
    )


def test_empty_misnamed_and_unreadable_are_reported_at_once(market: Path, tmp_path: Path) -> None:
    (market / "empty").mkdir()
    gallery = market / FOLDERS["gallery"]
    write_image(gallery / "someone.jpg")
    (gallery / "0005_c1s1_000001_01.jpg").write_bytes(b"")
    own = folders(market, query=Folder(f"{market}/empty", "inference.query_dataset"))
    assert refusal(own, tmp_path) == (
        "the images cannot be used: 3 errors\n"
        f"  query: no image in {market}/empty (inference.query_dataset)\n"
        "  gallery: 1 of 6 images are not named as Market-1501 names them; "
        "want PPPP_cCsS_FFFFFF_NN.jpg, e.g. 0002_c1s1_000451_03.jpg, or set dataset.file_name\n"
        f"    first: {gallery}/someone.jpg\n"
        "  gallery: 1 of 6 images cannot be read\n"
        f"    first: {gallery}/0005_c1s1_000001_01.jpg: empty file"
    )


def test_what_is_wrong_with_a_folder_that_is_not_needed_is_no_matter(market: Path, tmp_path: Path) -> None:
    (market / FOLDERS["train"] / "0001_c1s1_000001_01.jpg").write_bytes(b"no picture")
    assert len(chosen(folders(market), tmp_path).query) == 2
