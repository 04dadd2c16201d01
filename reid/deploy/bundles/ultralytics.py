"""Ultralytics' BoT-SORT with a re-identification model of one's own: an ONNX file and a tracker file.

Ultralytics makes each box 2 % and 10 pixels larger, resizes the crop without antialiasing to the size that the ONNX
file states, and feeds RGB of 0 to 1 without mean and deviation; the bundle's file normalises inside.
"""

from reid.contract import Contract
from reid.deploy.bundles.feeding import Case, Feed
from reid.deploy.bundles.program import Facts, Parameter, Program
from reid.deploy.bundles.resampling import bilinear

CONFIG = "botsort_reid.yaml"
GROWN_SHARE, GROWN_PIXELS = 0.02, 10
FEED = Feed(bilinear, grown_share=GROWN_SHARE, grown_pixels=GROWN_PIXELS)


def _model(_contract: Contract) -> str:
    return "reid.onnx"


def _files(facts: Facts, parameter: Parameter) -> dict[str, str]:
    return {CONFIG: _config(facts, parameter), "README.md": _readme(facts, parameter)}


def _config(facts: Facts, parameter: Parameter) -> str:
    return f"""\
tracker_type: botsort
track_high_thresh: 0.25
track_low_thresh: 0.1
new_track_thresh: 0.25
track_buffer: 30
match_thresh: 0.8
fuse_score: True
gmc_method: sparseOptFlow
proximity_thresh: 0.5
{parameter.name}: {parameter.value(facts.threshold)}
with_reid: True
model: {facts.model} # a path from the folder in which you run it
"""


def _readme(facts: Facts, parameter: Parameter) -> str:
    return f"""\
# {facts.model} for Ultralytics

    yolo track model=yolo26n.pt source=film.mp4 classes=0 tracker={CONFIG}

or from Python:

    from ultralytics import YOLO
    YOLO("yolo26n.pt").track("film.mp4", classes=[0], tracker="{CONFIG}")

- It needs Ultralytics 8.4.180 or later. Versions up to 8.4.170 stretch crops to a square, which this file refuses, and
  swap red and blue.
- Each box grows by 2 % and 10 pixels before it is cut; no file can undo that. For crops like those of your training,
  train on boxes with such a margin (reid dataset crops --padding).
- {parameter.name} is a similarity here: {parameter.formula}.
"""


def _cases(contract: Contract) -> tuple[Case, ...]:
    mean, std = contract.mean, contract.std
    own = Feed(bilinear, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
    swapped = Feed(bilinear, channel_order="BGR", grown_share=GROWN_SHARE, grown_pixels=GROWN_PIXELS)
    return (
        Case("the same without the margin around the box", Feed(bilinear)),
        Case("the same at the network's own size (--oversize 1), without the margin", own, plain=True),
        Case("red and blue swapped, as up to 8.4.170", swapped),
        Case("the plain export: no mean, no deviation", FEED, plain=True),
    )


ULTRALYTICS = Program(
    title="Ultralytics (BoT-SORT)",
    sources=(
        "ultralytics 8.4.190 (PyPI): trackers/utils/{reid,matching}.py, trackers/bot_sort.py, utils/plotting.py",
        "ultralytics 8.4.120, 8.4.150, 8.4.170, 8.4.180: trackers/utils/reid.py",
    ),
    model=_model,
    feed=FEED,
    cases=_cases,
    parameter=Parameter(
        "appearance_thresh",
        "(1 + cosine) / 2, since half the cosine distance must not exceed 1 - appearance_thresh",
        lambda cosine: (1 + cosine) / 2,
        0.8,
    ),
    files=_files,
)
