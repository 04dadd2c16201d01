"""What reid calls of TensorRT exists in every TensorRT that it may meet.

tensorrt_api.json has the public names of classes in the bindings of TensorRT 10.16, 11.4 and TensorRT-RTX 1.7, one
string of names a class; read from the wheels themselves (dir() of each class, __members__ of each enumeration).
"""

import ast
import json
from collections import defaultdict
from pathlib import Path

import pytest

import reid
from tests.on_cpu import tensorrt as of_the_tests

DEPLOY = Path(reid.__file__).parent / "deploy"
FILES = ("tensorrt.py", "tensorrt_packages.py", "engine.py")
VARIABLES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "shapes": "IOptimizationProfile",
    "engine": "ICudaEngine",
    "_runtime": "Runtime",
    "_context": "IExecutionContext",
}
"""Name of a variable, or of an attribute, that holds an object of TensorRT -> its class."""
RTX_ALONE = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"}
PYTHONS = {"stat", "with_name", "suffix"}
"""Attributes of paths, which have the name of an engine elsewhere in these files."""


def recorded() -> dict[str, dict[str, set[str]]]:
    """Package -> class -> its public names."""
    found = json.loads((Path(__file__).parent / "tensorrt_api.json").read_text())
    return {name: {kind: set(names.split()) for kind, names in api.items()} for name, api in found.items()}


def used() -> dict[str, set[str]]:
    """Class of TensorRT -> the names that reid uses of it, read from the source; "" -> the classes."""
    names: dict[str, set[str]] = defaultdict(set)
    for file in FILES:
        for node in ast.walk(ast.parse((DEPLOY / file).read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute):
                continue
            held, name = node.value, _last_name(node.value)
            if name == "trt" and not node.attr.startswith("__"):
                names[""].add(node.attr)
            elif isinstance(held, ast.Attribute) and _last_name(held.value) == "trt":
                names[held.attr].add(node.attr)
            elif name in VARIABLES and node.attr not in PYTHONS:
                names[VARIABLES[name]].add(node.attr)
    return {kind: {name for name in found if not name.startswith("__")} for kind, found in names.items()}


def _last_name(node: ast.expr) -> str:
    """The last name of a dotted expression."""
    return str(getattr(node, "attr", getattr(node, "id", "")))


@pytest.mark.parametrize("package", ["tensorrt 10", "tensorrt 11", "tensorrt_rtx"])
def test_every_name_that_is_used_is_in_the_real_bindings(package):
    api, calls = recorded()[package], used()
    assert {"create_network", "build_serialized_network"} <= calls["Builder"]  # the source is read as it is written
    assert {"set_input_shape", "set_tensor_address", "execute_async_v3"} <= calls["IExecutionContext"]
    exempt = set() if package == "tensorrt_rtx" else RTX_ALONE
    assert calls.pop("") - exempt <= api.keys()
    missing = {kind: found - exempt - api[kind] for kind, found in calls.items() if kind not in exempt}
    assert {kind: names for kind, names in missing.items() if names} == {}


def test_what_stands_in_for_tensorrt_has_no_name_that_the_real_one_lacks():
    real = recorded()["tensorrt 11"]
    names = {"Shapes": "IOptimizationProfile", "TimingCache": "ITimingCache", "Config": "IBuilderConfig",
             "Engine": "ICudaEngine", "Context": "IExecutionContext"}  # fmt: skip
    kinds = [kind for kind in vars(of_the_tests).values() if getattr(kind, "__module__", "") == of_the_tests.__name__]
    checked = 0
    for kind in kinds:
        if (name := names.get(kind.__name__, kind.__name__)) in real:
            assert {entry for entry in getattr(kind, "__members__", dir(kind)) if entry[0] != "_"} <= real[name]
            checked += 1
    assert checked >= 10


def test_the_table_of_the_documentation_is_what_the_bindings_say():
    api = recorded()
    in_half = {package: {"FP16", "INT8"} <= names["BuilderFlag"] for package, names in api.items()}
    assert in_half == {"tensorrt 10": True, "tensorrt 11": False, "tensorrt_rtx": False}
    calibrated = {package: "IInt8Calibrator" in names for package, names in api.items()}
    assert calibrated == in_half
    assert all("STRONGLY_TYPED" in names["NetworkDefinitionCreationFlag"] for names in api.values())


def test_every_name_that_is_used_is_in_the_tensorrt_rtx_that_is_installed_which_the_record_describes():
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="THE RECORD IS NOT CHECKED: no TensorRT-RTX wheels")
    names = recorded()["tensorrt_rtx"]
    same = names.pop("version") == {trt.__version__}
    for kind, recorded_names in names.items():
        found = getattr(trt, kind)
        public = {name for name in getattr(found, "__members__", dir(found)) if name[0] != "_"}
        assert used().get(kind, set()) <= public
        assert public == recorded_names or not same  # a later wheel may have more
