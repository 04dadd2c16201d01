"""The spec's sections on the images: where they are, how they are drawn or fetched, how they reach the network."""

# ruff: noqa: RUF012 - pydantic copies a mutable default for each instance
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from reid.data.layouts.layout import LayoutName
from reid.spec.facts import (
    AlsoReadBy,
    DecidesTraining,
    HandedToEveryStage,
    InForm,
    ReadAloneBy,
    ReadBy,
    SaidByModel,
    Writes,
)
from reid.spec.field_types import (
    Count,
    ExpandHome,
    Positive,
    ReadFile,
    ReadFolder,
    Section,
    ServedName,
    Sha256,
    Share,
    Text,
    WrittenFolder,
)
from reid.spec.names import require_file_name, require_persons

BY_VALIDATE = ReadBy("validate")
"""The fact of fields by which the first stage of a pipeline makes the data set."""
FINDS_IMAGES = ReadBy("validate", "manifest", "evaluate")
"""The fact of fields by which the first stages of a pipeline find the images: later stages read the manifest. The stage
evaluate tells by them which further test sets are of a data set that is trained on."""
BY_TASKS = ReadAloneBy("train", "evaluate", "inference", "export", "gen_trt_engine", "start_client")
"""The fact of fields by which these tasks find the images when they run alone, without a manifest."""


class Synthetic(Section):
    """A drawn data set in Market-1501's layout, made if `root` does not exist yet."""

    root: Annotated[str, ExpandHome, Writes("folder", moved=True)]
    """Folder of the drawn data set; the three split folders go into it."""
    train_persons: Count = 120
    """Persons in the training images; dataset.num_classes has to agree."""
    test_persons: Count = 60
    """Persons in the query and gallery images."""
    cameras: Annotated[int, Field(ge=2)] = 6
    """Number of cameras; a person is seen by about two thirds of them."""
    images_per_camera: Count = 3
    """Average images of a person under a camera that sees them."""
    distractors: Annotated[int, Field(ge=0)] = 60
    """Gallery images of persons who are in no query (person 0)."""
    junk: Annotated[int, Field(ge=0)] = 30
    """Gallery images that are badly cropped (person -1)."""
    width: Annotated[int, Field(ge=16)] = 64
    """Width of the images in pixels."""
    height: Annotated[int, Field(ge=32)] = 128
    """Height of the images in pixels."""
    seed: Annotated[int, Field(ge=0)] = 7
    """Seed of the drawn data set."""


class Source(Section):
    """An archive of the data set, fetched and unpacked if `root` does not exist yet."""

    root: Annotated[str, ExpandHome, Writes("folder", moved=True)]
    """Folder of the unpacked data set; the three split folders go into it."""
    url: Text | None = None
    """Address of the zip to download; a broken download is resumed."""
    zip: ReadFile | None = None
    """Zip file on this machine, in place of a url."""
    sha256: Sha256 | None = None
    """SHA-256 of the zip, checked before it is opened; needed with a url."""


class ColorJitter(Section):
    """Random changes of an image's colours, in a random order, as torchvision's ColorJitter makes them."""

    prob: Share = 0.0
    """Probability of the colour jitter for an image."""
    brightness: Share = 0.15
    """The brightness is multiplied by 1 - this to 1 + this; 0: it stays."""
    contrast: Share = 0.15
    """The contrast is multiplied by 1 - this to 1 + this; 0: it stays."""
    saturation: Share = 0.1
    """The saturation is multiplied by 1 - this to 1 + this; 0: it stays."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """The hue is turned by up to this part of the circle in either direction; 0: it stays."""


class FurtherSet(Section):
    """A data set beside the main one."""

    name: ServedName
    """Its name in reports and metrics."""
    root: ReadFolder
    """Its folder, as dataset.root."""
    layout: LayoutName = "market1501"
    """How its images are laid out, as dataset.layout."""
    file_name: Annotated[Text, AfterValidator(require_file_name)] = "market1501"
    """How a file's name gives its person and camera, as dataset.file_name."""
    cameras: Literal["file_name", "none"] = "file_name"
    """Source of the camera numbers, as dataset.cameras."""


class TrainingSet(FurtherSet):
    """One of several training sets. Only its training images are read."""

    share: Positive | None = None
    """Its share of a batch, relative to the shares of the other sets; null, for all sets alike: images are drawn as
    from one set."""


