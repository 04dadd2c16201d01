"""Which locked packages an image holds.

    python -m components.packages          on a Linux machine, after `make setup`: writes components/IMAGE.packages
    python3 packages.py IMAGE              inside the image's build: prints the part of requirements.lock to install

The lists hold names; versions and hashes stand in requirements.lock alone.
"""

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

EXTRAS = {"torch": ("mlflow", "export", "trainer"), "tensorrt": ("mlflow", "export", "tensorrt")}
"""Image -> extras of pyproject.toml that its stages need; neither has kfp, tests or a linter."""
WITHOUT_TORCH = {"tensorrt"}
TORCH = re.compile(r"torch|torchvision|triton|nvidia-.*|cuda-.*")
"""Packages that a BASE with PyTorch has already."""


def names_of(image: str, project: Mapping[str, object]) -> list[str]:
    """The packages that an image needs, by [project] of pyproject.toml and what the installed ones say they need."""
    roots = list(project["dependencies"])  # type: ignore[call-overload]
    if image in WITHOUT_TORCH:
        roots = [root for root in roots if "torch" not in _closure([root])]
    for extra in EXTRAS[image]:
        roots += project["optional-dependencies"][extra]  # type: ignore[index]
    return sorted(_closure(roots))


def _closure(roots: Iterable[str]) -> set[str]:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[tuple[str, str]] = set()
    waiting = [(Requirement(root), "") for root in roots]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in found:
                found.add((name, wanted))
                needed = importlib.metadata.requires(name) or []
                waiting += [(Requirement(text), wanted) for text in needed]
    return {name for name, _ in found}


def locked(names: Iterable[str], lock: str) -> str:
    """The lines of requirements.lock, hashes included, that pin these packages."""
    wanted, keep, lines = set(names), False, []
    for line in lock.splitlines(keepends=True):
        if not line.startswith(" "):
            keep = line.split("==")[0] in wanted
        lines += [line] if keep else []
    return "".join(lines)


def check_torch_of_base(lock: str) -> bool:
    """Whether BASE has PyTorch; exits if it is not the locked version, the suffix (+cpu, +cu130) aside."""
    for name in ("torch", "torchvision"):
        try:
            there = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name == "torchvision":
                sys.exit("BASE has torch and no torchvision; want both, or neither")
            return False
        wanted = re.search(rf"^{name}==(\S+)", lock, re.MULTILINE)
        if wanted is None or there.split("+")[0] != wanted[1]:
            sys.exit(f"BASE has {name} {there}\n  want: {wanted[1] if wanted else 'none'}, as in requirements.lock")
    return True


def main(arguments: list[str]) -> None:
    """Prints what to install for the named image, or writes all lists."""
    here = Path(__file__).parent
    if arguments:
        lock = Path("requirements.lock").read_text(encoding="utf-8")
        names = (here / f"{arguments[0]}.packages").read_text(encoding="utf-8").split()
        if "torch" in names and check_torch_of_base(lock):
            names = [name for name in names if not TORCH.fullmatch(name)]
        sys.stdout.write(locked(names, lock))
        return
    project = tomllib.loads((here.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for image in EXTRAS:
        (here / f"{image}.packages").write_text("\n".join(names_of(image, project)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
