"""Products and re-ranking on the GPU, each case in a process of its own, so that its memory is its own.

On "cpu" only for the tests.

python -m tests.bench.gpu_kernels '{"what": "re-ranking", "width": 2048}'
"""
# ruff: noqa: T201

import json
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.bench.bench_retrieval import MARKET, RERANKING, draw
from tests.reranked import matrices

MODULE = "tests.bench.gpu_kernels"


def seconds_on_gpu(work: Callable[[], object], *, repeat: int = 9) -> float:
    """The median of some times, after two that warm up, each to the end of the GPU's work."""
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else bool
    taken = []
    for _ in range(repeat + 2):
        wait()
        began = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[2:])


def _products(size: int = 8192, device: str = "cuda:0") -> dict[str, float]:
    """TFLOP/s of float32 and bf16, of random numbers: those of zeros or ones are faster than any real ones."""
    import torch

    found = {}
    for kind in ("float32", "bfloat16"):
        left, right = (torch.randn(size, size, device=device, dtype=getattr(torch, kind)) for _ in range(2))
        found[kind] = 2 * size**3 / seconds_on_gpu(lambda a=left, b=right: a @ b) / 1e12
    return found


def _re_ranking(width: int, gallery: int = MARKET["gallery"], device: str = "cuda:0") -> dict[str, float]:
    """On the GPU, with its distances copied to the host too, and beside the CPU's of the same run."""
    import torch

    from reid.retrieval.on_device import both_rows as to_the_host
    from reid.retrieval.tensors.rerank import both_rows

    query, images, _ = draw(MARKET["queries"], gallery, width)
    vectors = np.concatenate([query, images])
    moved = torch.from_numpy(vectors).to(device)
    on_gpu = {"device": device, "evaluate_device": device}
    found = {"s": seconds_on_gpu(lambda: deque(both_rows(moved, queries=len(query), **RERANKING), maxlen=0))}
    found["peak_gb"] = _peak_gb()
    copied = partial(to_the_host, vectors, queries=len(query), **RERANKING, **on_gpu)
    found["copied_s"] = seconds_on_gpu(lambda: deque(copied(), maxlen=0))
    matrices(query[:50], images[:500], **RERANKING)  # compiles
    began = time.perf_counter()
    wanted = matrices(query, images, **RERANKING)[1]
    found["cpu_s"] = time.perf_counter() - began
    theirs = matrices(query, images, to_the_host, **RERANKING, **on_gpu)[1]
    return found | {"apart": float(np.abs(theirs - wanted).max())}


def _in_blocks(gallery: int, device: str = "cuda:0") -> dict[str, float]:
    import torch

    from reid.retrieval.tensors.rerank import both_rows

    query, images, _ = draw(MARKET["queries"], gallery, MARKET["width"])
    vectors = torch.from_numpy(np.concatenate([query, images])).to(device)
    work = partial(both_rows, vectors, queries=len(query), **RERANKING)
    return {"s": seconds_on_gpu(lambda: deque(work(), maxlen=0), repeat=3), "peak_gb": _peak_gb()}


def _peak_gb() -> float:
    """Of torch's memory on the GPU, the embeddings included."""
    import torch

    return float(torch.cuda.max_memory_allocated()) / 1e9


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "products": _products,
    "re-ranking": _re_ranking,
    "re-ranking in blocks": _in_blocks,
}

if __name__ == "__main__":
    case = json.loads(sys.argv[1])
    print(json.dumps(CASES[case.pop("what")](**case)))
