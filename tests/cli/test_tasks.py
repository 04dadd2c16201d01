"""The tasks of a spec one by one: which files they read and write, and what they say of a bad input."""

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reid.cli.task_files import results_folder, thresholds_of
from reid.cli.tasks import TASKS, make_servable, run_task
from reid.data.market1501 import Manifest
from reid.deploy.onnx import OnnxModel
from reid.drawn.dataset import draw_market
from reid.errors import ArtifactError, DatasetError, FolderInUse, ReidError
from reid.files.locks import locked
from reid.spec import Experiment, load_spec
from reid.stages.outcome import Outcome
from reid.thresholds import Thresholds

TEXT = """
model: {backbone: timm/test_resnet, pretrain_choice: "", input_width: 32, input_height: 64, feat_dim: 16}
dataset: {num_classes: 16, batch_size: 16, padding: 3}
train: {num_epochs: 2, optim: {name: AdamW, base_lr: 0.003, warmup_iters: 0, lr_steps: []}}
"""
FOLDERS = {"train": "bounding_box_train", "test": "bounding_box_test", "query": "query"}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn: 16 persons to train on, 10 to test on."""
    root = tmp_path_factory.mktemp("market") / "drawn"
    numbers = {"train_persons": 16, "test_persons": 10, "cameras": 2, "images_per_camera": 2}
    draw_market(root, **numbers, distractors=2, junk=2, width=32, height=64, seed=7, workers=1)
    return root


@pytest.fixture(scope="module")
def trained(market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a finished training."""
    results = tmp_path_factory.mktemp("trained")
    run_task("train", spec_of(market, results))
    return results


@pytest.fixture
def spec(market: Path, trained: Path, tmp_path: Path) -> Callable[..., Experiment]:
    """A spec with overrides: results in tmp_path, the model of `trained`, whose decoded images are used again."""
    model = f"{trained}/train/reid_model_best.pth"
    ours = [f"{task}.checkpoint={model}" for task in ("evaluate", "inference", "export")]
    return lambda *overrides: spec_of(
        market, tmp_path, f"dataset.store_dir={trained}/store", f"export.onnx_file={tmp_path}/m.onnx", *ours, *overrides
    )


def spec_of(market: Path, results: Path, *overrides: str) -> Experiment:
    folders = [f"dataset.{split}_dataset_dir={market}/{folder}" for split, folder in FOLDERS.items()]
    return load_spec(text=TEXT, overrides=[f"results_dir={results}", *folders, *overrides])


def status_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "status.json").read_text(encoding="utf-8").splitlines()]


def refusal(kind: type[ReidError], task: str, spec: Experiment) -> str:
    with pytest.raises(kind) as caught:
        run_task(task, spec)
    return str(caught.value)


def test_a_task_writes_where_its_section_says_else_below_the_results(market: Path, tmp_path: Path) -> None:
    spec = spec_of(market, tmp_path, "train.results_dir=/elsewhere")
    assert results_folder(spec, "train") == Path("/elsewhere")
    assert results_folder(spec, "evaluate") == tmp_path / "evaluate"
    assert results_folder(spec, "validate") == tmp_path / "validate"


def test_a_training_leaves_its_model_its_findings_its_spec_and_a_line_for_each_epoch(trained: Path) -> None:
    folder = trained / "train"
    names = {"model_epoch_000.pth", "model_epoch_001.pth", "reid_model_latest.pth", "reid_model_best.pth"}
    assert names | {"history.json", "report.html", "experiment.yaml"} <= {path.name for path in folder.iterdir()}
    assert (folder / "validate" / "report.html").exists()
    lines = status_of(folder)
    assert [line["status"] for line in lines] == ["STARTED", "RUNNING", "RUNNING", "RUNNING", "SUCCESS"]
    assert [line.get("epoch") for line in lines] == [None, None, 0, 1, None]
    history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    assert lines[3]["kpi"]["mAP"] == history[2]["mAP"]
    assert lines[4]["kpi"]["best_mAP"] == max(row["mAP"] for row in history[1:])


