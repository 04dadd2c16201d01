"""Runs a loaded network by ONNX Runtime, translated in memory: on a CPU it is faster than torch for convolutions.

Shapes: B images in a batch, C channels, H height, W width, D embedding width.
"""

import importlib.util
import logging
import time
from pathlib import Path

import numpy as np

from reid.deploy.onnx import OnnxModel
from reid.deploy.onnx_export import onnx_bytes
from reid.errors import ReidError
from reid.model.backbones import is_convolutional
from reid.model.checkpoint import LoadedModel

logger = logging.getLogger(__name__)

LEAST_IMAGES = 2_000
"""From so many images on the translation pays; ResNet-50 at 256 x 128 needs 300, MobileNet 1,500."""
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
OPSET = 18
TRIED_IMAGES = 2
TOLERANCE = 1e-5
"""How far the tried embeddings may be from torch's, as a share of the largest coordinate: both are float32 sums."""


def faster_on_the_cpu(loaded: LoadedModel, *, images: int, threads: int, name: str) -> OnnxModel | None:
    """The network in ONNX Runtime if that pays for so many images on the CPU, else None; `name` is for the log.

    None is also returned for transformers, which torch runs as fast; without the packages; if torch cannot translate
    the network; and if the result does not embed noise as torch does. The log says what was chosen and why.
    """
    if images < LEAST_IMAGES or not is_convolutional(loaded.network.base):
        logger.info("%s: torch runs it on the CPU", name)
        return None
    lacking = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if lacking:
        logger.info(
            "%s: torch runs it on the CPU; ONNX Runtime would be faster, but %s is not here: "
            "pip install -e '.[export]' in the repository's root",
            name, ", ".join(lacking),
        )  # fmt: skip
        return None
    began = time.perf_counter()
    try:
        content = onnx_bytes(
            loaded.network, where=Path(name), contract=loaded.contract, settings=loaded.settings, opset=OPSET
        )
        model = OnnxModel(content=content, threads=threads)
    except ReidError as error:
        logger.warning("%s: torch runs it on the CPU, as ONNX Runtime cannot: %s", name, str(error).splitlines()[0])
        return None
    difference = _difference(loaded, model)
    if not difference <= TOLERANCE:
        text = "%s: torch runs it on the CPU, as ONNX Runtime's embeddings are %.0e from its own"
        logger.warning(text, name, difference)
        return None
    took = time.perf_counter() - began
    logger.info("%s: ONNX Runtime runs it on the CPU, translated in memory in %.0f s", name, took)
    return model


def _difference(loaded: LoadedModel, model: OnnxModel) -> float:
    """The largest difference of a coordinate on images of noise, as a share of the largest coordinate."""
    contract = loaded.contract
    shape = (TRIED_IMAGES, contract.channels, contract.height, contract.width)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    expected = loaded.embed(images)
    return float(np.abs(model(images) - expected).max() / np.abs(expected).max())
