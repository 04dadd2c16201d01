"""The inference component: embeddings for use elsewhere."""

# mypy: disable-error-code="untyped-decorator"
from kfp import dsl

from components import images


@dsl.container_component
def inference(  # noqa: PLR0917 - kfp passes them by position
    spec: str,
    fingerprint: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    embeddings: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """The embedding of every query and gallery image.

    Args:
        spec: The fields of the experiment spec that inference reads, as YAML text.
        fingerprint: Hash of the data set's bytes.
        dataset: Manifest of the images.
        model: Folder of checkpoints, from train.

    Returns:
        embeddings: JSON list of {"img_path", "embedding"}, queries first.
        metrics: Images embedded, images per second.
    """
    return dsl.ContainerSpec(image=images.REID, command=[*images.ENTRY, "inference"], args=images.EXECUTOR_INPUT)
