"""Both distances of NumPy embeddings, plain and re-ranked, computed on the CPU or on a GPU by torch: the same values.

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

AUTO, CPU = "auto", "cpu"
FREE_SHARE = 0.9
"""Of a GPU's free memory: what may be used."""


def require_device(device: str) -> None:
    """SpecError where `device` (auto, cpu, or cuda:0 and so on) is a GPU that this machine does not have."""
    if device in (AUTO, CPU):
        return
    import torch

    present = torch.cuda.device_count()
    if int(device.removeprefix("cuda:")) >= present:
        found = f"{present} GPUs" + (f", cuda:0 to cuda:{present - 1}" if present else "")
        raise SpecError(
            f"re_ranking.device: {device} is not there\n  found: {found}\n  want:  one of them, auto or cpu"
        )


def both_rows(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    *,
    k1: int,
    k2: int,
    lambda_value: float,
    device: str,
    own: str,
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
    """The blocks of reid.retrieval.rerank.both_rows: (first query, (rows, G) plain, (rows, G) re-ranked), float32.

    device: cpu, a GPU as cuda:0, or auto: that is `own`, unless it is a GPU without room. SpecError where the memory
    of a GPU runs out.
    """
    place = chosen_device(device, own, query.shape, gallery.shape, k1=k1, k2=k2)
    if place == CPU:
        return on_cpu.both_rows(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
    return _of_tensors(place, query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)


def chosen_device(device: str, own: str, query: tuple[int, ...], gallery: tuple[int, ...], *, k1: int, k2: int) -> str:
    """`device` with auto resolved, for embeddings of these shapes; a GPU, or why it is none, is named in the log."""
    place = own if device == AUTO else device
    if place == CPU:
        return CPU
    import torch

    from reid.retrieval.tensors.rerank import memory_bytes

    wanted = memory_bytes(query[0], gallery[0], width=query[1], k1=k1, k2=k2)
    room = FREE_SHARE * torch.cuda.mem_get_info(place)[0]
    if device == AUTO and wanted > room:
        logger.info("re-ranking: it may take %.1f GB, and %s has room for %.1f", wanted / 1e9, place, room / 1e9)
        return CPU
    logger.info(
        "re-ranking %d queries against %d gallery images on %s (%s): at most %.1f GB of its memory",
        query[0], gallery[0], place, torch.cuda.get_device_name(place), wanted / 1e9,
    )  # fmt: skip
    return place


def _of_tensors(
    place: str, query: NDArray[np.float32], gallery: NDArray[np.float32], *, k1: int, k2: int, lambda_value: float
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
    import torch

    from reid.retrieval.tensors.rerank import both_rows as blocks_of_tensors

    began = time.perf_counter()
    try:
        parts = [torch.from_numpy(np.ascontiguousarray(part, np.float32)).to(place) for part in (query, gallery)]
        for first, plain, final in blocks_of_tensors(*parts, k1=k1, k2=k2, lambda_value=lambda_value):
            yield first, plain.cpu().numpy(), final.cpu().numpy()
    except torch.OutOfMemoryError as error:
        raise SpecError(
            f"re_ranking.device: the memory of {place} does not suffice\n"
            f"  found: {str(error).splitlines()[0]}\n  want:  re_ranking.device=cpu"
        ) from error
    logger.info("re-ranked on %s in %s, scoring included", place, duration(time.perf_counter() - began))
