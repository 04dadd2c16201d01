from pathlib import Path

from PIL import Image

from reid.reports.thumbnails import Thumbnails


def image(path: Path) -> Path:
    Image.new("RGB", (400, 400), (90, 120, 60)).save(path)
    return path


def test_a_picture_counts_against_the_budget_and_one_that_does_not_fit_is_left_out(tmp_path: Path) -> None:
    path = image(tmp_path / "a.png")
    size = len(Thumbnails(10**6, width=80, height=160).uri(path))
    thumbnails = Thumbnails(size + 1, width=80, height=160)
    assert (thumbnails.uri_if_possible(path) or "").startswith("data:image/jpeg;base64,")
    assert thumbnails.left_bytes == 1
    assert thumbnails.uri_if_possible(path) is None
    assert thumbnails.left_bytes == 1


def test_a_picture_that_can_no_longer_be_read_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    thumbnails = Thumbnails(10**6, width=80, height=160)
    assert thumbnails.uri_if_possible(tmp_path / "broken.jpg") is None
    assert thumbnails.uri_if_possible(tmp_path / "gone.jpg") is None
    assert thumbnails.left_bytes == 10**6
