"""Finds fields of the spec that have no effect because of its other fields, and values that are read as others."""

from collections.abc import Iterator

from reid.spec.facts import Replaced, WithoutEffect
from reid.spec.fields import fields_with, value_of
from reid.spec.names import is_swin, is_vit
from reid.spec.rules import Finding
from reid.spec.sections import Experiment

MOMENTUM_READERS = {"SGD", "RMSprop"}
"""Optimizers of torch.optim that take `momentum`."""

EIGHT_BITS = ("INT8", "FP8")
"""The data types that are calibrated on images."""

SwitchedOff = tuple[bool, list[str], str]
"""(whether the spec's other choices switch these fields off, their dotted names, the reason)."""


def read_as(spec: Experiment) -> Iterator[Finding]:
    """How a value is understood, for each value that is not taken as it stands."""
    model = spec.model
    if model.with_center_loss and model.metric_loss_type == "triplet" and spec.dataset.sampler != "softmax":
        yield "model.metric_loss_type", "'triplet' is read as 'triplet_center', because model.with_center_loss is true"
    frozen, epochs = spec.train.freeze_epochs, spec.train.num_epochs
    if frozen >= epochs:
        yield "train.freeze_epochs", f"{frozen} of train.num_epochs = {epochs}: the backbone never learns"


def replaced(spec: Experiment) -> Iterator[Finding]:
    """What a pipeline takes instead, for each given path of the spec that it does not read."""
    for name, fact in fields_with(Replaced).items():
        if value_of(spec, name) is not None:
            yield name, fact.instead


def idle(spec: Experiment) -> Iterator[Finding]:
    """Why it has no effect, for each field with another value than its default that other choices switch off."""
    unset, told = Experiment(), set()
    for is_off, names, why in (
        *_model(spec),
        *_dataset(spec),
        *_colours(spec),
        *_optim(spec),
        *_inference(spec),
        *_export(spec),
        *_deploy(spec),
        *_never_read(),
    ):
        for name in names:
            if is_off and name not in told and value_of(spec, name) != value_of(unset, name):
                told.add(name)
                yield name, why


def _model(spec: Experiment) -> Iterator[SwitchedOff]:
    model, sampler = spec.model, spec.dataset.sampler
    swin = is_swin(model.backbone)
    vit = is_vit(model.backbone)
    yield (
        not swin and not vit,
        ["model.drop_path", "model.drop_out", "model.att_drop_rate"],
        "only Swin and ViT read it",
    )
    yield not swin, ["model.semantic_weight"], "only Swin reads it"
    yield not vit, ["model.stride_size"], "only ViT reads it"
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
    yield (
        sampler == "softmax",
        ["dataset.num_instances", "train.epoch_length"],
        "dataset.sampler = softmax shuffles plainly",
    )
    identity = ["model.label_smooth", "model.id_loss_type", "model.id_loss_weight"]
    yield sampler == "triplet", identity, "dataset.sampler = triplet uses no cross-entropy"
    no_triplet = sampler == "softmax" or model.metric_loss_type == "center"
    yield no_triplet, ["model.triplet_loss_weight"], "the triplet loss is off"


def _colours(spec: Experiment) -> Iterator[SwitchedOff]:
    jitter = "dataset.color_jitter"
    strengths = [f"{jitter}.{name}" for name in ("brightness", "contrast", "saturation", "hue")]
    yield not spec.dataset.color_jitter.prob, strengths, f"{jitter}.prob is 0"
    of_colours = ["dataset.grey_prob", f"{jitter}.saturation", f"{jitter}.hue"]
    yield spec.model.input_channels == 1, of_colours, "model.input_channels is 1, and grey images have no colours"


def _dataset(spec: Experiment) -> Iterator[SwitchedOff]:
    layout = spec.dataset.layout
    listed = layout in {"msmt17", "cuhk03", "csv"}
    yield not spec.dataset.re_prob, ["dataset.erasing"], "dataset.re_prob is 0"
    yield listed, ["dataset.file_name"], f"dataset.layout = {layout} does not read persons from file names"


