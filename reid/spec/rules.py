"""Rules that span fields of the spec: each finds values that cannot hold together, which are errors."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from reid.data.market1501 import MAIN_SET
from reid.data.places import places
from reid.spec.names import BACKBONES, FIRST_FP8_OPSET, FUSED_OPTIMIZERS, is_vit
from reid.spec.partial_spec import PartialSpec, RefusedField
from reid.spec.sections import Experiment

PICTURES = (".png", ".svg", ".pdf")
EMBEDDINGS = (".json", ".npz", ".parquet")

Finding = tuple[str, str]
"""(dotted field, what is wrong with it or how it is understood)."""


def contradictions(spec: Experiment | PartialSpec) -> Iterator[Finding]:
    """What is wrong and what is wanted, for all values that cannot hold together.

    A rule that needs a refused value of a partial spec is left out.
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


def _class_token(spec: Any) -> Iterator[Finding]:
    """Of any other model of timm, only timm can tell whether it has a class token."""
    backbone = spec.model.backbone
    if spec.model.pooling == "class" and backbone in BACKBONES and not is_vit(backbone):
        yield "model.pooling", f"'class', but {backbone} has no class token; want auto, mean or gem"


def _fused(spec: Any) -> Iterator[Finding]:
    name = spec.train.optim.name
    if spec.train.fused_optimizer == "on" and name not in FUSED_OPTIMIZERS:
        yield "train.fused_optimizer", f"{name} has no fused form; want auto or off"


def _two_cosines(spec: Any) -> Iterator[Finding]:
    if spec.train.optim.lr_scheduler == "Cosine" and spec.train.optim.warmup_method == "cosine":
        yield (
            "train.optim.warmup_method",
            "'cosine' is a whole schedule, and train.optim.lr_scheduler = Cosine another; want 'linear' or 'constant', "
            "or the scheduler MultiStep",
        )


def _picture(spec: Any, *, name: str) -> Iterator[Finding]:
    plot = getattr(spec.evaluate, name)
    if plot is not None and not plot.lower().endswith(PICTURES):
        yield f"evaluate.{name}", f"found {plot!r}; want a file that ends in {', '.join(PICTURES)}"


def _embeddings(spec: Any) -> Iterator[Finding]:
    output = spec.inference.output_file
    if output is not None and not output.lower().endswith(EMBEDDINGS):
        yield "inference.output_file", f"found {output!r}; want a file that ends in {', '.join(EMBEDDINGS)}"


def _profile(spec: Any) -> Iterator[Finding]:
    engine = spec.gen_trt_engine.tensorrt
    if not engine.min_batch_size <= engine.tuned_for <= engine.max_batch_size:
        yield (
            "gen_trt_engine.tensorrt.opt_batch_size",
            f"min {engine.min_batch_size}, opt {engine.tuned_for}, max {engine.max_batch_size}; want min <= opt <= max",
        )


def _white(spec: Any) -> Iterator[Finding]:
    pixels = spec.export.pixels
    if pixels.data_type == "uint8" and pixels.largest == 1:
        yield "export.pixels.largest", "1 with whole numbers; want 255, or export.pixels.data_type = float32"


def _batch_that_does_not_divide(spec: Any) -> Iterator[Finding]:
    """The GPUs, or the processes, of all nodes share a batch; each part holds whole groups of one person's images."""
    size, gpus = spec.dataset.batch_size, max(spec.train.num_gpus, len(set(spec.train.gpu_ids)))
    nodes = spec.train.num_nodes
    instances = spec.dataset.num_instances if spec.dataset.sampler != "softmax" else 1
    for ranks, what in ((gpus, "GPUs"), (spec.train.cpu_processes, "processes")):
        unit = nodes * ranks * instances
        if not size % unit:
            continue
        parts = [f"dataset.num_instances = {instances}"] if instances > 1 else []
        parts += [f"{nodes} nodes"] if nodes > 1 else []
        parts += [f"{ranks} {what}"] if ranks > 1 else []
        down = size // unit * unit
        nearest = f"{down} and {down + unit}" if down else f"{unit}"
        yield "dataset.batch_size", f"{size} is not divisible by {' x '.join(parts)}; nearest: {nearest}"
        return


