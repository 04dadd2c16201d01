"""Re-ranking and scoring against their limits and against the dense textbook formulas.

    python -m tests.bench retrieval
    python -m tests.bench.bench_retrieval '{"what": "re-ranked and scored in blocks", "gallery": 300000}'

Every case runs in a process of its own; its time is the best after compilation. The textbook side is measured at a
quarter of Market-1501's size, where it takes seconds and not 70 of them and 9 GB; ours beside it at the same size.
"""
# ruff: noqa: T201

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from tests.bench.rows import Row, in_a_process, peak_gb, row, seconds

if TYPE_CHECKING:
    from reid.scoring.ranking import Scored

MODULE = "tests.bench.bench_retrieval"
MARKET = {"queries": 3368, "gallery": 15913, "width": 256}
QUARTER = {"queries": 842, "gallery": 3978, "width": 256}
RERANKING = {"k1": 20, "k2": 6, "lambda_value": 0.3}
LIMIT = "one symmetric product, output written"


def measure() -> list[Row]:
    """The rows of this part."""
    rows = []
    for name, size in (("a quarter of Market-1501", QUARTER), ("Market-1501", MARKET)):
        limit, ours = _beside_the_limit(size)
        more = {"limit": limit, "limit_is": LIMIT, "peak_gb": ours["peak_gb"]}
        if size is QUARTER:
            textbook = _case("re-ranking, textbook", size)
            more |= {"textbook": textbook["s"], "textbook_is": f"dense NumPy, {textbook['peak_gb']:.1f} GB"}
        rows.append(row("retrieval", f"re-ranking, {name}, 256-d", ours["s"], "s", **more))
    wide = MARKET | {"width": 2048}
    limit, ours = _beside_the_limit(wide)
    rows.append(
        row("retrieval", "re-ranking, Market-1501, 2048-d", ours["s"], "s",
            limit=limit, limit_is=LIMIT, peak_gb=ours["peak_gb"])
    )  # fmt: skip
    rows.append(at_scale(100_000))
    rows += [searched(queries) for queries in (1, 10, 1000)]
    for name, size in (("a quarter of Market-1501", QUARTER), ("Market-1501", MARKET)):
        more = {"limit": _case("one pass over the distances", size)["s"], "limit_is": "one pass over the distances"}
        if size is QUARTER:
            textbook = _case("scores, textbook", size)
            more |= {"textbook": textbook["s"], "textbook_is": "a sort and a loop a query"}
        rows.append(row("scoring", f"CMC, mAP, mINP, {name}", _case("scores", size)["s"], "s", **more))
    rows.append(row("scoring", "verification at every threshold, Market-1501", _case("verification", MARKET)["s"], "s"))
    return rows


def at_scale(gallery: int, **size: int) -> Row:
    """Both distances of a big gallery in blocks, scored as `evaluate` does, beside what was forecast."""
    done = _case("re-ranked and scored in blocks", MARKET | {"gallery": gallery} | size)
    return row(
        "retrieval", f"re-ranked and scored in blocks, gallery {gallery:,}, {done['width']}-d", done["s"], "s",
        limit=done["limit"], limit_is="one symmetric product, reckoned from one tile", peak_gb=done["peak_gb"],
        note=f"forecast {done['forecast_s']:.0f} s, {done['forecast_gb']:.2f} GB; own memory {done['own_gb']:.2f} GB",
    )  # fmt: skip


def searched(queries: int, gallery: int = 1_000_000, **more: str) -> Row:
    """A gallery read from a file and searched, beside NumPy on the same vectors in memory."""
    size = {"queries": queries, "gallery": gallery, "width": 256}
    done, plain = _case("search", size | more), _case("search, NumPy", size)
    return row(
        "retrieval", f"top 10 of {gallery:,} in a {done['file']} file, {queries:,} queries, 256-d", done["s"], "s",
        textbook=plain["s"], textbook_is=f"NumPy: product, argpartition; in memory, {plain['peak_gb']:.1f} GB",
        peak_gb=done["peak_gb"],
    )  # fmt: skip


