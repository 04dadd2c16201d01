"""Re-ranking and scoring against their limits and against the dense textbook formulas: a table.

    python -m tests.bench.bench_retrieval                       Market-1501's size, 256 values a vector
    python -m tests.bench.bench_retrieval --dense               with the textbook beside it (70 s and 9 GB at this size)
    python -m tests.bench.bench_retrieval --gallery 100000 --streamed

Every line is measured in a process of its own, so that its peak memory is its own too; the limit is measured before and
after, and the lesser one counts. Times are the best of `--repeat`, after compilation.
"""
# ruff: noqa: T201

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

LIMIT = "limit: one symmetric product, output written"
LABELS = ("query_person", "query_camera", "gallery_person", "gallery_camera")


def main() -> None:
    arguments = _arguments()
    if arguments.only:
        print(json.dumps(_measure(arguments)))
        return
    lines = [LIMIT, *(["re-ranking, in blocks, and its scores"] if arguments.streamed else ["re-ranking"])]
    if not arguments.streamed:
        lines += ["CMC, mAP, mINP", "verification", "one pass over the distances"]
    if arguments.dense:
        lines += ["re-ranking, textbook (dense, float32)", "CMC, mAP, mINP, textbook (sorting)"]
    rows = [_in_a_process(line) for line in [*lines, LIMIT]]
    rows[0]["seconds"] = min(rows[0]["seconds"], rows.pop()["seconds"])
    print(f"{arguments.queries} queries, {arguments.gallery} gallery images, {arguments.width} values a vector")
    print(f"{'':48}{'seconds':>9}{'x limit':>9}{'peak GB':>9}{'own GB':>9}{'compiled s':>12}")
    for row in rows:
        print(
            f"{row['what']:48}{row['seconds']:9.3f}{row['seconds'] / rows[0]['seconds']:9.2f}"
            f"{row['peak_bytes'] / 1e9:9.2f}{row['own_bytes'] / 1e9:9.2f}{row['first_s'] - row['seconds']:12.2f}"
            + (f"   mAP {row['mAP']:.6f}" if "mAP" in row else "")
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"arguments": vars(arguments) | {"json": None}, "rows": rows}, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--k1", type=int, default=20)
    parser.add_argument("--k2", type=int, default=6)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dense", action="store_true", help="measure the textbook formulas too")
    parser.add_argument("--streamed", action="store_true", help="re-rank and score in blocks, without a (Q, G) matrix")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_process(line: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.bench_retrieval", *sys.argv[1:], "--only", line],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout)


def _measure(arguments: argparse.Namespace) -> dict:
    """One line of the table, in this process."""
    query, gallery, known = draw(arguments.queries, arguments.gallery, arguments.width)
    work, repeat = _work(arguments, query, gallery, known)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeat + 1):
        began = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - began)
        scores = {"mAP": result} if isinstance(result, float) else {}
        del result  # so that two outputs never count as one peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {"peak_bytes": peak * 1024, "own_bytes": (peak - before) * 1024}
    return {"what": arguments.only, "seconds": min(seconds[1:] or seconds), "first_s": seconds[0], **figures, **scores}


def draw(queries: int, gallery: int, width: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Embeddings (Q, D) and (G, D) of length 1 in clusters, 26 images a person, and persons and cameras."""
    rng = np.random.default_rng(1501)
    total = queries + gallery
    person = rng.integers(0, max(2, total // 26), total)
    centre = rng.standard_normal((person.max() + 1, width), dtype=np.float32)
    vectors = rng.standard_normal((total, width), dtype=np.float32)
    vectors *= 1.1 * (width / 256) ** 0.25 * 2
    vectors += centre[person]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    camera = rng.integers(1, 7, total)
    parts = (person[:queries] + 1, camera[:queries], person[queries:] + 1, camera[queries:])
    return vectors[:queries], vectors[queries:], dict(zip(LABELS, parts, strict=True))


def _work(arguments: argparse.Namespace, query, gallery, known) -> tuple[Callable[[], object], int]:
    """What a line runs, and how often after the first time."""
    from reid.retrieval.metrics import Scorer, euclidean_squared, evaluate
    from reid.retrieval.protocol import market_protocol
    from reid.retrieval.rerank import rerank, rerank_rows
    from reid.retrieval.threshold import verification
    from tests import reference

    parameters = {"k1": arguments.k1, "k2": arguments.k2, "lambda_value": 0.3}
    if arguments.only == LIMIT:
        return lambda: _symmetric_product(np.concatenate([query, gallery]), len(query)), arguments.repeat
    if arguments.only == "re-ranking":
        return lambda: rerank(query, gallery, **parameters), arguments.repeat
    if arguments.only.startswith("re-ranking, in blocks"):

        def streamed() -> float:
            scorer = Scorer(market_protocol(**known), max_rank=50)
            for first, distance in rerank_rows(query, gallery, **parameters):
                scorer.add(first, distance)
            return scorer.scores().mAP

        return streamed, arguments.repeat
    if arguments.only.startswith("re-ranking, textbook"):
        return lambda: _textbook(query, gallery, parameters), 0
    distance = euclidean_squared(query, gallery)
    return {
        "CMC, mAP, mINP": (lambda: evaluate(distance, **known, max_rank=50).mAP, arguments.repeat),
        "verification": (lambda: verification(distance, **known), arguments.repeat),
        "one pass over the distances": (distance.max, arguments.repeat),
        "CMC, mAP, mINP, textbook (sorting)": (
            lambda: float(reference.scores(distance, **known, max_rank=50).mAP),
            0,
        ),
    }[arguments.only]


def _symmetric_product(vectors: np.ndarray, queries: int, block: int = 2048) -> np.ndarray:
    """The least that exact re-ranking does: the upper triangle of all products, and an output (Q, G)."""
    buffer = np.empty((block, block), np.float32)
    for top in range(0, len(vectors), block):
        for left in range(top, len(vectors), block):
            rows, columns = vectors[top : top + block], vectors[left : left + block]
            np.dot(rows, columns.T, out=buffer.ravel()[: len(rows) * len(columns)].reshape(len(rows), len(columns)))
    return np.full((queries, len(vectors) - queries), buffer[0, 0])


def _textbook(query: np.ndarray, gallery: np.ndarray, parameters: dict) -> np.ndarray:
    from tests import reference

    vectors = np.concatenate([query, gallery])
    distance = vectors @ vectors.T
    distance *= -2
    distance += 2
    return reference.k_reciprocal_distance(distance, len(query), **parameters)


if __name__ == "__main__":
    main()
