import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reid.contract import Contract
from reid.data.market1501 import Split
from reid.embeddings import Embeddings
from reid.retrieval.threshold import PairCounter
from reid.training import validation
from reid.training.validation import Validation, pair_counter, scores_by_torch, validation_triplet
from tests.plain_thresholds import plain_thresholds


def embeddings(vectors: list[list[float]], person: list[int]) -> Embeddings:
    count = len(person)
    return Embeddings(
        [""] * count, np.array(person), np.ones(count, np.int64), np.array(vectors, np.float32).reshape(count, -1)
    )


def test_validation_triplet_by_hand():
    # On a line. Queries: person 1 at 0, person 2 at 4. Gallery: 1 at 1 and 3, 2 at 9, a distractor at 6.
    # Anchor 0: 3 to its own, 4 to the nearest other: 3 - 4 + 0.3 < 0. Anchor 4: 5 to its own, 1 to 3: 5 - 1 + 0.3.
    query = embeddings([[0], [4]], [1, 2])
    gallery = embeddings([[1], [3], [9], [6]], [1, 1, 2, 0])
    assert validation_triplet(query, gallery, margin=0.3) == pytest.approx(4.3 / 2, rel=1e-5)


def test_queries_without_a_positive_or_a_negative_do_not_count():
    assert validation_triplet(embeddings([[0]], [1]), embeddings([[1]], [2]), margin=0.3) == 0
    assert validation_triplet(embeddings([[0]], [1]), embeddings([[1]], [1]), margin=0.3) == 0


@given(st.integers(2, 9), st.integers(1, 12), st.integers(0, 99))
def test_validation_triplet_does_not_depend_on_its_blocks(queries, images, seed):
    rng = np.random.default_rng(seed)
    query, gallery = (
        embeddings(rng.normal(size=(count, 3)).tolist(), rng.integers(low, 4, count).tolist())
        for count, low in ((queries, 1), (images, 0))
    )
    whole = validation_triplet(query, gallery, margin=0.3)
    before = validation.BLOCK_ROWS
    try:
        validation.BLOCK_ROWS = 2
        # the order of float32 sums in a matrix product depends on its size
        assert validation_triplet(query, gallery, margin=0.3) == pytest.approx(whole, rel=1e-4, abs=1e-5)
    finally:
        validation.BLOCK_ROWS = before


def a_validation() -> tuple[Validation, Embeddings, Embeddings]:
    rng = np.random.default_rng(4)
    query, gallery = (
        replace(
            embeddings((3 * rng.standard_normal((count, 8))).tolist(), rng.integers(low, 6, count).tolist()),
            camera=rng.integers(1, 4, count),
        )
        for count, low in ((30, 1), (90, 0))
    )
    none = Split(Path(), ())
    pixels = np.empty((0, 1, 1, 3), np.uint8)
    contract = Contract(height=1, width=1, channels=3, mean=(0, 0, 0), std=(1, 1, 1), embedding=8)
    return (
        Validation(none, none, pixels, pixels, contract, batch_size=1, triplet_loss_margin=0.3, unit_triplet=False),
        query,
        gallery,
    )


def test_a_device_gives_the_figures_of_the_cpu(monkeypatch):
    check, query, gallery = a_validation()
    counted, pairs = pair_counter(query, gallery), pair_counter(query, gallery)
    wanted, asked = check.figures(query, gallery, pairs=counted), []

    def by_torch(*arguments, device, **options):
        asked.append(device)
        return scores_by_torch(*arguments, device=torch.device("cpu"), **options)

    monkeypatch.setattr(validation, "scores_by_torch", by_torch)
    found = check.figures(query, gallery, device=torch.device("cuda:1"), pairs=pairs)
    assert asked == [torch.device("cuda:1")]
    assert found == pytest.approx(wanted, rel=1e-6)
    assert check.thresholds(pairs) == check.thresholds(counted)


def test_the_thresholds_are_those_of_the_plain_distances():
    check, query, gallery = a_validation()
    pairs = pair_counter(query, gallery)
    check.figures(query, gallery, pairs=pairs)
    assert check.thresholds(pairs) == plain_thresholds(query, gallery, measured_on="").to_json()


def test_one_person_alone_gives_no_thresholds_and_no_warning(caplog):
    # the training asks after each epoch: the evaluation warns, once
    assert pair_counter(embeddings([[1]], [1]), embeddings([[1], [2]], [1, 1])) is None
    assert not caplog.messages


def test_if_a_gpu_has_no_room_the_cpu_computes_the_figures(monkeypatch, caplog):
    check, query, gallery = a_validation()

    def full(*_: object, pairs: PairCounter, **__: object) -> None:
        pairs.add(0, np.ones((9, len(gallery)), np.float32))  # the memory ends after a block that was counted
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has")

    counted, pairs = pair_counter(query, gallery), pair_counter(query, gallery)
    monkeypatch.setattr(validation, "scores_by_torch", full)
    with caplog.at_level(logging.WARNING):
        found = check.figures(query, gallery, device=torch.device("cuda:1"), pairs=pairs)
    assert found == check.figures(query, gallery, pairs=counted)
    assert check.thresholds(pairs) == check.thresholds(counted)
    assert caplog.messages == [
        "validation: the memory of cuda:1 does not suffice (CUDA out of memory. Tried to allocate 2 GiB.); "
        "on the CPU instead"
    ]
