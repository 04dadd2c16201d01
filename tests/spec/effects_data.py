"""What each field of the spec's section `dataset` does."""

import dataclasses
import json
import logging
import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from reid.cli.task_files import images_of
from reid.data.market1501 import Manifest, Split, TrainSet, list_folder
from reid.data.store import read_resized
from reid.errors import DatasetError, SpecError
from reid.files.hashes import file_sha256
from reid.stages.train import train
from reid.stages.validate import ensure_made
from reid.tracking.stage_run import StageRun
from reid.training import images as training_images
from tests.drawn_persons import GALLERY, QUERY, TRAIN, write_persons
from tests.spec.lab import FOLDERS, Lab

DRAWN = {
    "train_persons": 2, "test_persons": 2, "cameras": 2, "images_per_camera": 1, "distractors": 1, "junk": 1,
    "width": 16, "height": 32, "seed": 0,
}  # fmt: skip


def _folder_of(split: str) -> Callable[[Lab], None]:
    def check(lab: Lab) -> None:
        other = lab.other_images(split)
        lab.task("validate", f"dataset.{split}_dataset_dir={other}", f"results_dir={lab.folder}")
        manifest = Manifest.load(lab.folder / "validate" / "dataset.json")
        roots = {"train": manifest.train.root, "query": manifest.query.root, "test": manifest.gallery.root}
        wanted = {name: lab.root / "data" / folder for name, folder in FOLDERS.items()} | {split: other}
        assert roots == wanted

    return check


def _drawn(lab: Lab, **changes: int) -> dict[str, Split]:
    """The splits of a drawn data set; "train" and so on."""
    root = lab.root / "-".join(["drawn", *(f"{name}{value}" for name, value in changes.items())])
    values = [f"dataset.synthetic.{name}={value}" for name, value in (DRAWN | changes).items()]
    lab.once(root, lambda: ensure_made(lab.spec(f"dataset.synthetic.root={root}", *values)))
    return {name: list_folder(root / folder).split for name, folder in FOLDERS.items()}


def synthetic_root(lab: Lab) -> None:
    assert _drawn(lab)["train"].root == lab.root / "drawn" / FOLDERS["train"]


def _persons(field: str, split: str) -> Callable[[Lab], None]:
    def check(lab: Lab) -> None:
        persons = [_drawn(lab, **changes)[split].of_persons().person for changes in ({}, {field: 3})]
        assert [len(set(found.tolist())) for found in persons] == [2, 3]

    return check


def synthetic_cameras(lab: Lab) -> None:
    cameras = [max(_drawn(lab, **changes)["train"].camera) for changes in ({}, {"cameras": 6})]
    assert cameras[0] == 2
    assert 2 < cameras[1] <= 6


def synthetic_images_per_camera(lab: Lab) -> None:
    assert len(_drawn(lab, images_per_camera=4)["train"]) > 2 * len(_drawn(lab)["train"])


def _gallery_images(field: str, person: int) -> Callable[[Lab], None]:
    def check(lab: Lab) -> None:
        galleries = [_drawn(lab, **changes)["test"] for changes in ({}, {field: 3})]
        assert [int((gallery.person == person).sum()) for gallery in galleries] == [1, 3]

    return check


def _pixels(lab: Lab, **changes: int) -> NDArray[np.uint8]:
    """(H, W, 3) of a drawn image."""
    with Image.open(_drawn(lab, **changes)["train"].paths[0]) as image:
        return np.asarray(image)


def synthetic_width(lab: Lab) -> None:
    assert [_pixels(lab).shape, _pixels(lab, width=24).shape] == [(32, 16, 3), (32, 24, 3)]


def synthetic_height(lab: Lab) -> None:
    assert [_pixels(lab).shape, _pixels(lab, height=40).shape] == [(32, 16, 3), (40, 16, 3)]


def synthetic_seed(lab: Lab) -> None:
    assert not np.array_equal(_pixels(lab), _pixels(lab, seed=1))


def _read(lab: Lab, *overrides: str) -> Manifest:
    """The manifest of the lab's images."""
    lab.task("validate", *overrides, f"results_dir={lab.folder}")
    return Manifest.load(lab.folder / "validate" / "dataset.json")


def file_name(lab: Lab) -> None:
    """The frame's number taken for the camera."""
    usual = _read(lab)
    read = _read(lab, r"dataset.file_name=(?P<person>-1|\d+)_c(?P<camera>\d)s1_\d+_01")
    assert [split.images for split in (read.train, read.gallery)] == [usual.train.images, usual.gallery.images]
    frames = _read(lab, r"dataset.file_name=(?P<person>-1|\d+)_c\ds1_(?P<camera>\d+)_01")
    assert set(frames.train.camera.tolist()) == {0, 1, 2}


