"""Two ranks are two threads here, each with a gloo group of its own name."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from reid.model.backbones import BACKBONES, OWN, build_backbone
from reid.model.embedder import build_embedder
from reid.model.ibn import IBN
from reid.training.shared_statistics import SHARED, share_over_all_ranks, share_statistics
from tests.networks import network_settings

RANKS = 2


@pytest.fixture(scope="module")
def groups() -> Iterator[list[str]]:
    """The names of the two ranks' groups."""
    store = dist.HashStore()

    def join(rank: int) -> dist.ProcessGroup:
        group = dist.ProcessGroup(store, rank, RANKS)
        gloo = dist.ProcessGroupGloo(store, rank, RANKS, timedelta(seconds=30))
        group._register_backend(torch.device("cpu"), dist.ProcessGroup.BackendType.GLOO, gloo)
        torch._C._distributed_c10d._register_process_group(f"of rank {rank}", group)
        return group

    with ThreadPoolExecutor(RANKS) as pool:
        joined = list(pool.map(join, range(RANKS)))
    yield [f"of rank {rank}" for rank in range(RANKS)]
    joined.clear()  # torch's table of names does not keep a group alive


class Result:
    """What one training step of a layer or network gives."""

    def __init__(self, network: nn.Module, values: Tensor, gradient: Tensor) -> None:
        values = values.clone().requires_grad_()
        output = network(values)
        (output.float() * gradient).sum().backward()
        assert values.grad is not None
        self.output, self.of_values = output.detach(), values.grad
        self.of_parameters = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        self.buffers = dict(network.named_buffers())


def on_ranks(groups: list[str], network: nn.Module, values: Tensor, gradient: Tensor) -> list[Result]:
    """The same step by two ranks, each with its half of the values."""

    def step(rank: int) -> Result:
        mine = share_statistics(copy.deepcopy(network), ranks=RANKS, group=groups[rank])
        return Result(mine, values.chunk(RANKS)[rank], gradient.chunk(RANKS)[rank])

    with ThreadPoolExecutor(RANKS) as pool:
        return list(pool.map(step, range(RANKS)))


def assert_equal(ranks: list[Result], one: Result, **tolerance: float) -> None:
    torch.testing.assert_close(torch.cat([rank.output for rank in ranks]), one.output, **tolerance)
    torch.testing.assert_close(torch.cat([rank.of_values for rank in ranks]), one.of_values, **tolerance)
    for name, wanted in one.of_parameters.items():
        torch.testing.assert_close(sum(rank.of_parameters[name] for rank in ranks), wanted, **tolerance)
    for name, wanted in one.buffers.items():
        for rank in ranks:
            torch.testing.assert_close(rank.buffers[name], wanted, **tolerance)
            assert torch.equal(rank.buffers[name], ranks[0].buffers[name])


