from pathlib import Path

import pytest
import torch

from reid.distributed.devices import ComputePlan
from reid.distributed.launching import run_on_ranks
from reid.distributed.ranks import SINGLE_PROCESS, SingleProcess
from reid.errors import SpecError
from reid.training.fitting import _require_agreement
from tests import rank_work


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["softmax_triplet", "triplet", "softmax"])
def test_two_processes_compute_the_gradients_and_weights_of_one(tmp_path, monkeypatch, sampler):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    rank_work.train_some_steps(folder=str(tmp_path), sampler=sampler, ranks=SINGLE_PROCESS)
    run_on_ranks("tests.rank_work:train_some_steps", {"folder": str(tmp_path), "sampler": sampler}, local=2)
    one, two = (torch.load(tmp_path / f"of_{size}.pth", weights_only=True) for size in (1, 2))
    assert len(one["gradients"]) == len(two["gradients"]) >= 9
    # float32 sums in another order; the figures' means in another order too
    for mine, theirs in zip(one["gradients"], two["gradients"]):
        assert mine.abs().max() > 1e-3
        torch.testing.assert_close(theirs, mine, rtol=2e-4, atol=2e-5)
    for mine, theirs in zip(one["figures"], two["figures"]):
        assert theirs == pytest.approx(mine, rel=1e-4, abs=1e-6)
    assert one["state"].keys() == two["state"].keys()
    for name, tensor in one["state"].items():
        torch.testing.assert_close(two["state"][name], tensor, rtol=2e-4, atol=2e-5, msg=name)


@pytest.mark.slow
def test_two_processes_share_the_statistics_of_batch_normalisation(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    arguments = {"folder": str(tmp_path), "sampler": "softmax", "frozen": False}
    rank_work.train_some_steps(**arguments, ranks=SINGLE_PROCESS)
    run_on_ranks("tests.rank_work:train_some_steps", arguments, local=2)
    one, two = (torch.load(tmp_path / f"of_{size}.pth", weights_only=True) for size in (1, 2))
    for name, tensor in one["state"].items():
        # nine steps of 0.01; a ReLU near 0 may be on in one and off in the other
        torch.testing.assert_close(two["state"][name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["softmax_triplet", "triplet"])
def test_two_processes_freeze_the_backbone_and_let_it_learn_as_one_does(tmp_path, monkeypatch, sampler):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    arguments = {"folder": str(tmp_path), "sampler": sampler, "freeze_epochs": 1}
    rank_work.train_some_steps(**arguments, ranks=SINGLE_PROCESS)
    run_on_ranks("tests.rank_work:train_some_steps", arguments, local=2)
    one, two = (torch.load(tmp_path / f"of_{size}.pth", weights_only=True) for size in (1, 2))
    sizes = [len(gradient) for gradient in one["gradients"]]
    frozen = sizes.count(sizes[0])
    assert sizes[:frozen] == sizes[:1] * frozen  # the first epoch's steps have gradients of the head only
    assert min(sizes[frozen:]) > sizes[0]
    for mine, theirs in zip(one["gradients"], two["gradients"], strict=True):
        # a ReLU near 0 may be on in one and off in the other; a gradient that is not exchanged is of another size
        assert float((theirs - mine).norm()) < 0.01 * float(mine.norm())
    for name, tensor in one["state"].items():
        torch.testing.assert_close(two["state"][name], tensor, rtol=1e-3, atol=1e-4, msg=name)


class SecondOfTwo(SingleProcess):
    """A rank whose first one computes on newer GPUs."""

    rank, size = 1, 2

    def share(self, value: str) -> str:
        """What the first rank has in place of the value."""
        return value.replace("16-mixed", "bf16-mixed")


def test_ranks_that_would_compute_otherwise_than_the_first_are_refused():
    _require_agreement(ComputePlan(("cpu",), "32-true"), SecondOfTwo())
    with pytest.raises(SpecError) as error:
        _require_agreement(ComputePlan(("cpu",), "16-mixed"), SecondOfTwo())
    assert str(error.value) == (
        "train.precision, train.compile: auto gives another choice on rank 1, whose machine differs from rank 0's\n"
        "  found: precision 16-mixed, channels last, not compiled; images augmented on the CPU\n"
        "  want:  precision bf16-mixed, channels last, not compiled; images augmented on the CPU; "
        "give train.precision and train.compile a fixed value"
    )