def _batch_of_one(spec: Any) -> Iterator[Finding]:
    """The BNNeck normalises by the batch; several GPUs or processes share its statistics."""
    if spec.dataset.batch_size == 1 and spec.model.neck == "bnneck":
        yield "dataset.batch_size", "1: the BNNeck cannot normalise a single image; want 2 or more, or model.neck = ''"


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


def _root_or_folders(spec: Any) -> Iterator[Finding]:
    dataset = spec.dataset
    if dataset.layout == "market1501":
        if dataset.root is not None and (dataset.synthetic or dataset.source):
            yield "dataset.root", "dataset.synthetic or dataset.source is set too, which has a root; want one of them"
        return
    for name in ("train_dataset_dir", "test_dataset_dir", "query_dataset_dir", "synthetic", "source"):
        if getattr(dataset, name) is not None:
            yield (
                f"dataset.{name}",
                f"is for dataset.layout = market1501, and it is {dataset.layout}; want dataset.root",
            )


def _train_sets_or_folder(spec: Any) -> Iterator[Finding]:
    if spec.dataset.train_sets and spec.dataset.train_dataset_dir is not None:
        yield "dataset.train_dataset_dir", "dataset.train_sets is set too, in its place; want one of them"


def _set_names(spec: Any, *, name: str) -> Iterator[Finding]:
    names = [part.name for part in getattr(spec.dataset, name)]
    twice = sorted({part for part in names if names.count(part) > 1})
    if twice:
        yield f"dataset.{name}", f"more than one is named {twice[0]}; want a name of its own for each"
    if MAIN_SET in names:
        yield f"dataset.{name}", f"one is named {MAIN_SET}, as the main set is in the report; want another name"
    ranges = [part for part in names if part.split("_")[0] in {"low", "high"}]
    if ranges:
        yield (
            f"dataset.{name}",
            f"one is named {ranges[0]}, and mAP_{ranges[0]} would be an end of mAP's interval; want another name",
        )
    places = [(part.layout, part.root) for part in getattr(spec.dataset, name)]
    for layout, root in sorted({place for place in places if places.count(place) > 1}):
        yield f"dataset.{name}", f"{root} is there more than once, in the layout {layout}; want each data set once"


def _shares(spec: Any) -> Iterator[Finding]:
    without = [part.name for part in spec.dataset.train_sets if part.share is None]
    if 0 < len(without) < len(spec.dataset.train_sets):
        yield (
            "dataset.train_sets",
            f"{without[0]} has no share and another set has one; want one for all or for none",
        )


def _share_without_a_place(spec: Any) -> Iterator[Finding]:
    """A batch that does not divide into groups of one person's images has another finding."""
    dataset, shares = spec.dataset, [part.share for part in spec.dataset.train_sets]
    instances = dataset.num_instances if dataset.sampler != "softmax" else 1
    if None in shares or dataset.batch_size % instances:
        return
    count, what = dataset.batch_size // instances, "images" if dataset.sampler == "softmax" else "persons"
    for part, own in zip(dataset.train_sets, places(count, shares)):
        if not own:
            yield (
                "dataset.train_sets",
                f"{part.name}: share {part.share:g} of {sum(shares):g} is not one of the {count} {what} of a batch; "
                "want a larger share, or a larger dataset.batch_size",
            )


def _fp8_opset(spec: Any) -> Iterator[Finding]:
    if spec.export.data_type == "FP8" and spec.export.opset < FIRST_FP8_OPSET:
        yield "export.opset", f"{spec.export.opset} has no FP8; want {FIRST_FP8_OPSET} or above"


RULES: tuple[Callable[[Any], Iterator[Finding]], ...] = (
    _expansion,
    partial(_per_channel, name="pixel_mean"),
    partial(_per_channel, name="pixel_std"),
    _batch_that_does_not_divide,
    _batch_of_one,
    _metric_loss,
    _class_token,
    _fused,
    _two_cosines,
    _source_or_drawing,
    _url_or_zip,
    _checksum,
    _root_or_folders,
    _train_sets_or_folder,
    partial(_set_names, name="train_sets"),
    partial(_set_names, name="test_sets"),
    _shares,
    _share_without_a_place,
    partial(_picture, name="output_cmc_curve_plot"),
    partial(_picture, name="output_sampled_matches_plot"),
    _embeddings,
    _profile,
    _white,
    _fp8_opset,
)
"""Each rule looks for one kind of contradiction, in a spec or in a PartialSpec."""
