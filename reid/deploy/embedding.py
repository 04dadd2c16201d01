"""Embeds query and gallery with one model on one or several devices; the result is that of one device.

Several devices have a process each. Process k of K computes batches k, k + K, k + 2K and so on of the very batches
that a single process would make, and rank 0 collects the vectors.

Shapes: N images.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.data.market1501 import JUNK, Manifest, Split
from reid.deploy.opening import ModelCard, OpenModel, open_model
from reid.distributed.devices import share_the_cpu
from reid.distributed.group import Tell
from reid.distributed.launching import run_on_ranks
from reid.distributed.ranks import SINGLE_PROCESS, Ranks
from reid.embeddings import Embeddings, embed

SPLITS = ("query", "gallery")


def embed_on_devices(
    file: Path,
    devices: Sequence[str],
    *,
    dataset: Path,
    batch_size: int,
    store: Path,
    with_junk: bool,
    check: Callable[[ModelCard], None],
    all_test_sets: bool = False,
) -> tuple[ModelCard, dict[str, Embeddings], float]:
    """What opened model was used, the embeddings of query and gallery, and the images per second.

    Each of `devices`, as torch names them, gets a process. `check` may refuse the model before it embeds anything. With
    `all_test_sets`, further test sets are embedded too: their embeddings are named NAME/query and NAME/gallery.
    """
    cards: list[ModelCard] = []
    kept: dict[str, Embeddings] = {}
    request: dict[str, Any] = {
        "file": str(file),
        "devices": list(devices),
        "dataset": str(dataset),
        "batch_size": batch_size,
        "store": str(store),
        "with_junk": with_junk,
        "all_test_sets": all_test_sets,
    }

    def opened(contract: str, settings: dict[str, str], network_settings: dict[str, Any], thresholds: str) -> None:
        cards.append(ModelCard(file, Contract.from_json(contract), settings, network_settings, thresholds))
        check(cards[0])

    with TemporaryDirectory(prefix="reid-") as folder:
        images_per_second: float = run_on_ranks(
            "reid.deploy.embedding:embed_as_rank",
            {**request, "results": folder},
            local=len(devices),
            heard={"opened": opened},
            known={"keep": kept.update},
        )
        names = kept or splits_of(Manifest.load(dataset), all_test_sets=all_test_sets)
        parts = kept or {name: Embeddings.load_npz(Path(folder, f"{name}.npz")) for name in names}
    return cards[0], parts, images_per_second


def embed_as_rank(
    *,
    file: str,
    devices: list[str],
    dataset: str,
    batch_size: int,
    store: str,
    with_junk: bool,
    all_test_sets: bool,
    results: str,
    ranks: Ranks,
    tell: Tell,
    keep: Callable[[dict[str, Embeddings]], None] | None = None,
) -> float:
    """The part of one rank of embed_on_devices; returns the images per second.

    Rank 0 has all embeddings in the end. It gives them to `keep`, or writes them into the folder `results`.
    """
    share_the_cpu(devices)
    manifest: Manifest = ranks.share(None if ranks.rank else Manifest.load(Path(dataset)))
    splits = splits_of(manifest, all_test_sets=all_test_sets)
    images = sum(len(split) for split in splits.values()) // ranks.size
    model = open_model(Path(file), device=devices[ranks.local_rank], images=images)
    tell(
        "opened",
        contract=model.contract.to_json(),
        settings=model.settings,
        network_settings=model.network_settings,
        thresholds=model.thresholds.to_json() if model.thresholds else "",
    )
    parts, images_per_second = embed_splits(
        model,
        splits,
        batch_size=batch_size,
        store=Path(store),
        keys=_store_keys(manifest, splits),
        keep=None if with_junk else {name: splits[name].person != JUNK for name in splits if name.endswith("gallery")},
        ranks=ranks,
    )
    if keep:
        keep(parts)
    elif not ranks.rank:
        for name, part in parts.items():
            part.save_npz(Path(results, f"{name}.npz"))
    return images_per_second


def splits_of(manifest: Manifest, *, all_test_sets: bool) -> dict[str, Split]:
    """The splits to embed by their names: query and gallery, and NAME/query and NAME/gallery of further test sets."""
    splits = {name: getattr(manifest, name) for name in SPLITS}
    for part in manifest.test_sets if all_test_sets else ():
        splits |= {f"{part.name}/{name}": getattr(part, name) for name in SPLITS}
    return splits


def _store_keys(manifest: Manifest, splits: Mapping[str, Split]) -> dict[str, str]:
    """The fingerprint of each split's data: a further test set has one of its own."""
    own = {part.name: part.fingerprint for part in manifest.test_sets}
    return {name: own.get(name.rpartition("/")[0], manifest.fingerprint) for name in splits}


def embed_splits(
    model: OpenModel,
    splits: dict[str, Split],
    *,
    batch_size: int,
    store: Path,
    keys: Mapping[str, str],
    keep: dict[str, NDArray[np.bool_]] | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> tuple[dict[str, Embeddings], float]:
    """Embeddings of each split, and the images per second that the network and its preprocessing reached.

    Images come from the decode-once store in folder `store`, under the key of their split. With `keep`, only some
    images (N,) of a split are embedded. If several ranks share the batches, rank 0 has all rows afterwards.
    """
    from reid.data.store import open_store

    parts: dict[str, Embeddings] = {}
    seconds = 0.0
    size = {"height": model.contract.height, "width": model.contract.width, "channels": model.contract.channels}
    for name, split in splits.items():
        pixels = open_store(split, **size, folder=store, key=keys[name])
        ranks.meet()  # another machine may have to decode its images first
        started_s = time.perf_counter()
        parts[name] = embed(
            split,
            pixels,
            model.network,
            contract=model.contract,
            batch_size=model.whole_batches(batch_size),
            what=f"embedding {name}",
            keep=keep.get(name) if keep else None,
            ranks=ranks,
        )
        seconds += time.perf_counter() - started_s
    images = sum(len(part) for part in parts.values())
    return parts, images / max(seconds, 1e-9)
