"""What a file name tells, under the known patterns and under one's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reid.data.file_names import ANY, MARKET1501, file_names


@pytest.mark.parametrize(
    ("name", "person", "camera"),
    [
        ("0002_c1s1_000451_03.jpg", 2, 1),
        ("-1_c6s3_000451_03.jpg", -1, 6),
        ("0000_c1s1_000451_03.JPG", 0, 1),
        ("12345_c12s1_1_1.jpeg", 12345, 12),
        ("0002_c1s1_000451_03.png", 2, 1),
    ],
)
def test_a_name_tells_person_and_camera(name: str, person: int, camera: int) -> None:
    assert MARKET1501.read(name, unknown_camera=9) == (person, camera)


@pytest.mark.parametrize(
    "name",
    [
        "0002_c1s1_000451_03.jpg.jpg",
        "x0002_c1s1_000451_03.jpg",
        "-2_c1s1_000451_03.jpg",
        "-0002_c1s1_000451_03.jpg",
        "2_c1s1_000451_03.jpg",
        "0002_c1_000451_03.jpg",
        "0002_c1s1_000451.jpg",
        "0002_c1s1_000451_03\n.jpg",
        "٠٠٠٢_c1s1_000451_03.jpg",
        "._0002_c1s1_000451_03.jpg",
    ],
)
def test_other_names_are_no_names(name: str) -> None:
    assert MARKET1501.read(name, unknown_camera=9) is None


@given(st.integers(-1, 10**18 - 1), st.integers(1, 10**9 - 1), st.integers(0), st.integers(0), st.integers(0))
def test_every_number_comes_back_from_a_name(person: int, camera: int, sequence: int, frame: int, box: int) -> None:
    shown = "-1" if person == -1 else f"{person:04d}"
    name = f"{shown}_c{camera}s{sequence}_{frame:06d}_{box:02d}.jpg"
    assert MARKET1501.read(name, unknown_camera=9) == (person, camera)


def read(pattern: str, name: str, cameras: str = "file_name") -> tuple[int, int] | None:
    return file_names(pattern, cameras=cameras).read(name, unknown_camera=9)


def test_dukemtmc_is_known_by_its_name() -> None:
    assert read("dukemtmc", "0001_c2_f0046182.jpg") == (1, 2)
    assert read("dukemtmc", "0001_c2s1_000451_03.jpg") is None


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("12-3_left.jpg", (12, 3)),
        ("0-03.x.png", (0, 3)),
        ("-1-1.jpg", (-1, 1)),
        ("-2-1.jpg", None),
        ("12-north.jpg", None),
        ("anna-1.jpg", None),
        ("x12-3.jpg", None),
        ("٣-1.jpg", None),
        (f"{10**18}-1.jpg", None),
    ],
)
def test_an_own_pattern_matches_the_whole_stem_and_gives_whole_numbers(name: str, wanted: tuple[int, int]) -> None:
    assert read(r"(?P<person>-?\w+?)-(?P<camera>[a-z0-9]+)([_.].*)?", name) == wanted


def test_without_the_group_or_by_the_spec_the_camera_is_the_splits() -> None:
    assert read(r"(?P<person>\d+)_.*", "7_c3.jpg") == (7, 9)
    assert read("market1501", "0002_c1s1_000451_03.jpg", cameras="none") == (2, 9)
    assert read(r"(?P<person>\d+)-(?P<camera>[a-z]+)", "7-north.jpg", cameras="none") == (7, 9)
    assert read(r"(?P<person>\d+)(-(?P<camera>\d+))?", "7.jpg") is None  # a camera some names tell is not unknown
    after = (
        ": queries count as camera 1, gallery images as camera 2; every gallery image of a query's person is a match"
    )
    for pattern, cameras, why in (
        ("(?P<person>.*)", "file_name", f"dataset.file_name has no camera{after}"),
        ("dukemtmc", "none", f"dataset.cameras is none{after}"),
        ("dukemtmc", "file_name", ""),
    ):
        assert file_names(pattern, cameras=cameras).without_cameras == why


def test_if_nobody_asks_who_it_is_any_name_will_do() -> None:
    assert ANY.read("holiday\n.jpg", unknown_camera=1) == (0, 1)
    assert ANY.without_cameras == ""


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("(?P<person>", "this is no regular expression: missing ), unterminated subpattern at position 0"),
        ("market", "this one has no group person"),
        (r"(\d+)_.*", "this one has no group person"),
    ],
)
def test_what_is_no_pattern_is_refused_with_what_is_wanted(pattern: str, what: str) -> None:
    with pytest.raises(ValueError) as caught:
        file_names(pattern, cameras="file_name")
    assert str(caught.value) == (
        "market1501 or dukemtmc, or a regular expression with the groups (?P<person>...) and, if any, "
        f"(?P<camera>...); {what}"
    )
