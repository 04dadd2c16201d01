"""A data set of any layout, written in Market-1501's."""

import errno
import os
from pathlib import Path

import pytest

from reid.cli import commands as cli
from reid.data.convert import convert
from reid.data.file_names import MARKET1501
from reid.data.layouts.table import read_set
from reid.errors import DatasetError
from tests.small_market import write_image


def write(root: Path, *files: str) -> Path:
    for file in files:
        write_image(root / file, size=(16, 32))
    return root


@pytest.fixture
def persons(tmp_path: Path) -> Path:
    """Anna and bert to train on, carl to look for, dora beside him, one junk image; no cameras."""
    return write(
        tmp_path / "mine",
        *("train/bert/1.JPG", "train/anna/1.jpg", "train/anna/2.png", "query/carl/1.jpg"),
        *("gallery/carl/2.jpg", "gallery/dora/1.jpg", "gallery/-1/1.jpg"),
    )


def test_the_images_are_linked_under_markets_names_and_read_back_alike(persons: Path, tmp_path: Path) -> None:
    done = convert("folders", persons, tmp_path / "out", names=MARKET1501, copy=False)
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert files == [
        "bounding_box_test/-1_c2s1_000001_01.jpg",
        "bounding_box_test/0003_c2s1_000002_01.jpg",
        "bounding_box_test/0004_c2s1_000003_01.jpg",
        "bounding_box_train/0001_c1s1_000001_01.jpg",
        "bounding_box_train/0001_c1s1_000002_01.png",
        "bounding_box_train/0002_c1s1_000003_01.jpg",
        "persons.csv",
        "query/0003_c1s1_000001_01.jpg",
    ]
    assert (tmp_path / "out" / "persons.csv").read_text() == "number,person\n1,anna\n2,bert\n3,carl\n4,dora\n"
    first = tmp_path / "out" / "bounding_box_train" / "0001_c1s1_000001_01.jpg"
    assert first.samefile(persons / "train" / "anna" / "1.jpg")
    again = read_set("market1501", tmp_path / "out", splits=("train", "query", "gallery"), names=MARKET1501)
    for split, found in done.splits.items():
        listed = again.numbered.listings[split].split
        assert (listed.person.tolist(), listed.camera.tolist()) == (found.person.tolist(), found.camera.tolist())
    assert (done.linked, done.copied) == (7, 0)


def test_they_are_copied_if_that_is_asked_for_or_the_disk_has_no_links(
    persons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = convert("folders", persons, tmp_path / "asked", names=MARKET1501, copy=True)

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    needed = convert("folders", persons, tmp_path / "needed", names=MARKET1501, copy=False)
    assert asked.copied == needed.copied == 7
    for folder in ("asked", "needed"):
        copy = tmp_path / folder / "query" / "0003_c1s1_000001_01.jpg"
        assert copy.read_bytes() == (persons / "query" / "carl" / "1.jpg").read_bytes()
        assert copy.stat().st_nlink == 1


def test_nothing_is_written_if_the_data_set_cannot_be_read_completely(tmp_path: Path) -> None:
    root = write(tmp_path / "veri", "image_train/0001_c001_00016450_0.jpg", "image_train/holiday.jpg")
    write(root, "image_query/0002_c001_00016450_0.jpg")
    with pytest.raises(DatasetError) as error:
        convert("veri776", root, tmp_path / "out", names=MARKET1501, copy=False)
    assert str(error.value) == (
        f"{root}: not converted: 2 errors\n"
        "  train: 1 of 2 images are not named as VeRi-776 names them; want PPPP_cCCC_FFFFFFFF_N.jpg, "
        "e.g. 0001_c001_00016450_0.jpg, or set dataset.file_name\n"
        f"    first: {root}/image_train/holiday.jpg\n"
        f"  gallery: {root}/image_test: the folder cannot be listed: No such file or directory; want in {root} the "
        "folders image_train, image_query, image_test"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["veri"]


def test_a_conversion_that_is_cut_off_leaves_nothing_under_the_name(
    persons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(DatasetError) as error:
        convert("folders", persons, tmp_path / "out", names=MARKET1501, copy=False)
    assert str(error.value) == f"{tmp_path}/out: cannot be written\n  found: No space left on device"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_the_command_prints_the_counts_and_overwrites_nothing(
    persons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["dataset", "convert", str(persons), f"{tmp_path}/out", "--layout", "folders"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == (
        f"{tmp_path}/out:\n"
        "  bounding_box_train: 3 images of 2 persons under 1 camera\n"
        "  query: 1 image of 1 person under 1 camera\n"
        "  bounding_box_test: 3 images of 2 persons under 1 camera\n"
        "  7 linked, 0 copied\n"
        "  persons.csv says which number is which person\n"
        "  the files' names give no camera: queries count as camera 1, gallery images as camera 2; "
        "every gallery image of a query's person is a match\n"
    )
    assert cli.main(command) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/out: exists already; a data set is converted into a new folder only\n"
    )
    assert cli.main([*command[:3], f"{tmp_path}/other", "--layout", "folders", "--file-name", "("]) == 2
    assert capsys.readouterr().err.startswith("error: --file-name (\n  want: market1501 or dukemtmc, or a regular")


def test_an_image_that_is_no_file_is_an_error_of_the_data_set(tmp_path: Path) -> None:
    root = write(tmp_path / "mine", "train/a/1.jpg", "query/b/1.jpg", "gallery/b/2.jpg")
    (root / "train" / "a" / "2.jpg").symlink_to("2.jpg")
    for copy in (False, True):
        with pytest.raises(DatasetError) as error:
            convert("folders", root, tmp_path / "out", names=MARKET1501, copy=copy)
        assert str(error.value) == (
            f"{root}: not converted: 1 error\n"
            "  train: 1 image cannot be read\n"
            f"    first: {root}/train/a/2.jpg: Too many levels of symbolic links"
        )


def test_what_is_wrong_for_all_splits_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,person\n")
    with pytest.raises(DatasetError) as error:
        convert("csv", tmp_path, tmp_path / "out", names=MARKET1501, copy=False)
    assert str(error.value) == (
        f"{tmp_path}: not converted: 1 error\n"
        f"  train, query, gallery: {tmp_path}/list.csv:1: no column split; found path, person; want path, person, "
        "camera, split"
    )
