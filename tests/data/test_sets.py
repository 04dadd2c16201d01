"""One look at a main set, several training sets and further test sets; and their checks."""

import shutil
from pathlib import Path

import pytest

from reid.data.doctor_sets import examine_sets, summarize_sets
from reid.data.file_index import hash_images, read_images
from reid.data.file_names import MARKET1501
from reid.data.layouts.layout import SPLITS, LayoutName
from reid.data.market1501 import TrainSet
from reid.data.sets import (
    MainSet,
    Place,
    SetsSeen,
    WantedSet,
    evaluation_fingerprint,
    look_at_sets,
    look_at_test_sets,
)
from reid.data.surveys import fingerprint_of, survey_folders
from tests.small_market import FOLDERS, write_image, write_market


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return write_market(tmp_path / "one")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Training images of persons 1, 2 and 3 under the cameras 1 and 2, of other sizes than those of `one`."""
    for person in (1, 2, 3):
        for camera in (1, 2):
            write_image(tmp_path / "two" / FOLDERS["train"] / f"000{person}_c{camera}s2_000009_01.jpg", size=(16, 32))
    return tmp_path / "two"


def wanted(name: str, root: Path, share: float | None = None) -> WantedSet:
    return WantedSet(name, Place("market1501", root, MARKET1501), share)


def look(main: Path, train: list[WantedSet], test: list[WantedSet] | None = None) -> SetsSeen:
    splits = ("query", "gallery") if train else tuple(FOLDERS)
    folders = {split: f"{main}/{FOLDERS[split]}" for split in splits}
    return look_at_sets(
        MainSet(None, folders, {}, MARKET1501, splits),
        train_sets=train,
        test_sets=test or [],
        index_file=main.parent / "index.json",
        read=read_images,
    )


def findings(seen: SetsSeen, num_classes: int | None = None) -> list[tuple[str, str]]:
    found = examine_sets(seen, num_classes=num_classes, input_size=(32, 64))
    return [(finding.severity, finding.message) for finding in found if finding.severity != "note"]


def test_a_main_set_alone_has_the_fingerprint_and_the_manifest_that_it_always_had(one: Path) -> None:
    seen = look(one, [])
    folders = {split: f"{one}/{folder}" for split, folder in FOLDERS.items()}
    before = survey_folders(dict(folders), missing={}, names=MARKET1501, index_file=one.parent / "other.json")
    assert seen.fingerprint == fingerprint_of(before)
    manifest = seen.manifest("f")
    assert {split: getattr(manifest, split) for split in FOLDERS} == {
        split: survey.listing.split for split, survey in before.items()
    }
    assert not manifest.train_sets and not manifest.test_sets
    assert [summary.title for summary in summarize_sets(seen)] == ["train", "query", "gallery"]


def test_several_training_sets_are_joined_and_checked_as_one_and_by_themselves(one: Path, two: Path) -> None:
    seen = look(one, [wanted("one", one, 2.0), wanted("two", two, 1.0)])
    manifest = seen.manifest("f")
    # persons 1, 2, 3 of each set under the cameras 1 and 2 of each: 6 persons, 4 cameras, 6 + 6 images
    assert manifest.train_sets == (TrainSet("one", 0, 6, 2.0), TrainSet("two", 6, 6, 1.0))
    assert sorted(set(manifest.train.person.tolist())) == [1, 2, 3, 4, 5, 6]
    assert sorted(set(manifest.train.camera.tolist())) == [1, 2, 3, 4]
    assert manifest.train.root == one.parent
    assert len(manifest.query) == 2
    assert findings(seen) == []
    assert findings(seen, num_classes=3) == [
        (
            "error",
            "dataset.num_classes is 3, but train shows 6 persons; "
            "set dataset.num_classes=6, or null to have them counted",
        )
    ]
    assert [summary.title for summary in summarize_sets(seen)] == ["one train", "two train", "query", "gallery"]


def test_a_finding_names_its_set(one: Path, two: Path) -> None:
    write_image(two / FOLDERS["train"] / "holiday.jpg")
    shutil.copy(two / FOLDERS["train"] / "0001_c1s2_000009_01.jpg", one / "query" / "0004_c1s1_000077_01.jpg")
    write_image(one / FOLDERS["train"] / "0004_c1s1_000099_01.jpg")
    seen = look(one, [wanted("two", two)], [wanted("again", one)])
    assert findings(seen)[:1] == [
        (
            "error",
            "two: train: 1 of 7 images are not named as Market-1501 names them; "
            "want PPPP_cCsS_FFFFFF_NN.jpg, e.g. 0002_c1s1_000451_03.jpg, or set dataset.file_name",
        )
    ]
    leaks = [message for _, message in findings(seen) if "TEST IMAGES IN TRAINING" in message]
    assert leaks == [
        f"two and {test}: TEST IMAGES IN TRAINING: 1 picture in train and, byte for byte, in query; "
        "scores will be too good"
        for test in ("main set", "again")
    ]


def test_a_person_in_train_and_test_is_found_if_both_are_of_one_data_set(one: Path, two: Path) -> None:
    write_image(one / FOLDERS["train"] / "0004_c1s1_000099_01.jpg")
    said = findings(look(one, [wanted("one", one), wanted("two", two)]))
    (error,) = [message for severity, message in said if severity == "error"]
    assert error.startswith("one and main set: 1 person of train also in query or gallery")


def test_equal_numbers_in_two_data_sets_that_lie_side_by_side_are_other_persons(one: Path, tmp_path: Path) -> None:
    for name, splits in (("x", ["train"]), ("y", ["query", "gallery"])):
        files = [write_image(tmp_path / name / f"{split}.jpg", size=(16, 32 + len(split))) for split in splits]
        rows = [f"{file.name},7,{split},{split}" for file, split in zip(files, splits)]
        (tmp_path / name / "images.csv").write_text("\n".join(["path,person,camera,split", *rows]))
    x, y = (WantedSet(name, Place("csv", tmp_path / name, MARKET1501)) for name in "xy")
    said = [message for _, message in findings(look(one, [x, wanted("one", one)], [y]))]
    assert said == [
        "x: train: 1 of 1 person seen by one camera only; they teach nothing across cameras",
        "x: train: 1 of 1 person with one image only; a metric loss finds no second image of them",
    ]


def test_the_fingerprint_follows_every_training_set_and_not_the_shares(one: Path, two: Path) -> None:
    before = look(one, [wanted("two", two, 1.0)]).fingerprint
    assert look(one, [wanted("two", two, 2.0)]).fingerprint == before
    assert look(one, [wanted("two", two, 1.0), wanted("one", one, 1.0)]).fingerprint != before
    write_image(two / FOLDERS["train"] / "0003_c2s2_000009_01.jpg", size=(18, 32))
    assert look(one, [wanted("two", two, 1.0)]).fingerprint != before


def test_further_test_sets_are_in_the_fingerprint_of_the_evaluation_alone(one: Path, tmp_path: Path) -> None:
    away = write_market(tmp_path / "away")
    alone, two_names = look(one, []), [look(one, [], [wanted(name, away)]) for name in ("shop", "doors")]

    def of_all(seen: SetsSeen) -> str:
        return evaluation_fingerprint(seen.fingerprint, seen.test_sets)

    assert of_all(alone) == alone.fingerprint
    write_image(away / FOLDERS["query"] / "0005_c1s1_000009_01.jpg", size=(18, 32))
    changed = look(one, [], [wanted("shop", away)])
    assert {seen.fingerprint for seen in (*two_names, changed)} == {alone.fingerprint}
    assert len({of_all(seen) for seen in (alone, *two_names, changed)}) == 4


def test_a_further_test_set_is_the_same_alone_and_beside_a_training_set_of_its_place(one: Path, tmp_path: Path) -> None:
    """Their persons are numbered apart, and one that is in both is found all the same."""
    rows = ["path,person,camera,split"]
    for person, split in (("anna", "train"), ("bob", "train"), ("bob", "query"), ("zoe", "query"), ("bob", "gallery")):
        rows.append(f"{person}-{split}.jpg,{person},{split},{split}")
        write_image(tmp_path / "mine" / f"{person}-{split}.jpg", size=(16 + len(rows), 32))
    (tmp_path / "mine" / "images.csv").write_text("\n".join(rows))
    mine = WantedSet("mine", Place("csv", tmp_path / "mine", MARKET1501))
    seen, trained = look(one, [mine], [mine]), look(one, [mine])
    (alone,) = look_at_test_sets([mine], index_file=tmp_path / "index.json", read=hash_images)
    assert alone.listed == seen.manifest("f").test_sets[0]
    assert set(alone.listed.query.person.tolist()) == {1, 2}
    assert (trained.fingerprint, trained.manifest("f").train) == (seen.fingerprint, seen.manifest("f").train)
    (error,) = [message for severity, message in findings(seen) if severity == "error"]
    assert error.startswith("mine and mine: 1 person of train also in query or gallery")
    numbered = [
        found.message
        for found in examine_sets(seen, num_classes=None, input_size=(32, 64))
        if found.check == "numbered anew"
    ]
    assert [message.partition(f"{tmp_path}")[0] for message in numbered] == ["", "mine: "]


def test_an_unreadable_training_image_is_left_out_of_its_set(one: Path, two: Path) -> None:
    (two / FOLDERS["train"] / "0002_c1s2_000009_01.jpg").write_bytes(b"no picture")
    seen, left_out = look(one, [wanted("one", one), wanted("two", two)]).without_unreadable()
    assert [finding.message for finding in left_out] == ["two: train: 1 of 6 images cannot be read; left out"]
    assert [part.count for part in seen.manifest("f").train_sets] == [6, 5]


def test_a_test_set_is_of_a_training_sets_data_if_it_has_its_place_or_its_name(one: Path, two: Path) -> None:
    away = write_market(two.parent / "away")
    far = [wanted("far", two)]
    assert look(one, []).manifest("f").trained_on == ("main",)
    assert look(one, [], [wanted("again", one), wanted("away", away)]).manifest("f").trained_on == ("main", "again")
    assert look(one, [wanted("first", one), *far]).manifest("f").trained_on == ("main",)
    assert look(one, far, [wanted("away", away), wanted("far", one)]).manifest("f").trained_on == ("far",)
    assert look(one, [wanted("first", away)], [wanted("second", away)]).manifest("f").trained_on == ("second",)


@pytest.mark.parametrize("layout", ["folders", "msmt17"])
def test_the_main_set_of_any_layout_is_recognised_by_its_place(tmp_path: Path, layout: LayoutName) -> None:
    name = "{}/0000_000_01_x_0.jpg" if layout == "msmt17" else "{}/1.jpg"
    folders = (
        {"train": "train", "query": "test", "gallery": "test"} if layout == "msmt17" else dict(zip(SPLITS, SPLITS))
    )
    for number, split in enumerate(SPLITS):
        file = name.format(f"{number:04d}")
        write_image(tmp_path / folders[split] / file)
        (tmp_path / f"list_{split}.txt").write_text(f"{file} {number}\n")
    place = Place(layout, tmp_path, MARKET1501)
    seen = look_at_sets(
        MainSet(place, {}, {}, MARKET1501, ("query", "gallery")),
        train_sets=[WantedSet("mine", place)],
        test_sets=[],
        index_file=tmp_path / "index.json",
        read=read_images,
    )
    assert seen.manifest("f").trained_on == ("main",)
