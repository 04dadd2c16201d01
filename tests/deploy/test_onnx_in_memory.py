import importlib.util
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from reid.deploy import onnx_in_memory
from reid.deploy.onnx_in_memory import LEAST_IMAGES, faster_on_the_cpu
from reid.model.checkpoint import LoadedModel
from reid.model.embedder import Embedder
from tests.exporting import contract_of, images, some_network


def loaded(network: Embedder | None = None, **changes: object) -> LoadedModel:
    network = (network or some_network(**changes)).requires_grad_(False)
    network = network.to(memory_format=torch.channels_last)  # as load_model leaves it
    return LoadedModel(network, contract_of(network.settings), network.settings, (1, 2, 3, 4, 5))


def chosen(model: LoadedModel, count: int = LEAST_IMAGES):
    return faster_on_the_cpu(model, images=count, threads=1, name="m.pth")


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, onnx_in_memory.__name__)
    return caplog


@pytest.mark.parametrize("changes", [{}, {"with_flip_feature": True, "neck": "", "input_channels": 1}])
def test_onnx_runtime_embeds_as_torch_does_and_each_time_alike(changes, log):
    model = loaded(**changes)
    found, again = chosen(model), chosen(model)
    for count in (1, 2, 7):
        batch = images(count, model.contract.channels).numpy()
        expected = model.embed(batch)
        assert np.abs(found(batch) - expected).max() <= 1e-5 * np.abs(expected).max()  # float32 sums in another order
        assert np.array_equal(found(batch), again(batch))
    assert found.contract == model.contract
    assert re.fullmatch(r"m.pth: ONNX Runtime runs it on the CPU, translated in memory in \d+ s", log.messages[0])


def test_for_few_images_and_for_a_transformer_torch_stays(log):
    assert chosen(loaded(), LEAST_IMAGES - 1) is None
    assert chosen(loaded(backbone="timm/test_vit")) is None
    assert log.messages == ["m.pth: torch runs it on the CPU"] * 2


def test_without_a_package_torch_stays_and_says_how_it_would_be_faster(monkeypatch, log):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else there(name))
    assert chosen(loaded()) is None
    assert log.messages == [
        "m.pth: torch runs it on the CPU; ONNX Runtime would be faster, but onnx, onnxruntime, onnxscript is not here: "
        "pip install -e '.[export]' in the repository's root"
    ]


class Undecided(Embedder):
    """Another computation for bright images than for dark ones, which no graph can hold."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.embed(images if images.sum() > 0 else -images)


class Unsteady(Embedder):
    """Another embedding each time."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.embed(images + torch.rand_like(images))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Undecided, "as ONNX Runtime cannot: ONNX export: torch cannot translate the network "),
        (Unsteady, r"as ONNX Runtime's embeddings are \de[-+]\d\d from its own"),
    ],
)
def test_a_network_that_does_not_come_through_whole_stays_with_torch_and_a_warning(kind, said, log):
    network = some_network()
    network.__class__ = kind
    assert chosen(loaded(network)) is None
    assert [record.levelname for record in log.records] == ["WARNING"]
    assert re.match(f"m.pth: torch runs it on the CPU, {said}", log.messages[0])


def test_nothing_is_left_on_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert chosen(loaded())
    assert list(Path().iterdir()) == []
