"""The command behind `make pipeline-run`: what it answers before anything heavy is loaded."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipelines import ir
from pipelines.options import SPECS, spec_path
from pipelines.run import main
from reid.data.market_folders import HOW_TO_GET
from reid.errors import SpecError

ROOT = Path(__file__).resolve().parents[2]


def test_a_spec_is_a_path_or_a_name(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("")
    assert spec_path(str(mine)) == mine
    assert spec_path("demo") == spec_path("demo.yaml") == SPECS / "demo.yaml"
    with pytest.raises(SpecError) as caught:
        spec_path("dmeo")
    names = ", ".join(sorted(path.stem for path in SPECS.glob("*.yaml")))
    assert str(caught.value) == (
        f"dmeo: no such spec file\n  want: a path, or one of {names} (in {Path('pipelines') / 'specs'})"
    )


def test_a_missing_data_set_is_reported_at_once_and_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys; from pipelines.run import main; status = main(['--spec', 'market',"
        " 'dataset.query_dataset_dir=/no/such/query', 'dataset.train_dataset_dir=pipelines',"
        " 'dataset.test_dataset_dir=pipelines']);"
        "print(sorted({'torch', 'mlflow', 'kfp', 'numpy'} & set(sys.modules))); sys.exit(status)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert time.monotonic() - started < 5
    assert done.returncode == 2
    assert done.stderr == (
        "error: the data set is not there: 1 of 3 folders missing\n"
        f"  query: no such folder: /no/such/query (dataset.query_dataset_dir)\n{HOW_TO_GET}\n"
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train.num_epochs=x"], "command line: train.num_epochs: found 'x' (str); want: a whole number"),
        (
            ["train.num_epochs=2", "--runner", "kfp", "train.seed=1"],
            "KFP_ENDPOINT: found ''\n  want: the address of Kubeflow Pipelines, https://…",
        ),
    ],
)
def test_a_mistake_is_reported_without_a_traceback(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--spec", "demo", *arguments]) == 2
    assert capsys.readouterr().err == f"error: {text}\n"


def test_containers_without_docker_are_refused_and_auto_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["--spec", "demo", "--runner", "docker", f"results_dir={tmp_path}/results"]) == 2
    assert capsys.readouterr().err == (
        "error: RUNNER=docker: no `docker` command here\n  want: Docker on PATH; RUNNER=process needs no containers\n"
    )
    (tmp_path / "file").write_text("")
    assert main(["--spec", "demo", f"results_dir={tmp_path}/file"]) == 2
    assert "cannot be written" in capsys.readouterr().err  # it got as far as the results folder, with no docker


def test_a_results_folder_that_cannot_be_made_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--spec", "demo", f"results_dir={tmp_path}/file"]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/file/pipeline: the results folder cannot be written\n"
        "  found: Not a directory\n"
        "  want:  a folder on a local disk that can; set results_dir\n"
    )


def test_help_says_how_to_free_room(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "to free room, or to force a stage to run again, delete\npipeline/STAGE" in capsys.readouterr().out


@pytest.mark.parametrize(("asked", "gpus"), [([], 0), (["train.num_gpus=2"], 2)])
def test_the_compiled_spec_is_the_default_of_the_form_and_gpus_are_booked_when_asked_for(
    asked: list[str], gpus: int, tmp_path: Path
) -> None:
    target = tmp_path / "pipeline.yaml"
    assert main(["--spec", "demo", "--compile-only", str(target), "train.num_epochs=7", *asked]) == 0
    pipeline = ir.load(target)
    assert yaml.safe_load(str(pipeline.defaults["spec"]))["train"]["num_epochs"] == 7
    assert {task.stage: task.gpus for task in pipeline.tasks if task.gpus} == (
        {"train": gpus, "gen_trt_engine": 1} if gpus else {}
    )


def test_two_that_compile_into_one_file_at_once_do_not_tear_each_other(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines", "--spec", "demo", "--compile-only", str(tmp_path / "pipeline.yaml")]
    both = [subprocess.Popen([*command, f"train.num_epochs={epochs}"], cwd=ROOT) for epochs in (7, 8)]
    assert [process.wait() for process in both] == [0, 0]
    spec = yaml.safe_load(str(ir.load(tmp_path / "pipeline.yaml").defaults["spec"]))
    assert spec["train"]["num_epochs"] in {7, 8}
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline.yaml"]
