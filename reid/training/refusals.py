"""Refuses a training that its network, its batch or the checkpoint to resume from does not fit."""

import copy

import torch

from reid.contract import Contract
from reid.errors import ArtifactError, SpecError
from reid.model.embedder import Embedder
from reid.model.entry import ADDED_SETTINGS
from reid.spec import Experiment, names
from reid.spec.network import network_values
from reid.training.resume import Start


def refuse_other_network(spec: Experiment, persons: list[int], start: Start) -> None:
    """Raises ArtifactError if a checkpoint to resume from is not of the spec's network, persons and optimizer."""
    before = ADDED_SETTINGS | start.checkpoint["reid"]["model"]
    wanted: dict[str, object] = {**network_values(spec), "num_classes": len(persons)}
    if spec.model.stem_relu != "auto":
        wanted["stem_relu"] = spec.model.stem_relu == "on"
    if spec.model.pooling == "auto":
        wanted["pooling"] = before["pooling"]
    if before["stride_size"] is None:
        del wanted["stride_size"]
    other = [
        f"{name} {before.get(name)!r}, not {value!r}" for name, value in wanted.items() if before.get(name) != value
    ]
    if start.checkpoint["reid"]["persons"] != persons:
        other.append("other persons")
    if other:
        same_backbone = before.get("backbone") == wanted["backbone"]
        raise ArtifactError(
            f"{start.path}: a checkpoint of another network: {other[0]}\n  want: one of the spec's network and persons"
            + (f"; or {weights_alone(spec, start)}" if same_backbone else "")
        )
    settings = start.checkpoint["training"]["settings"]
    layered = [decay != 1 for decay in (settings.get("train.optim.layer_decay", 1.0), spec.train.optim.layer_decay)]
    if layered[0] != layered[1] and names.is_vit(spec.model.backbone):
        raise ArtifactError(
            f"{start.path}: a checkpoint of a training {'with' if layered[0] else 'without'} train.optim.layer_decay\n"
            f"  want: {'a value below 1' if layered[0] else 'train.optim.layer_decay=1'}, so that its optimizer's "
            "groups are the same"
        )
    centres, optimizer = "losses.center.centers" in start.checkpoint["state_dict"], settings["train.optim.name"]
    wants_centres = spec.model.with_center_loss and spec.dataset.sampler != "softmax"
    large_fc_lr = "train.optim.large_fc_lr"
    then = (optimizer, centres, settings.get(large_fc_lr, False))
    now = (spec.train.optim.name, wants_centres, spec.train.optim.large_fc_lr)
    if then != now:
        described = [
            f"{name}, {'with' if centred else 'without'} centre loss"
            + (f", {large_fc_lr} = {str(doubled).lower()}" if then[2] != now[2] else "")
            for name, centred, doubled in (then, now)
        ]
        raise ArtifactError(
            f"{start.path}: a checkpoint of another kind of training: {described[0]}; not {described[1]}\n"
            f"  want: the same optimizer and losses; or {weights_alone(spec, start)}"
        )


def weights_alone(spec: Experiment, start: Start) -> str:
    """What to set so that a new training begins with the weights of a checkpoint that it cannot resume from."""
    nothing_to_resume = "train.resume_training_checkpoint_path=null "
    return (
        "its weights alone, for a new training in another train.results_dir:\n"
        f"  {nothing_to_resume if spec.train.resume_training_checkpoint_path else ''}"
        f"model.pretrain_choice=self model.pretrained_model_path={start.path}"
    )


def way_on(spec: Experiment, persons: list[int], start: Start) -> str:
    """What to set so that a training with the spec's settings begins with a checkpoint of a training with others."""
    try:
        refuse_other_network(spec, persons, start)
    except ArtifactError:
        same_backbone = start.checkpoint["reid"]["model"]["backbone"] == spec.model.backbone
        return f"; or {weights_alone(spec, start)}" if same_backbone else ""
    finished = start.epochs_done >= spec.train.num_epochs
    return f"; or, to resume from there with\n  the new ones, train.resume_training_checkpoint_path={start.path}" + (
        f" train.num_epochs={start.epochs_done + 1}" if finished else ""
    )


def refuse_batch_of_one(network: Embedder, *, batch_size: int, contract: Contract) -> None:
    """Raises SpecError if a batch of one image leaves a batch normalisation with one value per channel.

    That is so after the pooling (the BNNeck), and for a feature map of 1 x 1 pixels. More images in the batch suffice,
    also if each rank has only one of them, because the ranks share the statistics.
    """
    if batch_size > 1:
        return
    image = torch.zeros(1, contract.channels, contract.height, contract.width)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            copy.deepcopy(network).train()(image)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise SpecError(
            "dataset.batch_size: 1: the network's batch normalisation has one value per channel then\n"
            f"  found: {error}\n  want:  dataset.batch_size=2 or more"
        ) from None


def refuse_head_that_cannot_learn(spec: Experiment, network: Embedder) -> None:
    """Raises SpecError if the backbone is frozen and no other parameter decides the features of the metric loss."""
    learns = any(
        parameter.requires_grad and not name.startswith(("base.", "bottleneck.", "classifier."))
        for name, parameter in network.named_parameters()
    )
    if spec.train.freeze_epochs and spec.dataset.sampler == "triplet" and not learns:
        raise SpecError(
            f"train.freeze_epochs: {spec.train.freeze_epochs}: dataset.sampler = triplet teaches the backbone only\n"
            "  want: 0; or dataset.sampler=softmax_triplet, or model.feat_dim other than the backbone's width"
        )
