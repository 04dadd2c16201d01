"""Embeds query and gallery with one model on one or several devices; the result is that of one device.

Every device has a process of its own. Process k of K computes batches k, k + K, k + 2K and so on of the very batches
that a single process would make, and rank 0 collects the vectors.

Shapes: N images.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.data.market1501 import JUNK, Manifest, Split
from reid.deploy.opening import OpenModel, open_model
from reid.distributed.devices import share_the_cpu
from reid.distributed.processes import started
from reid.distributed.ranks import SINGLE_PROCESS, Ranks
from reid.embeddings import Embeddings, embed


def embed_on_devices(
    file: Path,
    devices: Sequence[str],
    *,
    dataset: Path,
    batch_size: int,
    store: Path,
    with_junk: bool,
    check: Callable[[OpenModel], None],
) -> tuple[OpenModel, dict[str, Embeddings], float]:
    """The opened model, the embeddings of query and gallery, and the images per second.

    Each of `devices`, as torch names them, gets a process. `check` may refuse the model before it embeds anything.
    """
    request: dict[str, Any] = {
        "file": str(file),
        "devices": list(devices),
        "dataset": str(dataset),
        "batch_size": batch_size,
        "store": str(store),
        "with_junk": with_junk,
    }
    with started(len(devices), "reid.deploy.embedding:embed_worker", request) as ranks:
        return _embed_as(ranks, check=check, **request)


def embed_worker(*, ranks: Ranks, **request: Any) -> None:
    """The part of embed_on_devices that every rank but the first computes."""
    _embed_as(ranks, check=lambda _: None, **request)


def _embed_as(
    ranks: Ranks,
    *,
    file: str,
    devices: list[str],
    dataset: str,
    batch_size: int,
    store: str,
    with_junk: bool,
    check: Callable[[OpenModel], None],
) -> tuple[OpenModel, dict[str, Embeddings], float]:
    share_the_cpu(devices)
    manifest = Manifest.load(Path(dataset))
    images = (len(manifest.query) + len(manifest.gallery)) // ranks.size
    model = open_model(Path(file), device=devices[ranks.rank], images=images)
    check(model)
    parts, images_per_second = embed_splits(
        model,
        {"query": manifest.query, "gallery": manifest.gallery},
        batch_size=batch_size,
        store=Path(store),
        key=manifest.fingerprint,
        keep=None if with_junk else {"gallery": manifest.gallery.person != JUNK},
        ranks=ranks,
    )
    return model, parts, images_per_second


def embed_splits(
    model: OpenModel,
    splits: dict[str, Split],
    *,
    batch_size: int,
    store: Path,
    key: str,
    keep: dict[str, NDArray[np.bool_]] | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> tuple[dict[str, Embeddings], float]:
    """Embeddings of each split, and the images per second that the network and its preprocessing reached.

    Images come from the decode-once store in folder `store`. With `keep`, only some images (N,) of a split are
    embedded. If several ranks share the batches, rank 0 has all rows afterwards.
    """
    from reid.data.store import open_store

    parts: dict[str, Embeddings] = {}
    seconds = 0.0
    size = {"height": model.contract.height, "width": model.contract.width, "channels": model.contract.channels}
    for name, split in splits.items():
        pixels = open_store(split, **size, folder=store, key=key)
        started_s = time.perf_counter()
        parts[name] = embed(
            split,
            pixels,
            model.network,
            contract=model.contract,
            batch_size=batch_size,
            what=f"embedding {name}",
            keep=keep.get(name) if keep else None,
            ranks=ranks,
        )
        seconds += time.perf_counter() - started_s
    images = sum(len(part) for part in parts.values())
    return parts, images / max(seconds, 1e-9)
