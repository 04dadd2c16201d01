"""Figures for each pair of cameras."""

import csv
import io

import numpy as np
import pytest

from reid.embeddings import Embeddings
from reid.scoring.camera_pairs import MOST_CAMERAS, camera_pairs_csv
from reid.scoring.ranking import Scored, score

SETTINGS = {"k1": 2, "k2": 1, "lambda_value": 0.3, "max_rank": 5, "device": "cpu", "evaluate_device": "cpu"}


def embedded(who: list[tuple[int, int]], angle: list[float]) -> Embeddings:
    person, camera = (np.array(column, np.int64) for column in zip(*who))
    radians = np.radians(angle)
    vectors = np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)
    return Embeddings([f"/d/{number}.jpg" for number in range(len(who))], person, camera, vectors)


@pytest.fixture
def scored() -> Scored:
    # persons 1 and 2 in camera 1 are looked for in camera 2 (2 is nearer to both) and, person 1 alone, in camera 3
    query = embedded([(1, 1), (2, 1), (2, 2)], [0, 40, 45])
    gallery = embedded([(1, 2), (2, 2), (1, 3), (0, 3), (2, 1)], [30, 15, 90, 80, 41])
    return score(query, gallery, **SETTINGS, by_camera=True)


def test_every_pair_that_has_a_match_has_its_queries_its_persons_and_its_interval(scored: Scored) -> None:
    rows = list(csv.DictReader(io.StringIO(camera_pairs_csv(scored.pairs_of_cameras))))
    shown = [
        (row["query_camera"], row["gallery_camera"], row["queries"], row["persons"], row["gallery"]) for row in rows
    ]
    assert shown == [("1", "2", "2", "2", "2"), ("1", "3", "1", "1", "2"), ("2", "1", "1", "1", "1")]
    # 1 in 2: person 1 (0): 15 wrong, 30 right: 1/2; person 2 (40): 30 wrong, 15 right: 1/2
    assert [row["mAP"] for row in rows] == ["0.500000", "0.500000", "1.000000"]
    assert [row["rank1"] for row in rows] == ["0.000000", "0.000000", "1.000000"]
    assert [bool(row["mAP_low"]) for row in rows] == [True, False, False]  # one person alone has no interval


def test_nothing_is_scored_by_camera_unless_asked_for_and_not_for_very_many_cameras(caplog) -> None:
    query, gallery = (
        embedded([(1, 1)], [0]),
        embedded([(1, camera) for camera in range(2, MOST_CAMERAS + 3)], [5] * (MOST_CAMERAS + 1)),
    )
    assert not score(query, gallery, **SETTINGS).pairs_of_cameras
    caplog.set_level("INFO")
    assert not score(query, gallery, **SETTINGS, by_camera=True).pairs_of_cameras
    assert "51 cameras: there are no figures for each pair of more than 50" in caplog.messages
