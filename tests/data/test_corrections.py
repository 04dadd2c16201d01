from pathlib import Path

import pytest

from reid.data.corrections import CorrectionsFile
from reid.data.doctor_sets import across_sets
from reid.data.file_index import read_images
from reid.data.file_names import MARKET1501
from reid.data.findings import Finding
from reid.data.sets import MainSet, Place, SetsSeen, WantedSet, look_at_sets
from reid.errors import DatasetError
from reid.files.hashes import file_sha256
from tests.small_market import FOLDERS, write_image, write_market

TRAIN = "0001_c1s1_000001_01.jpg"
QUERY = "0004_c1s1_000001_00.jpg"
MATCH = "0004_c2s1_000001_01.jpg"
NO_SHA = "0" * 64


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return write_market(tmp_path / "market")


def _look(root: Path, *, train: str = "", test: str = "", cameras: bool = True) -> SetsSeen:
    """The main set; with another training or test set of the same folder, if that has a name."""
    place = Place("market1501", root, MARKET1501)
    splits = ("query", "gallery") if train else ("train", "query", "gallery")
    main = MainSet(None, {name: str(root / FOLDERS[name]) for name in splits}, {}, MARKET1501, splits)
    return look_at_sets(
        main,
        train_sets=[WantedSet(train, place)] if train else [],
        test_sets=[WantedSet(test, place)] if test else [],
        index_file=root / "index.json",
        read=read_images,
    )


def _file(market: Path, *lines: tuple[str, str]) -> Path:
    """A file of corrections (image, correction) with the hashes that the images have."""
    path = market / "corrections.csv"
    rows = []
    for image, what in lines:
        split, _, name = image.rpartition(": ")[2].partition("/")
        rows.append(f"{image},{file_sha256(market / FOLDERS[split] / name)},{what}")
    path.write_text("\n".join(["# mine", "image,sha256,correction", "", *rows, "# train/x,,drop"]))
    return path


def _corrected(seen: SetsSeen, path: Path, *, sets: tuple[str, ...] = ()) -> tuple[SetsSeen, list[Finding]]:
    return seen.with_corrections(CorrectionsFile(path), sets=sets)


def test_images_are_left_out_or_are_of_another_person_or_camera_and_the_fingerprint_follows(market: Path) -> None:
    write_image(market / FOLDERS["train"] / "holiday.jpg")
    seen = _look(market)
    path = _file(
        market,
        (f"train/{TRAIN}", "person: 2"),
        (f"train/{TRAIN}", "camera: 7"),
        ("train/holiday.jpg", "drop"),
        ("gallery/0000_c2s1_000001_01.jpg", "drop"),
    )
    after, notes = _corrected(seen, path)
    first = after.surveys["train"].images[0]
    assert (first.file, first.person, first.camera) == (TRAIN, 2, 7)
    assert after.surveys["train"].misnamed == ""
    assert "0000_c2s1_000001_01.jpg" not in {image.file for image in after.surveys["gallery"].images}
    assert after.surveys["query"] == seen.surveys["query"]
    assert [(note.severity, note.message, note.count) for note in notes] == [
        (
            "note",
            f"train: 3 corrections by {path}: 1 left out, 1 of another person, 1 of another camera",
            3,
        ),
        ("note", f"gallery: 1 correction by {path}: 1 left out", 1),
    ]
    assert after.fingerprint != seen.fingerprint
    assert after.fingerprint == _corrected(_look(market), path)[0].fingerprint
    other = _file(market, (f"train/{TRAIN}", "person: 3"))
    assert _corrected(seen, other)[0].fingerprint not in (after.fingerprint, seen.fingerprint)
    assert _corrected(seen, _file(market))[0].fingerprint == seen.fingerprint