def test_the_resolved_spec_loads_back_and_holds_no_key(
    spec: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "")  # puts what the task sets here back after the test
    given = spec("train.seed=5")
    run_task("validate", given.model_copy(update={"encryption_key": "a very secret key"}))
    assert load_spec(tmp_path / "validate" / "experiment.yaml") == given
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and b"very secret" in path.read_bytes()]
    assert holding == []


@pytest.mark.slow
def test_every_task_runs_after_the_one_before_it(market: Path, trained: Path) -> None:
    spec = spec_of(market, trained)
    for task in ("validate", "evaluate", "inference", "export", "gen_trt_engine"):
        outcome = run_task(task, spec)
        last = status_of(trained / task)[-1]
        assert last["status"] == "SUCCESS", task
        assert outcome.metrics.items() <= last["kpi"].items(), task
    assert (trained / "export" / "reid_model.onnx").exists()
    assert list((trained / "train").glob("*.onnx")) == []
    assert (trained / "evaluate" / "sampled_matches.png").exists()
    assert len(json.loads((trained / "inference" / "inference.json").read_text())) == outcome_rows(trained)
    assert (trained / "gen_trt_engine" / "build.json").exists()
    measured = (trained / "evaluate" / "thresholds.json").read_text()
    assert OnnxModel(trained / "export" / "reid_model.onnx").thresholds == Thresholds.from_json(measured)
    other = trained / "other" / "reid_model_best.pth"
    other.parent.mkdir()
    other.write_bytes(b"another checkpoint")
    assert thresholds_of(spec, other) == ""


def outcome_rows(results: Path) -> int:
    manifest = Manifest.load(results / "inference" / "dataset.json")
    return len(manifest.query) + len(manifest.gallery)


def test_evaluation_takes_its_own_folders_and_needs_no_training_images(
    spec: Callable[..., Experiment], market: Path, tmp_path: Path
) -> None:
    shutil.copytree(market / "query", tmp_path / "q")
    shutil.copytree(market / "bounding_box_test", tmp_path / "g")
    nowhere = [f"dataset.{split}_dataset_dir=/nowhere" for split in FOLDERS]
    run_task("evaluate", spec(*nowhere, f"evaluate.query_dataset={tmp_path}/q", f"evaluate.test_dataset={tmp_path}/g"))
    manifest = Manifest.load(tmp_path / "evaluate" / "dataset.json")
    assert (manifest.query.root, manifest.gallery.root) == (tmp_path / "q", tmp_path / "g")
    assert len(manifest.train) == 0


def test_the_images_decoded_for_the_training_are_used_again(
    spec: Callable[..., Experiment], trained: Path, tmp_path: Path
) -> None:
    decoded = sorted((trained / "store").glob("*.npy"))
    run_task("evaluate", spec())
    assert sorted((trained / "store").glob("*.npy")) == decoded
    fingerprints = [
        Manifest.load(path).fingerprint
        for path in (tmp_path / "evaluate" / "dataset.json", trained / "train" / "validate" / "dataset.json")
    ]
    assert fingerprints[0] == fingerprints[1]


def test_the_embeddings_go_where_the_spec_says(spec: Callable[..., Experiment], tmp_path: Path) -> None:
    run_task("inference", spec(f"inference.output_file={tmp_path}/new/all.json"))
    assert len(json.loads((tmp_path / "new" / "all.json").read_text())) == outcome_rows(tmp_path)
    assert not (tmp_path / "inference" / "inference.json").exists()


def test_an_onnx_file_that_is_there_is_not_replaced_unless_the_spec_says_so(
    spec: Callable[..., Experiment], tmp_path: Path
) -> None:
    (tmp_path / "m.onnx").write_text("mine")
    assert refusal(ArtifactError, "export", spec()) == (
        f"{tmp_path}/m.onnx: is there already; want another export.onnx_file, or export.overwrite=true"
    )
    assert (tmp_path / "m.onnx").read_text() == "mine"
    run_task("export", spec("export.overwrite=true"))
    assert (tmp_path / "m.onnx").stat().st_size > 1000


