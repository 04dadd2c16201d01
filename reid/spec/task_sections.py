"""The spec's sections of the tasks: training, evaluation, inference, export, TensorRT, and the record in MLflow."""

# ruff: noqa: RUF012 - pydantic copies a mutable default for each instance
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from reid.spec.field_types import Count, GpuIds, NotNegative, Positive, RegisteredName, Section, Share, Switch
from reid.spec.names import FIRST_OPSET, LAST_OPSET, Optimizer


class Optim(Section):
    """Optimizer and learning-rate schedule; epochs count from 1."""

    name: Optimizer = "Adam"
    """Of torch.optim; its LBFGS, Muon and SparseAdam cannot train this network."""
    lr_scheduler: Literal["MultiStep", "AutoReduce"] = "MultiStep"
    """MultiStep follows lr_steps or the cosine; AutoReduce multiplies by gamma when lr_monitor stalls."""
    lr_monitor: Literal["val_loss", "train_loss"] = "val_loss"
    """What AutoReduce watches."""
    lr_steps: list[Count] = [40, 70]
    """Epochs at which the learning rate is multiplied by gamma."""
    gamma: Positive = 0.1
    """Factor of a step of the learning rate."""
    bias_lr_factor: Positive = 1.0
    """Factor on the learning rate of biases."""
    weight_decay: NotNegative = 5e-4
    """L2 penalty of the weights, as the optimizer takes it."""
    weight_decay_bias: NotNegative = 5e-4
    """The same, of the biases."""
    warmup_factor: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Learning rate at the start of the warm-up, as a share of base_lr."""
    warmup_iters: Annotated[int, Field(ge=0)] = 10
    """Epochs of constant or linear warm-up."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    """Epochs of the cosine schedule's warm-up."""
    warmup_method: Literal["constant", "linear", "cosine"] = "linear"
    """constant: warmup_factor until warmup_iters; linear: from warmup_factor to 1 there. cosine: instead of lr_steps
    and gamma; from 0.01 to 1 until warmup_epochs, then down to 0.002 at the end. All as shares of base_lr."""
    base_lr: Positive = 3.5e-4
    """Learning rate of the weights after the warm-up."""
    momentum: Share = 0.9
    """Of SGD and RMSprop."""
    center_loss_weight: Positive = 5e-4
    """Weight of the centre loss in the sum of the losses."""
    center_lr: Positive = 0.5
    """Learning rate of the SGD that moves the centres."""
    triplet_loss_margin: NotNegative = 0.3
    """Of the triplet loss and of val_loss, in units of the features."""


class Cudnn(Section):
    """cuDNN's switches."""

    benchmark: bool = False
    """Let cuDNN try its algorithms and keep the fastest; not the same run after run."""
    deterministic: bool = True
    """Only algorithms of cuDNN that give the same numbers every time."""


class Train(Section):
    """The training task."""

    num_gpus: Count = 1
    """GPUs to train on; with gpu_ids, the one that names more GPUs wins. Without any GPU: the CPU."""
    gpu_ids: GpuIds = [0]
    """Which GPUs, from 0; free ones are added until there are num_gpus."""
    cpu_processes: Count = 1
    """Processes that train together on a machine without GPUs; one is best but for machines of many cores."""
    num_nodes: Count = 1
    """Machines; more than one is not there yet."""
    seed: Annotated[int, Field(ge=0)] = 1234
    """Same seed, same machine: same results."""
    num_epochs: Count = 10
    """Passes over the training images."""
    checkpoint_interval: Count = 1
    """Epochs between checkpoints."""
    checkpoint_minutes: NotNegative = 10.0
    """Within a long epoch, minutes between writes of reid_model_latest.pth; 0: only at the end of epochs."""
    validation_interval: Count = 1
    """Epochs between validations; the untrained network is always validated too."""
    resume_training_checkpoint_path: str | None = None
    """Checkpoint to continue from; wins over the results folder's latest."""
    results_dir: str | None = None
    """Folder of the task's files; null: <results_dir>/train."""
    clip_grad_norm: NotNegative = 0.0
    """Largest L2 norm of the gradient; 0: no clipping."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """auto: bf16 on GPUs that have it, fp32 elsewhere."""
    channels_last: Switch = "auto"
    """Layout of the images in memory; auto: for convolutional networks."""
    compile: Switch = "auto"
    """torch.compile; auto: on GPUs, where there is a compiler and the training is long enough to win its time back."""
    fused_optimizer: Switch = "auto"
    """One kernel for the optimizer's whole step; auto: on GPUs, for optimizers that have it."""
    optim: Optim = Field(default_factory=Optim)
    cudnn: Cudnn = Field(default_factory=Cudnn)

    @field_validator("precision", mode="before")
    @classmethod
    def _bare_number(cls, value: Any) -> Any:
        """YAML reads a bare 32 as a number."""
        return "32" if value == 32 else value


