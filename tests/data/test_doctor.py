import shutil
from pathlib import Path

import pytest
from PIL import Image

from reid.data.doctor import examine
from reid.data.file_names import MARKET1501, FileNames, file_names
from reid.data.findings import Finding
from reid.data.market1501 import IMAGE_ENDINGS
from reid.data.surveys import summarize, survey_folders
from tests.small_market import FOLDERS, write_image, write_market


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return write_market(tmp_path / "market")


def _examine(
    market: Path,
    num_classes: int | None = None,
    missing: dict[str, str] | None = None,
    names: FileNames = MARKET1501,
) -> list[Finding]:
    folders = {split: str(market / folder) for split, folder in FOLDERS.items()}
    surveys = survey_folders(folders, missing=missing or {}, names=names, index_file=market / "index.json")
    return examine(surveys, num_classes=num_classes)


def _findings(findings: list[Finding]) -> list[tuple[str, str, str, int]]:
    """Errors and warnings, without what every data set has: its junk and distractors."""
    return [(f.severity, f.check, f.message, f.count) for f in findings if f.severity != "note"]


def test_a_good_data_set_has_two_notes_and_nothing_else(market: Path) -> None:
    root = market / "bounding_box_test"
    assert _examine(market, num_classes=3) == [
        Finding(
            "note",
            "junk images",
            "gallery: 1 junk image (person -1); evaluation leaves them out",
            1,
            ("gallery/-1_c1s1_000001_01.jpg",),
            (root / "-1_c1s1_000001_01.jpg",),
        ),
        Finding(
            "note",
            "distractor images",
            "gallery: 1 distractor image (person 0); they stay in the gallery and match nobody",
            1,
            ("gallery/0000_c2s1_000001_01.jpg",),
            (root / "0000_c2s1_000001_01.jpg",),
        ),
    ]


def test_bad_names_are_an_error_with_the_grammar(market: Path) -> None:
    write_image(market / "query" / "holiday.png", format="PNG")
    write_image(market / "query" / "0004_c1s1_000001_00.jpg.jpg")
    (finding,) = (f for f in _examine(market) if f.severity == "error")
    assert finding == Finding(
        "error",
        "bad name",
        "query: 2 of 4 images are not named as Market-1501 names them; "
        "want PPPP_cCsS_FFFFFF_NN.jpg, e.g. 0002_c1s1_000451_03.jpg, or set dataset.file_name",
        2,
        ("query/0004_c1s1_000001_00.jpg.jpg", "query/holiday.png"),
        (market / "query" / "0004_c1s1_000001_00.jpg.jpg", market / "query" / "holiday.png"),
    )


def test_unreadable_images_are_an_error_each_with_its_reason(market: Path) -> None:
    (market / "bounding_box_train" / "0001_c1s1_000001_01.jpg").write_bytes(b"")
    (market / "bounding_box_train" / "0002_c1s1_000001_01.jpg").write_bytes(b"text")
    (finding,) = (f for f in _examine(market) if f.severity == "error")
    assert finding == Finding(
        "error",
        "unreadable image",
        "train: 2 of 6 images cannot be read",
        2,
        ("train/0001_c1s1_000001_01.jpg: empty file", "train/0002_c1s1_000001_01.jpg: not an image"),
    )


def test_a_person_in_train_and_test_is_an_error(market: Path) -> None:
    write_image(market / "bounding_box_train" / "0005_c1s1_000009_01.jpg")
    write_image(market / "bounding_box_train" / "0005_c2s1_000009_01.jpg")
    (finding,) = (f for f in _examine(market) if f.severity == "error")
    assert finding == Finding(
        "error",
        "person in train and test",
        "1 person of train also in query or gallery: the network would be tested on persons that it has learnt "
        "(if train and test were numbered separately, both from 1: renumber one)",
        1,
        ("person 5: train/0005_c1s1_000009_01.jpg and gallery/0005_c1s1_000001_01.jpg",),
        (
            market / "bounding_box_train" / "0005_c1s1_000009_01.jpg",
            market / "bounding_box_test" / "0005_c1s1_000001_01.jpg",
        ),
    )