def cameras(lab: Lab) -> None:
    usual, unknown = _read(lab), _read(lab, "dataset.cameras=none")
    assert set(usual.query.camera.tolist()) == set(usual.gallery.camera.tolist()) == {1, 2}
    assert (set(unknown.query.camera.tolist()), set(unknown.gallery.camera.tolist())) == ({1}, {2})
    assert unknown.gallery.person.tolist() == usual.gallery.person.tolist()


def corrections(lab: Lab) -> None:
    """A training image that is left out, and one that is of another person."""
    usual = _read(lab)
    first, second, *others = usual.train.images
    lines = ["image,sha256,correction"]
    for image, what in ((first, "drop"), (second, f"person: {others[-1].person}")):
        lines.append(f"train/{image.file},{file_sha256(usual.train.root / image.file)},{what}")
    file = lab.folder / "corrections.csv"
    file.write_text("\n".join(lines))
    found = _read(lab, f"dataset.corrections={file}")
    assert found.train.images == (dataclasses.replace(second, person=others[-1].person), *others)
    assert (found.query, found.gallery) == (usual.query, usual.gallery)
    assert found.fingerprint != usual.fingerprint
    assert Manifest.load(images_of(lab.spec(f"dataset.corrections={file}"), "evaluate")) == found


NO_FOLDERS = [f"dataset.{split}_dataset_dir=null" for split in FOLDERS]


def layout(lab: Lab) -> None:
    """The same images by a CSV, which counts persons from 0 and has names for its cameras."""
    usual = _read(lab)
    rows = ["path,person,camera,split"]
    for split, images in (("train", usual.train), ("query", usual.query), ("gallery", usual.gallery.of_persons())):
        rows += [
            f"{images.root.name}/{image.file},{image.person - 1},camera {image.camera},{split}"
            for image in images.images
        ]
    (lab.root / "data" / "images.csv").write_text("\n".join(rows))
    found = _read(lab, *NO_FOLDERS, "dataset.layout=csv", f"dataset.root={lab.root}/data")
    assert found.query.person.tolist() == usual.query.person.tolist()
    assert found.query.camera.tolist() == usual.query.camera.tolist()
    assert [len(found.train), len(found.gallery)] == [len(usual.train), len(usual.gallery) - 2]


def root(lab: Lab) -> None:
    """It stands for the three folders."""
    usual = _read(lab)
    assert _read(lab, *NO_FOLDERS, f"dataset.root={lab.root}/data") == usual


def train_sets(lab: Lab) -> None:
    """The training images of two sets, of 4 persons each."""
    usual, other = _read(lab), lab.other_images("train").parent
    sets = f"[{{name: one, root: {lab.root}/data, share: 1.0}}, {{name: two, root: {other}, share: 3.0}}]"
    found = _read(lab, "dataset.train_dataset_dir=null", f"dataset.train_sets={sets}")
    assert found.train.paths == [*usual.train.paths, *(other / TRAIN / image.file for image in usual.train.images)]
    assert set(found.train.person.tolist()) == {1, 2, 3, 4, 5, 6, 7, 8}
    assert found.train_sets == (TrainSet("one", 0, 24, 1.0), TrainSet("two", 24, 24, 3.0))
    assert (found.query, found.gallery) == (usual.query, usual.gallery)
    assert found.fingerprint != usual.fingerprint


def test_sets(lab: Lab) -> None:
    """Query and gallery of another data set."""
    usual, other = _read(lab), lab.other_images("query").parent
    sets = f"dataset.test_sets=[{{name: other, root: {other}}}]"
    assert _read(lab, sets) == usual
    found = Manifest.load(images_of(lab.spec(sets, f"results_dir={lab.folder}"), "evaluate"))
    (test,) = found.test_sets
    assert (test.name, test.query.root, test.gallery.root) == ("other", other / QUERY, other / GALLERY)
    assert test.query.images == usual.query.images
    assert (found.train, found.query) == (usual.train, usual.query)


def store_dir(lab: Lab) -> None:
    lab.batch(f"dataset.store_dir={lab.folder}/mine")
    assert [path for path in (lab.folder / "mine").rglob("*") if path.is_file()]
    spec = lab.spec("dataset.store_dir=null", "results_dir=/r")
    assert spec.store_dir == "/r/store"


