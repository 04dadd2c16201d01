"""The fields that a task of the command line reads: those of its stage in a pipeline, and those that say where the
task finds what a stage is handed.
"""

from reid.spec.sections import STAGE_FIELDS

IMAGES = [
    *("dataset.train_dataset_dir", "dataset.test_dataset_dir", "dataset.query_dataset_dir"),
    *("dataset.file_name", "dataset.cameras", "dataset.synthetic", "dataset.source", "dataset.store_dir"),
]
AGREEING = [
    *("model.backbone", "model.input_channels", "model.input_width", "model.input_height", "model.with_flip_feature"),
    *("dataset.pixel_mean", "dataset.pixel_std"),
]
"""What a trained model's file says, too."""
MODEL = ["encryption_key", "train.results_dir", *AGREEING]
"""Where the trained model is, and what has to agree with it."""
ONNX = ["encryption_key", "export.results_dir", "export.checkpoint", "export.onnx_file"]
"""Where the exported one is."""

NETWORK = [
    *("model.backbone", "model.last_stride", "model.stem_relu", "model.stem_pool", "model.input_channels"),
    *("model.input_width", "model.input_height", "model.neck", "model.feat_dim", "model.neck_feat"),
    *("model.with_flip_feature", "model.drop_path", "model.drop_out", "model.att_drop_rate", "model.dropout_rate"),
    *("model.reduce_feat_dim", "model.semantic_weight"),
]
"""What describes a network."""

TASK_FIELDS = {
    "adopt": ["encryption_key", "dataset.pixel_mean", "dataset.pixel_std", "export.encrypted", *NETWORK],
    "validate": ["dataset", "model.backbone"],
    "train": ["encryption_key", *STAGE_FIELDS["train"]],
    "evaluate": [*STAGE_FIELDS["evaluate"], *IMAGES, *MODEL],
    "inference": [*STAGE_FIELDS["inference"], *IMAGES, *MODEL],
    "export": [*STAGE_FIELDS["export"], *IMAGES, *MODEL],
    "gen_trt_engine": [*STAGE_FIELDS["gen_trt_engine"], *IMAGES, *ONNX],
    "triton": ["triton", "gen_trt_engine.results_dir", *ONNX],
    "start_client": ["triton", "re_ranking", "train.seed", *IMAGES],
}
TASK_FIELDS["start_server"] = [*TASK_FIELDS["triton"], *TASK_FIELDS["export"], *TASK_FIELDS["gen_trt_engine"]]
"""It exports and builds first, where that lacks."""
