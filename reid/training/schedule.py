"""Learning rates over epochs, parameter groups and optimisers: formulas without state.

An epoch is counted from 0, as Lightning's `current_epoch`. The formulas of the multi-step schedule count from 1 and are
evaluated at epoch + 1, so the first epoch already trains above the warm-up's start, and `lr_steps` are epochs counted
from 1 (Luo et al. 2019, arXiv:1903.07071, eq. 1). The cosine of `warmup_method` counts from 0 or from 1.

A group's share is its base learning rate over base_lr: bias_lr_factor for biases, 2 for the classifier of large_fc_lr.
The cosines begin and end at the same rate in all groups, whatever their share.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from reid.errors import SpecError

GroupFactor = Callable[[int, float], float]
"""(epoch from 0, share of the group) -> the factor on the group's base learning rate."""
COSINE_START = 0.01
COSINE_END = 0.002
UNFIT_OPTIMIZERS = {
    "LBFGS": "it takes one parameter group and calls the loss several times a step",
    "Muon": "it takes matrices only, and convolutions and biases are none",
    "SparseAdam": "it takes sparse gradients only",
}


def warmup(epoch: int, *, warmup_factor: float, warmup_iters: int, warmup_method: str) -> float:
    """The warm-up's factor on the base learning rate: constant or linear, and 1 from `warmup_iters` epochs on.

    AutoReduce (ReduceLROnPlateau) multiplies with it. Raises SpecError for another method.
    """
    if warmup_method not in ("constant", "linear"):
        raise SpecError(f"train.optim.warmup_method: found {warmup_method!r}\n  want: constant, linear or cosine")
    counted = epoch + 1
    if counted >= warmup_iters:
        return 1.0
    if warmup_method == "constant":
        return warmup_factor
    done = counted / warmup_iters
    return warmup_factor * (1 - done) + done


def warmup_multistep(
    epoch: int, *, warmup_factor: float, warmup_iters: int, warmup_method: str, lr_steps: Sequence[int], gamma: float
) -> float:
    """The factor on the base learning rate: the warm-up's, times gamma for every one of `lr_steps` reached."""
    reached = sum(epoch + 1 >= step for step in lr_steps)
    factor = warmup(epoch, warmup_factor=warmup_factor, warmup_iters=warmup_iters, warmup_method=warmup_method)
    return factor * gamma**reached


def warmup_cosine(
    epoch: int, share: float = 1.0, *, num_epochs: int, warmup_epochs: int, first_epoch: int = 0
) -> float:
    """The factor on a group's base rate: linear from 0.01 over `warmup_epochs`, then a half cosine down to 0.002.

    Both numbers are of base_lr, for every group. The first epoch counts as `first_epoch`: as 0 it trains at 0.01. The
    cosine is measured from epoch 0, so the warm-up hides its beginning (SGDR with one cycle, arXiv:1608.03983, eq. 5).
    """
    counted = epoch + first_epoch
    if counted < warmup_epochs:
        return (COSINE_START + (share - COSINE_START) * counted / warmup_epochs) / share
    done = min(counted / num_epochs, 1.0)
    return (COSINE_END + (share - COSINE_END) * (1 + math.cos(math.pi * done)) / 2) / share


def flat_then_cosine(
    epoch: int,
    share: float = 1.0,
    *,
    warmup_factor: float,
    warmup_iters: int,
    warmup_method: str,
    flat_epochs: int,
    lr_floor: float,
    num_epochs: int,
) -> float:
    """The factor on a group's base rate: the warm-up's, then 1 until `flat_epochs`, then a cosine to `lr_floor`.

    fast-reid's CosineAnnealingLR with DELAY_EPOCHS and ETA_MIN_LR: the cosine is measured from the last flat epoch, and
    meets the floor, a share of base_lr, at the end of the last epoch, which itself is trained a little above it. A
    warm-up that is longer than `flat_epochs` delays the cosine.
    """
    if epoch + 1 < warmup_iters:
        return warmup(epoch, warmup_factor=warmup_factor, warmup_iters=warmup_iters, warmup_method=warmup_method)
    flat, floor = max(flat_epochs, warmup_iters), lr_floor / share
    done = max(epoch - flat, 0) / max(num_epochs - flat, 1)
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def epoch_factor(
    *,
    warmup_method: str,
    warmup_factor: float,
    warmup_iters: int,
    warmup_epochs: int,
    first_epoch: int,
    lr_steps: Sequence[int],
    gamma: float,
    num_epochs: int,
) -> GroupFactor:
    """(epoch, share) -> factor: the cosine if `warmup_method` is cosine, else the multi-step.

    `warmup_epochs` and `first_epoch` belong to the cosine; `warmup_factor`, `warmup_iters`, `lr_steps` and `gamma` to
    the multi-step, whose factor is that of all groups.
    """
    if warmup_method == "cosine":
        return partial(warmup_cosine, num_epochs=num_epochs, warmup_epochs=warmup_epochs, first_epoch=first_epoch)
    of_all_groups = partial(
        warmup_multistep,
        warmup_factor=warmup_factor,
        warmup_iters=warmup_iters,
        warmup_method=warmup_method,
        lr_steps=tuple(lr_steps),
        gamma=gamma,
    )
    return lambda epoch, _share: of_all_groups(epoch)