def _search(queries: int, gallery: int, width: int, ending: str) -> dict:
    """The search of a file, after the file is written block by block."""
    from reid.embedding_files.reading import read_embeddings
    from reid.embedding_files.rows import BLOCK_ROWS, About, Block, Names
    from reid.embedding_files.writing import write_embeddings
    from reid.retrieval.distance import l2_normalize
    from reid.retrieval.search import search

    rng = np.random.default_rng(1501)
    asked = l2_normalize(rng.standard_normal((queries, width), dtype=np.float32))
    names = Names.of_paths(["x"] * BLOCK_ROWS)
    blocks = (
        Block(names, rng.standard_normal((BLOCK_ROWS, width), dtype=np.float32))
        for _ in range(-(-gallery // BLOCK_ROWS))
    )
    with TemporaryDirectory() as folder:
        path = Path(folder, f"gallery.{ending}")
        write_embeddings(path, blocks, rows=gallery, width=width, about=About())
        search(asked[:2], [asked], count=1)  # compiled
        found = seconds(lambda: search(asked, read_embeddings(path).vectors(), count=10), repeat=2, warm=0)
    return {"s": found, "peak_gb": peak_gb(), "file": f".{ending}"}


def _numpy_search(queries: int, gallery: int, width: int) -> Callable[[], object]:
    """A product with vectors of length 1 in memory, and the ten best of each row."""
    rng = np.random.default_rng(1501)
    asked = rng.standard_normal((queries, width), dtype=np.float32)
    vectors = np.empty((gallery, width), np.float32)
    for first in range(0, gallery, 1 << 16):
        rng.standard_normal(
            vectors[first : first + (1 << 16)].shape, dtype=np.float32, out=vectors[first : first + (1 << 16)]
        )

    def best_of(some: np.ndarray) -> np.ndarray:
        cosine = some @ vectors.T
        best = np.argpartition(-cosine, 10, axis=1)[:, :10]
        return np.take_along_axis(best, np.argsort(-np.take_along_axis(cosine, best, 1), axis=1, kind="stable"), 1)

    def work() -> object:  # at once, 1,000 queries of a million would take 17 GB
        return np.concatenate([best_of(asked[first : first + 100]) for first in range(0, queries, 100)])

    return work


def _beside_the_limit(size: dict[str, int]) -> tuple[float, dict]:
    """The limit's time, the better of one before and one after, and re-ranking's figures."""
    before, ours, after = (_case(what, size) for what in (LIMIT, "re-ranking", LIMIT))
    return min(before["s"], after["s"]), ours


def _case(what: str, size: dict[str, int]) -> dict:
    return in_a_process(MODULE, {"what": what} | size)


def draw(queries: int, gallery: int, width: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Embeddings (Q, D) and (G, D) of length 1 in clusters, 26 images a person, and persons and cameras."""
    rng = np.random.default_rng(1501)
    total = queries + gallery
    person = rng.integers(0, max(2, total // 26), total)
    centre = rng.standard_normal((person.max() + 1, width), dtype=np.float32)
    vectors = np.empty((total, width), np.float32)
    for first in range(0, total, 1 << 16):  # in parts: what is drawn at once would count as the case's memory
        part = vectors[first : first + (1 << 16)]
        rng.standard_normal(part.shape, dtype=np.float32, out=part)
        part *= 1.1 * (width / 256) ** 0.25 * 2
        part += centre[person[first : first + len(part)]]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    camera = rng.integers(1, 7, total)
    known = {"query_person": person[:queries] + 1, "query_camera": camera[:queries]}
    known |= {"gallery_person": person[queries:] + 1, "gallery_camera": camera[queries:]}
    return vectors[:queries], vectors[queries:], known


def _measured(what: str, *, queries: int = 3368, gallery: int = 15913, width: int = 256, ending: str = "npz") -> dict:
    """One case, in this process."""
    if what == "search":
        return _search(queries, gallery, width, ending)
    if what == "search, NumPy":
        return {"s": seconds(_numpy_search(queries, gallery, width), repeat=1, warm=0), "peak_gb": peak_gb()}
    query, images, known = draw(queries, gallery, width)
    if what == "re-ranked and scored in blocks":
        return {"width": width, **_scored(query, images, known)}
    work, repeat = _work(what, query, images, known)
    found = seconds(work, repeat=repeat, warm=0 if "textbook" in what else 1)
    return {"s": found, "peak_gb": peak_gb()}


def _scored(query: np.ndarray, gallery: np.ndarray, known: dict[str, np.ndarray]) -> dict:
    """All that `evaluate` does with embeddings, once only, as it takes minutes; compiled beforehand on a small one."""
    from reid.embeddings import Embeddings
    from reid.retrieval.rerank import forecast
    from reid.scoring.ranking import score
    from reid.scoring.verification import pair_counter

    def work(queries: int, images: int) -> "Scored":
        parts = [
            Embeddings(
                ["x"] * count, known[f"{which}_person"][:count], known[f"{which}_camera"][:count], vectors[:count]
            )
            for which, vectors, count in (("query", query, queries), ("gallery", gallery, images))
        ]
        return score(*parts, **RERANKING, max_rank=50, device="cpu", evaluate_device="cpu", pairs=pair_counter(*parts))

    work(50, 500)
    parameters = {name: RERANKING[name] for name in ("k1", "k2")}
    cost = forecast(len(query), len(gallery), width=query.shape[1], **parameters)
    before = peak_gb()
    began = time.perf_counter()
    scored = work(len(query), len(gallery))
    taken, peak = time.perf_counter() - began, peak_gb()
    return {
        **{"s": taken, "limit": cost.product_seconds, "peak_gb": peak, "own_gb": peak - before},
        **{"forecast_s": cost.seconds, "forecast_gb": cost.memory_bytes / 1e9, "mAP": scored.reranked.scores.mAP},
    }


def _work(what: str, query, gallery, known) -> tuple[Callable[[], object], int]:
    """What a case runs, and how often after the first time."""
    from reid.retrieval.metrics import euclidean_squared, evaluate
    from reid.retrieval.rerank import both_rows
    from reid.retrieval.threshold import verification
    from tests import reference

    if what == LIMIT:
        return lambda: _symmetric_product(np.concatenate([query, gallery]), len(query)), 2
    if what == "re-ranking":
        vectors = np.concatenate([query, gallery])
        return lambda: deque(both_rows(vectors, queries=len(query), **RERANKING), maxlen=0), 2
    if what == "re-ranking, textbook":
        return lambda: _textbook(query, gallery), 1
    distance = euclidean_squared(query, gallery)
    return {
        "scores": (lambda: evaluate(distance, **known, max_rank=50), 3),
        "verification": (lambda: verification(distance, **known), 3),
        "one pass over the distances": (distance.max, 3),
        "scores, textbook": (lambda: reference.scores(distance, **known, max_rank=50), 1),
    }[what]


def _symmetric_product(vectors: np.ndarray, queries: int, block: int = 1024) -> np.ndarray:
    """The least that exact re-ranking does: the upper triangle of all products, and an output (Q, G).

    On threads of its own, as ours: on a busy machine BLAS's wait for each other and would make a slow limit.
    """
    from reid.retrieval.parallel import row_ranges, run_all, worker_pool

    strips = row_ranges(len(vectors), size=block)

    def product(tile: tuple[tuple[int, int], tuple[int, int]]) -> None:
        np.dot(vectors[slice(*tile[0])], vectors[slice(*tile[1])].T)

    with worker_pool() as pool:
        run_all(pool, product, [(top, left) for top in strips for left in strips if left >= top])
    return np.full((queries, len(vectors) - queries), 1.0, np.float32)


def _textbook(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    from tests import reference

    vectors = np.concatenate([query, gallery])
    distance = vectors @ vectors.T
    distance *= -2
    distance += 2
    return reference.k_reciprocal_distance(distance, len(query), **RERANKING)


if __name__ == "__main__":
    print(json.dumps(_measured(**json.loads(sys.argv[1]))))