def num_classes(lab: Lab) -> None:
    with pytest.raises(DatasetError) as caught:
        lab.train_in(lab.folder, "dataset.num_classes=5")
    assert str(caught.value) == (
        f"{lab.root}/data/bounding_box_train: 4 persons\n  dataset.num_classes: 5\n"
        "  want: dataset.num_classes=4, or null to count them"
    )
    assert lab.train("dataset.num_classes=null").epochs


def validation_persons(lab: Lab) -> None:
    """Two of the four persons, or half of them, are validated on and not trained on."""
    for value in ("2", "0.5"):
        trained = lab.train(f"dataset.validation_persons={value}", "dataset.batch_size=4")
        assert len(trained.checkpoint["reid"]["persons"]) == 2
        assert trained.epochs[0]["validation_persons"] == 2
    assert len(lab.train().checkpoint["reid"]["persons"]) == 4
    for value, found in (
        ("1", "1 (int)"),
        ("1.0", "1.0 (float)"),
        ("0.0", "0.0 (float)"),
        ("-3", "-3 (int)"),
        ("true", "True (bool)"),
        ("ten", "'ten' (str)"),
    ):
        with pytest.raises(SpecError) as caught:
            lab.spec(f"dataset.validation_persons={value}")
        assert str(caught.value) == (
            f"command line: dataset.validation_persons: found {found}; "
            "want: a whole number from 2 on, or a share above 0 and below 1, e.g. 0.1"
        )


def corrupt_images(lab: Lab) -> None:
    """One image is damaged after it was listed: named, or left out and counted."""
    data = lab.folder / "data"
    manifest = write_persons(data, train=4, test=6, height=32, width=16)
    bad = sorted((data / "bounding_box_train").iterdir())[5]
    bad.write_bytes(b"no picture")

    def train_with(policy: str) -> None:
        spec = lab.spec(f"dataset.corrupt_images={policy}", f"dataset.store_dir={lab.folder}/store")
        model = lab.folder / policy
        train(spec, dataset=manifest, model=model, report=model / "report.html", run=StageRun.none())

    with pytest.raises(DatasetError) as caught:
        train_with("fail")
    assert str(caught.value) == f"{bad}: cannot be read: not an image; has it changed since the validate stage?"
    assert lab.said(lambda: train_with("skip"), logging.WARNING) == [
        f"{bad.parent}: 1 of 24 training images cannot be read and are left out\n  first: {bad}: not an image"
    ]


def batch_size(lab: Lab) -> None:
    assert [len(lab.batch(f"dataset.batch_size={size}").images) for size in (8, 4)] == [8, 4]


def val_batch_size(lab: Lab) -> None:
    assert [max(_sizes_embedded(lab, size)) for size in (16, 5)] == [16, 5]


def _sizes_embedded(lab: Lab, batch_size: int) -> list[int]:
    """The batches that the network sees in an inference."""
    sizes: list[int] = []
    model = lab.train().folder
    hook = torch.nn.modules.module.register_module_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    try:
        lab.task(
            "inference",
            f"inference.checkpoint={model}",
            f"dataset.val_batch_size={batch_size}",
            f"results_dir={lab.folder}",
        )
    finally:
        hook.remove()
    return sizes


def num_workers(lab: Lab) -> None:
    said = lab.said(lambda: lab.batch("dataset.num_workers=3"))
    assert said == ["dataset.num_workers: 3 loader processes are not needed: the images fit in memory"]
    lab.patch.setattr(os, "sysconf", lambda _: 1)  # a machine with one byte of memory
    assert lab.data("dataset.num_workers=3").num_workers == 3


def _normalised(field: str, values: str) -> Callable[[Lab], None]:
    """Both batches are the same pixels, normalised by the figures that the spec names."""

    def check(lab: Lab) -> None:
        raw = []
        for overrides in ([], [f"dataset.{field}={values}"]):
            section, batch = lab.spec(*overrides).dataset, lab.batch(*overrides)
            mean, std = torch.tensor(section.pixel_mean), torch.tensor(section.pixel_std)
            raw.append(batch.images * std[:, None, None] + mean[:, None, None])
        torch.testing.assert_close(raw[0], raw[1])
        assert not torch.equal(lab.batch().images, lab.batch(f"dataset.{field}={values}").images)

    return check


def padding(lab: Lab) -> None:
    black = -torch.tensor([0.485, 0.456, 0.406]) / 0.226
    for pixels, wanted in ((0, False), (3, True)):
        edges = lab.batch(f"dataset.padding={pixels}").images[:, :, [0, -1]]  # (B, 3, 2, W)
        is_black = (edges - black[:, None, None]).abs().amax(dim=(1, 3)) < 1e-6
        assert bool(is_black.any()) is wanted


