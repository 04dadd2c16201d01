import hashlib
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid.data.market1501 import PersonImage, Split, list_folder
from reid.data.store import open_store
from reid.errors import ArtifactError, DatasetError
from tests.small_market import write_image, write_market

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def gallery(tmp_path: Path) -> Split:
    return list_folder(write_market(tmp_path / "market") / "bounding_box_test").split


def _open(split: Split, folder: Path, *, height: int = 64, width: int = 32, channels: int = 3, key: str = "f00d"):
    return open_store(split, height=height, width=width, channels=channels, folder=folder, key=key)


def test_rows_are_the_images_in_the_splits_order(gallery: Split, tmp_path: Path) -> None:
    store = _open(gallery, tmp_path / "store")
    assert isinstance(store, np.memmap)
    assert (store.shape, store.dtype) == ((5, 64, 32, 3), np.uint8)
    for row, path in enumerate(gallery.paths):
        np.testing.assert_array_equal(store[row], np.asarray(Image.open(path)))


def test_images_are_resized_as_pil_does_bilinearly(gallery: Split, tmp_path: Path) -> None:
    store = _open(gallery, tmp_path / "store", height=40, width=24)
    wanted = Image.open(gallery.paths[2]).resize((24, 40), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(store[2], np.asarray(wanted))


def test_training_images_may_be_resized_as_pil_does_bicubically_in_a_store_of_their_own(
    gallery: Split, tmp_path: Path
) -> None:
    size = {"height": 40, "width": 24, "channels": 3, "folder": tmp_path / "store", "key": "f00d"}
    bilinear, bicubic = open_store(gallery, **size), open_store(gallery, "bicubic", **size)
    wanted = Image.open(gallery.paths[2]).resize((24, 40), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(bicubic[2], np.asarray(wanted))
    assert not np.array_equal(bicubic, bilinear)
    np.testing.assert_array_equal(open_store(gallery, **size), bilinear)


def test_one_channel_is_grey(gallery: Split, tmp_path: Path) -> None:
    store = _open(gallery, tmp_path / "store", channels=1)
    assert store.shape == (5, 64, 32, 1)
    np.testing.assert_array_equal(store[1, :, :, 0], np.asarray(Image.open(gallery.paths[1]).convert("L")))


def test_pictures_of_any_mode_become_rgb(tmp_path: Path) -> None:
    for name, mode in (("0001_c1s1_1_1.png", "L"), ("0001_c1s1_2_1.png", "P"), ("0001_c1s1_3_1.png", "RGBA")):
        write_image(tmp_path / "m" / name, mode=mode, format="PNG")
    split = list_folder(tmp_path / "m").split
    store = _open(split, tmp_path / "store")
    for row, path in enumerate(split.paths):
        np.testing.assert_array_equal(store[row], np.asarray(Image.open(path).convert("RGB")))


def test_a_store_is_read_only_and_decoded_once(gallery: Split, tmp_path: Path) -> None:
    first = np.array(_open(gallery, tmp_path / "store"))
    for path in gallery.paths:
        path.unlink()
    again = _open(gallery, tmp_path / "store")
    np.testing.assert_array_equal(again, first)
    with pytest.raises(ValueError, match="read-only"):
        again[0] = 0


def test_another_key_size_or_choice_of_images_is_another_store(gallery: Split, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    _open(gallery, folder)
    _open(gallery, folder, key="beef")
    _open(gallery, folder, height=32)
    _open(gallery, folder, channels=1)
    assert len(_open(gallery.without_junk(), folder)) == 4
    assert len(list(folder.glob("*.npy"))) == 5


def _older_store(gallery: Split, folder: Path, key: str = "f00d") -> Path:
    """A store as versions before the rules of reading wrote it, with black pixels to know it by."""
    digest = hashlib.sha256(key.encode())
    for image in gallery.images:
        digest.update(f"\n{image.file}".encode())
    folder.mkdir(exist_ok=True)
    path = folder / f"{gallery.root.name}-64x32x3-{digest.hexdigest()[:20]}.npy"
    np.save(path, np.zeros((len(gallery), 64, 32, 3), np.uint8))
    return path


def test_an_older_store_of_plain_images_is_used_still_and_looked_through_once(gallery: Split, tmp_path: Path) -> None:
    older = _older_store(gallery, tmp_path / "store")
    assert not _open(gallery, tmp_path / "store").any()
    for path in gallery.paths:
        path.unlink()
    older.unlink()
    assert not _open(gallery, tmp_path / "store").any()  # it has a new name


def test_an_older_store_with_an_image_that_is_turned_now_is_decoded_again(gallery: Split, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.open(gallery.paths[1]).save(gallery.paths[1], exif=turned)
    _older_store(gallery, tmp_path / "store")
    store = _open(gallery, tmp_path / "store")
    np.testing.assert_array_equal(store[1], np.asarray(Image.open(gallery.paths[1]))[::-1, ::-1])
    np.testing.assert_array_equal(store[0], np.asarray(Image.open(gallery.paths[0])))


def test_an_older_store_is_used_on_a_disk_without_links(
    gallery: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    _older_store(gallery, tmp_path / "store")
    assert not _open(gallery, tmp_path / "store").any()
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_blocks_join_without_a_seam(gallery: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.array(_open(gallery, tmp_path / "one"))
    monkeypatch.setattr("reid.data.store.BLOCK_BYTES", 2 * 64 * 32 * 3)  # 5 images in blocks of 2, 2, 1
    np.testing.assert_array_equal(_open(gallery, tmp_path / "two"), whole)


def test_an_empty_split_needs_no_file(tmp_path: Path) -> None:
    assert _open(Split(tmp_path, ()), tmp_path / "store").shape == (0, 64, 32, 3)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("damage", [b"", b"no numpy file", None])
def test_a_damaged_store_is_built_again_with_a_warning(
    gallery: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    whole = np.array(_open(gallery, tmp_path / "store"))
    (path,) = (tmp_path / "store").glob("*.npy")
    path.write_bytes(path.read_bytes()[:-10] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(_open(gallery, tmp_path / "store"), whole)
    assert caplog.messages[0].startswith(f"{path}: damaged (")


def test_what_a_killed_builder_left_is_overwritten(gallery: Split, tmp_path: Path) -> None:
    whole = np.array(_open(gallery, tmp_path / "one"))
    (name,) = (path.name for path in (tmp_path / "one").glob("*.npy"))
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / f"{name}.partial").write_bytes(b"x" * 10**6)
    np.testing.assert_array_equal(_open(gallery, tmp_path / "two"), whole)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [".lock", name]


def test_an_image_that_became_unreadable_is_named_and_nothing_is_left(gallery: Split, tmp_path: Path) -> None:
    gallery.paths[3].write_bytes(b"")
    with pytest.raises(DatasetError) as error:
        _open(gallery, tmp_path / "store")
    assert str(error.value) == (
        f"{gallery.paths[3]}: cannot be read: empty file; has it changed since the validate stage?"
    )
    gone = Split(tmp_path, (PersonImage("0001_c1s1_1_1.jpg", 1, 1),))
    with pytest.raises(DatasetError) as error:
        _open(gone, tmp_path / "store")
    assert str(error.value) == (
        f"{tmp_path}/0001_c1s1_1_1.jpg: cannot be read: No such file or directory; "
        "has it changed since the validate stage?"
    )
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]


def test_a_disk_without_room_is_reported_before_anything_is_decoded(gallery: Split, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as error:
        _open(gallery, tmp_path / "store", height=10**7, width=10**7)  # 5 images of 3e14 bytes
    first, found, want = str(error.value).splitlines()
    assert first.startswith(f"{tmp_path}/store/bounding_box_test-10000000x10000000x3-")
    assert first.endswith(".npy: no room for the store of decoded images")
    assert found.startswith("  found: ")
    assert want == "  want:  1,430,511,474 MiB; free some, or set dataset.store_dir to another disk"


BUILD = """
import sys
from pathlib import Path
from reid.data.market1501 import list_folder
from reid.data.store import open_store
split = list_folder(Path(sys.argv[1])).split
"""
OPEN = "open_store(split, height=64, width=32, channels=3, folder=Path(sys.argv[2]), key='f00d')"


def _python(code: str, gallery: Split, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, str(gallery.root), str(folder)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_disk_that_fills_up_meanwhile_leaves_no_half_store(gallery: Split, tmp_path: Path) -> None:
    # a limit on the size of files stands for the full disk: the write fails in the middle, with another errno
    code = f"""{BUILD}
import resource
from reid.errors import ArtifactError
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    {OPEN}
except ArtifactError as error:
    print(error)
"""
    process = _python(code, gallery, tmp_path / "store")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    first, found = output.splitlines()
    assert first.startswith(f"{tmp_path}/store/bounding_box_test-64x32x3-")
    assert first.endswith(".npy: cannot be written")
    assert found == "  found: File too large"
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]


def test_processes_that_build_at_once_all_end_well(gallery: Split, tmp_path: Path) -> None:
    processes = [_python(f"{BUILD}print({OPEN}.sum())", gallery, tmp_path / "store") for _ in range(3)]
    outputs = [process.communicate(timeout=60) for process in processes]
    wanted = sum(int(np.asarray(Image.open(path), np.int64).sum()) for path in gallery.paths)
    assert outputs == [(f"{wanted}\n", "")] * 3
    assert len(list((tmp_path / "store").glob("*.npy"))) == 1


def test_a_folder_that_cannot_be_made_is_reported(gallery: Split, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(ArtifactError) as error:
        _open(gallery, tmp_path / "store")
    assert str(error.value) == (
        f"{tmp_path}/store/.lock: the store of decoded images cannot be locked\n"
        "  found: File exists\n"
        "  want: a folder on a local disk that can be written; set dataset.store_dir"
    )


def test_a_name_that_is_not_utf_8_is_an_image_like_any_other(gallery: Split, tmp_path: Path) -> None:
    odd = write_image(gallery.root / "a.png", format="PNG").rename(gallery.root / "caf\udce9.png")
    split = Split(gallery.root, (PersonImage(odd.name, 1, 1),))
    np.testing.assert_array_equal(_open(split, tmp_path / "store")[0], np.asarray(Image.open(odd)))
