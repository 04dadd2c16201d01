import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid.data import near_duplicates as module
from reid.data.file_names import MARKET1501
from reid.data.findings import Finding
from reid.data.near_duplicates import near_duplicates
from reid.data.surveys import survey_folders
from reid.drawn.dataset import draw_market
from tests.small_market import FOLDERS


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn persons in a few frames under each camera."""
    root = tmp_path_factory.mktemp("drawn") / "market"
    draw_market(
        root, train_persons=6, test_persons=6, cameras=3, images_per_camera=3, distractors=4, junk=2, width=64,
        height=128, seed=3, workers=1,
    )  # fmt: skip
    return root


@pytest.fixture
def market(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "market"))


def _found(market: Path, *, name: str = "", known: Path | None = None) -> list[Finding]:
    folders = {split: str(market / folder) for split, folder in FOLDERS.items()}
    surveys = survey_folders(folders, missing={}, names=MARKET1501, index_file=market.parent / "index.json")
    return near_duplicates([(name, survey) for survey in surveys.values()], known=known)


def _image(market: Path, split: str, number: int) -> Path:
    """An image of a person: neither junk nor a distractor."""
    return [path for path in sorted((market / FOLDERS[split]).iterdir()) if path.name[:4] > "0000"][number]


def _cropped(image: Image.Image) -> Image.Image:
    x, y = round(0.03 * image.width), round(0.03 * image.height)
    return image.crop((x, y, image.width - x, image.height - y))


def _lit(image: Image.Image) -> Image.Image:
    return image.point([round(255 * (value / 255) ** 0.7) for value in range(256)] * 3)


def _encoded(image: Image.Image) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=50)
    return Image.open(data)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "quality 50": _encoded,
    "90 %": lambda image: image.resize((58, 115), Image.Resampling.BICUBIC),
    "twice": lambda image: image.resize((128, 256)),
    "cropped": _cropped,
    "lit": _lit,
    "all": lambda image: _encoded(_lit(_cropped(image).resize((58, 115)))),
}


def test_drawn_persons_in_neighbouring_frames_are_no_copies_of_each_other(drawn: Path) -> None:
    assert [found.message for found in _found(drawn)] == []


def test_a_changed_test_image_in_train_is_found_whatever_was_changed(market: Path) -> None:
    wanted = []
    for number, change in enumerate(CHANGES.values()):
        source = _image(market, "gallery", 3 * number)
        copy = market / FOLDERS["train"] / f"0001_c1s1_9{number:05d}_01.jpg"
        with Image.open(source) as image:
            change(image.convert("RGB")).save(copy, quality=90)
        wanted.append(f"train/{copy.name} = gallery/{source.name}")
    (found,) = _found(market)
    assert (found.severity, found.check, found.count) == ("warning", "near duplicates", 6)
    assert found.message == (
        "TEST IMAGES IN TRAINING: 6 pairs of pictures in train and gallery are the same one, encoded, resized, lit or "
        "cropped in another way; scores will be too good"
    )
    assert sorted(found.examples) == sorted(wanted)
    assert len(found.files) == 8  # the first four pairs, both pictures of each


def test_one_picture_under_two_persons_and_a_query_that_finds_itself_are_told_apart(market: Path) -> None:
    train, query = _image(market, "train", 0), _image(market, "query", 0)
    for source, copy in (
        (train, market / FOLDERS["train"] / f"0003_{train.name[5:]}"),
        (query, market / FOLDERS["gallery"] / f"{query.name[:4]}_c9{query.name[7:]}"),
    ):
        with Image.open(source) as image:
            _encoded(image).save(copy)
    assert [(found.severity, found.message, found.count) for found in _found(market)] == [
        (
            "warning",
            "1 pair of pictures under different persons are the same one, encoded, resized, lit or cropped in another "
            "way; one of the two names is wrong",
            1,
        ),
        (
            "warning",
            "1 pair of pictures in query and gallery, under different cameras by name, are the same one: the query "
            "will find itself, and scores will be too good",
            1,
        ),
    ]


def test_frames_of_one_person_and_camera_are_a_note_and_equal_bytes_are_for_another_check(market: Path) -> None:
    source = _image(market, "train", 0)
    with Image.open(source) as image:
        _encoded(image).save(source.with_name(f"{source.name[:10]}999999_01.jpg"))
    shutil.copy(_image(market, "gallery", 0), market / FOLDERS["train"] / "0002_c1s1_000099_01.jpg")
    assert [(found.severity, found.check, found.message) for found in _found(market, name="mine")] == [
        (
            "note",
            "neighbouring frames",
            "mine: train: 1 image nearly the same as another image of the same person and camera, as neighbouring "
            "frames of a film are; they add little",
        )
    ]


def test_pictures_without_contrast_are_like_nothing_and_noise_is_like_no_other_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, first in (("train", 1), ("query", 5), ("gallery", 5)):
        folder = tmp_path / "m" / FOLDERS[split]
        folder.mkdir(parents=True)
        for person in range(first, first + 3):
            Image.new("RGB", (32, 64), (person, 0, 0)).save(folder / f"{person:04d}_c1s1_000001_01.png")
            noise = rng.integers(0, 256, (64, 32, 3), np.uint8)
            Image.fromarray(noise).save(folder / f"{person:04d}_c2s1_000001_01.png")
    assert _found(tmp_path / "m") == []


def test_more_candidates_than_are_compared_closely_are_counted_and_told(
    market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMPARED_CLOSELY", 2)
    monkeypatch.setattr(module, "MAY_BE_COPIES", 0.5)
    monkeypatch.setattr(module, "BLOCK", 7)  # every pair is met once, whatever the blocks
    with Image.open(_image(market, "gallery", 0)) as image:
        _encoded(image).save(market / FOLDERS["train"] / "0001_c1s1_900000_01.jpg")
    (found,) = [found for found in _found(market) if found.severity == "warning"]
    assert found.count == 1
    assert " (the 2 most alike pairs were compared closely, " in found.message


def test_unchanged_pictures_are_not_compared_again(market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, known = _image(market, "train", 0), market.parent / "known.json"
    shutil.copy(first, copy := _image(market, "gallery", 0))
    with Image.open(first) as image:
        image.resize((50, 100)).save(copy)
    found = _found(market, known=known)
    assert [finding.check for finding in found if finding.severity == "warning"] == ["near duplicates"]
    compared = []
    monkeypatch.setattr(module, "_copies", lambda pictures, pairs: compared.append(pairs) or [])
    assert _found(market, known=known) == found
    assert compared == []
    known.write_text("{}")  # damaged: set aside, and found anew
    _found(market, known=known)
    assert compared
    assert (market.parent / "known.json.damaged").exists()
    compared.clear()
    copy.unlink()
    _found(market, known=known)
    assert compared
