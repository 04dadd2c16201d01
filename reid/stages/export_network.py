"""Writes the network of a checkpoint as ONNX in the data type that the spec asks for; INT8 and FP8 are calibrated."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reid.data.market1501 import Manifest
from reid.deploy.calibration import in_batches, training_images
from reid.deploy.float_layers import Quantized, quantize_with_search
from reid.deploy.onnx import QUANTIZATION_KEY, check, import_onnx
from reid.deploy.onnx_export import export_onnx, onnx_bytes
from reid.deploy.quantization import LARGEST, find_layers
from reid.deploy.sample import Sample, evenly
from reid.errors import DatasetError
from reid.files.encryption import write_model
from reid.spec.deploy_sections import Export
from reid.thresholds import Thresholds

if TYPE_CHECKING:
    from reid.model.checkpoint import LoadedModel

SHARE_HELD_ASIDE = 0.25
"""So many further images, as a share of export.quantization.images, are embedded to choose the layers in FP32."""
SHARE_OF_LOSS = 0.5
"""The loss of cosine that is sought on them, as a share of what is allowed: more images will be compared later."""

MEASURED = 64
"""Number of images on which an FP16 file's numbers are measured."""


def write_network(
    loaded: "LoadedModel",
    path: Path,
    section: Export,
    *,
    manifest: Manifest,
    sample: Sample,
    store: Path,
    key: str | None,
    thresholds: Thresholds | None,
) -> Quantized | None:
    """Writes the ONNX file to `path`; returns how it was quantised if the data type is INT8 or FP8.

    In FP16, numbers that are too large for half precision on the sample's query images stay in FP32. Raises what
    export_onnx raises; DatasetError if there are too few training images to calibrate on.
    """
    form: dict[str, Any] = {
        **{"contract": loaded.contract, "settings": loaded.settings, "opset": section.opset},
        **{"thresholds": thresholds, "choice": loaded.choice},
    }
    if section.data_type not in LARGEST:
        images = None
        if section.data_type == "FP16":
            rows = evenly(range(len(sample.query_pixels)), MEASURED)
            images = in_batches(sample.query_pixels, rows, contract=loaded.contract)
        export_onnx(loaded.network, path, **form, overwrite=True, data_type=section.data_type, key=key, images=images)
        return None
    content = onnx_bytes(loaded.network, where=path, **form)
    made = _quantize(import_onnx().load_model_from_string(content), loaded, section, manifest=manifest, store=store)
    made.model.metadata_props.add(
        key=QUANTIZATION_KEY, value=json.dumps({"images": made.images, "float_layers": list(made.kept)})
    )
    check(made.model, f"{path}: the quantised network")
    write_model(path, made.model.SerializeToString(deterministic=True), key=key)
    return made


def _quantize(model: Any, loaded: "LoadedModel", section: Export, *, manifest: Manifest, store: Path) -> Quantized:
    options, contract = section.quantization, loaded.contract
    held = max(1, round(SHARE_HELD_ASIDE * options.images))
    pixels = training_images(manifest, options.images + held, contract=contract, store=store, field="export.data_type")
    found = len(pixels)
    if found < options.images + held:
        raise DatasetError(
            f"export.quantization.images: {options.images}, and {held} held aside to choose layers by; the data set "
            f"has {found} training images\n  want: {max(1, int(found / (1 + SHARE_HELD_ASIDE)))} or fewer"
        )
    return quantize_with_search(
        model,
        list(in_batches(pixels, range(options.images), contract=contract)),
        list(in_batches(pixels, range(options.images, found), contract=contract)),
        data_type=section.data_type,
        min_cosine=1 - SHARE_OF_LOSS * (1 - options.min_cosine),
        max_kept=options.max_float_layers,
        keep=find_layers(model, options.float_layers, field="export.quantization.float_layers"),
    )
