import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid.data.crop_choice import Crop, Wanted, choose, split_persons
from reid.data.crops import make_crops
from reid.data.doctor import examine
from reid.data.file_names import file_names
from reid.data.market1501 import list_folder
from reid.data.mot_sequences import Box, MotSequence
from reid.data.surveys import survey_folders
from reid.errors import DatasetError
from tests.mot_films import colour, walk, write_film
from tests.small_market import FOLDERS

WANTED = Wanted(every=1, min_height=32, min_visibility=0.5, classes=frozenset({1}), padding=0)


def chosen(*boxes: Box, wanted: Wanted = WANTED) -> tuple[list, Counter]:
    """Of a frame of 100 x 80 pixels."""
    picked, ignored = choose(MotSequence(Path(), {}, boxes), wanted, width=100, height=80)
    return [area for _, area in picked], ignored


def test_a_box_is_cut_at_the_frames_border() -> None:
    # left -4 and width 20: columns 0 to 15, of which 80 % are inside; top 40 and height 60: rows 40 to 79, two thirds;
    # 0.8 of the width times 1 of the height
    assert chosen(Box(1, 1, -4, 10, 20, 60)) == ([(0, 10, 16, 70)], Counter())
    assert chosen(Box(1, 1, 10, 40, 20, 60)) == ([(10, 40, 30, 80)], Counter())
    assert chosen(Box(1, 1, 10.4, 10.6, 20, 60)) == ([(10, 11, 30, 71)], Counter())


def test_padding_is_a_share_of_the_box_and_ends_at_the_border() -> None:
    # 10 % of 20 x 60 are 2 and 6 pixels on each side; rows 15 - 6 = 9 to 75 + 6 = 81, cut at 80
    assert chosen(Box(1, 1, 10, 15, 20, 60), wanted=replace(WANTED, padding=0.1)) == ([(8, 9, 32, 80)], Counter())


@pytest.mark.parametrize(
    "box, reason",
    [
        (Box(1, 1, 10, 10, 20, 60, considered=False), "marked as ignored"),
        (Box(1, 1, 10, 10, 20, 60, kind=7), "of another class"),
        (Box(1, 1, 10, 10, 20, 60, visibility=0.4), "visible by less than 0.5"),
        (Box(1, 1, -11, 10, 20, 60), "outside the frame or mostly so"),  # 9 of 20 columns
        (Box(1, 1, 200, 10, 20, 60), "outside the frame or mostly so"),
        (Box(1, 1, 10, 10, 1e-200, 1e-200), "outside the frame or mostly so"),
        (Box(1, 1, 10, 10, 1e300, 1e300), "outside the frame or mostly so"),
        (Box(1, 1, 10, 10, 20, 31), "lower than 32 pixels"),
        (Box(1, 1, 10, 50, 20, 60 - 0.1), "lower than 32 pixels"),  # 30 of 60 rows are inside
    ],
)
def test_a_box_that_is_not_wanted_is_counted(box: Box, reason: str) -> None:
    assert chosen(box) == ([], Counter({reason: 1}))


def test_every_third_frame_is_taken_and_any_class() -> None:
    boxes = [Box(frame, 1, 10, 10, 20, 60, kind=frame) for frame in range(1, 8)]
    areas, ignored = chosen(*boxes, wanted=replace(WANTED, every=3, classes=frozenset()))
    assert (len(areas), ignored) == (3, Counter({"between the frames that are taken": 4}))  # 1, 4, 7


def crops_of(views: dict[int, dict[int, int]]) -> list[Crop]:
    """person -> camera -> number of images."""
    return [
        Crop(person, camera, frame, Path(), (0, 0, 1, 1))
        for person, seen in views.items()
        for camera, images in seen.items()
        for frame in range(1, images + 1)
    ]


def test_a_query_is_one_image_of_a_person_and_a_camera() -> None:
    crops = crops_of({person: {1: 3, 2: 2, 3: 1} for person in range(1, 9)})
    splits = split_persons(crops, test_share=0.5, same_camera=False, seed=0)
    assert {split: len(found) for split, found in splits.items()} == {"train": 4 * 6, "query": 4 * 2, "gallery": 4 * 4}
    assert Counter((crop.person, crop.camera) for crop in splits["query"]).most_common(1)[0][1] == 1
    assert {crop.camera for crop in splits["query"]} == {1, 2}  # camera 3 has one image, which is searched
    trained, tested = ({crop.person for crop in splits[split]} for split in ("train", "gallery"))
    assert (len(trained), len(tested), trained & tested) == (4, 4, set())
    assert splits == split_persons(crops[::-1], test_share=0.5, same_camera=False, seed=0)
    assert splits != split_persons(crops, test_share=0.5, same_camera=False, seed=1)


def test_every_query_has_a_match_and_persons_of_one_camera_ask_nothing() -> None:
    rng = np.random.default_rng(0)
    views = {
        person: {int(camera): int(rng.integers(1, 3)) for camera in rng.permutation(4)[: rng.integers(1, 4)]}
        for person in range(1, 60)
    }
    splits = split_persons(crops_of(views), test_share=0.4, same_camera=False, seed=3)
    gallery = {(crop.person, crop.camera) for crop in splits["gallery"]}
    assert splits["query"]
    for query in splits["query"]:
        assert any(person == query.person and camera != query.camera for person, camera in gallery)
    asked, searched = ({crop.person for crop in splits[split]} for split in ("query", "gallery"))
    assert asked == {person for person in searched if len(views[person]) > 1}
    assert {len(views[person]) for person in searched} == {1, 2, 3}


