"""Re-ranking of NumPy embeddings wherever it is fastest on this machine: on a GPU with torch, else on the CPU.

`rerank` and `rerank_rows` have the arguments of reid.retrieval.rerank and one more, and give the same arrays.
Q queries, G gallery images, D values a vector.
"""

import logging
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from reid.errors import SpecError
from reid.progress import duration
from reid.retrieval import rerank as on_cpu

logger = logging.getLogger(__name__)

CPU = "cpu"
FREE_SHARE = 0.9
"""Of a GPU's free memory: what may be used."""


def rerank(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    *,
    k1: int,
    k2: int,
    lambda_value: float,
    device: str = "auto",
) -> NDArray[np.float32]:
    """query (Q, D), gallery (G, D), rows of length 1 -> (Q, G) float32, as reid.retrieval.rerank.rerank.

    device: auto, cpu, or a GPU as cuda:0; auto takes the first GPU, if there is one with room. SpecError where a
    named GPU is not there.
    """
    place = chosen_device(device, query.shape, gallery.shape, k1=k1, k2=k2)
    if place == CPU:
        return on_cpu.rerank(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
    distance = np.empty((len(query), len(gallery)), np.float32)
    for first, block in _rows(place, query, gallery, k1=k1, k2=k2, lambda_value=lambda_value):
        distance[first : first + len(block)] = block
    return distance


def rerank_rows(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    *,
    k1: int,
    k2: int,
    lambda_value: float,
    device: str = "auto",
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The rows of `rerank` in blocks: (first query, (rows, G) float32), for galleries whose (Q, G) does not fit."""
    place = chosen_device(device, query.shape, gallery.shape, k1=k1, k2=k2)
    if place == CPU:
        return on_cpu.rerank_rows(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
    return _rows(place, query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)


def chosen_device(device: str, query: tuple[int, ...], gallery: tuple[int, ...], *, k1: int, k2: int) -> str:
    """`device` with auto resolved, for embeddings of these shapes; the choice is named in the log."""
    if device == CPU:
        return CPU
    import torch

    from reid.retrieval.tensors.rerank import memory_bytes

    present = torch.cuda.device_count()
    if device == "auto" and not present:
        return CPU
    place = "cuda:0" if device == "auto" else device
    if place not in [f"cuda:{index}" for index in range(present)]:
        raise SpecError(f"re-ranking: device {device!r}: {present} GPUs are here; want auto, cpu or cuda:0 and so on")
    wanted = memory_bytes(query[0], gallery[0], width=query[1], k1=k1, k2=k2)
    room = FREE_SHARE * torch.cuda.mem_get_info(place)[0]
    if device == "auto" and wanted > room:
        logger.info("re-ranking on the CPU: it may take %.1f GB, the GPU has room for %.1f", wanted / 1e9, room / 1e9)
        return CPU
    logger.info(
        "re-ranking %d queries against %d gallery images on %s: at most %.1f GB of its memory",
        query[0], gallery[0], torch.cuda.get_device_name(place), wanted / 1e9,
    )  # fmt: skip
    return place


def _rows(
    place: str, query: NDArray[np.float32], gallery: NDArray[np.float32], *, k1: int, k2: int, lambda_value: float
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    import torch

    from reid.retrieval.tensors.rerank import rerank_rows as rows_of_tensors

    began = time.perf_counter()
    parts = [torch.from_numpy(np.ascontiguousarray(part, np.float32)).to(place) for part in (query, gallery)]
    for first, block in rows_of_tensors(*parts, k1=k1, k2=k2, lambda_value=lambda_value):
        yield first, block.cpu().numpy()
    logger.info("re-ranked on %s in %s", place, duration(time.perf_counter() - began))
