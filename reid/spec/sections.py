"""The typed experiment spec: every field, its default, its range and its meaning.

Names and defaults are those of NVIDIA TAO's re_identification; TAO's fields that do nothing here stand in `tao.py`,
rules that span fields in `rules.py`, reading of files and overrides in `loading.py`; the tasks' own sections are in
`task_sections.py`. A docstring under a field is its help text.
"""

# ruff: noqa: RUF012 - pydantic copies a mutable default for each instance
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from reid.spec.field_types import Count, Device, Positive, Section, Sha256, Share, Switch
from reid.spec.names import require_backbone, require_file_name
from reid.spec.serving_sections import Triton
from reid.spec.task_sections import Evaluate, Export, GenTrtEngine, Inference, MLflow, Train


class Model(Section):
    """Architecture: Luo et al., CVPR Workshops 2019, arXiv:1903.07071 (BNNeck)."""

    backbone: Annotated[str, AfterValidator(require_backbone)] = "resnet_50"
    """resnet_18/34/50/101/152, swin_{tiny,small,base}_patch4_window7_224, or any timm model as timm/<name>."""
    last_stride: Literal[1, 2] = 1
    """Stride of the last ResNet stage; 1 doubles the feature map's height and width."""
    stem_relu: Switch = "auto"
    """ReLU after the stem's first BatchNorm; TAO's ResNet has none. auto: off for TAO's weights, else on."""
    stem_pool: Literal["padded", "ceil"] = "padded"
    """Max pooling of a ResNet's stem: padded by a pixel on all sides (torchvision, TAO), or not at all (fast-reid)."""
    pretrain_choice: Literal["imagenet", "self", ""] = "imagenet"
    """imagenet: ImageNet weights; self: a re-identification checkpoint; "": random."""
    pretrained_model_path: str | None = None
    """File of the weights that pretrain_choice names; null with imagenet: from the hub."""
    min_matched_share: Share = 0.5
    """Least share of the backbone's tensors that the weights file must fill."""
    input_channels: Literal[1, 3] = 3
    """1 = grey, 3 = RGB."""
    input_width: Count = 128
    """Pixels."""
    input_height: Count = 256
    """Pixels."""
    neck: Literal["bnneck", ""] = "bnneck"
    """bnneck: BatchNorm between the metric loss's features and the classifier."""
    feat_dim: Count | None = 256
    """Width of the embedding; null: the backbone's own width. Swin: with reduce_feat_dim only."""
    neck_feat: Literal["before", "after"] = "after"
    """Which side of the neck is the embedding at test time."""
    metric_loss_type: Literal["triplet", "center", "triplet_center"] = "triplet"
    """Metric loss beside the cross-entropy; center and triplet_center need with_center_loss."""
    with_center_loss: bool = False
    """Center loss: Wen et al., ECCV 2016; a metric_loss_type of triplet is then read as triplet_center."""
    with_flip_feature: bool = False
    """At test time: the sum of the embeddings of the image and of its mirror image."""
    label_smooth: bool = True
    """Cross-entropy with label smoothing, epsilon 0.1: Szegedy et al., CVPR 2016."""
    drop_path: Share = 0.1
    """Swin: stochastic depth."""
    drop_out: Share = 0.0
    """Swin: dropout of the projections."""
    att_drop_rate: Share = 0.0
    """Swin: dropout of the attention."""
    dropout_rate: Share = 0.0
    """Dropout before the classifier."""
    reduce_feat_dim: bool = False
    """Swin: reduce the embedding to feat_dim."""
    semantic_weight: float = 1.0
    """Swin: SOLIDER's semantic controller; negative switches it off."""

    @field_validator("neck", "pretrain_choice", mode="before")
    @classmethod
    def _nothing_given(cls, value: Any) -> Any:
        """A shell makes neck= of neck="", and YAML reads nothing as null."""
        return "" if value is None else value


