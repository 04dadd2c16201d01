import logging

import numpy as np
import pytest
import torch

from reid.errors import SpecError
from reid.retrieval import on_device
from reid.retrieval.distance import l2_normalize
from reid.retrieval.rerank import rerank

PARAMETERS = {"k1": 10, "k2": 3, "lambda_value": 0.3}
SHAPES = {"query": (3368, 256), "gallery": (15913, 256)}
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def embeddings():
    vectors = l2_normalize(np.random.default_rng(7).standard_normal((90, 32)))
    return vectors[:20], vectors[20:]


@no_gpu
def test_without_a_gpu_auto_is_the_cpu(embeddings):
    wanted = rerank(*embeddings, **PARAMETERS)
    assert np.array_equal(on_device.rerank(*embeddings, **PARAMETERS), wanted)
    assert [first for first, _ in on_device.rerank_rows(*embeddings, **PARAMETERS)] == [0]


@no_gpu
def test_a_gpu_that_is_not_there_is_an_error(embeddings):
    for device in ("cuda:0", "gpu"):
        with pytest.raises(SpecError) as error:
            on_device.rerank(*embeddings, **PARAMETERS, device=device)
        assert str(error.value) == (
            f"re-ranking: device {device!r}: 0 GPUs are here; want auto, cpu or cuda:0 and so on"
        )


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda:0", marks=with_gpu)])
def test_what_goes_through_tensors_is_what_the_cpu_gives(embeddings, place):
    rows = list(on_device._rows(place, *embeddings, **PARAMETERS))
    assert [first for first, _ in rows] == [0]
    assert np.abs(rows[0][1] - rerank(*embeddings, **PARAMETERS)).max() < 1e-6  # float32 sums


@pytest.mark.parametrize(("free_gb", "wanted"), [(80, "cuda:0"), (1, "cpu")])
def test_auto_takes_the_gpu_only_if_it_has_room(monkeypatch, caplog, free_gb, wanted):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free_gb * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    caplog.set_level(logging.INFO, "reid.retrieval.on_device")
    assert on_device.chosen_device("auto", *SHAPES.values(), k1=20, k2=6) == wanted
    said = {
        "cuda:0": "re-ranking 3368 queries against 15913 gallery images on a GPU: at most 1.4 GB of its memory",
        "cpu": "re-ranking on the CPU: it may take 1.4 GB, the GPU has room for 0.9",
    }
    assert caplog.messages == [said[wanted]]
