from pathlib import Path

import pytest

from reid.contract import Contract
from reid.model.embedder import Embedder
from tests.exporting import exported


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> tuple[Path, Embedder, Contract]:
    """A small ResNet as ONNX, alone in its folder; not to be changed."""
    return exported(tmp_path_factory.mktemp("onnx") / "reid_model.onnx")


@pytest.fixture(scope="session")
def flipped(tmp_path_factory) -> tuple[Path, Embedder, Contract]:
    """The same with the flip test inside: every weight is used twice."""
    return exported(tmp_path_factory.mktemp("onnx") / "flip.onnx", with_flip_feature=True)
