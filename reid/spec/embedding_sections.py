"""The spec's sections on what is done with a trained network: evaluation, re-ranking, and inference."""

# ruff: noqa: RUF012 - pydantic copies a mutable default for each instance
from typing import Annotated, Literal

from reid.spec.facts import CountsGpus, InForm, ReadAloneBy, Replaced
from reid.spec.field_types import (
    Count,
    Device,
    GpuIds,
    ReadFile,
    ReadFolder,
    ResultsFolder,
    Section,
    Share,
    WrittenFile,
)

TRAINED = Replaced("the model comes from the stage train")
GALLERY = Replaced("the images are those of dataset.test_dataset_dir")
QUERY = Replaced("the images are those of dataset.query_dataset_dir")


class ReRanking(Section):
    """k-reciprocal re-ranking: Zhong et al., CVPR 2017, arXiv:1701.08398."""

    re_ranking: bool = True
    """Whether the re-ranked figures are the headline; plain and re-ranked figures are always both computed."""
    k1: Annotated[Count, InForm("k1")] = 20
    """Number of neighbours that form the k-reciprocal set R(p, k1)."""
    k2: Annotated[Count, InForm("k2")] = 6
    """Number of neighbours that local query expansion averages; not above k1."""
    lambda_value: Annotated[Share, InForm("lambda_value")] = 0.3
    """Weight of the original distance; 0 is the pure Jaccard distance."""
    device: Device = "auto"
    """Where both rankings are computed; auto: on evaluate's first GPU if its memory suffices, else on the CPU."""
    max_rank: Count = 10
    """Number of CMC ranks in the CMC plot, and of columns in the matches sheet."""
    num_query: Count = 10
    """Number of rows in the matches sheet."""


class Evaluate(Section):
    """The evaluation task."""

    checkpoint: Annotated[ReadFile | None, TRAINED] = None
    """Checkpoint (.pth), ONNX (.onnx) or engine (.engine, .plan) to evaluate; null: the best of the task train."""
    test_dataset: Annotated[ReadFolder | None, GALLERY] = None
    """Gallery folder; null: dataset.test_dataset_dir."""
    query_dataset: Annotated[ReadFolder | None, QUERY] = None
    """Query folder; null: dataset.query_dataset_dir."""
    output_sampled_matches_plot: WrittenFile | None = None
    """Another file to write the matches sheet to (queries with their nearest gallery images): .png, .svg or .pdf."""
    output_cmc_curve_plot: WrittenFile | None = None
    """Another file to write the CMC plot to: .png, .svg or .pdf."""
    num_gpus: Annotated[Count, CountsGpus("embedding_gpus")] = 1
    """Number of GPUs that share the images; gpu_ids decides if it names more. A machine without a GPU uses the CPU."""
    gpu_ids: GpuIds = [0]
    """GPUs to use, from 0; others are added until there are num_gpus."""
    cpu_processes: Count = 1
    """Number of processes that share the images on a machine without GPUs."""
    results_dir: Annotated[ResultsFolder | None, ReadAloneBy("evaluate", "export")] = None
    """Folder of the task's files; null: <results_dir>/evaluate."""


class Inference(Section):
    """The inference task."""

    checkpoint: Annotated[ReadFile | None, TRAINED] = None
    """Checkpoint (.pth), ONNX (.onnx) or engine (.engine, .plan) to embed with; null: the best of the task train."""
    output_file: WrittenFile | None = None
    """File to write: .json (a list of {"img_path", "embedding"}), .npz or .parquet; null: inference.json in the
    results folder."""
    data_type: Literal["float32", "float16"] = "float32"
    """Type of the numbers in a .npz or .parquet file; float16 halves the file, and cosines change by about 0.0005."""
    shard_rows: Count | None = None
    """Rows of each file NAME-00000-of-0000K.npz or .parquet; null: one file."""
    test_dataset: Annotated[ReadFolder | None, GALLERY] = None
    """Gallery folder; null: dataset.test_dataset_dir."""
    query_dataset: Annotated[ReadFolder | None, QUERY] = None
    """Query folder; null: dataset.query_dataset_dir."""
    num_gpus: Annotated[Count, CountsGpus("embedding_gpus")] = 1
    """Number of GPUs that share the images; gpu_ids decides if it names more. A machine without a GPU uses the CPU."""
    gpu_ids: GpuIds = [0]
    """GPUs to use, from 0; others are added until there are num_gpus."""
    cpu_processes: Count = 1
    """Number of processes that share the images on a machine without GPUs."""
    results_dir: Annotated[ResultsFolder | None, ReadAloneBy("inference")] = None
    """Folder of the task's files; null: <results_dir>/inference."""