class Synthetic(Section):
    """A drawn data set in Market-1501's layout, made where `root` does not exist yet."""

    root: str
    """Folder of the drawn data set; the three split folders go into it."""
    train_persons: Count = 120
    """Persons in the training images; dataset.num_classes has to agree."""
    test_persons: Count = 60
    """Persons in the query and gallery images."""
    cameras: Annotated[int, Field(ge=2)] = 6
    """Cameras; a person is seen by about two thirds of them."""
    images_per_camera: Count = 3
    """Images of a person under one camera that saw them, on average."""
    distractors: Annotated[int, Field(ge=0)] = 60
    """Gallery images of persons never asked for (person 0)."""
    junk: Annotated[int, Field(ge=0)] = 30
    """Gallery images of bad boxes (person -1)."""
    width: Annotated[int, Field(ge=16)] = 64
    """Pixels."""
    height: Annotated[int, Field(ge=32)] = 128
    """Pixels."""
    seed: Annotated[int, Field(ge=0)] = 7
    """Of everything drawn."""


class Source(Section):
    """An archive of the data set, fetched and unpacked where `root` does not exist yet."""

    root: str
    """Folder of the unpacked data set; the three split folders go into it."""
    url: str | None = None
    """Where to download the zip; a broken download goes on where it stopped."""
    zip: str | None = None
    """The zip on this machine, instead of a url."""
    sha256: Sha256 | None = None
    """Of the zip, checked before it is opened; needed with a url."""


class Dataset(Section):
    """Where the images are and how they reach the network."""

    train_dataset_dir: str | None = None
    """Folder of the training images (bounding_box_train)."""
    test_dataset_dir: str | None = None
    """Folder of the gallery images (bounding_box_test)."""
    query_dataset_dir: str | None = None
    """Folder of the query images (query)."""
    file_name: Annotated[str, AfterValidator(require_file_name)] = "market1501"
    """How a file's name tells its person and camera: market1501 (0002_c1s1_000451_03.jpg), dukemtmc
    (0001_c2_f0046182.jpg), or a regular expression with the group `person` and, if any, `camera`, whole numbers both,
    that matches the whole name less its ending. Person -1 is junk, 0 a distractor."""
    cameras: Literal["file_name", "none"] = "file_name"
    """none: there is one camera only, or nobody knows which; queries count as camera 1 and gallery images as camera 2,
    so that no match is passed over as a view of the query's own camera. So too where file_name tells no camera."""
    synthetic: Synthetic | None = None
    """Draw the data set instead of bringing one."""
    source: Source | None = None
    """Fetch the data set instead of bringing one."""
    store_dir: str | None = None
    """Folder of the decoded images; null: <results_dir>/store."""
    num_classes: Count | None = 751
    """Persons in the training set; null: counted."""
    corrupt_images: Literal["fail", "skip"] = "fail"
    """A training image that cannot be decoded: fail names it; skip leaves it out, and counts. Of the query and the
    gallery each must be readable: figures over fewer images compare with none."""
    batch_size: Count = 64
    """Training images in a step, over all GPUs."""
    val_batch_size: Count = 128
    """Images in a step of evaluation and inference."""
    augment_on: Literal["auto", "cpu", "device"] = "auto"
    """Where training images are augmented; auto: on the GPU where the training has one, else on the CPU."""
    num_workers: Annotated[int, Field(ge=0)] = 1
    """Loader processes, used only where the decoded images do not fit in memory."""
    pixel_mean: list[float] = [0.485, 0.456, 0.406]
    """Per channel, of pixels scaled to 0..1."""
    pixel_std: list[Positive] = [0.226, 0.226, 0.226]
    """Per channel, of pixels scaled to 0..1."""
    padding: Annotated[int, Field(ge=0)] = 10
    """Pixels of black border before the random crop."""
    prob: Share = 0.5
    """Probability of a horizontal flip."""
    re_prob: Share = 0.5
    """Probability of random erasing: Zhong et al., AAAI 2020, arXiv:1708.04896."""
    sampler: Literal["softmax", "triplet", "softmax_triplet"] = "softmax_triplet"
    """softmax: cross-entropy, plain shuffling; triplet: metric loss, P x K; softmax_triplet: both, P x K."""
    num_instances: Count = 4
    """K: images of a person in a P x K batch."""

    @model_validator(mode="after")
    def _folders_under_the_root(self) -> "Dataset":
        """A drawn or fetched data set lies under its root."""
        if made := self.synthetic or self.source:
            self.train_dataset_dir = self.train_dataset_dir or f"{made.root}/bounding_box_train"
            self.test_dataset_dir = self.test_dataset_dir or f"{made.root}/bounding_box_test"
            self.query_dataset_dir = self.query_dataset_dir or f"{made.root}/query"
        return self


