"""README.md, docs/ and k8s/README.md are true.

Each command, option, spec field, variable, file and word in code marks is there in the code, each link leads somewhere,
and the README's Python lines run.
"""

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
import yaml

from pipelines.options import spec_path
from reid.cli.commands import TASKS, _parsed, _parser
from reid.contract import Contract
from reid.errors import SpecError
from reid.model.checkpoint import save_model
from reid.spec import Experiment, load_spec
from reid.spec.loading import all_fields
from tests.bench.__main__ import PARTS
from tests.drawn_persons import write_persons
from tests.exporting import some_network

ROOT = Path(__file__).resolve().parents[1]
README, CONTRIBUTING = ROOT / "README.md", ROOT / "docs" / "CONTRIBUTING.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
FILES = [README, *PAGES, ROOT / "k8s" / "README.md"]
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
WITH_CLUSTER_TOOLS = ROOT / "docs" / "kubernetes.md"
FOREIGN = {"trtexec": ROOT / "docs" / "deployment.md"}
"""Programs that are not of this project, and the one page that names each in a block of commands."""
README_KB = 12
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PLACES = ("reid", "pipelines", "components", "k8s", "tests")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"([a-z]\w*(?:\.(?!json|yaml)[a-z]\w*)+)(=.*)?")
VARIABLE = re.compile(r"([A-Z][A-Z_]+)(=.*)?")
OTHERS_WORDS = {"CreateContainerConfigError"}
"""What other programs say: Kubernetes of a pod whose secret is missing."""
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


@functools.cache
def code() -> str:
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
    if (ROOT / name).exists() or any(pattern in {file.name, file.parent.name} for file in sources()):
        return True
    if "*" in pattern and any(ROOT.glob(pattern)):
        return True
    return "." in pattern and any(any((ROOT / place).rglob(pattern)) for place in PLACES)


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
        load_spec(spec_path(variables.get("SPEC", "demo")), overrides=given)
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
    assert not words or (ROOT / words[1].replace(".", "/")).with_suffix(".py").is_file()


def field_exists(name: str) -> bool:
    """Whether the spec has this section or field."""
    return any(field == name or field.startswith(f"{name}.") for field in all_fields())


@each_file
def test_every_command_in_a_block_is_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in map(shlex.split, commands(file.read_text(encoding="utf-8"))):
        program = next(word for word in words if "=" not in word)
        if program == "make":
            check_make(words)
        elif program == "reid":
            check_reid(words, monkeypatch)
        elif file == WITH_CLUSTER_TOOLS:
            assert program in {"kind", "kubectl", "sh"}, words
        else:
            assert FOREIGN.get(program) == file, words


def test_the_blocks_of_commands_are_found() -> None:
    assert sum(len(commands(file.read_text(encoding="utf-8"))) for file in FILES) > 50


@pytest.mark.parametrize("span", sorted({span for file in FILES for span in inline(file)}))
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
        assert is_read(variable[1]) or is_constant(variable[1])
    elif re.match("--?[a-z]", span):
        assert first in OPTIONS or stands_in_the_code(first)
    elif first != "kubectl" and not is_file(span):  # tests/k8s holds kubectl's pods, folders and namespaces
        for word in re.findall(r"[A-Za-z.@/][\w./-]{2,}", re.sub(r"--\S+", "", span)):
            assert word in OTHERS_WORDS or stands_in_the_code(word.rstrip("./")), word


def test_the_table_of_tasks_has_every_command_and_no_other() -> None:
    table = prose(README).split("| task |", 1)[1].split("\n\n", 1)[0]
    rows = [re.findall("`([^`]+)`", line.split("|")[1]) for line in table.splitlines()[2:]]
    assert sorted(itertools.chain(*rows)) == sorted({*COMMANDS, NOT_A_CLI_TASK} - {"spec"})


