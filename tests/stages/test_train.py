import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reid.choice import ON_THE_TEST_IMAGES, Choice
from reid.data.market1501 import Manifest, TrainSet
from reid.data.sampler import EpochSteps
from reid.data.selection import held_out
from reid.data.store import open_store
from reid.embeddings import Embeddings, embed
from reid.errors import ArtifactError, DatasetError, TrainingError
from reid.library import score
from reid.model.checkpoint import load_model
from reid.stages.outcome import Outcome
from reid.stages.train import train
from reid.tracking.pipeline_run import open_pipeline_run
from reid.tracking.stage_run import StageRun, stage_run
from tests.drawn_persons import small_spec, write_persons
from tests.plain_thresholds import plain_thresholds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the data set and, from the first training on, its decoded images."""
    folder = tmp_path_factory.mktemp("training")
    write_persons(folder / "data")
    return folder


def run(folder: Path, model: Path, *overrides: str) -> Outcome:
    return train(
        small_spec(folder, *overrides),
        dataset=folder / "data/dataset.json",
        model=model,
        report=model / "report.html",
        run=StageRun.none(),
    )


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["state_dict"]


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def history(model: Path) -> list[dict[str, float]]:
    return json.loads((model / "history.json").read_text())


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Three epochs."""
    model = tmp_path_factory.mktemp("model")
    return model, run(folder, model)


def test_training_raises_the_map_of_persons_it_has_not_seen(trained):
    _, outcome = trained
    assert outcome.metrics["best_mAP"] > outcome.metrics["untrained_mAP"] + 0.3
    assert outcome.metrics["epochs"] == 3
    assert all(np.isfinite(value) for value in outcome.metrics.values())


def test_the_model_directory_holds_all_that_is_promised(trained):
    model, _ = trained
    assert {file.name for file in model.iterdir()} == {
        "history.json", "model_epoch_000.pth", "model_epoch_001.pth", "model_epoch_002.pth", "reid_model_best.pth",
        "reid_model_latest.pth", "report.html", "training_curves.png", "untrained_embeddings.npz",
    }  # fmt: skip
    rows = history(model)
    assert [row["epoch"] for row in rows] == [-1, 0, 1, 2]
    assert [row["step"] for row in rows] == [0, 5, 10, 15]
    wanted = {"train_loss", "cross_entropy", "triplet", "accuracy", "gradient_norm", "learning_rate", "mAP", "rank1"}
    assert wanted | {"rank5", "rank10", "mINP", "val_loss", "images_per_second"} <= set(rows[1])


def test_the_report_is_one_page_without_outside_files(trained):
    page = (trained[0] / "report.html").read_text()
    assert "<svg" in page
    assert "timm/test_resnet" in page
    assert page.count("http-equiv") == page.count('http-equiv="Content-Security-Policy"') == 1
    assert 'src="http' not in page


def test_every_checkpoint_loads_without_code_and_latest_is_the_last_epoch(trained):
    model, _ = trained
    for file in model.glob("*.pth"):
        wanted = {"state_dict", "optimizer_states", "loops", "reid", "training", "pytorch-lightning_version"}
        assert wanted <= set(torch.load(file, weights_only=True))
    assert_same_weights(model / "reid_model_latest.pth", model / "model_epoch_002.pth")


def test_the_best_checkpoint_is_the_epoch_of_the_highest_map(trained):
    model, outcome = trained
    best = max(history(model)[1:], key=lambda row: row["mAP"])
    assert outcome.metrics["best_mAP"] == best["mAP"]
    assert outcome.metrics["best_epoch"] == best["epoch"] + 1
    assert_same_weights(model / "reid_model_best.pth", model / f"model_epoch_{best['epoch']:03d}.pth")


