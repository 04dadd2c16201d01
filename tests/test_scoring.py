import csv
import io
import itertools
import logging
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.data.market1501 import PersonImage, Split
from reid.embeddings import Embeddings
from reid.retrieval import distance as distance_module
from reid.retrieval import knn
from reid.retrieval import rerank as rerank_module
from reid.retrieval.distance import euclidean_squared
from reid.retrieval.metrics import evaluate
from reid.retrieval.protocol import market_protocol
from reid.retrieval.threshold import PairCounter, Verification
from reid.scoring.matches import has_match
from reid.scoring.per_query import per_query_csv
from reid.scoring.ranking import score
from reid.scoring.verification import pair_counter, pair_histogram, roc_rows, threshold_rows
from tests import reference
from tests.reranked import rerank

DEVICE = {"device": "auto", "evaluate_device": "cpu"}
SETTINGS = {"k1": 20, "k2": 6, "lambda_value": 0.3, "max_rank": 3, **DEVICE}


def on_a_circle(*images: tuple[int, int, float]) -> Embeddings:
    """One image for each (person, camera, angle in degrees), the vector of length 2 in that direction."""
    person, camera, degrees = (np.array(column) for column in zip(*images))
    vectors = 2 * np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)
    paths = [f"/d/{p}_c{c}_{number}.jpg" for number, (p, c, _) in enumerate(images)]
    return Embeddings(paths, person.astype(np.int64), camera.astype(np.int64), vectors.astype(np.float32))


QUERY = on_a_circle((1, 1, 0), (2, 1, 90), (3, 1, 0))
GALLERY = on_a_circle((1, 1, 0), (2, 2, 30), (1, 2, 60), (0, 2, 180))


def test_both_rankings_are_scored_and_the_length_of_an_embedding_does_not_matter():
    # Query 1 (0 degrees): its own-camera image is ignored; 30 (person 2), 60 (person 1, right): AP 1/2.
    # Query 2 (90): 60 (person 1), 30 (person 2, right): AP 1/2. Query 3 has no image in the gallery.
    scored = score(QUERY, GALLERY, **SETTINGS)
    assert scored.plain.metrics() == pytest.approx({"mAP": 0.5, "rank1": 0.0, "rank5": 1.0, "rank10": 1.0, "mINP": 0.5})
    assert scored.plain.scores.valid_queries == 2
    assert scored.plain.nearest.image[0, :4].tolist() == [1, 2, 3, -1]
    assert scored.plain.nearest.distance[0, :3] == pytest.approx(2 - 2 * np.cos(np.radians([30, 60, 180])), abs=1e-6)
    assert scored.reranked.metrics("reranked_").keys() == {
        "reranked_mAP",
        "reranked_rank1",
        "reranked_rank5",
        "reranked_rank10",
        "reranked_mINP",
    }


def test_a_curve_has_the_ranks_asked_for_although_rank_ten_is_always_scored():
    scored = score(QUERY, GALLERY, **SETTINGS)
    assert scored.plain.curve("plain", 3).cmc.tolist() == [0.0, 1.0, 1.0]


def test_more_neighbours_than_images_are_lowered_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        scored = score(QUERY, GALLERY, **SETTINGS)
    assert (scored.k1, scored.k2) == (6, 6)
    assert "re_ranking.k1 is 20, but there are 7 images: 6 neighbours are used" in caplog.messages


def split(*images: tuple[int, int]) -> Split:
    return Split(None, tuple(PersonImage(f"{number}.jpg", *who) for number, who in enumerate(images)))  # type: ignore[arg-type]


def test_only_the_same_person_in_another_camera_is_a_match():
    gallery = split((1, 1), (2, 2), (0, 2), (-1, 2))
    assert has_match(split((1, 1), (2, 1), (3, 1), (0, 1), (-1, 1)), gallery).tolist() == [
        False,
        True,
        False,
        False,
        False,
    ]


def test_each_query_is_a_line_and_one_without_a_match_has_no_precision():
    rows = list(csv.DictReader(io.StringIO(per_query_csv(score(QUERY, GALLERY, **SETTINGS)))))
    assert [row["query"] for row in rows] == QUERY.paths
    first = rows[0]
    assert (first["person"], first["camera"]) == ("1", "1")
    assert (first["plain_average_precision"], first["plain_first_match_rank"]) == ("0.500000", "2")
    # 2 - 2 cos 30 degrees = 0.267949
    assert (first["plain_top1"], first["plain_top1_person"]) == (GALLERY.paths[1], "2")
    assert float(first["plain_top1_distance"]) == pytest.approx(0.267949, abs=2e-6)
    assert (rows[2]["plain_average_precision"], rows[2]["plain_first_match_rank"]) == ("", "")
    assert rows[2]["reranked_average_precision"] == ""
    assert rows[2]["plain_top1"] == GALLERY.paths[0]


