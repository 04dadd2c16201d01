"""The command line: what it takes, what it prints where, and its exit status."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reid import __version__
from reid.cli import commands as cli
from reid.cli import tasks
from reid.spec import Experiment, load_spec
from reid.spec.dataset_sections import Synthetic
from reid.spec.fields import fields_of
from reid.stages.outcome import Outcome
from tests.small_market import FOLDERS, write_market

ROOT = Path(__file__).resolve().parents[2]

TAO_SWIN_SAMPLE = """
results_dir: "/path/to/experiment_results"
model:
  backbone: swin_tiny_patch4_window7_224
  last_stride: 1
  pretrain_choice: self
  pretrained_model_path: "/path/to/pretrained_model.pth"
  input_channels: 3
  input_width: 128
  input_height: 256
  neck: bnneck
  stride_size: [16, 16]
  feat_dim: 256
  reduce_feat_dim: True
  no_margin: True
  neck_feat: after
  metric_loss_type: triplet
  with_center_loss: False
  with_flip_feature: False
  label_smooth: False
  pretrain_hw_ratio: 2
dataset:
  train_dataset_dir: "/path/to/train_dataset_dir"
  test_dataset_dir: "/path/to/test_dataset_dir"
  query_dataset_dir: "/path/to/query_dataset_dir"
  num_classes: 751
  batch_size: 64
  val_batch_size: 128
  num_workers: 1
  pixel_mean: [0.5, 0.5, 0.5]
  pixel_std: [0.5, 0.5, 0.5]
  padding: 10
  prob: 0.5
  re_prob: 0.5
  sampler: softmax_triplet
  num_instances: 4
re_ranking: {re_ranking: True, k1: 20, k2: 6, lambda_value: 0.3}
train:
  optim:
    name: SGD
    lr_steps: [40, 70]
    gamma: 0.1
    bias_lr_factor: 2
    weight_decay: 0.0001
    weight_decay_bias: 0.0001
    warmup_factor: 0.01
    warmup_epochs: 20
    warmup_method: cosine
    base_lr: 0.0008
    momentum: 0.9
    center_loss_weight: 0.0005
    center_lr: 0.5
    triplet_loss_margin: 0.3
    large_fc_lr: False
  num_epochs: 120
  checkpoint_interval: 10
  validation_interval: 5
  seed: 1234