def prob(lab: Lab) -> None:
    never, always = (lab.batch(f"dataset.prob={value}").images for value in (0.0, 1.0))
    assert torch.equal(always, never.flip(3))


def re_prob(lab: Lab) -> None:
    fill = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    for value, wanted in ((0.0, 0), (1.0, 8)):
        erased = (lab.batch(f"dataset.re_prob={value}").images == fill).all(dim=1)  # (B, H, W)
        assert int(erased.any(dim=(1, 2)).sum()) == wanted


def erasing(lab: Lab) -> None:
    fill = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    for value, share in (("mean", 1.0), ("auto", 1.0), ("noise", 0.0)):
        batch, untouched = (lab.batch(f"dataset.re_prob={chance}", f"dataset.erasing={value}") for chance in (1.0, 0.0))
        changed = (batch.images != untouched.images).any(dim=1)
        assert int(changed.any(dim=(1, 2)).sum()) == 8
        assert ((batch.images == fill).all(dim=1)[changed]).float().mean() == share
    assert training_images.erasing(lab.spec(SWIN)) == "noise"
    assert training_images.erasing(lab.spec(SWIN, "dataset.erasing=mean")) == "mean"
    assert lab.warnings("dataset.re_prob=0", "dataset.erasing=noise") == [
        "spec: dataset.erasing has no effect: dataset.re_prob is 0"
    ]


SWIN = "model.backbone=swin_tiny_patch4_window7_224"


def train_resize(lab: Lab) -> None:
    smaller = ["model.input_height=24", "model.input_width=12"]
    auto, bilinear, bicubic = (
        lab.batch(*smaller, f"dataset.train_resize={value}").images for value in ("auto", "bilinear", "bicubic")
    )
    assert torch.equal(auto, bilinear)
    assert not torch.equal(bicubic, bilinear)
    assert training_images.training_resize(lab.spec(SWIN)) == "bicubic"
    assert training_images.training_resize(lab.spec(SWIN, "dataset.train_resize=bilinear")) == "bilinear"
    # what the best checkpoint is chosen on is resized as for a trained model
    held_out = lab.spec(
        *smaller, "dataset.train_resize=bicubic", "dataset.validation_persons=2", "dataset.batch_size=4"
    )
    manifest = Manifest.load(lab.manifest)
    roles = training_images.roles_of(held_out, manifest)
    images = training_images.images_of(held_out, manifest, roles)
    query = np.stack([read_resized(path, height=24, width=12, channels=3) for path in images.query.paths])
    assert np.array_equal(images.query_pixels[:], query)
    learnt = read_resized(images.train.paths[0], "bicubic", height=24, width=12, channels=3)
    assert np.array_equal(images.train_pixels[np.array([0])][0], learnt)


def _raw(lab: Lab, *overrides: str) -> torch.Tensor:
    """The first batch, 0..255, (B, 3, H, W)."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), 0.226
    return (lab.batch(*overrides).images * std + mean[:, None, None]) * 255


COLOURS = ("brightness", "contrast", "saturation", "hue")


def color_jitter_prob(lab: Lab) -> None:
    plain = _raw(lab)
    changed = {value: (_raw(lab, f"dataset.color_jitter.prob={value}") - plain).abs().amax((1, 2, 3)) > 1
               for value in (0.0, 0.5, 1.0)}  # fmt: skip
    assert not changed[0.0].any()
    assert 0 < changed[0.5].sum() < 8
    assert changed[1.0].all()
    assert lab.warnings("dataset.color_jitter.hue=0.2") == [
        "spec: dataset.color_jitter.hue has no effect: dataset.color_jitter.prob is 0"
    ]


def _strength(name: str) -> Callable[[Lab], None]:
    """Nothing changes if all strengths are 0, and this one changes the images."""

    def check(lab: Lab) -> None:
        none = ["dataset.color_jitter.prob=1.0", *(f"dataset.color_jitter.{colour}=0.0" for colour in COLOURS)]
        plain = _raw(lab)
        assert torch.equal(_raw(lab, *none), plain)
        apart = _raw(lab, *none, f"dataset.color_jitter.{name}=0.5") - plain
        assert float(apart.abs().amax((1, 2, 3)).min()) > 1

    return check


def grey_prob(lab: Lab) -> None:
    for value, wanted in ((0.0, 0), (1.0, 8)):
        images = _raw(lab, f"dataset.grey_prob={value}")
        assert int(((images.amax(1) - images.amin(1)).amax((1, 2)) < 0.01).sum()) == wanted
    assert lab.warnings("dataset.grey_prob=0.5", "model.input_channels=1") == [
        "spec: dataset.grey_prob has no effect: model.input_channels is 1, and grey images have no colours"
    ]


def autoaugment_prob(lab: Lab) -> None:
    plain = _raw(lab)
    changed = (_raw(lab, "dataset.autoaugment_prob=1.0") - plain).abs().amax((1, 2, 3)) > 1
    assert changed.sum() > 4
    assert torch.equal(_raw(lab, "dataset.autoaugment_prob=0.0"), plain)


def augment_on(lab: Lab) -> None:
    """The same batches, made elsewhere; auto: where the training's device is a GPU."""
    chance = ("dataset.padding=4", "dataset.prob=0.5", "dataset.re_prob=0.5")
    said = lab.said(lambda: lab.train_in(lab.folder, "dataset.augment_on=device", *chance))
    assert any(text.endswith("images augmented on the device") for text in said)
    assert any(
        text.endswith("images augmented on the CPU") for text in lab.said(lambda: lab.train_in(lab.folder / "x"))
    )
    losses = [
        json.loads((folder / "history.json").read_text())[1]["train_loss"]
        for folder in (lab.folder, lab.train("dataset.augment_on=cpu", *chance).folder)
    ]
    assert losses[0] == losses[1]