def test_junk_and_distractors_are_nobody_and_so_in_no_two_splits(market: Path) -> None:
    for frame, split in enumerate(("train", "query")):
        write_image(market / FOLDERS[split] / f"0000_c1s1_{frame}_01.jpg")
        write_image(market / FOLDERS[split] / f"-1_c1s1_{frame}_02.jpg")
    assert _findings(_examine(market, num_classes=3)) == [
        ("warning", "junk images", "train: 1 junk image (person -1); they are of no use here and left out", 1),
        (
            "warning",
            "distractor images",
            "train: 1 distractor image (person 0); they are of no use here and left out",
            1,
        ),
        ("warning", "junk images", "query: 1 junk image (person -1); they are of no use here and left out", 1),
        (
            "warning",
            "distractor images",
            "query: 1 distractor image (person 0); they are of no use here and left out",
            1,
        ),
    ]


def test_a_num_classes_mismatch_names_both_numbers(market: Path) -> None:
    assert _findings(_examine(market, num_classes=751)) == [
        (
            "error",
            "num_classes",
            "dataset.num_classes is 751, but train shows 3 persons; "
            "set dataset.num_classes=3, or null to have them counted",
            1,
        )
    ]


def test_an_empty_split_is_an_error(market: Path) -> None:
    for path in (market / "query").iterdir():
        path.unlink()
    assert _findings(_examine(market)) == [("error", "empty split", f"query: no image in {market}/query", 1)]


def test_a_missing_folder_is_an_error_and_the_rest_is_still_looked_at(market: Path) -> None:
    (market / "bounding_box_train" / "notes.txt").write_bytes(b"")
    assert _findings(_examine(market, missing={"query": "no such folder: q (dataset.query_dataset_dir)"})) == [
        ("error", "cannot be listed", "query: no such folder: q (dataset.query_dataset_dir)", 1),
        (
            "warning",
            "stray file",
            "train: 1 stray beside the images; they are left out, and folders are not searched",
            1,
        ),
    ]


def test_one_training_person_is_too_few(market: Path) -> None:
    for path in (market / "bounding_box_train").glob("000[23]*"):
        path.unlink()
    assert _findings(_examine(market)) == [
        ("error", "too few persons", "train: 1 person; training compares at least 2", 1)
    ]


def test_duplicates_are_reported_by_the_splits_they_are_in_and_train_with_test_first(market: Path) -> None:
    train, query, gallery = (market / FOLDERS[split] for split in ("train", "query", "gallery"))
    shutil.copy(train / "0001_c1s1_000001_01.jpg", gallery / "0004_c1s1_000008_01.jpg")
    shutil.copy(train / "0002_c1s1_000001_01.jpg", train / "0002_c1s1_000008_01.jpg")
    shutil.copy(query / "0004_c1s1_000001_00.jpg", gallery / "0004_c1s1_000009_01.jpg")
    found = [f for f in _examine(market) if f.check == "exact duplicates"]
    assert [(f.message, f.examples) for f in found] == [
        (
            "TEST IMAGES IN TRAINING: 1 picture in train and, byte for byte, in gallery; scores will be too good; "
            "1 of them under different persons",
            ("train/0001_c1s1_000001_01.jpg = gallery/0004_c1s1_000008_01.jpg",),
        ),
        (
            "1 picture in both query and gallery, byte for byte",
            ("query/0004_c1s1_000001_00.jpg = gallery/0004_c1s1_000009_01.jpg",),
        ),
        (
            "train: 1 picture there more than once, byte for byte",
            ("train/0002_c1s1_000001_01.jpg = train/0002_c1s1_000008_01.jpg",),
        ),
    ]


UNKNOWN = file_names("market1501", cameras="none")


def test_unknown_cameras_are_a_note_and_one_camera_is_no_fault(market: Path) -> None:
    for path in market.glob("*/*_c2*"):
        path.rename(path.with_name(path.name.replace("_c2s1_00000", "_c1s1_00001")))
    findings = _examine(market, names=UNKNOWN)
    assert _findings(findings) == []
    assert [finding.message for finding in findings if finding.check == "unknown cameras"] == [
        "dataset.cameras is none: queries count as camera 1, gallery images as camera 2; "
        "every gallery image of a query's person is a match"
    ]
    assert "nothing to score" in {finding.check for finding in _examine(market)}


