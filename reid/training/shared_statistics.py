"""Batch normalisation with the statistics of the whole batch, of which every rank has an equally large part.

torch's SyncBatchNorm also handles parts of different sizes. For that the host waits for the GPU three times a layer,
torch.compile cannot trace it, and it does not exist on the CPU. Here all parts are equally large, so one exchange a
layer is enough in each direction: the ranks' means and deviations on the way forward, two sums on the way back. Nothing
waits for the host.

The statistics are put together as in Chan et al. 1979 ("Updating formulae and a pairwise algorithm for computing sample
variances"): the variance is the mean of the ranks' variances plus the variance of their means. That does not subtract
large numbers from each other, as E[x^2] - E[x]^2 does. They are float32 (or float64) whatever type the images have.

The two implementations below exchange the same numbers, mean and 1 / std forward, the sums of dy and dy (x - mean)
backward: torch.compile may give up on one rank alone, and that rank must still understand the others.

Shapes: B images of this rank, C channels, S values of a channel in an image, W ranks, n = B S values of a channel on
this rank, N = n W of all ranks.
"""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F

Module = TypeVar("Module", bound=nn.Module)

exchange = torch.ops._c10d_functional  # torch.compile can trace these, unlike the functions of torch.distributed


def _of_every_rank(values: Tensor, ranks: int, group: str) -> Tensor:
    """values (V,) of this rank -> (W, V) of all ranks."""
    gathered: Tensor = exchange.wait_tensor(exchange.all_gather_into_tensor(values, ranks, group))
    return gathered.view(ranks, -1)


def _sum_over_ranks(values: Tensor, group: str) -> Tensor:
    """values of this rank -> their sum over all ranks."""
    total: Tensor = exchange.wait_tensor(exchange.all_reduce(values, "sum", group))
    return total


def _own_statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """values (B, C, ...) -> mean (C,) and biased variance (C,) of this rank."""
    exact = values if values.dtype == torch.float64 else values.float()
    if not torch.compiler.is_compiling():
        mean, variance = torch.batch_norm_update_stats(exact, None, None, 0.0)  # 20 times as fast as var_mean on a CPU
        return mean, variance
    variance, mean = torch.var_mean(exact, dim=[0, *range(2, values.ndim)], correction=0)
    return mean, variance


class _Normalised(torch.autograd.Function):
    """(values - mean) / sqrt(variance + eps) * weight + bias, with mean and variance over all ranks.

    Its outputs are the values, the mean (C,) and the biased variance (C,); only the values have a gradient.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes no keywords
        ctx: Any, values: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, ranks: int, group: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """values (B, C, ...), weight (C,), bias (C,)."""
        own_mean, own_variance = _own_statistics(values)
        parts = _of_every_rank(torch.cat([own_mean, torch.rsqrt(own_variance + eps)]), ranks, group)  # (W, 2C)
        means, inverses = parts.chunk(2, dim=1)
        variances = (inverses.pow(-2) - eps).clamp(min=0)  # rounded to 1e-7 of variance + eps
        spread, mean = torch.var_mean(means, dim=0, correction=0)
        variance = variances.mean(dim=0) + spread
        ctx.save_for_backward(values, weight, mean, variance)
        ctx.eps, ctx.ranks, ctx.group = eps, ranks, group
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(values, mean, variance, weight, bias, training=False, eps=eps), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Ioffe & Szegedy 2015, arXiv:1502.03167, section 3, with the two sums taken over all ranks."""
        values, weight, mean, variance = ctx.saved_tensors
        gradient = gradients[0]
        # of a normalisation with fixed statistics: sum(dy (x - mean)) / std and sum(dy), of this rank
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, values, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        of_values = None
        if ctx.needs_input_grad[0]:
            inverse = torch.rsqrt(variance + ctx.eps)
            sums = _sum_over_ranks(torch.cat([of_bias, of_weight / inverse]), ctx.group)  # of dy and of dy (x - mean)
            total, product = (sums / (values.numel() // values.shape[1] * ctx.ranks)).chunk(2)  # means over N values
            product = product * inverse
            scale = inverse if weight is None else inverse * weight
            slope = -scale * inverse * product
            shape = [1, -1] + [1] * (values.ndim - 2)
            constant = (-scale * total - slope * mean).view(shape)
            linear = torch.addcmul(constant, values, slope.view(shape))
            of_values = torch.addcmul(linear, gradient, scale.view(shape)).to(values.dtype)
        return (
            of_values,
            of_weight if ctx.needs_input_grad[1] else None,
            of_bias if ctx.needs_input_grad[2] else None,
            None,
            None,
            None,
        )


class _NormalisedByKernels(torch.autograd.Function):
    """The same by the CUDA kernels of torch's SyncBatchNorm, for GPUs without torch.compile: few, large kernels.

    The kernel that puts the statistics together updates the running ones too.
    """

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        values: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor | None, Tensor | None],
        momentum: float,
        eps: float,
        ranks: int,
        group: str,
    ) -> Tensor:
        """values (B, C, ...), weight (C,), bias (C,); running: mean (C,) and variance (C,), which are updated."""
        values = _dense(values)
        count = values.numel() // values.shape[1]
        parts = _of_every_rank(torch.cat(torch.batch_norm_stats(values, eps)), ranks, group)  # (W, 2C)
        means, inverses = (part.contiguous() for part in parts.chunk(2, dim=1))
        counts = torch.full((ranks,), count, dtype=means.dtype, device=values.device)
        mean, inverse = torch.batch_norm_gather_stats_with_counts(
            values, means, inverses, *running, momentum, eps, counts
        )
        ctx.save_for_backward(values, weight, mean, inverse)
        ctx.count, ctx.ranks, ctx.group = count, ranks, group
        return torch.batch_norm_elemt(values, weight, bias, mean, inverse, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """As _Normalised.backward."""
        values, weight, mean, inverse = ctx.saved_tensors
        gradient = _dense(gradients[0])
        total, product, of_weight, of_bias = torch.batch_norm_backward_reduce(
            gradient, values, mean, inverse, weight, *ctx.needs_input_grad[:3]
        )
        of_values = None
        if ctx.needs_input_grad[0]:
            total, product = _sum_over_ranks(torch.cat([total, product]), ctx.group).chunk(2)
            counts = torch.full((ctx.ranks,), ctx.count, dtype=torch.int32, device=values.device)
            of_values = torch.batch_norm_backward_elemt(gradient, values, mean, inverse, weight, total, product, counts)
        return of_values, of_weight, of_bias, None, None, None, None, None


def _dense(values: Tensor) -> Tensor:
    """The same values in a layout that the kernels take: channels last, or channels first."""
    return values if values.is_contiguous(memory_format=torch.channels_last) else values.contiguous()


def _normalise(layer: nn.modules.batchnorm._BatchNorm, values: Tensor, ranks: int, group: str) -> Tensor:
    """What the layer makes of values (B, C, ...) in training; updates its running statistics as nn.BatchNorm does."""
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
    count = values.numel() // values.shape[1] * ranks
    if count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(values.shape)}")
    if values.is_cuda and layer.momentum is not None and not torch.compiler.is_compiling():
        running = (layer.running_mean, layer.running_var)
        output: Tensor = _NormalisedByKernels.apply(
            values, layer.weight, layer.bias, running, layer.momentum, layer.eps, ranks, group
        )
        return output
    output, mean, variance = _Normalised.apply(values, layer.weight, layer.bias, layer.eps, ranks, group)
    if layer.running_mean is not None and layer.running_var is not None:
        share: Any = layer.momentum if layer.momentum is not None else layer.num_batches_tracked.float().reciprocal()  # type: ignore[union-attr]
        with torch.no_grad():
            layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), share)
            layer.running_var.lerp_((variance * (count / (count - 1))).to(layer.running_var.dtype), share)
    return output


