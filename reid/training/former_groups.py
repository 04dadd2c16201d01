"""Resumes the optimizer of an older training, in which only a parameter whose name ends in "bias" was a bias.

Since then every name with "bias" in it is one, Swin's relative_position_bias_table too (see parameter_groups), so these
tensors have gone from a group of weights to the group of biases beside it. An optimizer's state names its tensors by
number; here the numbers are laid into the groups of today.
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

from torch import Tensor, nn

logger = logging.getLogger(__name__)


def in_todays_groups(
    state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], module: nn.Module
) -> dict[str, Any]:
    """The optimizer's state dict for today's groups of the module's parameters; as it is if it has them already."""
    then = [len(group["params"]) for group in state["param_groups"]]
    if then == [len(group["params"]) for group in groups]:
        return dict(state)
    former = _former_groups(groups, module)
    if then != [len(tensors) for tensors in former]:
        return dict(state)
    place_then = {id(tensor): place for place, tensor in enumerate(chain.from_iterable(former))}
    places = iter([place_then[id(tensor)] for group in groups for tensor in group["params"]])
    # the old numbers in today's order: torch takes the state of a tensor by its number, whatever the numbers are
    params = [list(islice(places, len(group["params"]))) for group in groups]
    logger.warning(
        "the checkpoint is of a version in which only a name that ends in bias was a bias: %s counts as one now",
        ", ".join(sorted({name.rpartition(".")[2] for name, _ in _moved(module)})),
    )
    of_groups = [dict(group) | {"params": own} for group, own in zip(state["param_groups"], params, strict=True)]
    return {**state, "param_groups": of_groups}


def _moved(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters that are biases today and were weights then."""
    named = module.named_parameters()
    return [(name, tensor) for name, tensor in named if "bias" in name and not name.endswith("bias")]


def _former_groups(groups: Sequence[Mapping[str, Any]], module: nn.Module) -> list[list[Tensor]]:
    """The tensors of each group as they were then: in the order of the module's parameters."""
    order = {id(tensor): place for place, tensor in enumerate(module.parameters())}
    moved = {id(tensor) for _, tensor in _moved(module)}
    former = []
    for group in groups:
        own = [tensor for tensor in group["params"] if id(tensor) not in moved]
        beside = [other for other in groups if other["name"] == group["name"].replace("weights", "biases", 1)]
        if beside and beside[0] is not group:
            own += [tensor for tensor in beside[0]["params"] if id(tensor) in moved]
        former.append(sorted(own, key=lambda tensor: order[id(tensor)]))
    return former
