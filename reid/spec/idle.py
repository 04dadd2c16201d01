"""Finds fields of the spec that have no effect because of its other fields, and values that are read as others."""

from collections.abc import Iterator

from reid.spec.facts import Replaced, WithoutEffect
from reid.spec.fields import fields_with, value_of
from reid.spec.rules import Finding
from reid.spec.sections import Experiment

MOMENTUM_READERS = {"SGD", "RMSprop"}
"""Optimizers of torch.optim that take `momentum`."""

SwitchedOff = tuple[bool, list[str], str]
"""(whether the spec's other choices switch these fields off, their dotted names, the reason)."""


def read_as(spec: Experiment) -> Iterator[Finding]:
    """How a value is understood, for each value that is not taken as it stands."""
    model = spec.model
    if model.with_center_loss and model.metric_loss_type == "triplet" and spec.dataset.sampler != "softmax":
        yield "model.metric_loss_type", "'triplet' is read as 'triplet_center', because model.with_center_loss is true"


def replaced(spec: Experiment) -> Iterator[Finding]:
    """What a pipeline takes instead, for each given path of the spec that it does not read."""
    for name, fact in fields_with(Replaced).items():
        if value_of(spec, name) is not None:
            yield name, fact.instead


def idle(spec: Experiment) -> Iterator[Finding]:
    """Why it has no effect, for each field with another value than its default that other choices switch off."""
    unset, told = Experiment(), set()
    for is_off, names, why in (*_model(spec), *_dataset(spec), *_optim(spec), *_never_read()):
        for name in names:
            if is_off and name not in told and value_of(spec, name) != value_of(unset, name):
                told.add(name)
                yield name, why


def _model(spec: Experiment) -> Iterator[SwitchedOff]:
    model, sampler = spec.model, spec.dataset.sampler
    swin = model.backbone.removeprefix("timm/").startswith("swin_")
    swins_own = ["model.drop_path", "model.drop_out", "model.att_drop_rate", "model.semantic_weight"]
    yield not swin, swins_own, "only Swin reads it"
    yield not swin, ["model.reduce_feat_dim"], "only Swin reads it; model.feat_dim reduces the embedding here"
    yield (
        swin and not model.reduce_feat_dim and model.feat_dim is not None,
        ["model.feat_dim"],
        "Swin keeps its own width unless model.reduce_feat_dim is true",
    )
    yield not model.neck, ["model.neck_feat"], "model.neck is '', and both sides of no neck are the same"
    yield model.pretrain_choice == "", ["model.min_matched_share"], "model.pretrain_choice is '' (random weights)"
    yield (
        sampler == "softmax",
        ["model.metric_loss_type", "model.with_center_loss"],
        "dataset.sampler = softmax uses no metric loss",
    )
    yield sampler == "softmax", ["dataset.num_instances"], "dataset.sampler = softmax shuffles plainly"
    yield sampler == "triplet", ["model.label_smooth"], "dataset.sampler = triplet uses no cross-entropy"


def _dataset(spec: Experiment) -> Iterator[SwitchedOff]:
    layout = spec.dataset.layout
    listed = layout in {"msmt17", "cuhk03", "csv"}
    yield listed, ["dataset.file_name"], f"dataset.layout = {layout} does not read persons from file names"


def _optim(spec: Experiment) -> Iterator[SwitchedOff]:
    optim = spec.train.optim
    cosine, plateau = optim.warmup_method == "cosine", optim.lr_scheduler == "AutoReduce"
    off: list[SwitchedOff] = [
        (optim.name not in MOMENTUM_READERS, ["momentum"], f"{optim.name} has no momentum of this kind"),
        (
            not spec.model.with_center_loss or spec.dataset.sampler == "softmax",
            ["center_lr", "center_loss_weight"],
            "the centre loss is off",
        ),
        (not plateau, ["lr_monitor"], "only train.optim.lr_scheduler = AutoReduce watches it"),
        (plateau, ["lr_steps"], "train.optim.lr_scheduler = AutoReduce watches train.optim.lr_monitor instead"),
        (cosine, ["warmup_iters", "warmup_factor", "lr_steps"], "the cosine schedule does not read it"),
        (cosine and not plateau, ["gamma"], "the cosine schedule does not read it"),
        (not plateau and not optim.lr_steps, ["gamma"], "train.optim.lr_steps is empty"),
        (not cosine, ["warmup_epochs"], "only train.optim.warmup_method = cosine reads it"),
        (
            not cosine and optim.warmup_iters <= 1,
            ["warmup_factor", "warmup_method"],
            f"train.optim.warmup_iters = {optim.warmup_iters} is no warm-up",
        ),
    ]
    for is_off, names, why in off:
        yield is_off, [f"train.optim.{name}" for name in names], why


def _never_read() -> Iterator[SwitchedOff]:
    for name, fact in fields_with(WithoutEffect).items():
        yield True, [name], fact.why