def test_a_checkpoint_that_was_the_best_so_far_holds_the_thresholds_of_its_weights(trained, folder):
    model, _ = trained
    rows, best = history(model)[1:], -1.0
    for row in rows:
        found = torch.load(model / f"model_epoch_{row['epoch']:03d}.pth", weights_only=True)["reid"].get("thresholds")
        assert bool(found) == (row["mAP"] > best), row["epoch"]
        best = max(best, row["mAP"])
    loaded = load_model(model / "reid_model_best.pth")
    manifest = Manifest.load(folder / "data/dataset.json")
    gallery = manifest.gallery.without_junk()
    query, images = (
        embed(
            split,
            open_store(split, height=64, width=32, channels=3, folder=folder / "store", key="again"),
            loaded.of_pixels(),
            contract=loaded.contract,
            batch_size=32,
            what="",
        )
        for split in (manifest.query, gallery)
    )
    assert loaded.thresholds == plain_thresholds(query, images, measured_on=ON_THE_TEST_IMAGES)
    # 6 test persons: 12 queries; 12 * 2 images of the other camera; 12 * 5 * 4 of others and 12 of a distractor
    assert (loaded.thresholds.same_person_pairs, loaded.thresholds.different_person_pairs) == (24, 252)
    assert loaded.thresholds.rates == [0.01]


def test_the_untrained_embeddings_are_of_every_query_and_gallery_image_but_junk(trained, folder):
    manifest = Manifest.load(folder / "data/dataset.json")
    embeddings = Embeddings.load_npz(trained[0] / "untrained_embeddings.npz")
    assert embeddings.paths == [str(path) for path in [*manifest.query.paths, *manifest.gallery.without_junk().paths]]
    assert embeddings.vectors.shape == (len(manifest.query) + len(manifest.gallery) - 1, 32)


def test_a_checkpoint_is_a_model_with_its_contract(trained):
    loaded = load_model(trained[0] / "reid_model_best.pth")
    assert loaded.persons == tuple(range(1, 11))
    assert (loaded.contract.height, loaded.contract.width, loaded.contract.embedding) == (64, 32, 32)
    assert loaded.contract.std == (0.226, 0.226, 0.226)


def test_a_finished_training_only_returns_its_figures(trained, folder, caplog):
    model, outcome = trained
    before = {file.name: file.stat().st_mtime_ns for file in model.glob("*.pth")}
    with caplog.at_level(logging.INFO):
        again = run(folder, model)
    assert again.metrics == outcome.metrics
    assert {file.name: file.stat().st_mtime_ns for file in model.glob("*.pth")} == before
    assert f"{model / 'reid_model_latest.pth'}: all 3 epochs are done already" in caplog.messages


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trained, folder, tmp_path):
    model, _ = trained
    run(folder, tmp_path / "same")
    run(folder, tmp_path / "other", "train.seed=4", "train.num_epochs=1")
    assert_same_weights(model / "model_epoch_002.pth", tmp_path / "same/model_epoch_002.pth")
    with pytest.raises(AssertionError):
        assert_same_weights(model / "model_epoch_000.pth", tmp_path / "other/model_epoch_000.pth")


def test_a_resumed_training_ends_as_one_that_never_stopped(trained, folder, tmp_path, caplog):
    model, _ = trained
    run(folder, tmp_path, "train.num_epochs=1")
    with caplog.at_level(logging.INFO):
        run(folder, tmp_path)
    assert f"continuing from epoch 1 of 3: {tmp_path / 'reid_model_latest.pth'}" in caplog.messages
    assert_same_weights(model / "model_epoch_002.pth", tmp_path / "model_epoch_002.pth")
    best, resumed = (
        torch.load(folder / "reid_model_best.pth", weights_only=True)["reid"] for folder in (model, tmp_path)
    )
    assert best == resumed and best["thresholds"]
    ours, theirs = (
        [
            {
                name: value
                for name, value in row.items()
                if name not in ("seconds", "images_per_second", "validation_seconds")
            }
            for row in rows
        ]
        for rows in (history(model), history(tmp_path))
    )
    assert ours == theirs


