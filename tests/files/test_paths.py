"""`~` in paths of the spec and of the command line."""

from pathlib import Path

import pytest

from reid.cli.commands import main
from reid.files.paths import expanded, given_path
from reid.spec import load_spec
from reid.spec.facts import Reads, Writes
from reid.spec.fields import fields_of, value_of


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_home_folder_is_put_in_place_of_the_tilde(home: Path) -> None:
    assert given_path("~/a") == home / "a"
    assert expanded("~root") == "/root"
    for text in ("a/~b", "/a", "~nobody-of-that-name/a", ""):
        assert expanded(text) == text


def test_every_path_of_the_spec_is_expanded(home: Path) -> None:
    paths = [
        name for name, field in fields_of().items()
        if (field.fact(Reads) or field.fact(Writes)) and not name.startswith(("dataset.synthetic.", "dataset.source."))
    ]  # fmt: skip
    assert len(paths) > 20
    kinds = {name: value_of(load_spec(text=""), name) for name in paths}
    texts = [name for name in paths if not isinstance(kinds[name], list)]
    values = {name: load_spec(text="", overrides=[f"{name}=~/x.png"], warn=False) for name in texts if _is_free(name)}
    assert {name for name, spec in values.items() if value_of(spec, name) != f"{home}/x.png"} == set()


def _is_free(name: str) -> bool:
    """Whether the field may stand in a spec without another one."""
    return not name.startswith("dataset.") or name.endswith("_dataset_dir")


def test_paths_in_lists_are_expanded(home: Path) -> None:
    spec = load_spec(text="dataset: {train_sets: [{name: a, root: ~/a}]}")
    assert [entry.root for entry in spec.dataset.train_sets] == [f"{home}/a"]


def test_a_spec_in_the_home_folder_is_found_and_a_missing_one_told_by_its_whole_path(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "spec.yaml").write_text("train: {num_epochs: 3}")
    assert load_spec("~/spec.yaml").train.num_epochs == 3
    monkeypatch.chdir(home)
    assert main(["spec", "--check", "no.yaml"]) == 2
    assert capsys.readouterr().err == f"error: {home}/no.yaml: no such spec file\n"


def test_variables_of_the_environment_may_stand_in_a_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKET", "/data/market")
    monkeypatch.delenv("RESULTS", raising=False)
    spec = load_spec(
        text="results_dir: ${oc.env:RESULTS,/results/mine}\ndataset: {query_dataset_dir: '${oc.env:MARKET}/query'}"
    )
    assert (spec.results_dir, spec.dataset.query_dataset_dir) == ("/results/mine", "/data/market/query")
