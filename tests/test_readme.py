"""The README is true: each command, option, spec field, variable, file and word in code marks is there in the code."""

import argparse
import functools
import itertools
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.run import spec_path
from reid.cli.commands import TASKS, _parsed, _parser
from reid.spec import Experiment, load_spec
from tests.bench.__main__ import PARTS

ROOT = Path(__file__).resolve().parents[1]
README, CLUSTER_README = ROOT / "README.md", ROOT / "k8s" / "README.md"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PLACES = ("reid", "pipelines", "components", "k8s", "tests")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"([a-z]\w*(?:\.(?!json)[a-z]\w*)+)(=.*)?")
VARIABLE = re.compile(r"([A-Z][A-Z_]+)(=.*)?")
NOT_A_CLI_TASK = "register"
"""A stage of the pipeline only, as the table of tasks says."""


def prose(file: Path) -> str:
    return BLOCK.sub("", file.read_text(encoding="utf-8"))


def commands(text: str) -> list[str]:
    """The lines of the shell blocks, continued ones joined; a command may stand in a comment after "or:"."""
    found: list[str] = []
    for _, block in [match for match in BLOCK.findall(text) if match[0] == "bash"]:
        for line in block.replace("\\\n", " ").splitlines():
            command, _, alternative = line.partition("# or:")
            found += [part.strip() for part in (command.partition(" # ")[0], alternative) if part.strip()]
    return found


