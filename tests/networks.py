"""Settings of networks small enough for tests."""

from typing import Any


def network_settings(**changes: Any) -> dict[str, Any]:
    """build_embedder's keyword values: timm's test_resnet at 64 x 32, features 16 wide, 5 persons; with `changes`."""
    settings: dict[str, Any] = {
        "backbone": "timm/test_resnet",
        "last_stride": 1,
        "stem_relu": True,
        "stem_pool": "padded",
        "pooling": "mean",
        "neck": "bnneck",
        "neck_feat": "after",
        "feat_dim": 16,
        "with_flip_feature": False,
        "input_channels": 3,
        "height": 64,
        "width": 32,
        "num_classes": 5,
        "drop_path": 0.1,
        "drop_out": 0.0,
        "att_drop_rate": 0.0,
        "dropout_rate": 0.0,
        "reduce_feat_dim": False,
        "semantic_weight": 1.0,
        "stride_size": [16, 16],
        "id_loss_type": "softmax",
    }
    assert set(changes) <= set(settings), changes
    return settings | changes
