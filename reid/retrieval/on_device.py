"""Both distances of NumPy embeddings, plain and re-ranked, computed on the CPU or on a GPU by torch: the same values.

N vectors of D values, first those of Q queries, then those of G gallery images.
"""

import logging
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from reid.console.progress import duration
from reid.errors import SpecError
from reid.retrieval import rerank as on_cpu

logger = logging.getLogger(__name__)

AUTO, CPU = "auto", "cpu"
FREE_SHARE = 0.9
"""The share of a GPU's free memory that may be used."""


def require_device(device: str) -> None:
    """Raises SpecError if `device` (auto, cpu, or a GPU as cuda:0) is a GPU that this machine does not have."""
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
    vectors: NDArray[np.float32],
    *,
    queries: int,
    k1: int,
    k2: int,
    lambda_value: float,
    device: str,
    evaluate_device: str,
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
    """The blocks of reid.retrieval.rerank.both_rows: (first query, (rows, G) plain, (rows, G) re-ranked), float32.

    device: cpu, a GPU as cuda:0, or auto: `evaluate_device`, unless that is a GPU whose memory does not suffice, as
    estimated at the start or as seen before the first block. Raises SpecError if the memory of a GPU that `device`
    names runs out.
    """
    gallery = len(vectors) - queries
    chosen = chosen_device(device, evaluate_device, queries, gallery, width=vectors.shape[1], k1=k1, k2=k2)
    if chosen != CPU:
        came = False
        try:
            for block in _both_rows_by_torch(chosen, vectors, queries=queries, k1=k1, k2=k2, lambda_value=lambda_value):
                came = True
                yield block
            return
        except SpecError as error:
            if device != AUTO or came:
                raise
            why = str(error.__cause__).splitlines()[0]
            logger.warning("re-ranking: the memory of %s does not suffice (%s); on the CPU instead", chosen, why)
    yield from on_cpu.both_rows(vectors, queries=queries, k1=k1, k2=k2, lambda_value=lambda_value)


def chosen_device(
    device: str, evaluate_device: str, queries: int, gallery: int, *, width: int, k1: int, k2: int
) -> str:
    """`device`, or if it is auto, the device for so many vectors. Logs which GPU, or why none, is used."""
    chosen = evaluate_device if device == AUTO else device
    if chosen == CPU:
        return CPU
    import torch

    from reid.retrieval.tensors.rerank import memory_bytes

    wanted = memory_bytes(queries, gallery, width=width, k1=k1, k2=k2)
    # memory that torch holds and does not use is free for us, although the driver counts it as taken
    unused = torch.cuda.memory_reserved(chosen) - torch.cuda.memory_allocated(chosen)
    room = FREE_SHARE * (torch.cuda.mem_get_info(chosen)[0] + unused)
    if device == AUTO and wanted > room:
        logger.info("re-ranking: it may take %.1f GB, and %s has room for %.1f", wanted / 1e9, chosen, room / 1e9)
        return CPU
    logger.info(
        "re-ranking %d queries against %d gallery images on %s (%s): at most %.1f GB of its memory",
        queries, gallery, chosen, torch.cuda.get_device_name(chosen), wanted / 1e9,
    )  # fmt: skip
    return chosen


def _both_rows_by_torch(
    device: str, vectors: NDArray[np.float32], *, queries: int, k1: int, k2: int, lambda_value: float
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
    import torch

    from reid.retrieval.tensors.rerank import both_rows as blocks_of_tensors

    began = time.perf_counter()
    host: list[torch.Tensor] = []
    try:
        moved = torch.from_numpy(np.ascontiguousarray(vectors, np.float32)).to(device)
        for first, *block in blocks_of_tensors(moved, queries=queries, k1=k1, k2=k2, lambda_value=lambda_value):
            # page-locked, for the speed of the copies; the first block is the largest
            host = host or [torch.empty(part.shape, pin_memory=part.is_cuda) for part in block]
            plain, final = (there[: len(part)].copy_(part).numpy() for there, part in zip(host, block))
            yield first, plain, final
    except torch.OutOfMemoryError as error:
        raise SpecError(
            f"re_ranking.device: the memory of {device} does not suffice\n"
            f"  found: {str(error).splitlines()[0]}\n  want:  re_ranking.device=cpu"
        ) from error
    logger.info("re-ranked on %s in %s, scoring included", device, duration(time.perf_counter() - began))