def inline(file: Path) -> list[str]:
    return sorted({" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(file))})


@functools.cache
def sources() -> dict[Path, str]:
    """Every file of the project that is code, this one aside."""
    files = [file for place in PLACES for file in (ROOT / place).rglob("*") if file != Path(__file__)]
    files += [ROOT / "Makefile", ROOT / ".ci" / "run", ROOT / "pyproject.toml", ROOT / "requirements.in"]
    wanted = {".py", ".yaml", ".sh", ".toml", ".in", ""}
    return {file: file.read_text(encoding="utf-8") for file in files if file.is_file() and file.suffix in wanted}


def stands_in_the_code(word: str) -> bool:
    whole = re.compile(rf"(?<![\w-]){re.escape(word)}(?!\w)")
    return any(whole.search(text) for text in sources().values())


def is_read(variable: str) -> bool:
    """By make or a shell, or by name in a Python file that reads the environment."""
    if re.search(rf"\$[({{]{variable}\b", MAKEFILE):
        return True
    return any(
        f'"{variable}"' in text and "environ" in text for file, text in sources().items() if file.suffix == ".py"
    )


def parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command of `reid` with its parser, e.g. "train", "dataset synth"."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                deeper = list(parsers(below))
                yield from [(f"{name} {more}", last) for more, last in deeper] or [(name, below)]


COMMANDS = dict(parsers(_parser()))
OPTIONS = {option for parser in COMMANDS.values() for action in parser._actions for option in action.option_strings}


def check_make(words: list[str]) -> None:
    """`make TARGET VARIABLE=value …`, variables before it too, as a shell takes them."""
    variables = dict(word.split("=", 1) for word in words if VARIABLE.fullmatch(word) and "=" in word)
    (target,) = [word for word in words if word != "make" and word.partition("=")[0] not in variables]
    assert target in re.search(r"^\.PHONY: (.*)", MAKEFILE, re.MULTILINE)[1].split(), f"make {target}"
    assert re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE), f"make {target} does not stand in make help"
    for variable in variables:
        assert is_read(variable), variable
    given = variables.get("ARGS", "").split()
    if target == "bench":
        assert set(given) <= set(PARTS)
    elif target in ("pipeline-run", "compile"):
        load_spec(spec_path(variables.get("SPEC", "demo")), overrides=given)
    else:
        assert given == []


def check_reid(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line parses, for each task where it says TASK; a command alone (`reid inference`) is only named."""
    monkeypatch.setattr(argparse.ArgumentParser, "exit", lambda self, status=0, message="": pytest.fail(message))
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
    assert not words or (ROOT / words[1].replace(".", "/")).with_suffix(".py").is_file()


def field_exists(name: str) -> bool:
    """Whether the spec has this section or field."""
    section = Experiment
    for part in name.split("."):
        fields = getattr(section, "model_fields", {})
        if part not in fields:
            return False
        section = fields[part].annotation
    return True


@pytest.mark.parametrize("file", [README, CLUSTER_README], ids=["README", "k8s"])
def test_every_command_in_a_block_is_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [shlex.split(command) for command in commands(file.read_text(encoding="utf-8"))]
    assert len(found) > 5
    for words in found:
        program = next(word for word in words if "=" not in word)
        if program == "make":
            check_make(words)
        elif program == "reid":
            check_reid(words, monkeypatch)
        else:
            assert file == CLUSTER_README and program in {"kind", "kubectl", "sh"}, words


@pytest.mark.parametrize("span", inline(README))
def test_every_word_in_code_marks_stands_for_something(span: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, rest = span.partition(" ")
    field, variable = FIELD.fullmatch(span), VARIABLE.fullmatch(span)
    if first == "make" and rest:
        check_make(shlex.split(span))
    elif first == "reid" and rest:
        check_reid(shlex.split(re.sub(r"\[(\S+) …\]", r"\1", span)), monkeypatch)
    elif ".venv/bin/" in span:
        check_installed(*shlex.split(span.partition(".venv/bin/")[2]))
    elif field and field[1].split(".")[0] in Experiment.model_fields:
        assert field_exists(field[1])
        load_spec(overrides=[span] if field[2] else [])
    elif variable:
        assert is_read(variable[1])
    elif re.match("--?[a-z]", span):
        assert first in OPTIONS or stands_in_the_code(first)
    elif not (ROOT / span).exists() and not any(
        span.rstrip("/") in (file.name, file.parent.name) for file in sources()
    ):
        for word in re.findall(r"[A-Za-z.@/][\w./-]{2,}", re.sub(r"--\S+", "", span)):
            assert stands_in_the_code(word.rstrip(".")), word


def test_the_table_of_tasks_has_every_command_and_no_other() -> None:
    table = prose(README).split("| task |", 1)[1].split("\n\n", 1)[0]
    rows = [re.findall("`([^`]+)`", line.split("|")[1]) for line in table.splitlines()[2:]]
    assert sorted(itertools.chain(*rows)) == sorted({*COMMANDS, NOT_A_CLI_TASK} - {"spec"})


@pytest.mark.parametrize("file", [README, CLUSTER_README], ids=["README", "k8s"])
def test_every_link_and_picture_leads_somewhere(file: Path) -> None:
    text = prose(file)
    headings = {"#" + title.lower().replace(" ", "-") for title in re.findall("^#+ (.*)", text, re.MULTILINE)}
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert link.startswith("https://") or link in headings or (file.parent / link).exists(), link


@pytest.mark.parametrize("file", [README, CLUSTER_README], ids=["README", "k8s"])
def test_nothing_is_said_twice(file: Path) -> None:
    pieces = [" ".join(piece.split()) for piece in re.split(r"\n\n+|\n- |\. (?=[A-Z`])", prose(file))]
    assert [piece for piece, times in Counter(pieces).items() if times > 1 and piece] == []


def test_ci_runs_the_test_commands_of_the_readme() -> None:
    named = commands(README.read_text(encoding="utf-8").split("## Tests", 1)[1].split("\n## ", 1)[0])
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [line for line in run.splitlines() if line.startswith("make ")] == named
    packages = re.findall(r"(?:\w:|\+=\()([a-z][\w.-]+)", run)
    assert len(packages) > 5
    for package in packages:
        assert re.search(rf"(?<![\w-]){re.escape(package)}(?![\w-])", prose(README)), package


def test_the_fast_and_the_slow_tests_are_all_tests() -> None:
    chosen = re.findall(r"^(test\S*): \$.*\n.* pytest -q(?: -m (\S+|\"not slow\"))? -n 2 .*", MAKEFILE, re.MULTILINE)
    assert chosen == [("test", '"not slow"'), ("test-slow", "slow"), ("test-all", "")]
