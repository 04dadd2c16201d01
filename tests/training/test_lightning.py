import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from reid.contract import Contract
from reid.data.module import TrainingData
from reid.distributed.devices import ComputePlan, choose_gpus
from reid.errors import SpecError
from reid.model.embedder import build_embedder
from reid.training import trainer
from reid.training.chosen_losses import build_losses
from reid.training.lightning import Training
from reid.training.plateau import Plateau
from reid.training.refusals import refuse_batch_of_one
from reid.training.resume import DurableCheckpoints
from reid.training.schedule import build_optimizer, parameter_groups
from reid.training.trainer import fit, seed_everything
from tests.networks import network_settings
from tests.plain_data import plain_data


def losses(**changes: object) -> torch.nn.ModuleDict:
    values: dict = {
        "sampler": "softmax_triplet",
        "metric_loss_type": "triplet",
        "with_center_loss": False,
        "label_smooth": True,
        "id_loss_type": "softmax",
        "cosine_margin": 0.5,
        "cosine_scale": 30.0,
        "triplet_loss_margin": 0.3,
        "num_classes": 5,
        "embedding_size": 16,
    }
    return build_losses(**(values | changes))


def training(parts: torch.nn.ModuleDict | None = None, **changes: object) -> Training:
    """timm's test_resnet with plain gradient descent, learning rate 0.1."""
    seed_everything(0)
    network = build_embedder(**network_settings())

    def optimizer(module: torch.nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(
            module, base_lr=0.1, weight_decay=0.0, bias_lr_factor=2.0, weight_decay_bias=0.0, large_fc_lr=False
        )
        return build_optimizer("SGD", groups, 0.0)

    values: dict = {
        "optimizer": optimizer,
        "epoch_factor": lambda epoch, _share: 1 / (epoch + 1),
        "plateau": None,
        "plateau_watches": "val_loss",
        "clip_grad_norm": 0.0,
        "loss_weights": {"cross_entropy": 1.0, "triplet": 1.0, "center": 0.01},
        "unit_triplet": False,
        "center_lr": 0.5,
        "ema_decay": 0.0,
        "freeze_epochs": 0,
        "seed": 0,
    }
    return Training(network, losses() if parts is None else parts, **(values | changes))


class Seen(Callback):
    """Every step's figures and each epoch's learning rates."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.rates: list[list[float]] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.steps.append({name: float(value) for name, value in outputs.items()})

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def run(
    module: Training, folder: Path, *, epochs: int = 1, more: Sequence[Callback] = (), on_device: bool = False
) -> Seen:
    """Epochs of one step: 5 persons of 4 noise images, all in the batch."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 64, 32, 3), np.uint8)
    data = plain_data(pixels, np.repeat(np.arange(5), 4), batch_size=20, num_instances=4, on_device=on_device)
    seen = Seen()
    plan = ComputePlan(("cpu",), "32-true")
    checkpoints = DurableCheckpoints()
    fit(
        module,
        data,
        callbacks=[seen, *more],
        plan=plan,
        checkpoints=checkpoints,
        epochs=epochs,
        start=None,
        folder=folder,
    )
    return seen


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"cross_entropy", "triplet"}),
        ({"sampler": "softmax"}, {"cross_entropy"}),
        ({"sampler": "triplet"}, {"triplet"}),
        ({"with_center_loss": True}, {"cross_entropy", "triplet", "center"}),
        ({"with_center_loss": True, "metric_loss_type": "triplet_center"}, {"cross_entropy", "triplet", "center"}),
        ({"with_center_loss": True, "metric_loss_type": "center"}, {"cross_entropy", "center"}),
        ({"with_center_loss": True, "sampler": "softmax"}, {"cross_entropy"}),
    ],
)
def test_the_spec_names_the_losses(changes, names):
    assert set(losses(**changes)) == names


def test_label_smoothing_is_a_tenth():
    logits = torch.tensor([[4.0, 0.0]])
    # -log softmax: 0.01815 and 4.01815; smoothed 0.95 * 0.01815 + 0.05 * 4.01815
    label = torch.tensor([0])
    assert losses(num_classes=2)["cross_entropy"](logits, label).item() == pytest.approx(0.21815, abs=1e-5)
    plain = losses(num_classes=2, label_smooth=False)["cross_entropy"](logits, label)
    assert plain.item() == pytest.approx(0.01815, abs=1e-5)


def test_the_loss_of_a_step_is_the_weighted_sum_of_its_parts(tmp_path):
    step = run(training(losses(with_center_loss=True)), tmp_path).steps[0]
    assert step["loss"] == pytest.approx(step["cross_entropy"] + step["triplet"] + 0.01 * step["center"], rel=1e-5)
    assert 0 <= step["accuracy"] <= 1


