"""Fields that contradict each other, that others switch off, and values that are understood as others."""

import pytest

from reid.errors import SpecError
from reid.spec import load_spec, warn_of_replaced_paths

CENTRED = "with_center_loss: true, metric_loss_type: triplet_center"
COSINE = "warmup_method: cosine"


def said(text: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of a spec, without its name."""
    load_spec(text=text)
    return [message.removeprefix("spec: ") for message in caplog.messages]


def no_effect(name: str, why: str) -> str:
    return f"{name} has no effect: {why}"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "model: {pooling: class}",
            "spec: model.pooling: 'class', but resnet_50 has no class token; want auto, mean or gem",
        ),
        (
            "re_ranking: {k1: 5}",
            "spec: re_ranking.k2: 6 is above re_ranking.k1 = 5; want k2 <= k1",
        ),
        (
            "dataset: {batch_size: 30}",
            "spec: dataset.batch_size: 30 is not divisible by dataset.num_instances = 4; nearest: 28 and 32",
        ),
        (
            "train: {num_gpus: 3}",
            "spec: dataset.batch_size: 64 is not divisible by dataset.num_instances = 4 x 3 GPUs; nearest: 60 and 72",
        ),
        (
            "train: {gpu_ids: [0, 1, 2]}\ndataset: {sampler: softmax}",
            "spec: dataset.batch_size: 64 is not divisible by 3 GPUs; nearest: 63 and 66",
        ),
        (
            "dataset: {batch_size: 2}",
            "spec: dataset.batch_size: 2 is not divisible by dataset.num_instances = 4; nearest: 4",
        ),
        (
            "dataset: {batch_size: 1, sampler: softmax}",
            "spec: dataset.batch_size: 1: the BNNeck cannot normalise a single image; "
            "want 2 or more, or model.neck = ''",
        ),
        (
            "model: {metric_loss_type: center}",
            "spec: model.metric_loss_type: 'center' needs model.with_center_loss = true; "
            "want 'triplet' or the centre loss on",
        ),
        (
            "dataset: {pixel_mean: [0.5, 0.5]}",
            "spec: dataset.pixel_mean: 2 values for 3 channels; want one per channel",
        ),
        (
            "dataset: {layout: msmt17, root: /m, query_dataset_dir: /q}",
            "spec: dataset.query_dataset_dir: is for dataset.layout = market1501, and it is msmt17; want dataset.root",
        ),
        (
            "dataset: {root: /m, synthetic: {root: /d}}",
            "spec: dataset.root: dataset.synthetic or dataset.source is set too, which has a root; want one of them",
        ),
        (
            "dataset: {train_dataset_dir: /t, train_sets: [{name: a, root: /a}]}",
            "spec: dataset.train_dataset_dir: dataset.train_sets is set too, in its place; want one of them",
        ),
        (
            "dataset: {train_sets: [{name: a, root: /a}, {name: a, root: /b}]}",
            "spec: dataset.train_sets: more than one is named a; want a name of its own for each",
        ),
        (
            "dataset: {test_sets: [{name: main, root: /a}]}",
            "spec: dataset.test_sets: one is named main, as the main set is in the report; want another name",
        ),
        (
            "dataset: {test_sets: [{name: low_light, root: /a}]}",
            "spec: dataset.test_sets: one is named low_light, and mAP_low_light would be an end of mAP's interval; "
            "want another name",
        ),
        (
            "dataset: {test_sets: [{name: a, root: /a}, {name: b, root: /a}]}",
            "spec: dataset.test_sets: /a is there more than once, in the layout market1501; want each data set once",
        ),
        (
            "dataset: {train_sets: [{name: a, root: /a, share: 1.0}, {name: b, root: /b}]}",
            "spec: dataset.train_sets: b has no share and another set has one; want one for all or for none",
        ),
        (
            "dataset: {train_sets: [{name: a, root: /a, share: 0.0}]}",
            "spec: dataset.train_sets.0.share: found 0.0 (float); want: above 0.0",
        ),
        (
            "dataset: {test_sets: [{nane: a, name: a, root: /a}]}",
            "spec: dataset.test_sets.0.nane: unknown key; did you mean dataset.test_sets.0.name?",
        ),
        (
            "train: {fused_optimizer: on, optim: {name: RMSprop}}",
            "spec: train.fused_optimizer: RMSprop has no fused form; want auto or off",
        ),
        (
            "inference: {output_file: rows.csv}",
            "spec: inference.output_file: found 'rows.csv'; want a file that ends in .json, .npz, .parquet",
        ),
        (
            "gen_trt_engine: {tensorrt: {max_batch_size: 8, opt_batch_size: 16}}",
            "spec: gen_trt_engine.tensorrt.opt_batch_size: min 1, opt 16, max 8; want min <= opt <= max",
        ),
        (
            "gen_trt_engine: {tensorrt: {min_batch_size: 80}}",
            "spec: gen_trt_engine.tensorrt.opt_batch_size: min 80, opt 80, max 64; want min <= opt <= max",
        ),
        (
            "export: {preprocessing: inside, pixels: {largest: 1}}",
            "spec: export.pixels.largest: 1 with whole numbers; want 255, or export.pixels.data_type = float32",
        ),
        (
            "export: {data_type: FP8, opset: 18}",
            "spec: export.opset: 18 has no FP8; want 19 or above",
        ),
    ],
)
def test_a_contradiction_names_place_found_and_wanted(text: str, wanted: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(text=text)
    assert str(caught.value) == wanted


def test_a_field_is_told_once_with_its_first_reason(caplog: pytest.LogCaptureFixture) -> None:
    text = "train: {optim: {lr_steps: [3], warmup_method: cosine, lr_scheduler: AutoReduce, momentum: 0.5}}"
    assert said(text, caplog) == [
        no_effect("train.optim.momentum", "Adam has no momentum of this kind"),
        no_effect(
            "train.optim.lr_steps", "train.optim.lr_scheduler = AutoReduce watches train.optim.lr_monitor instead"
        ),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "model: {backbone: swin_tiny_patch4_window7_224}",
        "model: {backbone: timm/swin_s3_tiny_224, drop_path: 0.2, att_drop_rate: 0.1, semantic_weight: 0.2}",
        "model: {backbone: swin_base_patch4_window7_224, reduce_feat_dim: true, feat_dim: 64}",
        "model: {backbone: swin_base_patch4_window7_224, feat_dim: null}",
        "model: {neck: ''}",
        "model: {pretrain_choice: ''}",
        f"model: {{{CENTRED}}}\ntrain: {{optim: {{center_lr: 0.1, center_loss_weight: 0.1}}}}",
        "model: {dropout_rate: 0.2}",
        "dataset: {sampler: softmax}",
        "dataset: {sampler: triplet}",
        "train: {optim: {name: SGD, momentum: 0.5}}",
        f"train: {{optim: {{{COSINE}, warmup_epochs: 3}}}}",
        f"train: {{optim: {{{COSINE}, lr_scheduler: AutoReduce, gamma: 0.5, lr_monitor: train_loss}}}}",
        "train: {optim: {lr_steps: [], warmup_iters: 0}}",
        "train: {optim: {warmup_method: constant, warmup_factor: 0.5}}",
        "evaluate: {gpu_ids: [2]}",
    ],
)
def test_what_matters_or_stays_at_its_default_is_not_warned_about(text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert said(text, caplog) == []


@pytest.mark.parametrize(
    ("text", "name", "why"),
    [
        ("model: {backbone: resnet_18, drop_path: 0.2}", "model.drop_path", "only Swin and ViT read it"),
        (
            "dataset: {layout: csv, root: /c.csv, file_name: dukemtmc}",
            "dataset.file_name",
            "dataset.layout = csv does not read persons from file names",
        ),
        (
            "model: {backbone: timm/swin_s3_tiny_224, feat_dim: 64}",
            "model.feat_dim",
            "Swin keeps its own width unless model.reduce_feat_dim is true",
        ),
        (
            f"model: {{{CENTRED}}}\ndataset: {{sampler: triplet}}\ntrain: {{optim: {{warmup_epochs: 3}}}}",
            "train.optim.warmup_epochs",
            "only train.optim.warmup_method = cosine reads it",
        ),
        (
            f"train: {{optim: {{{COSINE}, warmup_factor: 0.5}}}}",
            "train.optim.warmup_factor",
            "the cosine schedule does not read it",
        ),
        ("export: {pixels: {layout: NCHW}}", "export.pixels.layout", "export.preprocessing = outside"),
        (
            "model: {with_flip_feature: true}\nexport: {preprocessing: inside, flip_test: true}",
            "export.flip_test",
            "model.with_flip_feature is true, which does it already",
        ),
        (
            "train: {optim: {warmup_iters: 1, warmup_method: constant}}",
            "train.optim.warmup_method",
            "train.optim.warmup_iters = 1 is no warm-up",
        ),
    ],
)
def test_what_cannot_matter_is_warned_about(text: str, name: str, why: str, caplog: pytest.LogCaptureFixture) -> None:
    assert said(text, caplog) == [no_effect(name, why)]


def test_a_triplet_loss_with_the_centre_loss_on_is_both(caplog: pytest.LogCaptureFixture) -> None:
    notice = "model.metric_loss_type: 'triplet' is read as 'triplet_center', because model.with_center_loss is true"
    assert said("model: {with_center_loss: true}", caplog) == [notice]
    caplog.clear()
    softmax = "model: {with_center_loss: true}\ndataset: {sampler: softmax}"
    assert said(softmax, caplog) == [
        no_effect("model.with_center_loss", "dataset.sampler = softmax uses no metric loss")
    ]


def test_a_backbone_that_is_frozen_in_all_epochs_never_learns(caplog: pytest.LogCaptureFixture) -> None:
    notice = "train.freeze_epochs: 3 of train.num_epochs = 3: the backbone never learns"
    assert said("train: {freeze_epochs: 3, num_epochs: 3}", caplog) == [notice]
    caplog.clear()
    assert said("train: {freeze_epochs: 2, num_epochs: 3}", caplog) == []


def test_each_training_set_with_a_share_has_a_place_in_a_batch() -> None:
    # 8 persons for 7 : 1 are 7 and 1; for 15 : 1 they are 7.5 and 0.5, and the place that is left is the first set's
    def sets(share: int, more: str = "") -> str:
        one, two = f"{{name: one, root: a, share: {share}}}", "{name: two, root: b, share: 1}"
        return f"dataset: {{train_sets: [{one}, {two}], batch_size: 32, num_instances: 4{more}}}"

    load_spec(text=sets(7))
    load_spec(text=sets(15, ", sampler: softmax"))
    with pytest.raises(SpecError) as caught:
        load_spec(text=sets(15))
    assert str(caught.value) == (
        "spec: dataset.train_sets: two: share 1 of 16 is not one of the 8 persons of a batch; "
        "want a larger share, or a larger dataset.batch_size"
    )


def test_paths_that_a_pipeline_does_not_read_are_named(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_replaced_paths(load_spec(text=""))
    assert not caplog.messages
    task = "{checkpoint: a.pth, test_dataset: g, query_dataset: q, results_dir: r}"
    warn_of_replaced_paths(
        load_spec(text=f"evaluate: {task}\nexport: {{checkpoint: a.pth}}\ngen_trt_engine: {{onnx_file: a.onnx}}\n")
    )
    assert caplog.messages == [
        f"{name} has no effect in a pipeline: {instead}"
        for name, instead in (
            ("evaluate.checkpoint", "the model comes from the stage train"),
            ("evaluate.test_dataset", "the images are those of dataset.test_dataset_dir"),
            ("evaluate.query_dataset", "the images are those of dataset.query_dataset_dir"),
            ("evaluate.results_dir", "the runner says where the results are"),
            ("export.checkpoint", "the model comes from the stage train"),
            ("gen_trt_engine.onnx_file", "the ONNX comes from the stage export"),
        )
    ]


def test_a_plot_is_a_picture_of_a_known_kind() -> None:
    load_spec(text="evaluate: {output_cmc_curve_plot: a.PNG, output_sampled_matches_plot: b.svg}")
    with pytest.raises(SpecError) as caught:
        load_spec(text="evaluate: {output_cmc_curve_plot: a.bmp, output_sampled_matches_plot: folder}")
    assert str(caught.value) == (
        "spec: evaluate.output_cmc_curve_plot: found 'a.bmp'; want a file that ends in .png, .svg, .pdf\n"
        "spec: evaluate.output_sampled_matches_plot: found 'folder'; want a file that ends in .png, .svg, .pdf"
    )
