"""The names of the images that the stages run in; no other file has them.

They are fixed when the pipeline is compiled; on a cluster name them by digest (`REID_IMAGE=registry/reid@sha256:…`),
so that KFP's cache sees a new build.
"""

import os

from reid import __version__

REID = os.environ.get("REID_IMAGE") or f"reid-pipeline/torch:{__version__}"
"""PyTorch, on CPU or CUDA."""
TENSORRT = os.environ.get("REID_TRT_IMAGE") or f"reid-pipeline/tensorrt:{__version__}"
"""TensorRT, and what the stages that need no torch use."""
ENTRY = ["python3", "-m", "components.entry"]
"""The command of every stage; the name of the stage follows it."""
EXECUTOR_INPUT = ["--executor-input", "{{$}}"]
"""`{{$}}` is the one placeholder that all runners share: every port of the task, as JSON."""
