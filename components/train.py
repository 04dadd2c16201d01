"""The train component: from images to an embedding network."""

# mypy: disable-error-code="untyped-decorator"
from kfp import dsl

from components import images


@dsl.container_component
def train(  # noqa: PLR0917 - kfp passes them by position
    spec: str,
    fingerprint: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> dsl.ContainerSpec:
    """Trains the network; an interrupted attempt resumes from its last checkpoint.

    Args:
        spec: The fields of the experiment spec that train reads, as YAML text.
        fingerprint: Hash of the data set's bytes.
        dataset: Manifest of the images.

    Returns:
        model: Folder of checkpoints, training history and the untrained network's embeddings.
        metrics: Last loss, best validation mAP, images per second.
        report: Training curves.
    """
    return dsl.ContainerSpec(image=images.REID, command=[*images.ENTRY, "train"], args=images.EXECUTOR_INPUT)
