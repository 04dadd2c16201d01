"""The trackers that a bundle can be made for, by the name of `reid bundle --for`."""

from reid.deploy.bundles.boxmot import BOXMOT
from reid.deploy.bundles.deepstream import DEEPSTREAM
from reid.deploy.bundles.program import Program
from reid.deploy.bundles.ultralytics import ULTRALYTICS

PROGRAMS: dict[str, Program] = {"deepstream": DEEPSTREAM, "boxmot": BOXMOT, "ultralytics": ULTRALYTICS}
TRITON = "triton"
"""A server, not a tracker: it resizes nothing, and its bundle is a model repository."""
NAMES = (*PROGRAMS, TRITON)
