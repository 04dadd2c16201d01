"""The spec's section on the network."""

# ruff: noqa: RUF012 - pydantic copies a mutable default for each instance
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from reid.spec.facts import AlsoReadBy, DecidesTraining, InForm, PartOfNetwork, SaidByModel
from reid.spec.field_types import Count, Positive, ReadFile, Section, Share, Switch, Text
from reid.spec.names import require_backbone


class Model(Section):
    """The network: Luo et al., CVPR Workshops 2019, arXiv:1903.07071 (BNNeck)."""

    backbone: Annotated[
        Text,
        AfterValidator(require_backbone),
        AlsoReadBy("validate"),
        PartOfNetwork("backbone"),
        SaidByModel(contract=None),
        InForm("backbone"),
    ] = "resnet_50"
    """Backbone: resnet_18/34/50/101/152, resnet_18/34/50/101_ibn_a (Pan et al., ECCV 2018),
    osnet[_ain]_x1_0/x0_75/x0_5/x0_25 and osnet_ibn_x1_0 (Zhou et al., ICCV 2019), vit_{tiny,small,base}_patch16,
    swin_{tiny,small,base}_patch4_window7_224, or timm/<name of timm's model>."""
    last_stride: Annotated[Literal[1, 2], PartOfNetwork("last_stride"), SaidByModel(contract=None)] = 1
    """Stride of the last ResNet stage; 1 doubles the feature map's height and width."""
    stem_relu: Annotated[Switch, PartOfNetwork("stem_relu"), SaidByModel(contract=None)] = "auto"
    """Whether a ResNet's stem has a ReLU after its first BatchNorm; TAO's has none. auto: off for TAO's weights, else
    on."""
    stem_pool: Annotated[Literal["padded", "ceil"], PartOfNetwork("stem_pool"), SaidByModel(contract=None)] = "padded"
    """Max pooling of a ResNet's stem. padded: by a pixel on all sides (torchvision, TAO); ceil: without (fast-reid)."""
    pooling: Annotated[
        Literal["auto", "class", "mean", "gem"], PartOfNetwork("pooling"), SaidByModel(contract=None)
    ] = "auto"
    """What makes one vector of the backbone's output. class: the class token of a ViT; mean: the mean of the map or of
    the patches; gem: the generalized mean with a learned power (Radenovic et al. 2019); auto: class if there is a class
    token, else mean."""
    pretrain_choice: Literal["imagenet", "self", ""] = "imagenet"
    """First weights. imagenet: ImageNet weights; self: a re-identification checkpoint; "": random weights."""
    pretrained_model_path: Annotated[ReadFile | None, DecidesTraining(False)] = None
    """File of the weights that pretrain_choice asks for; null: those of imagenet are downloaded."""
    min_matched_share: Share = 0.5
    """Smallest share of the backbone's tensors that the weights file has to fill."""
    input_channels: Annotated[Literal[1, 3], PartOfNetwork("input_channels"), SaidByModel("channels")] = 3
    """Number of colour channels of the input: 1 is grey, 3 is RGB."""
    input_width: Annotated[
        Count, PartOfNetwork("width"), SaidByModel("width"), InForm("image_width"), AlsoReadBy("validate")
    ] = 128
    """Width of the input in pixels."""
    input_height: Annotated[
        Count, PartOfNetwork("height"), SaidByModel("height"), InForm("image_height"), AlsoReadBy("validate")
    ] = 256
    """Height of the input in pixels."""
    neck: Annotated[Literal["bnneck", ""], PartOfNetwork("neck"), SaidByModel(contract=None)] = "bnneck"
    """Layer between the features of the metric loss and the classifier. bnneck: a BatchNorm; "": none."""
    feat_dim: Annotated[
        Count | None, PartOfNetwork("feat_dim"), SaidByModel("embedding"), InForm("embedding_width")
    ] = 256
    """Width of the embedding; null: the backbone's own width. A Swin keeps its own unless reduce_feat_dim is true.
    An OSNet with a width has torchreid's layer (linear, BatchNorm, ReLU) of it; torchreid's weights have 512."""
    neck_feat: Annotated[Literal["before", "after"], PartOfNetwork("neck_feat"), SaidByModel(contract=None)] = "after"
    """Side of the neck from which the embedding is taken at test time."""
    id_loss_type: Annotated[
        Literal["softmax", "arcface", "cosface", "amsoftmax", "circle"],
        PartOfNetwork("id_loss_type"),
        SaidByModel(contract=None),
    ] = "softmax"
    """Identity loss. softmax: cross-entropy; the others compare cosines, with a margin and a scale (train.optim.
    cosine_margin, cosine_scale): arcface (Deng 2019), cosface = amsoftmax (Wang 2018), circle (Sun 2020)."""
    id_loss_weight: Positive = 1.0
    """Weight of the identity loss in the sum of the losses."""
    triplet_loss_weight: Positive = 1.0
    """Weight of the triplet loss in the sum of the losses."""
    metric_loss_type: Literal["triplet", "center", "triplet_center"] = "triplet"
    """Metric loss; center and triplet_center need with_center_loss."""
    with_center_loss: bool = False
    """Whether the centre loss is used (Wen et al., ECCV 2016); metric_loss_type = triplet then means triplet_center."""
    with_flip_feature: Annotated[bool, PartOfNetwork("with_flip_feature"), SaidByModel("flip")] = False
    """Whether the embedding at test time is the sum of those of the image and of its mirror image."""
    label_smooth: bool = True
    """Whether the cross-entropy has label smoothing, epsilon 0.1: Szegedy et al., CVPR 2016."""
    drop_path: Annotated[Share, PartOfNetwork("drop_path")] = 0.1
    """Probability with which a Swin or ViT skips a block in training (stochastic depth)."""
    drop_out: Annotated[Share, PartOfNetwork("drop_out")] = 0.0
    """Dropout probability in a Swin's or ViT's projections, and of a ViT's tokens at its beginning."""
    att_drop_rate: Annotated[Share, PartOfNetwork("att_drop_rate")] = 0.0
    """Dropout probability in a Swin's or ViT's attention."""
    dropout_rate: Annotated[Share, PartOfNetwork("dropout_rate")] = 0.0
    """Dropout probability before the classifier."""
    reduce_feat_dim: Annotated[bool, PartOfNetwork("reduce_feat_dim"), SaidByModel(contract=None)] = False
    """Whether a Swin's embedding is reduced to feat_dim."""
    semantic_weight: Annotated[float, PartOfNetwork("semantic_weight"), SaidByModel(contract=None)] = 1.0
    """Weight of the semantic controller that SOLIDER adds to a Swin; a negative one switches it off."""
    stride_size: Annotated[
        list[Count],
        Field(min_length=2, max_length=2),
        PartOfNetwork("stride_size"),
        SaidByModel(contract=None),
    ] = [16, 16]
    """Pixels from one patch of a ViT to the next, down and right, but at most a patch; less: the patches overlap."""

    @field_validator("neck", "pretrain_choice", mode="before")
    @classmethod
    def _null_as_empty(cls, value: Any) -> Any:
        """A shell makes neck= of neck="", and YAML reads nothing as null."""
        return "" if value is None else value
