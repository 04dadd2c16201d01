"""Rules that span fields of the spec: contradictions are errors, fields that cannot matter are warnings."""

from collections.abc import Iterator

from reid.spec.sections import Experiment

SGD_KIN = {"SGD", "RMSprop"}
"""Optimizers of torch.optim that read `momentum`."""


def contradictions(spec: Experiment) -> Iterator[tuple[str, str]]:
    """(field, what is wrong and what is wanted) for every pair of fields that cannot both hold."""
    model, dataset, ranking = spec.model, spec.dataset, spec.re_ranking
    if ranking.k2 > ranking.k1:
        yield "re_ranking.k2", f"{ranking.k2} is above re_ranking.k1 = {ranking.k1}; want k2 <= k1"
    for name, values in (("pixel_mean", dataset.pixel_mean), ("pixel_std", dataset.pixel_std)):
        if len(values) != model.input_channels and not (model.input_channels == 1 and len(values) == 3):
            yield f"dataset.{name}", f"{len(values)} values for {model.input_channels} channels; want one per channel"
    if dataset.sampler != "softmax" and dataset.batch_size % dataset.num_instances:
        down = max(1, dataset.batch_size // dataset.num_instances) * dataset.num_instances
        yield (
            "dataset.batch_size",
            f"{dataset.batch_size} is not divisible by dataset.num_instances = {dataset.num_instances}; "
            f"nearest: {down} and {down + dataset.num_instances}",
        )
    if model.metric_loss_type != "triplet" and not model.with_center_loss:
        yield (
            "model.metric_loss_type",
            f"{model.metric_loss_type!r} needs model.with_center_loss = true; want 'triplet' or the centre loss on",
        )
    engine = spec.gen_trt_engine.tensorrt
    if not engine.min_batch_size <= engine.opt_batch_size <= engine.max_batch_size:
        yield (
            "gen_trt_engine.tensorrt.opt_batch_size",
            f"min {engine.min_batch_size}, opt {engine.opt_batch_size}, max {engine.max_batch_size}; "
            "want min <= opt <= max",
        )
    if engine.data_type == "INT8":
        yield "gen_trt_engine.tensorrt.data_type", "INT8 is not built here (no calibration); want FP32 or FP16"


def not_yet(spec: Experiment) -> Iterator[tuple[str, str]]:
    """(field, why) for values whose capability this version does not have: refused, never ignored."""
    if spec.train.num_nodes > 1:
        yield "train.num_nodes", f"{spec.train.num_nodes}: training on several machines is not there yet; want 1"


def idle(spec: Experiment) -> Iterator[tuple[str, str]]:
    """(field, why it cannot matter) for fields away from their default that the other choices switch off."""
    optim, model, dataset = spec.train.optim, spec.model, spec.dataset
    cosine = optim.warmup_method == "cosine"
    switched_off = [
        (optim.name not in SGD_KIN, ["momentum"], f"{optim.name} has no momentum of this kind"),
        (
            not model.with_center_loss or dataset.sampler == "softmax",
            ["center_lr", "center_loss_weight"],
            "the centre loss is off",
        ),
        (
            optim.lr_scheduler != "AutoReduce",
            ["lr_monitor"],
            "only train.optim.lr_scheduler = AutoReduce watches it",
        ),
        (
            cosine,
            ["warmup_iters", "lr_steps", "gamma", "warmup_factor"],
            "the cosine schedule does not read it",
        ),
        (not cosine, ["warmup_epochs"], "only train.optim.warmup_method = cosine reads it"),
        (dataset.sampler == "softmax", ["triplet_loss_margin"], "dataset.sampler = softmax uses no metric loss"),
    ]
    unset = type(optim)()
    for is_off, names, why in switched_off:
        for name in names:
            if is_off and getattr(optim, name) != getattr(unset, name):
                yield f"train.optim.{name}", why
    if not model.backbone.startswith("swin") and model.reduce_feat_dim:
        yield "model.reduce_feat_dim", "only Swin reads it; model.feat_dim reduces the embedding here"
