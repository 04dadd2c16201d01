"""How each figure of the GPU bench is measured: by `reid` tasks as a user runs them, in one scratch folder."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench import gpu_kernels
from tests.bench.gpu_rows import Facts
from tests.bench.gpu_task import busy_percent, ran_as, stepping, watched
from tests.bench.rows import in_a_process

SPEC = """
results_dir: {folder}
model: {{backbone: resnet_50, last_stride: 1, pretrain_choice: "", input_width: 128, input_height: 256, feat_dim: 256}}
dataset:
  synthetic: {{root: {folder}/drawn, train_persons: 751, test_persons: 750, images_per_camera: 4, distractors: 2793, junk: 0}}
  num_classes: 751
  batch_size: 128
  val_batch_size: 512
  num_instances: 4
train:
  seed: 1234
  compile: "on"
  checkpoint_minutes: 0
  optim: {{name: Adam, base_lr: 0.00035, lr_steps: [40, 70], warmup_iters: 10, weight_decay: 0.0005}}
"""  # noqa: E501
LONG = {
    "chosen": ("as chosen for 120 epochs", []),
    "fp32": ("fp32, IEEE, eager", ["train.precision=32", "train.compile=off"]),
}
SHORT = {
    "no-compile": ("without torch.compile", ["train.compile=off"]),
    "no-bf16": ("without bf16: fp32, IEEE, compiled", ["train.precision=32"]),
    "no-channels-last": ("without channels_last", ["train.channels_last=off"]),
    "no-fused-optimizer": ("without the fused optimizer", ["train.fused_optimizer=off"]),
    "cpu-augmentation": ("without augmentation on the GPU", ["dataset.augment_on=cpu"]),
    "no-cudnn-benchmark": ("without cudnn.benchmark", ["train.cudnn.benchmark=off"]),
    "cudnn-deterministic": ("cudnn.deterministic", ["train.cudnn.deterministic=on"]),
    "cudnn-repeatable": (
        "cudnn.deterministic, without cudnn.benchmark",
        ["train.cudnn.benchmark=off", "train.cudnn.deterministic=on"],
    ),
}
"""Trainings by name: what the row says, and the overrides."""


@dataclass(frozen=True)
class Scratch:
    """The folder of drawn images and trainings, and how each measurement is taken in it."""

    folder: Path
    spec: str
    gpu: str

    def measure(self, name: str, epochs: int | None) -> Facts:
        """The facts of one measurement."""
        ways: dict[str, Callable[[], Facts]] = {
            "data": self.data,
            "products": partial(in_a_process, gpu_kernels.MODULE, {"what": "products"}),
            "retrieval": self._retrieval,
            "embedding": self._embedding,
        }
        return ways[name]() if name in ways else self._training(name, epochs or 0)

    def data(self) -> Facts:
        """Draws and decodes all images, once in a scratch folder."""
        done = self.folder / "drawn.json"
        if done.exists():
            found: Facts = json.loads(done.read_text(encoding="utf-8"))
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        watched("validate", self._spec(), [], gpu=self.gpu)
        from reid.data.market1501 import Manifest
        from reid.spec import load_spec
        from reid.training.images import decoded

        spec, manifest = load_spec(self._spec()), Manifest.load(self.folder / "validate" / "dataset.json")
        splits = {"train": manifest.train.of_persons(), "query": manifest.query, "gallery": manifest.gallery}
        for split in splits.values():
            decoded(spec, split, manifest.fingerprint)
        found = {"images": {name: len(split) for name, split in splits.items()}, "seconds": time.monotonic() - began}
        done.write_text(json.dumps(found), encoding="utf-8")
        return found

    def _spec(self) -> Path:
        file = self.folder / "spec.yaml"
        file.write_text(self.spec.format(folder=self.folder), encoding="utf-8")
        return file

    def _training(self, name: str, epochs: int) -> Facts:
        """One `reid train`: its history, its time, and what the GPU did meanwhile; from the start, always."""
        images = self.data()["images"]["train"]
        place, spec = self.folder / name, self._spec()
        shutil.rmtree(place, ignore_errors=True)
        overrides = [f"train.results_dir={place}", f"train.num_epochs={epochs}"]
        overrides += [f"train.validation_interval={epochs}", f"train.checkpoint_interval={epochs}"]
        overrides += (LONG | SHORT)[name][1]
        seen = watched("train", spec, overrides, gpu=self.gpu)
        from reid.spec import load_spec

        used, history = load_spec(spec, overrides=overrides), json.loads((place / "history.json").read_text())
        return {
            "epochs": epochs,
            "history": history,
            "images": images,
            "batch_size": used.dataset.batch_size,
            "seconds": seen.seconds,
            "busy": busy_percent(seen.utilization, stepping(seen.log, history)),
            "ran_as": ran_as(seen.log),
        }

    def _embedding(self) -> Facts:
        """`reid evaluate` of what was trained."""
        self.data()
        place = self.folder / "evaluate"
        checkpoint = f"evaluate.checkpoint={self.folder / 'chosen' / 'reid_model_latest.pth'}"
        watched("evaluate", self._spec(), [checkpoint, f"evaluate.results_dir={place}"], gpu=self.gpu)
        figures: Facts = json.loads((place / "metrics.json").read_text(encoding="utf-8"))
        return figures

    def _retrieval(self) -> Facts:
        case = partial(in_a_process, gpu_kernels.MODULE)
        found = {str(width): case({"what": "re-ranking", "width": width}) for width in (256, 2048)}
        return found | {"blocks": case({"what": "re-ranking in blocks", "gallery": 100_000})}
