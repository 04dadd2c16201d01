"""What decides which engine gen_trt_engine builds, in addition to inputs and code: TensorRT and this machine's GPUs.

Both are part of the stage's cache key: after `pip install tensorrt`, or with another GPU, the engine is built again.
"""

import importlib.metadata

from reid.deploy.gpu import list_gpus

STAGE = "gen_trt_engine"


def installed_tensorrt() -> str:
    """Every installed distribution of TensorRT with its version, sorted; "none" without any."""
    found = {
        f"{distribution.name.lower().replace('_', '-')} {distribution.version}"
        for distribution in importlib.metadata.distributions()
        if (distribution.name or "").lower().startswith("tensorrt")
    }
    return ", ".join(sorted(found)) or "none"


def gpus_here() -> str:
    """The GPUs that a task of this machine sees, in the driver's order; "none" without any."""
    return "; ".join(gpu.words for gpu in list_gpus()) or "none"
