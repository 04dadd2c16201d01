from reid.reports.match_grid import SIZE, match_grid
from reid.reports.page import environment
from reid.reports.thumbnails import Thumbnails
from tests.reports.test_evaluation import noise_image, some_rows


def markup(grid) -> str:
    return environment().get_template("parts.html.j2").module.match_grid(grid)


def test_rows_beyond_the_budget_are_counted_not_dropped_in_silence(tmp_path):
    rows = some_rows(noise_image(tmp_path / "a.png"), rows=5, ranks=3)
    html = markup(match_grid(rows, Thumbnails(1, **SIZE), ranks=3))
    assert html.count('class="row"') == 1
    assert "4 more rows are left out to keep this page small." in html
    html = markup(match_grid(rows[:2], Thumbnails(1, **SIZE), ranks=3))
    assert "1 more row is left out to keep this page small." in html


def test_a_match_says_who_where_and_how_far_in_its_tooltip(tmp_path):
    rows = some_rows(noise_image(tmp_path / "a.png"), rows=1, ranks=1)
    html = markup(match_grid(rows, Thumbnails(10**6, **SIZE), ranks=1, first_right=True))
    assert 'title="a.png\nrank 1: person 2, camera 3\ndistance 0.2500"' in html
    assert 'title="a.png\nrank 77: person 1, camera 2\ndistance 1.9000"' in html
    assert html.count("\u2715") == 1
    assert html.count("\u2713") == 1
