"""Which code a stage can reach, as one hash: a cached result is only as good as the code that made it.

The imports are read from the source, without running it: every import statement counts, also those inside functions,
except those under `if TYPE_CHECKING:`, which are never run. An edit counts at once, committed or not.
"""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from reid.files.hashes import file_sha256, files_sha256

ENTRY_MODULE = "components.entry"
PACKAGES = ("reid", "components")


def stage_of(command: Sequence[str]) -> str | None:
    """The stage that `python3 -m components.entry STAGE` starts; None for any other command."""
    for first, module, stage in zip(command, command[1:], command[2:]):
        if first == "-m" and module == ENTRY_MODULE:
            return stage
    return None


def stage_code(root: Path, stage: str) -> str:
    """SHA-256 of every file that this stage can reach in the repository at `root`, data files of reid included."""
    reached = closure(root, [ENTRY_MODULE, f"reid.stages.{stage}"])
    return hash_files(root, [*reached, *_data_files(root / "reid")])


def file_hash(path: Path) -> str:
    """SHA-256 of one file; that of an empty file if it is missing."""
    return file_sha256(path) if path.exists() else hashlib.sha256(b"").hexdigest()


def closure(root: Path, modules: Iterable[str]) -> list[Path]:
    """The files of `reid` and `components` that importing these modules can load, sorted."""
    found: set[Path] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name.split(".")[0] not in PACKAGES:
            continue
        for file in _files(root, name):
            if file not in found:
                found.add(file)
                waiting.extend(_imports(file.read_bytes(), _package(root, file)))
    return sorted(found)


def _files(root: Path, module: str) -> Iterator[Path]:
    """The module's own file and the __init__.py of each package above it; nothing for a name that is no module."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        path = root.joinpath(*parts[:depth])
        for candidate in (path / "__init__.py", path.with_suffix(".py")):
            if candidate.is_file():
                yield candidate


def _package(root: Path, file: Path) -> str:
    """The package in which relative imports of this file start."""
    return ".".join(file.relative_to(root).parent.parts)


@functools.cache
def _imports(source: bytes, package: str) -> tuple[str, ...]:
    names: list[str] = []
    for node in _nodes_that_run(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            # `from reid.data import market1501` loads a module, `from reid.errors import ReidError` a name: try both
            names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return tuple(names)


def _nodes_that_run(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all nodes below it, less the bodies of `if TYPE_CHECKING:`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for otherwise in child.orelse:
                yield from _nodes_that_run(otherwise)
        else:
            yield from _nodes_that_run(child)


def _data_files(package: Path) -> list[Path]:
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path for path in files if path.suffix not in {".py", ".pyc"})


def hash_files(root: Path, files: Iterable[Path]) -> str:
    """SHA-256 over the names below `root` and the contents of these files, in this order."""
    return files_sha256(root, [file.relative_to(root).as_posix() for file in files])
