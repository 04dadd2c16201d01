"""A loaded network run by ONNX Runtime without a file between: on a CPU it is the faster of the two with convolutions.

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
"""From here on the translation's seconds are won back; ResNet-50 at 256 x 128 needs 300, MobileNet 1,500."""
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
OPSET = 18
TRIED_IMAGES = 2
TOLERANCE = 1e-5
"""Of the largest coordinate: how far the tried embeddings may be from torch's, both being sums of float32."""


def faster_on_the_cpu(loaded: LoadedModel, *, images: int, threads: int, name: str) -> OnnxModel | None:
    """The network of a CPU for ONNX Runtime, where that pays for so many images; else null. `name` is the model's.

    What is chosen, and why torch where ONNX Runtime might be expected, is named in the log. Null, too, for
    transformers, which torch runs as fast; without the packages; where torch cannot translate the network; and where
    the result does not embed noise as torch does.
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
    apart = _difference(loaded, model)
    if not apart <= TOLERANCE:
        logger.warning("%s: torch runs it on the CPU, as ONNX Runtime's embeddings are %.0e from its own", name, apart)
        return None
    took = time.perf_counter() - began
    logger.info("%s: ONNX Runtime runs it on the CPU, translated in memory in %.0f s", name, took)
    return model


def _difference(loaded: LoadedModel, model: OnnxModel) -> float:
    """The largest of a coordinate on images of noise, over the largest coordinate."""
    contract = loaded.contract
    shape = (TRIED_IMAGES, contract.channels, contract.height, contract.width)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    expected = loaded.embed(images)
    return float(np.abs(model(images) - expected).max() / np.abs(expected).max())