@pytest.mark.parametrize(
    "views, same_camera, message",
    [
        ({1: {1: 2, 2: 2}, 2: {1: 2, 2: 2}}, False, "2 persons are left: too few\n"),
        (
            {1: {1: 2}, 2: {1: 2}, 3: {2: 2}},
            False,
            "no person is seen by two cameras, so the evaluation of Market-1501",
        ),
        ({1: {1: 1}, 2: {1: 1}, 3: {2: 1}}, True, "no person has two images, so none could be found\n"),
    ],
)
def test_a_data_set_that_could_not_be_scored_is_refused(views: dict, same_camera: bool, message: str) -> None:
    with pytest.raises(DatasetError) as error:
        split_persons(crops_of(views), test_share=0.5, same_camera=same_camera, seed=0)
    assert str(error.value).startswith(message)


def make(root: Path, *folders: Path, wanted: Wanted = WANTED, shared: bool = True, same_camera: bool = False):
    return make_crops(root, folders, wanted=wanted, shared=shared, same_camera=same_camera, test_share=0.5, seed=0)


def findings(root: Path, *, cameras: str) -> list[str]:
    """The errors and warnings of validate."""
    folders = {split: f"{root}/{folder}" for split, folder in FOLDERS.items()}
    names = file_names("market1501", cameras=cameras)
    surveys = survey_folders(folders, missing={}, names=names, index_file=root / "index.json")
    return [found.check for found in examine(surveys, num_classes=None) if found.severity != "note"]


def test_films_of_the_same_persons_become_a_data_set_that_validates(tmp_path: Path) -> None:
    for name, identities in (("north", [3, 5, 8, 9]), ("south", [9, 8, 5, 3])):
        write_film(tmp_path / "films" / name, walk(identities, frames=4), frames=4)
    made = make(tmp_path / "market", tmp_path / "films")
    root = tmp_path / "market"
    assert sorted(path.name for path in root.iterdir()) == [
        "bounding_box_test",
        "bounding_box_train",
        "crops.json",
        "query",
    ]
    sizes = {split: len(list((root / folder).iterdir())) for split, folder in FOLDERS.items()}
    assert sizes == {split: len(crops) for split, crops in made.splits.items()}
    assert sizes == {"train": 2 * 2 * 4, "query": 2 * 2, "gallery": 2 * 2 * 3}
    identities = {
        person: set(seen.values()) for person, seen in json.loads((root / "crops.json").read_text())["persons"].items()
    }
    assert identities == {"1": {3}, "2": {5}, "3": {8}, "4": {9}}
    for folder in FOLDERS.values():
        listing = list_folder(root / folder)
        assert (listing.misnamed, listing.strays) == ((), ())
        for image, path in zip(listing.split.images, listing.split.paths, strict=True):
            pixels = np.asarray(Image.open(path), np.int64)
            assert pixels.shape == (64, 16, 3)
            (identity,) = identities[str(image.person)]
            np.testing.assert_allclose(pixels, np.broadcast_to(colour(identity), pixels.shape), atol=3)
    assert set(findings(root, cameras="file_name")) == {
        "exact duplicates",
        "empty picture",
    }  # the drawn persons stand still, each a rectangle of one colour


def test_persons_of_different_sequences_are_different_unless_they_are_shared(tmp_path: Path) -> None:
    films = [write_film(tmp_path / name, walk([1, 2 + place], frames=2), frames=2) for place, name in enumerate("ab")]
    with pytest.raises(DatasetError) as error:
        make(tmp_path / "market", *films, shared=False)
    assert "--shared-ids" in str(error.value) and "dataset.cameras=none" in str(error.value)
    assert not (tmp_path / "market").exists()
    made = make(tmp_path / "market", *films, shared=False, same_camera=True)
    assert {crop.person for crops in made.splits.values() for crop in crops} == {1, 2, 3, 4}
    assert {split: len(crops) for split, crops in made.splits.items()} == {"train": 4, "query": 2, "gallery": 2}
    assert "nothing to score" not in findings(tmp_path / "market", cameras="none")
    assert "nothing to score" in findings(tmp_path / "market", cameras="file_name")


def test_what_is_there_is_never_overwritten_and_nothing_half_is_left(tmp_path: Path) -> None:
    films = [
        write_film(tmp_path / name, walk([1, 2, 3 + place], frames=2), frames=2) for place, name in enumerate("ab")
    ]
    (tmp_path / "market").mkdir()
    with pytest.raises(DatasetError) as error:
        make(tmp_path / "market", *films)
    assert str(error.value) == f"{tmp_path}/market: exists already; crops are written into a new folder only"
    (films[0] / "img1" / "000002.png").write_bytes(b"broken")
    with pytest.raises(DatasetError) as error:
        make(tmp_path / "other", *films)
    assert str(error.value) == f"{films[0]}/img1/000002.png: cannot be read: not an image"
    Image.new("RGB", (60, 50)).save(films[0] / "img1" / "000002.png")
    with pytest.raises(DatasetError) as error:
        make(tmp_path / "other", *films)
    assert str(error.value) == (
        f"{films[0]}/img1/000002.png: 60 x 50 pixels\n  want: 120 x 100, as the first frame of the sequence"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "market"]


def test_a_film_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    films = [write_film(tmp_path / f"MOT17-02-{name}", walk([1, 2, 3], frames=1), frames=1) for name in ("DPM", "SDP")]
    with pytest.raises(DatasetError) as error:
        make(tmp_path / "market", *films, shared=False)
    assert str(error.value).startswith(f"{films[1]}/gt/gt.txt: the same boxes as {films[0]}/gt/gt.txt\n")
