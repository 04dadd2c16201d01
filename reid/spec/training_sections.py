"""The spec's section on training, with its optimizer and cuDNN's switches."""

# ruff: noqa: RUF012 - pydantic copies a mutable default for each instance
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from reid.spec.facts import AlsoReadBy, CountsGpus, DecidesTraining, InForm, ReadAloneBy
from reid.spec.field_types import Count, GpuIds, NotNegative, Positive, ReadFile, ResultsFolder, Section, Share, Switch
from reid.spec.names import Optimizer


class Optim(Section):
    """Optimizer and learning-rate schedule; epochs count from 1."""

    name: Optimizer = "Adam"
    """Optimizer of torch.optim; its LBFGS, Muon and SparseAdam cannot train this network."""
    lr_scheduler: Literal["MultiStep", "AutoReduce", "Cosine"] = "MultiStep"
    """How the learning rate falls after the warm-up. MultiStep: by gamma at lr_steps, or by the cosine of
    warmup_method; AutoReduce: by gamma when lr_monitor stalls; Cosine: it stays until flat_epochs, and then falls in a
    half cosine to lr_floor."""
    flat_epochs: Annotated[int, Field(ge=0)] = 0
    """Number of epochs before the Cosine schedule lets the learning rate fall; at least those of the warm-up."""
    lr_floor: Share = 0.002
    """Learning rate that the Cosine schedule reaches at the end of the training, as a share of base_lr."""
    lr_monitor: Literal["val_loss", "train_loss"] = "val_loss"
    """Loss that AutoReduce watches."""
    lr_steps: list[Count] = [40, 70]
    """Epochs at which the learning rate is multiplied by gamma."""
    gamma: Positive = 0.1
    """Factor on the learning rate at each step of lr_steps or of AutoReduce."""
    bias_lr_factor: Positive = 1.0
    """Factor on the learning rate of biases: of each parameter with "bias" in its name, as in TAO."""
    weight_decay: NotNegative = 5e-4
    """L2 penalty of the weights, as the optimizer takes it."""
    weight_decay_bias: NotNegative = 5e-4
    """L2 penalty of the biases, as the optimizer takes it."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on a ViT's learning rate for each layer below the last (BEiT, Bao et al. 2022); 1: all layers alike."""
    warmup_factor: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Learning rate at the start of the warm-up, as a share of base_lr."""
    warmup_iters: Annotated[int, Field(ge=0)] = 10
    """Number of epochs of the constant or linear warm-up."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    """Number of epochs of the cosine schedule's warm-up."""
    warmup_method: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate rises, in shares of base_lr. constant: warmup_factor until warmup_iters; linear: from
    warmup_factor to 1 at warmup_iters; cosine: from 0.01 to 1 until warmup_epochs, then down to 0.002 at the end;
    lr_steps and gamma then have no effect."""
    cosine_first_epoch: Literal[0, 1] = 0
    """Number that the cosine of warmup_method gives the first epoch. 0: it trains at 0.01 of base_lr, as in TAO and
    SOLIDER; 1: the learning rate is one epoch ahead, as in TransReID and PersonViT."""
    base_lr: Annotated[Positive, InForm("learning_rate")] = 3.5e-4
    """Learning rate of the weights after the warm-up."""
    momentum: Share = 0.9
    """Momentum of SGD and RMSprop."""
    center_loss_weight: Positive = 5e-4
    """Weight of the centre loss in the sum of the losses."""
    center_lr: Positive = 0.5
    """Learning rate of the SGD that moves the centres."""
    triplet_loss_margin: NotNegative = 0.3
    """Margin of the triplet loss and of val_loss, in units of the features."""
    soft_margin: bool = False
    """Whether the triplet loss is ln(1 + exp(positive - negative)), without a margin; val_loss keeps its margin."""
    trp_l2: bool = False
    """Whether the features get length 1 before the triplet loss; so do the embeddings before val_loss."""
    cosine_margin: NotNegative = 0.5
    """Margin of model.id_loss_type: an angle in radians for arcface, a cosine for cosface, amsoftmax and circle."""
    cosine_scale: Positive = 30.0
    """Factor on the cosines of model.id_loss_type before the cross-entropy."""
    large_fc_lr: bool = False
    """Whether the classifier learns at twice base_lr."""


class Cudnn(Section):
    """cuDNN's switches, for GPUs."""

    benchmark: Switch = "auto"
    """Whether cuDNN tries its algorithms and keeps the fastest; if so, two runs differ. auto: on GPUs."""
    deterministic: Switch = "auto"
    """Whether cuDNN uses only algorithms that give the same numbers every time; auto: not on GPUs, because those
    algorithms are slower."""


