"""Whether what a document names is there: a make target, a command of `reid`, a field, a variable, a file, a word."""

import argparse
import functools
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cluster.schedule import cron_of
from pipelines.options import parser as pipeline_parser
from pipelines.options import run_command_parser, spec_path
from reid.cli.commands import TASKS, _parsed, _parser
from reid.errors import SpecError
from reid.spec import load_spec
from reid.spec.explain import explain
from tests.bench.__main__ import PARTS
from tests.documents import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PLACES = ("reid", "pipelines", "components", "k8s", "tests")
VARIABLE = re.compile(r"([A-Z][A-Z_]+)(=.*)?")


@functools.cache
def sources() -> dict[Path, str]:
    """Every file of the project that is code, the tests of the documents aside."""
    files = [file for place in PLACES for file in (ROOT / place).rglob("*") if file.name != "test_readme.py"]
    files += [ROOT / "Makefile", ROOT / ".ci" / "run", ROOT / "pyproject.toml", ROOT / "requirements.in"]
    wanted = {".py", ".yaml", ".sh", ".toml", ".in", ""}
    return {file: file.read_text(encoding="utf-8") for file in files if file.is_file() and file.suffix in wanted}


@functools.cache
def code() -> str:
    """The text of all of them."""
    return "\n".join(sources().values())


def stands_in_the_code(word: str) -> bool:
    """The word as a whole, or each part of a path."""
    whole = re.compile(rf"(?<![\w-]){re.escape(word)}(?!\w)")
    if word in code() and whole.search(code()):
        return True
    parts = word.strip("/").split("/")
    return len(parts) > 1 and all(stands_in_the_code(part) for part in parts)


def is_read(variable: str) -> bool:
    """By make or a shell, or by name in a Python file that reads the environment."""
    if re.search(rf"\$[({{]{variable}\b", MAKEFILE):
        return True
    return any(
        f'"{variable}"' in text and "environ" in text for file, text in sources().items() if file.suffix == ".py"
    )


def is_constant(name: str) -> bool:
    """A Python file of ours assigns it at its top level."""
    return re.search(rf"^{name}(: .*)? = ", code(), re.MULTILINE) is not None


def is_file(name: str) -> bool:
    """A path from the root, or the end of one; NAME and … stand for anything."""
    pattern = re.sub("NAME|…", "*", name.strip("/"))
    if not name.startswith("/") and (ROOT / name).exists():
        return True
    if any(pattern in {file.name, file.parent.name} for file in sources()) or any(ROOT.glob(pattern)):
        return True
    return "." in pattern and any(any((ROOT / place).rglob(pattern)) for place in PLACES)


def field_exists(name: str) -> bool:
    """Whether the spec has this section or field."""
    try:
        return bool(explain(name, width=120))
    except SpecError:
        return False


def parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command of `reid` with its parser, e.g. "train", "dataset synth"."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                deeper = list(parsers(below))
                yield from [(f"{name} {more}", last) for more, last in deeper] or [(name, below)]


COMMANDS = dict(parsers(_parser()))
OPTIONS = {
    option
    for parser in [*COMMANDS.values(), pipeline_parser()]
    for action in parser._actions
    for option in action.option_strings
}


def check_make(words: list[str]) -> None:
    """`make TARGET VARIABLE=value …`, variables before it too, as a shell takes them."""
    variables = dict(word.split("=", 1) for word in words if VARIABLE.fullmatch(word) and "=" in word)
    if variables.get("SPEC") == "…":
        variables["SPEC"] = "demo"
    (target,) = [word for word in words if word != "make" and word.partition("=")[0] not in variables]
    assert target in re.search(r"^\.PHONY: (.*)", MAKEFILE, re.MULTILINE)[1].split(), f"make {target}"
    assert re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE), f"make {target} does not stand in make help"
    for variable in variables:
        assert is_read(variable), variable
    given = variables.get("ARGS", "").split()
    if target == "bench":
        assert set(given) <= set(PARTS)
    elif target in ("pipeline-run", "compile"):
        options = pipeline_parser().parse_intermixed_args(shlex.split(variables.get("ARGS", "")))
        load_spec(spec_path(variables.get("SPEC", "demo")), overrides=options.overrides)
        if options.every:
            cron_of(options.every)
    else:
        assert given == []


def check_reid(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line parses, for each task where it says TASK; a command alone (`reid inference`) is only named."""
    monkeypatch.setattr(argparse.ArgumentParser, "exit", lambda self, status=0, message="": pytest.fail(message))
    if words[-1] == "--help":
        assert words[1:-1] in ([], ["TASK"]) or " ".join(words[1:-1]) in COMMANDS
        return
    if " ".join(words[1:]) in COMMANDS:
        return
    for task in TASKS if "TASK" in words else [""]:
        options = _parsed([task if word == "TASK" else word for word in words[1:]])
        assert field_exists(getattr(options, "explain", None) or "train")


def check_installed(program: str, *words: str) -> None:
    """A program of the environment: ours, or Python with a module of ours."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert program in {*scripts, "python", "pip", "activate"}
    if program == "pip":
        assert words[0] == "install"
        return
    if words[:2] == ("-m", "pipelines"):
        run_command_parser(words[2]).parse_args(words[3:])
        return
    assert not words or (ROOT / words[1].replace(".", "/")).with_suffix(".py").is_file()