class _Shared:
    """The part of a layer that shares its statistics in training; in evaluation it is as before."""

    shared_ranks: int
    shared_group: str

    def forward(self, values: Tensor) -> Tensor:
        """values (B, C, ...) -> the same shape."""
        if not self.training:  # type: ignore[attr-defined]
            own: Tensor = super().forward(values)  # type: ignore[misc]
            return own
        return _normalise(self, values, self.shared_ranks, self.shared_group)  # type: ignore[arg-type]


class SharedBatchNorm1d(_Shared, nn.BatchNorm1d):
    """nn.BatchNorm1d with the statistics of all ranks."""


class SharedBatchNorm2d(_Shared, nn.BatchNorm2d):
    """nn.BatchNorm2d with the statistics of all ranks."""


class SharedBatchNormAct2d(_Shared, BatchNormAct2d):  # type: ignore[misc]
    """timm's BatchNormAct2d, which holds the activation too, with the statistics of all ranks."""

    def forward(self, values: Tensor) -> Tensor:
        """values (B, C, H, W) -> the same shape."""
        output = super().forward(values)
        return self.act(self.drop(output)) if self.training else output  # type: ignore[no-any-return]


SHARED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SharedBatchNorm1d,
    nn.BatchNorm2d: SharedBatchNorm2d,
    BatchNormAct2d: SharedBatchNormAct2d,
}
"""A layer of batch normalisation -> the one that shares its statistics."""


def share_statistics(network: Module, *, ranks: int, group: str) -> Module:
    """Makes every batch normalisation of the network share its statistics; returns the network, the same object.

    The layers stay the same objects with the same parameters and names, so checkpoints fit in both directions.
    group: the name of the process group, of so many ranks. A layer that the ranks cannot share raises TypeError.
    """
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
            continue
        if type(layer) not in SHARED:
            raise TypeError(f"{name}: {type(layer).__name__} cannot share its statistics over ranks")
        layer.__class__ = SHARED[type(layer)]  # type: ignore[assignment]
        layer.shared_ranks, layer.shared_group = ranks, group  # type: ignore[assignment]
    return network


def share_over_all_ranks(network: Module) -> Module:
    """share_statistics over all ranks of this process's group."""
    return share_statistics(network, ranks=dist.get_world_size(), group=dist.group.WORLD.group_name)  # type: ignore[union-attr]