class FurtherTestSet(FurtherSet):
    """A further test set. Only its query and gallery images are read."""


class Dataset(Section):
    """Where the images are and how they reach the network."""

    layout: Annotated[LayoutName, FINDS_IMAGES, BY_TASKS] = "market1501"
    """How the images are laid out in dataset.root; docs/data.md shows each layout."""
    root: Annotated[ReadFolder | None, FINDS_IMAGES, BY_TASKS] = None
    """Folder of the data set, or the file that lists its images (layouts csv and cuhk03). Of Market-1501's layout the
    three folders below can be named instead."""
    train_dataset_dir: Annotated[ReadFolder | None, FINDS_IMAGES, BY_TASKS] = None
    """Folder of the training images (bounding_box_train)."""
    test_dataset_dir: Annotated[ReadFolder | None, FINDS_IMAGES, BY_TASKS] = None
    """Folder of the gallery images (bounding_box_test)."""
    query_dataset_dir: Annotated[ReadFolder | None, FINDS_IMAGES, BY_TASKS] = None
    """Folder of the query images (query)."""
    train_sets: Annotated[list[TrainingSet], FINDS_IMAGES, BY_TASKS] = []
    """Several training sets, in place of the training images of the main set: their persons are learnt together."""
    test_sets: Annotated[list[FurtherTestSet], ReadBy("validate", "evaluate")] = []
    """Test sets beside the main one, whose query and gallery choose the best checkpoint. Another list of them trains
    nothing again."""
    file_name: Annotated[Text, AfterValidator(require_file_name), FINDS_IMAGES, BY_TASKS] = "market1501"
    """How a file's name gives its person and camera: market1501 (0002_c1s1_000451_03.jpg), dukemtmc
    (0001_c2_f0046182.jpg), or a regular expression with the group `person` and, if any, `camera`, both whole numbers,
    that matches the whole name without its ending. Person -1 is junk, 0 a distractor."""
    cameras: Annotated[Literal["file_name", "none"], FINDS_IMAGES, BY_TASKS] = "file_name"
    """Source of the camera numbers. file_name: each image's name; none: there is one camera only, or cameras are not
    known. With none, or if file_name gives no camera, queries count as camera 1 and gallery images as camera 2, so that
    no match is left out as a view of the query's own camera."""
    corrections: Annotated[ReadFile | None, FINDS_IMAGES, BY_TASKS] = None
    """CSV of corrections, which leave out images or give them another person or camera: docs/data.md. The images
    themselves stay as they are. null: none."""
    synthetic: Annotated[Synthetic | None, BY_VALIDATE, BY_TASKS] = None
    """Parameters of a drawn data set to use in place of your own; null: none is drawn."""
    source: Annotated[Source | None, BY_VALIDATE, BY_TASKS] = None
    """Archive to fetch the data set from; null: none is fetched."""
    store_dir: Annotated[WrittenFolder | None, HandedToEveryStage(), ReadAloneBy("start_client")] = None
    """Folder of the decoded images; null: <results_dir>/store."""
    num_classes: Count | None = 751
    """Number of persons in the training images; null: they are counted."""
    validation_persons: Annotated[int | float, BeforeValidator(require_persons), DecidesTraining()] | None = None
    """Training persons that are held out: the best checkpoint, val_loss and AutoReduce are decided on them. A whole
    number of persons, or a share between 0 and 1 of all; train.seed draws them among those that are seen by at least
    two cameras. null: no person is held out, and the choice is made on the query and gallery images that are reported,
    so that their figures are optimistic. num_classes counts the held-out persons too."""
    corrupt_images: Annotated[Literal["fail", "skip"], AlsoReadBy("manifest")] = "fail"
    """What happens if a training image cannot be decoded. fail: the task ends with an error that names it; skip: it is
    left out and counted. Query and gallery images must be readable: figures over fewer images cannot be compared."""
    batch_size: Annotated[Count, DecidesTraining(), InForm("batch_size")] = 64
    """Number of images in a training step, over all GPUs."""
    val_batch_size: Annotated[Count, AlsoReadBy("evaluate", "inference")] = 128
    """Number of images in a batch of evaluation and inference."""
    augment_on: Literal["auto", "cpu", "device"] = "auto"
    """Where training images are augmented; auto: on the GPU if the training has one, else on the CPU."""
    num_workers: Annotated[int, Field(ge=0)] = 1
    """Number of loader processes; they are used only if the decoded images do not fit in memory."""
    pixel_mean: Annotated[list[float], DecidesTraining(), SaidByModel("mean"), ReadAloneBy("adopt")] = [
        *(0.485, 0.456, 0.406),
    ]
    """Mean of each channel's pixels, scaled to 0..1."""
    pixel_std: Annotated[list[Positive], DecidesTraining(), SaidByModel("std"), ReadAloneBy("adopt")] = [
        *(0.226, 0.226, 0.226),
    ]
    """Standard deviation of each channel's pixels, scaled to 0..1."""
    padding: Annotated[int, Field(ge=0), DecidesTraining()] = 10
    """Width in pixels of the black border that is added before the random crop."""
    prob: Annotated[Share, DecidesTraining()] = 0.5
    """Probability of a horizontal flip."""
    re_prob: Annotated[Share, DecidesTraining()] = 0.5
    """Probability of random erasing: Zhong et al., AAAI 2020, arXiv:1708.04896."""
    erasing: Annotated[Literal["auto", "mean", "noise"], DecidesTraining()] = "auto"
    """What random erasing fills its box with. mean: pixel_mean, after the normalisation; noise: a normal distribution
    in each pixel and channel, as timm's RandomErasing in mode pixel, whose boxes are a little smaller. auto: noise for
    a Swin, else mean, as in TAO."""
    train_resize: Annotated[Literal["auto", "bilinear", "bicubic"], DecidesTraining()] = "auto"
    """How training images are resized. auto: bicubic for a Swin, else bilinear, as in TAO. Query and gallery images,
    and those that a trained model gets, are always resized bilinearly, there too."""
    color_jitter: Annotated[ColorJitter, DecidesTraining()] = Field(default_factory=ColorJitter)
    """Random brightness, contrast, saturation and hue."""
    grey_prob: Annotated[Share, DecidesTraining()] = 0.0
    """Probability that an image loses its colours."""
    autoaugment_prob: Annotated[Share, DecidesTraining()] = 0.0
    """Probability of AutoAugment, policy of ImageNet: Cubuk et al., CVPR 2019, arXiv:1805.09501."""
    sampler: Annotated[Literal["softmax", "triplet", "softmax_triplet"], DecidesTraining()] = "softmax_triplet"
    """Losses, and how batches are made. softmax: cross-entropy, images shuffled; triplet: metric loss, batches of P
    persons with K images each; softmax_triplet: both losses, batches as for triplet."""
    num_instances: Annotated[Count, DecidesTraining()] = 4
    """Number K of images of each person in a batch, if sampler is triplet or softmax_triplet."""

    @model_validator(mode="after")
    def _folders_under_the_root(self) -> "Dataset":
        """The three folders of a drawn or fetched data set, or of one in Market-1501's layout, lie under its root."""
        made = self.synthetic or self.source
        root = made.root if made else self.root
        if root is not None and self.layout == "market1501":
            if not self.train_sets:
                self.train_dataset_dir = self.train_dataset_dir or f"{root}/bounding_box_train"
            self.test_dataset_dir = self.test_dataset_dir or f"{root}/bounding_box_test"
            self.query_dataset_dir = self.query_dataset_dir or f"{root}/query"
        return self

    @property
    def folders(self) -> dict[str, str | None]:
        """Split -> the folder that the field of the split names, for each such folder that is read.

        {} if the main set has another layout than Market-1501's; without train if there are training sets.
        """
        if self.layout != "market1501":
            return {}
        train = {} if self.train_sets else {"train": self.train_dataset_dir}
        return {**train, "query": self.query_dataset_dir, "gallery": self.test_dataset_dir}

    @property
    def roots(self) -> dict[str, str | None]:
        """Field -> root, for the main set if it is read from a root, and for each training set."""
        main = {"dataset.root": self.root}
        return {
            **({} if self.layout == "market1501" else main),
            **{f"dataset.train_sets, {part.name}": part.root for part in self.train_sets},
        }

    @property
    def test_roots(self) -> dict[str, str | None]:
        """Field -> root, for each further test set."""
        return {f"dataset.test_sets, {part.name}": part.root for part in self.test_sets}
