"""The arrows of the import graph, read from every import statement, lazy ones included; and what starting up costs."""

import ast
import functools
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    "torch",
    "torchvision",
    "pytorch_lightning",
    "timm",
    "mlflow",
    "kfp",
    "onnx",
    "onnxruntime",
    "jinja2",
    "numba",
    "pyarrow",
    "tritonclient",
}
COMPONENTS = ("validate", "manifest", "train", "evaluate", "inference", "export", "gen_trt_engine", "register")
PIPELINES_MAY_IMPORT = {
    *(
        "reid",
        "reid.spec",
        "reid.spec.facts",
        "reid.spec.fields",
        "reid.spec.one_line",
        "reid.spec.facts",
        "reid.spec.fields",
        "reid.spec.secret",
        "reid.files",
        "reid.files.secrets",
        "reid.files.surroundings",
        "reid.files.hashes",
        "reid.files.locks",
        "reid.files.paths",
        "reid.files.records",
        "reid.files.writing",
        "reid.files.yaml_input",
        "reid.errors",
        "reid.console",
        "reid.console.live",
        "reid.console.progress",
        "reid.console.tables",
        "reid.tracking",
        "reid.tracking.pipeline_run",
    ),
    *("reid.data", "reid.data.market_folders", "reid.deploy", "reid.deploy.gpu"),
}
OWNERS = {
    "jinja2": "reid/reports/page.py",
    "pyarrow": "reid/embedding_files/parquet.py",
    "onnxruntime": "reid/deploy/onnx.py",
    "tritonclient": "reid/deploy/triton_connection.py",
    **dict.fromkeys(("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"), "reid/deploy/tensorrt_packages.py"),
}
"""Module -> the one file that imports it, by a statement or by name."""
INSIDE_TRITON = "reid/deploy/triton_model.py"
"""Copied into a model repository and run there; no module of ours."""
LEVELS = (
    ("errors",),
    ("files", "console", "contract", "thresholds", "choice"),
    ("data", "distributed", "retrieval"),
    ("drawn", "embeddings", "spec"),
    ("model", "scoring", "embedding_files"),
    ("deploy", "tracking"),
    ("reports", "training"),
    ("stages", "library"),
    ("cli",),
    ("__main__",),
)
"""The wings of `reid`, from the ground up. A wing imports only those on levels below its own, so there is no circle."""
MATHS = ("reid/training/losses.py", "reid/training/schedule.py", "reid/retrieval")


@functools.cache
def imports(file: Path) -> set[str]:
    """Dotted names that a file imports anywhere but for type checkers only; `from a import b` gives a and a.b."""
    found: set[str] = set()
    for node in _walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _walk(child)


def tops(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)}


