import logging
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.errors import SpecError
from reid.retrieval import distance, on_device
from reid.retrieval.distance import l2_normalize
from tests.reranked import matrices, tolerance

PARAMETERS = {"k1": 10, "k2": 3, "lambda_value": 0.3}
SIZES = {"queries": 3368, "gallery": 15913, "width": 256}
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def embeddings(seed=7, *, queries=20, gallery=70):
    vectors = l2_normalize(np.random.default_rng(seed).standard_normal((queries + gallery, 32)))
    return vectors[:queries], vectors[queries:]


@pytest.fixture
def no_gpu_memory(monkeypatch):
    """The GPU "cpu": its tensors are there, and their memory runs out as neighbours are sought."""

    def out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has")

    monkeypatch.setattr("reid.retrieval.tensors.rerank.nearest_neighbours", out_of_memory)
    of_tensors = on_device._both_rows_by_torch
    monkeypatch.setattr(on_device, "_both_rows_by_torch", lambda _, *given, **named: of_tensors("cpu", *given, **named))
    monkeypatch.setattr(on_device, "chosen_device", lambda *_, **__: "cuda:0")


@pytest.mark.parametrize(("device", "evaluate_device"), [("auto", "cpu"), ("cpu", "cuda:0")])
def test_on_the_cpu_the_blocks_are_those_of_the_compiled_code(device, evaluate_device):
    pair = embeddings()
    found = matrices(*pair, on_device.both_rows, **PARAMETERS, device=device, evaluate_device=evaluate_device)
    assert np.array_equal(found, matrices(*pair, **PARAMETERS))


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
        patch.setattr(distance, "BLOCK_BYTES", 4 * gallery * block_rows)
        found = matrices(*pair, partial(on_device._both_rows_by_torch, "cpu"), **parameters)
    assert np.abs(np.subtract(found, matrices(*pair, **parameters))).max() < tolerance(*pair)


@with_gpu
def test_a_gpu_gives_what_the_cpu_gives():
    pair = embeddings()
    found = matrices(*pair, on_device.both_rows, **PARAMETERS, device="auto", evaluate_device="cuda:0")
    assert np.abs(np.subtract(found, matrices(*pair, **PARAMETERS))).max() < 1e-6  # float32 sums


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
    ("device", "free_gb", "cached_gb", "said"),
    [
        ("auto", 80, 0, "re-ranking 3368 queries against 15913 gallery images on cuda:1 (a GPU): {size}"),
        ("auto", 1, 0, "re-ranking: it may take 1.7 GB, and cuda:1 has room for 0.9"),
        ("auto", 1, 5, "re-ranking 3368 queries against 15913 gallery images on cuda:1 (a GPU): {size}"),
        ("cuda:0", 1, 0, "re-ranking 3368 queries against 15913 gallery images on cuda:0 (a GPU): {size}"),
    ],
)
def test_auto_takes_its_own_gpu_only_if_it_has_room(monkeypatch, caplog, *, device, free_gb, cached_gb, said):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free_gb * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: (cached_gb + 3) * 10**9)  # of torch, 3 GB in use
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 3 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    caplog.set_level(logging.INFO, "reid.retrieval.on_device")
    found = on_device.chosen_device(device, "cuda:1", **SIZES, k1=20, k2=6)
    assert found == ("cpu" if "has room for" in said else said.split(" on ")[1][:6])
    assert caplog.messages == [said.format(size="at most 1.7 GB of its memory")]


@pytest.mark.usefixtures("no_gpu_memory")
def test_memory_that_runs_out_is_an_error_that_names_the_way_out():
    with pytest.raises(SpecError) as error:
        matrices(*embeddings(), on_device.both_rows, **PARAMETERS, device="cuda:0", evaluate_device="cuda:0")
    assert str(error.value) == (
        "re_ranking.device: the memory of cpu does not suffice\n"
        "  found: CUDA out of memory. Tried to allocate 2 GiB.\n  want:  re_ranking.device=cpu"
    )


@pytest.mark.usefixtures("no_gpu_memory")
def test_with_auto_memory_that_runs_out_before_the_first_block_leads_to_the_cpu(caplog):
    pair = embeddings()
    found = matrices(*pair, on_device.both_rows, **PARAMETERS, device="auto", evaluate_device="cuda:0")
    assert np.array_equal(found, matrices(*pair, **PARAMETERS))
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "re-ranking: the memory of cuda:0 does not suffice (CUDA out of memory. Tried to allocate 2 GiB.); "
        "on the CPU instead"
    ]
