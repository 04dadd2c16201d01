"""A small data set, and what the real builders and stages make of it under a spec with some fields changed."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from reid.cli.tasks import run_task
from reid.data.market1501 import Manifest
from reid.data.module import Batch, TrainingData
from reid.distributed.devices import ComputePlan
from reid.model.embedder import Embedder
from reid.spec import Experiment, load_spec
from reid.spec.network import contract_of
from reid.stages.outcome import Outcome
from reid.stages.train import train
from reid.tracking.stage_run import StageRun
from reid.training.images import build_data
from reid.training.lightning import Training
from reid.training.recipe import build_module, build_network
from reid.training.resume import LATEST, DurableCheckpoints
from reid.training.trainer import fit, seed_everything
from tests.drawn_persons import GALLERY, QUERY, TRAIN, write_persons

BASE = """
results_dir: {root}/results
model: {{backbone: timm/test_resnet, pretrain_choice: "", input_width: 16, input_height: 32, feat_dim: 8}}
dataset: {{train_dataset_dir: {root}/data/bounding_box_train, test_dataset_dir: {root}/data/bounding_box_test,
          query_dataset_dir: {root}/data/query, store_dir: {root}/store, num_classes: null, batch_size: 8,
          num_instances: 2, padding: 0, prob: 0.0, re_prob: 0.0, val_batch_size: 16}}
re_ranking: {{k1: 4, k2: 2}}
train: {{num_epochs: 1, seed: 3, optim: {{name: AdamW, base_lr: 0.003, warmup_iters: 0, lr_steps: []}}}}
"""
"""timm's test_resnet at 32 x 16 and batches of 4 persons x 2 images, nothing augmented: 0.6 s for an epoch."""
PERSONS = [1, 2, 3, 4]
FOLDERS = {"train": TRAIN, "query": QUERY, "test": GALLERY}


@dataclass(frozen=True)
class Trained:
    """What a training left."""

    folder: Path
    outcome: Outcome

    @property
    def epochs(self) -> list[dict[str, float]]:
        """The history without the untrained network's row."""
        rows: list[dict[str, float]] = json.loads((self.folder / "history.json").read_text())
        return rows[1:]

    @property
    def checkpoint(self) -> dict[str, Any]:
        """The latest."""
        content: dict[str, Any] = torch.load(self.folder / LATEST, weights_only=True)
        return content

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups: of the weights, of the biases."""
        groups: list[dict[str, Any]] = self.checkpoint["optimizer_states"][0]["param_groups"]
        return groups


class Seen(Callback):
    """Every step's figures, and each epoch's learning rates, of the weights and of the biases."""

    def __init__(self, module: Training) -> None:
        self.module = module
        self.steps: list[dict[str, float]] = []
        self.rates: list[list[float]] = []

    def on_train_batch_end(
        self, _trainer: pl.Trainer, _module: pl.LightningModule, outputs: Any, _batch: Any, _batch_idx: int
    ) -> None:
        """Lightning calls it."""
        self.steps.append({name: float(value) for name, value in outputs.items()})

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Lightning calls it."""
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])


@dataclass(frozen=True)
class Lab:
    """A place to try a spec; `kept` is shared by all tests of a process, so that nothing is run twice."""

    root: Path
    kept: dict[Any, Any] = field(default_factory=dict)
    folder: Path = Path()
    """Of the test alone."""
    patch: pytest.MonkeyPatch = field(default_factory=pytest.MonkeyPatch)
    log: pytest.LogCaptureFixture | None = None

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gave when the key was first asked for."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    @property
    def manifest(self) -> Path:
        """4 persons to train on, 6 to test on, under 2 cameras, 3 images of each; one junk, one distractor image."""
        data = self.root / "data"
        path: Path = self.once("data", lambda: write_persons(data, train=4, test=6, height=32, width=16))
        return path

    def other_images(self, split: str) -> Path:
        """The folder of a split of another data set like it."""
        data = self.root / "other"
        self.once("other", lambda: write_persons(data, train=4, test=6, height=32, width=16))
        return data / FOLDERS[split]

    def spec(self, *overrides: str) -> Experiment:
        """BASE with overrides."""
        assert self.manifest
        return load_spec(text=BASE.format(root=self.root), overrides=overrides)

    def warnings(self, *overrides: str) -> list[str]:
        """What is said when a spec of these values alone is loaded."""
        return self.said(lambda: load_spec(text="", overrides=overrides), logging.WARNING)

    def said(self, act: Callable[[], Any], level: int = logging.INFO) -> list[str]:
        """What went to the log meanwhile."""
        assert self.log
        self.log.clear()
        with self.log.at_level(level):
            act()
        return self.log.messages

    def network(self, *overrides: str) -> Embedder:
        """The spec's network with its first weights."""
        seed_everything(0)
        return build_network(self.spec(*overrides), PERSONS, None)[0]

    def module(self, *overrides: str) -> Training:
        """The spec's network, losses and optimizer."""
        return build_module(self.spec(*overrides), self.network(*overrides))

    def data(self, *overrides: str) -> TrainingData:
        """The training's batches."""
        spec, images = self.spec(*overrides), Manifest.load(self.manifest).train
        label = np.unique(images.person, return_inverse=True)[1]
        return build_data(spec, images, label, contract=contract_of(spec, 8), fingerprint="drawn")

    def batch(self, *overrides: str) -> Batch:
        """The first of the training."""
        batch: Batch = next(iter(self.data(*overrides).train_dataloader()))
        return batch

    def fit(self, *overrides: str) -> "Seen":
        """The steps of the spec's module over the spec's batches, without the stage around them."""

        def run() -> Seen:
            spec, seen = self.spec(*overrides), Seen(self.module(*overrides))
            fit(
                seen.module,
                self.data(*overrides),
                callbacks=[seen],
                plan=ComputePlan(("cpu",), "32-true"),
                checkpoints=DurableCheckpoints(),
                epochs=spec.train.num_epochs,
                start=None,
                folder=self.folder,
            )
            return seen

        done: Seen = self.once(("fit", *overrides), run)
        return done

    def train(self, *overrides: str) -> Trained:
        """A finished training, in a folder that no test may change."""
        folder = self.root / f"trained{len(self.kept)}"
        done: Trained = self.once(("train", *overrides), lambda: self.train_in(folder, *overrides))
        return done

    def train_in(self, folder: Path, *overrides: str) -> Trained:
        """The train stage, really run."""
        spec, report = self.spec(*overrides), folder / "report.html"
        return Trained(folder, train(spec, dataset=self.manifest, model=folder, report=report, run=StageRun.none()))

    def task(self, name: str, *overrides: str) -> Outcome:
        """A task of the command line, really run."""
        return run_task(name, self.spec(*overrides))


def images(*, height: int = 32, width: int = 16, channels: int = 3) -> torch.Tensor:
    """Noise (4, C, H, W)."""
    return torch.randn(4, channels, height, width, generator=torch.Generator().manual_seed(0))
