"""The gen_trt_engine component: the ONNX as a TensorRT engine."""

# mypy: disable-error-code="untyped-decorator, valid-type"
from kfp import dsl

from components import images


@dsl.container_component
def gen_trt_engine(  # noqa: PLR0917 - kfp passes them by position
    spec: str,
    fingerprint: str,
    engine_gpus: str,
    dataset: dsl.Input[dsl.Dataset],
    onnx: dsl.Input[dsl.Model],
    engine: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    built: dsl.OutputPath(str),
) -> dsl.ContainerSpec:
    """Builds a TensorRT engine; if none can be built the stage succeeds, and its build record says why.

    Args:
        spec: The fields of the experiment spec that gen_trt_engine reads, as YAML text.
        fingerprint: Hash of the data set's bytes.
        engine_gpus: GPUs booked for this task; an engine built without one is no cached result for a task with one.
        dataset: Manifest of the images; if there is a GPU the engine is compared on query images.
        onnx: The ONNX file, from export.

    Returns:
        engine: Folder of model.engine and build.json; build.json alone if nothing was built.
        metrics: Size, build time and, if a GPU can run it, speed and parity.
        built: "true" or "false".
    """
    return dsl.ContainerSpec(
        image=images.TENSORRT, command=[*images.ENTRY, "gen_trt_engine"], args=images.EXECUTOR_INPUT
    )
