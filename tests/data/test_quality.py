from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from reid.data.balance import disjoint_cameras, large_persons, single_images, uneven_cameras
from reid.data.file_names import MARKET1501
from reid.data.quality import blurred, empty_pictures, enlarged
from reid.data.surveys import SplitSurvey, Surveys, survey_folders


def _survey(root: Path, images: dict[str, Image.Image], *, split: str = "train") -> SplitSurvey:
    folder = root / split
    folder.mkdir()
    for name, image in images.items():
        image.save(folder / f"{name}.png")
    index = root / f"{split}.json"
    return survey_folders({split: str(folder)}, missing={}, names=MARKET1501, index_file=index)[split]


def _noise(number: int, *, size: tuple[int, int] = (32, 64)) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))


def _name(number: int, *, person: int = 1, camera: int = 1) -> str:
    return f"{person:04d}_c{camera}s1_{number:06d}_01"


def test_black_and_nearly_black_pictures_are_empty_the_emptiest_first(tmp_path: Path) -> None:
    nearly = Image.fromarray(np.random.default_rng(0).integers(0, 6, (64, 32, 3), np.uint8))
    images = {
        _name(1): nearly,
        _name(2): Image.new("L", (32, 64)),
        _name(3): _noise(3),
        _name(4): Image.new("1", (9, 9)),
    }
    (found,) = empty_pictures(_survey(tmp_path, images))
    assert (found.severity, found.check, found.count) == ("warning", "empty picture", 3)
    assert found.message == (
        "train: 3 images of nearly one colour (standard deviation of the grey values below 3 of 255); they show nobody"
    )
    assert found.examples[2] == f"train/{_name(1)}.png"


def test_a_blurred_picture_is_found_among_sharp_ones_and_a_dark_one_is_not(tmp_path: Path) -> None:
    images = {_name(number): _noise(number) for number in range(20)}
    images[_name(30)] = _noise(30).filter(ImageFilter.GaussianBlur(2))
    images[_name(31)] = _noise(31).point(lambda value: value // 8)
    survey = _survey(tmp_path, images)
    (found,) = blurred(survey)
    assert (found.severity, found.check, found.examples) == ("note", "blurred", (f"train/{_name(30)}.png",))
    assert found.message.startswith("train: 1 image more than 8 times less sharp than the median image (sharpness ")


def test_a_few_images_have_no_distribution_to_be_blurred_in(tmp_path: Path) -> None:
    images = {_name(1): _noise(1), _name(2): _noise(2).filter(ImageFilter.GaussianBlur(2))}
    assert list(blurred(_survey(tmp_path, images))) == []


def test_an_image_is_enlarged_if_the_network_sees_more_than_twice_its_width_or_height(tmp_path: Path) -> None:
    images = {_name(1): _noise(1), _name(2): _noise(2, size=(16, 60)), _name(3): _noise(3, size=(31, 30))}
    (found,) = enlarged(_survey(tmp_path, images), width=64, height=128)
    assert (found.severity, found.check, found.count) == ("note", "enlarged", 2)
    assert found.message == (
        "train: 2 images (66.7 %) enlarged more than 2 times, up to 4.3 times, to the network's 64 x 128 pixels"
    )
    assert found.examples == (f"train/{_name(3)}.png", f"train/{_name(2)}.png")


def test_persons_and_cameras_out_of_balance_are_told_with_their_numbers(tmp_path: Path) -> None:
    one = _noise(0, size=(3, 6))
    images = {_name(number, person=1, camera=1): one for number in range(40)}
    images |= {_name(number, person=person, camera=2): one for person in (2, 3, 4) for number in range(2)}
    survey = _survey(tmp_path, images | {_name(0, person=9, camera=3): one})
    (single,), (large,), (cameras,) = single_images(survey), large_persons(survey), uneven_cameras(survey)
    assert single.message == ("train: 1 of 5 persons with one image only; a metric loss finds no second image of them")
    assert (large.message, large.examples) == (
        "train: 1 person with more than 10 times the median of 2 images; person 1 has 40, 85.1 % of all",
        ("person 1: 40 images",),
    )
    assert (cameras.message, cameras.examples) == (
        "train: 1 camera of 3 with more than 60 % or fewer than 1 % of the images",
        ("camera 1: 40 images, 85.1 %",),
    )


def test_cameras_of_the_test_that_the_training_has_not_seen_are_a_note(tmp_path: Path) -> None:
    surveys: Surveys = {
        split: _survey(tmp_path, {_name(1, camera=camera): _noise(1)}, split=split)
        for split, camera in (("train", 1), ("query", 2), ("gallery", 3))
    }
    (found,) = disjoint_cameras(surveys)
    assert found.message == (
        "no camera of train (1) is one of query and gallery (2, 3): the figures are of cameras that the network has "
        "not learnt"
    )
