"""Going on from a checkpoint that the spec names: in another folder, with more epochs, with other settings."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from reid.errors import ArtifactError, TrainingError
from reid.stages import train as train_stage
from reid.stages.outcome import Outcome
from reid.stages.train import train
from reid.tracking.stage_run import StageRun
from reid.training.history import Row
from reid.training.record import Record, ignore_row
from reid.training.resume import Start
from tests.drawn_persons import small_spec, write_persons

TIMES = {"seconds", "images_per_second", "validation_seconds"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the data set and its decoded images."""
    folder = tmp_path_factory.mktemp("resuming")
    write_persons(folder / "data", train=8, test=4)
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    """The latest checkpoint of two epochs."""
    run(folder, folder / "finished")
    return folder / "finished" / "reid_model_latest.pth"


def run(
    folder: Path,
    model: Path,
    *overrides: str,
    dataset: str = "data",
    epoch_ended: Callable[[Row], None] = ignore_row,
) -> Outcome:
    return train(
        small_spec(folder, "train.num_epochs=2", *overrides),
        dataset=folder / dataset / "dataset.json",
        model=model,
        report=model / "report.html",
        run=StageRun.none(),
        epoch_ended=epoch_ended,
    )


def go_on(folder: Path, model: Path, named: Path, *overrides: str, dataset: str = "data") -> Outcome:
    return run(folder, model, f"train.resume_training_checkpoint_path={named}", *overrides, dataset=dataset)


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(file, weights_only=True)
    return content


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = read(one)["state_dict"], read(other)["state_dict"]
    return all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def test_a_finished_one_leaves_its_model_in_a_fresh_folder(
    folder: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        outcome = go_on(folder, tmp_path, finished)
    assert f"{finished}: all 2 epochs are done already" in caplog.messages
    assert {file.name for file in tmp_path.iterdir()} == {
        "history.json", "model_epoch_001.pth", "reid_model_best.pth", "reid_model_latest.pth", "report.html",
        "training_curves.png", "untrained_embeddings.npz",
    }  # fmt: skip
    for name in ("reid_model_latest.pth", "reid_model_best.pth"):
        assert same_weights(tmp_path / name, finished.with_name(name))
    assert outcome.metrics["best_mAP"] == max(row["mAP"] for row in json.loads((tmp_path / "history.json").read_text()))
    assert go_on(folder, tmp_path, finished).metrics == outcome.metrics


def test_fewer_epochs_than_it_has_leave_it_as_it_is(
    folder: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        go_on(folder, tmp_path, finished, "train.num_epochs=1")
    assert f"{finished}: 2 epochs are done already" in caplog.messages
    assert not any(message.startswith("continuing") for message in caplog.messages)
    assert same_weights(tmp_path / "reid_model_latest.pth", finished)


def test_more_epochs_continue_and_the_best_is_there_even_if_it_stays_the_best(
    folder: Path, finished: Path, tmp_path: Path
) -> None:
    run(folder, tmp_path, "train.seed=9")  # another training's best, which is not to be taken for this one's
    go_on(folder, tmp_path, finished, "train.num_epochs=3", "train.optim.base_lr=1e-12")
    rows = json.loads((tmp_path / "history.json").read_text())
    assert [row["epoch"] for row in rows] == [-1, 0, 1, 2]
    best = max(rows[1:], key=lambda row: row["mAP"])
    assert read(tmp_path / "reid_model_best.pth")["epoch"] == best["epoch"]
    assert read(tmp_path / "reid_model_latest.pth")["epoch"] == 2
    for epoch in {0, 1} & {best["epoch"]}:
        assert same_weights(tmp_path / "reid_model_best.pth", finished.with_name(f"model_epoch_00{epoch}.pth"))


def test_the_best_that_is_not_beside_it_is_told(
    folder: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = read(finished)
    content["training"]["history"][1]["mAP"] = 2.0  # the first epoch was the best
    alone = tmp_path / "alone" / "model.pth"
    alone.parent.mkdir()
    torch.save(content, alone)
    go_on(folder, tmp_path / "model", alone)
    assert caplog.messages == [f"{alone}: its best epoch, 1, is not beside it"]
    assert not (tmp_path / "model" / "reid_model_best.pth").exists()
    assert same_weights(tmp_path / "model" / "reid_model_latest.pth", finished)


def test_a_damaged_best_is_passed_over(
    folder: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = read(finished)
    content["training"]["history"][1]["mAP"] = 2.0  # the first epoch was the best
    named = tmp_path / "before" / "reid_model_latest.pth"
    named.parent.mkdir()
    torch.save(content, named)
    damaged = [named.with_name("model_epoch_000.pth"), named.with_name("reid_model_best.pth")]
    for path in damaged:
        path.write_bytes(finished.read_bytes()[:5000])
    go_on(folder, tmp_path / "model", named)
    *passed_over, missing = caplog.messages
    for path, message in zip(damaged, passed_over, strict=True):
        assert message.startswith(f"{path}: ") and message.endswith("; it is passed over")
    assert missing == f"{named}: its best epoch, 1, is not beside it"
    assert same_weights(tmp_path / "model" / "reid_model_latest.pth", finished)


def test_one_from_before_the_stems_pooling_was_a_choice_resumes(
    folder: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = read(finished)
    for name in ("stem_pool", "id_loss_type"):
        del content["reid"]["model"][name]
        del content["training"]["settings"][f"model.{name}"]
    for name in ("train.ema_decay", "train.freeze_epochs", "train.optim.lr_floor", "train.optim.trp_l2"):
        del content["training"]["settings"][name]
    torch.save(content, tmp_path / "reid_model_latest.pth")
    go_on(folder, tmp_path / "model", tmp_path / "reid_model_latest.pth", "train.num_epochs=3")
    assert [message for message in caplog.messages if "other settings" in message] == []
    assert len(json.loads((tmp_path / "model" / "history.json").read_text())) == 4  # the untrained row, three epochs


def refusal(kind: type[Exception], folder: Path, model: Path, named: Path, *overrides: str, **other: str) -> str:
    with pytest.raises(kind) as caught:
        go_on(folder, model, named, *overrides, **other)
    assert not list(model.glob("*.pth"))
    return str(caught.value)


def weights_alone(checkpoint: Path, *, named: bool = True) -> str:
    no_resume = "train.resume_training_checkpoint_path=null " if named else ""
    return (
        "its weights alone, for a new training in another train.results_dir:\n"
        f"  {no_resume}model.pretrain_choice=self model.pretrained_model_path={checkpoint}"
    )


def test_a_finished_one_of_another_backbone_is_refused_without_advice_that_would_fail(
    folder: Path, finished: Path, tmp_path: Path
) -> None:
    assert refusal(ArtifactError, folder, tmp_path, finished, "model.backbone=timm/test_vit") == (
        f"{finished}: a checkpoint of another network: backbone 'timm/test_resnet', not 'timm/test_vit'\n"
        "  want: one of the spec's network and persons"
    )


@pytest.mark.parametrize("override", ["model.feat_dim=16", "dataset.validation_persons=2", "train.optim.name=SGD"])
def test_the_advice_about_a_folder_with_another_training_can_be_followed(
    folder: Path, finished: Path, tmp_path: Path, override: str
) -> None:
    with pytest.raises(TrainingError) as caught:
        run(folder, finished.parent, override)
    want, advice = str(caught.value).split("\n")[2:]
    assert [want, advice] == (
        "  want: the earlier settings; or another train.results_dir for the new ones; or "
        + weights_alone(finished, named=False)
    ).split("\n")
    assert run(folder, tmp_path, override, *advice.split()).metrics["epochs"] == 2


def test_the_advice_to_resume_a_finished_training_names_an_epoch_more(
    folder: Path, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError) as caught:
        run(folder, finished.parent, "train.optim.base_lr=0.1")
    resume = f"train.resume_training_checkpoint_path={finished} train.num_epochs=3"
    assert str(caught.value) == (
        f"{finished}: a training with other settings: 1 differ\n  first: train.optim.base_lr: then 0.003, now 0.1\n"
        "  want: the earlier settings; or another train.results_dir for the new ones; or, to resume from there with\n"
        f"  the new ones, {resume}"
    )
    assert run(folder, tmp_path, "train.optim.base_lr=0.1", *resume.split()).metrics["epochs"] == 3


def test_a_finished_one_of_another_network_is_refused(folder: Path, finished: Path, tmp_path: Path) -> None:
    want = f"\n  want: one of the spec's network and persons; or {weights_alone(finished)}"
    for override, what in (
        ("model.feat_dim=16", "feat_dim 32, not 16"),
        ("model.stem_relu=off", "stem_relu True, not False"),
        ("model.id_loss_type=circle", "id_loss_type 'softmax', not 'circle'"),
    ):
        assert refusal(ArtifactError, folder, tmp_path, finished, override) == (
            f"{finished}: a checkpoint of another network: {what}{want}"
        )
    write_persons(folder / "fewer", train=7, test=5)
    assert refusal(ArtifactError, folder, tmp_path, finished, dataset="fewer") == (
        f"{finished}: a checkpoint of another network: num_classes 8, not 7{want}"
    )


def test_a_finished_one_of_other_settings_is_refused(folder: Path, finished: Path, tmp_path: Path) -> None:
    said = refusal(TrainingError, folder, tmp_path, finished, "train.optim.base_lr=0.1", "dataset.padding=1")
    assert said == (
        f"{finished}: finished, after 2 epochs, with other settings: 2 differ\n"
        "  first: dataset.padding: then 3, now 1\n"
        "  want: the earlier settings; or more epochs, train.num_epochs=3 or above"
    )


@pytest.mark.parametrize(
    ("override", "then_and_now"),
    [
        ("train.optim.name=SGD", "AdamW, without centre loss; not SGD, without centre loss"),
        ("model.with_center_loss=true", "AdamW, without centre loss; not AdamW, with centre loss"),
        (
            "train.optim.large_fc_lr=true",
            "AdamW, without centre loss, train.optim.large_fc_lr = false; "
            "not AdamW, without centre loss, train.optim.large_fc_lr = true",
        ),
    ],
)
def test_another_optimizer_or_loss_has_no_use_for_its_state(
    folder: Path, finished: Path, tmp_path: Path, override: str, then_and_now: str
) -> None:
    assert refusal(ArtifactError, folder, tmp_path, finished, override, "train.num_epochs=3") == (
        f"{finished}: a checkpoint of another kind of training: {then_and_now}\n"
        f"  want: the same optimizer and losses; or {weights_alone(finished)}"
    )


def test_the_rates_and_decays_of_the_new_spec_are_used(
    folder: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    figures = ["base_lr=0.001", "bias_lr_factor=2.0", "weight_decay=0.03", "weight_decay_bias=0.04"]
    go_on(folder, tmp_path, finished, "train.num_epochs=3", *(f"train.optim.{figure}" for figure in figures))
    groups = read(tmp_path / "reid_model_latest.pth")["optimizer_states"][0]["param_groups"]
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.001, 0.03), (0.002, 0.04)]
    assert caplog.messages == [
        f"{finished}: continuing with other settings: 4 differ, first train.optim.base_lr: then 0.003, now 0.001"
    ]


def test_a_plateau_that_was_not_reached_is_not_reached_after_a_resume(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path, "train.optim.lr_scheduler=AutoReduce")
    run(folder, tmp_path, "train.optim.lr_scheduler=AutoReduce", "train.num_epochs=3")
    rows = json.loads((tmp_path / "history.json").read_text())
    assert [row["learning_rate"] for row in rows[1:]] == [0.003] * 3


@pytest.mark.parametrize("place", [(1, 2), (1, 4)], ids=["in the middle of an epoch", "before its validation"])
def test_a_checkpoint_from_within_an_epoch_resumes_in_another_folder_to_the_same_weights(
    folder: Path,
    finished: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    place: tuple[int, int],
) -> None:
    kept = tmp_path / "kept.pth"

    def save_and_keep(record: Record, trainer: pl.Trainer, epoch: int, steps_done: int) -> None:
        save(record, trainer, epoch, steps_done)
        if (epoch, steps_done) == place:
            record._checkpoints.wait()
            kept.write_bytes((tmp_path / "first" / "reid_model_latest.pth").read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        save = Record.save_within
        patch.setattr(Record, "save_within", save_and_keep)
        run(folder, tmp_path / "first", "train.checkpoint_minutes=1e-9")
    with caplog.at_level(logging.INFO):
        go_on(folder, tmp_path / "second", kept)
    assert f"continuing from epoch 1 of 2, step {place[1]} of the next: {kept}" in caplog.messages
    assert same_weights(tmp_path / "second" / "reid_model_latest.pth", finished)
    rows = [json.loads((model / "history.json").read_text()) for model in (tmp_path / "second", finished.parent)]
    for ours, theirs in zip(*rows, strict=True):
        assert {name: ours[name] for name in ours if name not in TIMES} == {
            name: theirs[name] for name in theirs if name not in TIMES
        }


@pytest.mark.slow
def test_each_new_row_of_the_history_is_handed_out_once_as_its_epoch_ends(folder: Path, tmp_path: Path) -> None:
    rows: list[Row] = []
    run(folder, tmp_path, "train.num_epochs=1", epoch_ended=rows.append)
    assert [row["epoch"] for row in rows] == [-1, 0]
    run(folder, tmp_path, "train.num_epochs=2", "train.cpu_processes=2", epoch_ended=rows.append)
    assert rows == json.loads((tmp_path / "history.json").read_text())
    run(folder, tmp_path, "train.num_epochs=2", epoch_ended=rows.append)
    assert [row["epoch"] for row in rows] == [-1, 0, 1]


@pytest.mark.slow
def test_a_vit_with_layer_decay_and_gem_resumes_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    chosen = ["model.backbone=timm/test_vit", "model.pooling=gem", "model.stride_size=[8,8]", "model.drop_path=0.5"]
    chosen += ["train.optim.layer_decay=0.75"]
    run(folder, tmp_path / "whole", *chosen, "train.num_epochs=3")
    run(folder, tmp_path / "first", *chosen)
    latest = tmp_path / "first" / "reid_model_latest.pth"
    go_on(folder, tmp_path / "rest", latest, *chosen, "train.num_epochs=3")
    assert same_weights(tmp_path / "rest" / "reid_model_latest.pth", tmp_path / "whole" / "reid_model_latest.pth")
    groups = read(latest)["optimizer_states"][0]["param_groups"]
    assert len(groups) == 2 * 8 + 1  # weights and biases of 8 layers, the power
    said = refusal(ArtifactError, folder, tmp_path / "other", latest, *chosen[:-1], "train.num_epochs=3")
    assert said == (
        f"{latest}: a checkpoint of a training with train.optim.layer_decay\n"
        "  want: a value below 1, so that its optimizer's groups are the same"
    )


def test_an_older_training_by_the_cosine_has_its_learning_rates_one_epoch_ahead(folder: Path, tmp_path: Path) -> None:
    cosine = ["train.optim.warmup_method=cosine", "train.optim.warmup_epochs=1"]
    latest, ahead = tmp_path / "reid_model_latest.pth", "train.optim.cosine_first_epoch"
    run(folder, tmp_path, *cosine, f"{ahead}=1")
    content = read(latest)
    del content["training"]["settings"][ahead]  # as written before the field was there
    torch.save(content, latest)
    with pytest.raises(TrainingError) as error:
        run(folder, tmp_path, *cosine, "train.num_epochs=3")
    assert str(error.value) == (
        f"{latest}: a training with other settings: 1 differ\n  first: {ahead}: then 1, now 0\n"
        "  want: the earlier settings; or another train.results_dir for the new ones; or, to resume from there with\n"
        f"  the new ones, train.resume_training_checkpoint_path={latest}"
    )
    run(folder, tmp_path, *cosine, "train.num_epochs=3", f"{ahead}=1")
    rates = [row["learning_rate"] for row in json.loads((tmp_path / "history.json").read_text())[1:]]
    # of 2 epochs the cosine is at 0.501 and at its end, of 3 epochs the third is at its end
    assert rates == pytest.approx([0.003 * 0.501, 0.003 * 0.002, 0.003 * 0.002])


@pytest.mark.parametrize(
    ("backbone", "wanted"),
    [
        ("swin_tiny_patch4_window7_224", {"dataset.erasing": "mean", "dataset.train_resize": "bilinear"}),
        ("resnet_50", {"dataset.erasing": "auto", "dataset.train_resize": "auto"}),
    ],
)
def test_an_older_training_of_a_swin_had_the_images_of_the_others(backbone: str, wanted: dict[str, str]) -> None:
    then = {"training": {"settings": {"model.backbone": backbone, "train.optim.warmup_method": "linear"}}}
    settings = train_stage._settings_of(Start(Path("older.pth"), then))
    assert {name: settings[name] for name in wanted} == wanted
    assert settings["train.optim.cosine_first_epoch"] == 0  # it has no cosine


@pytest.mark.slow
def test_epochs_of_the_peers_length_are_the_same_on_two_ranks_and_after_a_resume(folder: Path, tmp_path: Path) -> None:
    chosen = ["train.epoch_length=peers", "dataset.num_instances=2", "dataset.batch_size=8", "model.dropout_rate=0"]
    chosen += ["train.optim.base_lr=1e-5"]
    # at 3e-3 the eleven steps amplify the rounding of the two ranks' sums to 1e-3, or in float64 to 4e-15
    run(folder, tmp_path / "one", *chosen)
    run(folder, tmp_path / "two", *chosen, "train.cpu_processes=2", "train.num_epochs=1")
    run(folder, tmp_path / "two", *chosen, "train.cpu_processes=2")
    one, two = (json.loads((tmp_path / name / "history.json").read_text()) for name in ("one", "two"))
    assert [row["step"] for row in one] == [row["step"] for row in two]
    # the losses fall by 8 %; in float32 the sums of two ranks differ by 3e-7 of them
    assert [row["train_loss"] for row in one[1:]] == pytest.approx([row["train_loss"] for row in two[1:]], rel=1e-5)
