from pathlib import Path

import pytest
from PIL import Image

from reid.reports.matches import Match, MatchRow
from reid.reports.sheet import matches_sheet


def some_rows(folder: Path, *, rows: int, ranks: int) -> list[MatchRow]:
    """Rows whose odd ranks are right; one image serves them all."""
    path = folder / "0001_c1s1_000001_00.jpg"
    Image.new("RGB", (32, 64), (90, 120, 60)).save(path)
    matches = tuple(
        Match(str(path), 1 if rank % 2 else 2, 2, rank, distance=rank / 10, correct=bool(rank % 2))
        for rank in range(1, ranks + 1)
    )
    return [MatchRow(str(path), 1, 1, "best", 0.75, matches[0], matches) for _ in range(rows)]


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_distance_and_camera_stand_under_each_image_and_the_reason_beside_the_query(tmp_path):
    found = texts(matches_sheet(some_rows(tmp_path, rows=1, ranks=2), title="Sampled matches", note="1 best of 9"))
    for wanted in (
        "Sampled matches",
        "1 best of 9",
        "person 1",
        "best",
        "AP 75 %",
        "0.10 · c2",
        "0.20 · c2",
        "camera 1",
    ):
        assert wanted in found


def test_every_row_shows_the_query_and_all_its_ranks(tmp_path):
    figure = matches_sheet(some_rows(tmp_path, rows=3, ranks=5), title="t", note="n")
    assert len(figure.axes[0].images) == 3 * (1 + 5)


@pytest.mark.parametrize("rows, ranks", [(1, 1), (2, 40)])
def test_no_text_leaves_the_sheet_however_narrow_or_wide(tmp_path, rows, ranks):
    note = "3 best, 3 random and 4 hardest of 3,368 queries with a match (seed 1234). " * 2
    figure = matches_sheet(some_rows(tmp_path, rows=rows, ranks=ranks), title="Sampled matches", note=note)
    figure.draw_without_rendering()
    page = figure.bbox
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1, text.get_text()
