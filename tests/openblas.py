"""OpenBLAS's kernels that this processor can run: a forced one that it cannot run dies of SIGILL."""

from collections.abc import Set
from pathlib import Path

AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
NEEDED = {
    "Prescott": {"pni"},  # Linux's name of SSE3
    "Nehalem": {"pni", "ssse3", "sse4_1", "sse4_2"},
    "Sandybridge": {"avx"},
    "Haswell": {"avx", "avx2", "fma"},
    "Zen": {"avx", "avx2", "fma"},
    "SkylakeX": {"avx", "avx2", "fma"} | AVX512,
    "Cooperlake": {"avx", "avx2", "fma", "avx512_bf16"} | AVX512,
}
"""Value of OPENBLAS_CORETYPE -> the flags of /proc/cpuinfo that stand for the instructions of its kernels."""
OWN = ""
"""No value of OPENBLAS_CORETYPE: the kernels that OpenBLAS itself chooses, which every machine can run."""


def core_types(flags: Set[str]) -> list[str]:
    """OWN, then every core type whose instructions a processor with these flags has."""
    return [OWN, *(name for name, needed in NEEDED.items() if needed <= flags)]


def processor_flags(text: str) -> set[str]:
    """The flags that all processors of this /proc/cpuinfo have; none where it lists no flags, as on ARM."""
    listed = [
        set(line.partition(":")[2].split()) for line in text.splitlines() if line.split(":")[0].strip() == "flags"
    ]
    return set.intersection(*listed) if listed else set()


def core_types_here() -> list[str]:
    """The core types that can be tested on this machine."""
    cpuinfo = Path("/proc/cpuinfo")
    return core_types(processor_flags(cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else set())
