"""The register component: the exported model as a version in MLflow's model registry."""

# mypy: disable-error-code="untyped-decorator"
from kfp import dsl

from components import images


@dsl.container_component
def register(  # noqa: PLR0917 - kfp passes them by position
    spec: str,
    fingerprint: str,
    model: dsl.Input[dsl.Model],
    results: dsl.Input[dsl.Artifact],
    onnx: dsl.Input[dsl.Model],
    parity: dsl.Input[dsl.Artifact],
    engine: dsl.Input[dsl.Model],
    registration: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Registers the model with its figures; it becomes champion only if it beats the champion on the same data.

    Args:
        spec: The fields of the experiment spec that register reads, as YAML text.
        fingerprint: Hash of the data set's bytes.
        model: Folder of checkpoints, from train.
        results: Results of evaluate.
        onnx: The ONNX file, from export.
        parity: Parity record of the ONNX, from export.
        engine: Folder of the TensorRT engine, from gen_trt_engine.

    Returns:
        registration: Name, version, alias and the reason for it, as JSON.
        metrics: The version's number.
    """
    return dsl.ContainerSpec(image=images.REID, command=[*images.ENTRY, "register"], args=images.EXECUTOR_INPUT)