class Train(Section):
    """The training task."""

    num_gpus: Annotated[Count, CountsGpus("gpus")] = 1
    """Number of GPUs to train on; gpu_ids decides if it names more. A machine without a GPU uses the CPU."""
    gpu_ids: GpuIds = [0]
    """GPUs to use, from 0; others are added until there are num_gpus."""
    cpu_processes: Count = 1
    """Number of processes that train together on a machine without GPUs; several are faster only with many cores."""
    num_nodes: Count = 1
    """Number of machines (nodes) that train together, each with num_gpus GPUs; they share dataset.batch_size."""
    seed: Annotated[
        int,
        Field(ge=0),
        AlsoReadBy("validate", "evaluate"),
        ReadAloneBy("start_client"),
        DecidesTraining(),
        InForm("seed"),
    ] = 1234
    """Seed of all random choices; on one machine, the same seed gives the same results (on a GPU up to rounding)."""
    num_epochs: Annotated[Count, InForm("epochs")] = 10
    """Number of epochs (passes over the training images)."""
    epoch_length: Annotated[Literal["images", "peers"], DecidesTraining()] = "images"
    """Length of an epoch in batches of P persons. images: every image is seen; peers: as in TAO, TransReID and the
    strong baseline, no image twice, and the epoch ends if fewer than P persons have K unseen images: shorter, much
    shorter if persons have unequal numbers of images."""
    checkpoint_interval: Count = 1
    """Number of epochs between checkpoints."""
    checkpoint_minutes: NotNegative = 2.0
    """Minutes between writes of reid_model_latest.pth within an epoch; 0: it is written only at the end of epochs."""
    validation_interval: Count = 1
    """Number of epochs between validations; the untrained network is always validated too."""
    resume_training_checkpoint_path: ReadFile | None = None
    """Checkpoint to resume from, in place of the latest one in the results folder."""
    results_dir: Annotated[ResultsFolder | None, ReadAloneBy("train", "evaluate", "inference", "export")] = None
    """Folder of the task's files; null: <results_dir>/train."""
    clip_grad_norm: Annotated[NotNegative, DecidesTraining()] = 0.0
    """Largest L2 norm of the gradient; 0: no clipping."""
    freeze_epochs: Annotated[int, Field(ge=0), DecidesTraining()] = 0
    """Number of epochs at the beginning in which only the head learns, and the backbone stays as it is; fast-reid's
    SBS has about 5."""
    ema_decay: Annotated[float, Field(ge=0, lt=1), DecidesTraining()] = 0.0
    """Decay of the moving average (EMA) of the weights, 0.9999 for example; validation, the best checkpoint and every
    later task take the averaged weights then. It begins lower: min(ema_decay, (1 + n) / (10 + n)) after n steps. 0:
    none."""
    precision: Annotated[Literal["auto", "32", "bf16", "fp16"], DecidesTraining()] = "auto"
    """Number type that the network computes with. auto: on GPUs bf16, or fp16 on those that have no bf16; else fp32.
    With fp16 the loss is scaled, and a step whose gradient overflows is skipped."""
    channels_last: Switch = "auto"
    """Whether a pixel's channels lie side by side in memory (channels last); auto: for convolutional networks."""
    compile: Switch = "auto"
    """Whether torch.compile is used; auto: on GPUs, if there is a compiler and the training is long enough to win back
    the time that compiling takes (compile_above_images)."""
    compile_mode: Literal["auto", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "auto"
    """Mode of torch.compile. auto: reduce-overhead (CUDA graphs) on one GPU, default on several GPUs or a CPU."""
    compile_above_images: Annotated[int, Field(ge=0)] = 400_000
    """Number of images (of all epochs together) from which on compile=auto compiles. The default is where a ResNet-50
    breaks even on an H100: 47 s of compiling, for 6,400 images/s in place of 3,440."""
    fused_optimizer: Switch = "auto"
    """Whether one kernel makes the optimizer's whole step; auto: on GPUs, for optimizers that have it."""
    optim: Annotated[Optim, DecidesTraining()] = Field(default_factory=Optim)
    cudnn: Cudnn = Field(default_factory=Cudnn)

    @field_validator("precision", mode="before")
    @classmethod
    def _bare_number(cls, value: Any) -> Any:
        """YAML reads a bare 32 as a number."""
        return "32" if value == 32 else value
