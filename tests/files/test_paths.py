"""`~` in paths of the spec and of the command line."""

from pathlib import Path

import pytest

from reid.cli.commands import _parser, main
from reid.errors import SpecError
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
    for text in ("a/~b", "/a", "./~nobody-here/a", ""):
        assert expanded(text) == text


WANTED = "the home folder of a user whom this machine knows; or ./~nobody-here for that name itself"


def test_an_unknown_user_is_an_error_that_names_the_field_or_the_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SpecError) as error:
        load_spec(text="results_dir: ~nobody-here/a")
    assert str(error.value) == f"spec: results_dir: found '~nobody-here/a' (str); want: {WANTED}"
    for command in (
        ["train", "-e", "~nobody-here/a"],
        ["dataset", "synth", "~nobody-here/a"],
        ["match", "~nobody-here/a", "b.jpg", "--model", "m.pth"],
        ["search", "a.jpg", "--gallery", "~nobody-here/a", "--model", "m.pth"],
        ["bundle", "--for", "boxmot", "--model", "~nobody-here/a", "--output", "b"],
    ):
        assert main(command) == 2
        assert capsys.readouterr().err == f"error: ~nobody-here/a: no such home folder\n  want: {WANTED}\n"


def test_every_path_of_the_spec_is_expanded(home: Path) -> None:
    apart = ("dataset.synthetic.", "dataset.source.")
    paths = [name for name, field in fields_of().items() if field.fact(Reads) or field.fact(Writes)]
    paths = [name for name in paths if not name.startswith(apart)]
    assert len(paths) > 20
    kinds = {name: value_of(load_spec(text=""), name) for name in paths}
    texts = [name for name in paths if not isinstance(kinds[name], list)]
    values = {
        name: load_spec(text="", overrides=[f"{name}=~/{_file(name)}"], warn=False) for name in texts if _is_free(name)
    }
    assert {name for name, spec in values.items() if value_of(spec, name) != f"{home}/{_file(name)}"} == set()


def _file(name: str) -> str:
    return "x.json" if name == "inference.output_file" else "x.png"


def _is_free(name: str) -> bool:
    """Whether the field may stand in a spec without another one."""
    return not name.startswith("dataset.") or name.endswith("_dataset_dir")


def test_paths_in_lists_and_of_data_sets_that_are_made_are_expanded(home: Path) -> None:
    spec = load_spec(text="dataset: {train_sets: [{name: a, root: ~/a}]}")
    assert [entry.root for entry in spec.dataset.train_sets] == [f"{home}/a"]
    spec = load_spec(text="gen_trt_engine: {tensorrt: {calibration: {cal_image_dir: [~/a]}}}", warn=False)
    assert spec.gen_trt_engine.tensorrt.calibration.cal_image_dir == [f"{home}/a"]
    drawn = load_spec(text="dataset: {synthetic: {root: ~/a}}").dataset
    assert (drawn.synthetic and drawn.synthetic.root, drawn.query_dataset_dir) == (f"{home}/a", f"{home}/a/query")
    fetched = load_spec(text="dataset: {source: {root: ~/a, zip: ~/a.zip}}").dataset.source
    assert fetched and (fetched.root, fetched.zip) == (f"{home}/a", f"{home}/a.zip")


def test_every_argument_that_is_a_path_is_expanded(home: Path) -> None:
    parser = _parser()
    commands = {
        "adopt ~/a -e s --output ~/a": ("file", "output"),
        "bundle --for boxmot --model ~/a --output ~/a": ("model", "output"),
        "client ~/a --test_dir ~/a -m m --contract ~/a --output_path ~/a": (
            "query", "test_dir", "contract", "output_path"
        ),
        "match a b --model ~/a": ("model",),
        "search a --gallery ~/a --model ~/a --output ~/a --sheet ~/a --save-gallery ~/a": (
            "gallery", "model", "output", "sheet", "save_gallery"
        ),
        "dataset synth ~/a": ("root",),
        "dataset sheet ~/a ~/a": ("root", "output"),
        "dataset convert --layout msmt17 ~/a ~/a": ("root", "output"),
    }  # fmt: skip
    for command, names in commands.items():
        options = parser.parse_args(command.split())
        assert {name: getattr(options, name) for name in names} == dict.fromkeys(names, home / "a"), command


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