def test_a_query_that_is_in_the_gallery_finds_itself_if_cameras_are_unknown(market: Path) -> None:
    shutil.copy(market / "query" / "0004_c1s1_000001_00.jpg", market / "bounding_box_test")
    write_image(market / "bounding_box_test" / "0005_c2s1_000001_00.jpg", size=(33, 64))  # the same, saved otherwise
    assert _findings(_examine(market, names=UNKNOWN)) == [
        (
            "warning",
            "exact duplicates",
            "1 picture in both query and gallery, byte for byte; "
            "1 of them a query that will find itself: scores will be too good",
            1,
        ),
        (
            "warning",
            "query in gallery",
            "query: 1 image under a name that is in gallery too; if it is the same picture, "
            "the query will find itself: scores will be too good",
            1,
        ),
    ]
    known = [(check, message) for _, check, message, _ in _findings(_examine(market))]
    assert known == [("exact duplicates", "1 picture in both query and gallery, byte for byte")]


def test_if_no_name_is_as_wanted_the_pattern_and_the_first_names_are_shown(market: Path) -> None:
    names = file_names(r"(?P<person>\d+)-(?P<camera>\d+)", cameras="file_name")
    (train, *_) = _examine(market, names=names)
    assert (train.check, train.message) == (
        "bad name",
        r"train: none of 6 images is named as dataset.file_name says; want (?P<person>\d+)-(?P<camera>\d+) to match "
        "the whole name without its ending, person and camera as digits; "
        "found 0001_c1s1_000001_01.jpg, 0001_c2s1_000001_01.jpg, 0002_c1s1_000001_01.jpg",
    )


def test_queries_that_cannot_be_scored_are_reported(market: Path) -> None:
    write_image(market / "query" / "0006_c1s1_000001_00.jpg")
    (market / "bounding_box_test" / "0004_c2s1_000001_01.jpg").unlink()  # camera 1 is left: the query's own
    assert _findings(_examine(market)) == [
        (
            "warning",
            "query without its person",
            "query: 1 image whose person is not in the gallery; evaluation leaves them out",
            1,
        ),
        (
            "warning",
            "query without a cross-camera match",
            "query: 1 image whose person the gallery shows under the same camera only; evaluation leaves them out",
            1,
        ),
    ]


def test_nothing_to_score_is_an_error(market: Path) -> None:
    for name in ("0004_c2s1_000001_01.jpg", "0005_c1s1_000001_01.jpg"):
        (market / "bounding_box_test" / name).unlink()
    assert [one for one in _findings(_examine(market)) if one[0] == "error"] == [
        (
            "error",
            "nothing to score",
            "query: no image has a match under another camera in the gallery; nothing could be scored; "
            "if there is one camera only, or cameras are unknown, set dataset.cameras=none",
            2,
        )
    ]


def test_training_persons_of_one_camera_are_counted(market: Path) -> None:
    (market / "bounding_box_train" / "0003_c2s1_000001_01.jpg").unlink()
    assert _findings(_examine(market)) == [
        (
            "warning",
            "one camera",
            "train: 1 of 3 persons seen by one camera only; they teach nothing across cameras",
            1,
        ),
        (
            "warning",
            "one image",
            "train: 1 of 3 persons with one image only; a metric loss finds no second image of them",
            1,
        ),
    ]


def test_small_and_misshapen_images_are_warned_about(market: Path) -> None:
    write_image(market / "query" / "0004_c1s1_000002_00.jpg", size=(15, 32))
    write_image(market / "query" / "0004_c1s1_000003_00.jpg", size=(64, 32))
    assert _findings(_examine(market)) == [
        ("warning", "small image", "query: 1 image smaller than 16 x 32 pixels", 1),
        (
            "warning",
            "odd shape",
            "query: 1 image not shaped as a standing person (height over width outside 1 to 6); "
            "resizing will distort them",
            1,
        ),
    ]


def test_another_format_or_mode_is_only_a_note(market: Path) -> None:
    write_image(market / "query" / "0004_c1s1_000002_00.jpg", format="PNG")
    write_image(market / "query" / "0004_c1s1_000003_00.jpg", mode="L")
    findings = _examine(market)
    assert _findings(findings) == []
    assert [f.message for f in findings][:2] == [
        "query: 1 image of another format than the name ends in (first: PNG)",
        "query: 1 image converted when read (L 1)",
    ]


def test_every_ending_stands_for_a_format(market: Path) -> None:
    formats = ("JPEG", "JPEG", "JPEG", "PNG", "BMP", "WEBP", "TIFF", "TIFF")
    for number, (ending, format) in enumerate(zip(IMAGE_ENDINGS, formats, strict=True), start=2):
        write_image(market / "query" / f"0004_c1s1_00000{number}_00{ending.upper()}", format=format)
    assert [f.check for f in _examine(market)] == ["junk images", "distractor images"]