def judged(query: Embeddings, gallery: Embeddings) -> Verification:
    pairs = pair_counter(query, gallery)
    assert pairs is not None
    score(query, gallery, **SETTINGS, pairs=pairs)
    return pairs.verification()


def test_pairs_are_counted_by_distance_without_those_the_metric_ignores():
    pairs = pair_histogram(judged(QUERY, GALLERY))
    # 3 x 4 pairs less the own-camera pair of query 1; same person: query 1 at 60 degrees, query 2 at 60 degrees
    assert (pairs.genuine.sum(), pairs.impostor.sum()) == (2, 9)
    # both at 2 - 2 cos 60 = 1.0, of 80 steps up to 2 - 2 cos 180 = 4: step 19 or 20
    assert pairs.genuine[19] + pairs.genuine[20] == 2


def test_a_threshold_says_what_it_accepts_of_each_kind():
    # best F1 by hand: at 1.0 both genuine pairs are in, and of the impostors those at 0 (query 3 with the image of
    # person 1 at 0 degrees), at 30 degrees from 0 (queries 1 and 3), at 60 (query 3) and at 30 from 90 (query 2)
    rows = {row.name: row for row in threshold_rows(judged(QUERY, GALLERY))}
    best = rows["best F1"]
    assert best.distance == pytest.approx(1.0, abs=1e-3)
    assert best.true_match_rate == 1.0
    assert best.false_match_rate == pytest.approx(5 / 9)
    assert best.precision == pytest.approx(2 / 7)


def test_a_false_match_rate_of_less_than_one_pair_is_no_threshold():
    rows = threshold_rows(judged(QUERY, GALLERY))
    assert [row.name for row in rows] == ["best F1", "equal error"]  # 1 % of 9 pairs is none


@pytest.mark.parametrize(
    ("queries", "images"),
    [
        ([(1, 1, 0)], [(1, 2, 10), (1, 3, 20)]),
        ([(1, 1, 0), (0, 1, 40)], [(1, 2, 10), (1, 3, 20)]),  # a distractor as a query judges nothing
        ([(1, 1, 0)], [(1, 2, 10), (-1, 3, 20)]),
        ([(0, 1, 0)], [(1, 2, 10), (2, 3, 20)]),
    ],
)
def test_one_person_alone_gives_no_thresholds_but_a_warning(caplog, queries, images):
    with caplog.at_level(logging.WARNING):
        assert pair_counter(on_a_circle(*queries), on_a_circle(*images)) is None
    assert caplog.messages == ["no query of a known person faces an image of another one; no distance can be judged"]


def test_a_distractor_in_the_gallery_is_another_person():
    assert judged(on_a_circle((1, 1, 0)), on_a_circle((1, 2, 10), (0, 3, 20))).different_person_pairs == 1


# directions of length 1 whose distances are exact in float32, so that ties are ties and blocks round alike
DIRECTIONS = np.concatenate([np.eye(4), -np.eye(4), 0.5 * np.array(list(itertools.product([1, -1], repeat=4)))])
WHO = st.lists(st.tuples(st.sampled_from([0, 1, 2, 3]), st.integers(1, 3), st.integers(0, 23)), min_size=1, max_size=30)


def embedded(images: list[tuple[int, int, int]]) -> Embeddings:
    person, camera, direction = (np.array(column, np.int64) for column in zip(*images))
    paths = [f"/d/{number}.jpg" for number in range(len(images))]
    return Embeddings(paths, person, camera, DIRECTIONS[direction].astype(np.float32))


@settings(deadline=None, max_examples=60)
@given(WHO, WHO, st.integers(1, 7))
def test_blocks_give_what_the_whole_matrices_give_to_the_last_bit(queries, images, block_queries):
    query, gallery = embedded([(1, 1, 0), *queries]), embedded([(1, 2, 3), (2, 1, 5), *images])
    known = {
        "query_person": query.person,
        "query_camera": query.camera,
        "gallery_person": gallery.person,
        "gallery_camera": gallery.camera,
    }
    parameters = {"k1": min(6, len(query) + len(gallery) - 1), "k2": 2, "lambda_value": 0.3}
    pairs = pair_counter(query, gallery)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distance_module, "BLOCK_BYTES", 4 * len(gallery) * block_queries)
        scored = score(query, gallery, **parameters, **DEVICE, max_rank=12, pairs=pairs)
    matrices = {
        "plain": euclidean_squared(query.vectors, gallery.vectors),
        "reranked": rerank(query.vectors, gallery.vectors, **parameters),
    }
    for kind, distance in matrices.items():
        wanted, found = evaluate(distance, **known, max_rank=12), scored.ranking(kind)
        assert (found.scores.mAP, found.scores.mINP) == (wanted.mAP, wanted.mINP)
        assert np.array_equal(found.scores.cmc, wanted.cmc)
        assert np.array_equal(found.scores.average_precision, wanted.average_precision, equal_nan=True)
        for row in range(len(query)):
            order = reference.ranking(
                distance[row],
                person=query.person[row],
                camera=query.camera[row],
                gallery_person=gallery.person,
                gallery_camera=gallery.camera,
            )[:12]
            assert found.nearest.image[row, : len(order)].tolist() == order
            assert np.array_equal(found.nearest.distance[row, : len(order)], distance[row, order])
    whole = PairCounter(market_protocol(**known), low=0, high=4)
    whole.add(0, matrices["plain"])
    assert threshold_rows(pairs.verification()) == threshold_rows(whole.verification())


