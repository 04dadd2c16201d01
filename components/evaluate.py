"""The evaluate component: how well the embeddings find a person again."""

# mypy: disable-error-code="untyped-decorator, valid-type"
from kfp import dsl

from components import images


@dsl.container_component
def evaluate(  # noqa: PLR0917 - kfp passes them by position
    spec: str,
    fingerprint: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    results: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    verification: dsl.Output[dsl.ClassificationMetrics],
    metrics: dsl.Output[dsl.Metrics],
    mAP: dsl.OutputPath(float),
    thresholds: dsl.OutputPath(str),
) -> dsl.ContainerSpec:
    """mAP, CMC and mINP before and after training, with and without k-reciprocal re-ranking, from one embedding pass.

    Args:
        spec: The fields of the experiment spec that evaluate reads, as YAML text.
        fingerprint: Hash of the data set's bytes, further test sets included, from validate; the stage fails if the
            images have another one now.
        dataset: Manifest of the images, without further test sets, which the stage lists itself.
        model: Folder of checkpoints, from train.

    Returns:
        results: Folder of results per query, plots and thresholds.
        report: CMC curves and the best and worst queries with their top matches; one self-contained page.
        verification: The ROC of "do two images show one person?" over thresholds of cosine similarity.
        metrics: mAP, rank-k and mINP as fractions of 1; re-ranked and untrained ones by prefix.
        mAP: The plain mAP, as a fraction of 1: the one of this name among the metrics.
        thresholds: From which cosine on two images count as one person, at which rates of errors, as JSON on one line,
            for export; empty if none can be judged. Other settings of re-ranking do not change it.
    """
    return dsl.ContainerSpec(image=images.REID, command=[*images.ENTRY, "evaluate"], args=images.EXECUTOR_INPUT)