def test_what_is_turned_scaled_or_of_a_damaged_exif_block_is_a_note(market: Path) -> None:
    query = market / "query"
    for number, orientation in ((2, 6), (3, 6), (4, 8), (5, 1), (6, 0)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (64, 32), (number, 0, 0)).save(query / f"0004_c1s1_00000{number}_00.jpg", exif=exif)
    for number, mode in ((7, "I;16"), (8, "F")):
        Image.new(mode, (32, 64), number).save(query / f"0004_c1s1_00000{number}_00.tif")
    findings = [f for f in _examine(market) if f.check not in ("junk images", "distractor images", "empty picture")]
    assert [(f.severity, f.check, f.message, f.count) for f in findings] == [
        (
            "warning",
            "odd shape",  # the other three stand upright once they are turned
            "query: 2 images not shaped as a standing person (height over width outside 1 to 6); "
            "resizing will distort them",
            2,
        ),
        ("note", "EXIF orientation", "query: 3 images turned as EXIF says when read (orientation 6: 2, 8: 1)", 3),
        (
            "note",
            "damaged EXIF",
            "query: 1 image whose EXIF block is damaged or gives no orientation from 1 to 8; read as stored, perhaps "
            "not upright",
            1,
        ),
        (
            "note",
            "more than 8 bits",
            "query: 2 images scaled to 8 bits when read (F: 1, I;16: 1); I;16 is divided by 257, F from 0 to 1 is "
            "times 255, others are scaled by the range of each image",
            2,
        ),
    ]


def test_what_systems_leave_everywhere_is_ignored(market: Path) -> None:
    query = market / "query"
    for name in (".DS_Store", "._0004_c1s1_000001_00.jpg", "Thumbs.db", "desktop.ini"):
        (query / name).write_bytes(b"")
    (query / "@eaDir").mkdir()
    assert [f.check for f in _examine(market)] == ["junk images", "distractor images"]


def test_pictures_of_a_format_that_is_not_taken_are_an_error(market: Path) -> None:
    for number in (2, 3):
        (market / "query" / f"0004_c1s1_00000{number}_00.heic").write_bytes(b"")
    (error,) = (finding for finding in _examine(market) if finding.severity == "error")
    assert (error.check, error.count, error.examples[0]) == (
        "picture not taken",
        2,
        "query/0004_c1s1_000002_00.heic",
    )
    assert error.message == (
        "query: 2 pictures of formats that are not taken (.heic 2); convert them to one of .jpg, .jpeg, .jfif, .png, "
        ".bmp, .webp, .tif, .tiff, or move them away"
    )


@pytest.mark.parametrize("share", [0.5, 1])
def test_a_set_of_bitmaps_is_taken_whole(market: Path, share: float) -> None:
    files = sorted((market / "bounding_box_train").iterdir())
    for file in files[: int(len(files) * share)]:
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
    assert _findings(_examine(market)) == []


def test_everything_is_reported_at_once_errors_first(market: Path) -> None:
    train = market / "bounding_box_train"
    (train / "0001_c1s1_000001_01.jpg").write_bytes(b"")
    write_image(train / "x.jpg")
    (train / "notes.txt").write_bytes(b"")
    write_image(train / "0004_c1s1_000001_01.jpg")
    findings = _examine(market, num_classes=751)
    assert [f.check for f in findings] == [
        "bad name",
        "unreadable image",
        "person in train and test",
        "num_classes",
        "stray file",
        "one camera",
        "one image",
        "junk images",
        "distractor images",
    ]


def test_a_summary_counts_persons_without_junk_and_distractors(market: Path) -> None:
    folders = {split: str(market / folder) for split, folder in FOLDERS.items()}
    summary = summarize(
        survey_folders(folders, missing={}, names=MARKET1501, index_file=market / "index.json")["gallery"]
    )
    # person 4 has two images, person 5 one
    assert (summary.images, summary.persons, summary.cameras, summary.junk, summary.distractors) == (5, 2, 2, 1, 1)
    assert summary.images_per_person == (1, 2)
    assert summary.median_images == 1.5
    assert summary.images_per_camera == {1: 3, 2: 2}
    assert summary.sizes == {(32, 64): 5}