def peak_bytes(queries: int, images: int) -> int:
    """The most that scoring has allocated at a time, beside the embeddings."""
    rng = np.random.default_rng(0)
    query, gallery = (
        Embeddings(
            [f"/d/{number}.jpg" for number in range(count)],
            rng.integers(1, images // 20, count),
            rng.integers(1, 7, count),
            rng.standard_normal((count, 16), dtype=np.float32),
        )
        for count in (queries, images)
    )
    tracemalloc.start()
    try:
        pairs = pair_counter(query, gallery)
        per_query_csv(score(query, gallery, **SETTINGS, pairs=pairs))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_with_the_images_and_not_with_their_pairs(monkeypatch):
    monkeypatch.setattr(distance_module, "BLOCK_BYTES", 1 << 20)
    monkeypatch.setattr(rerank_module, "KEPT_BYTES", 1 << 20)
    monkeypatch.setattr(knn, "AGAIN_BYTES", 1 << 20)
    few, many = peak_bytes(500, 1_500), peak_bytes(4_000, 12_000)
    assert many < 8 * few  # 8 times the images, 64 times the pairs
    assert many < 4 * 4_000 * 12_000 / 2  # half of one (Q, G) of float32


SCORING = """
from pathlib import Path
import numpy as np
from reid.embeddings import Embeddings
from reid.retrieval.rerank import forecast
from reid.scoring.ranking import score
from reid.scoring.verification import pair_counter

def embeddings(count, rng, width):
    person = rng.integers(1, 2000, count)
    centre = np.random.default_rng(1).standard_normal((2000, width), dtype=np.float32)
    vectors = rng.standard_normal((count, width), dtype=np.float32)
    vectors += centre[person]
    return Embeddings(["/d/x.jpg"] * count, person, rng.integers(1, 7, count), vectors)

def scored(queries, images, width):
    rng = np.random.default_rng(0)
    query, gallery = embeddings(queries, rng, width), embeddings(images, rng, width)
    Path("/proc/self/clear_refs").write_text("5")  # the highest is now
    before = highest()
    score(query, gallery, k1=20, k2=6, lambda_value=0.3, max_rank=10, device="cpu", evaluate_device="cpu",
          pairs=pair_counter(query, gallery))
    return highest() - before

def highest():
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

scored(50, 500, 16)
print(scored({queries}, {images}, {width}), forecast({queries}, {images}, width={width}, k1=20, k2=6).memory_bytes)
"""


@pytest.mark.parametrize(("queries", "images", "width"), [(1500, 20_000, 64), (600, 8_000, 2048)])
def test_memory_is_what_was_forecast(queries, images, width):
    code = SCORING.replace("{queries}", str(queries)).replace("{images}", str(images)).replace("{width}", str(width))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    used, forecast = (int(word) for word in done.stdout.split())
    assert used < 1.1 * forecast
    assert used > 0.5 * forecast


def test_the_verification_curve_is_thinned_evenly_and_keeps_both_ends():
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 360, size=400)
    rows = [(person, camera, float(angle)) for person, camera, angle in zip(range(400), [0, 1] * 200, angles)]
    query = on_a_circle(*[(person % 20 + 1, 0, angle) for person, _, angle in rows[:100]])
    gallery = on_a_circle(*[(person % 20 + 1, 1, angle) for person, _, angle in rows[100:]])
    pairs = pair_counter(query, gallery)
    score(query, gallery, k1=20, k2=6, lambda_value=0.3, max_rank=10, **DEVICE, pairs=pairs)
    found = pairs.verification()
    assert len(found.thresholds) > 1000
    curve = roc_rows(found, points=100)
    assert 50 < len(curve) <= 100
    assert (curve[0].true_match_rate, curve[0].false_match_rate) == (0.0, 0.0)
    assert (curve[-1].true_match_rate, curve[-1].false_match_rate) == (1.0, 1.0)
    cosines = [row.cosine for row in curve]
    assert cosines == sorted(cosines, reverse=True)
    # no gap is longer than two even steps of a curve that is at most 2 long
    gaps = np.hypot(*np.diff([row[1:] for row in curve], axis=0).T)
    assert gaps.max() <= 2 * 2 / 98
