from pathlib import Path

import pytest

from reid.data.doctor import examine
from reid.data.file_names import MARKET1501
from reid.data.market1501 import list_folder
from reid.data.no_images import found_instead
from reid.data.surveys import survey_folders
from tests.small_market import FOLDERS, write_market

CONVERT = "an image ends in .jpg, .jpeg, .jfif, .png, .bmp, .webp, .tif, .tiff; convert others"
SEARCH = "folders are not searched; if each is a person, set dataset.layout=folders and dataset.root"


@pytest.mark.parametrize(
    "files, wanted",
    [
        ([], ""),
        ([".DS_Store", "._0001_c1s1_1_1.jpg"], ""),
        (["0001/", "0002/"], f": 2 folders (first: 0001/); {SEARCH}"),
        (["a.HEIC", "b.heic", "c.gif"], f": 2 .heic files, 1 .gif file; {CONVERT}"),
        (["a.npy", "README", "0001/"], f": 1 folder (first: 0001/), 1 .npy file, 1 other file; {SEARCH}; {CONVERT}"),
        (
            ["a.npy", "a.gif", "b.gif", "a.heic", "b.heic", "c.heic", "a.mp4"],
            f": 3 .heic files, 2 .gif files, 1 .mp4 file, 1 other file; {CONVERT}",
        ),
    ],
)
def test_a_folder_without_images_says_what_it_has_instead(tmp_path: Path, files: list[str], wanted: str) -> None:
    for name in files:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_bytes(b"")
    assert found_instead(list_folder(tmp_path)) == wanted


def test_a_folder_of_persons_is_an_error_with_advice(tmp_path: Path) -> None:
    root = write_market(tmp_path)
    for image in (root / "query").iterdir():
        image.unlink()
    (root / "query" / "0004").mkdir()
    folders = {name: f"{root}/{folder}" for name, folder in FOLDERS.items()}
    surveys = survey_folders(folders, missing={}, names=MARKET1501, index_file=tmp_path / "index.json")
    (error,) = (finding for finding in examine(surveys, num_classes=None) if finding.severity == "error")
    assert error.message == f"query: no image in {root}/query: 1 folder (first: 0004/); {SEARCH}"