class ReRanking(Section):
    """k-reciprocal re-ranking: Zhong et al., CVPR 2017, arXiv:1701.08398."""

    re_ranking: bool = True
    """Whether the re-ranked figures are the headline; both are always computed."""
    k1: Count = 20
    """Neighbours that form the k-reciprocal set R(p, k1)."""
    k2: Count = 6
    """Neighbours averaged by local query expansion; not above k1."""
    lambda_value: Share = 0.3
    """Weight of the original distance; 0 is the pure Jaccard distance."""
    device: Device = "auto"
    """Where both rankings are computed; auto: on evaluate's first GPU where its memory suffices, else on the CPU."""
    max_rank: Count = 10
    """Ranks of the CMC plot and columns of the matches sheet."""
    num_query: Count = 10
    """Rows of the matches sheet."""


class Experiment(Section):
    """One experiment, whole."""

    results_dir: str = "/results"
    """Folder of all results; a task writes to <results_dir>/<task>."""
    encryption_key: str | None = None
    """Encrypts checkpoints at rest, and exports with export.encrypted; the environment's REID_ENCRYPTION_KEY wins. On a
    cluster it comes from the secret reid-encryption, never from the spec."""
    model: Model = Field(default_factory=Model)
    dataset: Dataset = Field(default_factory=Dataset)
    re_ranking: ReRanking = Field(default_factory=ReRanking)
    train: Train = Field(default_factory=Train)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    inference: Inference = Field(default_factory=Inference)
    export: Export = Field(default_factory=Export)
    gen_trt_engine: GenTrtEngine = Field(default_factory=GenTrtEngine)
    triton: Triton = Field(default_factory=Triton)
    mlflow: MLflow = Field(default_factory=MLflow)

    @property
    def store_dir(self) -> str:
        """Folder of the decoded images."""
        return self.dataset.store_dir or f"{self.results_dir}/store"

    def stage_slice(self, stage: str) -> str:
        """The fields that a pipeline stage reads, as YAML that loads as a spec; the stage's cache key is made of it."""
        import yaml

        whole = self.model_dump()
        whole["dataset"]["store_dir"] = self.store_dir
        part: dict[str, Any] = {}
        for name in STAGE_FIELDS[stage]:
            source, target, *rest = whole, part, *name.split(".")
            for key in rest[:-1]:
                source, target = source[key], target.setdefault(key, {})
            target[rest[-1]] = source[rest[-1]]
        for name in PLACES:
            section, _, key = name.partition(".")
            if isinstance(part.get(section), dict):
                part[section].pop(key, None)
        return str(yaml.safe_dump(part, sort_keys=False))


STAGE_FIELDS = {
    "train": ["model", "dataset", "train"],
    "evaluate": ["re_ranking", "evaluate", "dataset.val_batch_size", "dataset.store_dir", "train.seed"],
    "inference": ["inference", "dataset.val_batch_size", "dataset.store_dir"],
    "export": ["export", "dataset.store_dir"],
    "gen_trt_engine": ["gen_trt_engine", "dataset.store_dir"],
    "register": ["mlflow", "model", "dataset", "train", "re_ranking", "export", "gen_trt_engine"],
}
"""Fields each stage after validate reads. The model itself is described by its checkpoint, the images by the manifest.

register reads the limits of export and its own section, and keeps the rest with the model: what it was made of.
"""

PLACES = [
    "dataset.train_dataset_dir",
    "dataset.test_dataset_dir",
    "dataset.query_dataset_dir",
    "dataset.file_name",
    "dataset.cameras",
    "dataset.synthetic",
    "dataset.source",
    "train.results_dir",
    "evaluate.results_dir",
    "inference.results_dir",
    "export.results_dir",
    "gen_trt_engine.results_dir",
    "mlflow.run_name",
]
"""Fields that a stage's ports or the manifest replace: they are in no slice."""