def test_an_export_writes_nothing_beside_the_checkpoint_of_another_folder(
    market: Path, trained: Path, tmp_path: Path
) -> None:
    cached = tmp_path / "pipeline" / "train" / "key" / "model"
    shutil.copytree(trained / "train", cached, ignore=shutil.ignore_patterns(".lock"))
    before = sorted(path.name for path in cached.rglob("*"))
    best = cached / "reid_model_best.pth"
    store = f"dataset.store_dir={trained}/store"
    spec = spec_of(market, tmp_path, store, f"export.checkpoint={best}")
    run_task("export", spec)
    assert sorted(path.name for path in cached.rglob("*")) == before
    assert (tmp_path / "export" / "reid_model_best.onnx").stat().st_size > 1000
    # another checkpoint of the same name: neither its file is replaced, nor the first's taken for it
    other = tmp_path / "other" / "reid_model_best.pth"
    other.parent.mkdir()
    shutil.copy(trained / "train" / "model_epoch_000.pth", other)
    other.write_bytes(other.read_bytes() + b" ")
    spec = spec_of(market, tmp_path, store, f"export.checkpoint={other}")
    onnx = tmp_path / "export" / "reid_model_best.onnx"
    assert refusal(ArtifactError, "export", spec) == (
        f"{onnx}: is there already; want another export.onnx_file, or export.overwrite=true"
    )
    wanted = (
        f"{onnx}: not exported from {other}, as {tmp_path}/export/parity.json has it\n"
        "  want: the task export again, with export.overwrite=true; or another export.results_dir"
    )
    assert refusal(ArtifactError, "gen_trt_engine", spec) == wanted
    with pytest.raises(ArtifactError) as caught:
        make_servable(spec)
    assert str(caught.value) == wanted


def test_export_says_which_images_it_lacks(spec: Callable[..., Experiment]) -> None:
    text = refusal(DatasetError, "export", spec("dataset.query_dataset_dir=null"))
    assert text.startswith(
        "the images are not there: 1 of 1 folder missing\n  query: dataset.query_dataset_dir is not set\nHow to get"
    )


def test_a_task_without_a_model_says_where_one_was_looked_for(market: Path, tmp_path: Path) -> None:
    for task in ("evaluate", "inference", "export"):
        assert refusal(ArtifactError, task, spec_of(market, tmp_path)) == (
            f"{tmp_path}/train: no such model\n"
            f"  want: a checkpoint in {task}.checkpoint, the one that the task train leaves there, or a finished "
            "training of the pipeline in results_dir"
        )
    assert refusal(ArtifactError, "gen_trt_engine", spec_of(market, tmp_path)) == (
        f"{tmp_path}/export/reid_model.onnx: no such ONNX file\n"
        "  want: one in gen_trt_engine.onnx_file, or the one that the task export leaves there"
    )


@pytest.mark.parametrize("task", ["evaluate", "inference", "export"])
def test_a_text_file_is_no_checkpoint(spec: Callable[..., Experiment], tmp_path: Path, task: str) -> None:
    (tmp_path / "notes.pth").write_text("dear diary\n")
    assert refusal(ArtifactError, task, spec(f"{task}.checkpoint={tmp_path}/notes.pth")) == (
        f"{tmp_path}/notes.pth: not a checkpoint: it begins with b'dear dia'\n"
        "  want: a file of torch.save or .safetensors"
    )


@pytest.mark.parametrize("task", ["evaluate", "inference", "export"])
def test_a_checkpoint_of_another_backbone_than_the_spec_names_is_refused(
    spec: Callable[..., Experiment], trained: Path, task: str
) -> None:
    assert refusal(ArtifactError, task, spec("model.backbone=resnet_18")) == (
        f"{trained}/train/reid_model_best.pth: a checkpoint of model.backbone timm/test_resnet\n"
        "  found: resnet_18 in the spec\n"
        "  want:  the model's own, or the field left out: the model knows its network"
    )


