import dataclasses
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reid.data.market1501 import Listing, Manifest, PersonImage, Split, TestSet, TrainSet, list_folder
from reid.data.market_folders import HOW_TO_GET, missing_folders, require_folders
from reid.errors import ArtifactError, DatasetError
from tests.small_market import write_image, write_market


def test_a_listing_parts_images_bad_names_and_strays(tmp_path: Path) -> None:
    for name in ("0002_c1s1_000001_01.jpg", "-1_c2s1_000001_01.png", "holiday.jpeg"):
        write_image(tmp_path / name)
    (tmp_path / "Thumbs.db").write_bytes(b"")
    (tmp_path / "._0002_c1s1_000001_01.jpg").write_bytes(b"macOS keeps a file's colours here")
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "0003_c1s1_000001_01.jpg").mkdir()
    assert list_folder(tmp_path) == Listing(
        tmp_path,
        Split(tmp_path, (PersonImage("-1_c2s1_000001_01.png", -1, 2), PersonImage("0002_c1s1_000001_01.jpg", 2, 1))),
        misnamed=("holiday.jpeg",),
        strays=(".DS_Store", "._0002_c1s1_000001_01.jpg", "0003_c1s1_000001_01.jpg/", "Thumbs.db"),
    )


def test_a_link_to_itself_is_listed_as_an_image(tmp_path: Path) -> None:
    loop = tmp_path / "0002_c1s1_000001_01.jpg"
    loop.symlink_to(loop)
    assert list_folder(tmp_path).files == ["0002_c1s1_000001_01.jpg"]


def test_the_folders_name_is_never_taken_for_an_images(tmp_path: Path) -> None:
    folder = tmp_path / "run12_c3"
    write_image(folder / "0002_c1s1_000001_01.jpg")
    assert list_folder(folder).split.images == (PersonImage("0002_c1s1_000001_01.jpg", 2, 1),)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as error:
        list_folder(tmp_path / "absent")
    assert str(error.value) == f"{tmp_path}/absent: the folder cannot be listed: No such file or directory"


def test_a_split_gives_arrays_and_leaves_out_whom_it_is_asked_to() -> None:
    split = Split(Path("/d"), (PersonImage("a", -1, 1), PersonImage("b", 0, 2), PersonImage("c", 7, 3)))
    assert split.person.dtype == split.camera.dtype == np.int64
    assert split.person.tolist() == [-1, 0, 7]
    assert split.camera.tolist() == [1, 2, 3]
    assert split.paths == [Path("/d/a"), Path("/d/b"), Path("/d/c")]
    assert split.without_junk().person.tolist() == [0, 7]
    assert split.of_persons().person.tolist() == [7]
    assert len(Split(Path("/d"), ()).person) == 0


def _manifest(root: Path) -> Manifest:
    folders = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
    return Manifest("f00d", **{name: list_folder(root / folder).split for name, folder in folders.items()})


def test_a_manifest_comes_back_equal_and_always_in_the_same_bytes(tmp_path: Path) -> None:
    manifest = _manifest(write_market(tmp_path / "m"))
    manifest.save(tmp_path / "new" / "one.json")
    manifest.save(tmp_path / "two.json")
    assert Manifest.load(tmp_path / "new" / "one.json") == manifest
    assert (tmp_path / "new" / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "new", "two.json"]


def test_a_manifest_of_several_sets_comes_back_equal_and_one_of_a_single_set_says_nothing_of_sets(
    tmp_path: Path,
) -> None:
    market = _manifest(write_market(tmp_path / "m"))
    market.save(tmp_path / "single.json")
    assert list(json.loads((tmp_path / "single.json").read_text())) == ["fingerprint", "train", "query", "gallery"]
    several = dataclasses.replace(
        market,
        train_sets=(TrainSet("one", 0, 4, 2.0), TrainSet("two", 4, 2, 0.5)),
        test_sets=(TestSet("other", "b00c", market.gallery, market.query),),
        trained_on=("other",),
    )
    several.save(tmp_path / "several.json")
    assert Manifest.load(tmp_path / "several.json") == several
    drawn_as_one = dataclasses.replace(market, train_sets=(TrainSet("one", 0, 6),))
    drawn_as_one.save(tmp_path / "drawn_as_one.json")
    assert Manifest.load(tmp_path / "drawn_as_one.json") == drawn_as_one


def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    with pytest.raises(ArtifactError) as error:
        Manifest.load(path)
    assert str(error.value) == f"{path}: no such data set manifest; the manifest stage writes it"
    path.write_text("[]")
    with pytest.raises(ArtifactError) as error:
        Manifest.load(path)
    assert str(error.value) == (
        f"{path}: not a data set manifest (TypeError: list indices must be integers or slices, not str)\n"
        "  want: the file that the manifest stage writes"
    )
    split = {"root": "/d", "images": [["a.jpg", 1]]}
    path.write_text(json.dumps({"fingerprint": "f", "train": split, "query": split, "gallery": split}))
    with pytest.raises(ArtifactError):
        Manifest.load(path)


def test_missing_folders_are_all_reported_with_the_way_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError) as error:
        require_folders(train=tmp_path / "absent", query=None, gallery=tmp_path / "file")
    assert str(error.value) == (
        "the data set is not there: 3 of 3 folders missing\n"
        f"  train: no such folder: {tmp_path}/absent (dataset.train_dataset_dir)\n"
        "  query: dataset.query_dataset_dir is not set\n"
        f"  gallery: not a folder: {tmp_path}/file (dataset.test_dataset_dir)\n" + HOW_TO_GET
    )
    for wanted in (
        "ICCV 2015",
        "https://zheng-lab.cecs.anu.edu.au/",
        "bounding_box_train",
        "bounding_box_test",
        "query",
    ):
        assert wanted in HOW_TO_GET


def test_folders_that_are_there_are_not_missing(tmp_path: Path) -> None:
    assert missing_folders(train=tmp_path, query=str(tmp_path), gallery=tmp_path) == []
    require_folders(train=tmp_path, query=str(tmp_path), gallery=tmp_path)


def test_a_missing_data_set_is_reported_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys, reid.data.market_folders as m\n"
        "m.missing_folders(train='/absent', query=None, gallery=None)\n"
        "assert not {'torch', 'mlflow', 'PIL', 'numpy', 'kfp'} & set(sys.modules), sys.modules"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.2
    )  # seconds; Python itself takes 0.02
