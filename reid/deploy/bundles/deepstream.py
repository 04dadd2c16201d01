"""NVIDIA DeepStream's nvtracker with NvDeepSORT: the whole tracker file with its ReID section.

nvtracker subtracts `offsets` from pixels of 0 to 255 and multiplies by `netScaleFactor`, one number for all channels. A
model whose channels have different deviations cannot be told so; the bundle's file normalises inside and takes 0 to 1.
"""

from reid.contract import Contract
from reid.deploy.bundles.feeding import Case, Feed
from reid.deploy.bundles.program import Facts, Parameter, Program
from reid.deploy.bundles.resampling import bilinear
from reid.deploy.onnx import INPUT

CONFIG = "config_tracker_NvDeepSORT_reid.yml"
BLACK = (0.0, 0.0, 0.0)
NVIDIA_MEAN, NVIDIA_STD = (0.485, 0.456, 0.406), (0.226, 0.226, 0.226)
"""What NVIDIA's sample files say: offsets 123.675, 116.28, 103.53 and netScaleFactor 0.01735207."""
PLAIN_FEED = Feed(bilinear)


def _model(_contract: Contract) -> str:
    return "reid.onnx"


def _files(facts: Facts, parameter: Parameter) -> dict[str, str]:
    return {CONFIG: _config(facts, parameter), "README.md": _readme(facts)}


def _config(facts: Facts, parameter: Parameter) -> str:
    return f"""\
%YAML:1.0

BaseConfig:
  minDetectorConfidence: 0.1

TargetManagement:
  preserveStreamUpdateOrder: 0
  maxTargetsPerStream: 150
  minIouDiff4NewTarget: 0.8
  minTrackerConfidence: 0.4
  probationAge: 3
  maxShadowTrackingAge: 60
  earlyTerminationAge: 1

TrajectoryManagement:
  useUniqueID: 0

DataAssociator:
  dataAssociatorType: 0
  associationMatcherType: 1
  checkClassMatch: 1
  thresholdMahalanobis: 12.0
  minMatchingScore4Overall: 0.2
  minMatchingScore4SizeSimilarity: 0.3
  minMatchingScore4Iou: 0.2
  {parameter.name}: {parameter.value(facts.threshold)}
  matchingScoreWeight4SizeSimilarity: 0.4
  matchingScoreWeight4Iou: 0.4
  matchingScoreWeight4ReidSimilarity: 0.6
  tentativeDetectorConfidence: 0.25
  minMatchingScore4TentativeIou: 0.25

StateEstimator:
  stateEstimatorType: 2
  noiseWeightVar4Loc: 0.05
  noiseWeightVar4Vel: 0.004
  useAspectRatio: 1

{_reid_section(facts)}"""


def _reid_section(facts: Facts) -> str:
    mode = 0 if facts.data_type == "FP32" else 1
    return f"""\
ReID:
  reidType: 1 # 2 in an NvDCF file, for re-association
  batchSize: {facts.batch_size}
  workspaceSize: 1000
  reidFeatureSize: {facts.contract.embedding}
  reidHistorySize: 100
  inferDims: [3, {facts.height}, {facts.width}]
  networkMode: {mode} # 0 FP32, 1 FP16
  inputOrder: 0 # batch, channels, height, width
  colorFormat: 0 # RGB
  offsets: [0.0, 0.0, 0.0]
  netScaleFactor: {1 / 255:.10f}
  keepAspc: 0 # the crop is stretched, as in training
  useVPICropScaler: 1
  addFeatureNormalization: 1
  outputReidTensor: 0
  onnxFile: "{facts.model}"
  modelEngineFile: "{_engine(facts)}"
"""


def _engine(facts: Facts) -> str:
    return f"{facts.model}_b{facts.batch_size}_gpu0_{'fp32' if facts.data_type == 'FP32' else 'fp16'}.engine"


def _readme(facts: Facts) -> str:
    size = f"3x{facts.height}x{facts.width}"
    typed = "" if facts.data_type == "FP32" else " --stronglyTyped"
    return f"""\
# {facts.model} for DeepStream's nvtracker

    trtexec --onnx={facts.model} --minShapes={INPUT}:1x{size} --optShapes={INPUT}:{facts.batch_size}x{size} \\
            --maxShapes={INPUT}:{facts.batch_size}x{size}{typed} --saveEngine={_engine(facts)}

{_first_start(facts)} Run trtexec where DeepStream runs. In the application:

    [tracker]
    enable=1
    tracker-width=1920
    tracker-height=1088
    ll-lib-file=/opt/nvidia/deepstream/deepstream/lib/libnvds_nvmultiobjecttracker.so
    ll-config-file={CONFIG}

- Frames are scaled to tracker-width x tracker-height before crops are cut: keep the film's own size.
- DeepStream 9.2 reads onnxFile and modelEngineFile from the tracker file's folder; write whole paths for older ones.
- For NvDCF with re-association, copy the ReID section into config_tracker_NvDCF_accuracy.yml, with reidType: 2; there
  the threshold is TrajectoryManagement.minMatchingScore4ReidSimilarity.
- The other numbers of the tracker file are starting values: tune them on your films.
"""


def _first_start(facts: Facts) -> str:
    if facts.data_type in ("FP32", "FP16"):
        return "Without this, nvtracker builds the engine at its first start."
    return (
        f"Do this before the first start: the file is in {facts.data_type} with its scales inside, and what nvtracker "
        "builds\nby itself in INT8 (networkMode: 2) wants a calibration table."
    )


def _cases(contract: Contract) -> tuple[Case, ...]:
    red, green, blue = contract.mean
    own = Feed(bilinear, (red, green, blue), (contract.std[0], contract.std[1], contract.std[2]))
    same_std = Feed(bilinear, own.mean, (sum(contract.std) / 3,) * 3)
    return (
        Case("the model at the network's own size (--oversize 1)", own, plain=True),
        Case("keepAspc: 1, black bars beside the crop", Feed(bilinear, bars=BLACK)),
        Case("tracker-width and tracker-height at half the film's", Feed(bilinear, halved=True)),
        Case("colorFormat: 1 (BGR)", Feed(bilinear, channel_order="BGR")),
        Case("the plain export, one scale for all channels", same_std, plain=True),
        Case("the plain export, NVIDIA's sample values", Feed(bilinear, NVIDIA_MEAN, NVIDIA_STD), plain=True),
        Case("the plain export, pixels of 0 to 1", Feed(bilinear), plain=True),
    )


DEEPSTREAM = Program(
    title="DeepStream nvtracker (NvDeepSORT)",
    sources=(
        "DeepStream 9.2 API reference, ReID.hpp, ReIDCropScaler.hpp, ReIDFrameTransformTexture.hpp (headers only)",
        "github.com/NVIDIA/DeepStream 581889df (9.1): tracker_config.md, config_tracker_NvDCF_accuracy_3D.yml",
        "VPI 4.0, Crop Scaler: bilinear, border pixels repeated",
    ),
    model=_model,
    feed=PLAIN_FEED,
    cases=_cases,
    parameter=Parameter(
        "minMatchingScore4ReidSimilarity",
        "the cosine; not below 0",
        lambda cosine: max(0.0, cosine),
        0.7,
    ),
    files=_files,
)
