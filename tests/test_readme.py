"""README.md, docs/ and k8s/README.md are true.

Each command, option, spec field, variable, file and word in code marks is there in the code, each link leads somewhere,
and the README's Python lines run.
"""

import itertools
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import reid
from pipelines.cluster.cluster_file import read_cluster
from pipelines.cluster.resources import Resources
from pipelines.summary import FIGURES, RANKINGS, retrieval_table
from reid.contract import Contract
from reid.deploy.pixel_port import PixelPort
from reid.errors import SpecError
from reid.model.checkpoint import save_model
from reid.spec import Experiment, load_spec
from tests.documents import CONTRIBUTING, FILES, PAGES, README, ROOT, anchors, blocks, commands, inline, prose
from tests.drawn_persons import write_persons
from tests.exporting import prepared_inside, some_network
from tests.named_things import (
    COMMANDS,
    MAKEFILE,
    OPTIONS,
    VARIABLE,
    check_installed,
    check_make,
    check_reid,
    field_exists,
    is_constant,
    is_file,
    is_read,
    sources,
    stands_in_the_code,
)
from tests.small_market import write_image

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
WITH_CLUSTER_TOOLS = ROOT / "docs" / "kubernetes.md"
FOREIGN = {"trtexec": ROOT / "docs" / "deployment.md", "torchrun": ROOT / "docs" / "training.md"}
"""Programs that are not of this project, and the one page that names each in a block of commands."""
README_KB = 12
FIELD = re.compile(r"([a-z]\w*(?:\.(?!json|yaml)[a-z]\w*)+)(=.*)?")
OTHERS_WORDS = {"CreateContainerConfigError"}
"""What other programs say: Kubernetes of a pod whose secret is missing."""
NOT_A_CLI_TASK = "register"
"""A stage of the pipeline only, as the table of tasks says."""


@each_file
def test_every_command_in_a_block_is_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in map(shlex.split, commands(file.read_text(encoding="utf-8"))):
        program = next(word for word in words if "=" not in word)
        if program == "make":
            check_make(words)
        elif program == "reid":
            check_reid(words, monkeypatch)
        elif program.startswith(".venv/bin/"):
            check_installed(program.removeprefix(".venv/bin/"), *words[1:])
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
    elif span.startswith("reid."):
        assert span.removeprefix("reid.") in reid.__all__ or stands_in_the_code(span)
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


@pytest.fixture
def after_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders that the demo leaves, with fewer persons and a checkpoint of random weights."""
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    write_persons(tmp_path / "data" / "demo", train=1, test=4)
    checkpoint = tmp_path / "results" / "demo" / "latest" / "train" / "model" / "reid_model_best.pth"
    checkpoint.parent.mkdir(parents=True)
    network = some_network()
    contract = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, embedding=16)
    save_model(checkpoint, network, contract=contract, persons=list(range(network.num_classes)))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("after_the_demo")
def test_the_readmes_six_lines_of_python_run_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    (lines,) = blocks(README, "python")
    assert len([line for line in lines.splitlines() if line]) == 6
    exec(lines, {})
    assert re.fullmatch(r"mAP \d+\.\d%, re-ranked \d+\.\d%\n", capsys.readouterr().out)


@pytest.mark.usefixtures("after_the_demo")
def test_the_python_of_a_page_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    prepared_inside(Path("reid_model.onnx"), PixelPort())
    write_image(Path("person.jpg"))
    for file in PAGES:
        known: dict[str, object] = {}
        for lines in blocks(file, "python"):
            exec(lines, known)
            assert capsys.readouterr().out


def test_the_readmes_figures_stand_in_the_table_that_a_run_ends_with() -> None:
    shown = next(block for block in blocks(README, "") if block.startswith("retrieval, %")).split("\n\n")[0]
    metrics, rows = {}, shown.splitlines()[2:]
    for line, below in zip(rows[::2], rows[1::2], strict=True):
        name, *percents = re.split(r"\s{2,}", line)
        for metric, value in zip(FIGURES.values(), percents, strict=True):
            metrics[f"{RANKINGS[name]}{metric}"] = float(value) / 100
        for metric, interval in zip(("mAP", "rank1"), below.split(), strict=True):
            low, high = interval.split("\u2013")
            metrics |= {f"{RANKINGS[name]}{metric}_low": float(low) / 100}
            metrics |= {f"{RANKINGS[name]}{metric}_high": float(high) / 100}
    console = Console(width=80, force_terminal=False)
    with console.capture() as captured:
        console.print(retrieval_table(metrics))
    assert [line.rstrip() for line in captured.get().splitlines()] == shown.splitlines()


CLUSTER_PAGE = ROOT / "docs" / "cluster.md"
"""Its YAML is a cluster's file, not a spec."""


@pytest.mark.parametrize("block", [block for file in FILES if file != CLUSTER_PAGE for block in blocks(file, "yaml")])
def test_a_spec_that_is_shown_loads(block: str, caplog: pytest.LogCaptureFixture) -> None:
    load_spec(text=block)
    assert caplog.messages == []


def test_the_cluster_file_that_is_shown_is_read_and_the_table_of_memory_is_what_a_pipeline_asks_for(
    tmp_path: Path,
) -> None:
    (shown,) = blocks(CLUSTER_PAGE, "yaml")
    (tmp_path / "cluster.yaml").write_text(shown)
    assert read_cluster(tmp_path / "cluster.yaml")["retries"] == 5
    asked = Resources()
    rows = re.findall(r"^\| (`.*?) \| (\d+) GB.*? \| (\d+) GB.*? \|", CLUSTER_PAGE.read_text(), re.MULTILINE)
    table = {stage: (f"{row[1]}G", f"{row[2]}G") for row in rows for stage in re.findall("`(.*?)`", row[0])}
    assert len(table) >= 7
    assert table == {stage: (asked.booked(stage), asked.limit(stage)) for stage in table}


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
