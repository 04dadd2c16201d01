"""The pipeline: validate -> manifest -> train -> evaluate, inference, export -> gen_trt_engine -> register.

    make compile SPEC=market

writes it as the YAML that every runner reads: the one of this project, a Kubeflow cluster, kfp.local's.
"""

# mypy: disable-error-code="untyped-decorator"
from pathlib import Path
from tempfile import TemporaryDirectory

from kfp import compiler, dsl

from components.evaluate import evaluate
from components.export import export
from components.gen_trt_engine import gen_trt_engine
from components.inference import inference
from components.manifest import manifest
from components.register import register
from components.train import train
from components.validate import validate
from pipelines.cluster.resources import Resources

MARKET = Path(__file__).parent / "specs" / "market.yaml"
FIRST_KEYS = ("components:", "deploymentSpec:")


def default_spec() -> str:
    """The spec that the form of the Kubeflow UI starts with: the published Market-1501 recipe."""
    return MARKET.read_text(encoding="utf-8") if MARKET.exists() else "results_dir: /results\n"


def person_reid(resources: Resources, spec_text: str) -> dsl.base_component.BaseComponent:
    """The pipeline with these resource requests and this default spec."""

    @dsl.pipeline(name="person-reid", display_name="Person re-identification")
    def pipeline(
        spec: str = spec_text,
        data_claim: str = resources.data_claim,
        gpus: str = str(resources.gpus),  # a text: KFP's driver books no GPU for a number
        embedding_gpus: str = str(resources.embedding_gpus),
        engine_gpus: str = str(resources.engine_gpus),
    ) -> None:
        """From a folder of person images to a registered embedding model, its report and its TensorRT engine.

        Args:
            spec: The experiment spec, as YAML text. Its data set folders lie below the mounted volume.
            data_claim: The PersistentVolumeClaim that holds the data sets.
            gpus: GPUs of train; they win over train.num_gpus. 0: train on the CPU.
            embedding_gpus: GPUs of evaluate and of inference, each. 0: on the CPU.
            engine_gpus: GPUs of gen_trt_engine. 1: an engine for that kind of GPU; 0: what can be built without any.
        """
        # Every stage but the first takes the part of the spec it reads, and the fingerprint of the data: a field that
        # it doesn't read leaves its cached result good; changed data under an old name never comes out of a cache.
        # No stage takes an artifact of the first, which always runs: see reid.stages.manifest.
        data = validate(spec=spec, gpus=gpus, embedding_gpus=embedding_gpus).set_caching_options(False)
        found = data.outputs
        listed = manifest(spec=found["manifest_spec"], fingerprint=found["fingerprint"])
        images = {"fingerprint": found["fingerprint"], "dataset": listed.outputs["dataset"]}
        trained = train(spec=found["train_spec"], **images)
        model = trained.outputs["model"]
        scored = evaluate(spec=found["evaluate_spec"], model=model, **images)
        embedded = inference(spec=found["inference_spec"], model=model, **images)
        exported = export(spec=found["export_spec"], model=model, **images)
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
        booked = {
            "train": gpus,
            **dict.fromkeys(("evaluate", "inference"), embedding_gpus),
            "gen_trt_engine": engine_gpus,
        }
        for task in (data, listed, trained, scored, embedded, exported, engine, registered):
            resources.request(task, task.name.replace("-", "_"), data_claim=data_claim, gpus=booked)

    return pipeline


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
