import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid.reports.evaluation import Evaluation, RocRow, ThresholdRow, evaluation_page
from reid.reports.matches import Match, MatchRow
from reid.scoring.camera_pairs import CameraPair
from reid.scoring.confidence import Interval
from reid.scoring.curves import Curve
from reid.scoring.verification import PairHistogram


def noise_image(path: Path) -> str:
    """The worst a JPEG can meet: nothing in it can be compressed."""
    pixels = np.random.default_rng(0).integers(0, 256, (256, 128, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def some_rows(path: str, *, rows: int, ranks: int) -> list[MatchRow]:
    matches = tuple(Match(path, 2, 3, rank, 0.25 * rank, correct=False) for rank in range(1, ranks + 1))
    first = Match(path, 1, 2, 77, 1.9, correct=True)
    return [MatchRow(path, 1, 1, "hardest", 0.02, first, matches) for _ in range(rows)]


def some_evaluation(path: str, *, rows: int = 2, ranks: int = 10, headline: str = "reranked") -> Evaluation:
    cmc = np.linspace(0.5, 0.9, ranks)
    return Evaluation(
        subtitle="a <small> network",
        curves=[
            Curve("plain", cmc, 0.50, 0.2),
            Curve("reranked", cmc + 0.05, 0.60, 0.3),
            Curve("untrained", cmc / 9, 0.08, 0.02),
            Curve("untrained_reranked", cmc / 8, 0.10, 0.02),
        ],
        headline=headline,
        sampled=some_rows(path, rows=rows, ranks=ranks),
        sampled_note="1 best of 3.",
        hardest=some_rows(path, rows=8, ranks=8),
        pairs=PairHistogram(np.array([0.0, 1.0, 2.0]), np.array([3, 1]), np.array([1, 7])),
        thresholds=[ThresholdRow("best F1", 0.5, 0.75, 0.125, 0.9)],
        roc=[RocRow(0.75, 0.75, 0.125)],
        settings=[("k1, k2, lambda_value", "20, 6, 0.3")],
    )


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    html = evaluation_page(some_evaluation(noise_image(tmp_path / "a.png")))
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", html)
    assert not re.findall(r"url\((?!#)", html)
    assert "@import" not in html
    assert "<link" not in html


@pytest.mark.parametrize("rows, ranks", [(1, 1), (40, 50)])
def test_the_page_stays_under_two_megabytes_whatever_is_asked_for(tmp_path, rows, ranks):
    html = evaluation_page(some_evaluation(noise_image(tmp_path / "a.png"), rows=rows, ranks=ranks))
    assert len(html.encode()) < 2_000_000


def test_the_headline_shows_before_and_after_training_and_plain_to_reranked(tmp_path):
    html = evaluation_page(some_evaluation(noise_image(tmp_path / "a.png")))
    tiles = re.sub(r"<[^>]+>", " ", html[html.index('class="tiles"') : html.index("<h2>")])
    tiles = " ".join(tiles.replace("&rarr;", "to").split())
    # training: 10.0 to 60.0 re-ranked; re-ranking: 50.0 to 60.0
    assert "mAP, re-ranked 10.0 to 60.0 +50.0 points by training" in tiles
    assert "mAP, plain to re-ranked 50.0 to 60.0 +10.0 points by re-ranking" in tiles


def test_without_re_ranking_as_headline_the_plain_figures_lead(tmp_path):
    html = evaluation_page(some_evaluation(noise_image(tmp_path / "a.png"), headline="plain"))
    assert "mAP, plain<" in html
    assert '<tr class="main"><td>trained, plain</td><td>50.0</td>' in html
    assert "Sampled matches, plain" in html


def test_a_model_without_untrained_figures_still_has_a_page(tmp_path):
    whole = some_evaluation(noise_image(tmp_path / "a.png"))
    fields = {name: getattr(whole, name) for name in whole.__dataclass_fields__}
    html = evaluation_page(Evaluation(**fields | {"curves": whole.curves[:2]}))
    assert "by training" not in html
    assert "untrained" not in html


def test_texts_are_escaped(tmp_path):
    html = evaluation_page(some_evaluation(noise_image(tmp_path / "a.png")))
    assert "a &lt;small&gt; network" in html


def some_pairs(cameras: int) -> list[CameraPair]:
    share = Interval(0.4, 0.3, 0.5, 40)
    return [
        CameraPair(query, gallery, 90, 1234, share, Interval(0.8, math.nan, math.nan, 1) if query == 1 else share)
        for query in range(1, cameras + 1)
        for gallery in range(1, cameras + 1)
        if query != gallery
    ]


def test_the_intervals_stand_by_the_figures(tmp_path):
    whole = some_evaluation(noise_image(tmp_path / "a.png"))
    known = Interval(0.6, 0.55, 0.66, 12)
    curves = [replace(curve, mAP_interval=known) if curve.kind == "reranked" else curve for curve in whole.curves]
    html = evaluation_page(replace(whole, curves=curves))
    assert '<small class="range soft">95 %: 55.0\u201366.0 for other persons</small>' in html
    assert '<tr class="main"><td>trained, re-ranked</td><td>60.0\n55.0\u201366.0</td><td>55.0</td>' in html
    assert "bootstrap over 12 persons; fewer than 20 are so few that it is rather too narrow)" in html


@pytest.mark.parametrize(("cameras", "cells"), [(6, 30), (15, 210), (31, 0)])
def test_pairs_of_cameras_are_a_grid_or_a_list_of_the_worst(tmp_path, cameras, cells):
    html = evaluation_page(
        replace(some_evaluation(noise_image(tmp_path / "a.png")), pairs_of_cameras=some_pairs(cameras))
    )
    assert html.count('class="cell"') == cells
    assert ("<td>camera 1 in camera 2</td>" in html) == (cameras == 31)
    if cells:
        share = "40.0 (30.0\u201350.0)"
        assert f"queries of camera 3 in camera 2\nmAP {share}, rank-1 {share}\n90 queries of 40 persons" in html
    assert len(html.encode()) < 2_000_000


def test_a_pair_of_few_persons_is_grey(tmp_path):
    pair = CameraPair(1, 2, 3, 10, Interval(0.4, 0.1, 0.9, 3), Interval(0.4, 0.1, 0.9, 3))
    html = evaluation_page(replace(some_evaluation(noise_image(tmp_path / "a.png")), pairs_of_cameras=[pair]))
    assert 'class="cell few"' in html
