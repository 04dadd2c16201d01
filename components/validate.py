"""The validate component: a check of the spec and the data set, before a GPU is booked."""

# mypy: disable-error-code="untyped-decorator, valid-type"
from kfp import dsl

from components import images


@dsl.container_component
def validate(  # noqa: PLR0917 - kfp passes them by position
    spec: str,
    gpus: str,
    embedding_gpus: str,
    backbone: str,
    batch_size: str,
    embedding_width: str,
    epochs: str,
    image_height: str,
    image_width: str,
    k1: str,
    k2: str,
    lambda_value: str,
    learning_rate: str,
    seed: str,
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    findings: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    fingerprint: dsl.OutputPath(str),
    evaluation_fingerprint: dsl.OutputPath(str),
    manifest_spec: dsl.OutputPath(str),
    train_spec: dsl.OutputPath(str),
    evaluate_spec: dsl.OutputPath(str),
    inference_spec: dsl.OutputPath(str),
    export_spec: dsl.OutputPath(str),
    gen_trt_engine_spec: dsl.OutputPath(str),
    register_spec: dsl.OutputPath(str),
) -> dsl.ContainerSpec:
    """Checks the experiment spec and every image of the data set; fails on errors, reports warnings.

    Args:
        spec: The experiment spec, as YAML text.
        gpus: GPUs of train, for train.num_gpus; 0 leaves the spec as it is.
        embedding_gpus: GPUs of evaluate and of inference; 0 leaves the spec as it is.
        backbone: Wins over model.backbone, unless it is empty.
        batch_size: Wins over dataset.batch_size, unless it is empty.
        embedding_width: Wins over model.feat_dim, unless it is empty.
        epochs: Wins over train.num_epochs, unless it is empty.
        image_height: Wins over model.input_height, unless it is empty.
        image_width: Wins over model.input_width, unless it is empty.
        k1: Wins over re_ranking.k1, unless it is empty.
        k2: Wins over re_ranking.k2, unless it is empty.
        lambda_value: Wins over re_ranking.lambda_value, unless it is empty.
        learning_rate: Wins over train.optim.base_lr, unless it is empty.
        seed: Wins over train.seed, unless it is empty.

    Returns:
        report: What was found, with pictures.
        summary: What was found, in short.
        findings: What was found, as JSON.
        metrics: Persons, cameras and images per split.
        fingerprint: Hash of the training set's and the main test set's bytes; every later stage but evaluate takes it,
            so no cache serves results of other data.
        evaluation_fingerprint: The same, of the further test sets too; evaluate takes it.
        manifest_spec: The fields of the spec that manifest reads.
        train_spec: The fields of the spec that train reads; other fields can change without training again.
        evaluate_spec: The fields of the spec that evaluate reads.
        inference_spec: The fields of the spec that inference reads.
        export_spec: The fields of the spec that export reads.
        gen_trt_engine_spec: The fields of the spec that gen_trt_engine reads.
        register_spec: The fields of the spec that register reads.
    """
    return dsl.ContainerSpec(image=images.REID, command=[*images.ENTRY, "validate"], args=images.EXECUTOR_INPUT)
