"""Keys of NVIDIA TAO's re_identification schema that have no effect here, and older spellings of fields.

Facts: the schema of nvidia-tao-core 7.3.0 and the published documentation; gen_trt_engine is as in its other networks.
At its default a key of IDLE is accepted silently; with another value it is accepted with one warning that says why it
changes nothing.
"""

from typing import Any

ALIASES = {
    "train.grad_clip": "train.clip_grad_norm",
    "train.optim.steps": "train.optim.lr_steps",
}
"""Older spelling -> field."""

_WANDB = "experiments are recorded in MLflow, not in Weights & Biases"
_DEAD = "no effect in TAO either"
_LOCAL = "belongs to TAO's transformer with local features, which is not offered"
_CHECKPOINTS = "the latest and the best checkpoint are always kept"

IDLE: dict[str, tuple[Any, str]] = {
    "model_name": (None, "there is one network family here"),
    "wandb.enable": (True, _WANDB),
    "wandb.project": ("TAO Toolkit", _WANDB),
    "wandb.entity": ("", _WANDB),
    "wandb.group": ("", _WANDB),
    "wandb.tags": (["training", "tao-toolkit"], _WANDB),
    "wandb.reinit": (False, _WANDB),
    "wandb.sync_tensorboard": (False, _WANDB),
    "wandb.save_code": (False, _WANDB),
    "wandb.name": ("TAO Toolkit training experiment", _WANDB),
    "wandb.run_id": ("", _WANDB),
    "model.pretrain_hw_ratio": (2.0, _LOCAL),
    "model.no_margin": (False, f"{_DEAD}: the margin is always used"),
    "model.cos_layer": (False, _DEAD),
    "model.gem_pooling": (False, f"{_DEAD}; model.pooling=gem is GeM pooling"),
    "model.stem_conv": (False, _DEAD),
    "model.jpm": (False, _LOCAL),
    "model.shift_num": (5, _LOCAL),
    "model.shuffle_group": (2, _LOCAL),
    "model.devide_length": (4, _LOCAL),
    "model.re_arrange": (True, _LOCAL),
    "model.sie_coe": (3.0, _LOCAL),
    "model.sie_camera": (False, _LOCAL),
    "model.sie_view": (False, _LOCAL),
    "train.checkpoint_interval_unit": ("epoch", "checkpoints are written at the ends of epochs"),
    "train.checkpointer.enable_topk": (False, _CHECKPOINTS),
    "train.checkpointer.replace_periodic": (False, _CHECKPOINTS),
    "train.checkpointer.monitor": (None, _CHECKPOINTS),
    "train.checkpointer.mode": (None, _CHECKPOINTS),
    "train.checkpointer.save_top_k": (1, _CHECKPOINTS),
    "train.checkpointer.filename": ("model_best_{epoch:03d}", _CHECKPOINTS),
    "train.checkpointer.dirpath": (None, _CHECKPOINTS),
    "train.checkpointer.auto_insert_metric_name": (False, _CHECKPOINTS),
    "evaluate.num_nodes": (1, "evaluation runs on one machine"),
    "evaluate.trt_engine": (None, "name the engine in evaluate.checkpoint"),
    "evaluate.batch_size": (-1, "dataset.val_batch_size is used"),
    "inference.num_nodes": (1, "inference runs on one machine"),
    "inference.trt_engine": (None, "name the engine in inference.checkpoint"),
    "inference.batch_size": (-1, "dataset.val_batch_size is used"),
    "gen_trt_engine.batch_size": (-1, "the profile is gen_trt_engine.tensorrt.{min,opt,max}_batch_size"),
}
"""Key -> (TAO's default, why it has no effect here)."""
