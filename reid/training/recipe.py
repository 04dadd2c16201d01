"""Builds the network with its first weights, and the LightningModule, from the spec."""

from functools import partial
from pathlib import Path

import torch
from torch import nn

from reid.model.embedder import Embedder, build_embedder
from reid.model.entry import ADDED_SETTINGS
from reid.model.vit import is_vit
from reid.model.weights import load_pretrained, resolve_stem_relu
from reid.spec import Experiment
from reid.spec.network import network_values
from reid.training.chosen_losses import build_losses
from reid.training.layer_decay import split_by_layer
from reid.training.lightning import Training
from reid.training.plateau import Plateau
from reid.training.refusals import refuse_head_that_cannot_learn
from reid.training.resume import Start
from reid.training.schedule import GroupFactor, build_optimizer, epoch_factor, flat_then_cosine, parameter_groups


def build_network(spec: Experiment, persons: list[int], start: Start | None) -> tuple[Embedder, list[str]]:
    """The network with its first weights, and the report's lines on them; a checkpoint to resume from brings both."""
    section, values = spec.model, network_values(spec)
    if start:
        before = ADDED_SETTINGS | start.checkpoint["reid"]["model"]
        values["pooling"], values["stride_size"] = before["pooling"], before["stride_size"]
        network = build_embedder(**values, stem_relu=before["stem_relu"], num_classes=len(persons))
        return network, start.checkpoint["training"]["weights"]
    choice, path_name = section.pretrain_choice, section.pretrained_model_path
    weights_file = Path(path_name) if path_name else None
    setting = section.stem_relu if section.stem_relu == "auto" else section.stem_relu == "on"
    stem_relu = resolve_stem_relu(setting, choice=choice, path=weights_file)
    network = build_embedder(**values, stem_relu=stem_relu, num_classes=len(persons))
    loaded = load_pretrained(network, weights_file, choice=choice, min_share=section.min_matched_share)
    return network, loaded.lines() if loaded else []


def build_module(spec: Experiment, network: Embedder) -> Training:
    """The LightningModule with the losses, the optimizer and the learning rates of the spec."""
    section, optim = spec.model, spec.train.optim
    refuse_head_that_cannot_learn(spec, network)
    losses = build_losses(
        sampler=spec.dataset.sampler,
        metric_loss_type=section.metric_loss_type,
        with_center_loss=section.with_center_loss,
        label_smooth=section.label_smooth,
        id_loss_type=section.id_loss_type,
        cosine_margin=optim.cosine_margin,
        cosine_scale=optim.cosine_scale,
        triplet_loss_margin=None if optim.soft_margin else optim.triplet_loss_margin,
        num_classes=network.num_classes,
        embedding_size=network.embedding_size,
    )

    def optimizer(module: nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(
            module,
            base_lr=optim.base_lr,
            weight_decay=optim.weight_decay,
            bias_lr_factor=optim.bias_lr_factor,
            weight_decay_bias=optim.weight_decay_bias,
            large_fc_lr=optim.large_fc_lr,
        )
        if optim.layer_decay != 1 and is_vit(network.base):
            groups = split_by_layer(groups, module, layer_decay=optim.layer_decay)
        fused = {"auto": None, "on": True, "off": False}[spec.train.fused_optimizer]
        return build_optimizer(optim.name, groups, optim.momentum, fused=fused)

    return Training(
        network,
        losses,
        optimizer=optimizer,
        epoch_factor=_epoch_factor(spec),
        plateau=Plateau(gamma=optim.gamma) if optim.lr_scheduler == "AutoReduce" else None,
        plateau_watches=optim.lr_monitor,
        clip_grad_norm=spec.train.clip_grad_norm,
        loss_weights={
            "cross_entropy": section.id_loss_weight,
            "triplet": section.triplet_loss_weight,
            "center": optim.center_loss_weight,
        },
        unit_triplet=optim.trp_l2,
        center_lr=optim.center_lr,
        ema_decay=spec.train.ema_decay,
        freeze_epochs=spec.train.freeze_epochs,
        seed=spec.train.seed,
    )


def _epoch_factor(spec: Experiment) -> GroupFactor:
    """(epoch from 0, share of a group) -> the factor on the group's base rate that the spec's schedule gives."""
    optim, epochs = spec.train.optim, spec.train.num_epochs
    if optim.lr_scheduler == "Cosine":
        return partial(
            flat_then_cosine,
            warmup_factor=optim.warmup_factor,
            warmup_iters=optim.warmup_iters,
            warmup_method=optim.warmup_method,
            flat_epochs=optim.flat_epochs,
            lr_floor=optim.lr_floor,
            num_epochs=epochs,
        )
    return epoch_factor(
        warmup_method=optim.warmup_method,
        warmup_factor=optim.warmup_factor,
        warmup_iters=optim.warmup_iters,
        warmup_epochs=optim.warmup_epochs,
        first_epoch=optim.cosine_first_epoch,
        lr_steps=[] if optim.lr_scheduler == "AutoReduce" else optim.lr_steps,
        gamma=optim.gamma,
        num_epochs=epochs,
    )