def test_the_centres_learn_at_their_own_rate_whatever_the_loss_weight(tmp_path):
    moved, weights = [], {"cross_entropy": 1.0, "triplet": 1.0}
    for weight, rate in ((0.01, 0.5), (0.0001, 0.5), (0.01, 0.25)):
        module = training(losses(with_center_loss=True), loss_weights=weights | {"center": weight}, center_lr=rate)
        before = module.losses["center"].centers.detach().clone()
        run(module, tmp_path)
        moved.append(module.losses["center"].centers.detach() - before)
    assert moved[0].abs().max() > 1e-3
    # float32 rounding of gradients that are a hundred times as small
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(2 * moved[2], moved[0], rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_step_and_not_the_reported_norm(tmp_path):
    module = training(clip_grad_norm=0.01)
    before = {name: tensor.clone() for name, tensor in module.model.named_parameters()}
    seen = run(module, tmp_path)
    weights = [name for name in before if not name.endswith("bias")]
    moved = torch.stack([(module.model.get_parameter(name) - before[name]).norm() for name in weights]).norm()
    assert seen.steps[0]["gradient_norm"] > 0.1
    assert 0 < moved.item() <= 0.1 * 0.01 * 1.01


def test_the_learning_rate_follows_the_epochs_and_biases_their_factor(tmp_path):
    seen = run(training(), tmp_path, epochs=3)
    assert seen.rates == [pytest.approx([0.1 / n, 0.2 / n]) for n in (1, 2, 3)]


def test_a_plateau_of_ten_looks_multiplies_by_gamma():
    plateau = Plateau(gamma=0.1)
    plateau.look(1.0)
    for _ in range(10):
        plateau.look(1.0)
    assert plateau.factor == 1.0
    plateau.look(1.0)
    assert plateau.factor == pytest.approx(0.1)


def test_a_plateau_that_is_not_reached_leaves_the_factor_and_gamma_is_the_new_ones_own():
    plateau, other = Plateau(gamma=0.1), Plateau(gamma=0.5)
    plateau.look(1.0)
    other.load_state_dict(plateau.state_dict())
    assert other.factor == 1.0
    for _ in range(11):
        other.look(1.0)
    assert other.factor == 0.5


def test_a_plateau_resumes_where_its_state_was_taken():
    plateau, other = Plateau(gamma=0.5), Plateau(gamma=0.5)
    for _ in range(16):
        plateau.look(2.0)
    other.load_state_dict(plateau.state_dict())
    assert other.factor == plateau.factor == 0.5
    for _ in range(7):
        plateau.look(2.0)
        other.look(2.0)
    assert other.factor == plateau.factor == 0.25


@pytest.mark.parametrize(("watched", "factor"), [("train_loss", 0.1), ("val_loss", 1.0)])
def test_the_plateau_watches_the_loss_that_the_spec_names(watched, factor):
    module = training(plateau=Plateau(gamma=0.1), plateau_watches=watched)
    for epoch in range(12):
        module.after_epoch(train_loss=1.0, val_loss=1.0 / (epoch + 1))
    assert module.learning_rate_at(0) == pytest.approx(factor)


def test_an_epoch_without_validation_is_no_look():
    module = training(plateau=Plateau(gamma=0.1))
    for _ in range(30):
        module.after_epoch(train_loss=1.0, val_loss=None)
    assert module.learning_rate_at(0) == 1.0


@pytest.mark.parametrize(
    ("num_gpus", "gpu_ids", "chosen"),
    [(1, [0], (0,)), (4, [0], (0, 1, 2, 3)), (1, [2, 3], (2, 3)), (4, [2, 3], (0, 1, 2, 3)), (2, [5], (0, 5))],
)
def test_the_field_with_more_gpus_wins_and_chosen_ids_are_kept(num_gpus, gpu_ids, chosen):
    assert choose_gpus(num_gpus, gpu_ids) == chosen


def test_an_optimizers_state_comes_back_in_the_form_that_is_chosen_now(tmp_path: Path) -> None:
    """By a group's `fused` torch decides where its counts of steps lie; a fused step must not find them elsewhere."""
    seen = []

    def of_adam(*, fused: bool) -> Training:
        def optimizer(module: torch.nn.Module) -> torch.optim.Optimizer:
            made = torch.optim.Adam(module.parameters(), fused=fused)
            made.register_load_state_dict_pre_hook(
                lambda _, state: seen.append([group["fused"] for group in state["param_groups"]])
            )
            return made

        return training(optimizer=optimizer)

    before = of_adam(fused=False)
    state = before.configure_optimizers().state_dict()
    after = of_adam(fused=True)
    after.resume_from({"state_dict": before.state_dict(), "optimizer_states": [state]}, epoch=0, step=0)
    run(after, tmp_path)
    assert seen == [[True]]


class OlderDistributedDataParallel(torch.nn.Module):
    """As in torch 2.11: another name for the buffers that rank 0 gives to all."""

    def __init__(self, module: torch.nn.Module, broadcast_buffers: bool = True) -> None:
        super().__init__()


def test_no_buffers_are_exchanged_by_the_name_that_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = ComputePlan(("cpu", "cpu"), "32-true")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "DistributedDataParallel", OlderDistributedDataParallel)
        asked = trainer._gradient_exchange(training(), plan)._ddp_kwargs
    assert asked["broadcast_buffers"] is False
    asked = trainer._gradient_exchange(training(), plan)._ddp_kwargs
    assert set(asked) <= set(inspect.signature(torch.nn.parallel.DistributedDataParallel).parameters)