def sampler(lab: Lab) -> None:
    losses = {"cross_entropy", "triplet"}
    for value, names, in_pairs in (
        ("softmax", {"cross_entropy"}, False),
        ("triplet", {"triplet"}, True),
        ("softmax_triplet", losses, True),
    ):
        label = lab.batch(f"dataset.sampler={value}").label.view(-1, 2)
        assert bool((label[:, 0] == label[:, 1]).all()) is in_pairs
        assert lab.fit(f"dataset.sampler={value}").steps[0].keys() & losses == names


def num_instances(lab: Lab) -> None:
    for count in (2, 4):
        label = lab.batch(f"dataset.num_instances={count}").label.view(-1, count)
        assert bool((label == label[:, :1]).all())
        assert len(set(label[:, 0].tolist())) == len(label) == 8 // count
    assert lab.warnings("dataset.sampler=softmax", "dataset.num_instances=2") == [
        "spec: dataset.num_instances has no effect: dataset.sampler = softmax shuffles plainly"
    ]


DATASET: dict[str, Callable[[Lab], None]] = {
    "dataset.layout": layout,
    "dataset.root": root,
    "dataset.corrections": corrections,
    "dataset.train_sets": train_sets,
    "dataset.test_sets": test_sets,
    "dataset.train_dataset_dir": _folder_of("train"),
    "dataset.test_dataset_dir": _folder_of("test"),
    "dataset.query_dataset_dir": _folder_of("query"),
    "dataset.file_name": file_name,
    "dataset.cameras": cameras,
    "dataset.synthetic.root": synthetic_root,
    "dataset.synthetic.train_persons": _persons("train_persons", "train"),
    "dataset.synthetic.test_persons": _persons("test_persons", "test"),
    "dataset.synthetic.cameras": synthetic_cameras,
    "dataset.synthetic.images_per_camera": synthetic_images_per_camera,
    "dataset.synthetic.distractors": _gallery_images("distractors", 0),
    "dataset.synthetic.junk": _gallery_images("junk", -1),
    "dataset.synthetic.width": synthetic_width,
    "dataset.synthetic.height": synthetic_height,
    "dataset.synthetic.seed": synthetic_seed,
    "dataset.store_dir": store_dir,
    "dataset.num_classes": num_classes,
    "dataset.validation_persons": validation_persons,
    "dataset.corrupt_images": corrupt_images,
    "dataset.batch_size": batch_size,
    "dataset.val_batch_size": val_batch_size,
    "dataset.num_workers": num_workers,
    "dataset.augment_on": augment_on,
    "dataset.pixel_mean": _normalised("pixel_mean", "[0.1,0.2,0.3]"),
    "dataset.pixel_std": _normalised("pixel_std", "[0.5,0.4,0.3]"),
    "dataset.padding": padding,
    "dataset.prob": prob,
    "dataset.re_prob": re_prob,
    "dataset.erasing": erasing,
    "dataset.train_resize": train_resize,
    "dataset.color_jitter.prob": color_jitter_prob,
    **{f"dataset.color_jitter.{name}": _strength(name) for name in COLOURS},
    "dataset.grey_prob": grey_prob,
    "dataset.autoaugment_prob": autoaugment_prob,
    "dataset.sampler": sampler,
    "dataset.num_instances": num_instances,
}
