import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from reid.embeddings import Embeddings
from reid.retrieval import distance as distance_module
from reid.retrieval import knn
from reid.retrieval import rerank as rerank_module
from reid.scoring.per_query import per_query_csv
from reid.scoring.ranking import score
from reid.scoring.verification import pair_counter
from tests.scoring.circle import SETTINGS


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