class Warns(Callback):
    """Warns as inductor does when it compiles float32 products."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        warnings.warn("TensorFloat32 tensor cores for float32 products available but not enabled.", stacklevel=1)


def test_torch_does_not_advise_to_compute_with_fewer_bits(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    run(training(), tmp_path, more=[Warns()])
    assert [warning for warning in recwarn if "TensorFloat32" in str(warning.message)] == []


OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.20 GiB is "
    "free. Including non-PyTorch memory, this process has 77.90 GiB memory in use."
)


class FullOnce(Callback):
    """A GPU that holds all images, whose memory does not suffice for a step (from 1) in the middle of the network."""

    def __init__(self, at_step: int, times: int = 1) -> None:
        self.forwards, self.at_step, self.times = 0, at_step, times

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        module.model.bottleneck.register_forward_pre_hook(self._fail)  # the backbone's statistics are updated by then

    def _fail(self, bottleneck: torch.nn.Module, _values: object) -> None:
        self.forwards += 1
        if self.times and self.forwards >= self.at_step:
            self.times -= 1
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)


def hold_on_cpu(data: TrainingData, _device: torch.device) -> bool:
    """The CPU holds all images as a GPU does, unless it gave them back."""
    if not data._gave_back:
        data._resident = torch.from_numpy(data.pixels)
    return bool(len(data._resident))


def test_a_step_without_memory_is_taken_again_without_the_images_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(TrainingData, "_holds_all_images", hold_on_cpu)
    undisturbed, disturbed = training(), training()
    wanted = run(undisturbed, tmp_path, epochs=4, on_device=True)
    assert not caplog.messages
    found = run(disturbed, tmp_path, epochs=4, on_device=True, more=[FullOnce(at_step=2)])
    assert found.steps == wanted.steps
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(disturbed.state_dict()[name], tensor), name
    assert [message.partition(":")[0] for message in caplog.messages] == ["memory of the device ran out"]


@pytest.mark.parametrize(("at_step", "times"), [(1, 2), (4, 1)])
def test_memory_that_does_not_suffice_either_way_or_runs_out_later_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: int, times: int
) -> None:
    monkeypatch.setattr(TrainingData, "_holds_all_images", hold_on_cpu)
    with pytest.raises(SpecError, match=r"dataset.batch_size: the memory of cpu does not suffice for 20 images"):
        run(training(), tmp_path, epochs=5, on_device=True, more=[FullOnce(at_step, times)])


class NoMemory(Callback):
    """A GPU without room in the first step."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)


def test_a_batch_that_does_not_fit_into_the_gpu_names_the_field_to_change(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        run(training(), tmp_path, more=[NoMemory()])
    assert str(caught.value) == (
        "dataset.batch_size: the memory of cpu does not suffice for 20 images at once\n"
        "  found: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB "
        "of which 1.20 GiB is free\n"
        "  want:  a smaller dataset.batch_size"
    )


@pytest.mark.parametrize(
    ("changes", "size"),
    [({}, (64, 32)), ({"neck": ""}, (16, 16))],  # after the pooling; and a feature map of 1 x 1 pixels
)
def test_a_batch_of_one_image_is_refused_before_the_work_starts(changes: dict[str, object], size: tuple[int, int]):
    height, width = size
    network = build_embedder(**network_settings(last_stride=2, height=height, width=width, **changes))
    contract = Contract(height=height, width=width, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, embedding=16)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    refuse_batch_of_one(network, batch_size=2, contract=contract)
    with pytest.raises(SpecError) as caught:
        refuse_batch_of_one(network, batch_size=1, contract=contract)
    first, found, want = str(caught.value).splitlines()
    assert first == "dataset.batch_size: 1: the network's batch normalisation has one value per channel then"
    assert found.startswith("  found: Expected more than 1 value per channel when training")
    assert want == "  want:  dataset.batch_size=2 or more"
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_batch_of_one_image_without_a_neck_trains() -> None:
    network = build_embedder(**network_settings(neck=""))
    contract = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, embedding=16)
    refuse_batch_of_one(network, batch_size=1, contract=contract)
