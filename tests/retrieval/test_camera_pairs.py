"""Scores of each query in each camera's part of the gallery, beside the slow reference on that part alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.retrieval.camera_pairs import CameraScorer
from reid.retrieval.metrics import evaluate
from reid.retrieval.protocol import market_protocol

WHO = st.lists(st.tuples(st.sampled_from([-1, 0, 1, 2, 3]), st.integers(1, 3)), min_size=1, max_size=30)


def scorer_of(distance: np.ndarray, known: dict[str, np.ndarray], *, rows: int) -> CameraScorer:
    scorer = CameraScorer(market_protocol(**known))
    for first in range(0, len(distance), rows):
        scorer.add(first, distance[first : first + rows])
    return scorer


def test_a_query_is_looked_for_in_one_camera_at_a_time() -> None:
    # query: person 1, camera 1. Camera 2: person 2 at 0.1, person 1 at 0.2 and at 0.4: AP (1/2 + 2/3) / 2 = 7/12.
    # Camera 3: person 1 at 0.3, nearest there though fourth of all; junk at 0.05 is left out.
    # Camera 1: the query's own, though it is nearest of all. Camera 4 has nobody of it.
    distance = np.array([[0.4, 0.1, 0.2, 0.3, 0.05, 0.01, 0.5]], np.float32)
    known = {
        "query_person": np.array([1]),
        "query_camera": np.array([1]),
        "gallery_person": np.array([1, 2, 1, 1, -1, 1, 2]),
        "gallery_camera": np.array([2, 2, 2, 3, 3, 1, 4]),
    }
    found = scorer_of(distance, known, rows=1)
    assert found.cameras.tolist() == [1, 2, 3, 4]
    assert found.average_precision[0] == pytest.approx([np.nan, 7 / 12, 1.0, np.nan], nan_ok=True)
    assert found.first_match_rank[0].tolist() == [0, 2, 1, 0]


@settings(deadline=None, max_examples=60)
@given(WHO, WHO, st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_a_pair_has_the_figures_of_a_gallery_that_is_this_camera_alone(queries, gallery, rows, seed) -> None:
    queries, gallery = [(1, 1), *queries], [(1, 2), *gallery]
    names = ("query_person", "query_camera", "gallery_person", "gallery_camera")
    columns = [np.array(column, np.int64) for who in (queries, gallery) for column in zip(*who)]
    known = dict(zip(names, columns))
    # few different distances, so that there are ties
    distance = np.random.default_rng(seed).integers(0, 5, (len(queries), len(gallery))).astype(np.float32)
    found = scorer_of(distance, known, rows=rows)
    for column, camera in enumerate(found.cameras.tolist()):
        part = known["gallery_camera"] == camera
        limited = {name: values[part] if name.startswith("gallery") else values for name, values in known.items()}
        if (found.first_match_rank[:, column] > 0).any():
            wanted = evaluate(distance[:, part], **limited, max_rank=1)
            assert found.average_precision[:, column] == pytest.approx(wanted.average_precision, nan_ok=True)
            assert found.first_match_rank[:, column].tolist() == wanted.first_match_rank.tolist()