def drawn_layer(kind: Callable[..., nn.Module], dtype: torch.dtype = torch.float64, **options: Any) -> nn.Module:
    """A layer of 6 channels; its values lie far from 0 and its weights are no constants."""
    torch.manual_seed(1)
    layer = kind(6, **options).to(dtype)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 2.0)
    return layer


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (drawn_layer(nn.BatchNorm1d), (8, 6)),
        (drawn_layer(nn.BatchNorm1d), (2, 6)),  # one image on each rank
        (drawn_layer(nn.BatchNorm1d), (8, 6, 5)),
        (drawn_layer(nn.BatchNorm2d), (8, 6, 5, 3)),
        (drawn_layer(nn.BatchNorm2d, momentum=None), (8, 6, 5, 3)),
        (drawn_layer(nn.BatchNorm2d, affine=False), (8, 6, 5, 3)),
        (drawn_layer(nn.BatchNorm2d, track_running_stats=False), (8, 6, 5, 3)),
        (drawn_layer(timm.layers.BatchNormAct2d), (8, 6, 5, 3)),
        (drawn_layer(IBN), (8, 6, 5, 3)),  # its instance normalisation is of one image, and needs no exchange
    ],
)
def test_ranks_compute_what_one_process_computes_of_the_whole_batch(groups, layer, shape):
    values, gradient = 20 + 3 * torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    one = Result(copy.deepcopy(layer), values, gradient)
    # float64, values of about 20 whose squares are summed: 400 roundings of 1e-16
    assert_equal(on_ranks(groups, layer, values, gradient), one, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_float32_is_as_exact_for_values_far_from_zero(groups, layout):
    layer = drawn_layer(nn.BatchNorm2d, torch.float32)
    values = (1000 + torch.randn(8, 6, 5, 3)).to(memory_format=layout)
    gradient = torch.randn(8, 6, 5, 3)
    exact = Result(copy.deepcopy(layer).double(), values.double(), gradient.double())
    ranks = on_ranks(groups, layer, values, gradient)
    # 1000 has a rounding of 6e-5 in float32; E[x^2] - E[x]^2 would be off by 0.06 of a variance of 1
    torch.testing.assert_close(torch.cat([rank.output for rank in ranks]).double(), exact.output, rtol=0, atol=5e-4)
    torch.testing.assert_close(
        ranks[0].buffers["running_var"].double(), exact.buffers["running_var"], rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_half_precision_values_are_float32(groups, dtype):
    layer = drawn_layer(nn.BatchNorm2d, torch.float32)
    values, gradient = (5 + torch.randn(8, 6, 5, 3)).to(dtype), torch.randn(8, 6, 5, 3)
    exact = Result(copy.deepcopy(layer).double(), values.double(), gradient.double())
    ranks = on_ranks(groups, layer, values, gradient)
    assert {rank.output.dtype for rank in ranks} == {rank.of_values.dtype for rank in ranks} == {dtype}
    torch.testing.assert_close(
        ranks[0].buffers["running_mean"].double(), exact.buffers["running_mean"], rtol=1e-6, atol=0
    )
    rounding = 8 * torch.finfo(dtype).eps  # outputs of up to 8
    torch.testing.assert_close(torch.cat([rank.output for rank in ranks]).double(), exact.output, rtol=0, atol=rounding)


class Collectives(TorchDispatchMode):
    """Counts the exchanges between ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("_c10d_functional", "c10d") and "wait" not in func.__name__:
            self.seen[func.__name__.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def pretended_ranks() -> Iterator[None]:
    """Two ranks, of which the other one does nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("pretended_ranks")
def test_each_layer_exchanges_once_forward_and_once_backward() -> None:
    network = share_over_all_ranks(build_embedder(**network_settings()))
    layers = sum(isinstance(layer, tuple(SHARED.values())) for layer in network.modules())
    with Collectives() as collectives:
        features, logits = network(torch.rand(4, 3, 64, 32))
        (features.sum() + logits.sum()).backward()
    assert collectives.seen == {"all_gather_into_tensor": layers, "all_reduce": layers}


def small_network() -> nn.Module:
    """Every kind of layer that is shared."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), timm.layers.BatchNormAct2d(4), nn.Flatten(),
        nn.BatchNorm1d(48),
    )  # fmt: skip


def resnet_50() -> nn.Module:
    return build_embedder(**network_settings(backbone="resnet_50")).base


@pytest.mark.usefixtures("pretended_ranks")
@pytest.mark.parametrize("build", [small_network, pytest.param(resnet_50, marks=pytest.mark.slow)])
def test_torch_compile_traces_the_network_in_one_piece(build: Callable[[], nn.Module]) -> None:
    network = share_over_all_ranks(build())
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    compiled(torch.rand(4, 3, 8, 7)).sum().backward()
    layers = [layer for layer in network.modules() if isinstance(layer, tuple(SHARED.values()))]
    assert len(layers) in (3, 53)
    for layer in layers:
        assert layer.num_batches_tracked == 1
        assert layer.running_mean.abs().max() > 0


@pytest.mark.parametrize(
    "name", [*BACKBONES, *OWN, *("timm/test_efficientnet", "timm/ecaresnet26t", "timm/mambaout_femto")]
)
def test_every_batch_norm_of_a_backbone_is_converted_and_keeps_its_names(name: str) -> None:
    with torch.device("meta"):
        network = build_backbone(
            name, last_stride=1, stem_relu=True, stem_pool="padded", input_channels=3, height=224, width=224,
            drop_path=0.1, drop_out=0.0, att_drop_rate=0.0, semantic_weight=-1.0, stride_size=[16, 16],
        )  # fmt: skip
    keys = list(network.state_dict())
    norms = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    assert bool(norms) == ("swin" not in name and "vit" not in name and "mambaout" not in name)
    share_statistics(network, ranks=RANKS, group="none")
    assert {type(layer) for layer in norms} <= set(SHARED.values())
    assert list(network.state_dict()) == keys


def test_in_evaluation_a_layer_is_what_it_was() -> None:
    network = timm.create_model("efficientnet_b0", num_classes=0).eval()
    images = torch.rand(1, 3, 64, 64)
    wanted = network(images)
    found = share_statistics(network, ranks=RANKS, group="none")
    assert sum(isinstance(layer, tuple(SHARED.values())) for layer in found.modules()) == 49
    assert torch.equal(found(images), wanted)


def test_a_layer_of_another_kind_is_refused() -> None:
    network = nn.Sequential(nn.BatchNorm3d(3))
    with pytest.raises(TypeError, match="0: BatchNorm3d cannot share its statistics over ranks"):
        share_statistics(network, ranks=RANKS, group="none")
