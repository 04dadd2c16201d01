"""Finds which of NVIDIA's two packages can build an engine on this machine, and for which GPUs; both have one API.

`tensorrt` (10, 11) builds for the GPU in this machine. `tensorrt_rtx` builds ahead of time for named compute
capabilities and needs no GPU; some it does not know (Hopper's 9.0).
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
"""Package -> names of its module: in the PyPI wheels, in NVIDIA's own archive."""
AHEAD_OF_TIME = ["8.6"]
"""The compute capabilities that TensorRT-RTX builds for if neither the spec nor a GPU names one."""
FIELD = "gen_trt_engine.tensorrt.compute_capabilities"


@dataclass(frozen=True)
class Package:
    """A TensorRT package that can build on this machine."""

    name: str
    """tensorrt or tensorrt_rtx."""
    trt: Any
    """The imported module."""
    gpu: Gpu | None
    instead_of: str = ""
    """Why the package before it in MODULES is not used."""

    @property
    def is_rtx(self) -> bool:
        """Whether it builds for named compute capabilities without their GPU."""
        return self.name == "tensorrt_rtx"

    @property
    def full_name(self) -> str:
        """The name with the version, for messages."""
        return f"{self.name} {self.trt.__version__}"


def find_package(gpu: Gpu | None) -> Package:
    """`tensorrt` if there is a GPU to build for, else `tensorrt_rtx`; raises MissingDependency if neither can build."""
    reasons: list[str] = []
    if gpu is None:
        installed = "installed" if importlib.util.find_spec("tensorrt") else "not installed"
        reasons.append(f"tensorrt ({installed}) builds on a GPU only and there is none")
    for name, modules in MODULES.items():
        if (name != "tensorrt" or gpu) and (trt := _import_one(modules, reasons)) is not None:
            return Package(name, trt, gpu, instead_of="; ".join(reasons))
    rtx = "TensorRT-RTX for Linux on x86-64 comes with pip install -e '.[tensorrt]' in the repository's root"
    raise MissingDependency(f"{'; '.join(reasons)}; {'want pip install tensorrt' if gpu else rtx}")


def load_package(name: str, gpu: Gpu) -> Package:
    """The package that built an engine, to run it; raises MissingDependency if it cannot be imported."""
    reasons: list[str] = []
    if (trt := _import_one(MODULES.get(name, ()), reasons)) is None:
        why = "; ".join(reasons) or f"no package of that name is known, only {' and '.join(MODULES)}"
        raise MissingDependency(f"running an engine of {name}: {why}")
    return Package(name, trt, gpu)


def _import_one(modules: Sequence[str], reasons: list[str]) -> Any:
    """The first module that can be imported; if none can, None, and the reasons are added to `reasons`."""
    for name in modules:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:
            reasons.append(f"{name} cannot be imported ({error})")
    return None


def find_targets(package: Package, compute_capabilities: Sequence[str] | None) -> list[str]:
    """The compute capabilities to build for: the GPU's own for `tensorrt`, the given ones for `tensorrt_rtx`.

    None stands for the GPU of this machine, or without a GPU for AHEAD_OF_TIME. Raises SpecError if the package does
    not know one that is asked for by name; raises MissingDependency if it does not know the GPU that is here.
    """
    gpu = package.gpu
    if not package.is_rtx:
        assert gpu is not None
        if compute_capabilities not in (None, [gpu.compute_capability]):
            logger.warning("%s has no effect: tensorrt builds for the GPU that is here, %s", FIELD, gpu.words)
        return [gpu.compute_capability]
    if compute_capabilities is not None:
        return _named_targets(package, compute_capabilities)
    if gpu is None:
        logger.info("no GPU here: building for compute capability %s (%s)", ", ".join(AHEAD_OF_TIME), FIELD)
        return list(AHEAD_OF_TIME)
    if gpu.compute_capability not in (known := _known_targets(package)):
        raise MissingDependency(
            f"{package.instead_of}; {package.full_name} does not build for the GPU that is here, {gpu.words}, "
            f"only for {', '.join(known)}; want pip install tensorrt, which builds for the GPU it finds"
        )
    logger.info("%s; building for the GPU that is here, %s (%s)", package.instead_of, gpu.words, FIELD)
    return [gpu.compute_capability]


def _named_targets(package: Package, compute_capabilities: Sequence[str]) -> list[str]:
    """The given compute capabilities; raises SpecError if there is none, or one that the package does not know."""
    if not compute_capabilities:
        raise SpecError(f"{FIELD}: empty; want one at least, e.g. ['8.6'], or null for the GPU that is here")
    known = _known_targets(package)
    for capability in compute_capabilities:
        if capability not in known:
            raise SpecError(
                f"{FIELD}: {capability}: {package.full_name} does not build for it; want of {', '.join(known)}"
            )
    return list(compute_capabilities)


def _known_targets(package: Package) -> list[str]:
    """The compute capabilities that TensorRT-RTX builds for, e.g. "8.6"."""
    names = [name for name in package.trt.ComputeCapability.__members__ if name.startswith("SM")]
    return [f"{name[2:-1]}.{name[-1]}" for name in names]


def sm_name(capability: str) -> str:
    """TensorRT's name of a compute capability: "8.6" -> "SM86"."""
    return f"SM{capability.replace('.', '')}"


@cache
def tensorrt_log(trt: Any) -> Any:
    """The one TensorRT logger of this process: it passes messages on to `logging`, and keeps the errors of a build.

    There is only one, because TensorRT keeps its first logger as long as any object made with it lives, and ignores a
    second. Before a build, set `verbose` and clear `errors`.
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
