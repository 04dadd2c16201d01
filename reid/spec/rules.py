"""Rules that span fields of the spec: contradictions are errors, fields that cannot matter are warnings."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from reid.spec.names import FUSED_OPTIMIZERS
from reid.spec.partial_spec import PartialSpec, RefusedField
from reid.spec.sections import Experiment

MOMENTUM_READERS = {"SGD", "RMSprop"}
"""Optimizers of torch.optim that take `momentum`."""
PICTURES = (".png", ".svg", ".pdf")
PORTS = {
    "the model comes from the stage train": ["evaluate.checkpoint", "inference.checkpoint", "export.checkpoint"],
    "the images are those of dataset.test_dataset_dir": ["evaluate.test_dataset", "inference.test_dataset"],
    "the images are those of dataset.query_dataset_dir": ["evaluate.query_dataset", "inference.query_dataset"],
    "the ONNX comes from the stage export": ["gen_trt_engine.onnx_file"],
    "the runner says where the results are": [
        f"{task}.results_dir" for task in ("train", "evaluate", "inference", "export", "gen_trt_engine")
    ],
}
"""What takes their place in a pipeline -> dotted fields, of paths all."""

Finding = tuple[str, str]
"""(dotted field, what there is to say of it)."""
SwitchedOff = tuple[bool, list[str], str]
"""(whether other choices switch these off, dotted fields, why)."""


def contradictions(spec: Experiment | PartialSpec) -> Iterator[Finding]:
    """What is wrong and what is wanted, for every pair of fields that cannot both hold.

    Of a spec with refused values: what the rules find that do not need these.
    """
    for rule in RULES:
        with suppress(RefusedField):
            yield from rule(spec)


def _expansion(spec: Any) -> Iterator[Finding]:
    ranking = spec.re_ranking
    if ranking.k2 > ranking.k1:
        yield "re_ranking.k2", f"{ranking.k2} is above re_ranking.k1 = {ranking.k1}; want k2 <= k1"


def _per_channel(spec: Any, *, name: str) -> Iterator[Finding]:
    count, channels = len(getattr(spec.dataset, name)), spec.model.input_channels
    if count != channels and not (channels == 1 and count == 3):
        yield f"dataset.{name}", f"{count} values for {channels} channels; want one per channel"


def _metric_loss(spec: Any) -> Iterator[Finding]:
    model = spec.model
    if model.metric_loss_type != "triplet" and not model.with_center_loss:
        yield (
            "model.metric_loss_type",
            f"{model.metric_loss_type!r} needs model.with_center_loss = true; want 'triplet' or the centre loss on",
        )


def _fused(spec: Any) -> Iterator[Finding]:
    name = spec.train.optim.name
    if spec.train.fused_optimizer == "on" and name not in FUSED_OPTIMIZERS:
        yield "train.fused_optimizer", f"{name} has no fused form; want auto or off"


def _picture(spec: Any, *, name: str) -> Iterator[Finding]:
    plot = getattr(spec.evaluate, name)
    if plot is not None and not plot.lower().endswith(PICTURES):
        yield f"evaluate.{name}", f"found {plot!r}; want a file that ends in {', '.join(PICTURES)}"


def _profile(spec: Any) -> Iterator[Finding]:
    engine = spec.gen_trt_engine.tensorrt
    if not engine.min_batch_size <= engine.opt_batch_size <= engine.max_batch_size:
        yield (
            "gen_trt_engine.tensorrt.opt_batch_size",
            f"min {engine.min_batch_size}, opt {engine.opt_batch_size}, max {engine.max_batch_size}; "
            "want min <= opt <= max",
        )


def _batch_that_does_not_divide(spec: Any) -> Iterator[Finding]:
    """A batch is shared by the GPUs, or the processes, and each holds whole groups of one person's images."""
    size, gpus = spec.dataset.batch_size, max(spec.train.num_gpus, len(set(spec.train.gpu_ids)))
    instances = spec.dataset.num_instances if spec.dataset.sampler != "softmax" else 1
    for ranks, what in ((gpus, "GPUs"), (spec.train.cpu_processes, "processes")):
        unit = ranks * instances
        if not size % unit:
            continue
        parts = [f"dataset.num_instances = {instances}"] if instances > 1 else []
        parts += [f"{ranks} {what}"] if ranks > 1 else []
        down = size // unit * unit
        nearest = f"{down} and {down + unit}" if down else f"{unit}"
        yield "dataset.batch_size", f"{size} is not divisible by {' x '.join(parts)}; nearest: {nearest}"
        return


