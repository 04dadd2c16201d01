"""NVIDIA's two packages with one API: which of them can build an engine on this machine, and for which GPUs.

`tensorrt` (10, 11) builds for the GPU in this machine. `tensorrt_rtx` builds ahead of time for named compute
capabilities and needs no GPU.
"""

import importlib
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from reid.deploy.gpu import Gpu
from reid.errors import MissingDependency, SpecError

logger = logging.getLogger(__name__)

MODULES = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt_rtx_bindings", "tensorrt_rtx")}
"""Package -> its modules: of the PyPI wheels, of NVIDIA's own archive."""


@dataclass(frozen=True)
class Package:
    """A TensorRT that can build here."""

    name: str
    """tensorrt or tensorrt_rtx."""
    trt: Any
    """The module."""
    gpu: Gpu | None

    @property
    def is_rtx(self) -> bool:
        """Whether it builds for named targets, without their GPU."""
        return self.name == "tensorrt_rtx"


def find_package(gpu: Gpu | None) -> Package:
    """`tensorrt` where there is a GPU to build for, else `tensorrt_rtx`; MissingDependency says why neither can."""
    reasons: list[str] = []
    if gpu is None:
        installed = "installed" if importlib.util.find_spec("tensorrt") else "not installed"
        reasons.append(f"tensorrt ({installed}) builds on a GPU only and there is none")
    for name, modules in MODULES.items():
        if (name != "tensorrt" or gpu) and (trt := _import_one(modules, reasons)) is not None:
            return Package(name, trt, gpu)
    raise MissingDependency(
        f"{'; '.join(reasons)}; TensorRT-RTX for Linux on x86-64 comes with pip install -e '.[tensorrt]' "
        "in the repository's root"
    )


def load_package(name: str, gpu: Gpu) -> Package:
    """The package that built an engine, to run it; MissingDependency where it cannot be imported."""
    reasons: list[str] = []
    if (trt := _import_one(MODULES.get(name, ()), reasons)) is None:
        why = "; ".join(reasons) or f"no package of that name is known, only {' and '.join(MODULES)}"
        raise MissingDependency(f"running an engine of {name}: {why}")
    return Package(name, trt, gpu)


def _import_one(modules: Sequence[str], reasons: list[str]) -> Any:
    """The first that can be imported; None where none can, with the reasons added."""
    for name in modules:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:
            reasons.append(f"{name} cannot be imported ({error})")
    return None


def find_targets(package: Package, compute_capabilities: Sequence[str]) -> list[str]:
    """Compute capabilities to build for: the GPU's own for `tensorrt`, the spec's for `tensorrt_rtx`."""
    if not package.is_rtx:
        assert package.gpu is not None
        return [package.gpu.compute_capability]
    if not compute_capabilities:
        raise SpecError("gen_trt_engine.tensorrt.compute_capabilities: empty; want one at least, e.g. ['8.6']")
    known = [name for name in package.trt.ComputeCapability.__members__ if name.startswith("SM")]
    for capability in compute_capabilities:
        if sm_name(capability) not in known:
            wanted = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known)
            raise SpecError(
                f"gen_trt_engine.tensorrt.compute_capabilities: {capability}: "
                f"{package.name} {package.trt.__version__} does not build for it; want of {wanted}"
            )
    return list(compute_capabilities)


def sm_name(capability: str) -> str:
    """TensorRT's name of a compute capability: "8.6" -> "SM86"."""
    return f"SM{capability.replace('.', '')}"


@cache
def the_log(trt: Any) -> Any:
    """The one TensorRT logger of this process: it speaks through `logging`, and keeps the errors of a build.

    One, because TensorRT stays with the first logger as long as anything made with it lives, and ignores a second.
    Before a build set `verbose` and clear `errors`.
    """
    severity = trt.ILogger.Severity

    class Log(trt.ILogger):  # type: ignore[misc]  # the class is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.verbose = False

        def log(self, level: Any, message: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                self.errors.append(message)
                logger.error("TensorRT: %s", message)
            elif level == severity.WARNING:
                logger.warning("TensorRT: %s", message)
            else:
                shown = self.verbose and level == severity.INFO
                logger.log(logging.INFO if shown else logging.DEBUG, "TensorRT: %s", message)

    return Log()