@pytest.mark.parametrize(
    ("field", "found", "made_for"),
    [
        ("model.pooling=gem", "gem", "a checkpoint of model.pooling mean"),
        ("model.feat_dim=32", "32", "made for model.feat_dim 16"),
        ("model.neck=", "''", "a checkpoint of model.neck bnneck"),
        ("model.neck_feat=before", "before", "a checkpoint of model.neck_feat after"),
        ("model.id_loss_type=circle", "circle", "a checkpoint of model.id_loss_type softmax"),
        ("model.stem_relu=off", "off", "a checkpoint of model.stem_relu on"),
    ],
)
def test_a_checkpoint_of_another_network_than_the_spec_gives_is_refused(
    spec: Callable[..., Experiment], trained: Path, field: str, found: str, made_for: str
) -> None:
    assert refusal(ArtifactError, "inference", spec(field)) == (
        f"{trained}/train/reid_model_best.pth: {made_for}\n"
        f"  found: {found} in the spec\n"
        "  want:  the model's own, or the field left out: the model knows its network"
    )


@pytest.mark.parametrize("task", ["validate", "train", "evaluate", "inference", "export"])
def test_images_that_cannot_be_used_are_reported_and_nothing_is_lost(
    spec: Callable[..., Experiment], market: Path, tmp_path: Path, task: str
) -> None:
    kept = results_folder(spec(), task) / "of_an_earlier_run.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("kept")
    text = refusal(DatasetError, task, spec(f"dataset.query_dataset_dir={tmp_path}/none"))
    assert f"query: no such folder: {tmp_path}/none" in text
    (tmp_path / "empty").mkdir()
    text = refusal(DatasetError, task, spec(f"dataset.query_dataset_dir={tmp_path}/empty"))
    assert f"query: no image in {tmp_path}/empty" in text
    shutil.copytree(market / "query", tmp_path / "damaged")
    damaged = min((tmp_path / "damaged").glob("*.jpg"))
    damaged.write_bytes(damaged.read_bytes()[:300])
    text = refusal(DatasetError, task, spec(f"dataset.query_dataset_dir={tmp_path}/damaged"))
    assert " 1 of 12 images cannot be read\n" in text
    assert f"{damaged.name}: Truncated File Read" in text
    assert kept.read_text() == "kept"
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".partial")]


