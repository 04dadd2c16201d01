"""`import reid`: four functions by name, none of them loaded before its first use."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import reid
from reid import library, spec

INIT = Path(reid.__file__)


def test_the_front_door_offers_the_library_s_functions() -> None:
    assert reid.__all__ == ["embed", "load_spec", "open_model", "score"]
    assert {*reid.__all__, "__version__"} <= {*dir(reid)}
    assert (reid.load_spec, reid.open_model) == (spec.load_spec, library.open_model)
    assert (reid.embed, reid.score) == (library.embed, library.score)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError) as caught:
        reid.embedd  # noqa: B018 - the access is what is tested
    assert str(caught.value) == "module 'reid' has no attribute 'embedd'"


def test_importing_reid_loads_no_other_module_of_it() -> None:
    program = "import sys, reid; dir(reid); print([name for name in sys.modules if name.startswith('reid.')])"
    done = subprocess.run([sys.executable, "-c", program], cwd=INIT.parents[1], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


def test_type_checkers_are_told_of_every_function_where_it_really_is() -> None:
    block = next(node for node in ast.parse(INIT.read_text()).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    told = {alias.name: node.module for node in imports for alias in node.names}
    assert told == {name: f"reid.{module}" for name, module in reid._MODULES.items()}