def test_a_damaged_latest_falls_back_to_the_last_loadable_epoch_and_says_so(trained, folder, tmp_path, caplog):
    run(folder, tmp_path, "train.num_epochs=2")
    latest, epoch = tmp_path / "reid_model_latest.pth", tmp_path / "model_epoch_001.pth"
    for file in (latest, epoch):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.INFO):
        run(folder, tmp_path)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.splitlines()[0].split(": damaged")[0] for text in warnings] == [str(latest), str(epoch)]
    assert all(text.endswith("; trying the checkpoint before it") for text in warnings)
    assert f"continuing from epoch 1 of 3: {tmp_path / 'model_epoch_000.pth'}" in caplog.messages
    assert_same_weights(trained[0] / "model_epoch_002.pth", tmp_path / "model_epoch_002.pth")


def test_a_named_checkpoint_beats_the_folders_latest(trained, folder, tmp_path, caplog):
    model, _ = trained
    named = model / "model_epoch_001.pth"
    run(folder, tmp_path, "train.num_epochs=1", "train.seed=9")
    with caplog.at_level(logging.INFO):
        run(folder, tmp_path, f"train.resume_training_checkpoint_path={named}")
    assert f"continuing from epoch 2 of 3: {named}" in caplog.messages
    assert_same_weights(model / "model_epoch_002.pth", tmp_path / "model_epoch_002.pth")
    assert (tmp_path / "untrained_embeddings.npz").read_bytes() == (model / "untrained_embeddings.npz").read_bytes()


def test_a_named_checkpoint_that_is_not_there_is_an_error(folder, tmp_path):
    with pytest.raises(ArtifactError) as error:
        run(folder, tmp_path, f"train.resume_training_checkpoint_path={tmp_path / 'none.pth'}")
    assert str(error.value) == (
        f"{tmp_path / 'none.pth'}: no such file\n  want: a checkpoint (.pth, .tlt, .safetensors)"
    )


def test_a_folder_with_a_training_of_other_settings_is_refused(trained, folder):
    model, _ = trained
    with pytest.raises(TrainingError) as error:
        run(folder, model, "train.optim.base_lr=0.1", "train.num_epochs=9")
    latest = model / "reid_model_latest.pth"
    assert str(error.value) == (
        f"{latest}: a training with other settings: 1 differ\n"
        "  first: train.optim.base_lr: then 0.003, now 0.1\n"
        "  want: the earlier settings; or another folder for the new ones; or, to resume from there with\n"
        f"  the new ones, train.resume_training_checkpoint_path={latest}"
    )


def test_a_checkpoint_of_another_network_is_refused(trained, folder, tmp_path):
    named = trained[0] / "model_epoch_000.pth"
    with pytest.raises(ArtifactError) as error:
        run(folder, tmp_path, f"train.resume_training_checkpoint_path={named}", "model.feat_dim=16")
    assert str(error.value) == (
        f"{named}: a checkpoint of another network: feat_dim 32, not 16\n  want: one of the spec's network and persons"
    )


def test_a_wrong_number_of_classes_names_both_numbers(folder, tmp_path):
    with pytest.raises(DatasetError) as error:
        run(folder, tmp_path, "dataset.num_classes=751")
    assert str(error.value) == (
        f"{folder / 'data/bounding_box_train'}: 10 persons\n  dataset.num_classes: 751\n"
        "  want: dataset.num_classes=10, or null to count them"
    )


def test_a_loss_that_is_not_finite_stops_naming_the_step_and_its_images(folder, tmp_path):
    with pytest.raises(TrainingError) as error:
        run(folder, tmp_path, "train.optim.base_lr=1e30", "train.optim.name=SGD", "model.neck=''")
    images = Manifest.load(folder / "data/dataset.json").train
    step = list(EpochSteps(images.person, batch_size=16, num_instances=4, seed=3))[1]
    named = ", ".join(images.images[row].file for row in step.indices[:4])
    assert str(error.value) == (
        "training: loss is nan in epoch 1 of 3, step 2 of 5\n"
        f"  its batch begins with: {named}; all 16 images are in\n"
        f"  {tmp_path / 'bad_batch.txt'}\n"
        "  the last good checkpoint is kept\n"
        "  want: a smaller train.optim.base_lr, or train.clip_grad_norm above 0"
    )
    assert not list(tmp_path.glob("*.pth"))
    assert (tmp_path / "bad_batch.txt").read_text().split() == [images.images[row].file for row in step.indices]


