"""The typed experiment spec: every field, its default, its range, its meaning, and its facts.

Names and defaults are those of NVIDIA TAO's re_identification; TAO's fields that do nothing here stand in `tao.py`,
rules that span fields in `rules.py`, reading of files and overrides in `loading.py`. The sections are in
`*_section.py` and `*_sections.py`. A docstring under a field is its help text; `facts.py` says which facts there are.
"""

# ruff: noqa: RUF012 - pydantic copies a mutable default for each instance
from typing import Annotated, Literal

from pydantic import Field

from reid.spec.dataset_sections import Dataset
from reid.spec.deploy_sections import Export, GenTrtEngine, Triton
from reid.spec.embedding_sections import Evaluate, Inference, ReRanking
from reid.spec.facts import TASKS, DecidesTraining, ReadAloneBy, ReadBy, ReadByRunner, Secret
from reid.spec.field_types import RegisteredName, Section, Text, WrittenFolder
from reid.spec.model_section import Model
from reid.spec.training_sections import Train


class MLflow(Section):
    """Names under which a run is recorded in MLflow."""

    experiment: Annotated[Text, ReadByRunner()] = "reid"
    """Name of the MLflow experiment that holds the pipeline's runs."""
    run_name: Annotated[Text | None, ReadBy(), ReadByRunner()] = None
    """Name of the pipeline's run; null: the spec file's name and the time."""
    tags: Annotated[dict[str, Text], ReadByRunner()] = {}
    """Tags that are set on the pipeline's run."""
    registered_model: RegisteredName = "reid"
    """Name of the model in the MLflow model registry."""
    promotion: Literal["evidence", "figure"] = "evidence"
    """What makes a new version champion: "evidence", if it is better than the champion by more than chance (the 95 %
    interval of the paired difference of the headline mAP over persons lies above 0); "figure", if its mAP is higher."""


class Experiment(Section):
    """A whole experiment spec. The stage register keeps most of it with the model, to say how the model was made."""

    results_dir: Annotated[WrittenFolder, ReadByRunner(), ReadAloneBy(*(task for task in TASKS if task != "adopt"))] = (
        "/results"
    )
    """Folder of all results; a task writes to <results_dir>/<task>."""
    encryption_key: Annotated[
        Text | None,
        Secret(),
        ReadAloneBy("train", "evaluate", "inference", "export", "gen_trt_engine", "adopt", "triton"),
    ] = None
    """Key that encrypts checkpoints at rest, and exports with export.encrypted; the REID_ENCRYPTION_KEY of the
    environment wins. On a cluster it comes from the secret reid-encryption, never from the spec."""
    model: Annotated[Model, ReadBy("train", "register"), DecidesTraining()] = Field(default_factory=Model)
    dataset: Annotated[Dataset, ReadBy("validate", "train", "register")] = Field(default_factory=Dataset)
    re_ranking: Annotated[ReRanking, ReadBy("evaluate", "register"), ReadAloneBy("start_client")] = Field(
        default_factory=ReRanking
    )
    train: Annotated[Train, ReadBy("train", "register")] = Field(default_factory=Train)
    evaluate: Annotated[Evaluate, ReadBy("evaluate")] = Field(default_factory=Evaluate)
    inference: Annotated[Inference, ReadBy("inference")] = Field(default_factory=Inference)
    export: Annotated[Export, ReadBy("export", "register")] = Field(default_factory=Export)
    gen_trt_engine: Annotated[GenTrtEngine, ReadBy("gen_trt_engine", "register")] = Field(default_factory=GenTrtEngine)
    triton: Annotated[Triton, ReadAloneBy("triton", "start_client")] = Field(default_factory=Triton)
    mlflow: Annotated[MLflow, ReadBy("register")] = Field(default_factory=MLflow)

    @property
    def store_dir(self) -> str:
        """Folder of the decoded images."""
        return self.dataset.store_dir or f"{self.results_dir}/store"
