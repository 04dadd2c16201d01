"""Embeds the query and gallery images of a data set for the stages evaluate and inference."""

from collections.abc import Sequence
from pathlib import Path

from reid.deploy.embedding import embed_on_devices
from reid.deploy.opening import ModelCard, find_checkpoint
from reid.embeddings import Embeddings
from reid.spec import Experiment
from reid.stages.agreement import require_agreement


def embed_dataset(
    spec: Experiment,
    devices: Sequence[str],
    *,
    dataset: Path,
    model: Path,
    with_junk: bool,
    all_test_sets: bool = False,
) -> tuple[ModelCard, dict[str, Embeddings], float]:
    """The opened model, the embeddings of query and gallery, and the images per second.

    With `all_test_sets` also those of further test sets; see reid.deploy.embedding.embed_on_devices.

    Raises ArtifactError if the spec describes another model than the model's file.
    """
    return embed_on_devices(
        find_checkpoint(model),
        devices,
        dataset=dataset,
        batch_size=spec.dataset.val_batch_size,
        store=Path(spec.store_dir),
        with_junk=with_junk,
        all_test_sets=all_test_sets,
        check=lambda opened: require_agreement(spec, opened.contract, opened.network_settings, opened.file),
    )
