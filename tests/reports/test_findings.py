import json
import re
from pathlib import Path

import pytest

from reid.data.doctor import examine
from reid.data.file_names import MARKET1501
from reid.data.findings import Examination, Finding, SplitSummary, counted
from reid.data.surveys import summarize, survey_folders
from reid.reports.findings import shown_sizes, to_json, to_lines, to_markdown
from reid.reports.findings_page import to_html
from tests.small_market import FOLDERS, write_image, write_market


def _examination(market: Path, num_classes: int | None = 3) -> Examination:
    folders = {split: str(market / folder) for split, folder in FOLDERS.items()}
    surveys = survey_folders(folders, missing={}, names=MARKET1501, index_file=market / "index.json")
    return Examination(
        "f00d", tuple(map(summarize, surveys.values())), tuple(examine(surveys, num_classes=num_classes))
    )


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return write_market(tmp_path / "market")


def test_markdown_is_a_verdict_and_two_tables(market: Path) -> None:
    (market / "query" / "a|b.txt").write_text("")
    assert to_markdown(_examination(market)) == (
        "# Data set\n"
        "\n"
        "Usable, with 1 warning.\n"
        "\n"
        "Fingerprint `f00d`\n"
        "\n"
        "| split | images | persons | cameras | images per person | junk | distractors | sizes (w x h) |\n"
        "|---|---|---|---|---|---|---|---|\n"
        "| train | 6 | 3 | 2 | 2 / 2 / 2 | 0 | 0 | 32 x 64 |\n"
        "| query | 2 | 2 | 2 | 1 / 1 / 1 | 0 | 0 | 32 x 64 |\n"
        "| gallery | 5 | 2 | 2 | 1 / 1.5 / 2 | 1 | 1 | 32 x 64 |\n"
        "\n"
        "Images per person: min / median / max.\n"
        "\n"
        "| severity | check | count | finding | first |\n"
        "|---|---|---|---|---|\n"
        "| warning | stray file | 1 | query: 1 stray beside the images; they are left out, and folders are not "
        "searched | query/a\\|b.txt |\n"
        "| note | junk images | 1 | gallery: 1 junk image (person -1); evaluation leaves them out "
        "| gallery/-1_c1s1_000001_01.jpg |\n"
        "| note | distractor images | 1 | gallery: 1 distractor image (person 0); they stay in the gallery and match "
        "nobody | gallery/0000_c2s1_000001_01.jpg |\n"
    )


def test_a_file_name_that_is_not_utf_8_is_shown_with_its_bytes_escaped(market: Path) -> None:
    (market / "query" / "stray\udcff.txt").write_text("")
    report = to_markdown(_examination(market))
    assert "query/stray\\\\udcff.txt" in report
    report.encode("utf-8")


def test_json_holds_every_figure(market: Path) -> None:
    report = json.loads(to_json(_examination(market, num_classes=751)))
    assert (report["verdict"], report["fingerprint"]) == ("Not usable yet: 1 error, 0 warnings.", "f00d")
    assert (report["errors"], report["warnings"], report["notes"]) == (1, 0, 2)
    assert report["splits"]["gallery"] == {
        "folder": str(market / "bounding_box_test"),
        "images": 5,
        "persons": 2,
        "cameras": 2,
        "junk": 1,
        "distractors": 1,
        "images_per_person": {"min": 1, "median": 1.5, "max": 2},
        "images_per_camera": {"1": 3, "2": 2},
        "sizes": {"32x64": 5},
    }
    assert report["findings"][0] == {
        "severity": "error",
        "check": "num_classes",
        "message": "dataset.num_classes is 751, but train shows 3 persons; "
        "set dataset.num_classes=3, or null to have them counted",
        "count": 1,
        "examples": [],
    }


def test_the_page_needs_nothing_from_outside_and_escapes_file_names(market: Path) -> None:
    write_image(market / "query" / "<script>alert(1)<.jpg")
    page = to_html(_examination(market))
    assert "<script" not in page
    assert "query/&lt;script&gt;alert(1)&lt;.jpg" in page
    assert not re.search(r"https?://|url\(|@import", page)
    assert set(re.findall(r'(?:src|href)="([^:]+):', page)) == {"data"}
    assert page.count("<svg") == 6


def test_the_page_stays_below_300_kb_whatever_is_found(market: Path) -> None:
    big = write_image(market / "big.jpg", size=(128, 256))
    findings = tuple(Finding("warning", "x", "y", 8, ("z",) * 8, (big,) * 8) for _ in range(40))
    examination = _examination(market)
    page = to_html(Examination("f00d", examination.splits, findings))
    assert 100_000 < len(page.encode()) < 300_000


def test_the_page_of_no_images_at_all_is_still_a_page(tmp_path: Path) -> None:
    surveys = survey_folders(
        {"train": None, "query": None, "gallery": None},
        missing=dict.fromkeys(FOLDERS, "gone"),
        names=MARKET1501,
        index_file=tmp_path / "index.json",
    )
    examination = Examination(
        "f00d", tuple(map(summarize, surveys.values())), tuple(examine(surveys, num_classes=None))
    )
    page = to_html(examination)
    assert page.count("No image in") == 3
    assert "Not usable yet: 3 errors, 0 warnings." in page
    assert to_markdown(examination).count("| - |") == 6


def test_reports_of_the_same_data_set_have_the_same_bytes(market: Path) -> None:
    one, two = _examination(market), _examination(market)
    assert (to_html(one), to_markdown(one), to_json(one)) == (to_html(two), to_markdown(two), to_json(two))


def test_many_sizes_are_cut_short(tmp_path: Path) -> None:
    sizes = {(width, 128): 1_000 for width in range(60, 67)}
    summary = SplitSummary("train", tmp_path, 7_000, 1, 1, 0, 0, (7_000,), {1: 7_000}, sizes, ())
    assert shown_sizes(summary) == (
        "60 x 128 (1,000), 61 x 128 (1,000), 62 x 128 (1,000), 63 x 128 (1,000), 64 x 128 (1,000), 2 more"
    )


def test_the_closing_lines_are_the_splits_errors_and_warnings(market: Path) -> None:
    assert to_lines(_examination(market, num_classes=2)) == [
        "train 6 images of 3 persons under 2 cameras; query 2 images of 2 persons under 2 cameras; "
        "gallery 5 images of 2 persons under 2 cameras",
        "error: dataset.num_classes is 2, but train shows 3 persons; "
        "set dataset.num_classes=3, or null to have them counted",
    ]
    assert counted(1, "image") == "1 image"
    assert counted(0, "image") == "0 images"