@pytest.mark.parametrize(
    ("task", "field"),
    [
        ("inference", "inference.output_file"),
        ("evaluate", "evaluate.output_cmc_curve_plot"),
        ("evaluate", "evaluate.output_sampled_matches_plot"),
    ],
)
def test_an_output_that_cannot_be_written_is_reported_before_the_work(
    spec: Callable[..., Experiment], tmp_path: Path, task: str, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    target = tmp_path / "file" / ("out.json" if task == "inference" else "out.png")
    with caplog.at_level(logging.INFO):
        text = refusal(ArtifactError, task, spec(f"{field}={target}"))
    assert text == f"{target}: cannot be written\n  found: File exists"
    assert "no GPU here" not in caplog.text  # the network was not even opened
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_number_of_classes_is_the_checkpoints_where_nothing_is_trained(spec: Callable[..., Experiment]) -> None:
    run_task("inference", spec("dataset.num_classes=751"))


def test_a_training_does_not_go_on_from_a_checkpoint_of_other_persons(
    spec: Callable[..., Experiment], market: Path, trained: Path, tmp_path: Path
) -> None:
    fewer = tmp_path / "fewer"
    shutil.copytree(market / "bounding_box_train", fewer, ignore=shutil.ignore_patterns("0001_*"))
    checkpoint = trained / "train" / "reid_model_latest.pth"
    other = spec(
        f"dataset.train_dataset_dir={fewer}",
        "dataset.num_classes=15",
        "train.num_epochs=3",
        f"train.resume_training_checkpoint_path={checkpoint}",
    )
    assert refusal(ArtifactError, "train", other) == (
        f"{checkpoint}: a checkpoint of another network: num_classes 16, not 15\n"
        "  want: one of the spec's network and persons; or its weights alone, for a new training in another "
        "train.results_dir:\n  train.resume_training_checkpoint_path=null model.pretrain_choice=self "
        f"model.pretrained_model_path={checkpoint}"
    )


def test_a_failure_is_in_the_status_file_with_its_text(spec: Callable[..., Experiment], tmp_path: Path) -> None:
    text = refusal(DatasetError, "train", spec("dataset.num_classes=751"))
    assert text == (
        "the data set has 1 error\n"
        "  num_classes: dataset.num_classes is 751, but train shows 16 persons; "
        "set dataset.num_classes=16, or null to have them counted\n"
        f"  all findings: {tmp_path}/train/validate/report.html"
    )
    started, failure = status_of(tmp_path / "train")
    assert (started["status"], failure["status"], failure["message"]) == ("STARTED", "FAILURE", text)


def test_a_results_folder_below_a_file_is_refused(spec: Callable[..., Experiment], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert refusal(ArtifactError, "evaluate", spec(f"evaluate.results_dir={tmp_path}/file/results")) == (
        f"{tmp_path}/file/results: the results folder cannot be written\n"
        "  found: Not a directory\n"
        "  want:  a folder on a local disk that can; set results_dir"
    )


def test_a_refused_second_training_leaves_the_firsts_files_alone(
    spec: Callable[..., Experiment], tmp_path: Path
) -> None:
    with locked(tmp_path / "train", user="train"):
        text = refusal(FolderInUse, "train", spec())
    assert text.startswith(f"{tmp_path}/train: another process is using this results folder\n  found: train, process ")
    assert [path.name for path in (tmp_path / "train").iterdir()] == [".lock"]


def test_an_error_that_is_its_own_cause_is_reported_as_it_is(
    spec: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first

    def fail(*_: object) -> Outcome:
        raise first

    monkeypatch.setitem(TASKS, "evaluate", fail)
    with pytest.raises(ValueError, match=r"^first$"):
        run_task("evaluate", spec())
    first.__cause__ = first
    with pytest.raises(ValueError, match=r"^first$"):
        run_task("evaluate", spec())
    assert status_of(tmp_path / "evaluate")[-1]["status"] == "FAILURE"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or not mount:
        pytest.skip("A FULL DISK IS NOT TESTED HERE: mounting a small tmpfs needs root")
    command = [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"A FULL DISK IS NOT TESTED HERE: a small tmpfs cannot be mounted: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(
    ("task", "file", "room"),
    [
        ("validate", "/report.html", 16 << 10),
        ("train", "/model_epoch_000.pth", 1 << 20),
        ("inference", "/inference.json", 24 << 10),
        ("evaluate", "/embeddings.npz", 24 << 10),
    ],
)
def test_a_full_disk_is_the_users_to_mend_and_named(
    spec: Callable[..., Experiment], full_disk: Path, task: str, file: str, room: int
) -> None:
    (full_disk / "ballast").write_bytes(bytes((1 << 20) - room))
    text = refusal(ArtifactError, task, spec(f"results_dir={full_disk}"))
    assert text == f"{full_disk}/{task}{file}: cannot be written\n  found: No space left on device"
    assert list((full_disk / task).glob("*.partial")) == []


@pytest.mark.slow
def test_a_full_disk_stops_the_export_and_the_engine_and_is_named(
    spec: Callable[..., Experiment], full_disk: Path, tmp_path: Path
) -> None:
    assert refusal(ArtifactError, "export", spec(f"export.onnx_file={full_disk}/m.onnx")) == (
        f"{full_disk}/m.onnx.candidate: cannot be written\n  found: No space left on device"
    )
    assert list(full_disk.iterdir()) == []
    run_task("export", spec())
    engine = spec(f"gen_trt_engine.onnx_file={tmp_path}/m.onnx", f"gen_trt_engine.results_dir={full_disk}/results")
    assert refusal(ArtifactError, "gen_trt_engine", engine) == (
        f"{full_disk}/results/model.engine.candidate: cannot be written\n  found: No space left on device"
    )
    assert not list((full_disk / "results").glob("model.engine*"))