def anchors(file: Path) -> set[str]:
    """The headings of a page as both GitHub and the site name them in a link."""
    titles = re.findall("^#+ (.*)", BLOCK.sub("", file.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@each_file
def test_every_link_and_picture_leads_somewhere(file: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", prose(file)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = file.parent / name if name else file
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_site_has_every_page_and_the_home_page_and_the_readme_lead_to_it() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    names = sorted(page.name for page in PAGES)
    assert sorted(name for entry in site["nav"] for name in entry.values()) == names
    home = set(re.findall(r"\]\(([\w.]+\.md)", prose(ROOT / "docs" / "index.md")))
    assert sorted(home | {"index.md"}) == names
    readme = set(re.findall(r"\]\(docs/([\w.]+\.md)", prose(README)))
    assert sorted(readme | {"index.md"}) == names


def test_the_readme_is_a_door() -> None:
    assert README.stat().st_size <= README_KB * 1024


@each_file
def test_nothing_is_said_twice(file: Path) -> None:
    pieces = [" ".join(piece.split()) for piece in re.split(r"\n\n+|\n- |\. (?=[A-Z`])", prose(file))]
    assert [piece for piece, times in Counter(pieces).items() if times > 1 and len(piece) > 3] == []


def blocks(file: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(file.read_text(encoding="utf-8")) if kind == language]


def test_the_readmes_lines_of_python_run_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On drawn persons and a checkpoint of random weights, in the folders that the demo leaves."""
    (lines,) = blocks(README, "python")
    assert len(lines.splitlines()) <= 7
    write_persons(tmp_path / "data" / "demo", train=1, test=4)
    checkpoint = tmp_path / "results" / "demo" / "latest" / "train" / "model" / "reid_model_best.pth"
    checkpoint.parent.mkdir(parents=True)
    network = some_network()
    contract = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, embedding=16)
    save_model(checkpoint, network, contract=contract, persons=list(range(network.num_classes)))
    monkeypatch.chdir(tmp_path)
    exec(lines, {})
    assert re.fullmatch(r"mAP \d+\.\d%, re-ranked \d+\.\d%\n", capsys.readouterr().out)


@pytest.mark.parametrize("block", [block for file in FILES for block in blocks(file, "yaml")])
def test_a_spec_that_is_shown_loads(block: str, caplog: pytest.LogCaptureFixture) -> None:
    load_spec(text=block)
    assert caplog.messages == []


def test_a_mistake_is_answered_as_the_page_of_the_spec_shows(tmp_path: Path) -> None:
    (shown,) = blocks(ROOT / "docs" / "spec.md", "text")
    (tmp_path / "market.yaml").write_text("re_ranking: {lamda_value: 0.3}\n")
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "market.yaml")
    assert f"error: {caught.value}\n" == shown


def test_an_error_that_the_page_of_troubles_quotes_is_raised_somewhere() -> None:
    rows = prose(ROOT / "docs" / "troubleshooting.md").split("\n|---|---|\n", 1)[1].split("\n\n", 1)[0].splitlines()
    quoted = {words for row in rows for words in re.findall("`([^`]+)`", row.split("|")[1])} - OTHERS_WORDS
    ours = "\n".join(text for file, text in sources().items() if file.relative_to(ROOT).parts[0] != "tests")
    for words in quoted:
        assert [part for part in words.split("…") if part.strip(" ?") not in ours] == [], words


def test_ci_runs_the_test_commands_that_the_page_for_contributors_names() -> None:
    named = commands(CONTRIBUTING.read_text(encoding="utf-8").split("## Tests", 1)[1].split("\n## ", 1)[0])
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [line for line in run.splitlines() if line.startswith("make ")] == named
    packages = re.findall(r"(?:\w:|\+=\()([a-z][\w.-]+)", run)
    assert len(packages) > 5
    for package in packages:
        assert re.search(rf"(?<![\w-]){re.escape(package)}(?![\w-])", prose(CONTRIBUTING)), package


def test_the_fast_and_the_slow_tests_are_all_tests() -> None:
    chosen = re.findall(r"^(test\S*): \$.*\n.* pytest -q(?: -m (\S+|\"not slow\"))? -n 2 .*", MAKEFILE, re.MULTILINE)
    assert chosen == [("test", '"not slow"'), ("test-slow", "slow"), ("test-all", "")]