"""


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    """A spec of a tiny data set that validates."""
    market = write_market(tmp_path / "market")
    names = {"train": "train", "query": "query", "gallery": "test"}
    folders = [f"  {names[split]}_dataset_dir: {market}/{folder}" for split, folder in FOLDERS.items()]
    file = tmp_path / "small.yaml"
    file.write_text(
        "\n".join([f"results_dir: {tmp_path}/r", "dataset:", "  num_classes: 3", "  batch_size: 8", *folders]) + "\n"
    )
    return file


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Experiment], Outcome]], None]:
    """Puts a function in the place of the task train."""

    def put(function: Callable[[Experiment], Outcome]) -> None:
        monkeypatch.setitem(tasks.TASKS, "train", lambda task: function(task.spec))

    return put


def usage_error(*arguments: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


def test_the_command_has_every_task() -> None:
    assert list(cli.TASKS) == list(tasks.TASKS)


def test_a_task_that_is_done_ends_with_a_table_on_stdout_and_status_0(
    spec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["validate", "-e", str(spec_file)]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == "validate"
    assert "  train_images                6" in lines
    assert lines[-1] == f"results: {tmp_path}/r/validate"
    assert f"validate: the results will be in {tmp_path}/r/validate" in shown.err


@pytest.mark.parametrize("option", ["-e", "--experiment_spec", "--experiment_spec_file"])
def test_overrides_may_stand_before_and_after_the_spec(
    spec_file: Path, task: Callable[[Callable[[Experiment], Outcome]], None], option: str
) -> None:
    seen: list[Experiment] = []

    def train(spec: Experiment) -> Outcome:
        seen.append(spec)
        return Outcome()

    task(train)
    arguments = ["train", "train.seed=1", option, str(spec_file), "train.num_epochs=2", "train.optim.lr_steps=[4,7]"]
    assert cli.main(arguments) == 0
    assert (seen[0].train.seed, seen[0].train.num_epochs, seen[0].train.optim.lr_steps) == (1, 2, [4, 7])


def test_a_users_mistake_is_a_sentence_without_a_traceback_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "-e", f"{tmp_path}/no.yaml"]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/no.yaml: no such spec file\n"


def test_a_wrong_override_is_named(spec_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "-e", str(spec_file), "train.num_epochs=many"]) == 2
    assert capsys.readouterr().err == (
        "error: command line: train.num_epochs: found 'many' (str); want: a whole number\n"
    )


def test_a_bug_has_its_traceback_and_status_1(
    spec_file: Path,
    tmp_path: Path,
    task: Callable[[Callable[[Experiment], Outcome]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train(_spec: Experiment) -> Outcome:
        raise ZeroDivisionError("of ours")

    task(train)
    assert cli.main(["train", "-e", str(spec_file)]) == 1
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.endswith("ZeroDivisionError: of ours\nerror: this is a bug in reid, not a mistake of yours\n")
    last = (tmp_path / "r" / "train" / "status.json").read_text().splitlines()[-1]
    assert json.loads(last)["message"] == "ZeroDivisionError: of ours"


def test_the_usage_is_shown_where_the_command_line_makes_no_sense(spec_file: Path) -> None:
    usage_error("train")
    usage_error("train", "-e", str(spec_file), "--epochs", "3")
    usage_error("trian", "-e", str(spec_file))
    usage_error("spec")
    usage_error("dataset", "synth", "root", "a=b")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"reid {__version__}\n")


@pytest.mark.parametrize("name", cli.TASKS)
def test_a_tasks_help_lists_the_fields_it_reads(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "-h"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert f"fields of the spec that {name} reads, with their defaults:\n\n  results_dir = /results" in shown
    own = [field.rpartition(".")[2] for field in fields_of() if field.startswith(f"{name}.")]
    assert [field for field in own if f"  {field} = " not in shown] == []
    agree = "a trained model's file states these too; a spec that gives them has to agree: model.backbone, "
    assert (agree in " ".join(shown.split())) is (name in {"evaluate", "inference", "export"})


def test_the_spec_is_explained_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["spec", "--explain", "train.optim.gamma"]) == 0
    assert capsys.readouterr().out.startswith("train.optim.gamma: number, above 0\n")
    assert cli.main(["spec", "--explain"]) == 0
    assert "train.optim: Optimizer and learning-rate schedule" in capsys.readouterr().out
    assert cli.main(["spec", "--explain", "train.optm"]) == 2
    assert capsys.readouterr().err == (
        "error: train.optm: no section or field of the spec; did you mean train.optim?\n"
    )


def test_a_blank_spec_is_printed_and_checks_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["spec", "--blank"]) == 0
    file = tmp_path / "blank.yaml"
    file.write_text(capsys.readouterr().out)
    assert load_spec(file) == Experiment()
    assert cli.main(["spec", "--check", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: no errors\n"


def test_taos_swin_sample_checks_out_and_its_dead_field_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "swin.yaml"
    file.write_text(TAO_SWIN_SAMPLE)
    assert cli.main(["spec", "--check", str(file)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{file}: no errors\n"
    assert [line[9:] for line in shown.err.splitlines()] == [
        "warning: swin.yaml: model.no_margin has no effect: no effect in TAO either: the margin is always used"
    ]


def test_a_spec_that_is_wrong_is_reported_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("train: {num_epoch: 3}\n")
    assert cli.main(["spec", "--check", str(file), "re_ranking.k1=0"]) == 2
    assert capsys.readouterr().err == (
        "error: command line: re_ranking.k1: found 0 (int); want: at least 1\n"
        "wrong.yaml: train.num_epoch: unknown key; did you mean train.num_epochs?\n"
    )
    weights = "model.backbone=timm/resnet50.no_such"
    assert cli.main(["spec", "--check", "pipelines/specs/demo.yaml", weights]) == 2
    assert capsys.readouterr().err == (
        "error: model.backbone: timm/resnet50.no_such: Invalid pretrained tag (no_such) for resnet50.\n"
    )
    assert cli.main(["spec", "--blank", "re_ranking.k1=5"]) == 2
    assert capsys.readouterr().err == "error: re_ranking.k1=5: fields can be replaced with --check only\n"


def test_the_figures_of_a_drawn_data_set_are_the_specs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [*cli.DRAWN] == [name for name in Synthetic.model_fields if name != "root"]
    with pytest.raises(SystemExit):
        cli.main(["dataset", "synth", "-h"])
    assert "  train_persons = 120 " in capsys.readouterr().out
    few = ["--train-persons", "2", "--test-persons", "2", "--distractors", "0", "--images-per-camera", "1"]
    assert cli.main(["dataset", "synth", f"{tmp_path}/drawn", *few, "--workers", "1"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/drawn: drawn\n"
    drawn = json.loads((tmp_path / "drawn" / "synthetic.json").read_text())
    given = {"train_persons": 2, "test_persons": 2, "distractors": 0, "images_per_camera": 1}
    default = Synthetic(root="").model_dump(exclude={"root"})
    assert {name: drawn[name] for name in cli.DRAWN} == default | given
    assert cli.main(["dataset", "synth", f"{tmp_path}/other", "--cameras", "1"]) == 2
    assert capsys.readouterr().err == (
        "error: command line: dataset.synthetic.cameras: found 1 (int); want: at least 2\n"
    )


def test_a_reader_that_goes_away_is_no_fault() -> None:
    command = f"{sys.executable} -m reid spec --explain | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.slow
def test_ctrl_c_keeps_the_training_and_a_second_one_meanwhile_is_refused(tmp_path: Path) -> None:
    spec = tmp_path / "s.yaml"
    spec.write_text(
        f"results_dir: {tmp_path}/r\n"
        'model: {backbone: timm/test_resnet, pretrain_choice: "", input_width: 32, input_height: 64, feat_dim: 16}\n'
        f"dataset: {{synthetic: {{root: {tmp_path}/drawn, train_persons: 8, test_persons: 4, width: 32, height: 64}},\n"
        "          num_classes: 8, batch_size: 16}\n"
        "train: {num_epochs: 2000, validation_interval: 100}\n"
    )
    command = [sys.executable, "-m", "reid", "train", "-e", str(spec)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    history, status = tmp_path / "r" / "train" / "history.json", tmp_path / "r" / "train" / "status.json"
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as first:
        try:
            give_up_at = time.monotonic() + 120
            while not history.exists() and time.monotonic() < give_up_at:
                time.sleep(0.1)
            second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            assert second.returncode == 2
            assert re.fullmatch(
                rf"error: {tmp_path}/r/train: another process is using this results folder\n"
                rf"  found: train, process {first.pid} on \S+, since [\d: -]+\n"
                r"  want:  wait until it ends, stop it, or choose another folder with results_dir\n",
                second.stderr,
            )
            first.send_signal(signal.SIGINT)
            _, shown = first.communicate(timeout=60)
        finally:
            first.kill()
    assert first.returncode == 130
    assert "Traceback" not in shown
    assert shown.endswith("interrupted\n")
    lines = [json.loads(line) for line in status.read_text().splitlines()]
    assert lines[-1]["message"] == "User/System interruption: stopped by Ctrl-C or SIGTERM"
    done = lines[-2]["epoch"] + 1
    again = subprocess.run(
        [*command, f"train.num_epochs={done + 1}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"continuing from epoch {done} of {done + 1}" in again.stderr  # and a step of the next, most likely
    lines = [json.loads(line) for line in status.read_text().splitlines()]
    assert (lines[-2]["epoch"], lines[-1]["status"]) == (done, "SUCCESS")
