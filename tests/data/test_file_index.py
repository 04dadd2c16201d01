import json
import logging
import os
from pathlib import Path

import pytest
from PIL import Image

from reid.data.file_index import ImageFacts, fingerprint, read_image, read_images
from tests.small_market import write_image


def test_an_image_tells_its_size_mode_and_format(tmp_path: Path) -> None:
    facts = read_image(write_image(tmp_path / "a.jpg", size=(20, 40), mode="L", format="PNG"))
    assert (facts.width, facts.height, facts.mode, facts.format, facts.error) == (20, 40, "L", "PNG", "")
    assert facts.bytes == (tmp_path / "a.jpg").stat().st_size


def test_what_cannot_be_read_is_reported_and_never_raised(tmp_path: Path) -> None:
    whole = write_image(tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_bytes(b"hello")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    cut_png = write_image(tmp_path / "cut.png", format="PNG").read_bytes()
    (tmp_path / "cut.png").write_bytes(cut_png[:60])
    errors = {path.name: read_image(path).error for path in tmp_path.iterdir()}
    assert errors.pop("cut.jpg").startswith("image file is truncated (")
    assert errors.pop("cut.png") != ""
    assert errors == {
        "whole.jpg": "",
        "empty.jpg": "empty file",
        "text.jpg": "not an image",
        "loop.jpg": "Too many levels of symbolic links",
        "pipe.jpg": "not a regular file",
    }
    assert read_image(tmp_path / "absent.jpg") == ImageFacts("", 0, error="No such file or directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_the_right_to_read_it_is_reported(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg").chmod(0)
    assert read_image(tmp_path / "a.jpg").error == "Permission denied"


def _read(folder: Path, caplog: pytest.LogCaptureFixture) -> tuple[dict[Path, ImageFacts], str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "reid.data.file_index"):
        facts = read_images({"train": sorted(folder.glob("*.jpg"))}, index_file=folder / "index" / "index.json")
    return facts, caplog.messages[-1]


def test_only_new_and_changed_files_are_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (write_image(tmp_path / name) for name in ("a.jpg", "b.jpg"))
    (tmp_path / "bad.jpg").write_bytes(b"bad")
    before, message = _read(tmp_path, caplog)
    assert message == "3 images, 3 of them new or changed"
    again, message = _read(tmp_path, caplog)
    assert message == "3 images, 1 of them new or changed"  # a file in error may have been mended without a trace
    assert again == before
    Image.new("RGB", (32, 64)).save(second)
    third = write_image(tmp_path / "c.jpg")
    after, message = _read(tmp_path, caplog)
    assert message == "4 images, 3 of them new or changed"
    assert after[first] == before[first]
    assert after[second] == read_image(second) != before[second]
    assert after[third] == read_image(third)


def test_a_file_replaced_under_its_old_size_and_time_is_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_image(tmp_path / "a.jpg", format="BMP")
    _read(tmp_path, caplog)
    seen = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(data)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    facts, message = _read(tmp_path, caplog)
    assert message == "1 images, 1 of them new or changed"
    assert facts[path] == read_image(path)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 0}', '{"version": 1, "files": {"a": 1}}', "\xff"])
def test_a_damaged_index_only_costs_time(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    path = write_image(tmp_path / "a.jpg")
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "index.json").write_text(text, encoding="latin-1")
    facts, _ = _read(tmp_path, caplog)
    assert facts == {path: read_image(path)}
    assert list(json.loads((tmp_path / "index" / "index.json").read_text())["files"]) == [str(path)]


def test_an_index_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_image(tmp_path / "a.jpg")
    (tmp_path / "index").write_text("a file where the folder should be")
    facts, message = _read(tmp_path, caplog)
    assert facts == {path: read_image(path)}
    assert message == (
        f"the next run reads every image again: {tmp_path}/index/index.json: cannot be written\n  found: File exists"
    )


def test_the_fingerprint_is_of_splits_names_and_bytes_in_any_order() -> None:
    a, b = ImageFacts("aa", 1), ImageFacts("bb", 1)
    whole = fingerprint({"train": [("1", a), ("2", b)], "query": [("3", a)]})
    assert fingerprint({"query": [("3", a)], "train": [("2", b), ("1", a)]}) == whole
    for other in (
        {"train": [("1", b), ("2", b)], "query": [("3", a)]},
        {"train": [("1", a), ("4", b)], "query": [("3", a)]},
        {"train": [("1", a)], "query": [("2", b), ("3", a)]},
        {"train": [("1", a), ("2", b)], "query": []},
    ):
        assert fingerprint(other) != whole


def test_a_name_of_bytes_that_are_no_text_does_not_damage_the_index(tmp_path: Path) -> None:
    named, index = Path(os.fsdecode(bytes(tmp_path) + b"/\xff.jpg")), tmp_path / "index.json"
    for path in (named, tmp_path / "a.jpg"):
        Image.new("RGB", (16, 32)).save(path, "JPEG")
    for _ in range(2):
        assert set(read_images({"train": [named, tmp_path / "a.jpg"]}, index_file=index)) == {named, tmp_path / "a.jpg"}
    assert sorted(path.name for path in tmp_path.glob("index*")) == ["index.json"]