class Evaluate(Section):
    """The evaluation task."""

    checkpoint: str | None = None
    """Checkpoint (.pth), ONNX (.onnx) or engine (.engine, .plan) to evaluate; null: the best of the task train."""
    test_dataset: str | None = None
    """Gallery folder; null: dataset.test_dataset_dir."""
    query_dataset: str | None = None
    """Query folder; null: dataset.query_dataset_dir."""
    output_sampled_matches_plot: str | None = None
    """Queries with their nearest gallery images, besides the results folder's: .png, .svg or .pdf."""
    output_cmc_curve_plot: str | None = None
    """CMC curve, besides the results folder's: .png, .svg or .pdf."""
    num_gpus: Count = 1
    """GPUs that share the images; with gpu_ids, the one that names more GPUs wins. Without any GPU: the CPU."""
    gpu_ids: GpuIds = [0]
    """Which GPUs, from 0; free ones are added until there are num_gpus."""
    cpu_processes: Count = 1
    """Processes that share the images on a machine without GPUs."""
    results_dir: str | None = None
    """Folder of the task's files; null: <results_dir>/evaluate."""


class Inference(Section):
    """The inference task."""

    checkpoint: str | None = None
    """Checkpoint (.pth), ONNX (.onnx) or engine (.engine, .plan) to embed with; null: the best of the task train."""
    output_file: str | None = None
    """JSON of {"img_path", "embedding"} rows; null: inference.json in the results folder."""
    test_dataset: str | None = None
    """Gallery folder; null: dataset.test_dataset_dir."""
    query_dataset: str | None = None
    """Query folder; null: dataset.query_dataset_dir."""
    num_gpus: Count = 1
    """GPUs that share the images; with gpu_ids, the one that names more GPUs wins. Without any GPU: the CPU."""
    gpu_ids: GpuIds = [0]
    """Which GPUs, from 0; free ones are added until there are num_gpus."""
    cpu_processes: Count = 1
    """Processes that share the images on a machine without GPUs."""
    results_dir: str | None = None
    """Folder of the task's files; null: <results_dir>/inference."""


class Export(Section):
    """The ONNX export task."""

    checkpoint: str | None = None
    """Checkpoint to export; null: the best of the task train."""
    onnx_file: str | None = None
    """File to write; null: <checkpoint>.onnx, else reid_model.onnx, in the results folder."""
    gpu_id: Annotated[int, Field(ge=0)] = 0
    """TAO's; the export runs on the CPU."""
    opset: Annotated[int, Field(ge=FIRST_OPSET, le=LAST_OPSET)] = 18
    """Version of ONNX's operators, of those that torch writes."""
    data_type: Literal["FP32", "FP16"] = "FP32"
    """Numbers inside the ONNX; its input and output are FP32."""
    encrypted: bool = False
    """Encrypt the ONNX, and an engine built from it, with encryption_key."""
    parity_images: Annotated[int, Field(ge=2)] = 1000
    """Query and gallery images, whole persons, on which the ONNX is compared with torch."""
    min_cosine: Share = 0.9999
    """Least cosine between the embeddings of torch and of the ONNX, over these images."""
    max_mAP_drop: Share = 0.001  # noqa: N815
    """Most of the mAP on these images that the ONNX may lose, as a fraction."""
    max_rank1_drop: Share = 0.01
    """Most of their rank-1 that it may lose, as a fraction."""
    overwrite: bool = False
    """Replace an existing ONNX file."""
    results_dir: str | None = None
    """Folder of the task's files; null: <results_dir>/export."""


class TensorRT(Section):
    """How the engine is built."""

    data_type: Literal["FP32", "FP16", "INT8"] = "FP32"
    """Numbers inside the engine; its input and output are FP32. INT8 is not built here."""
    workspace_size: Count = 1024
    """MiB that the builder may take on the GPU."""
    min_batch_size: Count = 1
    """Least images of a batch that the engine takes."""
    opt_batch_size: Count = 4
    """Images of a batch that it is tuned for."""
    max_batch_size: Count = 16
    """Most images of a batch that the engine takes."""
    compute_capabilities: list[Annotated[str, Field(pattern=r"^\d+\.\d$")]] | None = None
    """GPUs that a TensorRT-RTX engine is built for, e.g. ["8.6", "8.9"]; null: the GPU that is here, else ["8.6"]."""
    layers_precision: list[str] = []
    """TAO's "layer:fp32" of single layers; every layer has data_type here."""


class GenTrtEngine(Section):
    """The TensorRT task; the section has the shape of TAO's other networks."""

    onnx_file: str | None = None
    """ONNX to build from; null: the one of the task export."""
    trt_engine: str | None = None
    """Where the engine goes besides the results folder's model.engine."""
    timing_cache: str | None = None
    """File that keeps kernel timings between builds; TensorRT-RTX takes none."""
    gpu_id: Annotated[int, Field(ge=0)] = 0
    """GPU to build on, from 0; TensorRT-RTX builds without one."""
    results_dir: str | None = None
    """Folder of the task's files; null: <results_dir>/gen_trt_engine."""
    min_cosine: Share = 0.999
    """Least cosine between the embeddings of the ONNX and of the engine, over query images, where a GPU can run it."""
    verbose: bool = False
    """Show TensorRT's own messages."""
    tensorrt: TensorRT = Field(default_factory=TensorRT)


class MLflow(Section):
    """Where and under which names the run is recorded."""

    experiment: str = "reid"
    """MLflow experiment of the pipeline's runs."""
    run_name: str | None = None
    """null: the spec file's name and the time."""
    tags: dict[str, str] = {}
    """Tags of the pipeline's run."""
    registered_model: RegisteredName = "reid"
    """Name in the MLflow model registry."""