def _optim(spec: Experiment) -> Iterator[SwitchedOff]:
    optim = spec.train.optim
    cosine, plateau = optim.warmup_method == "cosine", optim.lr_scheduler == "AutoReduce"
    falls = optim.lr_scheduler == "Cosine"
    flat = max(optim.flat_epochs, optim.warmup_iters)
    off: list[SwitchedOff] = [
        (not is_vit(spec.model.backbone), ["layer_decay"], "only ViT reads it"),
        (optim.name not in MOMENTUM_READERS, ["momentum"], f"{optim.name} has no momentum of this kind"),
        (
            not spec.model.with_center_loss or spec.dataset.sampler == "softmax",
            ["center_lr", "center_loss_weight"],
            "the centre loss is off",
        ),
        (
            spec.model.id_loss_type == "softmax" or spec.dataset.sampler == "triplet",
            ["cosine_margin", "cosine_scale"],
            "only an identity loss on cosines reads it (model.id_loss_type)",
        ),
        (spec.dataset.sampler == "triplet", ["large_fc_lr"], "dataset.sampler = triplet uses no classifier"),
        (
            spec.dataset.sampler == "softmax" or spec.model.metric_loss_type == "center",
            ["soft_margin"],
            "the triplet loss is off",
        ),
        (not plateau, ["lr_monitor"], "only train.optim.lr_scheduler = AutoReduce watches it"),
        (plateau, ["lr_steps"], "train.optim.lr_scheduler = AutoReduce watches train.optim.lr_monitor instead"),
        (falls, ["lr_steps", "gamma"], "train.optim.lr_scheduler = Cosine does not read it"),
        (not falls, ["flat_epochs", "lr_floor"], "only train.optim.lr_scheduler = Cosine reads it"),
        (
            falls and flat + 1 >= spec.train.num_epochs,
            ["lr_scheduler", "lr_floor"],
            f"the learning rate would fall from epoch {flat + 2} on, and train.num_epochs = {spec.train.num_epochs}",
        ),
        (cosine, ["warmup_iters", "warmup_factor", "lr_steps"], "the cosine schedule does not read it"),
        (cosine and not plateau, ["gamma"], "the cosine schedule does not read it"),
        (not plateau and not optim.lr_steps, ["gamma"], "train.optim.lr_steps is empty"),
        (not cosine, ["warmup_epochs", "cosine_first_epoch"], "only train.optim.warmup_method = cosine reads it"),
        (
            not cosine and optim.warmup_iters <= 1,
            ["warmup_factor", "warmup_method"],
            f"train.optim.warmup_iters = {optim.warmup_iters} is no warm-up",
        ),
    ]
    for is_off, names, why in off:
        yield is_off, [f"train.optim.{name}" for name in names], why


def _inference(spec: Experiment) -> Iterator[SwitchedOff]:
    output = spec.inference.output_file
    as_json = output is None or output.lower().endswith(".json")
    yield (
        as_json,
        ["inference.data_type", "inference.shard_rows"],
        "only .npz and .parquet in inference.output_file have it",
    )


def _export(spec: Experiment) -> Iterator[SwitchedOff]:
    export = spec.export
    pixels = [f"export.pixels.{name}" for name in type(export.pixels).model_fields]
    ends = ["export.flip_test", "export.unit_length"]
    yield export.preprocessing == "outside", [*pixels, *ends], "export.preprocessing = outside"
    yield spec.model.with_flip_feature, ["export.flip_test"], "model.with_flip_feature is true, which does it already"
    yield spec.model.input_channels == 1, ["export.pixels.channel_order"], "a grey image has one channel"


def _deploy(spec: Experiment) -> Iterator[SwitchedOff]:
    limits = ["min_cosine", "max_mAP_drop", "max_rank1_drop"]
    small, kind = spec.export.data_type in EIGHT_BITS, spec.export.data_type
    instead = f"export.data_type = {kind} reads export.quantization"
    yield small, [f"export.{name}" for name in limits], instead
    own = [f"export.quantization.{name}" for name in (*limits, "images", "float_layers", "max_float_layers")]
    yield not small, own, "only export.data_type = INT8 and FP8 read it"
    engine = spec.gen_trt_engine.tensorrt
    calibration = ["layers_precision", *(f"calibration.{name}" for name in type(engine.calibration).model_fields)]
    yield (
        engine.data_type not in EIGHT_BITS,
        [f"gen_trt_engine.tensorrt.{name}" for name in calibration],
        "only gen_trt_engine.tensorrt.data_type = INT8 and FP8 read it",
    )
    yield (
        engine.data_type in EIGHT_BITS,
        ["gen_trt_engine.min_cosine"],
        f"gen_trt_engine.tensorrt.data_type = {engine.data_type} reads gen_trt_engine.tensorrt.calibration.min_cosine",
    )


def _never_read() -> Iterator[SwitchedOff]:
    for name, fact in fields_with(WithoutEffect).items():
        yield True, [name], fact.why
