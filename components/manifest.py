"""The manifest component: the list of the images that every later stage takes."""

# mypy: disable-error-code="untyped-decorator"
from kfp import dsl

from components import images


@dsl.container_component
def manifest(spec: str, fingerprint: str, dataset: dsl.Output[dsl.Dataset]) -> dsl.ContainerSpec:
    """Lists the images that validate has checked; cached for the same images, so that later stages are cached too.

    Args:
        spec: The fields of the experiment spec that manifest reads, as YAML text.
        fingerprint: Hash of the data set's bytes, from validate; the stage fails if the images have another one now.

    Returns:
        dataset: Manifest: every image of the three splits with its person and camera.
    """
    return dsl.ContainerSpec(image=images.REID, command=[*images.ENTRY, "manifest"], args=images.EXECUTOR_INPUT)
