"""The export component: the network as ONNX, and proof that it is the same network."""

# mypy: disable-error-code="untyped-decorator"
from kfp import dsl

from components import images


@dsl.container_component
def export(  # noqa: PLR0917 - kfp passes them by position
    spec: str,
    fingerprint: str,
    thresholds: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    onnx: dsl.Output[dsl.Model],
    parity: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Exports ONNX that carries its preprocessing contract, and compares its embeddings with the network's.

    Args:
        spec: The fields of the experiment spec that export reads, as YAML text.
        fingerprint: Hash of the data set's bytes.
        thresholds: From evaluate, to be written into the ONNX; empty: those of the training, if it measured any.
        dataset: Manifest of the images; real query images are compared.
        model: Folder of checkpoints, from train.

    Returns:
        onnx: The ONNX file; input `input` (batch, C, H, W), output `fc_pred` (batch, D).
        parity: How far the ONNX's embeddings are from the network's, as JSON.
        metrics: Lowest cosine and largest difference over the compared images.
    """
    return dsl.ContainerSpec(image=images.REID, command=[*images.ENTRY, "export"], args=images.EXECUTOR_INPUT)
