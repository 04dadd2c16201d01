"""The drawn data set: its layout, its determinism, what it refuses, and that it is hard without learning."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from reid.data.file_names import MARKET1501, file_names
from reid.data.market1501 import Split, list_folder
from reid.drawn.dataset import contact_sheet, draw_market, ensure_market
from reid.drawn.plan import Parameters, plan
from reid.errors import DatasetError

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
SMALL = {
    "train_persons": 12,
    "test_persons": 6,
    "cameras": 3,
    "images_per_camera": 2,
    "distractors": 5,
    "junk": 4,
    "width": 32,
    "height": 64,
    "seed": 3,
}
DEMO = {
    "train_persons": 120,
    "test_persons": 60,
    "cameras": 6,
    "images_per_camera": 3,
    "distractors": 60,
    "junk": 30,
    "width": 64,
    "height": 128,
    "seed": 7,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "small"
    draw_market(root, **SMALL, workers=1)
    return root


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_drawn_set_is_laid_out_as_market_1501(small: Path) -> None:
    assert sorted(path.name for path in small.iterdir()) == [GALLERY, TRAIN, QUERY, "synthetic.json"]
    train, query, gallery = (list_folder(small / split) for split in (TRAIN, QUERY, GALLERY))
    assert [listing.misnamed + listing.strays for listing in (train, query, gallery)] == [(), (), ()]
    assert set(train.split.person) == set(range(1, 13))
    assert set(query.split.person) == set(range(13, 19))
    assert set(gallery.split.person) == {-1, 0, *range(13, 19)}
    assert np.sum(gallery.split.person == 0) == 5
    assert np.sum(gallery.split.person == -1) == 4


def test_every_image_is_a_jpeg_of_the_size_asked_for(small: Path) -> None:
    for path in small.rglob("*.jpg"):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 64))


def test_the_images_do_not_depend_on_the_number_of_processes(small: Path, tmp_path: Path) -> None:
    draw_market(tmp_path / "three", **SMALL, workers=3)
    assert _contents(tmp_path / "three") == _contents(small)


def test_another_seed_draws_other_images(small: Path, tmp_path: Path) -> None:
    draw_market(tmp_path / "other", **{**SMALL, "seed": 4}, workers=1)
    assert not set(_contents(tmp_path / "other").values()) & set(_contents(small).values())


@given(
    cameras=st.integers(2, 9),
    images_per_camera=st.integers(1, 5),
    persons=st.integers(1, 20),
    seed=st.integers(0, 2**40),
)
def test_every_query_has_a_match_under_another_camera(
    cameras: int, images_per_camera: int, persons: int, seed: int
) -> None:
    subjects = plan(Parameters(persons, persons, cameras, images_per_camera, 10, 10, 64, 128, seed))
    files = [shot.file for subject in subjects for shot in subject.shots]
    assert len(set(files)) == len(files)
    images = {QUERY: [], GALLERY: [], TRAIN: []}  # type: dict[str, list[tuple[int, int]]]
    for file in files:
        read = MARKET1501.read(file.partition("/")[2], unknown_camera=0)
        assert read is not None
        images[file.partition("/")[0]].append(read)
    assert {person for person, _ in images[TRAIN]} == set(range(1, persons + 1))
    assert {person for person, _ in images[QUERY]} == set(range(persons + 1, 2 * persons + 1))
    assert len(set(images[QUERY])) == len(images[QUERY])  # one at most of a person and camera
    assert {camera for shots in images.values() for _, camera in shots} <= set(range(1, cameras + 1))
    for person, camera in images[QUERY]:
        assert any(other == person and seen != camera for other, seen in images[GALLERY])


def test_market_1501_itself_could_be_drawn() -> None:
    subjects = plan(Parameters(751, 750, 6, 4, 2793, 3819, 64, 128, 0))
    split = [shot.file.split("/")[0] for subject in subjects for shot in subject.shots]
    # 751 persons x 4 of 6 cameras x 4 images = 12,016 on average; Market-1501 has 12,936, 19,732 and 3,368.
    assert 11_500 < split.count(TRAIN) < 12_500
    assert 18_000 < split.count(GALLERY) < 19_500
    assert 1_500 < split.count(QUERY) < 1_800


def test_a_set_that_is_there_is_not_drawn_again(tmp_path: Path) -> None:
    root = tmp_path / "new" / "set"
    assert ensure_market(root, **SMALL, workers=1)
    changed = next((root / TRAIN).iterdir())
    changed.write_bytes(b"changed by the user")
    assert not ensure_market(root, **SMALL, workers=1)
    assert changed.read_bytes() == b"changed by the user"


def test_the_stamp_holds_every_parameter(small: Path) -> None:
    assert json.loads((small / "synthetic.json").read_text()) == {"drawing": 1, **SMALL}


def test_other_parameters_are_named(small: Path) -> None:
    before = _contents(small)
    with pytest.raises(DatasetError) as error:
        ensure_market(small, **{**SMALL, "train_persons": 20, "seed": 9}, workers=1)
    assert str(error.value) == (
        f"{small}: drawn with other parameters than dataset.synthetic asks for (2 differ)\n"
        "  train_persons: found 12, wanted 20\n"
        "  seed: found 3, wanted 9\n"
        "  do: remove the folder to have it drawn again, or name another one in dataset.synthetic.root"
    )
    assert _contents(small) == before


def test_a_folder_of_someone_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as error:
        ensure_market(tmp_path, **SMALL, workers=1)
    assert str(error.value) == (
        f"{tmp_path}: exists already, but was not drawn by this project: synthetic.json is not in it\n"
        "  do: name another folder in dataset.synthetic.root; to use this one, name its three folders in\n"
        "      dataset.train_dataset_dir, test_dataset_dir and query_dataset_dir, and set dataset.synthetic to null"
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "found no JSON: Expecting property name enclosed in double quotes at line 1, column 2, want JSON"),
        ("[]", "found list, wanted an object of parameters"),
    ],
)
def test_a_damaged_stamp_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "synthetic.json").write_text(text)
    with pytest.raises(DatasetError) as error:
        ensure_market(tmp_path, **SMALL, workers=1)
    assert str(error.value) == (
        f"{tmp_path}/synthetic.json: {complaint}\n  do: remove {tmp_path} to have it drawn again"
    )


def test_nothing_is_drawn_over_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as error:
        draw_market(tmp_path, **SMALL, workers=1)
    assert str(error.value) == f"{tmp_path}: exists already; a data set is drawn into a new folder only"


def test_one_camera_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as error:
        draw_market(tmp_path / "one", **{**SMALL, "cameras": 1}, workers=1)
    assert str(error.value) == (
        f"{tmp_path}/one: cannot draw a data set with cameras = 1: every query needs a match under a second camera"
    )


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError) as error:
        draw_market(tmp_path / "file" / "set", **SMALL, workers=1)
    assert str(error.value) == f"{tmp_path}/file/set.partial: cannot be written: Not a directory"


def test_what_an_interrupted_run_left_is_drawn_afresh(small: Path, tmp_path: Path) -> None:
    left = tmp_path / "set.partial" / TRAIN / "0099_c1s1_000001_01.jpg"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half an image")
    draw_market(tmp_path / "set", **SMALL, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert _contents(tmp_path / "set") == _contents(small)


def test_the_contact_sheet_has_a_row_a_person_and_a_column_a_camera(small: Path, tmp_path: Path) -> None:
    output = tmp_path / "sheets" / "sheet.png"
    contact_sheet(small, output, persons=4, seed=0)
    with Image.open(output) as sheet:
        # 60 + 3 cameras x (128 + 8) wide, 30 + 4 persons x (256 + 8) high.
        assert sheet.size == (468, 1086)


def test_a_contact_sheet_reads_names_of_another_kind(small: Path, tmp_path: Path) -> None:
    for split in (TRAIN, GALLERY):
        (tmp_path / split).mkdir()
        for number, file in enumerate(sorted((small / split).iterdir())):
            shutil.copy(file, tmp_path / split / f"{file.name[:7]}_f{number:07d}.jpg")
    with pytest.raises(DatasetError, match=r"; \d+ images are not named as Market-1501 .*--file-name"):
        contact_sheet(tmp_path, tmp_path / "sheet.png", persons=4)
    sizes = []
    for pattern in ("dukemtmc", r"(?P<person>\d+)_.*"):
        contact_sheet(tmp_path, tmp_path / "sheet.png", names=file_names(pattern, cameras="file_name"), persons=4)
        with Image.open(tmp_path / "sheet.png") as sheet:
            sizes.append(sheet.size)
    assert sizes == [(468, 1086), (196, 1086)]  # three cameras, and one column if names contain none


def test_a_contact_sheet_of_no_persons_is_refused(tmp_path: Path) -> None:
    (tmp_path / TRAIN).mkdir()
    (tmp_path / GALLERY).mkdir()
    with pytest.raises(DatasetError) as error:
        contact_sheet(tmp_path, tmp_path / "sheet.png", persons=4, seed=0)
    assert str(error.value) == f"{tmp_path}: no images of persons in {TRAIN} and {GALLERY}"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the list of child processes from /proc")
def test_the_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom reid.drawn.dataset import draw_market\n"
        f"draw_market(Path({str(tmp_path / 'set')!r}), workers=2, **{ {**SMALL, 'train_persons': 5_000}!r})"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    partial = tmp_path / "set.partial"
    while not any(partial.glob("*/*.jpg")):
        assert parent.poll() is None
        time.sleep(0.1)
    workers = [int(child) for child in children.read_text().split()]
    assert len(workers) >= 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [worker for worker in workers if Path(f"/proc/{worker}").exists()] == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    root = tmp_path_factory.mktemp("demo") / "set"
    draw_market(root, **DEMO, workers=2)
    return list_folder(root / QUERY).split, list_folder(root / GALLERY).split.without_junk()


def _pixels(split: Split) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.open(path)) for path in split.paths])


def _mean_average_precision(query: Split, gallery: Split, features: list[NDArray[np.float32]]) -> float:
    """Market-1501's protocol, slowly: features (Q, D) and (G, D); same person and same camera is left out."""
    of_query, of_gallery = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in features)
    precisions = []
    for number, (person, camera) in enumerate(zip(query.person, query.camera)):
        counted = ~((gallery.person == person) & (gallery.camera == camera))
        order = np.argsort(-(of_gallery[counted] @ of_query[number]), kind="stable")
        ranks = 1 + np.flatnonzero(gallery.person[counted][order] == person)
        precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return float(np.mean(precisions))