def test_intervals_say_when_to_validate_and_to_write_and_the_last_epoch_does_both(folder, tmp_path):
    run(folder, tmp_path, "train.num_epochs=3", "train.validation_interval=2", "train.checkpoint_interval=2")
    assert [row["epoch"] for row in history(tmp_path) if "mAP" in row] == [-1, 1, 2]
    epochs = sorted(file.name for file in tmp_path.glob("model_epoch_*.pth"))
    assert epochs == ["model_epoch_001.pth", "model_epoch_002.pth"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset.sampler=softmax"],
        ["dataset.sampler=triplet"],
        ["model.with_center_loss=true", "model.metric_loss_type=triplet_center"],
        ["model.input_channels=1", "train.optim.name=SGD", "train.clip_grad_norm=1.0"],
        ["train.optim.lr_scheduler=AutoReduce", "train.optim.lr_monitor=train_loss"],
        ["train.optim.warmup_method=cosine", "train.optim.warmup_epochs=1", "model.with_flip_feature=true"],
    ],
    ids=["softmax", "triplet", "center", "grey", "plateau", "cosine"],
)
def test_the_ways_to_train_train(folder, tmp_path, overrides):
    outcome = run(folder, tmp_path, "train.num_epochs=1", *overrides)
    assert outcome.metrics["train_loss"] > 0
    channels = 1 if "model.input_channels=1" in overrides else 3
    assert load_model(tmp_path / "reid_model_latest.pth").contract.channels == channels


HELD_OUT = ["dataset.validation_persons=4", "train.num_epochs=2"]


