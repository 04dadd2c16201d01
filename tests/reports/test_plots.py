import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from reid.reports.plots import (
    Curve,
    PairHistogram,
    cmc_curve,
    distance_histogram,
    inline_svg,
    save,
    training_curves,
    training_figure,
)
from reid.scoring.confidence import Interval

HISTORY = [
    {"epoch": -1, "step": 0, "mAP": 0.1, "rank1": 0.2},
    {"epoch": 0, "step": 9, "train_loss": 6.0, "learning_rate": 1e-3, "mAP": None, "rank1": float("nan")},
    {"epoch": 1, "step": 18, "train_loss": 4.0, "learning_rate": 2e-3, "mAP": 0.3, "rank1": 0.5},
]
CURVES = [
    Curve("plain", np.array([0.5, 0.75, 1.0]), 0.52, 0.3),
    Curve("reranked", np.array([0.6, 0.8, 1.0]), 0.61, 0.4),
    Curve("untrained", np.array([0.1, 0.2, 0.3]), 0.09, 0.02),
]


def points(axes) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): [(float(x), round(float(y), 9)) for x, y in zip(*line.get_data())] for line in axes.lines}


def test_the_cmc_curve_is_drawn_in_percent_from_rank_one_with_map_beside_each_name():
    drawn = points(cmc_curve(CURVES).axes[0])
    assert drawn == {
        "trained, re-ranked: mAP 61.0, rank-1 60.0": [(1, 60.0), (2, 80.0), (3, 100.0)],
        "trained, plain: mAP 52.0, rank-1 50.0": [(1, 50.0), (2, 75.0), (3, 100.0)],
        "untrained, plain: mAP 9.0, rank-1 10.0": [(1, 10.0), (2, 20.0), (3, 30.0)],
    }


def test_the_interval_of_rank_one_is_an_upright_line_in_the_colour_of_its_curve():
    known = Interval(0.6, 0.45, 0.7, 30)
    curves = [replace(CURVES[0], rank1_interval=known), replace(CURVES[2], rank1_interval=known)]
    (axes,) = cmc_curve(curves).axes
    (line,) = axes.collections  # none of the untrained network
    (ends,) = line.get_segments()
    assert ends[:, 1].tolist() == [45.0, 70.0]
    assert line.get_color()[0, :3] == pytest.approx(to_rgb(axes.lines[0].get_color()))
    assert not cmc_curve([replace(CURVES[0], rank1_interval=Interval(0.6, math.nan, math.nan, 1))]).axes[0].collections


@pytest.mark.parametrize("ranks", [1, 2, 10, 50, 137])
def test_a_cmc_curve_of_any_length_has_few_ticks_and_the_first_is_rank_one(ranks):
    ticks = cmc_curve([Curve("plain", np.linspace(0.5, 1, ranks), 0.5, 0.5)]).axes[0].get_xticks()
    assert ticks[0] == 1
    assert len(ticks) <= 15
    assert max(ticks) <= ranks


def test_training_curves_leave_out_what_was_not_measured_and_put_the_untrained_network_at_zero():
    loss, accuracy, rate = training_figure(HISTORY).axes
    assert points(loss) == {"training loss": [(1, 6.0), (2, 4.0)]}
    assert points(accuracy) == {"mAP": [(0, 10.0), (2, 30.0)], "rank-1": [(0, 20.0), (2, 50.0)]}
    assert points(rate) == {"learning rate": [(1, 1e-3), (2, 2e-3)]}


def test_a_history_without_rows_still_gives_a_figure(tmp_path):
    training_curves([], tmp_path / "empty.png")
    with Image.open(tmp_path / "empty.png") as image:
        assert image.width > 1000


def test_pairs_of_each_kind_are_shown_as_shares_of_their_own_kind():
    pairs = PairHistogram(np.array([0.0, 1.0, 2.0]), np.array([3, 1]), np.array([10, 30]))
    figure = distance_histogram(pairs, {"best F1": 0.5})
    labels = {patch.get_label(): patch.get_data().values.tolist() for patch in figure.axes[0].patches}
    assert labels["same person, other camera (4 pairs)"] == [75.0, 25.0]
    assert labels["different persons (40 pairs)"] == [25.0, 75.0]
    assert [text.get_text() for text in figure.axes[0].texts] == ["best F1: 0.500"]


@pytest.mark.parametrize("ending, start", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_figure_is_saved_by_its_ending_and_the_same_figure_gives_the_same_bytes(tmp_path, ending, start):
    first, second = tmp_path / "a" / f"cmc.{ending}", tmp_path / "b" / f"cmc.{ending}"
    save(cmc_curve(CURVES), first)
    save(cmc_curve(CURVES), second)
    assert first.read_bytes().startswith(start)
    assert first.read_bytes() == second.read_bytes()


def test_inline_svg_keeps_text_as_text_and_takes_its_ink_from_the_page():
    svg = inline_svg(cmc_curve(CURVES), salt="cmc")
    assert svg.startswith("<svg")
    assert "trained, re-ranked: mAP 61.0, rank-1 60.0" in svg
    assert "var(--ink)" in svg
    assert "#20252b" not in svg
    assert "<metadata>" not in svg


def test_plots_need_no_pyplot():
    code = (
        "import reid.reports.plots, numpy, sys\n"
        "assert 'matplotlib' not in sys.modules\n"
        "reid.reports.plots.cmc_curve([reid.reports.plots.Curve('plain', numpy.ones(3), 1.0, 1.0)])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
