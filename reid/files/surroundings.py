"""What a result depends on beside the spec and the data: code, packages, machine. Needs no package that computes.

A run records it, `reid compare` shows where two runs differ, and `reid reproduce` says why numbers cannot be equal.
"""

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from reid.files.lineage import PACKAGE, code_sha256
from reid.files.secrets import encryption_key

ROOT = PACKAGE.parent
"""The checkout, if the package runs from one."""
SPEC_OF_RUN = "spec.yaml"
"""The spec that a pipeline's run kept, beside its record and in MLflow."""
PREFIX = "reid.surroundings."
"""Begins the tags of a run that hold these facts."""
PACKAGES = (
    *("torch", "torchvision", "timm", "pytorch-lightning", "numpy", "pillow", "numba", "scipy"),
    *("onnx", "onnxruntime", "tensorrt-rtx"),
)
"""Packages that can change a number."""
SIMD = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")
"""Features of a CPU by which libraries choose their kernels, and with them the order of additions."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "ATEN_CPU_CAPABILITY")
GIT_TIMEOUT_S = 5
OF_AN_IMAGE = ("code_sha256", "python", "packages", "encrypted")
"""The facts that are the same in all pods of a run on a cluster."""
WHERE, CLUSTER = "where", "a cluster"
"""The name and the value of the fact that a run was on a cluster."""


def surroundings(root: Path = ROOT) -> dict[str, str]:
    """Name -> fact, as texts: code_sha256, lock_sha256, commit, python, packages, system, cpu, cpu_features and others.

    A fact that this machine does not tell is an empty text.
    """
    cpu = _cpu_facts()
    return {
        "code_sha256": code_sha256(),
        "lock_sha256": _lock_sha256(root),
        "commit": _commit(root),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name))),
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}".strip(", "),
        "cpu": cpu.get("model name", ""),
        "cpu_features": " ".join(name for name in SIMD if name in cpu.get("flags", cpu.get("Features", "")).split()),
        "cores": str(_cores()),
        "threads": ", ".join(f"{name}={os.environ[name]}" for name in THREADS if name in os.environ),
        "gpus": _gpus(),
        "encrypted": "yes" if encryption_key() else "",
    }


def surroundings_on_a_cluster() -> dict[str, str]:
    """The facts that hold for a whole run on a cluster, whose stages run on different machines."""
    facts = surroundings()
    return {name: facts[name] for name in OF_AN_IMAGE} | {WHERE: CLUSTER}


def same_packages(recorded: str, here: str) -> str:
    """Those of the packages here whose names are recorded: an image holds fewer packages than a checkout."""
    names = {entry.split()[0] for entry in recorded.split(", ") if entry}
    return ", ".join(entry for entry in here.split(", ") if entry and entry.split()[0] in names)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _lock_sha256(root: Path) -> str:
    try:
        return hashlib.sha256((root / "requirements.lock").read_bytes()).hexdigest()
    except OSError:  # installed without the checkout
        return ""


def _commit(root: Path) -> str:
    """The commit of the checkout, with "and changes" if files of it were changed; "" if there is none."""
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "--no-optional-locks"]
    try:
        said = subprocess.run(
            [*command, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*command, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or a folder of another user
        return ""
    return f"{said} and changes" if changed else said


def _cpu_facts() -> dict[str, str]:
    """The first entry of Linux's list of CPUs; empty on another system."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _gpus() -> str:
    """The GPUs by the files of NVIDIA's driver, without loading it; "" if there is none."""
    names = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return ", ".join(names)


def as_tags(facts: Mapping[str, str]) -> dict[str, str]:
    """The facts as tags of a run."""
    return {f"{PREFIX}{name}": value for name, value in facts.items() if value}


def from_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The facts among the tags of a run; empty if it recorded none."""
    return {name.removeprefix(PREFIX): value for name, value in tags.items() if name.startswith(PREFIX)}
