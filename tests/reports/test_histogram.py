from hypothesis import given
from hypothesis import strategies as st

from reid.reports.histogram import BARS, WIDTH, persons_histogram


def test_a_histogram_by_hand() -> None:
    # two persons with 1 image, one with 3: three bars of heights 90, 0 and 45 on a foot at 105
    histogram = persons_histogram((1, 1, 3), "image")
    assert histogram is not None
    assert [(bar.y, bar.height, bar.title) for bar in histogram.bars] == [
        (15.0, 90.0, "1 image: 2 persons"),
        (105.0, 0.0, "2 images: 0 persons"),
        (60.0, 45.0, "3 images: 1 person"),
    ]
    assert (histogram.first, histogram.last, histogram.top) == ("1 image", "3", "up to 2 persons")


def test_nobody_has_no_histogram() -> None:
    assert persons_histogram((), "image") is None


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=50))
def test_every_person_is_in_one_of_few_bars_and_every_bar_in_the_drawing(images: list[int]) -> None:
    histogram = persons_histogram(tuple(sorted(images)), "image")
    assert histogram is not None
    assert len(histogram.bars) <= BARS
    assert sum(int(bar.title.split(": ")[1].split(" ")[0].replace(",", "")) for bar in histogram.bars) == len(images)
    assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH for bar in histogram.bars)