def test_a_line_names_the_set_that_it_is_for(market: Path) -> None:
    seen = _look(market, train="one", test="two")
    path = _file(market, (f"one: train/{TRAIN}", "drop"), ("two: gallery/0000_c2s1_000001_01.jpg", "drop"))
    after, notes = _corrected(seen, path, sets=("one", "two"))
    assert len(after.train_sets[0].survey.images) == len(seen.train_sets[0].survey.images) - 1
    assert len(after.test_sets[0].surveys["gallery"].images) == len(seen.test_sets[0].surveys["gallery"].images) - 1
    assert after.surveys == seen.surveys
    assert [note.message.partition(" by ")[0] for note in notes] == [
        "one: train: 1 correction",
        "two: gallery: 1 correction",
    ]
    assert after.test_sets[0].fingerprint != seen.test_sets[0].fingerprint
    alone = _look(market)  # a training alone does not look at further test sets
    with pytest.raises(DatasetError) as caught:
        _corrected(alone, path, sets=("one",))
    assert str(caught.value) == (
        f"{path}:5: two: gallery/0000_c2s1_000001_01.jpg: no set of this name; want one of one"
    )
    assert _corrected(alone, path, sets=("one", "two")) == (alone, [])


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (
            "train/absent.jpg,{none},drop",
            "train/absent.jpg: no such image; want an image of {market}/bounding_box_train",
        ),
        (
            "train/{train},{none},drop",
            "train/{train}: the file is another one\n  found: sha256 {sha}\n  want:  sha256 {none}",
        ),
        ("train/{train},{sha},person: 0", "found person 0; want 1 to 2147483647 for an image of train"),
        ("train/{train},{sha},person: -2", "found person -2; want 1 to 2147483647 for an image of train"),
        ("gallery/{train},{sha},person: -2", "found person -2; want -1 to 2147483647 for an image of gallery"),
        (
            "train/{train},{sha},camera: 9999999999",
            "found camera 9999999999; want 0 to 2147483647 for an image of train",
        ),
        ("train/{train},{sha},remove", "found the correction 'remove'; want drop, person: N or camera: N"),
        ("train/{train},{sha},person: 1.5", "found the correction 'person: 1.5'; want drop, person: N or camera: N"),
        ("{train},{sha},drop", "found the image '{train}'; want SPLIT/FILE, or SET: SPLIT/FILE"),
        ("train/{train},abc,drop", "found the sha256 'abc'; want 64 digits of 0 to 9 and a to f"),
        ("train/{train},drop", "found 2 values; want image,sha256,correction"),
        (
            "train/{train},{sha},person: 2\ntrain/{train},{sha},person: 2",
            "train/{train}: person: 2 repeats line 2, person: 2",
        ),
        (
            "train/{train},{sha},person: 2\ntrain/{train},{sha},person: 3",
            "train/{train}: person: 3 contradicts line 2, person: 2",
        ),
        (
            "train/{train},{sha},camera: 2\ntrain/{train},{sha},drop",
            "train/{train}: drop contradicts line 2, camera: 2",
        ),
    ],
)
def test_a_line_that_cannot_be_applied_is_named(market: Path, line: str, error: str) -> None:
    words = {"none": NO_SHA, "market": str(market), "train": TRAIN}
    words["sha"] = file_sha256(market / FOLDERS["train"] / TRAIN)
    path = market / "c.csv"
    path.write_text("image,sha256,correction\n" + line.format(**words))
    with pytest.raises(DatasetError) as caught:
        _corrected(_look(market), path)
    assert str(caught.value) == f"{path}:{2 + line.count(chr(10))}: " + error.format(**words)


def test_a_query_that_loses_its_last_match_is_refused_with_the_line_that_took_it(market: Path) -> None:
    path = _file(market, (f"train/{TRAIN}", "drop"), (f"gallery/{MATCH}", "drop"))
    with pytest.raises(DatasetError) as caught:
        _corrected(_look(market), path)
    assert str(caught.value) == (
        f"{path}:5: query/{QUERY} has no match in the gallery under another camera any more; want it dropped too"
    )
    path = _file(market, (f"query/{QUERY}", "drop"), (f"gallery/{MATCH}", "drop"))
    assert [image.file for image in _corrected(_look(market), path)[0].surveys["query"].images] == [
        "0005_c2s1_000001_00.jpg"
    ]
    with pytest.raises(DatasetError) as caught:
        _corrected(_look(market), _file(market, (f"query/{QUERY}", "person: 8")))
    assert str(caught.value).startswith(f"{path}:4: query/{QUERY} has no match")


def test_what_is_no_file_of_corrections_is_refused(tmp_path: Path) -> None:
    for name, content, error in (
        ("empty.csv", "", None),
        ("head.csv", "file;what\n", ":1: found 'file;what'; want the columns image,sha256,correction"),
        ("quote.csv", 'image,sha256,correction\n"a', ":2: found 1 value; want image,sha256,correction"),
    ):
        (tmp_path / name).write_text(content)
        if error is None:
            assert CorrectionsFile(tmp_path / name).corrections == ()
            continue
        with pytest.raises(DatasetError) as caught:
            CorrectionsFile(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}{error}"
    for path, why in (
        (tmp_path, "no regular file"),
        (tmp_path / "absent.csv", "cannot be read: No such file or directory"),
    ):
        with pytest.raises(DatasetError) as caught:
            CorrectionsFile(path)
        assert str(caught.value) == f"{path}: {why} (dataset.corrections)\n  want: a CSV of corrections"


def test_a_test_image_corrected_to_a_training_person_is_found_in_a_further_set_of_the_same_folder(market: Path) -> None:
    path = _file(market, (f"again: query/{QUERY}", "drop"), (f"again: gallery/{MATCH}", "person: 1"))
    seen, _ = _corrected(_look(market, train="first", test="again"), path, sets=("first", "again"))
    found = [finding for finding in across_sets(seen) if finding.check == "person in train and test"]
    assert [finding.examples for finding in found] == [
        (f"first and again: person 1: train/{TRAIN} and gallery/{MATCH}",)
    ]