def _source_or_drawing(spec: Any) -> Iterator[Finding]:
    if spec.dataset.source and spec.dataset.synthetic:
        yield "dataset.source", "dataset.synthetic is set too; want one of them"


def _url_or_zip(spec: Any) -> Iterator[Finding]:
    source = spec.dataset.source
    if source and (source.url is None) == (source.zip is None):
        yield "dataset.source.url", "want one of dataset.source.url and dataset.source.zip"
    elif source and source.url and not source.url.startswith(("https://", "http://")):
        yield "dataset.source.url", f"{source.url}: want https:// or http://; a file goes into dataset.source.zip"


def _checksum(spec: Any) -> Iterator[Finding]:
    source = spec.dataset.source
    if source and source.url and source.sha256 is None:
        yield "dataset.source.sha256", "is not set; what comes from dataset.source.url is not opened unchecked"


def _several_machines(spec: Any) -> Iterator[Finding]:
    """Refused, never ignored: this version cannot."""
    if spec.train.num_nodes > 1:
        yield "train.num_nodes", f"{spec.train.num_nodes}: training on several machines is not there yet; want 1"


def _int8(spec: Any) -> Iterator[Finding]:
    """The same."""
    if spec.gen_trt_engine.tensorrt.data_type == "INT8":
        yield "gen_trt_engine.tensorrt.data_type", "INT8 is not built here (no calibration); want FP32 or FP16"


RULES: tuple[Callable[[Any], Iterator[Finding]], ...] = (
    _expansion,
    partial(_per_channel, name="pixel_mean"),
    partial(_per_channel, name="pixel_std"),
    _batch_that_does_not_divide,
    _metric_loss,
    _fused,
    _source_or_drawing,
    _url_or_zip,
    _checksum,
    partial(_picture, name="output_cmc_curve_plot"),
    partial(_picture, name="output_sampled_matches_plot"),
    _profile,
    _several_machines,
    _int8,
)
"""Each looks at one thing that may be wrong; it gets the spec, or the rest of one."""


def read_as(spec: Experiment) -> Iterator[Finding]:
    """How a value is understood where that is not what it says."""
    model = spec.model
    if model.with_center_loss and model.metric_loss_type == "triplet" and spec.dataset.sampler != "softmax":
        yield "model.metric_loss_type", "'triplet' is read as 'triplet_center', because model.with_center_loss is true"


def replaced(spec: Experiment) -> Iterator[Finding]:
    """What a pipeline takes instead, for each path of the spec that it does not read."""
    for instead, names in PORTS.items():
        for name in names:
            if value_of(spec, name) is not None:
                yield name, instead


def idle(spec: Experiment) -> Iterator[Finding]:
    """Why it cannot matter, for each field away from its default that other choices, or this version, switch off."""
    unset, told = Experiment(), set()
    for is_off, names, why in (*_model(spec), *_optim(spec), *_tasks()):
        for name in names:
            if is_off and name not in told and value_of(spec, name) != value_of(unset, name):
                told.add(name)
                yield name, why


def value_of(spec: Experiment, name: str) -> Any:
    """The value of a field by its dotted name."""
    value: Any = spec
    for part in name.split("."):
        value = getattr(value, part)
    return value


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


def _tasks() -> Iterator[SwitchedOff]:
    """Fields of other TAO networks and of other machines that this version has no use for."""
    yield True, ["export.gpu_id"], "the network is exported and compared on the CPU"
    tensorrt = "gen_trt_engine.tensorrt"
    yield True, [f"{tensorrt}.layers_precision"], f"every layer has {tensorrt}.data_type"
