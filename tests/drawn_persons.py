"""Persons as two coloured rectangles on a noisy wall: a small network learns to tell them apart within seconds."""

from pathlib import Path

import numpy as np
from PIL import Image

from reid.data.market1501 import Manifest, list_folder
from reid.spec import Experiment, load_spec

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"


def draw_person(rng: np.random.Generator, colours: np.ndarray, camera: int, *, height: int, width: int) -> Image.Image:
    """colours (2, 3) of jacket and trousers; the camera decides the light and the wall."""
    pixels = np.full((height, width, 3), 40 + 50 * camera, np.float64)
    left, right = width // 5 + rng.integers(-1, 2), width - width // 5 + rng.integers(-1, 2)
    top = height // 8 + rng.integers(-2, 3)
    pixels[top : height // 2, left:right] = colours[0]
    pixels[height // 2 :, left:right] = colours[1]
    light = np.array([1.0, 0.9, 0.8]) if camera == 2 else np.array([0.85, 0.95, 1.0])
    return Image.fromarray(np.clip(pixels * light + rng.normal(0, 14, pixels.shape), 0, 255).astype(np.uint8))


def write_persons(
    root: Path, *, train: int = 10, test: int = 6, images: int = 3, height: int = 64, width: int = 32
) -> Path:
    """A data set under `root`; returns its manifest's path. Two cameras, `images` of a person under each."""
    rng = np.random.default_rng(5)
    for person in range(1, train + test + 1):
        colours = rng.uniform(0, 255, (2, 3))
        for camera in (1, 2):
            for number in range(images):
                split = TRAIN if person <= train else QUERY if number == 0 else GALLERY
                file = root / split / f"{person:04d}_c{camera}s1_{number:06d}_01.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                draw_person(rng, colours, camera, height=height, width=width).save(file)
    for name in ("-1_c1s1_000000_01.png", "0000_c2s1_000000_01.png"):
        draw_person(rng, rng.uniform(0, 255, (2, 3)), 1, height=height, width=width).save(root / GALLERY / name)
    splits = [list_folder(root / name).split for name in (TRAIN, QUERY, GALLERY)]
    manifest = root / "dataset.json"
    Manifest("drawn", *splits).save(manifest)
    return manifest


def small_spec(results: Path, *overrides: str) -> Experiment:
    """timm's test_resnet at 64 x 32 on such a data set, batches of 16 images."""
    text = f"""
results_dir: {results}
model: {{backbone: timm/test_resnet, pretrain_choice: "", input_width: 32, input_height: 64, feat_dim: 32,
         dropout_rate: 0.2}}
dataset: {{num_classes: null, batch_size: 16, num_instances: 4, padding: 3, val_batch_size: 32}}
train:
  num_epochs: 3
  seed: 3
  optim: {{name: AdamW, base_lr: 0.003, warmup_iters: 0, lr_steps: []}}
"""
    return load_spec(text=text, overrides=overrides)