@pytest.fixture(scope="module")
def chosen_apart(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Two epochs on 6 of the 10 persons."""
    model = tmp_path_factory.mktemp("apart")
    return model, run(folder, model, *HELD_OUT)


def test_held_out_persons_choose_the_best_checkpoint_and_are_not_trained_on(chosen_apart, folder):
    model, outcome = chosen_apart
    manifest = Manifest.load(folder / "data/dataset.json")
    roles = held_out(manifest.train, persons=4, seed=3)
    loaded = load_model(model / "reid_model_best.pth")
    assert loaded.persons == tuple(np.unique(roles.train.person).tolist())
    assert loaded.chosen_on == "4 held-out training persons, 24 images"
    sizes = [(row["validation_persons"], row["validation_images"]) for row in history(model)]
    assert sizes == [(4, 24)] * 3
    pixels = {image.file: row for row, image in enumerate(manifest.train.images)}
    store = next(path for path in (folder / "store").iterdir() if path.name.startswith("bounding_box_train-64x32x3"))
    decoded = np.load(store)
    query, gallery = (
        embed(
            split,
            decoded[[pixels[image.file] for image in split.images]],
            loaded.of_pixels(),
            contract=loaded.contract,
            batch_size=32,
            what="held out",
        )
        for split in (roles.query, roles.gallery)
    )
    assert outcome.metrics["best_mAP"] == pytest.approx(score(query, gallery).plain.scores.mAP, abs=1e-6)
    assert outcome.lines[0].endswith("; of 4 held-out training persons, 24 images)")


def test_the_training_images_are_decoded_once_if_persons_are_held_out(chosen_apart, folder):
    stores = [path.name for path in (folder / "store").iterdir() if path.name.startswith("bounding_box_train-64x32x3")]
    assert len(stores) == 1


def test_the_untrained_embeddings_are_of_the_test_images_if_persons_are_held_out(chosen_apart, trained):
    ours, theirs = (Embeddings.load_npz(model / "untrained_embeddings.npz") for model, _ in (chosen_apart, trained))
    assert ours.paths == theirs.paths
    np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=1e-5)  # 32 images at a time, and others


def test_the_report_and_the_figures_say_on_what_the_best_checkpoint_was_chosen(chosen_apart, trained, folder):
    words = "reid_model_best.pth, chosen on 4 held-out training persons, 24 images"
    assert words in (chosen_apart[0] / "report.html").read_text()
    optimistic = "the query and gallery images of the data set, whose figures are therefore optimistic"
    assert f"reid_model_best.pth, chosen on {optimistic}" in (trained[0] / "report.html").read_text()
    fingerprint = Manifest.load(folder / "data/dataset.json").fingerprint
    assert load_model(trained[0] / "reid_model_best.pth").choice == Choice(optimistic, fingerprint)
    assert "validation_persons" not in history(trained[0])[1]


def test_a_resumed_training_holds_out_the_same_persons(chosen_apart, folder, tmp_path):
    run(folder, tmp_path, *HELD_OUT, "train.num_epochs=1")
    run(folder, tmp_path, *HELD_OUT)
    assert_same_weights(chosen_apart[0] / "model_epoch_001.pth", tmp_path / "model_epoch_001.pth")
    with pytest.raises(TrainingError) as error:
        run(folder, tmp_path, "dataset.validation_persons=0.2", "train.num_epochs=3")
    assert "first: dataset.validation_persons: then 4, now 0.2\n" in str(error.value)


def test_the_number_of_classes_counts_held_out_persons_too(folder, tmp_path):
    run(folder, tmp_path, *HELD_OUT, "train.num_epochs=1", "dataset.num_classes=10")
    with pytest.raises(DatasetError) as error:
        run(folder, tmp_path / "other", *HELD_OUT, "dataset.num_classes=6")
    assert "10 persons\n  dataset.num_classes: 6\n" in str(error.value)


def test_sets_with_shares_train_and_a_resume_needs_the_same_shares(folder, tmp_path):
    manifest = Manifest.load(folder / "data/dataset.json")

    def with_shares(*shares: float) -> Outcome:
        sets = (TrainSet("a", 0, 30, shares[0]), TrainSet("b", 30, 30, shares[1]))
        replace(manifest, train_sets=sets).save(tmp_path / "dataset.json")
        return train(
            small_spec(folder, "train.num_epochs=1", "dataset.validation_persons=2"),
            dataset=tmp_path / "dataset.json",
            model=tmp_path / "model",
            report=tmp_path / "report.html",
            run=StageRun.none(),
        )

    assert with_shares(3, 1).metrics["epochs"] == 1
    with pytest.raises(TrainingError) as error:
        with_shares(1, 1)
    assert "first: dataset.train_sets.a.share: then 3.0, now 1.0\n" in str(error.value)


@pytest.mark.slow
def test_the_curves_and_the_account_of_the_weights_reach_mlflow(trained, folder, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    pipeline = open_pipeline_run(
        tracking_uri=uri, experiment="reid", run_name="one", tags={}, params={}, results_dir=tmp_path
    )
    client, run_id = MlflowClient(tracking_uri=uri), pipeline.start_stage("train", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    own = ["model.pretrain_choice=self", f"model.pretrained_model_path={trained[0] / 'model_epoch_000.pth'}"]
    with stage_run("train", tmp_path) as stage:
        train(
            small_spec(folder, "train.num_epochs=4", *own),
            dataset=folder / "data/dataset.json",
            model=tmp_path / "model",
            report=tmp_path / "report.html",
            run=stage,
        )
    weights = client.get_run(run_id).data.params["weights"]
    assert re.fullmatch(
        r"weights of this project: matched \d\d+ \(0 reshaped\), missing 0, unexpected 0; backbone 100%", weights
    )
    curves = {
        name: {point.step: point.value for point in client.get_metric_history(run_id, name)}
        for name in ("mAP", "train_loss", "learning_rate", "images_per_second", "gradient_norm", "step_loss")
    }
    rows = history(tmp_path / "model")
    assert curves["mAP"] == {row["epoch"] + 1: pytest.approx(row["mAP"]) for row in rows}
    assert curves["train_loss"] == {row["epoch"] + 1: pytest.approx(row["train_loss"]) for row in rows[1:]}
    assert set(curves["learning_rate"]) == set(curves["gradient_norm"]) == {1, 2, 3, 4}
    assert set(curves["step_loss"]) == {10, 20}
    files = {file.path for file in client.list_artifacts(run_id)}
    assert files == {"history.json", "report.html", "training_curves.png"}
