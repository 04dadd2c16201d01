"""The validation as one function of trainer, module and epoch, shared by the ranks."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl

from reid.distributed.ranks import Ranks
from reid.embeddings import UNTRAINED_EMBEDDINGS, Embeddings
from reid.training.history import UNTRAINED, Row
from reid.training.lightning import Training
from reid.training.trainer import evaluating, network_of
from reid.training.validation import Validation, pair_counter


class Validated(NamedTuple):
    """What a validation found, the same on all ranks."""

    figures: Row
    thresholds: str
    """One line of JSON, see reid.thresholds; "" if they were not wanted or none can be judged."""


def build_validate(
    validation: Validation,
    test_images: Validation,
    model: Path,
    *,
    channels_last: bool,
    ranks: Ranks,
    check: Callable[[], None],
) -> Callable[[pl.Trainer, Training, int, float], Validated]:
    """A function of trainer, module, epoch and the best mAP so far, that embeds query and gallery and scores them.

    If its mAP is above the best, it gives the thresholds too: the checkpoint of these weights will hold them. The
    distances that give the mAP give them, for a second pass over the pairs would cost as much again.

    It also saves the untrained network's embeddings of the test images, which the evaluate stage compares with. If
    persons are held out, these are other images than the validation's. The ranks share the batches, rank 0 computes the
    figures, and all ranks get them. `check` may raise between batches.
    """

    def validate(trainer: pl.Trainer, module: Training, epoch: int, best: float) -> Validated:
        began = time.perf_counter()
        what = "untrained network" if epoch == UNTRAINED else f"validation after epoch {epoch + 1}"
        with evaluating(module):
            network = network_of(trainer, module, contract=validation.contract, channels_last=channels_last)
            query, gallery = validation.embed(network, what=what, ranks=ranks, between=check)
            tested = (query, gallery)
            if epoch == UNTRAINED and test_images is not validation:
                tested = test_images.embed(network, what=f"{what}, test images", ranks=ranks, between=check)
        figures, thresholds = Row(), ""
        if not ranks.rank:
            if epoch == UNTRAINED:
                Embeddings.joined(*tested).save_npz(model / UNTRAINED_EMBEDDINGS)
            pairs = pair_counter(query, gallery) if epoch != UNTRAINED else None
            figures = validation.figures(query, gallery, device=module.device, pairs=pairs)
            if pairs and figures["mAP"] > best:
                thresholds = validation.thresholds(pairs)
            if test_images is not validation:
                figures |= {name: float(value) for name, value in validation.size().items()}
            figures["validation_seconds"] = time.perf_counter() - began
        ranks.meet()  # scoring a large gallery may take longer than an exchange may wait
        return Validated(*ranks.share((figures, thresholds)))

    return validate