def parameter_groups(
    module: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    bias_lr_factor: float,
    weight_decay_bias: float,
    large_fc_lr: bool,
) -> list[dict[str, Any]]:
    """The trainable parameters in groups of weights, biases and powers: params, lr, share, weight_decay, name of each.

    A bias is a parameter with "bias" in its name, as in TAO, SOLIDER and TransReID: a batch norm's shift and Swin's
    relative_position_bias_table too. The power of a generalized mean pooling has no weight decay, which would draw it
    from 3 to 0. With large_fc_lr the classifier's weights and bias are two groups more, at twice base_lr, as in TAO.
    There is a group a kind, not one per tensor as in TAO, because fused and foreach optimisers take one step per group.
    Frozen parameters are left out, and so is an empty group.
    """
    rates = {  # kind -> (share: learning rate over base_lr, weight decay)
        "weights": (1.0, weight_decay),
        "biases": (bias_lr_factor, weight_decay_bias),
        "powers": (1.0, 0.0),
        "classifier weights": (2.0, weight_decay),
        "classifier biases": (2.0, weight_decay_bias),
    }
    members: dict[str, list[nn.Parameter]] = {kind: [] for kind in rates}
    for name, tensor in module.named_parameters():
        if tensor.requires_grad:
            kind = "biases" if "bias" in name else "powers" if name.endswith(".power") else "weights"
            apart = large_fc_lr and name.startswith("classifier.")
            members[f"classifier {kind}" if apart else kind].append(tensor)
    groups: list[dict[str, Any]] = [
        {"name": kind, "params": members[kind], "lr": base_lr * share, "share": share, "weight_decay": decay}
        for kind, (share, decay) in rates.items()
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    name: str, groups: list[dict[str, Any]], momentum: float, *, fused: bool | None = None
) -> torch.optim.Optimizer:
    """The optimiser of torch.optim called `name` over `groups`, with `momentum` if it takes one.

    fused: one kernel for the whole step; None: if the optimiser can and all parameters lie on a GPU. Raises SpecError
    for an unknown name, one that cannot train here, or one that has no fused form and is to be fused.
    """
    known = sorted(
        key
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    )
    if name in UNFIT_OPTIMIZERS:
        raise SpecError(f"train.optim.name: {name} cannot train this network: {UNFIT_OPTIMIZERS[name]}")
    if name not in known:
        usable = [key for key in known if key not in UNFIT_OPTIMIZERS]
        by_lower_case = {key.lower(): key for key in usable}
        close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
        nearest = f"; did you mean {by_lower_case[close[0]]}?" if close else ""
        raise SpecError(
            f"train.optim.name: torch.optim has no optimizer {name!r}{nearest}\n  want: one of {', '.join(usable)}"
        )
    optimizer_class = getattr(torch.optim, name)
    takes = inspect.signature(optimizer_class).parameters
    options: dict[str, Any] = {"momentum": momentum} if "momentum" in takes else {}
    if fused and "fused" not in takes:
        raise SpecError(f"train.fused_optimizer: {name} has no fused form; want auto or off")
    on_gpu = all(tensor.is_cuda for group in groups for tensor in group["params"])
    if "fused" in takes and (on_gpu if fused is None else fused):
        options["fused"] = True
    optimizer: torch.optim.Optimizer = optimizer_class(groups, **options)
    return optimizer
