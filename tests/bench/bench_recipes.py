"""Which tricks raise the mAP on drawn data if each may use the same CPU time: a table with intervals over seeds.

    python -m tests.bench.bench_recipes                        all recipes, 90 s of CPU each, three seeds
    python -m tests.bench.bench_recipes --only plain gem --seconds 30

Every seed draws a data set of its own and starts a network of its own. An epoch's CPU time is measured first (three
epochs less one), the number of epochs follows from it, so a slower recipe trains for fewer epochs and its learning
rate falls sooner. The figure is the mAP of the last epoch on query and gallery: nothing is selected on them. Each
recipe is compared with its own plain one seed by seed; the interval is Student's at 95 %. Runs that are in the folder
already are not run again.
"""
# ruff: noqa: T201

import argparse
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tests.bench.rows import ROOT

T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Degrees of freedom -> the 97.5 % point of Student's distribution."""
SPEC = "pipelines/specs/demo.yaml"
MODULE = "tests.bench.bench_recipes"


@dataclass(frozen=True)
class Recipe:
    """What a recipe changes in the demo's spec, and the recipe that it is compared with."""

    overrides: tuple[str, ...]
    against: str = "plain"


DRAWN = {"train_persons": 60, "test_persons": 40, "distractors": 30, "junk": 10}
SMALL = ("model.input_height=64", "model.input_width=32", "dataset.padding=3", "train.optim.base_lr=0.001")
"""ResNet-18 at the demo's size would see its images only once or twice in the time."""
VIT = ("model.backbone=timm/test_vit", "train.optim.base_lr=0.001")
RECIPES = {
    "plain": Recipe(()),
    "GeM": Recipe(("model.pooling=gem",)),
    "EMA 0.99": Recipe(("train.ema_decay=0.99",)),
    "colour jitter": Recipe(("dataset.color_jitter.prob=0.5",)),
    "circle": Recipe(("model.id_loss_type=circle", "train.optim.cosine_margin=0.35", "train.optim.cosine_scale=64")),
    "OSNet x0.25": Recipe(("model.backbone=osnet_x0_25",)),
    "ViT": Recipe(VIT),
    "ViT, stride 8": Recipe((*VIT, "model.stride_size=[8,8]"), against="ViT"),
    "ResNet-18, 64 x 32": Recipe(("model.backbone=resnet_18", *SMALL)),
    "ResNet-18 IBN-a, 64 x 32": Recipe(("model.backbone=resnet_18_ibn_a", *SMALL), against="ResNet-18, 64 x 32"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing, prints the table and leaves recipes.json and recipes.md in the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(RECIPES), choices=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--seconds", type=float, default=90.0, help="CPU seconds of a training's steps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "bench" / "recipes")
    options = parser.parse_args(arguments)
    wanted = {"plain", *options.only, *(RECIPES[only].against for only in options.only)}
    names = [name for name in RECIPES if name in wanted]
    options.folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.at_once) as pool:
        list(pool.map(lambda seed: _draw(options.folder, seed), range(options.seeds)))
        epochs = dict(zip(names, pool.map(lambda name: _epochs(options.folder, name, options.seconds), names)))
        cases = [(name, seed) for seed in range(options.seeds) for name in names]
        rows = list(pool.map(lambda case: _figures(options.folder, *case, epochs=epochs[case[0]]), cases))
    found = {name: [row for (of, _), row in zip(cases, rows) if of == name] for name in names}
    text = table(found, epochs, seconds=options.seconds)
    print(text)
    (options.folder / "recipes.md").write_text(text + "\n", encoding="utf-8")
    (options.folder / "recipes.json").write_text(json.dumps({"epochs": epochs, "runs": found}, indent=1) + "\n")
    return 0


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval; the width is infinite for a single value."""
    if len(values) < 2:
        return mean(values), math.inf
    return mean(values), T_975[len(values) - 1] * stdev(values) / math.sqrt(len(values))


def verdict(difference: float, half: float) -> str:
    """What the interval of a difference says."""
    if abs(difference) <= half:
        return "not shown"
    return "helps" if difference > 0 else "harms"


def table(found: dict[str, list[dict[str, float]]], epochs: dict[str, int], *, seconds: float) -> str:
    """The Markdown table: mAP in % of each recipe, and its difference from the recipe that it is compared with."""
    lines = [
        f"| recipe, {seconds:.0f} s of CPU each | epochs | mAP | rank-1 | mAP beside | difference, 95 % interval | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in found.items():
        against = RECIPES[name].against
        figures = " | ".join(f"{100 * mean(row[key] for row in rows):.1f}" for key in ("mAP", "rank1"))
        if against == name:
            lines.append(f"| {name} | {epochs[name]} | {figures} | | | |")
            continue
        gains = [100 * (row["mAP"] - plain["mAP"]) for row, plain in zip(rows, found[against])]
        gain, half = interval(gains)
        lines.append(
            f"| {name} | {epochs[name]} | {figures} | {against} | {gain:+.1f} ± {half:.1f} | {verdict(gain, half)} |"
        )
    return "\n".join(lines)


def _draw(folder: Path, seed: int) -> None:
    from reid.drawn.dataset import ensure_market
    from reid.spec.dataset_sections import Synthetic

    drawn = Synthetic(root=str(folder / f"drawn-{seed}"), seed=100 + seed, **DRAWN)
    ensure_market(Path(drawn.root), **drawn.model_dump(exclude={"root"}), workers=1)


def _epochs(folder: Path, name: str, seconds: float) -> int:
    """How many epochs of the recipe take this CPU time, by the difference of trainings of three epochs and of one."""
    one, three = (_figures(folder, name, 0, epochs=count)["cpu_seconds"] for count in (1, 3))
    return max(2, round(seconds / max((three - one) / 2, 1e-3)))


def _figures(folder: Path, name: str, seed: int, *, epochs: int) -> dict[str, float]:
    """The last epoch's mAP and rank-1 of a training, and its CPU seconds; it is not run if its file is there."""
    place = folder / f"{''.join(letter if letter.isalnum() else '-' for letter in name)}-seed{seed}-epochs{epochs}"
    file = place.with_suffix(".json")
    if not file.exists():
        case = {"overrides": RECIPES[name].overrides, "seed": seed, "epochs": epochs, "folder": str(place)}
        case["drawn"] = str(folder / f"drawn-{seed}")
        done = subprocess.run(
            [sys.executable, "-m", MODULE, "--case", json.dumps(case)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        file.write_text(done.stdout.splitlines()[-1] + "\n", encoding="utf-8")
        print(f"{name}, seed {seed}, {epochs} epochs: {file.read_text().strip()}", file=sys.stderr, flush=True)
    figures: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return figures


def run_case(case: dict[str, Any]) -> dict[str, float]:
    """Trains in a process of its own (`reid train`), and reads the figures from its history."""
    place = Path(case["folder"])
    command = [
        *(sys.executable, "-m", "reid", "train", "-e", SPEC, f"results_dir={place}"),
        *(f"dataset.synthetic.root={case['drawn']}", f"dataset.synthetic.seed={100 + int(case['seed'])}"),
        *(f"dataset.synthetic.{name}={value}" for name, value in DRAWN.items()),
        f"dataset.num_classes={DRAWN['train_persons']}",
        *(f"train.seed={case['seed']}", f"train.num_epochs={case['epochs']}", "dataset.validation_persons=null"),
        *(
            f"train.validation_interval={case['epochs']}",
            "train.checkpoint_minutes=0",
            "train.checkpoint_interval=1000",
        ),
        *case["overrides"],
    ]
    place.mkdir(parents=True, exist_ok=True)
    with (place / "train.log").open("w", encoding="utf-8") as log:
        subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=subprocess.STDOUT)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    last = json.loads((place / "train" / "history.json").read_text(encoding="utf-8"))[-1]
    return {"mAP": last["mAP"], "rank1": last["rank1"], "cpu_seconds": used.ru_utime + used.ru_stime}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(run_case(json.loads(sys.argv[2]))))
        sys.exit(0)
    sys.exit(main())
