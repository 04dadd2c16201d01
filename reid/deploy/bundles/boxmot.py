"""BoxMOT: an ONNX file that takes what its ReID backend feeds, and a BoT-SORT file.

BoxMOT resizes a crop by cv2.resize (INTER_LINEAR) to the size that the ONNX file states, and normalises by ImageNet's
mean and deviation whatever the model; the bundle's file undoes that.
"""

import json

from reid.contract import Contract
from reid.deploy.bundles.feeding import Case, Feed
from reid.deploy.bundles.program import Facts, Parameter, Program
from reid.deploy.bundles.resampling import bilinear_opencv

CONFIG = "botsort_reid.yaml"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_BARS = (124.0, 116.0, 104.0)
"""The bars of its preprocessing resize_pad, red first."""


def _model(_contract: Contract) -> str:
    # Versions before 25 look for a network's name in the file's name, and build that network beside the ONNX session.
    return "osnet_x0_25_reid.onnx"


def _files(facts: Facts, parameter: Parameter) -> dict[str, str]:
    sidecar = {
        "schema_version": 1,
        "model_name": "osnet_x0_25",
        "model_kwargs_schema_version": 1,
        "model_kwargs": {},
        "img_size": [facts.height, facts.width],
        "preprocess": "resize",
    }
    return {
        CONFIG: _config(facts, parameter),
        f"{facts.model}.metadata.json": json.dumps(sidecar, indent=2) + "\n",
        "README.md": _readme(facts, parameter),
    }


def _config(facts: Facts, parameter: Parameter) -> str:
    return f"""\
tracker: botsort
track_high_thresh: 0.6
track_low_thresh: 0.1
new_track_thresh: 0.6
track_buffer: 40
match_thresh: 0.8
use_cmc: true
cmc_method: ecc
frame_rate: 30
use_embeddings: true
proximity_thresh: 0.5
{parameter.name}: {parameter.value(facts.threshold)}
"""


def _readme(facts: Facts, parameter: Parameter) -> str:
    return f"""\
# {facts.model} for BoxMOT

    boxmot track --detector yolov8n --reid {facts.model} --tracker botsort --tracker-config {CONFIG} --source film.mp4

or from Python, where boxes are rows x1, y1, x2, y2 and the frame is BGR, as OpenCV reads it:

    from boxmot.reid.core.runtime import ReID
    vectors = ReID("{facts.model}")(frame, boxes)

- BoxMOT 25 wants onnxruntime==1.24.3 and installs it over yours, without asking: give it an environment of its own.
- It warns that the graph's input size overrides its own, or reads the size from {facts.model}.metadata.json: both are
  right. Keep the two files together. Versions before 25 feed 256 x 128 whatever the file says.
- The vectors come from the ONNX alone. Its name begins with osnet_x0_25 because versions before 25 look for the name of
  a network there.
- Keep the preprocessing resize, the default: resize_pad puts grey bars beside the crop.
- {parameter.name} is a distance here: {parameter.formula}.
"""


def _cases(contract: Contract) -> tuple[Case, ...]:
    mean, std = contract.mean, contract.std
    own = Feed(bilinear_opencv, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
    return (
        Case("the model at the network's own size (--oversize 1)", own, plain=True),
        Case("preprocessing resize_pad, grey bars beside the crop", Feed(bilinear_opencv, MEAN, STD, bars=GREY_BARS)),
        Case("the plain export, normalised by ImageNet's values", Feed(bilinear_opencv, MEAN, STD), plain=True),
    )


BOXMOT = Program(
    title="BoxMOT (BoT-SORT)",
    sources=(
        "boxmot 25.0.0 (PyPI): reid/core/{crops,preprocessing,runtime}.py, reid/backends/*, trackers/box/botsort",
    ),
    model=_model,
    feed=Feed(bilinear_opencv, MEAN, STD),
    cases=_cases,
    parameter=Parameter(
        "appearance_thresh",
        "1 - cosine, the largest cosine distance that is accepted",
        lambda cosine: 1 - cosine,
        0.25,
    ),
    files=_files,
)
