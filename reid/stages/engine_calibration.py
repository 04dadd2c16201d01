"""Quantises an FP32 ONNX for an INT8 or FP8 engine, on the images that gen_trt_engine.tensorrt.calibration names."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reid.contract import Contract
from reid.data.market1501 import Manifest
from reid.deploy.calibration import folder_images, in_batches, training_images
from reid.deploy.quantization import LARGEST, find_layers, quantize
from reid.embeddings import Pixels
from reid.errors import DatasetError, SpecError
from reid.spec import Experiment

logger = logging.getLogger(__name__)

FIELD = "gen_trt_engine.tensorrt"


def calibrating(spec: Experiment, dataset: Path | None) -> Callable[[Any, Contract], Any] | None:
    """The function that quantises a network by its contract; None unless the data type is INT8 or FP8.

    It raises DatasetError if there are fewer images than cal_batches x cal_batch_size, and SpecError if
    layers_precision names an unknown layer.
    """
    options = spec.gen_trt_engine.tensorrt
    if options.data_type not in LARGEST:
        return None
    count = options.calibration.cal_batches * options.calibration.cal_batch_size

    def calibrated(model: Any, contract: Contract) -> Any:
        names = [entry.rpartition(":")[0] for entry in options.layers_precision]
        keep = find_layers(model, names, field=f"{FIELD}.layers_precision")
        pixels = _images(spec, dataset, count, contract)
        logger.info("calibrating on %d images (%s.calibration)", len(pixels), FIELD)
        batches = in_batches(
            pixels, range(len(pixels)), contract=contract, batch_size=options.calibration.cal_batch_size
        )
        return quantize(model, batches, keep=keep, data_type=options.data_type, total=len(pixels))

    return calibrated


def _images(spec: Experiment, dataset: Path | None, count: int, contract: Contract) -> Pixels:
    """The pixels of `count` images: of cal_image_dir, or without it of the training images."""
    folders, field = spec.gen_trt_engine.tensorrt.calibration.cal_image_dir, f"{FIELD}.calibration.cal_image_dir"
    if folders:
        return folder_images(folders, count, contract=contract, field=field)
    if dataset is None:
        raise SpecError(
            f"{field}: empty, and dataset has no training images\n"
            f"  want: folders of images to calibrate {spec.gen_trt_engine.tensorrt.data_type} on, or "
            "dataset.train_dataset_dir"
        )
    store, manifest = Path(spec.store_dir), Manifest.load(dataset)
    pixels = training_images(manifest, count, contract=contract, store=store, field=field)
    if len(pixels) < count:
        raise DatasetError(
            f"{FIELD}.calibration: cal_batches x cal_batch_size is {count}; the data set has {len(pixels)} training "
            "images\n  want: fewer, or folders with more images in cal_image_dir"
        )
    return pixels