def _histograms(
    images: NDArray[np.uint8], *, space: str, bins: tuple[int, int, int], stripes: int, crop: bool, grey_world: bool
) -> NDArray[np.float32]:
    """images (N, H, W, 3) -> Hellinger-scaled histograms (N, stripes x bins), of the middle half if cropped."""
    values = images[:, :, 16:48] if crop else images
    if grey_world:
        values = np.clip(values * (110 / values.mean(axis=(1, 2), keepdims=True)), 0, 255).astype(np.uint8)
    if space == "HSV":
        values = np.stack([np.asarray(Image.fromarray(image).convert("HSV")) for image in values])
    binned = values.astype(np.int64) * np.array(bins) // 256
    index = (binned[..., 0] * bins[1] + binned[..., 1]) * bins[2] + binned[..., 2]
    count = int(np.prod(bins))
    rows = np.array_split(np.arange(index.shape[1]), stripes)
    counts = [[np.bincount(image[row].ravel(), minlength=count) for row in rows] for image in index]
    return np.sqrt(np.array(counts, np.float32).reshape(len(images), -1))


VARIANTS = [
    ("RGB", (8, 8, 8), 1),
    ("RGB", (8, 8, 8), 6),
    ("RGB", (4, 4, 4), 6),
    ("HSV", (8, 8, 8), 4),
    ("HSV", (16, 4, 4), 6),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("crop", "grey_world", "bound"),
    [
        (False, False, 0.15),
        (False, True, 0.15),
        (True, False, 0.15),
        # Both together take background and white balance away: the best that colours alone give here.
        (True, True, 0.30),
    ],
)
def test_colour_histograms_do_not_solve_the_demo(
    demo: tuple[Split, Split], crop: bool, grey_world: bool, bound: float
) -> None:
    query, gallery = demo
    images = [_pixels(query), _pixels(gallery)]
    scores = {}
    for space, bins, stripes in VARIANTS:
        features = [
            _histograms(each, space=space, bins=bins, stripes=stripes, crop=crop, grey_world=grey_world)
            for each in images
        ]
        scores[space, bins, stripes] = _mean_average_precision(query, gallery, features)
    assert max(scores.values()) < bound, scores


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_untrained_network_does_not_solve_the_demo(demo: tuple[Split, Split], seed: int) -> None:
    import timm
    import torch

    torch.manual_seed(seed)
    network = timm.create_model("test_resnet", pretrained=False, num_classes=0).eval()
    features = []
    with torch.no_grad():
        for split in demo:
            images = torch.from_numpy(_pixels(split)).permute(0, 3, 1, 2).float() / 255
            normalized = (images - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / 0.226
            features.append(
                torch.cat([network(normalized[i : i + 128]) for i in range(0, len(normalized), 128)]).numpy()
            )
    assert _mean_average_precision(*demo, features) < 0.15
