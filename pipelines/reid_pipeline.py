"""The pipeline: validate -> manifest -> train -> inference, evaluate -> export -> gen_trt_engine -> register.

    make compile SPEC=market

writes it as the YAML that every runner reads: the one of this project, a Kubeflow cluster, kfp.local's.
"""

# mypy: disable-error-code="untyped-decorator"
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from kfp import compiler, dsl

from components.evaluate import evaluate
from components.export import export
from components.gen_trt_engine import gen_trt_engine
from components.inference import inference
from components.manifest import manifest
from components.register import register
from components.train import train
from components.validate import validate
from pipelines.cluster.resources import Resources, as_text

MARKET = Path(__file__).parent / "specs" / "market.yaml"
FIRST_KEYS = ("components:", "deploymentSpec:")


def default_spec() -> str:
    """The spec that the form of the Kubeflow UI starts with: the published Market-1501 recipe, on one line."""
    return json.dumps(yaml.safe_load(MARKET.read_text(encoding="utf-8"))) if MARKET.exists() else "{}"


def person_reid(resources: Resources, spec_text: str) -> dsl.base_component.BaseComponent:
    """The pipeline with these resource requests and this default spec."""

    @dsl.pipeline(name="person-reid", display_name="Person re-identification")
    def pipeline(  # noqa: PLR0917 - kfp passes them by name
        spec: str = spec_text,
        data_claim: str = resources.data_claim,
        gpus: str = as_text(resources.gpus),
        embedding_gpus: str = as_text(resources.embedding_gpus),
        engine_gpus: str = as_text(resources.engine_gpus),
        backbone: str = "",
        batch_size: str = "",
        embedding_width: str = "",
        epochs: str = "",
        image_height: str = "",
        image_width: str = "",
        k1: str = "",
        k2: str = "",
        lambda_value: str = "",
        learning_rate: str = "",
        seed: str = "",
    ) -> None:
        """From a folder of person images to a registered embedding model, its report and its TensorRT engine.

        Args:
            spec: What differs from the defaults of the experiment spec, as YAML on one line. Its data set folders lie
                below the mounted volume.
            data_claim: The PersistentVolumeClaim that holds the data sets; not the work claim, no dot in its name.
            gpus: GPUs of train; they win over train.num_gpus. Empty: train on the CPU.
            embedding_gpus: GPUs of evaluate and of inference, each. Empty: on the CPU.
            engine_gpus: GPUs of gen_trt_engine. 1: an engine for that kind of GPU; empty: what can be built without.
            backbone: Backbone, for model.backbone, e.g. resnet_50; empty: as in the spec.
            batch_size: Number of images in a training step, for dataset.batch_size; empty: as in the spec.
            embedding_width: Width of the embedding, for model.feat_dim; empty: as in the spec.
            epochs: Number of epochs, for train.num_epochs; empty: as in the spec.
            image_height: Height of the network's input in pixels, for model.input_height; empty: as in the spec.
            image_width: Width of the network's input in pixels, for model.input_width; empty: as in the spec.
            k1: Neighbours of the k-reciprocal set, for re_ranking.k1; empty: as in the spec.
            k2: Neighbours that query expansion averages, for re_ranking.k2; not above k1; empty: as in the spec.
            lambda_value: Weight of the original distance in re-ranking, re_ranking.lambda_value; empty: as in the spec.
            learning_rate: Learning rate after the warm-up, for train.optim.base_lr; empty: as in the spec.
            seed: Seed of all random choices, for train.seed; empty: as in the spec.
        """
        checked = validate(
            spec=spec,
            gpus=gpus,
            embedding_gpus=embedding_gpus,
            backbone=backbone,
            batch_size=batch_size,
            embedding_width=embedding_width,
            epochs=epochs,
            image_height=image_height,
            image_width=image_width,
            k1=k1,
            k2=k2,
            lambda_value=lambda_value,
            learning_rate=learning_rate,
            seed=seed,
        ).set_caching_options(False)
        booked = {
            "train": gpus,
            **dict.fromkeys(("evaluate", "inference"), embedding_gpus),
            "gen_trt_engine": engine_gpus,
        }
        for task in (checked, *_stages_after(checked.outputs, engine_gpus)):
            resources.request(task, task.name.replace("-", "_"), data_claim=data_claim, gpus=booked)

    return pipeline


def _stages_after(found: Mapping[str, Any], engine_gpus: str) -> tuple[dsl.PipelineTask, ...]:
    """The tasks after validate, which has found the values `found`.

    Each takes the part of the spec that it reads, and the fingerprint of the data: a field that it doesn't read leaves
    its cached result good; changed data under an old name never comes out of a cache. Further test sets are in the
    fingerprint of evaluate alone. None takes an artifact of validate, which always runs: see reid.stages.manifest.
    """
    listed = manifest(spec=found["manifest_spec"], fingerprint=found["fingerprint"])
    images = {"fingerprint": found["fingerprint"], "dataset": listed.outputs["dataset"]}
    trained = train(spec=found["train_spec"], **images)
    model = trained.outputs["model"]
    scored = evaluate(
        spec=found["evaluate_spec"],
        fingerprint=found["evaluation_fingerprint"],
        dataset=images["dataset"],
        model=model,
    )
    embedded = inference(spec=found["inference_spec"], model=model, **images)
    # its thresholds as a value: an evaluation that gives the same ones leaves the export's cached result good
    exported = export(spec=found["export_spec"], thresholds=scored.outputs["thresholds"], model=model, **images)
    onnx = exported.outputs["onnx"]
    engine = gen_trt_engine(spec=found["gen_trt_engine_spec"], engine_gpus=engine_gpus, onnx=onnx, **images)
    registered = register(
        spec=found["register_spec"],
        fingerprint=found["fingerprint"],
        model=model,
        results=scored.outputs["results"],
        onnx=onnx,
        parity=exported.outputs["parity"],
        engine=engine.outputs["engine"],
    )
    return listed, trained, scored, embedded, exported, engine, registered


def compiled(*, resources: Resources | None = None, spec_text: str | None = None) -> str:
    """The compiled pipeline as YAML, the same text for the same arguments and image names."""
    pipeline = person_reid(resources or Resources(), default_spec() if spec_text is None else spec_text)
    with TemporaryDirectory() as folder:  # kfp compiles into a file only
        file = Path(folder, "pipeline.yaml")
        compiler.Compiler().compile(pipeline, str(file))
        return _without_head(file.read_text(encoding="utf-8"))


def _without_head(text: str) -> str:
    """The YAML without kfp's leading comment, which leaves a default's second and later lines outside the comment."""
    lines = text.splitlines(keepends=True)
    start = next(number for number, line in enumerate(lines) if line.startswith(FIRST_KEYS))
    return "".join(lines[start:])
