import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.errors import SpecError
from reid.retrieval import on_device
from reid.retrieval import rerank as on_cpu
from reid.retrieval.distance import l2_normalize
from reid.retrieval.tensors import exactness

PARAMETERS = {"k1": 10, "k2": 3, "lambda_value": 0.3}
SHAPES = [(3368, 256), (15913, 256)]
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def embeddings(seed=7, *, queries=20, gallery=70):
    vectors = l2_normalize(np.random.default_rng(seed).standard_normal((queries + gallery, 32)))
    return vectors[:queries], vectors[queries:]


def whole(rows):
    """All blocks' plain and re-ranked distances, (Q, G) each, although one block may be written over another."""
    copies = [(plain.copy(), final.copy()) for _, plain, final in rows]
    return [np.concatenate(parts) for parts in zip(*copies)]


@pytest.mark.parametrize(("device", "own"), [("auto", "cpu"), ("cpu", "cuda:0")])
def test_on_the_cpu_the_blocks_are_those_of_the_compiled_code(device, own):
    pair = embeddings()
    found = whole(on_device.both_rows(*pair, **PARAMETERS, device=device, own=own))
    assert np.array_equal(found, whole(on_cpu.both_rows(*pair, **PARAMETERS)))


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 12),
    gallery=st.integers(1, 60),
    parameters=st.fixed_dictionaries({"k1": st.integers(1, 30), "k2": st.integers(1, 6), "lambda_value": st.just(0.3)}),
    block_rows=st.integers(1, 12),
)
def test_what_goes_through_tensors_is_what_the_cpu_gives(seed, queries, gallery, parameters, block_rows):
    pair = embeddings(seed, queries=queries, gallery=gallery)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exactness, "BLOCK_BYTES", 4 * gallery * block_rows)
        blocks = list(on_device._of_tensors("cpu", *pair, **parameters))
    assert [first for first, _, _ in blocks] == list(range(0, queries, block_rows))
    wanted = whole(on_cpu.both_rows(*pair, **parameters))
    assert np.abs(np.array(whole(blocks)) - wanted).max() < 1e-6  # float32 sums


@with_gpu
def test_a_gpu_gives_what_the_cpu_gives():
    pair = embeddings()
    found = whole(on_device.both_rows(*pair, **PARAMETERS, device="auto", own="cuda:0"))
    assert np.abs(np.array(found) - whole(on_cpu.both_rows(*pair, **PARAMETERS))).max() < 1e-6  # float32 sums


@pytest.mark.parametrize(
    ("present", "found"), [(0, "0 GPUs"), (1, "1 GPUs, cuda:0 to cuda:0"), (2, "2 GPUs, cuda:0 to cuda:1")]
)
def test_a_gpu_that_is_not_there_is_an_error(monkeypatch, present, found):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: present)
    for device in ("auto", "cpu", *(f"cuda:{index}" for index in range(present))):
        on_device.require_device(device)
    with pytest.raises(SpecError) as error:
        on_device.require_device("cuda:2")
    assert str(error.value) == (
        f"re_ranking.device: cuda:2 is not there\n  found: {found}\n  want:  one of them, auto or cpu"
    )


@pytest.mark.parametrize(
    ("device", "free_gb", "said"),
    [
        ("auto", 80, "re-ranking 3368 queries against 15913 gallery images on cuda:1 (a GPU): {size}"),
        ("auto", 1, "re-ranking: it may take 1.7 GB, and cuda:1 has room for 0.9"),
        ("cuda:0", 1, "re-ranking 3368 queries against 15913 gallery images on cuda:0 (a GPU): {size}"),
    ],
)
def test_auto_takes_its_own_gpu_only_if_it_has_room(monkeypatch, caplog, device, free_gb, said):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free_gb * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    caplog.set_level(logging.INFO, "reid.retrieval.on_device")
    found = on_device.chosen_device(device, "cuda:1", *SHAPES, k1=20, k2=6)
    assert found == ("cpu" if "has room for" in said else said.split(" on ")[1][:6])
    assert caplog.messages == [said.format(size="at most 1.7 GB of its memory")]


def test_memory_that_runs_out_is_an_error_that_names_the_way_out(monkeypatch):
    def no_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has")

    monkeypatch.setattr("reid.retrieval.tensors.rerank.nearest_neighbours", no_memory)
    with pytest.raises(SpecError) as error:
        list(on_device._of_tensors("cpu", *embeddings(), **PARAMETERS))
    assert str(error.value) == (
        "re_ranking.device: the memory of cpu does not suffice\n"
        "  found: CUDA out of memory. Tried to allocate 2 GiB.\n  want:  re_ranking.device=cpu"
    )
