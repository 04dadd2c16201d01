"""Where a row of `make gpu-check` runs, and the product's own stages at its sizes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reid.data.market1501 import Manifest
from reid.spec import Experiment, load_spec
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun

FULL = {
    "backbone": "resnet_50", "height": 256, "width": 128, "feat_dim": 256,
    "persons": 160, "test_persons": 30, "images": 4, "batch_size": 128, "steps": 200,
}  # fmt: skip
TINY = {
    "backbone": "timm/test_resnet", "height": 64, "width": 32, "feat_dim": 32,
    "persons": 12, "test_persons": 6, "images": 2, "batch_size": 16, "steps": 12,
}  # fmt: skip
"""Of a dry run on the CPU, which shows that the script itself works."""
SPEC = """
results_dir: {folder}
model: {{backbone: {backbone}, pretrain_choice: "", input_width: {width}, input_height: {height}, feat_dim: {feat_dim}}}
dataset:
  synthetic: {{root: {folder}/drawn, train_persons: {persons}, test_persons: {test_persons},
               images_per_camera: {images}, distractors: 20, junk: 4}}
  num_classes: {persons}
  batch_size: {batch_size}
  val_batch_size: {batch_size}
train:
  num_epochs: 4
  validation_interval: 100
  checkpoint_interval: 1
  checkpoint_minutes: 0
  compile: "off"
  optim: {{base_lr: 0.00035, warmup_iters: 1, lr_steps: []}}
"""


@dataclass(frozen=True)
class Place:
    """The scratch folder of the check, and the device of one of its processes."""

    folder: Path
    device: str
    """cuda:0; or cpu, of a twin or in a dry run: torch sees no GPU then."""
    dry: bool = False
    side: str = "here"
    """Or twin; two processes of a row do not write into one folder."""

    @property
    def sizes(self) -> dict[str, Any]:
        """FULL, or TINY in a dry run."""
        return TINY if self.dry else FULL

    def spec(self, *overrides: str) -> Experiment:
        """The spec of everything here."""
        return load_spec(text=SPEC.format(folder=self.folder, **self.sizes), overrides=overrides)

    @property
    def dataset(self) -> Path:
        """The manifest that `draw` leaves."""
        return self.folder / "data" / "dataset.json"

    def draw(self) -> Manifest:
        """Draws, looks at and decodes the images, once."""
        from reid.stages.manifest import manifest
        from reid.stages.validate import validate
        from reid.training.images import decoded

        spec, data = self.spec(), self.dataset.parent
        if not self.dataset.exists():
            data.mkdir(parents=True, exist_ok=True)
            files = {"report": data / "report.html", "summary": data / "summary.md", "findings": data / "findings.json"}
            checked = validate(spec, **files, run=StageRun.none())
            fingerprint = str(checked.parameters["fingerprint"])
            manifest(spec, fingerprint=fingerprint, dataset=self.dataset, run=StageRun.none())
        listed = Manifest.load(self.dataset)
        for split in (listed.train.of_persons(), listed.query, listed.gallery):
            decoded(spec, split, listed.fingerprint)
        return listed

    def train(self, name: str, *overrides: str) -> Outcome:
        """The train stage into the model directory `name`."""
        from reid.stages.train import train

        model = self.model(name)
        spec = self.spec(*overrides)
        return train(spec, dataset=self.dataset, model=model, report=model / "report.html", run=StageRun.none())

    def evaluate(self, name: str, *overrides: str) -> dict[str, Any]:
        """The evaluate stage of a model directory: metrics.json, and where its embeddings are."""
        from reid.stages.evaluate import evaluate

        results = self.own(f"evaluate-{name}")
        spec, report = self.spec(*overrides), results / "report.html"
        arguments = {"dataset": self.dataset, "model": self.model(name), "results": results, "report": report}
        evaluate(spec, **arguments, run=StageRun.none())
        metrics: dict[str, Any] = json.loads((results / "metrics.json").read_text(encoding="utf-8"))
        return metrics | {"embeddings": str(results / "embeddings.npz")}

    def own(self, name: str) -> Path:
        """A folder of this side."""
        folder = self.folder / f"{name}-{self.side}"
        folder.mkdir(exist_ok=True)
        return folder

    def model(self, name: str) -> Path:
        """The model directory of that name."""
        return self.folder / "models" / name


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    """The greatest difference, as a share of the other."""
    return max(abs(ours - theirs) / max(abs(theirs), 1e-9) for ours, theirs in zip(one, other, strict=True))