def sources(*places: str) -> list[Path]:
    files = [
        path for place in places for path in ([ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py"))
    ]
    assert files
    return sorted(files)


def named(files: list[Path]) -> list[str]:
    return [str(file.relative_to(ROOT)) for file in files]


@functools.cache
def imports_by_name(file: Path) -> set[str]:
    """Every text of a file that calls importlib.import_module: what it may import without an import statement."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    if "import_module" not in {getattr(call, "attr", getattr(call, "id", "")) for call in calls}:
        return set()
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def those_that_import(module: str, *places: str) -> list[str]:
    def has(file: Path) -> bool:
        return any(name == module or name.startswith(f"{module}.") for name in imports(file))

    return named([file for file in sources(*places) if has(file)])


def test_reid_imports_no_kfp_and_nothing_above_it() -> None:
    for module in ("kfp", "docker", "kubernetes", "pipelines", "components"):
        assert those_that_import(module, "reid") == []


@pytest.mark.parametrize("stage", COMPONENTS)
def test_a_component_imports_kfp_and_the_image_names_only(stage: str) -> None:
    assert imports(ROOT / "components" / f"{stage}.py") == {"kfp", "kfp.dsl", "components", "components.images"}


def test_the_entry_runs_without_kfp_and_without_pipelines() -> None:
    assert not tops(ROOT / "components" / "entry.py") & {"kfp", "pipelines", "torch", "mlflow", "components"}
    assert (ROOT / "components" / "__init__.py").read_text() == ""


def test_the_version_can_be_read_without_loading_anything() -> None:
    assert imports(ROOT / "reid" / "__init__.py") == {"importlib", "typing", "typing.TYPE_CHECKING"}
    assert imports(ROOT / "components" / "images.py") == {"os", "reid", "reid.__version__"}


def test_the_pipeline_definition_imports_neither_reid_nor_torch_nor_mlflow() -> None:
    for file in sources("pipelines/reid_pipeline.py", "pipelines/cluster/resources.py"):
        assert not tops(file) & {"reid", *HEAVY - {"kfp"}}


def test_the_runner_imports_of_reid_only_what_is_light() -> None:
    for file in sources("pipelines"):
        ours = {name for name in imports(file) if name.split(".")[0] == "reid"}
        modules = {name for name in ours if _is_module(name)}
        assert modules <= PIPELINES_MAY_IMPORT, file
        assert not tops(file) & (HEAVY - {"kfp"} | {"docker"}), file


def test_only_the_pipeline_definition_imports_kfp() -> None:
    assert those_that_import("kfp", "pipelines") == ["pipelines/cluster/resources.py", "pipelines/reid_pipeline.py"]
    assert those_that_import("kfp", "components") == sorted(f"components/{stage}.py" for stage in COMPONENTS)


def _is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()


def test_a_heavy_dependency_is_imported_by_the_file_that_owns_it() -> None:
    assert set(those_that_import("mlflow", "reid", "pipelines", "components")) <= {
        "reid/tracking/store.py",
        "reid/tracking/experiment.py",
        "reid/tracking/replay.py",
        "reid/tracking/runs.py",
        "reid/tracking/logged_model.py",
        "reid/tracking/outbox.py",
        "reid/tracking/registry.py",
    }
    for module, owner in OWNERS.items():
        importing = set(those_that_import(module, "reid", "pipelines", "components")) - {INSIDE_TRITON}
        by_name = [file for file in sources("reid", "pipelines", "components") if module in imports_by_name(file)]
        assert importing | set(named(by_name)) == {owner}, module


def test_an_import_by_name_is_seen_and_a_text_of_another_file_is_not(tmp_path: Path) -> None:
    for name, text in (("a", "importlib.import_module(M[0])"), ("b", "import_module('x')"), ("c", "print(M)")):
        (tmp_path / name).write_text(f"M = ('tensorrt',)\n{text}\n")
    found = {name: "tensorrt" in imports_by_name(tmp_path / name) for name in "abc"}
    assert found == {"a": True, "b": True, "c": False}


def test_what_runs_inside_triton_imports_nothing_of_ours_and_nothing_of_ours_imports_it() -> None:
    assert not tops(ROOT / INSIDE_TRITON) & {"reid", "pipelines", "components"}
    assert those_that_import("reid.deploy.triton_model", "reid", "pipelines", "components") == []


def wing(module: str) -> str:
    """The folder, or the file, of `reid` that a module lies in; "" for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and _is_module(".".join(parts[:2])) else ""


def test_every_wing_stands_on_one_level() -> None:
    inside = {
        path.stem for path in (ROOT / "reid").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    listed = [name for level in LEVELS for name in level]
    assert sorted(listed) == sorted(inside - {"__init__"})


@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_a_wing_imports_only_wings_on_the_levels_below_it(level: int) -> None:
    below = {"", *(name for lower in LEVELS[:level] for name in lower)}
    for name in LEVELS[level]:
        for file in sources(f"reid/{name}" if (ROOT / "reid" / name).is_dir() else f"reid/{name}.py"):
            reached = {wing(module) for module in imports(file) if module.split(".")[0] == "reid"}
            assert reached <= {*below, name}, file


def test_the_drawn_data_set_has_one_door() -> None:
    rooms = {f"reid.drawn.{path.stem}" for path in (ROOT / "reid" / "drawn").glob("[a-z]*.py")} - {"reid.drawn.dataset"}
    for room in rooms:
        assert [file for file in those_that_import(room, "reid") if not file.startswith("reid/drawn/")] == []


def test_image_files_are_read_at_one_place() -> None:
    readers = [file for file in sources("reid", "pipelines", "components") if "Image.open(" in file.read_text()]
    assert named(readers) == ["reid/data/image_file.py"]


def test_a_wing_of_the_runner_does_not_look_into_the_other() -> None:
    assert those_that_import("pipelines.cluster", "pipelines/local") == []
    assert those_that_import("pipelines.local", "pipelines/cluster") == []
    for door in ("pipelines.run", "pipelines.reid_pipeline"):
        assert those_that_import(door, "pipelines/local") == []


def test_the_maths_knows_no_files_no_spec_and_no_stage() -> None:
    for module in ("reid.spec", "reid.stages", "reid.tracking", "reid.data", "reid.files", "pathlib", "mlflow"):
        assert those_that_import(module, *MATHS) == []
    assert those_that_import("logging", "reid/training/losses.py", "reid/training/schedule.py") == []
    with_torch = those_that_import("torch", "reid/retrieval")
    assert [file for file in with_torch if not file.startswith("reid/retrieval/tensors/")] == [
        "reid/retrieval/on_device.py"
    ]
    for module in ("reid.retrieval.tensors", "torch"):  # the CPU's own never reach them
        assert those_that_import(module, "reid/retrieval/rerank.py", "reid/retrieval/metrics.py") == []


def test_the_spec_is_read_at_a_stages_top_and_nowhere_below() -> None:
    allowed = re.compile(
        r"reid/(cli|stages|spec)/.*|reid/library\.py|reid/training/(fitting|images|recipe|refusals)\.py"
    )
    assert [file for file in those_that_import("reid.spec", "reid") if not allowed.fullmatch(file)] == []
    assert [file for file in those_that_import("reid.stages", "reid") if not allowed.fullmatch(file)] == []


def cpu_seconds(*command: str) -> float:
    """CPU time of a command and all it starts, user and system; the better of two, for a busy machine."""
    taken = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def test_help_costs_less_than_half_a_second_of_cpu() -> None:
    assert cpu_seconds(sys.executable, "-m", "reid", "--help") < 0.5
    assert cpu_seconds("make", "help") < 0.5


@pytest.mark.parametrize("module", ["reid.cli.commands", "reid.stages.validate", "pipelines.run", "components.entry"])
def test_what_answers_at_once_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
